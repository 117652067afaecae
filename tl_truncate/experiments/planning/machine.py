"""How fast a machine is: measured here, or published."""

from dataclasses import dataclass

import torch

from tl_truncate.experiments.planning.counting.flops import Shape, factorising
from tl_truncate.experiments.planning.counting.work import Work


@dataclass(frozen=True)
class Machine:
    """Seconds of each kind of work, for one model in one precision.

    Attributes:
        name: of the machine.
        source: where the figures come from.
        block: seconds of a call of a block beside its arithmetic: Python, and reading its weights.
        flop: seconds of a FLOP of its products.
        unembed: seconds of a FLOP of the unembedding.
        logit: seconds of a logit that answers are read off.
        activation: seconds of a number that goes through the activation.
        number: seconds of a number that is read or written.
        gram: seconds of a FLOP in float64.
        eigh: seconds of a FLOP of an eigenproblem in float64, and of each `n^2` beside it.
        read, write: seconds of a byte of the disk.
        hash: seconds of a byte of the weights, whose hash is noted with each result.
        memory: bytes that it has; None if that is not known.
    """

    name: str
    source: str
    block: float
    flop: float
    unembed: float
    logit: float
    activation: float
    number: float
    gram: float
    eigh: tuple[float, float]
    read: float
    write: float
    hash: float
    memory: int | None = None

    def seconds(self, work: Work) -> float:
        """Of some passes."""
        return (
            work.blocks * self.block
            + work.flops * self.flop
            + work.unembedding * self.unembed
            + work.logits * self.logit
            + work.activations * self.activation
            + work.moved * self.number
        )

    def factor_seconds(self, shape: Shape) -> float:
        """Of a spectrum."""
        products, eigen = factorising(shape)
        cubic, square = self.eigh
        return products * self.gram + eigen * cubic + min(shape) ** 2 * square


@dataclass(frozen=True)
class Card:
    """Published peaks of a GPU: dense, without sparsity, products of float32 without TF32."""

    name: str
    float32: float
    half: float
    float64: float
    bandwidth: float
    memory: int


_T, _G = 1e12, 1e9
#: By the names that `device=` takes. Source: NVIDIA's data sheets, of the SXM form where there is one.
CARDS = {
    "v100": Card("V100", 15.7 * _T, 125 * _T, 7.8 * _T, 900 * _G, 32 * 10**9),
    "t4": Card("T4", 8.1 * _T, 65 * _T, 0.25 * _T, 320 * _G, 16 * 10**9),
    "a100": Card("A100", 19.5 * _T, 312 * _T, 9.7 * _T, 2039 * _G, 80 * 10**9),
    "l40s": Card("L40S", 91.6 * _T, 362 * _T, 1.4 * _T, 864 * _G, 48 * 10**9),
    "h100": Card("H100", 67 * _T, 989 * _T, 34 * _T, 3350 * _G, 80 * 10**9),
    "h200": Card("H200", 67 * _T, 989 * _T, 34 * _T, 4800 * _G, 141 * 10**9),
}

#: What is reached of a card's peaks: of products, of its memory, and of float64 in an eigenproblem.
PRODUCTS, MEMORY, EIGEN = 0.5, 0.6, 0.04
#: Seconds that Python takes to call a block of a Bridge, whatever the card.
CALL = 1.2e-3
# Passes over a number: of the logits that answers are read off, and of an activation.
_READINGS, _ACTIVATING = 10, 3
_DISK, _HASH = 1e9, 4e9


def require_card(name: str) -> Card:
    """A GPU whose figures are known.

    Raises:
        ValueError: if no such card is.
    """
    if name not in CARDS:
        raise ValueError(
            f"device must be one of {', '.join(CARDS)}, whose published figures are known, or left away "
            f"for this machine, which is measured; got {name!r}."
        )
    return CARDS[name]


def card(name: str, dtype: torch.dtype, block_numbers: int) -> Machine:
    """A GPU by its published figures.

    Args:
        name: one of `CARDS`.
        dtype: of the model.
        block_numbers: weights of a block, which each call of it reads.

    Raises:
        ValueError: if no such card is known.
    """
    known, item = require_card(name), dtype.itemsize
    peak = {4: known.float32, 8: known.float64}.get(item, known.half)
    flop, number = 1 / (PRODUCTS * peak), item / (MEMORY * known.bandwidth)
    return Machine(
        name=known.name,
        source=(
            f"published: {peak / 1e12:g} TFLOP/s dense in {str(dtype).removeprefix('torch.')}"
            f"{', TF32 off' if item == 4 else ''}, {known.float64 / 1e12:g} in float64, "
            f"{known.bandwidth / 1e12:.2g} TB/s. Taken: {PRODUCTS:.0%} of the products' peak, "
            f"{EIGEN:.0%} in eigenproblems, {MEMORY:.0%} of the memory's, {CALL * 1e3:g} ms of Python a "
            f"block, and a disk of {_DISK / 1e9:g} GB/s"
        ),
        block=CALL + block_numbers * number,
        flop=flop,
        unembed=flop,
        logit=_READINGS * number,
        activation=_ACTIVATING * number,
        number=number,
        gram=1 / (PRODUCTS * known.float64),
        eigh=(1 / (EIGEN * known.float64), 0.0),
        read=1 / _DISK,
        write=1 / _DISK,
        hash=1 / _HASH,
        memory=known.memory,
    )
