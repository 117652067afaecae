"""Layer by rank, one panel for each matrix, and the metrics side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tl_truncate.colours import ORIGIN, scale_end
from tl_truncate.experiments.scoring.metrics import PROBABILITIES, Metric, column_of, label_of
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.plots.shared.apart import require_apart
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import QUIET, changes_map, sheet
from tl_truncate.statistics import clear
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.spoken import cut_all_along
from tl_truncate.weights.spoken import short_keep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure


@draws(SweepResult, when=lambda result: _is_a_map(result))
def heatmap(
    result: SweepResult,
    *,
    task: str | None = None,
    kind: str = "Cut",
    metrics: Sequence[Metric] | None = None,
) -> "Figure":
    """The change from the uncut model for every layer and keep: a row for each matrix.

    Orange is more, blue is less, layer 0 is at the bottom; a dot marks a change that is not clear of
    zero among all (q of .05 or more). The colours of one metric are the same in all its panels; a tenth
    of its changes, the largest, are beyond their ends.

    Args:
        result: of a sweep.
        task: its name; may be left away if there is one task.
        kind: `Cut`, or a control that was swept.
        metrics: one column of panels each; by default the probabilities that the sweep has.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: if the sweep has nothing of this task and kind, or a metric was not asked of it.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    metrics = asked_of(result) if metrics is None else metrics
    table = sweep_table(result, task=task, kind=kind, metrics=metrics)
    matrices = list(dict.fromkeys(table["matrix"]))
    keeps = list(dict.fromkeys(table["keep"].map(short_keep)))
    layers = sorted(set(table["layer"]))
    size = (
        1.2 + 0.62 * len(keeps) * len(metrics),
        1.1 + (0.4 + 0.08 * max(len(layers), 12)) * len(matrices),
    )
    figure = sheet(max(size[0], 3.2 * len(metrics)), size[1])
    axes = figure.subplots(len(matrices), len(metrics), squeeze=False)
    for column, metric in enumerate(metrics):
        limit = scale_end(table[f"{column_of(metric)}_change"])
        norm = Normalize(-limit, limit)
        for row, matrix in enumerate(matrices):
            part = table[table["matrix"] == matrix]
            _panel(axes[row][column], part, column_of(metric), layers, keeps, norm)
            axes[row][column].set_title(
                f"{matrix}: {label_of(metric, result.has_global).title}", fontsize=8
            )
        scale = ScalarMappable(norm, changes_map())
        bar = figure.colorbar(scale, ax=list(axes[:, column]), shrink=0.6, pad=0.02, extend="both")
        bar.ax.tick_params(labelsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("of the spectrum kept", fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("layer", fontsize=8)
    record = result.baselines[str(table["task"].iloc[0])].record
    figure.suptitle(
        f"{record.task}: change when one matrix is cut ({record.n_prompts} prompts, {record.model})"
        f"{cut_all_along(record.cuts)}",
        fontsize=9,
    )
    return figure


def asked_of(result: SweepResult) -> tuple[Metric, ...]:
    """What is shown of a sweep where nothing is asked: its probabilities, else what it has."""
    return tuple(each for each in PROBABILITIES if each in result.metrics) or result.metrics[:2]


def sweep_table(
    result: SweepResult, *, task: str | None, kind: str, metrics: Sequence[Metric]
) -> pd.DataFrame:
    """The rows of one task and kind, all heads jointly.

    Raises:
        ValueError: if there are none, a metric is missing, or two settings would share a place.
    """
    table = rows_of_task(result, task, metrics)
    kinds = list(dict.fromkeys(table["kind"]))
    if kind not in kinds:
        raise ValueError(f"The kind must be one of {', '.join(kinds)}, got {kind!r}.")
    chosen = table[(table["kind"] == kind) & table["head"].isna()]
    if chosen.empty:
        raise ValueError("The sweep must have whole matrices among its sites, got single heads alone.")
    require_apart([cut for cut in _scored(result) if cut.kind == kind], short_keep)
    return chosen


def rows_of_task(result: SweepResult, task: str | None, metrics: Sequence[Metric]) -> pd.DataFrame:
    """The rows of one task: every setting, in the order of the sweep.

    Raises:
        ValueError: if there are none, or a metric is missing.
    """
    table = result.frame
    names = list(dict.fromkeys(table["task"]))
    name = names[0] if task is None and len(names) == 1 else task
    if name is None:
        raise ValueError(
            f"Of a sweep of several tasks one is drawn, got none. Give task= (--task): one of "
            f"{', '.join(names)}."
        )
    if name not in names:
        raise ValueError(f"The task must be one of {', '.join(names)}, got {task!r}.")
    missing = [metric for metric in metrics if f"{column_of(metric)}_change" not in table]
    if missing:
        raise ValueError(
            f"The sweep must have been asked for {missing[0]}, got {', '.join(result.metrics)}."
        )
    return table[table["task"] == name]


def _is_a_map(result: SweepResult) -> bool:
    """Whether plain cuts of whole matrices each have a place of their own."""
    cuts = [cut for cut in _scored(result) if cut.kind == "Cut"]
    try:
        require_apart(cuts, short_keep)
    except ValueError:
        return False
    return bool(cuts)


def _scored(result: SweepResult) -> list[SiteCut]:
    return [setting.cut for setting in result.settings if setting.cut.site.head is None]


def _panel(
    axis: "Axes",
    part: pd.DataFrame,
    metric: str,
    layers: list[int],
    keeps: list[str],
    norm: "Normalize",
) -> None:
    values = np.full((len(layers), len(keeps)), np.nan)
    unsure: list[tuple[int, int]] = []
    for row in part.itertuples():
        place = layers.index(row.layer), keeps.index(short_keep(row.keep))
        values[place] = getattr(row, f"{metric}_change")
        if not clear(getattr(row, f"{metric}_change_q")):
            unsure.append(place)
    axis.imshow(values, aspect="auto", origin=ORIGIN, cmap=changes_map(), norm=norm)
    if unsure:
        y, x = zip(*unsure, strict=True)
        axis.scatter(x, y, s=2, color=QUIET, linewidths=0)
    axis.set_xticks(range(len(keeps)), keeps, fontsize=7)
    step = max(1, len(layers) // 10)
    axis.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]], fontsize=7)
