"""The difference of two means of units that have nothing in common."""

import numpy as np
from numpy.typing import ArrayLike

from tl_truncate.statistics.columns import as_columns
from tl_truncate.statistics.distributions import student_reach
from tl_truncate.statistics.estimate import LEAST, Estimate
from tl_truncate.statistics.means import stretches, two_sided


def estimate_apart(values: ArrayLike, others: ArrayLike) -> Estimate:
    """The mean of some values less that of others, which are of other units, such as other prompts.

    `se^2 = s_1^2 / n_1 + s_2^2 / n_2`, with Welch's degrees of freedom; each side is stretched as that
    of `estimate_mean`, of the two samples by the one that stretches it more. Values of the same units
    are paired: `estimate_mean` of their differences is shorter.

    Args:
        values: one per unit.
        others: one per unit of the other sample.

    Returns:
        The estimate; it has no interval where either sample has fewer than five. `n` is that of the
        smaller sample.

    Raises:
        ValueError: if either has no values.

    Source: Welch 1947, "The generalization of Student's problem".

    Examples:
        >>> estimate_apart([1.0, 2.0, 3.0, 2.0, 2.0], [1.0, 1.0, 2.0, 0.0, 1.0])
        Estimate(1.000 [-0.856, 2.856], n=5)
    """
    one, other = as_columns(values), as_columns(others)
    sizes = len(one), len(other)
    mean = float(one.mean() - other.mean())
    if min(sizes) < 2:
        nothing = float("nan")
        return Estimate(mean, low=nothing, high=nothing, se=nothing, n=min(sizes))
    parts = [sample.var(ddof=1) / len(sample) for sample in (one, other)]
    squares = sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    degrees = sum(parts) ** 2 / squares if squares > 0 else min(sizes) - 1
    se = float(np.sqrt(sum(parts)))
    # What lies below one sample's mean lies, in a difference, where the other's lies above.
    (below, above), (other_below, other_above) = (
        tuple(float(each[0]) for each in stretches(sample)) for sample in (one, other)
    )
    below, above = max(below, other_above), max(above, other_below)
    reach = float(student_reach(0.95, degrees)) * se
    p = float(two_sided(np.asarray(mean), np.asarray(se * (below if mean > 0 else above)), degrees))
    if min(sizes) < LEAST:
        reach, p = float("nan"), float("nan")
    low, high = mean - reach * below, mean + reach * above
    return Estimate(mean, low=low, high=high, se=se, n=min(sizes), p=p)
