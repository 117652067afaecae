"""Probabilities over training, uncut and cut."""

from pathlib import Path
from typing import TYPE_CHECKING

from tl_truncate.experiments.dynamics_result import UNCUT, Dynamics
from tl_truncate.plots.style import TITLES, keep_text
from tl_truncate.surgery.cut import SiteCut

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METRICS = ("p_global", "p_in_context")
_COLOURS = {"p_global": "C1", "p_in_context": "C0"}


def dynamics(history: Dynamics) -> "Figure":
    """p(global) and p(in-context) against the training step: a panel for the uncut model and each cut.

    Bands are 95% intervals over prompts. The axis is logarithmic from step 1 on. In the panels of cuts
    the uncut model is drawn thin.

    Args:
        history: of `dynamics`.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    names = history.names
    figure = Figure(figsize=(4.2 * len(names) + 0.6, 3.2), layout="constrained", dpi=130)
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    frame = history.frame
    uncut = frame[frame["cut"] == UNCUT]
    for axis, name in zip(axes, names, strict=True):
        part = frame[frame["cut"] == name]
        for metric in _METRICS:
            colour = _COLOURS[metric]
            if name != UNCUT:
                axis.plot(uncut["step"], uncut[metric], color=colour, linewidth=0.8, linestyle=":")
            axis.plot(part["step"], part[metric], "o-", markersize=3, color=colour, label=TITLES[metric])
            low, high = part[f"{metric}_low"], part[f"{metric}_high"]
            axis.fill_between(part["step"], low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(left=0)
        axis.set_ylim(0, 1)
        axis.set_title(_title(history, name), fontsize=9)
        axis.set_xlabel("training step", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel("probability", fontsize=8)
    axes[0].legend(fontsize=8, frameon=False)
    run = history.manifest["model"]
    whose = "" if run is None else f", {Path(run).name}"
    figure.suptitle(
        f"{history.task.name} over training ({len(history.task)} prompts{whose})", fontsize=9
    )
    return figure


def _title(history: Dynamics, name: str) -> str:
    """The name with its first cut."""
    cuts = [SiteCut.from_json(each) for each in history.manifest["cuts"].get(name, [])]
    if not cuts:
        return name
    more = f" + {len(cuts) - 1}" if len(cuts) > 1 else ""
    return f"{name}: {cuts[0].site} {keep_text(cuts[0].label)}{more}"
