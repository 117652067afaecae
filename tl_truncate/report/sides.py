"""Two runs as two sides of one comparison: what both have measured, and whether it is alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import pandas as pd

from tl_truncate.experiments.scoring.drawn import draws_together
from tl_truncate.experiments.scoring.estimates import estimate_difference
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import METRICS, OF_BOTH, Metric, column_of, metrics_of
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.report.answer_of_sweep import first_metric
from tl_truncate.report.settings import fits_of, setting_names
from tl_truncate.report.verdicts import listed
from tl_truncate.runs.record import Record, bos_words
from tl_truncate.statistics import Estimate
from tl_truncate.surgery.controls import is_control
from tl_truncate.surgery.cut import SiteCut

#: Results of which two have a page together.
Sided = SweepResult | SearchResult | Scores
#: The one setting of what is no grid, where the sides have other cuts, and where they have none.
CHOSEN, UNCUT = "each side's own cuts", "the uncut model"
_FEW = 6


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


@dataclass(frozen=True)
class Pair:
    """Two sides that can be compared.

    Attributes:
        one, other: the sides.
        metric: that the comparison is about.
        metrics: that both sides have.
        settings: that both sides have, in the order of the first.
        is_paired: whether both asked the same prompts for the same right answers; they are in the same
            order then.
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
        one, other = (side.changes[setting][metric].to_numpy(float) for side in (self.one, self.other))
        asked: dict[str, Any] = dict(changes=setting != UNCUT, paired=self.is_paired)
        name: Metric = metric  # type: ignore[assignment]
        return estimate_difference(name, other, one, **asked)

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
        told += _other_globals(self.one, self.other)
        if one.prepend_bos != other.prepend_bos:
            told.append(
                f"one side is {bos_words(one.prepend_bos)} a BOS, the other "
                f"{bos_words(other.prepend_bos)}"
            )
        told += _other_cuts("cut", self.one.own, self.other.own) if CHOSEN in self.settings else []
        around = [[SiteCut.from_json(dict(each)) for each in record.cuts] for record in (one, other)]
        told += _other_cuts("cut all along", *around)
        told += _other_hooks("hooks", one.hooks, other.hooks)
        told += _other_hooks("hooks of PyTorch's that change what passes", one.acting, other.acting)
        told += _other_weights(one, other)
        if CHOSEN not in self.settings and self._fits(self.one) != self._fits(self.other):
            told.append("what cuts were fitted on is not the same")
        return told

    def _fits(self, side: Side) -> list[tuple[str, ...]]:
        """What a side's cuts were fitted on, of the settings that both have."""
        cuts = [side.cuts[name] for name in self.settings if name in side.cuts]
        return [fits_of(cut) for cut in cuts or sorted(side.own, key=lambda cut: str(cut.site))]


def _other_cuts(what: str, one: Sequence[SiteCut], other: Sequence[SiteCut]) -> list[str]:
    """Cuts of both sides where these differ; of a fit that is nothing else it is said elsewhere."""
    names = setting_names([[*one, *other]])
    sides = [[names[setting_key(cut)] for cut in cuts] for cuts in (one, other)]
    if sorted(sides[0]) == sorted(sides[1]):
        return []
    told = [listed(side, _FEW) if side else "nothing" for side in sides]
    return [f"{what}: {told[0]} on one side, {told[1]} on the other"]


def _other_hooks(what: str, one: Sequence[str], other: Sequence[str]) -> list[str]:
    """Where both models carried hooks that are no cuts; what a hook does is in no record."""
    if not one and not other:
        return []
    told = [f"{what} at {listed(list(side), _FEW)}" if side else f"no {what}" for side in (one, other)]
    if tuple(one) == tuple(other):
        return [f"{told[0]} on both sides, and no record says whether they do the same"]
    return [f"{told[0]} on one side, {told[1]} on the other"]


def _other_weights(one: Record, other: Record) -> list[str]:
    """In what two models differ that may have one name."""
    names = {"model_class": "class", "dtype": "dtype", "weights": "weights"}
    pairs = {said: (getattr(one, name), getattr(other, name)) for name, said in names.items()}
    told = [
        f"{said}: {values[0]} and {values[1]}" for said, values in pairs.items() if len({*values}) > 1
    ]
    if not told and one.model == other.model and one.weights_hash != other.weights_hash:
        return ["the weights are not the same, though the models have one name"]
    return told


def _other_globals(one: Side, other: Side) -> list[str]:
    """Whose global answers there are, where that is not alike."""
    if one.record.has_global != other.record.has_global:
        return ["one side has global answers, the other has none, so that their metrics are left away"]
    if one.record.has_global and not _same_globals(one, other):
        return ["the global answers are not the same, so that their metrics are left away"]
    return []


