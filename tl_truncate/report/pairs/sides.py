"""What a run has measured, as one side of a comparison of two."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tl_truncate.experiments.scoring.drawn import draws_together
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import METRICS, column_of, metrics_of
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.runs.record import Record
from tl_truncate.surgery.controls import is_control
from tl_truncate.surgery.cut import SiteCut

#: Results of which two have a page together.
Sided = SweepResult | SearchResult | Scores
#: The one setting of what is no grid, where the sides have other cuts, and where they have none.
CHOSEN, UNCUT = "each side's own cuts", "the uncut model"


@dataclass(frozen=True)
class Side:
    """One of two runs on one task.

    Attributes:
        name: what tells it from the other.
        record: where its uncut scores come from.
        uncut: its scores, one row per prompt.
        changes: by setting, each metric's paired change, one row per prompt; of two uncut models their
            values.
        cuts: of a grid the cut, by setting.
        own: of what is no grid, the cuts that its one setting has.
        controls: by setting, kind of control and metric: its mean change over prompts and draws.
    """

    name: str
    record: Record
    uncut: pd.DataFrame
    changes: Mapping[str, pd.DataFrame]
    cuts: Mapping[str, SiteCut] = field(default_factory=dict)
    own: tuple[SiteCut, ...] = ()
    controls: Mapping[tuple[str, str, str], float] = field(default_factory=dict)


def tasks_of(result: Sided) -> list[str]:
    """Names of the tasks that it scored."""
    if isinstance(result, SweepResult):
        return list(result.baselines)
    return list(result.test) if isinstance(result, SearchResult) else [result.record.task]


def record_of(result: Sided) -> Record:
    """Where its first uncut scores come from."""
    if isinstance(result, SweepResult):
        return next(iter(result.baselines.values())).record
    return next(iter(result.test.values())).record if isinstance(result, SearchResult) else result.record


def cuts_of(result: Sided) -> list[SiteCut]:
    """The settings of a grid that are no controls; of what is no grid, its cuts."""
    if isinstance(result, SweepResult):
        return [setting.cut for setting in result.settings if not is_control(setting.cut)]
    if isinstance(result, SearchResult):
        return list(result.cuts)
    # A context's cuts belong to both sides of a change, and come first.
    around = len(result.record.cuts if result.baseline is None else result.baseline.record.cuts)
    return [SiteCut.from_json(dict(each)) for each in result.record.cuts[around:]]


def side_of(result: Sided, task: str, name: str, told: Mapping[str, str], alone: str) -> Side:
    """A result on one task.

    Args:
        result: of one run.
        task: its name.
        name: the side's.
        told: names of the settings.
        alone: the name of the one setting of what is no grid.
    """
    if isinstance(result, SweepResult):
        return _of_sweep(result, task, name, told)
    scores = result.test[task] if isinstance(result, SearchResult) else result
    base = scores if scores.baseline is None else scores.baseline
    metrics = [metric for metric in METRICS if metric in scores.frame]
    if isinstance(result, Scores) and scores.baseline is None:
        return Side(name, base.record, base.frame, {UNCUT: scores.frame[metrics]})
    changes = scores.frame[metrics] - base.frame[metrics]
    found: dict[str, Any] = dict(own=tuple(cuts_of(result)))
    if isinstance(result, SearchResult):
        found["controls"] = _controls_of(result, task, alone)
    return Side(name, base.record, base.frame, {alone: changes}, **found)


def _controls_of(found: SearchResult, task: str, setting: str) -> dict[tuple[str, str, str], float]:
    """What the controls of a search change on its test prompts."""
    return {
        (setting, kind, metric): float(by_task[task].change(metric))
        for kind, by_task in found.controls.items()
        for metric in metrics_of(by_task[task])
    }


def _of_sweep(result: SweepResult, task: str, name: str, names: Mapping[str, str]) -> Side:
    place = [each.name for each in result.tasks].index(task)
    base = result.baselines[task]
    changes, cuts = {}, {}
    for setting in result.settings:
        if is_control(setting.cut):
            continue
        found = setting.outcomes[place].metrics()
        asked = [metric for metric in result.metrics if metric in found]
        told = names[setting_key(setting.cut)]
        changes[told], cuts[told] = found[asked] - base.frame[asked], setting.cut
    beside = result.beside_controls
    metrics: dict[str, str] = {column_of(metric): metric for metric in result.metrics}
    groups = draws_together([setting.cut for setting in result.settings])
    # Rows of the frame are groups, task by task.
    first = [result.settings[group[0]].cut for group in groups]
    controls = {
        (
            names[setting_key(first[int(row["row"]) - place * len(groups)])],
            str(row["control"]),
            metrics[row["metric"]],
        ): float(row["control_change"])
        for _, row in beside[beside["task"] == task].iterrows()
    }
    return Side(name, base.record, base.frame, changes, cuts, controls=controls)


def control_of(side: Side, setting: str, metric: str) -> dict[str, float]:
    """The mean change of each control beside a setting, by its kind."""
    return {
        kind: value for (at, kind, of), value in side.controls.items() if (at, of) == (setting, metric)
    }


def asked(side: Side, *columns: str) -> list[str]:
    """What each prompt asks, as a text that can be compared."""
    return [repr(row) for row in zip(*(side.uncut[each] for each in columns), strict=True)]


def same_globals(one: Side, other: Side) -> bool:
    """Whether no prompt that both have is told apart by its global answer alone."""
    sides = [
        dict(zip(asked(side, "prompt", "in_context"), side.uncut["global_"], strict=True))
        for side in (one, other)
    ]
    return all(sides[0][each] == sides[1][each] for each in sides[0].keys() & sides[1].keys())
