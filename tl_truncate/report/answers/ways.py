"""The answers of comparisons: the best way beside its controls, the best family beside its null."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from tl_truncate.experiments.comparison.chosen import ChosenComparison
from tl_truncate.experiments.comparison.compare import Comparison
from tl_truncate.experiments.comparison.together import has_global_of
from tl_truncate.experiments.scoring.metrics import PROBABILITIES, label_of
from tl_truncate.report.answers.verdicts import (
    NONE,
    NOT_READ,
    beside_null,
    chance,
    counted,
    furthest,
    leaves,
    moves,
    number_in,
    q_number,
)
from tl_truncate.report.page import Answer, Number
from tl_truncate.report.pictures.forest import Row, forest
from tl_truncate.statistics import shown_in
from tl_truncate.surgery.spoken import said_in_text

_CONTROL = "(control)"
_ROWS = 16


def ways_answer(found: Comparison) -> Answer:
    """The way that moves the metric highest, among ways that are no controls."""
    frame, record = found.frame, found.baseline.record
    metric = next(name for name in (*PROBABILITIES, *frame) if f"{name}_change" in frame)
    change, goal = f"{metric}_change", label_of(metric, record.has_global)
    names = [str(way) for way in frame.index if way != "uncut"]
    own = frame.loc[[name for name in names if _CONTROL not in name]]
    controls = frame.loc[[name for name in names if _CONTROL in name]]
    best = own.loc[own[change].idxmax()]
    q = float(best[f"{change}_q"])
    sentence = (
        f"Of {counted(len(own), 'way')} to change the MLP of block {found.layer}, "
        f"{_most(best, change, f'{goal.told} on {record.task}')}, {chance(q)}"
        f"{_beside(controls, best, change)}; it was picked on these same prompts, which flatters it."
    )
    numbers = (
        number_in(frame.loc["uncut"], metric, f"uncut: {goal.short}"),
        number_in(best, change, "best way, picked here", signed=True),
        _control(controls, change, float(best[change])),
        NOT_READ,
        q_number(q, f"among {counted(len(own), 'way')}"),
    )
    order = own[change].sort_values(ascending=False, kind="stable").index[: _ROWS - len(controls)]
    rows = [_row(frame.loc[name], change, "cut") for name in order]
    rows += [_row(row, change, "control") for _, row in controls.iterrows()]
    label = "Dots with intervals: each way's change; crosses are controls. A table is below."
    left = len(own) - len(order)
    caption = "Dots are ways, crosses controls; bars are 95% intervals." + (
        f" {counted(left, 'way')} that do less are below." if left else ""
    )
    return Answer(sentence, numbers, forest(rows, label, f"change of {goal.short}"), caption)


def _row(row: Any, change: str, kind: str) -> Row:
    ends = [float(row[f"{change}{end}"]) for end in ("", "_low", "_high")]
    low, high = ends[1:] if ends[1] < ends[2] else (math.nan, math.nan)
    told = shown_in(row, change, signed=True)
    return Row(said_in_text(str(row.name)), ends[0], low, high, kind, told)


def _most(best: Any, change: str, goal: str) -> str:
    """What the way does that comes highest; where none raises, that none does."""
    value, told = float(best[change]), shown_in(best, change, signed=True)
    if value > 0:
        return f"{best.name} raises {goal} most, by {told}"
    return f"none raises {goal}: the best, {best.name}, {leaves(value, told)}"


def _beside(controls: pd.DataFrame, best: Any, change: str) -> str:
    """Whether the best lies beyond every control's interval: no test, and said as what it is."""
    if controls.empty:
        return ", with no control scored"
    if pd.isna(best[f"{change}_low"]):
        return ""
    above = (controls[f"{change}_high"] < best[f"{change}_low"]).all()
    return f", and its interval lies {'above' if above else 'not above'} those of all controls"


def _control(controls: pd.DataFrame, change: str, value: float) -> Number:
    if controls.empty:
        return Number("its control", NONE, "none was scored")
    row = controls.loc[furthest(controls[change], value)]
    draws = counted(int(row["draws"]), "draw")
    return Number("the control that does most", f"{float(row[change]):+.3f}", f"{row.name}, {draws}")


