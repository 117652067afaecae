"""Estimates with their uncertainty: what each interval is, and what a verdict among many needs.

One name for each kind of number: `estimate_mean`, `estimate_share`, `estimate_share_change` for paired
shares, `estimate_ratio` for means over tokens, `estimate_apart` and `estimate_shares_apart` for two
samples, and two for controls that are drawn. Most have a twin that does many columns at once, with
`_columns` at its end. `benchmarks/coverage.py` measures them.
"""

from tl_truncate.statistics.apart import estimate_apart, estimate_shares_apart
from tl_truncate.statistics.columns import Columns
from tl_truncate.statistics.draws import estimate_against_draws, estimate_over_draws
from tl_truncate.statistics.estimate import LEAST, Estimate, shown, shown_in
from tl_truncate.statistics.many import CLEAR, clear, q_values
from tl_truncate.statistics.means import estimate_mean, estimate_ratio, mean_columns
from tl_truncate.statistics.shares import (
    estimate_share,
    estimate_share_change,
    share_change_columns,
    share_columns,
)
from tl_truncate.statistics.splits import estimate_over_splits

__all__ = [
    "CLEAR",
    "LEAST",
    "Columns",
    "Estimate",
    "clear",
    "estimate_against_draws",
    "estimate_apart",
    "estimate_mean",
    "estimate_over_draws",
    "estimate_over_splits",
    "estimate_ratio",
    "estimate_share",
    "estimate_share_change",
    "estimate_shares_apart",
    "mean_columns",
    "q_values",
    "share_change_columns",
    "share_columns",
    "shown",
    "shown_in",
]
