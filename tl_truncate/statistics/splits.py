"""The mean of a number that was measured on several splits of the same prompts."""

import numpy as np
from numpy.typing import ArrayLike

from tl_truncate.statistics.columns import as_columns, columns_of
from tl_truncate.statistics.distributions import student_reach
from tl_truncate.statistics.estimate import Estimate


def estimate_over_splits(values: ArrayLike, *, test_fraction: float) -> Estimate:
    """The mean over random splits, with the interval of the corrected resampled t test.

    `mean -+ t s sqrt(1 / R + f / (1 - f))` with Student's t of R - 1 and f the test share: splits of the
    same prompts overlap, so that more of them do not say as much as more prompts would.

    Args:
        values: one per split, `[split]`.
        test_fraction: share of the prompts that each split tests on.

    Returns:
        The estimate; `n` counts the splits, and fewer than five have no interval.

    Source: Nadeau and Bengio 2003, "Inference for the generalization error".

    Examples:
        >>> estimate_over_splits([0.1, 0.2, 0.1, 0.2, 0.15], test_fraction=0.5)
        Estimate(0.150 [-0.002, 0.302], n=5)
    """
    sample = as_columns(np.ravel(values))
    n, mean = len(sample), sample.mean(axis=0)
    spread = sample.std(axis=0, ddof=1) if n > 1 else np.full(1, np.nan)
    se = spread * np.sqrt(1 / n + test_fraction / (1 - test_fraction))
    half = student_reach(0.95, max(n - 1, 1)) * se
    p = np.full(1, np.nan)
    found = columns_of(sample, mean - half, mean + half, p, (-np.inf, np.inf))[0]
    return Estimate(found, low=found.low, high=found.high, se=float(se[0]), n=n)
