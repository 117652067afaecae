"""Two runs of one kind as a pair: what both have measured, and whether it has a difference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import pandas as pd

from tl_truncate.experiments.scoring.estimates import estimate_difference
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import METRICS, OF_BOTH, Metric
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.names import setting_names
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.report.answers.sweep import first_metric
from tl_truncate.report.pairs.sides import (
    CHOSEN,
    UNCUT,
    Side,
    Sided,
    asked,
    cuts_of,
    record_of,
    same_globals,
    side_of,
    tasks_of,
)
from tl_truncate.report.pairs.unlike import unlike
from tl_truncate.statistics import Estimate
from tl_truncate.surgery.spoken import listed

_FEW = 6


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
        how: dict[str, Any] = dict(changes=setting != UNCUT, paired=self.is_paired)
        name: Metric = metric  # type: ignore[assignment]
        return estimate_difference(name, other, one, **how)

    @property
    def unlike(self) -> list[str]:
        """What else differs, in words."""
        return unlike(self.one, self.other, self.settings, is_paired=self.is_paired)


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
    told = setting_names([cuts_of(result) for result in results])
    alone = _one_setting(results, told)
    one, other = (
        side_of(result, task, name, told, alone)
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


def _common_tasks(results: Sequence[Sided]) -> list[str]:
    one, other = map(tasks_of, results)
    common = [task for task in one if task in other]
    if not common:
        raise ValueError(
            "Two runs that have a page together must have a task in common, got "
            f"{', '.join(one)} and {', '.join(other)}: numbers of different tasks have no "
            "difference. Write a "
            "report for each."
        )
    return common


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
    if not set(both).isdisjoint(OF_BOTH) and not same_globals(one, other):
        asked, both = both, tuple(name for name in both if name not in OF_BOTH)
        if not both:
            _refuse_other_globals(asked[0])
    if not both and all(side.changes for side in (one, other)):
        raise ValueError(
            "Two runs that have a page together must have a metric in common, got "
            f"{', '.join(sides[0])} and {', '.join(sides[1])}."
        )
    return both


def _refuse_other_globals(metric: str) -> NoReturn:
    raise ValueError(
        "Two runs that have a page together must have a metric in common, got "
        f"{metric} with different global answers: numbers of different answers have no difference. "
        "Write a report for each."
    )


def _in_order_of(one: Side, other: Side) -> Side | None:
    """The other side with its prompts as the first has them; None if they are not the same."""
    keys = [asked(side, "prompt", "in_context") for side in (one, other)]
    if sorted(keys[0]) != sorted(keys[1]):
        return None
    places = [sorted(range(len(each)), key=each.__getitem__) for each in keys]
    order = [place for _, place in sorted(zip(*places, strict=True))]
    moved = {name: frame.iloc[order] for name, frame in other.changes.items()}
    return replace(other, uncut=other.uncut.iloc[order], changes=moved)


def _names(results: Sequence[Sided], names: Sequence[str | None]) -> list[str]:
    """Models where these differ, else folders, else which was given first."""
    models = [record_of(result).model for result in results]
    for given in (models, names):
        if all(given) and given[0] != given[1]:
            return [str(name) for name in given]
    return ["the first run", "the second run"]


def _one_setting(results: Sequence[Sided], names: Mapping[str, str]) -> str:
    """The name of the one setting of what is no grid: what was cut, where that is the same."""
    one, other = ([names[setting_key(cut)] for cut in cuts_of(result)] for result in results)
    if sorted(one) != sorted(other):
        return CHOSEN
    return listed(one, _FEW) if one else "nothing cut"


def _few(names: Mapping[str, object]) -> str:
    some = list(names)[:2]
    return (
        " and ".join(some) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
        if some
        else "none"
    )
