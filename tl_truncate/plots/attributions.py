"""Predicted effects of components, layer by place in the spectrum."""

from typing import TYPE_CHECKING

import numpy as np

from tl_truncate.experiments.scoring.metrics import label_of
from tl_truncate.experiments.screening.attribution import Attribution
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import changes_map, sheet
from tl_truncate.surgery.spoken import cut_all_along

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@draws(Attribution)
def attribution(screen: Attribution, *, bins: int = 12) -> "Figure":
    """The predicted change when the components of one part of a spectrum are removed.

    Components are counted from the largest and put into parts that grow by a constant factor; a cell is
    the sum over a part. These are first-order estimates.

    Args:
        screen: of `attribute`.
        bins: how many parts.

    Returns:
        A matplotlib figure, with a panel for each matrix.
    """
    from matplotlib.colors import Normalize

    frame = screen.frame.copy()
    heads = frame["head"].notna()  # a single head is a matrix of its own
    frame.loc[heads, "matrix"] += "." + frame.loc[heads, "head"].astype(str)
    matrices = list(dict.fromkeys(frame["matrix"]))
    layers = sorted(set(frame["layer"]))
    edges = np.unique(np.geomspace(1, frame["component"].max() + 2, bins + 1).astype(int)) - 1
    part = np.searchsorted(edges, frame["component"], side="right") - 1
    sums = frame.assign(part=part).groupby(["matrix", "layer", "part"])["effect"].sum()
    limit = max(float(sums.abs().max()), 1e-9)
    size = (4.4 * len(matrices) + 0.8, 1.0 + 0.16 * len(layers))
    figure = sheet(size[0], max(size[1], 2.6))
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, matrix in zip(axes, matrices, strict=True):
        values = np.full((len(layers), len(edges) - 1), np.nan)
        for (layer, place), value in sums[matrix].items():
            values[layers.index(layer), place] = value
        norm = Normalize(-limit, limit)
        image = axis.imshow(values, aspect="auto", origin="lower", cmap=changes_map(), norm=norm)
        axis.set_title(matrix, fontsize=9)
        axis.set_xticks(range(len(edges) - 1), [str(edge) for edge in edges[:-1]], fontsize=7)
        axis.set_xlabel("from component", fontsize=8)
        step = max(1, len(layers) // 10)
        axis.set_yticks(
            range(0, len(layers), step), [str(layer) for layer in layers[::step]], fontsize=7
        )
    axes[0].set_ylabel("layer", fontsize=8)
    figure.colorbar(image, ax=list(axes), shrink=0.8).ax.tick_params(labelsize=7)
    record = screen.record
    title = label_of(screen.metric, record.has_global).title
    figure.suptitle(
        f"{record.task}: predicted change of the {title} when components are removed (first order)"
        f"{cut_all_along(record.cuts)}",
        fontsize=9,
    )
    return figure
