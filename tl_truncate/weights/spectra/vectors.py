"""The singular vectors of one side, a component a row, of which those that are asked for are read."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tl_truncate.weights.files import save_tensors
from tl_truncate.weights.identity.content import bytes_of
from tl_truncate.weights.spectra.factors import Factors, Method

#: Which vectors: what the components read, or what they write.
Side = Literal["U", "V"]

#: Of a file; those of other formats are not looked at.
FORMAT = "4"
#: Bytes of a block of rows, which has a checksum of its own and is read as a whole.
BLOCK = 2**18
# Blocks that are mapped at once: what is mapped is there twice until it is copied.
_AT_ONCE = 16


class Damaged(ValueError):
    """A file does not hold what was written into it."""


class OfAnotherFormat(ValueError):
    """A file that another version has written."""


@dataclass(eq=False)
class Vectors:
    """Singular values, and the vectors of one side in order; with `read`, as far as they were asked for.

    Attributes:
        S: `[rank]`, largest first.
        held: `[rank, width]`, of which only the blocks that are not missing say anything.
        method: how they were found.
        defect: bound on how far V was from orthonormal before rounding.
        read: the rows of some blocks in a row, from a file.
        missing: blocks that have not been read.
    """

    S: Float[Tensor, " rank"]
    held: Float[Tensor, "rank width"]
    method: Method
    defect: float
    read: Callable[[range], Iterator[tuple[int, Tensor]]] | None = None
    missing: set[int] = field(default_factory=set)

    @property
    def block(self) -> int:
        """How many rows are one block."""
        return rows_of_a_block(self.held)

    @property
    def nbytes(self) -> int:
        """Bytes that are in memory: blocks that were never asked for take none."""
        rank, width = self.held.shape
        item = self.held.element_size()
        absent = sum(min(self.block, rank - each * self.block) for each in self.missing)
        return (rank - absent) * width * item + self.S.numel() * self.S.element_size()

    def rows(self, which: slice | Int64[Tensor, " wanted"]) -> Float[Tensor, "wanted width"]:
        """Some components in their order; of a slice without a copy.

        Raises:
            Damaged: if what has to be read for it is.
        """
        self._have(which)
        return self.held[which]

    def _have(self, which: slice | Tensor) -> None:
        if not self.missing or self.read is None:
            return
        numbers = torch.arange(len(self.S))[which]
        wanted = set(torch.unique(numbers // self.block).tolist()) & self.missing
        for run in _runs(sorted(wanted)):
            for number, rows in self.read(run):
                start = number * self.block
                self.held[start : start + len(rows)] = rows
                self.missing.discard(number)


def rows_of_a_block(rows: Tensor) -> int:
    """How many rows of a matrix make one block, at least one."""
    return max(1, BLOCK // max(1, rows.shape[1] * rows.element_size()))


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """Consecutive numbers together, as far as they are mapped at once."""
    start = 0
    for place in range(1, len(numbers) + 1):
        ends = place == len(numbers) or numbers[place] != numbers[place - 1] + 1
        if ends or place - start == _AT_ONCE:
            yield range(numbers[start], numbers[place - 1] + 1)
            start = place


def one_side(factors: Factors, side: Side) -> Vectors:
    """What is kept of factors: the vectors of one side, on the CPU."""
    vectors = factors.U if side == "U" else factors.V
    return Vectors(factors.S.cpu(), vectors.cpu().T.contiguous(), factors.method, factors.defect)


def write_vectors(path: Path, key: str, vectors: Vectors) -> None:
    """Writes all of them, with a checksum for each block.

    Raises:
        OSError: if they cannot be written.
    """
    size = vectors.block
    blocks = [vectors.held[start : start + size] for start in range(0, len(vectors.S), size)]
    note = {
        "format": FORMAT,
        "method": vectors.method,
        "defect": repr(vectors.defect),
        "rows": str(size),
        "blocks": json.dumps([_checksum(f"{key} {place}", each) for place, each in enumerate(blocks)]),
    }
    note["checksum"] = _checksum(_head(key, note), vectors.S)
    save_tensors(path, {"S": vectors.S, "vectors": vectors.held}, note)


def open_vectors(path: Path, key: str) -> Vectors:
    """The singular values of a file, and of the vectors none as yet.

    Raises:
        OfAnotherFormat: if another version has written it.
        Damaged: if it cannot be believed.
        OSError: if it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            note = file.metadata() or {}
            if note.get("format") != FORMAT:
                raise OfAnotherFormat(f"{path} is of another version.")
            values = file.get_tensor("S").clone()
            told = file.get_slice("vectors")
            shape, dtype = told.get_shape(), told[:0].dtype
        checksums = json.loads(note["blocks"])
        right = note["checksum"] == _checksum(_head(key, note), values)
    except (SafetensorError, KeyError, json.JSONDecodeError) as problem:
        raise Damaged(str(problem)) from None
    if not right:
        raise Damaged(_OTHER)
    found = Vectors(values, torch.empty(shape, dtype=dtype), note["method"], float(note["defect"]))  # type: ignore[arg-type]
    if int(note["rows"]) != found.block:
        raise OfAnotherFormat(f"{path} has blocks of another size.")

    def read(run: range) -> Iterator[tuple[int, Tensor]]:
        return _blocks(path, key, run, found.block, checksums)

    found.read, found.missing = read, set(range(len(checksums)))
    return found


_OTHER = "its checksum does not match its name and content"


def _blocks(
    path: Path, key: str, run: range, size: int, checksums: Sequence[str]
) -> Iterator[tuple[int, Tensor]]:
    """Some blocks, each checked. They are mapped, and gone when the next are asked for.

    What is used is a copy: a mapping outlives neither its file on a network's disk nor one that is cut
    short, and the process ends with it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            rows = file.get_slice("vectors")[run.start * size : run.stop * size]
    except (SafetensorError, OSError) as problem:
        raise Damaged(str(problem)) from None
    for place, number in enumerate(run):
        block = rows[place * size : (place + 1) * size]
        if checksums[number] != _checksum(f"{key} {number}", block):
            raise Damaged(_OTHER)
        yield number, block


def _head(key: str, note: dict[str, Any]) -> str:
    return " ".join([key, *(note[name] for name in ("format", "method", "defect", "rows", "blocks"))])


def _checksum(of: str, tensor: Tensor) -> str:
    """Against damage, not against malice: a fast one."""
    found = xxhash.xxh3_64(of.encode())
    found.update(bytes_of(tensor))
    return found.hexdigest()
