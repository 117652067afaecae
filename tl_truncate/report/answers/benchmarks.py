"""The answer of a benchmark: how many numbers a cut changes, and which most."""

import math
from typing import Any

import pandas as pd

from tl_truncate.evals.result import Benchmarks
from tl_truncate.report.answers.verdicts import (
    NONE,
    NOT_SCORED,
    beside,
    chance,
    control_number,
    counted,
    moves,
    number_in,
    q_number,
)
from tl_truncate.report.page import Answer, Number
from tl_truncate.report.pictures.forest import Row, forest
from tl_truncate.statistics import clear, shown_in
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.spoken import listed, said_cut

_ROWS = 14


def label_of_row(row: Any) -> str:
    """A number's name, with the filter that read it where that is not the usual one."""
    told = f"{row['task']}, {row['metric']}"
    return told if row["filter"] == "none" else f"{told} ({row['filter']})"


def benchmarks_answer(found: Benchmarks) -> Answer:
    """The change that is clearest, of all numbers with an interval."""
    frame = found.frame
    asked = f"{counted(len(found.tasks), 'task')} of lm-evaluation-harness"
    own = frame[frame["change_low"].notna()]
    if not found.cuts or own.empty:
        return _uncut(found, frame, asked)
    changed = int(own["q"].map(clear).sum())
    best = own.loc[own["change"].abs().idxmax()] if own["q"].isna().all() else own.loc[own["q"].idxmin()]
    names = listed([said_cut(SiteCut.from_json(dict(each))) for each in found.cuts])
    controls = found.controls
    if len(controls):
        same = [(controls[name] == best[name]) for name in ("task", "filter", "metric")]
        controls = controls[same[0] & same[1] & same[2]].dropna(subset=["control_change"])
    verdicts = dict(zip(controls["control"], controls["verdict"], strict=True)) if len(controls) else {}
    q = float(best["q"])
    sentence = (
        f"Cutting {names} changes {changed} of {counted(len(own), 'number')} of {asked} clearly; the "
        f"clearest is {label_of_row(best)}, which it {moves(float(best['change']))} by "
        f"{shown_in(best, 'change', signed=True)}, {chance(q)}, "
        f"{beside(verdicts, float(best['change']))}."
    )
    uncut = float(best["uncut"])
    numbers = (
        Number(
            f"uncut: {label_of_row(best)}",
            NONE if math.isnan(uncut) else f"{uncut:.3f}",
            f"{int(best['n'])} samples",
        ),
        number_in(best, "change", "change by the cut", signed=True),
        control_number(controls, float(best["change"])) if len(controls) else NOT_SCORED,
        Number("numbers that change", str(changed), f"of {len(own)} with an interval"),
        q_number(q, f"among {counted(len(own), 'number')}"),
    )
    order = own["change"].abs().sort_values(ascending=False, kind="stable").index[:_ROWS]
    rows = [_row(own.loc[place]) for place in order]
    label = "Dots with intervals: the change of each number. A table is below."
    caption = "Paired changes of the harness' own numbers, with 95% intervals over samples."
    return Answer(sentence, numbers, forest(rows, label, "change"), caption)


def _row(row: Any) -> Row:
    value, low, high = (float(row[f"change{end}"]) for end in ("", "_low", "_high"))
    ends = (low, high) if low < high else (math.nan, math.nan)
    return Row(label_of_row(row), value, *ends, "cut", shown_in(row, "change", signed=True))


def _uncut(found: Benchmarks, frame: pd.DataFrame, asked: str) -> Answer:
    """What the harness says where there is no change with an interval."""
    known = frame[frame["uncut"].notna()]
    told = "nothing was cut" if not found.cuts else "no number has an interval of its change"
    first = known.iloc[0] if len(known) else None
    says = "" if first is None else f": {label_of_row(first)} is {float(first['uncut']):.3f}"
    sentence = f"On {asked}, {found.record.model} was asked{says}; {told}."
    numbers = tuple(
        Number(label_of_row(row), f"{float(row['uncut']):.3f}", f"{int(row['n'])} samples")
        for _, row in known.head(4).iterrows()
    )
    rows = [
        Row(label_of_row(row), float(row["uncut"]), kind="uncut", told=f"{float(row['uncut']):.3f}")
        for _, row in known.head(_ROWS).iterrows()
    ] or [Row("no number", math.nan)]
    label = "Dots: the harness' numbers of the uncut model. A table is below."
    return Answer(sentence, numbers, forest(rows, label, "value", zero=False))
