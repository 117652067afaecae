"""A metric against the number of demonstrations, uncut and cut."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tl_truncate.experiments.scoring.drawn import draws_together
from tl_truncate.experiments.scoring.keeps import kept_text
from tl_truncate.experiments.scoring.metrics import Metric, column_of, label_of
from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import COLOURS, sheet
from tl_truncate.surgery.controls import is_control
from tl_truncate.surgery.counterparts import control_kind
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.tasks.task import Task
from tl_truncate.weights.spoken import short_site

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_MOST = 6
_STEP = 0.05
_OF_CONTROLS: dict[str, Any] = dict(color="0.6", marker="x", linestyle=":", zorder=1)


@draws(SweepResult, own=False)
def shots(
    result: SweepResult,
    cuts: Sequence[SiteCut] | None = None,
    *,
    metrics: Sequence[Metric] = ("accuracy", "p_in_context"),
) -> "Figure":
    """Each metric against the number of demonstrations: the uncut model in black, one line a cut.

    Bars are 95% intervals over the prompts, which are the same for all numbers and all lines. Dotted
    grey lines are controls of the cuts where the sweep has them.

    Args:
        result: of a sweep with `shots`.
        cuts: to show; by default the six that change the first metric most, at any number, either way.
            They are picked by what is shown: read them so.
        metrics: one column of panels each; a row for each task.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: if the sweep has no demonstrations, a task's numbers of them are not of the same
            prompts, it has nothing of these cuts, or was not asked for a metric.

    Source: the few-shot study of GSM8K of Chen, Bruna and Bietti 2024 (arXiv 2406.03068).
    """

    table = _table(result, metrics)
    settings = [setting.cut for setting in result.settings]
    swept = [settings[group[0]] for group in draws_together(settings)]  # as the rows of each task
    chosen = _most_changed(table, swept, column_of(metrics[0])) if cuts is None else _found(cuts, swept)
    looks = _looks(chosen, swept)
    tasks = list(dict.fromkeys(table["of"]))
    size = 4.8 * len(metrics), 0.6 + 3.2 * len(tasks)
    figure = sheet(*size)
    axes = figure.subplots(len(tasks), len(metrics), squeeze=False)
    for row, task in zip(axes, tasks, strict=True):
        for axis, metric in zip(row, metrics, strict=True):
            name = column_of(metric)
            uncut = _uncut(result, task, metric)
            numbers = sorted(uncut["shots"])
            lines = [(uncut, dict(color="black", marker="o", label="uncut"))]
            own = table[table["of"] == task]
            lines += [(own[own["line"] == place], look) for place, look in looks.items()]
            for beside, (part, look) in zip(_beside(len(lines)), lines, strict=True):
                _line(axis, part, name, numbers, beside, **look)
            axis.set_title(f"{task}: {label_of(metric, result.has_global).title}", fontsize=9)
            axis.set_xticks(range(len(numbers)), list(map(str, numbers)))
            axis.tick_params(labelsize=8)
            axis.grid(axis="y", linewidth=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("demonstrations", fontsize=8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _table(result: SweepResult, metrics: Sequence[Metric]) -> pd.DataFrame:
    """The sweep's table, and of each row the plain task (`of`) and its place among those of its task
    (`line`), which is the cut."""
    table = result.frame
    if "shots" not in table or table.empty:
        raise ValueError(
            "The sweep must have settings with demonstrations, got none. Use "
            "tlt.sweep(..., shots=(0, 1, 4, 16))."
        )
    missing = [metric for metric in metrics if f"{column_of(metric)}_change" not in table]
    if missing:
        raise ValueError(
            f"The sweep must have been asked for {missing[0]}, got {', '.join(result.metrics)}."
        )
    plain = {task.name: task.without_demonstrations().name for task in result.tasks}
    _check_paired([task for task in result.tasks if task.shots is not None])
    asked = table[table["shots"].notna()]
    return asked.assign(of=asked["task"].map(plain), line=asked.groupby("task").cumcount())


def _check_paired(tasks: Sequence[Task]) -> None:
    """That a line is of one set of prompts, and has one point for each number."""
    by_name: dict[str, list[Task]] = {}
    for task in tasks:
        by_name.setdefault(task.without_demonstrations().name, []).append(task)
    for name, own in by_name.items():
        prompts = {task.without_demonstrations().hash for task in own}
        if len(prompts) > 1 or len({task.shots for task in own}) < len(own):
            raise ValueError(
                f"Each number of demonstrations must be there once, and all on the same prompts, got "
                f"{', '.join(task.name for task in own)} of {name!r} on {len(prompts)} sets of prompts. "
                "Use sweep(..., shots=...), or with_demonstrations with one seed and one reserve."
            )


def _most_changed(table: pd.DataFrame, swept: Sequence[SiteCut], metric: str) -> list[int]:
    cuts = table[[not is_control(swept[place]) for place in table["line"]]]
    largest = cuts[f"{metric}_change"].abs().groupby(cuts["line"]).max()
    return sorted(largest.sort_values(ascending=False, kind="stable").index[:_MOST])


def _found(cuts: Sequence[SiteCut], swept: Sequence[SiteCut]) -> list[int]:
    keys = list(map(setting_key, swept))
    absent = [cut for cut in cuts if setting_key(cut) not in keys]
    if absent:
        raise ValueError(f"The cut must be one of the sweep's finished settings, got {absent[0]!r}.")
    return [keys.index(setting_key(cut)) for cut in cuts]


def _looks(chosen: Sequence[int], swept: Sequence[SiteCut]) -> dict[int, dict[str, Any]]:
    """How the line of each chosen cut is drawn, and of its controls."""
    looks = {}
    for place, line in enumerate(chosen):
        cut = swept[line]
        kind = "" if cut.kind == "Cut" else f"{cut.kind} "
        label = f"{kind}{short_site(cut.site)}, {kept_text(cut.label)} kept"
        looks[line] = dict(color=COLOURS[place % len(COLOURS)], marker="o", label=label)
        for other, control in enumerate(swept):
            if control_kind([control], [cut]) is not None:
                looks[other] = _OF_CONTROLS
    return looks


def _uncut(result: SweepResult, task: str, metric: Metric) -> pd.DataFrame:
    """The uncut model's means and intervals for each number of demonstrations."""
    rows: list[dict[str, Any]] = []
    for each in result.tasks:
        if each.shots is not None and each.without_demonstrations().name == task:
            found, name = result.baselines[each.name].estimate(metric), column_of(metric)
            values = {name: float(found), f"{name}_low": found.low, f"{name}_high": found.high}
            rows.append({"shots": each.shots, **values})
    return pd.DataFrame(rows)


def _beside(lines: int) -> list[float]:
    """How far each line is moved, so that its bars are not behind another's."""
    return [_STEP * (place - (lines - 1) / 2) for place in range(lines)]


def _line(
    axis: "Axes",
    part: pd.DataFrame,
    metric: str,
    numbers: Sequence[int],
    beside: float,
    **look: Any,
) -> None:
    part = part.sort_values("shots")
    values, low, high = (part[f"{metric}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
    # A mean lies in its interval but for rounding; an interval that is no number has no bar.
    around = np.nan_to_num(np.stack([values - low, high - values]).clip(min=0))
    places = [numbers.index(each) + beside for each in part["shots"]]
    axis.errorbar(places, values, yerr=around, markersize=4, linewidth=1, elinewidth=0.8, **look)
