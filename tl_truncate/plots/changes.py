"""What cuts are worth and what they cost: one number a line."""

from typing import TYPE_CHECKING

from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import SCORED, Metric, label_of
from tl_truncate.experiments.scoring.side_effects import SideEffects
from tl_truncate.experiments.search.result import SearchResult, paired
from tl_truncate.experiments.search.view import column_told
from tl_truncate.plots.shared.forest import Row, forest
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import sheet
from tl_truncate.surgery.spoken import cut_all_along

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOLD = {
    "loss_change": "change of the loss, nats a token",
    "kl": "KL(uncut || cut), nats",
    "agreement": "same most probable token",
}


@draws(Scores)
def scores(found: Scores) -> "Figure":
    """The paired change of each metric under the cuts, or of uncut scores the metrics themselves.

    Args:
        found: of `evaluate`.

    Returns:
        A matplotlib figure: shares at the left, nats at the right, with 95% intervals.
    """
    cut = found.baseline is not None
    there = [metric for metric in SCORED if metric in found.frame]
    groups: list[list[Metric]] = [
        [m for m in there if m != "logit_diff"],
        [m for m in there if m == "logit_diff"],
    ]
    groups = [group for group in groups if group]
    figure = sheet(4.4 * len(groups), 2.4)
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, group in zip(axes, groups, strict=True):
        rows = [
            Row(label_of(m, found.has_global).short, found.change(m) if cut else found.estimate(m))
            for m in group
        ]
        forest(axis, rows, zero=cut)
    told, record = "change under the cuts" if cut else "uncut", found.record
    around = cut_all_along(record.cuts if found.baseline is None else found.baseline.record.cuts)
    told = f"{record.task}, {record.n_prompts} prompts on {record.model}: {told}{around}"
    figure.suptitle(told, fontsize=9)
    return figure


@draws(SearchResult)
def searched(found: SearchResult, *, metric: Metric | None = None) -> "Figure":
    """What the chosen cuts do where they were chosen, on prompts that had no say, and beside controls.

    Args:
        found: of `search`.
        metric: the objective by default.

    Returns:
        A matplotlib figure: a panel for each task; hollow marks are controls and the null.
    """
    chosen = found.objective if metric is None else metric
    tasks = list(found.test)
    columns = [found.columns(task) for task in tasks]
    figure = sheet(5.2 * len(tasks), 1.3 + 0.32 * max(map(len, columns)))
    for axis, task, own in zip(
        figure.subplots(1, len(tasks), squeeze=False)[0], tasks, columns, strict=True
    ):
        tried = list(own)[:2]
        forest(
            axis,
            [
                Row(column_told(name), paired(each, chosen), name not in tried)
                for name, each in own.items()
            ],
        )
        axis.set_title(task, fontsize=8)
    told = label_of(chosen, found.has_global).title
    figure.suptitle(f"Change of the {told} by the cuts that were found", fontsize=9)
    return figure


@draws(SideEffects)
def cost(found: SideEffects) -> "Figure":
    """What the cuts do to running text: loss, divergence and agreement, with 95% intervals.

    Args:
        found: of `side_effects`.

    Returns:
        A matplotlib figure of three panels, each with its own units.
    """
    figure = sheet(9.0, 1.9)
    axes = figure.subplots(1, len(found.estimates))
    for axis, (name, value) in zip(axes, found.estimates.items(), strict=True):
        forest(axis, [Row("", value)], zero=name != "agreement")
        axis.set_title(_TOLD[name], fontsize=8)
    figure.suptitle(
        f"Perplexity {float(found.uncut_perplexity):.1f} uncut, {float(found.perplexity):.1f} cut",
        fontsize=9,
    )
    return figure
