"""Which interval a metric has: a share's, or a mean's within what the metric can be."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tl_truncate.experiments.scoring.metrics import Metric
from tl_truncate.statistics import (
    Columns,
    Estimate,
    estimate_against_draws,
    estimate_apart,
    estimate_mean,
    estimate_over_draws,
    estimate_shares_apart,
    mean_columns,
    share_change_columns,
    share_columns,
)
from tl_truncate.statistics.columns import ANYWHERE, Array, Bounds


@dataclass(frozen=True)
class Range:
    """Where a metric's mean, and the change of it, can lie."""

    values: Bounds = ANYWHERE
    changes: Bounds = ANYWHERE


_PROBABILITY = Range((0.0, 1.0), (-1.0, 1.0))
RANGES: dict[Metric, Range] = {
    "accuracy": _PROBABILITY,
    "p_in_context": _PROBABILITY,
    "p_global": _PROBABILITY,
    "logit_diff": Range(),
    "rank": Range((0.0, np.inf)),
}
_SHARES = ("accuracy",)


def columns_of_values(metric: Metric, values: ArrayLike) -> Columns:
    """The means of a metric over prompts, `[prompt, setting]`."""
    if metric in _SHARES:
        return share_columns(values)
    return mean_columns(values, within=RANGES[metric].values)


def columns_of_changes(metric: Metric, changes: ArrayLike) -> Columns:
    """The paired changes of a metric, cut minus uncut on each prompt, `[prompt, setting]`."""
    if metric in _SHARES:
        return share_change_columns(changes)
    return mean_columns(changes, within=RANGES[metric].changes)


def estimate_drawn(metric: Metric, values: Array, *, changes: bool = False) -> Estimate:
    """A metric, or its change, of a control over its draws, `[draw, prompt]`.

    A share's interval is no shorter than that of the prompts' mean hits: if all draws are right on all
    prompts, that is not certain either.
    """
    if len(values) == 1:
        return (columns_of_changes if changes else columns_of_values)(metric, values[0])[0]
    bounds = RANGES[metric].changes if changes else RANGES[metric].values
    found = estimate_over_draws(values, within=bounds)
    if metric not in _SHARES:
        return found
    return _hull(found, (share_change_columns if changes else share_columns)(values.mean(axis=0))[0])


def estimate_against(metric: Metric, cut: Array, draws: Array) -> Estimate:
    """A metric under a cut, `[prompt]`, less that under a random draw of its control, `[draw, prompt]`.

    A share's interval is no shorter than that of the change of the prompts' mean hits.
    """
    found = estimate_against_draws(cut, draws)
    if metric not in _SHARES or len(draws) == 1:
        return found
    return _hull(found, share_change_columns(cut - draws.mean(axis=0))[0])


def estimate_difference(
    metric: Metric, one: Array, other: Array, *, changes: bool, paired: bool
) -> Estimate:
    """A metric, or its change, in one run less that in another, `[prompt]` each.

    A share's interval is no shorter than a score interval: a few prompts that all differ alike are not
    certain either.

    Args:
        metric: that both have.
        one: a value for each prompt.
        other: likewise, of the run that is taken off.
        changes: whether they are paired changes from an uncut model.
        paired: whether both are of the same prompts in the same order.
    """
    if not paired:
        estimate = estimate_changes if changes else estimate_values
        found, sides = estimate_apart(one, other), (estimate(metric, each) for each in (one, other))
        return _hull(found, estimate_shares_apart(*sides)) if metric in _SHARES else found
    if not changes:
        return estimate_changes(metric, one - other)
    low, high = RANGES[metric].changes
    found = estimate_mean(one - other, within=(low - high, high - low))
    if metric not in _SHARES:
        return found
    # Where a prompt is gained in one run and lost in the other it counts once, as a prompt does there.
    return _hull(found, share_change_columns(np.clip(one - other, -1, 1))[0])


def _hull(one: Estimate, other: Estimate) -> Estimate:
    """The first, with an interval that has both and the larger p."""
    low, high = np.minimum(one.low, other.low), np.maximum(one.high, other.high)
    return Estimate(one, low=low, high=high, se=one.se, n=one.n, p=np.fmax(one.p, other.p))


def estimate_values(metric: Metric, values: ArrayLike) -> Estimate:
    """One setting of `columns_of_values`, `[prompt]`."""
    return columns_of_values(metric, np.ravel(values))[0]


def estimate_changes(metric: Metric, changes: ArrayLike) -> Estimate:
    """One setting of `columns_of_changes`, `[prompt]`."""
    return columns_of_changes(metric, np.ravel(changes))[0]
