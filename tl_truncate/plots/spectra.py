"""A spectrum, the bulk that noise of its size would have, and what a rule keeps of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, SupportsIndex

import torch
from torch import Tensor

from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import COLOURS, sheet
from tl_truncate.weights.keep import Keep, OutsideBulk, as_keep
from tl_truncate.weights.keep.noise import Bulk, fit_bulk
from tl_truncate.weights.spectra.spectrum import SingularValues
from tl_truncate.weights.spoken import said_keep, said_site

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_KEPT, _REST = COLOURS[0], "0.7"


@draws(SingularValues)
def spectrum(
    spec: SingularValues, keep: Keep | SupportsIndex | float | None = None, *, bins: int = 60
) -> "Figure":
    """The singular values of a site: how many there are of each size, and one by one.

    The black curve is the density of the Marchenko-Pastur law at the noise level that `OutsideBulk`
    fits, times the number of values between its edges; dashed lines are the edges. A circuit, being a
    product, has no such law, and no curve.

    Args:
        spec: from `tlt.spectrum`.
        keep: as for a cut: what it keeps is drawn in colour; `OutsideBulk()` by default.
        bins: of the histogram.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: if the rule does not fit the spectrum.

    Examples:
        >>> figure = spectrum(tlt.spectrum(model, "blocks.1.mlp.W_in"))
        >>> [axis.get_xlabel() for axis in figure.axes]
        ['singular value', 'component']
    """

    rule = OutsideBulk() if keep is None else as_keep(keep)
    inside = torch.zeros(spec.max_rank, dtype=torch.bool)
    inside[spec.kept(rule)] = True
    bulk = fit_bulk(spec.S, spec.shape) if spec.max_rank == min(spec.shape) else None
    figure = sheet(9.6, 3.6)
    left, right = figure.subplots(1, 2)
    _histogram(left, spec.S.double(), inside, bulk, bins)
    _one_by_one(right, spec.S.double(), inside, bulk)
    for axis in (left, right):
        axis.tick_params(labelsize=8)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    n_in, n_out = spec.shape
    told = f"{said_keep(rule)}, {int(inside.sum())} of {spec.max_rank} components"
    told = f"{said_site(spec.site)} ({n_in} x {n_out}): {told}"
    figure.suptitle(told, fontsize=10)
    return figure


def _histogram(axis: "Axes", values: Tensor, inside: Tensor, bulk: Bulk | None, bins: int) -> None:
    low, high = float(values.min()), float(values.max())
    if bulk is not None:
        low, high = min(low, bulk.lower), max(high, bulk.upper)
    # A spectrum of one value has no width of its own.
    edges = torch.linspace(low, high if high > low else low + 1.0, bins + 1, dtype=torch.float64)
    axis.hist(
        [values[~inside].numpy(), values[inside].numpy()],
        edges.tolist(),
        stacked=True,
        color=[_REST, _KEPT],
        label=["removed", "kept"],
    )
    if bulk is not None:
        points = torch.linspace(bulk.lower, bulk.upper, 400, dtype=torch.float64)
        between = int(((values >= bulk.lower) & (values <= bulk.upper)).sum())
        counts = bulk.density(points) * between * float(edges[1] - edges[0])
        axis.plot(points.numpy(), counts.numpy(), color="black", linewidth=1, label="law of noise")
        _edges(axis.axvline, bulk)
    axis.set_xlabel("singular value", fontsize=8)
    axis.set_ylabel("components", fontsize=8)


def _one_by_one(axis: "Axes", values: Tensor, inside: Tensor, bulk: Bulk | None) -> None:
    places = torch.arange(len(values))
    for chosen, colour in ((~inside, _REST), (inside, _KEPT)):
        axis.plot(places[chosen].numpy(), values[chosen].numpy(), ".", color=colour, markersize=3)
    if bulk is not None:
        _edges(axis.axhline, bulk)
    axis.set_xlabel("component", fontsize=8)
    axis.set_ylabel("singular value", fontsize=8)


def _edges(line: Callable[..., Any], bulk: Bulk) -> None:
    for place, edge in enumerate((bulk.lower, bulk.upper)):
        line(
            edge,
            color="black",
            linewidth=0.8,
            linestyle="--",
            label=None if place else "edges of the bulk",
        )
