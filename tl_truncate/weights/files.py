"""Files that are whole or not there: written under a temporary name beside the target, then renamed."""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_PART = re.compile(r".+\.[0-9a-f]{8}\.part")


def as_path(path: str | os.PathLike[str]) -> Path:
    """A path as it was given, with `~` for the home folder.

    Examples:
        >>> str(as_path("runs/ioi")), as_path("~/runs").is_absolute()
        ('runs/ioi', True)
    """
    return Path(path).expanduser()


def cache_folder(kind: str) -> Path | None:
    """The folder of one kind of what is kept: in `TL_TRUNCATE_CACHE` or the platform's cache folder.

    Returns:
        None if `TL_TRUNCATE_CACHE=off`.
    """
    chosen = os.environ.get("TL_TRUNCATE_CACHE", "")
    if chosen == "off":
        return None
    return (as_path(chosen) if chosen else platformdirs.user_cache_path("tl_truncate")) / kind


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path to write to; it takes the target's place only if the writing succeeds.

    Args:
        target: the file to be written or replaced.

    Yields:
        A path in the same folder, which ends in `.part`.
    """
    path = as_path(target)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def making(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary folder to fill; it takes the target's name only if the filling succeeds.

    Args:
        target: the folder to be made, which must not exist, or be empty.

    Yields:
        A folder beside it, whose name ends in `.part`.
    """
    path = as_path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    temporary.mkdir()
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        if path.is_dir():
            path.rmdir()  # which Windows does not replace, and which fails if it has content by now
        os.rename(temporary, path)
    except OSError as problem:
        raise FileExistsError(
            f"{path} must be new, but somebody else has made it meanwhile. What was to be there is in "
            f"{temporary}: rename it."
        ) from problem


def is_part(path: Path) -> bool:
    """Whether it is what a writer that was killed has left of a file, or one writes at this moment."""
    return path.name.endswith(".part")


def remove_parts(folder: Path, *, older_than: float = 0.0) -> None:
    """Deletes what writers that were killed have left in a folder.

    Args:
        folder: to look into; what `replacing` has not named is left alone.
        older_than: seconds; files that were written to later may be at work.
    """
    for path in folder.glob("*.part"):
        if _PART.fullmatch(path.name) and time.time() - modified(path) >= older_than:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def modified(path: Path) -> float:
    """When a file was written to; now, if another process has just deleted it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def save_tensors(
    target: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file, whole or not at all.

    Raises:
        OSError: if it cannot be written, such as on a full disk.
    """
    with replacing(target) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as problem:
            # Which is no OSError, though nothing but the disk can be at fault here.
            raise OSError(errno.EIO, f"could not be written ({problem})", str(target)) from problem


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a safetensors file: its tensors, and its metadata, which may be empty.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    try:
        with safe_open(as_path(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as problem:
        raise ValueError(f"{path} must be a safetensors file, but it is damaged: {problem}.") from None
