"""A metric against the number of components kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from tl_truncate.experiments.scoring.metrics import PROBABILITIES, Metric, label_of, metrics_of
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.plots.shared.needs import needs_matplotlib
from tl_truncate.plots.shared.style import COLOURS
from tl_truncate.plots.sweeps.heatmaps import sweep_table
from tl_truncate.weights.site import Site

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@needs_matplotlib
def ranks(
    result: SweepResult,
    sites: Sequence[Site | str] | None = None,
    *,
    task: str | None = None,
    metrics: Sequence[Metric] | None = None,
) -> "Figure":
    """Each metric against the kept rank, one line a site, with standard errors.

    Grey lines are controls where the sweep has them, the black line is the uncut model.

    Args:
        result: of a sweep.
        sites: to show; by default the six at which a cut changes the first metric most, either way. They
            are picked by what is shown: read them so.
        task: its name; may be left away if there is one task.
        metrics: one panel each; by default the probabilities of the answers.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: if the sweep has nothing of this task or these sites.
    """
    from matplotlib.figure import Figure

    metrics = metrics_of(result, PROBABILITIES) if metrics is None else metrics
    table = sweep_table(result, task=task, kind="Cut", metrics=metrics)
    chosen = _most_changed(table, metrics[0]) if sites is None else [str(Site.parse(s)) for s in sites]
    absent = [site for site in chosen if site not in set(table["site"])]
    if absent:
        raise ValueError(f"The sweep must have the site {absent[0]}, but it has not.")
    figure = Figure(figsize=(4.8 * len(metrics), 3.6), layout="constrained", dpi=130)
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    name = str(table["task"].iloc[0])
    whole = result.frame[result.frame["task"] == name]
    for axis, metric in zip(axes, metrics, strict=True):
        axis.axhline(float(result.baselines[name].estimate(metric)), color="black", linewidth=1)
        for place, site in enumerate(chosen):
            own = whole[whole["site"] == site]
            for kind in dict.fromkeys(own["kind"]):
                _line(axis, own[own["kind"] == kind].sort_values("rank"), metric, place, kind, site)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlabel("components kept", fontsize=8)
        axis.set_title(f"{name}: {label_of(metric, result.has_global).title}", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(axis="y", linewidth=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _most_changed(table: pd.DataFrame, metric: str, count: int = 6) -> list[str]:
    largest = table.assign(size=table[f"{metric}_change"].abs()).groupby("site")["size"].max()
    return list(largest.sort_values(ascending=False).index[:count])


def _line(axis: "Axes", part: pd.DataFrame, metric: str, place: int, kind: str, site: str) -> None:
    cut = kind == "Cut"
    axis.errorbar(
        part["rank"],
        part[metric],
        yerr=part[f"{metric}_se"],
        label=site if cut else None,
        color=COLOURS[place % len(COLOURS)] if cut else "0.6",
        marker="o" if cut else "x",
        markersize=4,
        linewidth=1,
        linestyle="-" if cut else ":",
        elinewidth=0.8,
        zorder=2 if cut else 1,
    )
