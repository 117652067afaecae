"""Spectra on disk: safetensors files keyed by the weight's content, shared between processes.

The folder is `TL_TRUNCATE_CACHE` or the platform's cache folder; `TL_TRUNCATE_CACHE=off` keeps
nothing. Of the two sides of a spectrum the one is kept that cuts project on, a component a row, so that
a cut reads its components and no others. A file is written under a temporary name and renamed, so that
a reader sees a whole file or none. What is read is checked against checksums of its key and content: a
damaged file, or one that was copied under another key, is computed anew with a warning. Of several
processes that want the same one computes. The oldest files go when the folder outgrows
`TL_TRUNCATE_CACHE_GB` (8 by default). No trouble with the folder stops an analysis.
"""

import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from jaxtyping import Float, Int64
from torch import Tensor

from tl_truncate.weights.files import cache_folder, modified, remove_parts
from tl_truncate.weights.identity.content import content_key
from tl_truncate.weights.spectra.factors import Factors, factorise, factorise_product
from tl_truncate.weights.spectra.returned import give_back
from tl_truncate.weights.spectra.vectors import (
    Damaged,
    OfAnotherFormat,
    Side,
    Vectors,
    one_side,
    open_vectors,
    write_vectors,
)
from tl_truncate.weights.unpacked import remove_unpacked

_SUFFIX = ".safetensors"
_LIMIT_GB = 8.0
# Seconds after which a file that is still being written has been given up by its writer.
_ABANDONED = 3600.0
# Seconds after which a spectrum is computed though another process says that it is at it: one that has
# died holds no lock, but a disk of a network may not know.
_PATIENCE = 600.0
#: Most bytes of spectra that stay in memory, but inside of `forgetting`.
MEMORY_BYTES = 256 * 2**20
_memory_bytes = MEMORY_BYTES
_memory: "OrderedDict[str, Vectors]" = OrderedDict()


@dataclass(frozen=True)
class CacheInfo:
    """What the disk cache holds: its folder (None when switched off), files and size in bytes."""

    folder: Path | None
    files: int
    size: int

    def __str__(self) -> str:
        if self.folder is None:
            return "the cache is switched off (TL_TRUNCATE_CACHE=off)"
        return f"{self.folder}: {self.files} spectra, {self.size / 1e6:.1f} MB"


@dataclass(eq=False)
class Cached:
    """One side of the spectrum of a weight, of which rows are read as they are asked for.

    Attributes:
        matrices: the weight, or the two whose product it is, should a file turn out to be damaged.
        side: that is kept.
        key: of both.
        vectors: as far as they have been read.
    """

    matrices: tuple[Tensor, ...]
    side: Side
    key: str
    vectors: Vectors

    def rows(self, which: slice | Int64[Tensor, " wanted"]) -> Float[Tensor, "wanted width"]:
        """The vectors of some components, on the CPU, in the memory of the cache."""
        try:
            return self.vectors.rows(which)
        except Damaged as problem:
            _memory.pop(self.key, None)
            _give_up(_folder(), self.key, problem)
            if _key_of(self.matrices, self.side) != self.key:
                raise ValueError("A weight must stay as it is while its spectrum is read.") from None
            self.vectors = _vectors(self.key, self.matrices, self.side)
            return self.vectors.rows(which)
        finally:
            _trim()


def cached_vectors(*matrices: Float[Tensor, "n_in n_out"], side: Side = "V") -> Cached:
    """One side of the spectrum of a weight from memory, from disk, or computed and stored.

    Args:
        matrices: a weight, or two whose product it is; of any floating dtype, on any device.
        side: which; `left_side` has the other one from it.

    Returns:
        Its singular values, and its vectors as far as rows are asked for.

    Raises:
        ValueError: if the weight cannot be factored.
    """
    key = _key_of(matrices, side)
    return Cached(matrices, side, key, _vectors(key, matrices, side))


def is_cached(*matrices: Float[Tensor, "n_in n_out"], side: Side = "V") -> bool:
    """Whether one side of a spectrum is in memory or on disk."""
    key, folder = _key_of(matrices, side), _folder()
    if key in _memory:
        return True
    try:
        return folder is not None and _path(folder, key).exists()
    except OSError:  # of a folder that cannot be read, where computing says so
        return False


@contextmanager
def forgetting(wanted: bool) -> Iterator[None]:
    """Inside, no spectrum stays in memory but the newest: for work that may use so much and no more."""
    global _memory_bytes
    before = _memory_bytes
    _memory_bytes = 0 if wanted else before
    _trim()
    try:
        yield
    finally:
        _memory_bytes = before


