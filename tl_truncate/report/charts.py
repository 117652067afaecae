"""What the charts of a sweep show: changes by layer and rank, and metrics against the rank."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from tl_truncate.colours import scale_end
from tl_truncate.experiments.scoring.keeps import kept_text
from tl_truncate.experiments.scoring.metrics import label_of
from tl_truncate.experiments.scoring.view import ShownScores
from tl_truncate.experiments.sweep.view import columns_of, heat_frame
from tl_truncate.report.page import Chart, Choice, rounded
from tl_truncate.surgery.controls import is_control_kind
from tl_truncate.surgery.spoken import said_kind, said_setting
from tl_truncate.weights.spoken import said_site, short_keep

#: The choices of rank curves that are shown first: their order, and which end of it.
EXTREMES = {"the six highest": False, "the six lowest": True}
_MOST = 6


def heat_chart(
    frame: pd.DataFrame, tasks: Sequence[str], metrics: Sequence[str], has_global: bool = True
) -> Chart:
    """The change from the uncut model for every layer (rows) and amount kept (columns)."""
    tables = {task: heat_frame(frame, task) for task in tasks}
    matrices = list(dict.fromkeys(name for each in tables.values() for name in each["matrix"]))
    kinds = list(dict.fromkeys(frame["kind"]))
    choices = _choices(
        task=tasks,
        matrix=matrices,
        metric=[label_of(metric, has_global).short for metric in metrics],
        kind=list(map(said_kind, kinds)),
    )
    panels = []
    for task, matrix, metric, kind in product(tasks, matrices, metrics, kinds):
        table = tables[task]
        own = table[(table["matrix"] == matrix) & (table["kind"] == kind)]
        if own.empty:
            continue
        key = _key(
            choices,
            task=task,
            matrix=matrix,
            metric=label_of(metric, has_global).short,
            kind=said_kind(kind),
        )
        # All matrices of a metric have the same colours, as in a figure of them.
        same = table[table["kind"] == kind][f"{metric}_change"]
        panel = heat_panel(own, metric, task, has_global, end=scale_end(same))
        panels.append(dict(key=key, **panel))
    label = "Heatmap: the change from the uncut model, by layer and amount kept. A table follows."
    return Chart("heat", "heat", label, choices, tuple(panels))


def _strengths(own: pd.DataFrame) -> "pd.Series[float]":
    """How strong each cut is, of a table that says so; else each is a whole one."""
    if "strength" in own:
        return own["strength"].astype(float)
    return pd.Series(1.0, index=own.index)


def _names(own: pd.DataFrame) -> list[str]:
    """What each row's setting is called, by a table that says so, or by its parts."""
    if "told" in own:
        return list(own["told"])
    parts = zip(own["site"], own["keep"], own["kind"], _strengths(own), strict=True)
    return [said_setting(*each) for each in parts]


def heat_panel(
    own: pd.DataFrame, metric: str, task: str, has_global: bool = True, *, end: float
) -> dict[str, Any]:
    """The cells of one matrix, from rows with layer, keep, rank and the metric's change."""
    kept = columns_of(own, kept_text)  # as text, in which the rank 1 and all of it differ
    keeps, layers = list(dict.fromkeys(kept)), sorted(set(own["layer"]))
    shown = dict(zip(kept, columns_of(own, short_keep), strict=True))
    columns = [
        rounded(own[name])
        for name in (*(f"{metric}_change{end}" for end in ("", "_low", "_high", "_q")), metric)
    ]
    places = [
        (layers.index(layer), keeps.index(keep)) for layer, keep in zip(own["layer"], kept, strict=True)
    ]
    cells = [
        [row, column, *numbers, rank, name]
        for (row, column), numbers, rank, name in zip(
            places, zip(*columns, strict=True), map(int, own["rank"]), _names(own), strict=True
        )
    ]
    return dict(
        x=[shown[keep] for keep in keeps],
        y=layers,
        size=end,
        cells=cells,
        task=task,
        unit=label_of(metric, has_global).short,
    )


