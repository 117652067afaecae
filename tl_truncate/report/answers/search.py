"""The answer of a search: what the chosen cuts are worth on prompts that had no say."""

import math

import pandas as pd
from markupsafe import Markup

from tl_truncate.experiments.scoring.drawn import verdict
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import label_of
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.search.view import (
    TEST,
    VALIDATION,
    ShownSearch,
    column_told,
    looked_at,
    none_raised,
)
from tl_truncate.markup import interval
from tl_truncate.report.answers.verdicts import (
    NONE,
    NOT_SCORED,
    beside,
    beside_null,
    chance,
    cost_number,
    cost_words,
    counted,
    furthest,
    moves,
    number,
    q_number,
)
from tl_truncate.report.page import Answer, Number
from tl_truncate.report.pictures.forest import Row, forest
from tl_truncate.statistics import Estimate, shown
from tl_truncate.surgery.spoken import cut_all_along, listed, said_cut, said_in_text, said_kind


def column_name(column: str) -> str:
    """What a column of a search's changes is, in words."""
    if column == VALIDATION:
        return "validation prompts, which chose"
    if column == TEST:
        return "test prompts, which did not"
    return column_told(column)


def search_answer(found: SearchResult, shown_: ShownSearch) -> Answer:
    """The change of the objective on the test prompts of the first task."""
    task = next(iter(found.test))
    if not found.cuts:
        return _nothing(found, shown_, task)
    change = found.change(task)
    rows = shown_.of(task, found.objective)
    q = float(rows.loc[TEST, "q"])
    before = _uncut(found, task).estimate(found.objective)
    numbers = (
        number(
            f"uncut: {label_of(found.objective, found.has_global).short}",
            before,
            before.low,
            before.high,
        ),
        number("change on test prompts", change, change.low, change.high, signed=True),
        _control(found, task, change),
        cost_number(shown_.cost),
        q_number(q, f"on {counted(change.n, 'prompt')}" + _among(found)),
    )
    return Answer(_sentence(found, shown_, task, change, q), numbers, *_forest(found, shown_, task))


def _uncut(found: SearchResult, task: str) -> Scores:
    """What the chosen cuts are held against; where nothing was chosen that is all there is."""
    return found.test[task].baseline or found.test[task]


def _among(found: SearchResult) -> str:
    return "" if len(found.test) == 1 else f", among {counted(len(found.test), 'task')}"


def _sentence(found: SearchResult, shown_: ShownSearch, task: str, change: Estimate, q: float) -> str:
    verdicts = {}
    for kind in found.controls:
        over = found.over_control(kind, task)
        verdicts[kind] = verdict(over, over.p)
    told = interval(change, signed=True)
    names = listed(list(map(said_cut, found.cuts)))
    return (
        f"On {counted(change.n, 'prompt')} of {task} that had no say, cutting {names} {moves(change)} "
        f"{label_of(found.objective, found.has_global).told} by {told}, {chance(q)}, "
        f"{beside(verdicts, change)}"
        f"{_null_words(found, task)}; {cost_words(shown_.cost)}"
        f"{cut_all_along(_uncut(found, task).record.cuts)}."
    )


def _null_words(found: SearchResult, task: str) -> str:
    """Whether the cuts do more than what was chosen alike."""
    if found.null is None:
        return ""
    over = found.over_null(task)
    told = interval(over, signed=True)
    return f", {beside_null(float(over), over.p, told, float(found.change(task)))}"


def _control(found: SearchResult, task: str, change: Estimate) -> Number:
    """The control that goes furthest with the cuts on the test prompts, or the null where that does."""
    changes = {kind: by_task[task].change(found.objective) for kind, by_task in found.controls.items()}
    if not changes:
        return NOT_SCORED
    null = None if found.null is None else found.null.change(task)
    each = pd.Series({name: float(value) for name, value in changes.items()})
    kind = furthest(each, change)
    if null is not None and furthest(pd.Series([each[kind], float(null)]), change) == 1:
        return number("same search, random cuts", null, null.low, null.high, signed=True)
    draws = len(found.controls[kind][task].draws)
    return Number(
        "its control", f"{float(changes[kind]):+.3f}", f"{said_kind(kind)}, {counted(draws, 'draw')}"
    )


def _forest(found: SearchResult, shown_: ShownSearch, task: str) -> tuple[Markup, str]:
    """Validation, test, controls and null, one below the other."""
    rows = []
    kinds = {VALIDATION: "chosen", TEST: "cut"}
    for column, row in shown_.of(task, found.objective).iterrows():
        ends = [float(row[name]) for name in ("change", "low", "high")]
        known = ends[1] < ends[2]
        told = shown(*ends, signed=True)
        low, high = ends[1:] if known else (math.nan, math.nan)
        kind = kinds.get(str(column), "control")
        rows.append(Row(column_name(str(column)), ends[0], low, high, kind, told))
    label = (
        "Dots with intervals: the change on validation and test prompts and under controls. A table is "
        "below."
    )
    caption = (
        "Validation prompts chose the cuts, which flatters them there. Crosses are controls that remove "
        "as much, of no particular meaning. Bars are 95% intervals."
    )
    return forest(
        rows, label, f"paired change of {label_of(found.objective, found.has_global).short}"
    ), caption


def _looked(found: SearchResult) -> Number:
    """How much was looked at to the end, and of how much."""
    looked, grid = looked_at(found.looks), f"of {found.settings['grid']}"
    if looked is None:
        return Number("looks at a mask", f"{len(found.looks):,}", f"{grid}, on watched prompts")
    return Number("cuts looked at", f"{looked.last:,}", f"{grid}, on all validation prompts")


def _nothing(found: SearchResult, shown_: ShownSearch, task: str) -> Answer:
    """Nothing was chosen, which is an answer too: how near each look came."""
    uncut = _uncut(found, task)
    before = uncut.estimate(found.objective)
    goal = label_of(found.objective, found.has_global)
    told = f"{none_raised(shown_, goal.told)}, so nothing was cut{cut_all_along(uncut.record.cuts)}."
    numbers = (
        number(f"uncut: {goal.short}", before, before.low, before.high),
        _looked(found),
        Number("change on test prompts", NONE, "nothing was chosen"),
    )
    rows = [
        Row(
            f"look {place}: {said_in_text(str(row['best']))}",
            float(row["validation_change"]),
            kind="chosen",
            told=f"{float(row['validation_change']):+.3f}",
        )
        for place, (_, row) in enumerate(found.looks.iterrows(), 1)
        if "validation_change" in found.looks
    ]
    rows = rows[:12] or [Row("uncut", 0.0, kind="uncut", told="")]
    caption = "The best candidate of each look at validation prompts: a rise would lie right of zero."
    label = "Dots: the change by the best candidate of each look. A table is below."
    return Answer(told, numbers, forest(rows, label, f"change of {goal.short}"), caption)