def _key_of(matrices: Sequence[Tensor], side: Side) -> str:
    return "-".join([*map(content_key, matrices), *(["U"] if side == "U" else [])])


def _vectors(key: str, matrices: Sequence[Tensor], side: Side) -> Vectors:
    if key in _memory:
        _memory.move_to_end(key)
        return _memory[key]
    folder = _folder()
    found = None if folder is None else _read(folder, key)
    if found is None:
        with _alone(folder, key):
            # Another process may have computed it meanwhile.
            found = None if folder is None else _read(folder, key)
            if found is None:
                found = one_side(_factors(matrices), side)
                give_back()
                # What has been stored is read as by anyone: of all the vectors those that are wanted.
                if folder is not None and _write(folder, key, found):
                    found = _read(folder, key) or found
    _memory[key] = found
    _trim()
    return found


def _factors(matrices: Sequence[Tensor]) -> Factors:
    return factorise(matrices[0]) if len(matrices) == 1 else factorise_product(*matrices)


@contextmanager
def _alone(folder: Path | None, key: str) -> Iterator[None]:
    """Inside, no other process computes the same; one that has died is not waited for."""
    if folder is None:
        yield
        return
    # A file for many keys, so that they need not be cleared away.
    place = folder.with_name("locks") / f"{key[:2]}.lock"
    lock = FileLock(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_PATIENCE)
    except (OSError, NotImplementedError, Timeout):  # without it the same is computed twice at worst
        yield
        return
    try:
        yield
    finally:
        lock.release()


def cache_info() -> CacheInfo:
    """Where the disk cache is and how much it holds."""
    folder = _folder()
    files = _files(folder) if folder is not None else []
    return CacheInfo(folder, len(files), sum(_size(path) for path in files))


def cache_clear() -> CacheInfo:
    """Deletes the stored spectra, and the demo's unpacked weights, and returns what spectra there were.

    Only files of this cache are touched, whatever else the folder holds.
    """
    before = cache_info()
    _memory.clear()
    remove_unpacked()
    if before.folder is not None:
        for path in _files(before.folder):
            path.unlink(missing_ok=True)
        remove_parts(before.folder, older_than=_ABANDONED)
    return before


def _folder() -> Path | None:
    return cache_folder("spectra")


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{_SUFFIX}"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # another process cleared it meanwhile
        return 0


def _trim() -> None:
    """Forgets what was asked for longest ago, until the rest is within the limit."""
    while len(_memory) > 1 and sum(kept.nbytes for kept in _memory.values()) > _memory_bytes:
        _memory.popitem(last=False)


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}{_SUFFIX}"


def _read(folder: Path, key: str) -> Vectors | None:
    """What the folder has under a key, if it can be believed."""
    try:
        path = _path(folder, key)
        return open_vectors(path, key) if path.exists() else None
    except OfAnotherFormat:
        return None
    except (Damaged, OSError) as problem:
        _give_up(folder, key, problem)
        return None


def _give_up(folder: Path | None, key: str, problem: Exception) -> None:
    """Says that a file is damaged, and deletes it, so that nobody reads it again."""
    if folder is None:
        return
    path = _path(folder, key)
    warnings.warn(
        f"The cached spectrum {path} is damaged ({problem}); it is computed anew.", stacklevel=3
    )
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _write(folder: Path, key: str, vectors: Vectors) -> bool:
    """Whether it could be stored."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_vectors(_path(folder, key), key, vectors)
        remove_parts(folder, older_than=_ABANDONED)
        _shrink(folder)
    except OSError as problem:  # a full or read-only disk must not stop an analysis
        warnings.warn(f"The spectrum could not be stored in {folder}: {problem}", stacklevel=3)
        return False
    return True


def _shrink(folder: Path) -> None:
    limit = _limit_gb() * 1e9
    files = sorted(_files(folder), key=modified)
    total = sum(_size(path) for path in files)
    for path in files[:-1]:
        if total <= limit:
            break
        total -= _size(path)
        path.unlink(missing_ok=True)


def _limit_gb() -> float:
    """`TL_TRUNCATE_CACHE_GB`, with or without the unit behind it; the default where it is no size."""
    text = os.environ.get("TL_TRUNCATE_CACHE_GB", "").strip()
    if not text:
        return _LIMIT_GB
    match = re.fullmatch(r"(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\s*(?:gb?)?", text, re.IGNORECASE)
    if match is None:
        warnings.warn(
            "TL_TRUNCATE_CACHE_GB must be a number of gigabytes, such as 8 or 0.5, got "
            f"{text!r}; {_LIMIT_GB:g} is taken.",
            stacklevel=4,
        )
        return _LIMIT_GB
    return float(match[1])
