"""Paired changes of the harness' numbers: how a number is put together says which interval it has."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tl_truncate.experiments.scoring.estimates import estimate_against
from tl_truncate.statistics import Estimate, estimate_mean, estimate_share_change
from tl_truncate.statistics.columns import ANYWHERE, Array

#: How samples make a number: their mean; `exp` of minus their mean; the same of a ratio of sums; that in
#: bits.
Way = Literal["mean", "perplexity", "weighted perplexity", "bits"]
_CLOSE = 1e-9


def number_of(way: Way, values: ArrayLike) -> float:
    """The number that samples make.

    Args:
        way: how.
        values: `[sample, 1]`, or `[sample, 2]` with a sum and its weight.

    Examples:
        >>> number_of("mean", [[1.0], [0.0]]), number_of("bits", [[-1.0, 1.0], [-3.0, 1.0]]).__round__(3)
        (0.5, 2.885)
    """
    return float(contributions(way, values).mean())


def contributions(way: Way, values: ArrayLike) -> Array:
    """What each sample adds, so that the mean of it is the number: `[sample]`.

    A mean's are the values themselves. Of `P = exp(-R)` with `R = sum(s) / sum(w)` they are
    `P - P (s_i - R w_i) / mean(w)`, the number linearised: its influence function.
    """
    table = np.asarray(values, dtype=float)
    if way == "mean":
        alone: Array = table[:, 0]
        return alone
    sums, weights = table[:, 0], table[:, 1] if table.shape[1] > 1 else np.ones(len(table))
    ratio = sums.sum() / weights.sum()
    apart: Array = (sums - ratio * weights) / weights.mean()
    if way == "bits":
        return np.asarray(-(ratio + apart) / np.log(2))
    whole = np.exp(-ratio)
    return np.asarray(whole - whole * apart)


def way_of(values: Sequence[ArrayLike], numbers: Sequence[float]) -> Way | None:
    """The way in which all samples make all numbers; None if there is none that is known.

    Args:
        values: of each variant.
        numbers: of each variant.
    """
    tables = [np.asarray(each, dtype=float) for each in values]
    ways: tuple[Way, ...] = ("mean", "perplexity")
    if tables[0].shape[1] > 1:
        ways = ("weighted perplexity", "bits")
    for way in ways:
        with np.errstate(all="ignore"):  # of pairs that are no sum and weight
            made = [number_of(way, each) for each in tables]
        if np.allclose(made, numbers, rtol=_CLOSE, atol=_CLOSE):
            return way
    return None


def _is_share(*several: Array) -> bool:
    return all(bool(np.isin(each, (0.0, 1.0)).all()) for each in several)


def change(way: Way | None, uncut: ArrayLike, cut: ArrayLike) -> Estimate | None:
    """Cut minus uncut number, paired by sample; None where no interval is known.

    Args:
        way: how samples make the number.
        uncut, cut: `[sample, 1 or 2]`.

    Examples:
        >>> change("mean", [[1.0]] * 10, [[1.0]] * 10)
        Estimate(0.000 [-0.278, 0.278], n=10)
    """
    if way is None:
        return None
    before, after = contributions(way, uncut), contributions(way, cut)
    if way == "mean" and _is_share(before, after):
        return estimate_share_change(after - before)
    inside = way == "mean" and bool(((np.r_[before, after] >= 0) & (np.r_[before, after] <= 1)).all())
    return estimate_mean(after - before, within=(-1.0, 1.0) if inside else ANYWHERE)


def over_draws(way: Way | None, cut: ArrayLike, draws: Sequence[ArrayLike]) -> Estimate | None:
    """The cut's number less that of a random draw, from samples and draws; None where unknown."""
    if way is None:
        return None
    own = contributions(way, cut)
    drawn = np.stack([contributions(way, each) for each in draws])
    share = way == "mean" and _is_share(own, *drawn)
    return estimate_against("accuracy" if share else "logit_diff", own, drawn)
