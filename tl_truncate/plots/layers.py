"""What is left of each metric when one layer is cut."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import PROBABILITIES, Metric, label_of, metrics_of
from tl_truncate.plots.shared.needs import needs_matplotlib
from tl_truncate.plots.shared.style import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@needs_matplotlib
def layer_effects(
    frame: pd.DataFrame,
    baselines: Mapping[str, Scores],
    *,
    metrics: tuple[Metric, ...] | None = None,
) -> "Figure":
    """What is left of each metric when one layer is cut: a row for each task, a column for each metric.

    Args:
        frame: from `sweep`.
        baselines: the uncut scores, from the same call.
        metrics: which to show, by default the probabilities of the answers; `p_global` has a logarithmic
            axis, since its falls are by factors.

    Returns:
        A matplotlib figure; bars are 95% intervals, grey the controls, the line the uncut
        model.
    """
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(frame["task"]))
    metrics = (
        metrics_of([baselines[each] for each in tasks], PROBABILITIES) if metrics is None else metrics
    )
    size = (4.8 * len(metrics), 3.0 * len(tasks) + 0.6)
    figure = Figure(figsize=size, layout="constrained", dpi=130)
    axes = figure.subplots(len(tasks), len(metrics), squeeze=False, sharex=True)
    for row, task in zip(axes, tasks, strict=True):
        for axis, metric in zip(row, metrics, strict=True):
            axis.axhline(
                float(baselines[task].estimate(metric)), color="black", linewidth=1, label="uncut"
            )
            _panel(axis, frame[frame["task"] == task], metric)
            axis.set_title(f"{task}: {label_of(metric, baselines[task].has_global).title}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("layer that is cut", fontsize=8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    matrices = ", ".join(dict.fromkeys(frame["matrix"]))
    figure.suptitle(f"What the model says when the {matrices} of one layer is cut", fontsize=11)
    return figure


def _panel(axis: "Axes", frame: pd.DataFrame, metric: Metric) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    groups = list(dict.fromkeys(zip(frame["kind"], frame["keep"], strict=True)))
    keeps = list(dict.fromkeys(frame["keep"]))
    for place, (kind, keep) in enumerate(groups):
        part = frame[(frame["kind"] == kind) & (frame["keep"] == keep)]
        value = part[metric]
        control = kind != "Cut"
        shade = keeps.index(keep)
        name = f"{float(keep):.0%} of the spectrum kept"
        axis.errorbar(
            part["layer"] + 0.07 * (place - (len(groups) - 1) / 2),
            value,
            yerr=[value - part[f"{metric}_low"], part[f"{metric}_high"] - value],
            label=f"random subspace of that rank ({float(keep):.0%})" if control else name,
            color=str(0.45 + 0.12 * shade) if control else COLOURS[shade % len(COLOURS)],
            marker="x" if control else "o",
            markersize=4,
            linewidth=1,
            linestyle=":" if control else "-",
            elinewidth=0.8,
            zorder=1 if control else 2,
        )
    if metric == "p_global":
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", linewidth=0.3)
