"""Verdicts among many settings: the false discovery rate."""

import numpy as np
from numpy.typing import ArrayLike

from tl_truncate.statistics.columns import Array
from tl_truncate.statistics.distributions import false_discovery_rates

#: A change is called clear if its q is below this: of those, so many are false on average at most.
CLEAR = 0.05


def q_values(p: ArrayLike) -> Array:
    """Benjamini and Hochberg's q of many p: the false discovery rate at which each is called clear.

    Args:
        p: of all settings that were looked at together, `[setting]`; NaN where there is no verdict.

    Returns:
        The q, `[setting]`; NaN where p is.

    Source: Benjamini and Hochberg 1995, by `scipy.stats.false_discovery_control`.

    Examples:
        >>> q_values([0.01, 0.04, float("nan"), 0.5]).round(3).tolist()
        [0.03, 0.06, nan, 0.5]
    """
    given = np.asarray(p, dtype=float)
    found, known = np.full(given.shape, np.nan), ~np.isnan(given)
    if known.any():
        found[known] = false_discovery_rates(given[known])
    return found


def clear(q: float) -> bool:
    """Whether a change is clear among all that were looked at; never without a verdict."""
    return bool(q < CLEAR)
