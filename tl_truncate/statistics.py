"""Estimates with their uncertainty: a mean over prompts is a number that knows its interval."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Estimate(float):
    """A mean over prompts, usable as a float, with a 95% bootstrap interval.

    Attributes:
        low: lower end of the interval.
        high: upper end of the interval.
        se: standard error of the mean, `std / sqrt(n)`; NaN for one prompt.
        n: number of prompts.

    Examples:
        >>> value = Estimate(0.5, low=0.4, high=0.6, se=0.05, n=20)
        >>> value + 1, str(value)
        (1.5, '0.500 [0.400, 0.600]')
    """

    low: float
    high: float
    se: float
    n: int

    def __new__(cls, value: float, *, low: float, high: float, se: float, n: int) -> "Estimate":
        """A value with what is known of its uncertainty."""
        self = super().__new__(cls, value)
        self.low, self.high, self.se, self.n = float(low), float(high), float(se), int(n)
        return self

    def __str__(self) -> str:
        return shown(self, self.low, self.high)

    def __repr__(self) -> str:
        return f"Estimate({self}, n={self.n})"

    def __reduce__(self) -> Any:
        return (_rebuild, (float(self), self.low, self.high, self.se, self.n))

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def shown(value: float, low: float, high: float, *, digits: int = 3, signed: bool = False) -> str:
    """A number with the ends of its interval, as every table and sentence shows it.

    Examples:
        >>> shown(0.5, 0.4, 0.6, signed=True)
        '+0.500 [+0.400, +0.600]'
    """
    style = f"{'+' if signed else ''}.{digits}f"
    return f"{float(value):{style}} [{float(low):{style}}, {float(high):{style}}]"


def _rebuild(value: float, low: float, high: float, se: float, n: int) -> Estimate:
    return Estimate(value, low=low, high=high, se=se, n=n)


def bootstrap_mean(
    values: ArrayLike, *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Estimate:
    """The mean of some values with a percentile bootstrap interval.

    Prompts are resampled with replacement. For a paired comparison pass the differences: the prompts
    are then shared between both sides, as they should be.

    Args:
        values: one per prompt.
        seed: of the resampling; the global random state is not touched.
        resamples: how many.
        level: of the interval.

    Returns:
        The estimate.

    Raises:
        ValueError: if there are no values.

    Source: Efron and Tibshirani 1993, chapter 13.

    Examples:
        >>> bootstrap_mean([1.0, 1.0, 1.0])
        Estimate(1.000 [1.000, 1.000], n=3)
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or not len(sample):
        raise ValueError(f"Values must be a list of at least one number, got shape {sample.shape}.")
    found = bootstrap_columns(sample[:, None], seed=seed, resamples=resamples, level=level)
    mean, se, low, high = (float(each[0]) for each in found)
    return Estimate(mean, low=low, high=high, se=se, n=len(sample))


def bootstrap_columns(
    values: NDArray[np.float64], *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> tuple[NDArray[np.float64], ...]:
    """`bootstrap_mean` of many columns at once, all with the same resampled prompts.

    Args:
        values: `[prompt, column]`.
        seed: of the resampling.
        resamples: how many.
        level: of the intervals.

    Returns:
        Means, standard errors, lower and upper ends, each `[column]`.
    """
    n = len(values)
    chosen = np.random.default_rng(seed).integers(0, n, (resamples, n))
    weights = np.stack([np.bincount(each, minlength=n) for each in chosen]) / n
    low, high = np.quantile(weights @ values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    se = values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(values.shape[1], np.nan)
    return values.mean(axis=0), se, low, high


def bootstrap_ratio(
    sums: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """A weighted mean `sum(sums) / sum(weights)` over units that are resampled whole.

    For means over tokens when passages are the independent units.

    Args:
        sums: of each unit.
        weights: of each unit, such as its tokens.
        seed: of the resampling.
        resamples: how many.
        level: of the interval.

    Returns:
        The estimate; its standard error is the bootstrap's, and `n` counts the units.

    Examples:
        >>> bootstrap_ratio(np.array([2.0, 4.0]), np.array([1.0, 2.0]))
        Estimate(2.000 [2.000, 2.000], n=2)
    """
    n = len(sums)
    chosen = np.random.default_rng(seed).integers(0, n, (resamples, n))
    ratios = sums[chosen].sum(1) / weights[chosen].sum(1)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    se = ratios.std(ddof=1) if n > 1 else float("nan")
    return Estimate(sums.sum() / weights.sum(), low=low, high=high, se=se, n=n)
