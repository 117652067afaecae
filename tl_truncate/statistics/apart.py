"""The difference of two means, or of two shares, of units that have nothing in common."""

import numpy as np
from numpy.typing import ArrayLike

from tl_truncate.statistics.columns import as_columns
from tl_truncate.statistics.distributions import normal_p, normal_reach, student_reach
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


def estimate_shares_apart(one: Estimate, other: Estimate) -> Estimate:
    """One share, or change of a share, less another of other units, from their score intervals.

    Each end is as far as the sides' own ends are together, `(x_1 - x_2) -+ sqrt(d_1^2 + d_2^2)`, with
    `d` how far each side's interval goes that way. Of two shares this is Newcombe's hybrid score
    interval: it has a width also where all were hit, or none. The p goes with it: it is below 0.05 where
    zero is not inside.

    Args:
        one: with its interval of 95%.
        other: likewise.

    Returns:
        The estimate; it has no interval where either has none. `n` is that of the smaller.

    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions",
    method 10; Zou and Donner 2008 for other differences.

    Examples:
        >>> from tl_truncate.statistics import estimate_share
        >>> estimate_shares_apart(estimate_share([1] * 10), estimate_share([0] * 10))
        Estimate(1.000 [0.608, 1.000], n=10)
    """
    mean = float(one) - float(other)
    below = float(np.hypot(one - one.low, other.high - other))
    above = float(np.hypot(one.high - one, other - other.low))
    reach, scale = (below if mean > 0 else above), normal_reach(0.95)
    p = float(normal_p(np.asarray(mean * scale / reach if reach else 0.0)))
    se = float(np.hypot(one.se, other.se))
    return Estimate(mean, low=mean - below, high=mean + above, se=se, n=min(one.n, other.n), p=p)
