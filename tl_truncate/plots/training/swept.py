"""Sweeps over training: every setting at every checkpoint."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tl_truncate.experiments.scoring.keeps import kept_text
from tl_truncate.experiments.scoring.metrics import Metric, label_of
from tl_truncate.experiments.training.result import Dynamics
from tl_truncate.plots.shared.apart import require_apart
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import changes_map, sheet
from tl_truncate.statistics import clear
from tl_truncate.weights.spoken import said_site, short_site

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@draws(Dynamics, own=False)
def sweep_over_training(
    history: Dynamics, *, task: str | None = None, metric: Metric = "p_in_context"
) -> "Figure":
    """The change from the uncut model for every setting (rows) and training step (columns).

    Orange is more, blue is less; a dot marks a change that is not clear of zero among all of its step. A
    step that is missing is grey.

    Args:
        history: of `dynamics(..., grid=...)`.
        task: its name; may be left away if there is one task.
        metric: whose change.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: if no grid was swept, or the metric was not asked of it.
    """

    table = _table(history, task, metric)
    steps, settings = sorted(set(table["step"])), list(dict.fromkeys(table["setting"]))
    wide = table.pivot_table(
        index="setting", columns="step", values=f"{metric}_change", sort=False, dropna=False
    )
    values = wide.reindex(index=settings, columns=steps).to_numpy(float)
    limit = max(float(np.nanquantile(np.abs(values), 0.9)), 1e-9)
    size = (2.4 + 0.3 * max(len(steps), 8), 1.2 + 0.16 * max(len(settings), 6))
    figure = sheet(*size)
    axis = figure.subplots()
    axis.set_facecolor("0.8")
    drawn = axis.imshow(values, aspect="auto", cmap=changes_map(), vmin=-limit, vmax=limit)
    unsure = table[table[f"{metric}_change"].notna() & ~table[f"{metric}_change_q"].map(clear)]
    x, y = unsure["step"].map(steps.index), unsure["setting"].map(settings.index)
    axis.scatter(x, y, s=2, color="0.4", linewidths=0)
    axis.set_xticks(range(len(steps)), [str(step) for step in steps], fontsize=7, rotation=90)
    axis.set_yticks(range(len(settings)), settings, fontsize=6)
    axis.set_xlabel("training step", fontsize=8)
    bar = figure.colorbar(drawn, shrink=0.8, extend="both")
    bar.ax.tick_params(labelsize=7)
    name = table["task"].iloc[0]
    figure.suptitle(
        f"{name}: change of {label_of(metric, history.has_global).told} by one cut, over training",
        fontsize=9,
    )
    return figure


@draws(Dynamics, own=False)
def settings_over_training(
    history: Dynamics, *, task: str | None = None, metric: Metric = "p_in_context"
) -> "Figure":
    """A metric against the training step: a panel for each site, a line for each keep.

    Bands are 95% intervals over prompts. Lines are interrupted at steps that are missing.

    Args:
        history: of `dynamics(..., grid=...)`.
        task: its name; may be left away if there is one task.
        metric: to draw.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: if no grid was swept, or the metric was not asked of it.
    """

    table = _table(history, task, metric)
    sites = list(dict.fromkeys(table["site"]))
    columns = min(3, len(sites))
    rows = -(-len(sites) // columns)
    figure = sheet(3.6 * columns + 0.6, 2.6 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axis, site in zip(axes, sites, strict=False):
        for setting, own in table[table["site"] == site].groupby("kept", sort=False):
            axis.plot(own["step"], own[metric], "o-", markersize=2, linewidth=1, label=setting)
            axis.fill_between(own["step"], own[f"{metric}_low"], own[f"{metric}_high"], alpha=0.15)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_title(said_site(site), fontsize=8)
        axis.set_xlabel("training step", fontsize=7)
        axis.tick_params(labelsize=7)
    for axis in axes[len(sites) :]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title="kept",
        loc="outside lower center",
        ncols=4,
        fontsize=7,
        title_fontsize=7,
        frameon=False,
    )
    figure.supylabel(label_of(metric, history.has_global).title, fontsize=8)
    figure.suptitle(f"{table['task'].iloc[0]} over training, under each cut", fontsize=9)
    return figure


def _table(history: Dynamics, task: str | None, metric: str) -> pd.DataFrame:
    """The rows of one task, with names of settings.

    Raises:
        ValueError: if there are none, the metric is not among the columns, or two settings would share a
            place.
    """
    chosen = history if task is None else history.of(task)
    table = chosen.sweep_frame
    tasks = list(dict.fromkeys(table["task"]))
    if len(tasks) > 1:
        raise ValueError(f"The task must be one of {', '.join(tasks)}, got {task!r}.")
    if f"{metric}_change" not in table:
        raise ValueError(f"The grid must have been asked for {metric!r}, got other metrics.")
    for step in chosen.histories[tasks[0]].swept:
        settings = chosen.sweep(step, task=tasks[0]).settings
        require_apart([setting.cut for setting in settings], kept_text)
    controls = np.where(table["kind"] == "Cut", "", " (" + table["kind"] + ")")
    table["kept"] = table["keep"].map(kept_text) + controls
    table["setting"] = table["site"].map(short_site) + ", " + table["kept"]
    return table
