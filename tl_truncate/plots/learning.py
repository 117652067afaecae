"""How a mask was learned: what it was worth, and how it changed."""

from typing import TYPE_CHECKING

from tl_truncate.experiments.learning.result import LearnedMask
from tl_truncate.experiments.scoring.metrics import label_of
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import COLOURS, legend_below, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@draws(LearnedMask)
def learning(found: LearnedMask) -> "Figure":
    """The change of the objective on the watched prompts and the size of the mask, against the step.

    A dotted line is the step whose mask was chosen. Where both curves are flat, the mask has settled.

    Args:
        found: of `learn_mask`.

    Returns:
        A matplotlib figure.
    """

    figure = sheet(7.4, 3.6)
    worth, size = figure.subplots(1, 2)
    history, goal = found.history, label_of(found.objective, found.has_global)
    worth.plot(history["step"], history["change"], color=COLOURS[0], label="change from uncut")
    worth.plot(
        history["step"], history["worth"], color=COLOURS[0], linestyle=":", label="less the price"
    )
    worth.set_ylabel(goal.short, fontsize=8)
    legend_below(worth)
    size.plot(history["step"], history["components"], color=COLOURS[1], label="components removed")
    moved = history["entered"] + history["left"]
    size.bar(history["step"], moved, color=COLOURS[3], label="entered or left")
    legend_below(size)
    for axis in (worth, size):
        axis.axvline(found.best_step, color="grey", linewidth=0.8, linestyle=":")
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
    record = next(iter(found.test.values())).record
    figure.suptitle(
        f"{record.task}: mask learned for the {goal.title}, {found.settings['watched']} prompts watched",
        fontsize=9,
    )
    return figure
