"""Results that draw themselves: what stands between them and the figures, which are floors above."""

import importlib
from typing import TYPE_CHECKING, Any

from tl_truncate.checks import require_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawn:
    """A result with a figure of its own.

    Figures import results, so results cannot import figures: they are found when they are asked for.
    """

    def plot(self, **options: Any) -> "Figure":
        """The figure that shows this result best. Needs matplotlib: the extra `plots`.

        Args:
            **options: those of the function of `tl_truncate.plots` that draws it.

        Returns:
            A matplotlib figure, which a notebook shows; `plots.save` writes it.
        """
        require_extra("plots")
        importlib.import_module("tl_truncate.plots")  # every figure says what it draws
        kinds = importlib.import_module("tl_truncate.plots.shared.kinds")
        found: Figure = kinds.figure_of(self)(self, **options)
        return found
