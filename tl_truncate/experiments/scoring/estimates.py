"""Which interval a metric has: a share's, or a mean's within what the metric can be."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tl_truncate.experiments.scoring.metrics import Metric
from tl_truncate.statistics import (
    Columns,
    Estimate,
    mean_columns,
    share_change_columns,
    share_columns,
)
from tl_truncate.statistics.columns import ANYWHERE, Bounds


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


def estimate_values(metric: Metric, values: ArrayLike) -> Estimate:
    """One setting of `columns_of_values`, `[prompt]`."""
    return columns_of_values(metric, np.ravel(values))[0]


def estimate_changes(metric: Metric, changes: ArrayLike) -> Estimate:
    """One setting of `columns_of_changes`, `[prompt]`."""
    return columns_of_changes(metric, np.ravel(changes))[0]
