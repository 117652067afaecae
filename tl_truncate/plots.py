"""Figures from result objects. Needs matplotlib: `pip install 'tl-truncate[plots]'`."""

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with every common colour vision.
_COLOURS = ("#D55E00", "#E69F00", "#009E73", "#0072B2", "#CC79A7", "#56B4E9")
_TITLES = {
    "p_in_context": "probability of the in-context answer",
    "p_global": 'probability of the global answer (" the")',
    "accuracy": "accuracy",
    "logit_diff": "logit difference (nats)",
    "rank": "rank of the in-context answer",
}


def layer_effects(
    frame: pd.DataFrame, *, metrics: tuple[str, ...] = ("p_in_context", "p_global")
) -> "Figure":
    """The change that each cut makes, by layer: a row for each task, a column for each metric.

    Args:
        frame: from `compare`.
        metrics: which columns to show.

    Returns:
        A matplotlib figure; bars are 95% paired bootstrap intervals, grey the controls.
    """
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(frame["task"]))
    size = (4.8 * len(metrics), 3.1 * len(tasks))
    figure = Figure(figsize=size, layout="constrained", dpi=130)
    axes = figure.subplots(len(tasks), len(metrics), squeeze=False, sharex=True)
    for row, task in zip(axes, tasks, strict=True):
        for axis, metric in zip(row, metrics, strict=True):
            _panel(axis, frame[frame["task"] == task], metric)
            axis.set_title(f"{task}: {_TITLES[metric]}", fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    matrices = ", ".join(dict.fromkeys(frame["matrix"]))
    figure.suptitle(
        f"What the model says when one {matrices} is cut (change, 95% interval)", fontsize=11
    )
    return figure


def _panel(axis: "Axes", frame: pd.DataFrame, metric: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.axhline(0, color="black", linewidth=0.8)
    groups = list(dict.fromkeys(zip(frame["kind"], frame["keep"], strict=True)))
    keeps = list(dict.fromkeys(frame["keep"]))
    for place, (kind, keep) in enumerate(groups):
        part = frame[(frame["kind"] == kind) & (frame["keep"] == keep)]
        change = part[f"{metric}_change"]
        errors = [change - part[f"{metric}_low"], part[f"{metric}_high"] - change]
        control = kind != "Cut"
        shade = keeps.index(keep)
        axis.errorbar(
            part["layer"] + 0.12 * (place - len(groups) / 2),
            change,
            yerr=errors,
            label=f"{kind} keeps {float(keep):.0%}" if control else f"keeps {float(keep):.0%}",
            color=str(0.45 + 0.12 * shade) if control else _COLOURS[shade % len(_COLOURS)],
            marker="x" if control else "o",
            markersize=4,
            linewidth=1.1,
            linestyle=":" if control else "-",
            elinewidth=0.8,
            zorder=1 if control else 2,
        )
    axis.set_xlabel("layer", fontsize=8)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", linewidth=0.3)
