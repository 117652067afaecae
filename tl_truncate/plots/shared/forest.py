"""Values with their intervals, one below the other: the picture of a handful of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tl_truncate.plots.shared.style import COLOURS, QUIET
from tl_truncate.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Row:
    """One line of a forest.

    Attributes:
        name: at the left.
        value: with its interval; NaN ends have no bar.
        control: whether it is what the others are held against: its mark is hollow.
    """

    name: str
    value: Estimate
    control: bool = False


def forest(axis: "Axes", rows: Sequence[Row], *, zero: bool = True) -> None:
    """Draws the rows from top to bottom; `zero` marks no change."""
    if zero:
        axis.axvline(0, color=QUIET, linewidth=1)
    for place, row in enumerate(rows):
        value, low, high = float(row.value), row.value.low, row.value.high
        known = low == low and high == high
        axis.errorbar(
            [value],
            [place],
            xerr=[[max(value - low, 0.0)], [max(high - value, 0.0)]] if known else None,
            fmt="o",
            color=COLOURS[3] if row.control else COLOURS[0],
            markerfacecolor="none" if row.control else COLOURS[0],
            markersize=5,
            elinewidth=1.1,
        )
    axis.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.locator_params(axis="x", nbins=5)
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(axis="x", linewidth=0.3)
