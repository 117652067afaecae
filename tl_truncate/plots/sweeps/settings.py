"""The paired change of each setting of a sweep, one a line: where settings lie on no map."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from tl_truncate.experiments.scoring.drawn import draws_together
from tl_truncate.experiments.scoring.metrics import Metric, column_of, label_of
from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.names import setting_names
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.plots.shared.forest import Row, forest
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import sheet
from tl_truncate.plots.sweeps.heatmaps import asked_of, rows_of_task
from tl_truncate.statistics import Estimate
from tl_truncate.surgery.controls import is_control
from tl_truncate.surgery.spoken import cut_all_along

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 30


@draws(SweepResult)
def settings(
    result: SweepResult, *, task: str | None = None, metrics: Sequence[Metric] | None = None
) -> "Figure":
    """The paired change of each metric under every setting, from top to bottom, with 95% intervals.

    Hollow marks are controls, the mean of their draws. Of more than thirty settings those are drawn that
    change the first metric most, either way: they are picked by what is shown, so read them so.

    Args:
        result: of a sweep.
        task: its name; may be left away if there is one task.
        metrics: one panel each; by default the probabilities of the answers that the task has.

    Returns:
        A matplotlib figure; zero is the uncut model.

    Raises:
        ValueError: if the sweep has nothing of this task, or a metric was not asked of it.
    """
    metrics = asked_of(result) if metrics is None else metrics
    table = rows_of_task(result, task, metrics)
    cuts = [result.settings[first].cut for first, *_ in draws_together([s.cut for s in result.settings])]
    names = setting_names([cuts])
    table = table.assign(
        told=[names[setting_key(cut)] for cut in cuts], control=[is_control(cut) for cut in cuts]
    )
    size = table[f"{column_of(metrics[0])}_change"].abs()
    shown = table.loc[sorted(size.nlargest(_MOST).index)]
    figure = sheet(2.6 + 3.2 * len(metrics), 1.1 + 0.26 * len(shown))
    axes = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    record = result.baselines[str(table["task"].iloc[0])].record
    for axis, metric in zip(axes, metrics, strict=True):
        column = f"{column_of(metric)}_change"
        forest(axis, [_row(row, column, record.n_prompts) for _, row in shown.iterrows()])
        axis.set_title(f"change of the {label_of(metric, result.has_global).title}", fontsize=8)
    told = f"{record.task}, {record.n_prompts} prompts, {record.model}{cut_all_along(record.cuts)}"
    if len(shown) < len(table):
        told = f"{told}: the {len(shown)} largest changes of {len(table)}"
    figure.suptitle(told, fontsize=9)
    return figure


def _row(row: pd.Series, column: str, n: int) -> Row:
    value = Estimate(
        float(row[column]),
        low=float(row[f"{column}_low"]),
        high=float(row[f"{column}_high"]),
        se=float(row[f"{column}_se"]),
        n=n,
    )
    return Row(str(row["told"]), value, bool(row["control"]))
