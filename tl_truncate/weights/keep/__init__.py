"""Keep rules: how much of a spectrum stays."""

from tl_truncate.weights.keep.noise import MarchenkoPastur, OptimalThreshold, OutsideBulk
from tl_truncate.weights.keep.rule import Keep
from tl_truncate.weights.keep.rules import (
    Band,
    Components,
    DropTop,
    Energy,
    Fraction,
    Rank,
    Without,
    as_keep,
)
from tl_truncate.weights.keep.sketch import LaserCompat

__all__ = [
    "Band",
    "Components",
    "DropTop",
    "Energy",
    "Fraction",
    "Keep",
    "LaserCompat",
    "MarchenkoPastur",
    "OptimalThreshold",
    "OutsideBulk",
    "Rank",
    "Without",
    "as_keep",
]