def _asked(side: Side, *columns: str) -> list[str]:
    """What each prompt asks, as a text that can be compared."""
    return [repr(row) for row in zip(*(side.uncut[each] for each in columns), strict=True)]


def _same_globals(one: Side, other: Side) -> bool:
    """Whether no prompt that both have is told apart by its global answer alone."""
    sides = [
        dict(zip(_asked(side, "prompt", "in_context"), side.uncut["global_"], strict=True))
        for side in (one, other)
    ]
    return all(sides[0][each] == sides[1][each] for each in sides[0].keys() & sides[1].keys())


def _in_order_of(one: Side, other: Side) -> Side | None:
    """The other side with its prompts as the first has them; None if they are not the same."""
    keys = [_asked(side, "prompt", "in_context") for side in (one, other)]
    if sorted(keys[0]) != sorted(keys[1]):
        return None
    places = [sorted(range(len(each)), key=each.__getitem__) for each in keys]
    order = [place for _, place in sorted(zip(*places, strict=True))]
    moved = {name: frame.iloc[order] for name, frame in other.changes.items()}
    return replace(other, uncut=other.uncut.iloc[order], changes=moved)


def _require_same_answers(one: Side, other: Side) -> None:
    """That no prompt that both have is asked for different answers.

    Raises:
        ValueError: naming one, since what a model says of different answers has no difference.
    """
    right: list[dict[Any, set[Any]]] = [{}, {}]
    for side, found in zip((one, other), right, strict=True):
        for prompt, answer in zip(side.uncut["prompt"], side.uncut["in_context"], strict=True):
            found.setdefault(prompt, set()).add(answer)
    for prompt in right[0]:
        if prompt in right[1] and not right[0][prompt] & right[1][prompt]:
            told = [next(iter(found[prompt])) for found in right]
            raise ValueError(
                "Two runs that have a page together must ask a prompt for the same right answer, got "
                f"{told[0]!r} and {told[1]!r} for {prompt!r}: numbers of different answers have no "
                "difference. Write a report for each."
            )


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
    alone = _one_setting(results, told)
    one, other = (
        _side(result, task, name, told, alone)
        for result, name in zip(results, _names(results, names), strict=True)
    )
    _require_same_goal(results)
    _require_same_answers(one, other)
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
    if metric not in metrics:
        _refuse_other_globals(metric)
    same = _in_order_of(one, other)
    return Pair(one, same or other, metric, metrics, settings, same is not None, tuple(others))


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


def _refuse_other_globals(metric: str) -> NoReturn:
    raise ValueError(
        "Two runs that have a page together must have a metric in common, got "
        f"{metric} with different global answers: numbers of different answers have no difference. "
        "Write a report for each."
    )


def _common_metrics(one: Side, other: Side) -> tuple[str, ...]:
    sides = [next(iter(side.changes.values()), pd.DataFrame()) for side in (one, other)]
    both = tuple(name for name in METRICS if all(name in side for side in sides))
    if not set(both).isdisjoint(OF_BOTH) and not _same_globals(one, other):
        asked, both = both, tuple(name for name in both if name not in OF_BOTH)
        if not both:
            _refuse_other_globals(asked[0])
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
    """The settings of a grid that are no controls; of what is no grid, its cuts."""
    if isinstance(result, SweepResult):
        return [setting.cut for setting in result.settings if not is_control(setting.cut)]
    if isinstance(result, SearchResult):
        return list(result.cuts)
    # A context's cuts belong to both sides of a change, and come first.
    around = len(result.record.cuts if result.baseline is None else result.baseline.record.cuts)
    return [SiteCut.from_json(dict(each)) for each in result.record.cuts[around:]]


def _one_setting(results: Sequence[Sided], names: Mapping[str, str]) -> str:
    """The name of the one setting of what is no grid: what was cut, where that is the same."""
    one, other = ([names[setting_key(cut)] for cut in _cuts(result)] for result in results)
    if sorted(one) != sorted(other):
        return CHOSEN
    return listed(one, _FEW) if one else "nothing cut"


def _side(result: Sided, task: str, name: str, told: Mapping[str, str], alone: str) -> Side:
    if isinstance(result, SweepResult):
        return _of_sweep(result, task, name, told)
    scores = result.test[task] if isinstance(result, SearchResult) else result
    base = scores if scores.baseline is None else scores.baseline
    metrics = [metric for metric in METRICS if metric in scores.frame]
    if isinstance(result, Scores) and scores.baseline is None:
        return Side(name, base.record, base.frame, {UNCUT: scores.frame[metrics]})
    changes = scores.frame[metrics] - base.frame[metrics]
    found: dict[str, Any] = dict(own=tuple(_cuts(result)))
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
