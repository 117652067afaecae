"""Estimates of many columns at once, as arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tl_truncate.statistics.estimate import LEAST, Estimate

Array = NDArray[np.float64]
#: The ends of the names of a table's columns, in order.
ENDINGS = ("", "_se", "_low", "_high")
Bounds = tuple[float, float]
ANYWHERE: Bounds = (-np.inf, np.inf)


@dataclass(frozen=True, eq=False)
class Columns:
    """Estimates of many columns.

    Attributes:
        value, se, low, high, p: as an `Estimate` has them, `[column]`.
        n: of how many units.
    """

    value: Array
    se: Array
    low: Array
    high: Array
    p: Array
    n: int

    def __getitem__(self, place: int) -> Estimate:
        """One column's estimate."""
        return Estimate(
            self.value[place],
            low=self.low[place],
            high=self.high[place],
            se=self.se[place],
            n=self.n,
            p=self.p[place],
        )

    def named(self, name: str) -> dict[str, Array]:
        """The columns of a table: the name, and with `_se`, `_low` and `_high`.

        Examples:
            >>> one = np.ones(1)
            >>> list(Columns(one, one, one, one, one, 5).named("kl"))
            ['kl', 'kl_se', 'kl_low', 'kl_high']
        """
        arrays = (self.value, self.se, self.low, self.high)
        return {f"{name}{ending}": each for ending, each in zip(ENDINGS, arrays, strict=True)}


def as_columns(values: ArrayLike) -> Array:
    """Values as `[unit, column]`.

    Raises:
        ValueError: if there are none.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim not in (1, 2) or not len(sample):
        raise ValueError(f"Values must be a list of at least one number, got shape {sample.shape}.")
    return sample[:, None] if sample.ndim == 1 else sample


def standard_errors(sample: Array) -> Array:
    """`std / sqrt(n)` of each column; NaN for one unit."""
    n = len(sample)
    if n < 2:
        return np.full(sample.shape[1], np.nan)
    found: Array = sample.std(axis=0, ddof=1) / np.sqrt(n)
    return found


def columns_of(sample: Array, low: Array, high: Array, p: Array, within: Bounds) -> Columns:
    """Puts estimates together; too few units have no interval, and no end lies where no mean can."""
    mean = sample.mean(axis=0)
    if len(sample) < LEAST:
        low, high, p = (np.full(len(mean), np.nan) for _ in range(3))
    low, high = (np.clip(each, *within) for each in (low, high))
    return Columns(mean, standard_errors(sample), low, high, p, len(sample))
