"""Figures on disk: PNG or SVG, whole or not there."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tl_truncate.plots.shared.needs import needs_matplotlib
from tl_truncate.weights.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = (".png", ".svg")


@needs_matplotlib
def save(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Writes a figure under a temporary name first.

    Args:
        figure: of this package or any of matplotlib's.
        path: ends in .png or .svg.

    Raises:
        ValueError: if it ends in something else.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ValueError(f"A figure's file must end in .png or .svg, got {str(path)!r}.")
    with replacing(path) as temporary:
        figure.savefig(temporary, format=suffix[1:])
