"""The paired change of a metric against the number of components kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tl_truncate.experiments.scoring.metrics import Metric, column_of, label_of
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import COLOURS, QUIET, sheet
from tl_truncate.plots.sweeps.heatmaps import asked_of, sweep_table
from tl_truncate.surgery.controls import is_control_kind
from tl_truncate.surgery.spoken import cut_all_along, said_kind
from tl_truncate.weights.site import Site
from tl_truncate.weights.spoken import short_site

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STEP = 0.1  # between sites at one rank, of the way to the next rank


@draws(SweepResult, own=False)
def ranks(
    result: SweepResult,
    sites: Sequence[Site | str] | None = None,
    *,
    task: str | None = None,
    metrics: Sequence[Metric] | None = None,
) -> "Figure":
    """How each metric changes with the kept rank, paired prompt by prompt: one line a site.

    Bars are 95% intervals of the paired change. Hollow marks of the same colour are the site's controls,
    where the sweep has them. Ranks stand side by side, whatever lies between them.

    Args:
        result: of a sweep.
        sites: to show; by default the six at which a cut changes the first metric most, either way. They
            are picked by what is shown: read them so.
        task: its name; may be left away if there is one task.
        metrics: one panel each; by default the probabilities of the answers that the task has.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: if the sweep has nothing of this task or these sites.
    """
    metrics = asked_of(result) if metrics is None else metrics
    table = sweep_table(result, task=task, kind="Cut", metrics=metrics)
    first = column_of(metrics[0])
    chosen = _most_changed(table, first) if sites is None else [str(Site.parse(s)) for s in sites]
    absent = [site for site in chosen if site not in set(table["site"])]
    if absent:
        raise ValueError(f"The sweep must have the site {absent[0]}, but it has not.")
    name = str(table["task"].iloc[0])
    whole = result.frame[(result.frame["task"] == name) & result.frame["site"].isin(chosen)]
    kept = sorted(set(whole["rank"]))
    figure = sheet(4.6 * len(metrics), 3.8)
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        axis.axhline(0, color=QUIET, linewidth=1)
        for place, site in enumerate(chosen):
            own = whole[whole["site"] == site]
            beside = _STEP * (place - (len(chosen) - 1) / 2)
            for kind in dict.fromkeys(own["kind"]):
                part = own[own["kind"] == kind].sort_values("rank")
                _line(axis, part, column_of(metric), kept, beside, COLOURS[place % len(COLOURS)], kind)
        axis.set_xticks(range(len(kept)), list(map(str, kept)))
        axis.set_xlabel("components kept", fontsize=8)
        uncut = float(result.baselines[name].estimate(metric))
        title = label_of(metric, result.has_global).title
        axis.set_title(f"{name}: change of the {title}, uncut {uncut:.3g}", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(axis="y", linewidth=0.3)
    if around := cut_all_along(result.baselines[name].record.cuts):
        figure.suptitle(around.removeprefix("; "), fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _most_changed(table: pd.DataFrame, metric: str, count: int = 6) -> list[str]:
    largest = table.assign(size=table[f"{metric}_change"].abs()).groupby("site")["size"].max()
    return list(largest.sort_values(ascending=False).index[:count])


def _line(
    axis: "Axes",
    part: pd.DataFrame,
    metric: str,
    kept: Sequence[int],
    beside: float,
    colour: str,
    kind: str,
) -> None:
    cut = not is_control_kind(kind)
    name = short_site(part["site"].iloc[0])
    values, low, high = (part[f"{metric}_change{end}"].to_numpy(float) for end in ("", "_low", "_high"))
    axis.errorbar(
        [kept.index(rank) + beside + (0 if cut else _STEP / 2) for rank in part["rank"]],
        values,
        yerr=np.nan_to_num(np.stack([values - low, high - values]).clip(min=0)),
        label=(name if kind == "Cut" else f"{name} ({said_kind(kind)})") if cut else None,
        color=colour,
        marker="o" if kind == "Cut" or not cut else "s",
        markersize=4,
        markerfacecolor=colour if cut else "none",
        linewidth=1,
        linestyle="-" if cut else "none",
        elinewidth=0.9 if cut else 0.6,
        zorder=2 if cut else 1,
    )
