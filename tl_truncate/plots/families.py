"""Families of cuts down, tasks across: what each family's chosen cut is worth, and what it costs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tl_truncate.experiments.comparison.chosen import ChosenComparison
from tl_truncate.experiments.comparison.together import families_of, has_global_of, objective_of
from tl_truncate.experiments.scoring.metrics import label_of
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import COLOURS, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@draws(ChosenComparison, own=False, several=True)
def families(found: ChosenComparison | Sequence[ChosenComparison]) -> "Figure":
    """The change of the objective on prompts that had no say, of each family's chosen cut, by task, and
    the perplexity that it costs.

    Dots with 95% intervals are the chosen cuts, crosses what the same search found among random ones.
    The last panel has the change of the loss on running text, one dot for each task.

    Args:
        found: from `compare_chosen`, one for each task, with the same objective.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: if there is nothing to show, or objectives differ.
    """

    several = [found] if isinstance(found, ChosenComparison) else list(found)
    objective, names = objective_of(several), families_of(several)
    figure = sheet(1.8 + 2.2 * (len(several) + 1), 0.3 * len(names) + 1.4)
    *axes, cost = figure.subplots(1, len(several) + 1, sharey=True, squeeze=False)[0]
    for axis, each in zip(axes, several, strict=True):
        _changes(axis, each.frame, names, objective)
        axis.set_title(each.task, fontsize=8)
    for place, each in enumerate(several):
        table = each.frame.reindex(names)
        if "loss_change" in table:
            cost.plot(table["loss_change"], range(len(names)), ".", color=COLOURS[place % len(COLOURS)])
    cost.set_title("loss on running text, nats", fontsize=8)
    for axis in (*axes, cost):
        axis.axvline(0, color="black", linewidth=0.8)
        axis.tick_params(labelsize=7)
        axis.grid(axis="x", linewidth=0.3)
    axes[0].set_yticks(range(len(names)), names, fontsize=7)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    told = label_of(objective, has_global_of(several)).title
    figure.suptitle(f"Change of the {told} by each family's chosen cut, on other prompts", fontsize=9)
    return figure


def _changes(axis: "Axes", table: pd.DataFrame, names: Sequence[str], objective: str) -> None:
    own = table.reindex(names)
    column = f"{objective}_change"
    values = own[column].mask(own["cut"] == "none", 0.0)  # nothing was chosen: nothing changes
    ends = np.stack([values - own[f"{column}_low"], own[f"{column}_high"] - values]).clip(0)
    places = np.arange(len(names))
    axis.errorbar(
        values, places, xerr=np.nan_to_num(ends), fmt="o", color=COLOURS[0], markersize=4, elinewidth=0.9
    )
    if "null_change" in own:
        axis.plot(own["null_change"], places, "x", color="0.55", markersize=4)
