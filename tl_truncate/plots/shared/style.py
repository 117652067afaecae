"""Colours and ground that all figures share: those of pages, in the order that tells families apart."""

from typing import TYPE_CHECKING, Any

from tl_truncate.colours import DIVERGING
from tl_truncate.markup import LESS, MORE, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_GREEN, _PINK, _ORANGE, _SKY = PALETTE[2:]
COLOURS = (MORE, _ORANGE, _GREEN, LESS, _PINK, _SKY)
#: Of the two answers.
GLOBAL, IN_CONTEXT = MORE, LESS
#: Of what only frames the numbers: lines at zero, controls without a cut of their own, small print.
QUIET = "0.45"
#: Behind every figure: paper that can be looked at on a white page and on a dark one.
GROUND = "#F7F7F4"


def sheet(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, whose parts make room for one another."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=130, facecolor=GROUND)


def changes_map() -> "Colormap":
    """Blue for less, orange for more: the scale of pages."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("changes", DIVERGING)


def legend_below(axis: "Axes", **options: Any) -> None:
    """The names of a panel's lines under it, where no data are."""
    axis.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=7, frameon=False, ncols=1, **options
    )
