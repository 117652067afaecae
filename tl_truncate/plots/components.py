"""Component by component, part by part, step by step: bars and dots of one result."""

from typing import TYPE_CHECKING

from tl_truncate.decompose.parts import MLPDecomposition
from tl_truncate.decompose.shares import ComponentShares
from tl_truncate.experiments.planning.result import RunPlan
from tl_truncate.experiments.scoring.metrics import label_of
from tl_truncate.experiments.screening.value_gradients import SingularValueGradients
from tl_truncate.plots.shared.forest import Row, forest
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import COLOURS, QUIET, sheet
from tl_truncate.statistics import Estimate
from tl_truncate.toys.memory.memory import MemorySpectrum
from tl_truncate.weights.spoken import said_site

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@draws(ComponentShares)
def shares(found: ComponentShares) -> "Figure":
    """The global share of what each component writes, the largest singular value first.

    Args:
        found: of `component_shares`.

    Returns:
        A matplotlib figure.
    """
    figure = sheet(7.4, 3.0)
    axis = figure.subplots()
    axis.plot(range(len(found.values)), found.values.numpy(), ".", color=COLOURS[0], markersize=4)
    axis.set_xlabel("component", fontsize=8)
    axis.set_ylabel("global share", fontsize=8)
    axis.tick_params(labelsize=7)
    figure.suptitle(f"{said_site(found.site)}: how much of each component is global", fontsize=9)
    return figure


@draws(SingularValueGradients)
def value_gradients(found: SingularValueGradients, *, sites: int = 12) -> "Figure":
    """The sites whose singular values most speak for being smaller, the strongest on top.

    Args:
        found: of `singular_value_gradients`.
        sites: how many.

    Returns:
        A matplotlib figure.
    """
    table = found.sites.head(sites)
    figure = sheet(6.4, 1.2 + 0.24 * len(table))
    axis = figure.subplots()
    axis.barh(range(len(table)), table["score"], color=COLOURS[3])
    axis.set_yticks(range(len(table)), list(map(said_site, table["site"])), fontsize=8)
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.set_xlabel("score: how fast it would rise", fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    told = label_of(found.screen.metric, found.screen.record.has_global).title
    figure.suptitle(f"{found.screen.record.task}: {told} as values shrink (first order)", fontsize=9)
    return figure


@draws(MLPDecomposition)
def decomposition(found: MLPDecomposition) -> "Figure":
    """How much of an MLP's output each part and term carries, in the stream and in the logits.

    Args:
        found: of `decompose_mlp`.

    Returns:
        A matplotlib figure of two panels, with 95% intervals.
    """
    table = found.fractions().reset_index()
    spaces = {"variance": "of the variance in the stream", "logits": "of the variance of the logits"}
    figure = sheet(8.4, 1.2 + 0.26 * table["term"].nunique())
    for axis, (space, title) in zip(figure.subplots(1, 2, sharey=True), spaces.items(), strict=True):
        own = table[table["space"] == space]
        rows = [
            Row(str(r.term).replace("_", "-"), Estimate(r.value, low=r.low, high=r.high, se=r.se, n=0))
            for r in own.itertuples()
        ]
        forest(axis, rows)
        axis.set_title(title, fontsize=8)
    figure.suptitle(f"The MLP of layer {found.layer} in parts, by {found.method}", fontsize=9)
    return figure


@draws(RunPlan)
def plan(found: RunPlan) -> "Figure":
    """How long each part of a run takes each worker.

    Args:
        found: of `plan`.

    Returns:
        A matplotlib figure.
    """
    table = found.frame
    figure = sheet(6.4, 1.2 + 0.3 * len(table))
    axis = figure.subplots()
    axis.barh(range(len(table)), table["each"], color=COLOURS[3])
    axis.set_yticks(range(len(table)), table["step"], fontsize=8)
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.set_xlabel("seconds of each worker", fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    figure.suptitle(f"{found.model}: what the run takes", fontsize=9)
    return figure


@draws(MemorySpectrum)
def memory(found: MemorySpectrum) -> "Figure":
    """The memory's singular values, the noise in orange.

    Args:
        found: of `AssociativeMemory.spectrum`.

    Returns:
        A matplotlib figure.
    """
    figure = sheet(6.4, 2.8)
    axis = figure.subplots()
    for label, colour in (("association", QUIET), ("noise", COLOURS[0])):
        chosen = [place for place, each in enumerate(found.labels) if each == label]
        axis.bar(chosen, found.values[chosen], color=colour, label=label)
    axis.set_xlabel("component", fontsize=8)
    axis.set_ylabel("singular value", fontsize=8)
    axis.tick_params(labelsize=7)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.suptitle("Where in the spectrum the noise is", fontsize=9)
    return figure
