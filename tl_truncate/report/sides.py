"""Two runs as two sides of one comparison: what both have measured, and whether it is alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import METRICS, column_of
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.report.answer_of_sweep import first_metric
from tl_truncate.report.settings import fits_of, setting_names
from tl_truncate.runs.record import Record, bos_words
from tl_truncate.statistics import Estimate, estimate_apart, estimate_mean
from tl_truncate.surgery.controls import is_control
from tl_truncate.surgery.cut import SiteCut

#: Results of which two have a page together.
Sided = SweepResult | SearchResult | Scores
#: The one setting of what is no grid.
CHOSEN, UNCUT = "the cuts", "the uncut model"


@dataclass(frozen=True)
class Side:
    """One of two runs on one task.

    Attributes:
        name: what tells it from the other.
        record: where its uncut scores come from.
        uncut: its scores, one row per prompt.
        changes: by setting, each metric's paired change, one row per prompt; of two uncut models their
            values.
        cuts: by setting, the cut, where it is a single one.
        controls: by setting, kind of control and metric: its mean change over prompts and draws.
    """

    name: str
    record: Record
    uncut: pd.DataFrame
    changes: Mapping[str, pd.DataFrame]
    cuts: Mapping[str, SiteCut] = field(default_factory=dict)
    controls: Mapping[tuple[str, str, str], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """Two sides that can be compared.

    Attributes:
        one, other: the sides.
        metric: that the comparison is about.
        metrics: that both sides have.
        settings: that both sides have, in the order of the first.
        is_paired: whether both asked the same prompts, in the same order.
        left_out: further tasks that both have, which the comparison is not about.
    """

    one: Side
    other: Side
    metric: str
    metrics: tuple[str, ...]
    settings: tuple[str, ...]
    is_paired: bool
    left_out: tuple[str, ...] = ()

    @property
    def has_global(self) -> bool:
        """Whether the prompts of both sides have global answers."""
        return self.one.record.has_global and self.other.record.has_global

    def difference(self, setting: str, metric: str) -> Estimate:
        """The other side's change less the first's, paired by prompt where the prompts are the same."""
        values: list[NDArray[np.float64]] = [
            side.changes[setting][metric].to_numpy(float) for side in (self.other, self.one)
        ]
        if self.is_paired:
            return estimate_mean(values[0] - values[1])
        return estimate_apart(values[0], values[1])

    @property
    def unlike(self) -> list[str]:
        """What else differs, in words: no difference of unlike things goes without one."""
        one, other = self.one.record, self.other.record
        told = []
        if not self.is_paired:
            told.append(
                f"the prompts are not the same ({one.n_prompts} and {other.n_prompts} of "
                f"{one.task}), so that "
                "intervals are unpaired"
            )
        if one.prepend_bos != other.prepend_bos:
            told.append(
                f"one side is {bos_words(one.prepend_bos)} a BOS, the other "
                f"{bos_words(other.prepend_bos)}"
            )
        if around := _around(one, other):
            told.append(around)
        for name in ("dtype", "weights"):
            values = getattr(one, name), getattr(other, name)
            if values[0] != values[1]:
                told.append(f"{name}: {values[0]} and {values[1]}")
        cuts = [(self.one.cuts.get(name), self.other.cuts.get(name)) for name in self.settings]
        if any(a is not None and b is not None and fits_of(a) != fits_of(b) for a, b in cuts):
            told.append("what cuts were fitted on is not the same")
        return told


def _around(one: Record, other: Record) -> str:
    """What cuts the uncut models were scored inside, where these differ."""
    sides = [[SiteCut.from_json(dict(each)) for each in record.cuts] for record in (one, other)]
    names = setting_names([[*sides[0], *sides[1]]])
    told = [" and ".join(names[setting_key(cut)] for cut in cuts) or "nothing" for cuts in sides]
    return "" if told[0] == told[1] else f"cut all along: {told[0]} on one side, {told[1]} on the other"


def pair_of(results: Sequence[Sided], names: Sequence[str | None]) -> Pair:
    """Two results as a pair.

    Args:
        results: two of one kind.
        names: of their folders, where they have some.

    Raises:
        ValueError: if they are of different kinds, or have no task, metric or setting in common.
    """
    kinds = [_kind(result) for result in results]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"Two results that have a page together must be of one kind, got a {kinds[0]} and a "
            f"{kinds[1]}. "
            "Write a report for each."
        )
    task, *others = _common_tasks(results)
    told = setting_names([_cuts(result) for result in results])
    one, other = (
        _side(result, task, name, told)
        for result, name in zip(results, _names(results, names), strict=True)
    )
    _require_same_goal(results)
    metrics = _common_metrics(one, other)
    settings = tuple(name for name in one.changes if name in other.changes)
    if not settings:
        raise ValueError(
            "Two runs that have a page together must have a setting in common, the same site "
            "with the same "
            f"amount kept, got {_few(one.changes)} and {_few(other.changes)}."
        )
    found = [result.objective for result in results if isinstance(result, SearchResult)]
    metric = found[0] if found else first_metric(metrics)
    is_paired = one.record.task_hash == other.record.task_hash
    return Pair(one, other, metric, metrics, settings, is_paired, tuple(others))


def _kind(result: Sided) -> str:
    kind = next(kind for kind in (SweepResult, SearchResult, Scores) if isinstance(result, kind))
    told = {SweepResult: "sweep", SearchResult: "search", Scores: "table of scores"}[kind]
    if isinstance(result, Scores):
        return f"{told} of {'an uncut' if result.baseline is None else 'a cut'} model"
    return told


def _tasks(result: Sided) -> list[str]:
    if isinstance(result, SweepResult):
        return list(result.baselines)
    return list(result.test) if isinstance(result, SearchResult) else [result.record.task]


def _common_tasks(results: Sequence[Sided]) -> list[str]:
    one, other = map(_tasks, results)
    common = [task for task in one if task in other]
    if not common:
        raise ValueError(
            "Two runs that have a page together must have a task in common, got "
            f"{', '.join(one)} and {', '.join(other)}: numbers of different tasks have no "
            "difference. Write a "
            "report for each."
        )
    return common


def _require_same_goal(results: Sequence[Sided]) -> None:
    goals = {result.objective for result in results if isinstance(result, SearchResult)}
    if len(goals) > 1:
        raise ValueError(
            "Two searches that have a page together must have the same objective, got "
            f"{' and '.join(sorted(goals))}. Write a report for each."
        )


def _common_metrics(one: Side, other: Side) -> tuple[str, ...]:
    sides = [next(iter(side.changes.values()), pd.DataFrame()) for side in (one, other)]
    both = tuple(name for name in METRICS if all(name in side for side in sides))
    if not both and all(side.changes for side in (one, other)):
        raise ValueError(
            "Two runs that have a page together must have a metric in common, got "
            f"{', '.join(sides[0])} and {', '.join(sides[1])}."
        )
    return both


def _few(names: Mapping[str, object]) -> str:
    some = list(names)[:2]
    return (
        " and ".join(some) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
        if some
        else "none"
    )


def _names(results: Sequence[Sided], names: Sequence[str | None]) -> list[str]:
    """Models where these differ, else folders, else which was given first."""
    models = [_record(result).model for result in results]
    for given in (models, names):
        if all(given) and given[0] != given[1]:
            return [str(name) for name in given]
    return ["the first run", "the second run"]


def _record(result: Sided) -> Record:
    if isinstance(result, SweepResult):
        return next(iter(result.baselines.values())).record
    return next(iter(result.test.values())).record if isinstance(result, SearchResult) else result.record


def _cuts(result: Sided) -> list[SiteCut]:
    """The settings of a grid that are no controls."""
    if not isinstance(result, SweepResult):
        return []
    return [setting.cut for setting in result.settings if not is_control(setting.cut)]


def _side(result: Sided, task: str, name: str, told: Mapping[str, str]) -> Side:
    if isinstance(result, SweepResult):
        return _of_sweep(result, task, name, told)
    scores = result.test[task] if isinstance(result, SearchResult) else result
    base = scores if scores.baseline is None else scores.baseline
    metrics = [metric for metric in METRICS if metric in scores.frame]
    if isinstance(result, Scores) and scores.baseline is None:
        return Side(name, base.record, base.frame, {UNCUT: scores.frame[metrics]})
    changes = scores.frame[metrics] - base.frame[metrics]
    return Side(name, base.record, base.frame, {CHOSEN: changes})


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
    controls = {
        (
            _place(row["site"], row["keep"], row["strength"]),
            str(row["control"]),
            str(row["metric"]),
        ): float(row["control_change"])
        for _, row in beside[beside["task"] == task].iterrows()
    }
    return Side(name, base.record, base.frame, changes, cuts, controls)


def _place(site: object, keep: object, strength: float) -> str:
    """What a cut and its controls have in common."""
    return f"{site} {keep!r} {float(strength)}"


def control_of(side: Side, setting: str, metric: str) -> dict[str, float]:
    """The mean change of each control beside a setting, by its kind."""
    cut = side.cuts.get(setting)
    if cut is None:
        return {}
    key = _place(cut.site, cut.label, cut.strength)
    column = column_of(metric)
    return {kind: value for (at, kind, of), value in side.controls.items() if at == key and of == column}
