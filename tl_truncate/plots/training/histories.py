"""Probabilities over training, uncut and cut."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tl_truncate.decompose.parts import PARTS
from tl_truncate.experiments.scoring.keeps import kept_text
from tl_truncate.experiments.scoring.metrics import answer_name, label_of
from tl_truncate.experiments.training.reading import UNCUT
from tl_truncate.experiments.training.result import Dynamics
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import GLOBAL, IN_CONTEXT, sheet
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.weights.spoken import short_site

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_COLOURS = {"p_global": GLOBAL, "p_in_context": IN_CONTEXT}


@draws(Dynamics)
def dynamics(history: Dynamics) -> "Figure":
    """p(global) and p(in-context) against the training step: a panel for the uncut model and each cut.

    Bands are 95% intervals over prompts. The axis is logarithmic from step 1 on. In the panels of cuts
    the uncut model is drawn thin. Several tasks are one row of panels each. Lines are interrupted at
    steps that are missing, which have a cross at the bottom.

    Args:
        history: of `dynamics`.

    Returns:
        A matplotlib figure.
    """

    names, tasks = history.names, [task.name for task in history.tasks]
    size = (4.2 * len(names) + 0.6, 2.9 * len(tasks) + 0.3)
    figure = sheet(*size)
    rows = figure.subplots(len(tasks), len(names), squeeze=False, sharey=True)
    for axes, task in zip(rows, tasks, strict=True):
        own = history.of(task)
        for axis, name in zip(axes, names, strict=True):
            _draw_probabilities(axis, own, name)
        axes[0].set_ylabel("probability" if len(tasks) == 1 else f"{task}: probability", fontsize=8)
    handles, labels = rows[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    run = history.manifest["model"]
    whose = "" if run is None else f", {Path(run).name}"
    told = " and ".join(
        f"{task.name} over training ({len(task)} prompts{whose})" for task in history.tasks
    )
    figure.suptitle(told, fontsize=9)
    return figure


def _draw_probabilities(axis: Any, history: Dynamics, name: str) -> None:
    frame = history.frame
    uncut, part = (frame[frame["cut"] == each] for each in (UNCUT, name))
    colours = {metric: each for metric, each in _COLOURS.items() if metric in frame}
    for metric, colour in colours.items():
        if name != UNCUT:
            axis.plot(uncut["step"], uncut[metric], color=colour, linewidth=0.8, linestyle=":")
        label = label_of(metric, "p_global" in frame).title
        axis.plot(part["step"], part[metric], "o-", markersize=3, color=colour, label=label)
        low, high = part[f"{metric}_low"], part[f"{metric}_high"]
        axis.fill_between(part["step"], low, high, color=colour, alpha=0.2, linewidth=0)
    _mark_missing(axis, part.loc[part["p_in_context"].isna(), "step"])
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xlim(left=_left(frame["step"]))
    axis.set_ylim(0, 1)
    axis.set_title(_title(history, name), fontsize=9)
    axis.set_xlabel("training step", fontsize=8)
    axis.tick_params(labelsize=7)


def _mark_missing(axis: Any, steps: pd.Series) -> None:
    """Crosses at the bottom, where there is nothing to draw."""
    if len(steps):
        at_the_bottom = axis.get_xaxis_transform()
        axis.plot(
            steps,
            [0.02] * len(steps),
            "x",
            color="grey",
            markersize=4,
            label="missing",
            transform=at_the_bottom,
        )


@draws(Dynamics, own=False)
def parts_over_training(history: Dynamics, layers: Sequence[int] | None = None) -> "Figure":
    """What each layer's global and in-context part adds to the answers, against the training step.

    A panel for each layer; full lines are the global part, dotted ones the in-context part, orange the
    global answer, blue the in-context one. Bands are 95% intervals over prompts.

    Args:
        history: of `dynamics(..., parts=...)`.
        layers: all by default.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: if the history has no parts, or is of several tasks: take `history.of(name)`.
    """

    task, frame = history.task, history.parts_frame
    chosen = list(dict.fromkeys(frame["layer"])) if layers is None else list(layers)
    answers = list(dict.fromkeys(frame["answer"]))
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = sheet(2.9 * columns + 0.4, 2.3 * rows + 0.8)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axis, layer in zip(axes, chosen, strict=False):
        for part, answer in ((p, a) for p in PARTS for a in answers):
            own = frame[(frame["layer"] == layer) & (frame["part"] == part)]
            own = own[own["answer"] == answer]
            colour = _COLOURS[f"p_{answer}"]
            style = "-" if part == "global" else ":"
            told = answer_name(answer, history.has_global)
            label = f"{part.replace('_', '-')} part to the {told}"
            axis.plot(
                own["step"], own["logits"], style, color=colour, label=label, marker="o", markersize=2
            )
            axis.fill_between(
                own["step"], own["low"], own["high"], color=colour, alpha=0.15, linewidth=0
            )
        _mark_missing(axis, own.loc[own["logits"].isna(), "step"])
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(left=_left(frame["step"]))
        axis.set_xlabel("training step", fontsize=7)
        axis.set_title(f"MLP of block {layer}", fontsize=8)
        axis.tick_params(labelsize=7)
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    figure.supylabel("logits added (nats, centred)", fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    method = history.manifest["parts"]["method"]
    figure.suptitle(f"{task.name} over training: MLP outputs in two parts ({method})", fontsize=9)
    return figure


def _left(steps: pd.Series) -> float:
    """Where a logarithmic axis of steps begins: at step 0 if it was looked at, else before the first."""
    return float(steps.min()) / 1.5


def _title(history: Dynamics, name: str) -> str:
    """The name with its first cut."""
    cuts = [SiteCut.from_json(each) for each in history.manifest["cuts"].get(name, [])]
    if not cuts:
        return name
    more = f" + {len(cuts) - 1}" if len(cuts) > 1 else ""
    return f"{name}: {short_site(cuts[0].site)}, {kept_text(cuts[0].label)}{more}"
