"""How each metric changes when one layer is cut."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import (
    PROBABILITIES,
    Metric,
    column_of,
    label_of,
    metrics_of,
)
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import COLOURS, QUIET, sheet
from tl_truncate.surgery.controls import is_control_kind
from tl_truncate.surgery.spoken import cut_all_along, said_kind
from tl_truncate.weights.spoken import said_keep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# The first two are those that are told apart best.
_OF_KEEPS = tuple(COLOURS[place] for place in (0, 3, 2, 4, 1, 5))


@draws(pd.DataFrame, own=False, columns=("task", "layer", "matrix", "kind", "keep"))
def layer_effects(
    frame: pd.DataFrame,
    baselines: Mapping[str, Scores],
    *,
    metrics: tuple[Metric, ...] | None = None,
) -> "Figure":
    """How each metric changes when one layer is cut: a row for each task, a column for each metric.

    Full marks are cuts, hollow ones of the same colour the controls of the same rank beside them. Bars
    are 95% intervals of the change, paired prompt by prompt. No line joins layers: each is cut alone.

    Args:
        frame: from `sweep`.
        baselines: the uncut scores, from the same call.
        metrics: which to show; by default the probabilities of the answers.

    Returns:
        A matplotlib figure.
    """
    tasks = list(dict.fromkeys(frame["task"]))
    if metrics is None:
        metrics = metrics_of([baselines[each] for each in tasks], PROBABILITIES)
    figure = sheet(4.8 * len(metrics), 2.7 * len(tasks) + 0.9)
    axes = figure.subplots(len(tasks), len(metrics), squeeze=False, sharex=True)
    for row, task in zip(axes, tasks, strict=True):
        for axis, metric in zip(row, metrics, strict=True):
            axis.axhline(0, color=QUIET, linewidth=1)
            _panel(axis, frame[frame["task"] == task], column_of(metric))
            uncut = float(baselines[task].estimate(metric))
            told = f"{task}: change of the {label_of(metric, baselines[task].has_global).title}, "
            most = _most(frame[frame["task"] == task], f"{column_of(metric)}_change")
            axis.set_title(f"{told}uncut {uncut:.3g}{most}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("layer that is cut", fontsize=8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    matrices = ", ".join(dict.fromkeys(frame["matrix"]))
    around = cut_all_along(baselines[tasks[0]].record.cuts)
    figure.suptitle(f"What changes when the {matrices} of one layer is cut{around}", fontsize=11)
    return figure


def _most(frame: pd.DataFrame, column: str) -> str:
    """Where a cut changes it most, either way: what a panel has to say."""
    cuts = frame[(frame["kind"] == "Cut") & frame[column].notna() & (frame[column] != 0)]
    if cuts.empty:
        return ""
    row = cuts.loc[cuts[column].abs().idxmax()]
    return f"; most at layer {row['layer']}, {said_keep(row['keep'])}: {row[column]:+.2g}"


def _panel(axis: "Axes", frame: pd.DataFrame, metric: str) -> None:
    # As text, in which the rank 1 and all of it differ; an amount of each matrix has a colour.
    amounts = frame["keep"].map(said_keep)
    if frame["matrix"].nunique() > 1:
        amounts = frame["matrix"] + ", " + amounts
    keeps, layers = list(dict.fromkeys(amounts)), sorted(set(frame["layer"]))
    kinds = list(dict.fromkeys(frame["kind"]))
    there = set(zip(amounts, frame["kind"], strict=True))
    groups = [(keep, kind) for keep in keeps for kind in kinds if (keep, kind) in there]
    step = 0.7 / len(groups)
    for place, (keep, kind) in enumerate(groups):
        part = frame[(frame["kind"] == kind) & (amounts == keep)]
        values, low, high = (
            part[f"{metric}_change{end}"].to_numpy(float) for end in ("", "_low", "_high")
        )
        cut, colour = not is_control_kind(kind), _OF_KEEPS[keeps.index(keep) % len(COLOURS)]
        beside = step * (place - (len(groups) - 1) / 2)
        axis.errorbar(
            [layers.index(layer) + beside for layer in part["layer"]],
            values,
            yerr=np.nan_to_num(np.stack([values - low, high - values]).clip(min=0)),
            label=keep if kind == "Cut" else f"{keep}, {said_kind(kind)}",
            color=colour,
            marker="o" if kind == "Cut" or not cut else "s",
            markersize=4,
            markerfacecolor=colour if cut else "none",
            linestyle="none",
            elinewidth=0.9,
            zorder=2 if cut else 1,
        )
    axis.set_xticks(range(len(layers)), list(map(str, layers)))
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", linewidth=0.3)
