"""What is taken from scipy, which is loaded with the first interval and not with the package."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tl_truncate.statistics.columns import Array


def _stats() -> Any:
    from scipy import stats

    return stats


def normal_reach(level: float) -> float:
    """So many standard deviations hold a share of a normal distribution.

    Examples:
        >>> round(normal_reach(0.95), 2)
        1.96
    """
    return float(_stats().norm.ppf((1 + level) / 2))


def student_reach(level: float, degrees: ArrayLike) -> Array:
    """The same of Student's t with some degrees of freedom."""
    found: Array = np.asarray(_stats().t.ppf((1 + level) / 2, degrees))
    return found


def normal_p(ratio: Array) -> Array:
    """How often a normal number is as far from zero, on either side."""
    found: Array = 2 * _stats().norm.sf(np.abs(ratio))
    return found


def student_p(ratio: Array, degrees: ArrayLike) -> Array:
    """How often Student's t is as far from zero, on either side."""
    found: Array = 2 * _stats().t.sf(np.abs(ratio), degrees)
    return found


def false_discovery_rates(p: Array) -> Array:
    """Benjamini and Hochberg's."""
    found: Array = _stats().false_discovery_control(p)
    return found