def _families(number_: int) -> str:
    return counted(number_, "family").replace("familys", "families")


def families_answer(several: Sequence[ChosenComparison], objective: str) -> Answer:
    """The family whose chosen cut does most on the first task's other prompts."""
    first, change = several[0], f"{objective}_change"
    goal = label_of(objective, has_global_of(several))
    frame = first.frame
    own = frame.drop(index="uncut")
    own = own[own["cut"] != "none"]
    uncut = number_in(frame.loc["uncut"], objective, f"uncut: {goal.short}")
    families = _families(len(first.found))
    if own.empty:
        sentence = f"None of {families} found a cut that raises {goal.told} on {first.task}."
        rows = [Row(str(name), 0.0, kind="cut", told="nothing chosen") for name in first.found]
        chosen = Number("families that chose a cut", "0", f"of {len(first.found)}")
        label = "No family changes anything."
        return Answer(sentence, (uncut, chosen), forest(rows, label, f"change of {goal.short}"))
    best = own.loc[own[change].idxmax()]
    q = float(best[f"{change}_q"])
    does = f"cutting {said_in_text(str(best['cut']))} {moves(float(best[change]))} {goal.told}"
    sentence = (
        f"On prompts of {first.task} that had no say, the best of {_among(len(own), families)} is "
        f"{best.name}: {does} by {shown_in(best, change, signed=True)}, {chance(q)}, "
        f"{_against_null(best, change)}."
    )
    numbers = [uncut, number_in(best, change, "change on other prompts", signed=True)]
    if pd.notna(best.get("null_change")):
        numbers.append(number_in(best, "null_change", "same search, random cuts", signed=True))
    else:
        numbers.append(Number("same search, random cuts", NONE, "was not asked for"))
    numbers += [
        _cost(frame, best),
        q_number(q, f"among {_families(len(own))}"),
    ]
    rows = []
    for each in several:
        rows += _rows_of(each, change, many=len(several) > 1)
    label = (
        "Dots with intervals: the change by each family's cut; crosses are its null. Tables are below."
    )
    caption = (
        "Dots are each family's chosen cut on prompts that did not choose it, crosses the same search "
        "among random cuts."
    )
    picture = forest(rows[:_ROWS], label, f"change of {goal.short}")
    return Answer(sentence, tuple(numbers), picture, caption)


def _among(chosen: int, families: str) -> str:
    """The families that have a cut to be the best."""
    return (
        families if families.startswith(f"{chosen} ") else f"the {chosen} of {families} that chose a cut"
    )


def _rows_of(each: ChosenComparison, change: str, *, many: bool) -> list[Row]:
    rows = []
    for family, row in each.frame.drop(index="uncut").iterrows():
        if row["cut"] == "none":
            continue
        name = f"{each.task}: {family}" if many else str(family)
        rows.append(Row(name, *_ends(row, change), "cut", shown_in(row, change, signed=True)))
        if pd.notna(row.get("null_change")):
            told = shown_in(row, "null_change", signed=True)
            rows.append(Row("random cuts, same search", *_ends(row, "null_change"), "control", told))
    return rows


def _ends(row: Any, name: str) -> tuple[float, float, float]:
    value, low, high = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return (value, low, high) if low < high else (value, math.nan, math.nan)


def _against_null(best: Any, change: str) -> str:
    if pd.isna(best.get("over_null")):
        return "with no search among random cuts beside it"
    told, q = shown_in(best, "over_null", signed=True), float(best.get("over_null_q", math.nan))
    return beside_null(float(best["over_null"]), q, told, float(best[change]))


def _cost(frame: pd.DataFrame, best: Any) -> Number:
    if pd.isna(best.get("perplexity")):
        return NOT_READ
    before, after = float(frame.loc["uncut", "perplexity"]), float(best["perplexity"])
    return Number("perplexity", f"×{after / before:.3f}", f"{before:.1f} to {after:.1f} on running text")
