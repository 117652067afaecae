"""Figures of the small worlds: recall over training, phases of the memory, the first gradients."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tl_truncate.colours import ORIGIN
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import (
    COLOURS,
    GLOBAL,
    IN_CONTEXT,
    QUIET,
    changes_map,
    legend_below,
    sheet,
)
from tl_truncate.toys.recall.train import RecallRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Colours beyond this ratio, in powers of two, are too dark for black figures.
_DARK = 2.6
# Of what the first layer does.
_FIRST = COLOURS[2]


@draws(RecallRun)
def recall(run: RecallRun) -> "Figure":
    """A recall model over training: its predictions, in full and without its last MLP, and its probes.

    Args:
        run: of `train_recall`.

    Returns:
        A matplotlib figure of three panels.
    """

    top = run.config.n_layers - 1
    table = run.history
    figure = sheet(11.5, 4.2)
    panels = (
        (
            "p(correct), p(noise)",
            {"p_correct": ("p(correct)", IN_CONTEXT), "p_noise": ("p(noise)", GLOBAL)},
        ),
        (
            "margin of the noise token on the trigger",
            {
                "margin_ff0": ("first MLP", _FIRST),
                "margin_ff1": ("last MLP", GLOBAL),
                "margin_ff0_ff1": ("one after the other", QUIET),
            },
        ),
        (
            "attention",
            {
                "previous_token": ("to the previous token (first layer)", _FIRST),
                "attention_correct": ("to the correct token (last)", IN_CONTEXT),
                "attention_noise": ("to the noise token (last)", GLOBAL),
            },
        ),
    )
    for axis, (title, columns) in zip(figure.subplots(1, 3), panels, strict=True):
        for column, (label, colour) in columns.items():
            axis.plot(table["step"], table[column], color=colour, label=label)
            dropped = f"{column}_mlp{top}_dropped"
            if dropped in table:
                axis.plot(
                    table["step"],
                    table[dropped],
                    "--",
                    color=colour,
                    label=f"{label}, last MLP dropped",
                )
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(left=0)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("training step", fontsize=8)
        axis.tick_params(labelsize=7)
        legend_below(axis)
    figure.suptitle(
        f"noisy in-context recall, alpha {run.config.data.alpha}, seed {run.config.seed}", fontsize=9
    )
    return figure


@draws(pd.DataFrame, own=False, columns=("n", "alpha", "time", "ratio"))
def phases(table: pd.DataFrame) -> "Figure":
    """Which end of the memory's spectrum holds the noise, by n and alpha, a panel for each time.

    Orange: the noise is in the top direction, and dropping the top denoises. Blue: it is in the
    smallest, and keeping the top does.

    Args:
        table: of `memory_phases`.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.colors import Normalize

    times = sorted(set(table["time"]))
    figure = sheet(3.6 * len(times) + 1, 3.4)
    axes = figure.subplots(1, len(times), squeeze=False, sharey=True)[0]
    for axis, time in zip(axes, times, strict=True):
        part = table[table["time"] == time].pivot(index="n", columns="alpha", values="ratio")
        image = axis.imshow(
            np.log2(part.to_numpy()),
            origin=ORIGIN,
            aspect="auto",
            cmap=changes_map(),
            norm=Normalize(-4, 4),
        )
        for row, values in enumerate(part.to_numpy()):
            for column, value in enumerate(values):
                ink = "white" if abs(np.log2(value)) > _DARK else "black"
                axis.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=5.5, color=ink)
        axis.set_xticks(range(part.shape[1]), [f"{alpha:g}" for alpha in part.columns], fontsize=7)
        axis.set_yticks(range(part.shape[0]), [str(n) for n in part.index], fontsize=7)
        axis.set_xlabel("alpha", fontsize=8)
        axis.set_title(f"time {time:g}", fontsize=9)
    axes[0].set_ylabel("associations n", fontsize=8)
    bar = figure.colorbar(image, ax=list(axes), shrink=0.9, extend="both")
    bar.set_label("log2 of noise over association", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle("singular value of the noise over that of the associations", fontsize=9)
    return figure


@draws(pd.DataFrame, own=False, columns=("length", "alpha", "batch_size", "snr"))
def gradient_noise(table: pd.DataFrame, margins: pd.DataFrame | None = None) -> "Figure":
    """Signal-to-noise of the first gradient against batch size, and the margins after one step.

    Args:
        table: of `gradient_noise`; a panel for each (length, alpha).
        margins: of `one_step_margins`, for a panel of its own.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.ticker import NullFormatter

    groups = list(table.groupby(["length", "alpha"]))
    count = len(groups) + (margins is not None)
    figure = sheet(3.6 * count + 0.4, 4.2)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis, ((length, alpha), part) in zip(axes, groups, strict=False):
        lines = part.groupby(["matrix", "direction"])
        for number, ((matrix, direction), line) in enumerate(lines):
            name = f"{matrix.replace('_', '-')}: {direction}"
            axis.errorbar(
                line["batch_size"],
                line["snr"],
                2 * line["snr_se"],
                marker="o",
                markersize=3,
                color=COLOURS[number % len(COLOURS)],
                label=name,
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_title(f"{length} positions, alpha {alpha:g}", fontsize=9)
        axis.set_xlabel("sequences in a batch", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel("mean / std of the first gradient", fontsize=8)
    legend_below(axes[0])
    if margins is not None:
        axis = axes[-1]
        axis.plot(margins["alpha"], margins["predicted"], "--", color="0.5", label="predicted")
        axis.plot(
            margins["alpha"],
            margins["measured"],
            "o",
            color=COLOURS[0],
            markersize=4,
            label="one step of autograd",
        )
        axis.set_title("margin of the noise after one step", fontsize=9)
        axis.set_xlabel("alpha", fontsize=8)
        axis.tick_params(labelsize=7)
        legend_below(axis)
    return figure
