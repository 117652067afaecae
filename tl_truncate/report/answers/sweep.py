"""The answer of a sweep: the cut that betters the metric most, beside its controls."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from tl_truncate.colours import scale_end
from tl_truncate.experiments.scoring.metrics import Label, label_of
from tl_truncate.experiments.sweep.view import ShownSweep, columns_of, heat_frame
from tl_truncate.report.answers.verdicts import (
    NOT_READ,
    beside,
    chance,
    control_number,
    counted,
    end_of,
    leaves,
    moves,
    number,
    number_in,
    q_number,
)
from tl_truncate.report.page import Answer, Number
from tl_truncate.report.pictures.forest import Row, forest
from tl_truncate.report.pictures.heat import Cell, heat
from tl_truncate.statistics import clear, shown_in
from tl_truncate.surgery.spoken import cut_all_along, said_kind
from tl_truncate.weights.spoken import short_keep

#: Fewer layers than this are no map: their cuts stand one below the other.
_MAP = 3
_PANELS, _ROWS = 4, 14


def sweep_answer(found: ShownSweep, metric: str) -> Answer:
    """The best change of a metric on the first task: the largest rise, or of a rank the largest fall."""
    task = next(iter(found.baselines))
    goal = label_of(metric, found.has_global)
    base = found.baselines[task].summary.loc["rank" if metric == "answer_rank" else metric]
    uncut = number(f"uncut: {goal.short}", *base[["value", "low", "high"]])
    rows = found.cuts_of(task) if found.done else pd.DataFrame()
    if rows.empty:
        done = Number("settings scored", f"{found.done}", f"of {found.asked}")
        told = f"Nothing has been scored yet of {counted(found.asked, 'setting')} on {task}."
        value, low, high = map(float, base[["value", "low", "high"]])
        row = Row("uncut", value, low, high, "uncut", uncut.value)
        label = goal.short
        return Answer(told, (uncut, done), forest([row], f"The uncut {label}.", label, zero=False))
    best = rows.loc[_order(rows, metric).idxmax()]
    controls = _controls(found.beside, best, metric)
    q = float(best[f"{metric}_change_q"])
    numbers = (
        uncut,
        number_in(best, f"{metric}_change", "best cut, picked here", signed=True),
        control_number(controls, float(best[f"{metric}_change"])),
        NOT_READ,
        q_number(q, _among(rows, best)),
    )
    picture = _map(found.frame, rows, best, metric, goal) or _list(
        found.beside, rows, best, metric, goal
    )
    sentence = f"{_sentence(rows, best, controls, metric, task, goal)}{cut_all_along(found.around)}."
    return Answer(sentence, numbers, *picture)


def _among(rows: pd.DataFrame, best: Any) -> str:
    """What a q is among: the cuts of one kind."""
    own = int((rows["kind"] == best["kind"]).sum())
    return f"among {counted(own, 'cut')}" + (" of its kind" if own < len(rows) else "")


def _order(rows: pd.DataFrame, metric: str) -> "pd.Series[Any]":
    """What is better is larger: a rank is better where it falls."""
    changes = rows[f"{metric}_change"].astype(float)
    return -changes if metric == "answer_rank" else changes


def _name(row: Any) -> str:
    return str(row["told"])


def _controls(table: pd.DataFrame, row: Any, metric: str) -> pd.DataFrame:
    """What was scored beside one cut, a row of the sweep's table."""
    return table[(table["row"] == row.name) & (table["metric"] == metric)]


def _sentence(
    rows: pd.DataFrame, best: Any, controls: pd.DataFrame, metric: str, task: str, goal: Label
) -> str:
    change = float(best[f"{metric}_change"])
    verdicts = dict(zip(controls["control"], controls["verdict"], strict=True))
    held = beside(verdicts, change)
    if not rows[f"{metric}_change"].any():
        return f"No cut moves {goal.told} on {task}, {held}"
    return (
        f"{_what_it_does(best, metric, task, goal)}, {held}; it was picked on these same prompts, which "
        "flatters it"
    )


