"""What takes long to read is unpacked once, into a folder of the cache, and read from there.

The folder is made under a temporary name and renamed. What is read is checked against a hash of its
files: a damaged folder is made anew with a warning. No trouble with the cache stops a load.
"""

import json
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import xxhash

from tl_truncate.weights.files import cache_folder, modified

_NOTE = "unpacked.json"
_FORMAT = 1
_NAME = re.compile(r"[0-9a-f]{32}(\.[0-9a-f]{8}\.part)?")
# Seconds after which a folder that is still being made has been given up by its writer.
_ABANDONED = 3600.0


def unpacked(source: Path, unpack: Callable[[Path], None]) -> Path | None:
    """A folder with what a file holds, made at the first call and then kept.

    Args:
        source: by whose content the folder is known.
        unpack: is given an empty folder and fills it with files.

    Returns:
        The folder, or None where the cache is switched off or cannot be written to.
    """
    folder = cache_folder("models")
    if folder is None:
        return None
    target = folder / _key(source)
    try:
        if target.is_dir():
            problem = _problem(target)
            if not problem:
                return target
            warnings.warn(
                f"What was kept in {target} is damaged ({problem}); it is made anew.", stacklevel=2
            )
            shutil.rmtree(target)
        _make(target, unpack)
    except OSError as failure:  # a full or read-only disk must not stop a load
        warnings.warn(f"The unpacked model could not be kept in {folder}: {failure}", stacklevel=2)
        return None
    return target


def kept(source: Path) -> Path | None:
    """The folder with what a file holds if it has been made; whether it is damaged is not asked."""
    folder = cache_folder("models")
    target = None if folder is None else folder / _key(source)
    return target if target is not None and (target / _NOTE).is_file() else None


def _key(source: Path) -> str:
    key = xxhash.xxh3_128(f"{_FORMAT}".encode())
    key.update(source.read_bytes())
    return key.hexdigest()


def remove_unpacked() -> None:
    """Deletes all such folders, and nothing else."""
    folder = cache_folder("models")
    for path in () if folder is None else folder.glob("*"):
        if _NAME.fullmatch(path.name) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _make(target: Path, unpack: Callable[[Path], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in target.parent.glob("*.part"):
        if _NAME.fullmatch(path.name) and time.time() - modified(path) >= _ABANDONED:
            shutil.rmtree(path, ignore_errors=True)
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    temporary.mkdir()
    try:
        unpack(temporary)
        (temporary / _NOTE).write_text(json.dumps({"files": _hashes(temporary)}), encoding="utf-8")
        try:
            os.rename(temporary, target)
        except OSError:
            if not target.is_dir():  # another process may have been first, with the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _hashes(folder: Path) -> dict[str, str]:
    """Against accidents, not against malice: a fast one."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _NOTE:
            digest = xxhash.xxh3_128()
            with path.open("rb") as file:
                while part := file.read(2**24):
                    digest.update(part)
            found[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return found


def _problem(folder: Path) -> str:
    """Why a folder cannot be believed; empty if it can."""
    try:
        noted = json.loads((folder / _NOTE).read_text(encoding="utf-8"))["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return f"its {_NOTE} cannot be read"
    found = _hashes(folder)
    changed = sorted(name for name in noted.keys() | found if noted.get(name) != found.get(name))
    return f"{changed[0]} is not what was written" if changed else ""