def rank_chart(
    frame: pd.DataFrame,
    baselines: Mapping[str, ShownScores],
    metrics: Sequence[str],
    has_global: bool = True,
) -> Chart:
    """Each metric against the number of components kept, with 95% intervals."""
    tasks = list(baselines)
    cuts = frame[frame["kind"] == "Cut"]
    sites = list(dict.fromkeys(cuts["site"]))
    names = [*EXTREMES, *sites] if len(sites) > 1 else sites
    choices = _choices(
        task=tasks,
        metric=[label_of(metric, has_global).short for metric in metrics],
        site=[each if each in EXTREMES else said_site(each) for each in names],
    )
    panels = []
    for task, metric, name in product(tasks, metrics, names):
        own = frame[frame["task"] == task]
        shown = _extreme(own, metric, falling=EXTREMES[name]) if name in EXTREMES else [name]
        panels.append(
            dict(
                key=_key(
                    choices,
                    task=task,
                    metric=label_of(metric, has_global).short,
                    site=said_site(name),
                ),
                x="components kept",
                y=label_of(metric, has_global).short,
                series=list(_rank_series(own, shown, metric)),
                level=_level(baselines[task], metric),
            )
        )
    label = "Curves: the metric against the number of components kept, with 95% intervals."
    return Chart("ranks", "lines", label, choices, tuple(panels))


def _extreme(own: pd.DataFrame, metric: str, *, falling: bool) -> list[str]:
    """The sites at which some cut raises the metric most, or lowers it most."""
    changes = own[own["kind"] == "Cut"].groupby("site")[f"{metric}_change"]
    ends = -changes.min() if falling else changes.max()
    return list(ends.nlargest(_MOST).index)


def _rank_series(own: pd.DataFrame, sites: Sequence[str], metric: str) -> Iterable[dict[str, Any]]:
    for place, site in enumerate(sites):
        here = own[own["site"] == site]
        strengths = _strengths(here)
        for kind, strength in dict.fromkeys(zip(here["kind"], strengths, strict=True)):
            part = here[(here["kind"] == kind) & (strengths == strength)].sort_values("rank")
            name = said_site(site) if kind == "Cut" else f"{said_site(site)} ({said_kind(kind)})"
            yield dict(
                name=name if strength == 1 else f"{name}, strength {strength:g}",
                colour=place,
                control=is_control_kind(kind),
                x=[int(rank) for rank in part["rank"]],
                **estimates(part, metric),
            )


def estimates(part: pd.DataFrame, metric: str) -> dict[str, list[float | None]]:
    """A metric's means and the ends of its intervals, as series have them."""
    return {
        name: rounded(part[f"{metric}{ending}"])
        for name, ending in (("y", ""), ("low", "_low"), ("high", "_high"))
    }


def _level(uncut: ShownScores, metric: str) -> dict[str, Any]:
    row = uncut.summary.loc["rank" if metric == "answer_rank" else metric]
    y, low, high = rounded([row["value"], row["low"], row["high"]])
    return dict(name="uncut", y=y, low=low, high=high)


def _choices(**options: Sequence[str]) -> tuple[Choice, ...]:
    """Menus; what leaves nothing to choose has none."""
    return tuple(Choice(name, tuple(each)) for name, each in options.items() if len(each) > 1)


def _key(choices: Sequence[Choice], **chosen: str) -> list[str]:
    return [chosen[choice.name] for choice in choices]


def points_panel(
    key: Sequence[str],
    values: Mapping[str, Any],
    names: Sequence[str],
    *,
    x: str,
    colours: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Values with intervals, one below the other.

    Args:
        key: the chosen options.
        values: y, low and high, one for each name.
        names: of the points.
        x: what the axis says.
        colours: places in the palette; all the same by default.
    """
    ends = {name: rounded(values[name]) for name in ("y", "low", "high")}
    places = [1] * len(names) if colours is None else list(colours)
    return dict(key=list(key), names=list(names), x=x, colours=places, **ends)
