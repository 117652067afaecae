"""Shares of prompts, and paired changes of shares: score intervals."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tl_truncate.statistics.columns import Array, Columns, as_columns, columns_of
from tl_truncate.statistics.distributions import normal_p, normal_reach
from tl_truncate.statistics.estimate import Estimate

_HALVINGS = 50


def estimate_share(hits: ArrayLike, *, level: float = 0.95) -> Estimate:
    """The share of prompts that were hit, with Wilson's interval: also if all were, or none.

    The interval is that of `scipy.stats.binomtest(k, n).proportion_ci(method="wilson")`, here for many
    columns at once and for fractions of a hit. A prompt whose answer ties with others is worth a
    fraction; such a sum varies less than one of whole hits with the same mean, so that the interval is,
    if anything, too wide.

    Args:
        hits: one per prompt from 0 (missed) to 1 (hit), `[prompt]`.
        level: of the interval.

    Returns:
        The estimate; fewer than five prompts have no interval.

    Raises:
        ValueError: if there are no values, or one is not between 0 and 1.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Examples:
        >>> estimate_share([1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
        Estimate(1.000 [0.722, 1.000], n=10)
        >>> estimate_share([1, 1, 0.5, 0, 1])
        Estimate(0.700 [0.299, 0.927], n=5)
    """
    return share_columns(np.ravel(hits), level=level)[0]


def share_columns(hits: ArrayLike, *, level: float = 0.95) -> Columns:
    """`estimate_share` of many columns, `[prompt, column]`."""
    sample = _checked(hits, 0.0)
    n, share, z = len(sample), sample.mean(axis=0), normal_reach(level)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Where all were hit, or none, that end is the share itself, which rounding would miss.
    low, high = np.where(share == 0, 0.0, centre - half), np.where(share == 1, 1.0, centre + half)
    return columns_of(sample, low, high, np.full(len(share), np.nan), (0.0, 1.0))


def estimate_share_change(changes: ArrayLike, *, level: float = 0.95) -> Estimate:
    """The change of a share on the same prompts, with Tango's score interval.

    With b the prompts gained and c those lost of n, the interval has all d for which
    `|b - c - n d| <= z sqrt(n (2 q(d) + d (1 - d)))`, q(d) the most likely share of lost ones if the
    change were d. Its verdict on zero is McNemar's. Fractions of a prompt count as such, and make the
    interval, if anything, too wide.

    Args:
        changes: cut minus uncut hit of each prompt, from -1 to 1, `[prompt]`.
        level: of the interval.

    Returns:
        The estimate; fewer than five prompts have no interval.

    Raises:
        ValueError: if there are no values, or one is not between -1 and 1.

    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions for
    the paired-sample design".

    Examples:
        >>> estimate_share_change([0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        Estimate(0.000 [-0.278, 0.278], n=10)
        >>> estimate_share_change([1, 1, 1, 0, 0, 0, -1, 1, 1, 1]).excludes_zero
        False
    """
    return share_change_columns(np.ravel(changes), level=level)[0]


def share_change_columns(changes: ArrayLike, *, level: float = 0.95) -> Columns:
    """`estimate_share_change` of many columns, `[prompt, column]`."""
    sample = _checked(changes, -1.0)
    n, z = len(sample), normal_reach(level)
    gained, lost = (np.maximum(sign * sample, 0).sum(axis=0) for sign in (1, -1))
    change = (gained - lost) / n
    low, high = (
        _end(lambda d: np.abs(_score(gained, lost, n, d)) <= z, change, side) for side in (-1.0, 1.0)
    )
    p = normal_p(_score(gained, lost, n, np.zeros_like(change)))
    return columns_of(sample, low, high, p, (-1.0, 1.0))


def _score(gained: Array, lost: Array, n: int, change: Array) -> Array:
    """Tango's statistic at a change; 0 where it is 0 / 0, a change that the counts have exactly."""
    linear = -gained - lost + (2 * n - gained + lost) * change
    constant = -lost * change * (1 - change)
    share = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0)) - linear) / (4 * n)
    variance = n * np.maximum(2 * share + change * (1 - change), 0)
    apart = gained - lost - n * change
    with np.errstate(divide="ignore", invalid="ignore"):
        found = apart / np.sqrt(variance)
    scored: Array = np.where(np.isclose(apart, 0, atol=1e-12), 0.0, found)
    return scored


def _end(inside: Callable[[Array], NDArray[np.bool_]], start: Array, side: float) -> Array:
    """The last change on a side of the estimate that is inside, by halving: no closed form is known."""
    within, beyond = start, np.full_like(start, side)
    for _ in range(_HALVINGS):
        middle = (within + beyond) / 2
        good = inside(middle)
        within, beyond = np.where(good, middle, within), np.where(good, beyond, middle)
    return within


def _checked(values: ArrayLike, lowest: float) -> Array:
    sample = as_columns(values)
    if not ((sample >= lowest) & (sample <= 1)).all():
        raise ValueError(
            f"Each prompt must count from {lowest:g} to 1, got {sample.min()} to {sample.max()}."
        )
    return sample
