"""Factors on disk: safetensors files keyed by the weight's content, shared between processes.

The folder is `TL_TRUNCATE_CACHE` or the platform's cache folder; `TL_TRUNCATE_CACHE=off` keeps
nothing. A file is written under a temporary name and renamed, so that a reader sees a whole file or
none. What is read is checked against a checksum of its key and content: a damaged file, or one that was
copied under another key, is computed anew with a warning. The oldest files go when the folder outgrows
`TL_TRUNCATE_CACHE_GB` (8 by default). No trouble with the folder stops an analysis.
"""

import os
import re
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tl_truncate.weights.files import cache_folder, modified, remove_parts, save_tensors
from tl_truncate.weights.identity.content import bytes_of, content_key
from tl_truncate.weights.spectra.factors import Factors, Method, factorise, factorise_product
from tl_truncate.weights.unpacked import remove_unpacked

#: Of a file; those of other formats are not looked at.
_FORMAT = "3"
_SUFFIX = ".safetensors"
_LIMIT_GB = 8.0
# Seconds after which a file that is still being written has been given up by its writer.
_ABANDONED = 3600.0
_MEMORY_BYTES = 256 * 2**20
_memory: "OrderedDict[str, Factors]" = OrderedDict()


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


def cached_factors(weight: Float[Tensor, "n_in n_out"]) -> Factors:
    """Factors of a weight from memory, from disk, or computed and stored.

    Args:
        weight: of any floating dtype, on any device.

    Returns:
        Factors on the CPU.

    Raises:
        ValueError: if the weight cannot be factored.
    """
    return _cached(content_key(weight), lambda: factorise(weight))


def cached_product_factors(
    left: Float[Tensor, "n_in inner"], right: Float[Tensor, "inner n_out"]
) -> Factors:
    """Factors of a product of two matrices, likewise, by the content of both.

    Raises:
        ValueError: if it cannot be factored.
    """
    key = f"{content_key(left)}-{content_key(right)}"
    return _cached(key, lambda: factorise_product(left, right))


def _cached(key: str, compute: Callable[[], Factors]) -> Factors:
    if key in _memory:
        _memory.move_to_end(key)
        return _memory[key]
    folder = _folder()
    found = None if folder is None else _read(folder, key)
    factors = found if found is not None else _on_cpu(compute())
    if folder is not None and found is None:
        _write(folder, key, factors)
    _remember(key, factors)
    return factors


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


def _remember(key: str, factors: Factors) -> None:
    _memory[key] = factors
    while len(_memory) > 1 and sum(_nbytes(kept) for kept in _memory.values()) > _MEMORY_BYTES:
        _memory.popitem(last=False)


def _nbytes(factors: Factors) -> int:
    return sum(t.numel() * t.element_size() for t in (factors.U, factors.S, factors.V))


def _on_cpu(factors: Factors) -> Factors:
    u, s, v = (tensor.cpu() for tensor in (factors.U, factors.S, factors.V))
    return Factors(u, s, v, factors.method, factors.defect)


def _checksum(key: str, tensors: dict[str, Tensor]) -> str:
    """Against damage, not against malice: a fast one."""
    found = zlib.crc32(key.encode())
    for name in sorted(tensors):
        found = zlib.crc32(bytes_of(tensors[name]), found)
    return f"{found:08x}"


def _read(folder: Path, key: str) -> Factors | None:
    """What the folder has under a key, if it can be believed."""
    path = folder / f"{key}{_SUFFIX}"
    try:
        if not path.exists():
            return None
        with safe_open(path, framework="pt") as file:
            note = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in ("S", "U", "V")}
        if note.get("format") != _FORMAT:
            return None
        if note.get("checksum") != _checksum(key, tensors):
            raise ValueError("its checksum does not match its name and content")
        method, defect = cast(Method, note["method"]), float(note["defect"])
    except (SafetensorError, OSError, ValueError, KeyError) as problem:
        warnings.warn(
            f"The cached spectrum {path} is damaged ({problem}); it is computed anew.", stacklevel=3
        )
        return None
    return Factors(tensors["U"], tensors["S"], tensors["V"], method, defect)


def _write(folder: Path, key: str, factors: Factors) -> None:
    tensors = {"S": factors.S, "U": factors.U, "V": factors.V}
    note = {
        "format": _FORMAT,
        "method": factors.method,
        "defect": repr(factors.defect),
        "checksum": _checksum(key, tensors),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / f"{key}{_SUFFIX}", tensors, note)
        remove_parts(folder, older_than=_ABANDONED)
        _shrink(folder)
    except OSError as problem:  # a full or read-only disk must not stop an analysis
        warnings.warn(f"The spectrum could not be stored in {folder}: {problem}", stacklevel=3)


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
