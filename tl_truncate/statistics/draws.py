"""Controls that are drawn: a number varies over prompts, and over draws."""

import numpy as np
from numpy.typing import ArrayLike

from tl_truncate.statistics.columns import ANYWHERE, Array, Bounds, as_columns, columns_of
from tl_truncate.statistics.distributions import student_reach
from tl_truncate.statistics.estimate import Estimate
from tl_truncate.statistics.means import stretches, two_sided


def estimate_over_draws(values: ArrayLike, *, within: Bounds = ANYWHERE) -> Estimate:
    """The mean of a control over its draws, with an interval over prompts and draws.

    `se^2 = s_prompts^2 / n + s_draws^2 / D`, of the means over the other; Student's t with
    Satterthwaite's degrees of freedom, stretched as that of `estimate_mean`. One draw has the interval
    over prompts, of that draw.

    Args:
        values: `[draw, prompt]`.
        within: as for `estimate_mean`.

    Returns:
        The estimate; `n` counts the prompts.

    Source: two crossed random effects, Owen 2007, "The pigeonhole bootstrap".

    Examples:
        >>> estimate_over_draws([[0.1, 0.2, 0.1, 0.2, 0.1]] * 3).n
        5
    """
    table = np.asarray(values, dtype=float)
    over_draws = table.mean(axis=1).var(ddof=1) / len(table) if len(table) > 1 else 0.0
    return _estimate(table.mean(axis=0), over_draws, len(table), within)


def estimate_against_draws(cut: ArrayLike, draws: ArrayLike) -> Estimate:
    """How much better a cut is than a random draw of its control, from both uncertainties.

    The mean of cut minus control, with `se^2 = s_prompts^2 / n + s_draws^2 (1 + 1 / D)`: the verdict is
    whether the cut could be one more draw, not only whether it is above the draws' mean, which a good
    part of the draws are too.

    Args:
        cut: `[prompt]`.
        draws: of the control on the same prompts, `[draw, prompt]`.

    Returns:
        The estimate; one draw says nothing of its spread, and has no interval.

    Source: the interval for a further observation, with Satterthwaite's degrees of freedom.

    Examples:
        >>> better = estimate_against_draws([0.5] * 9, [[0.1] * 9, [0.11] * 9, [0.09] * 9])
        >>> better.excludes_zero
        True
    """
    table = np.asarray(draws, dtype=float)
    apart = np.asarray(cut, dtype=float) - table.mean(axis=0)
    if len(table) < 2:
        nothing = float("nan")
        return Estimate(apart.mean(), low=nothing, high=nothing, se=nothing, n=len(apart))
    over_draws = table.mean(axis=1).var(ddof=1) * (1 + 1 / len(table))
    return _estimate(apart, over_draws, len(table), ANYWHERE)


def _estimate(values: Array, over_draws: float, draws: int, within: Bounds) -> Estimate:
    """The mean of values with a further variance, known from so many draws."""
    sample = as_columns(values)
    n, mean = len(sample), sample.mean(axis=0)
    over_prompts = sample.var(axis=0, ddof=1) / n if n > 1 else np.full(1, np.nan)
    se = np.sqrt(over_prompts + over_draws)
    parts = over_prompts**2 / max(n - 1, 1) + over_draws**2 / max(draws - 1, 1)
    degrees = np.where(
        parts > 0, (over_prompts + over_draws) ** 2 / np.where(parts > 0, parts, 1), n - 1
    )
    below, above = stretches(sample)
    half = student_reach(0.95, degrees) * se
    p = two_sided(mean, se * np.where(mean > 0, below, above), degrees)
    found = columns_of(sample, mean - half * below, mean + half * above, p, within)[0]
    return Estimate(found, low=found.low, high=found.high, se=float(se[0]), n=n, p=found.p)