def _what_it_does(best: Any, metric: str, task: str, goal: Label) -> str:
    """What the best cut does, in its own direction; where that is nothing good, that none does any."""
    change, told = float(best[f"{metric}_change"]), shown_in(best, f"{metric}_change", signed=True)
    certain = f", {chance(float(best[f'{metric}_change_q']))}" if change else ""
    better = change < 0 if metric == "answer_rank" else change > 0
    if better:
        return f"Cutting {_name(best)} {moves(change)} {goal.told} on {task} by {told}{certain}"
    does = f"{_name(best)}, {leaves(change, told)}{certain}"
    return f"No cut betters {goal.told} on {task}: the best, {does}"


def _map(
    frame: pd.DataFrame, rows: pd.DataFrame, best: Any, metric: str, goal: Label
) -> tuple[Markup, str] | None:
    """The heatmap of the best cut's kind, a panel for each matrix; None where there is no map."""
    own = heat_frame(rows[rows["kind"] == best["kind"]], str(best["task"]))
    if own["layer"].nunique() < _MAP:
        return None
    matrices = list(dict.fromkeys(own["matrix"]))
    mine = own.loc[best.name, "matrix"]
    shown = matrices if len(matrices) <= _PANELS else [mine]
    cells: dict[str, list[Cell]] = {matrix: [] for matrix in shown}
    marked = None
    own = own.assign(column=columns_of(own, short_keep))
    for place, row in own[own["matrix"].isin(shown)].iterrows():
        cell = _cell(row, metric)
        cells[row["matrix"]].append(cell)
        marked = cell if place == best.name else marked
    same = frame[(frame["task"] == best["task"]) & (frame["kind"] == best["kind"])]
    end = scale_end(same[f"{metric}_change"])
    label = f"Heatmap: the change of {goal.short} by layer and amount kept. Tables are below."
    left = len(matrices) - len(shown)
    more = f" {counted(left, 'other matrix').replace('matrixs', 'matrices')} below." if left else ""
    caption = (
        f"Change of {goal.told} by each cut alone: orange is more than the uncut model, "
        f"blue is less. A click on a cell shows its prompts.{more}"
    )
    top = metric != "answer_rank"
    mark = f"the {end_of(float(best[f'{metric}_change']), top=top)}"
    return heat(cells, marked, end, label, mark), caption


def _cell(row: Any, metric: str) -> Cell:
    q = float(row[f"{metric}_change_q"])
    name = _name(row)
    return Cell(
        int(row["layer"]),
        str(row["column"]),
        float(row[f"{metric}_change"]),
        clear(q),
        name,
        f"{name}: {shown_in(row, f'{metric}_change', signed=True)}, {chance(q)}",
    )


def _list(
    table: pd.DataFrame, rows: pd.DataFrame, best: Any, metric: str, goal: Label
) -> tuple[Markup, str]:
    """Few cuts, each beside its controls, the best first."""
    order = _order(rows, metric).sort_values(ascending=False, kind="stable").index
    lines: list[Row] = []
    for place in order[:_ROWS]:
        row: Any = rows.loc[place]
        value, low, high = (float(row[f"{metric}_change{end}"]) for end in ("", "_low", "_high"))
        told = shown_in(row, f"{metric}_change", signed=True)
        lines.append(Row(_name(row), value, low, high, "cut", told))
        for _, control in _controls(table, row, metric).iterrows():
            mean = float(control["control_change"])
            lines.append(
                Row(said_kind(control["control"]), mean, math.nan, math.nan, "control", f"{mean:+.3f}")
            )
    label = "Dots with intervals: the change by each cut; crosses are its controls. A table is below."
    caption = "Dots are cuts with 95% intervals, crosses the means of their controls."
    return forest(lines, label, f"change of {goal.short}"), caption


def first_metric(metrics: Sequence[str]) -> str:
    """The metric that an answer is about: a probability before the share of hits, a rank last."""
    later = {"accuracy": 1, "answer_rank": 2}
    return min(metrics, key=lambda metric: later.get(metric, 0))
