"""Cuts evaluated on a task, some prompts at a time, so that a hand is answered meanwhile."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from tl_truncate.experiments.scoring.evaluate import Scores, evaluate
from tl_truncate.experiments.scoring.metrics import SCORED, label_of
from tl_truncate.explore.answered.session import Message
from tl_truncate.explore.asked import EvaluateAsked
from tl_truncate.surgery.controls import controls_of
from tl_truncate.tasks.task import Task

_AT_ONCE = 10
_SEED = 0


def evaluated(model: Any, task: Task, asked: EvaluateAsked) -> Iterator[Message | None]:
    """Progress, and last the table.

    Raises:
        ValueError: if the task does not fit the model, or a cut cannot be made.
    """
    cuts = [each.cut(model) for each in asked.cuts]
    drawn = controls_of(model, cuts, seed=_SEED).get("RandomSubspace", [[]])[0]
    found: list[Scores] = []
    random: list[Scores] = []
    yield {"kind": "progress", "done": 0, "of": len(task)}
    for start in range(0, len(task), _AT_ONCE):
        part = task.subset(range(start, min(start + _AT_ONCE, len(task))))
        found.append(evaluate(model, part, cuts, progress=False))
        if drawn:
            random.append(evaluate(model, part, drawn, baseline=found[-1].baseline, progress=False))
        yield {"kind": "progress", "done": start + len(part), "of": len(task)}
    yield _told(task, _joined(found), _joined(random) if random else None)


def _joined(parts: Sequence[Scores]) -> Scores:
    """The scores of all prompts."""
    first = parts[0]
    if any(part.record.weights_hash != first.record.weights_hash for part in parts):
        raise ValueError("The model's weights must stay as they are while it is evaluated, but changed.")
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    uncut = [part.baseline for part in parts if part.baseline is not None]
    record = replace(first.record, n_prompts=len(frame))
    return replace(first, frame=frame, record=record, baseline=_joined(uncut) if uncut else None)


def _told(task: Task, cut: Scores, random: Scores | None) -> Message:
    rows = []
    for metric in SCORED:
        if metric not in cut.frame:
            continue
        row: Message = {
            "metric": label_of(metric, cut.has_global).short,
            "cut": float(cut.estimate(metric)),
        }
        row["uncut"] = float((cut.baseline or cut).estimate(metric))
        if cut.baseline is not None:
            change = cut.change(metric)
            row |= {"change": float(change), "low": _known(change.low), "high": _known(change.high)}
        if random is not None:
            row["control"] = float(random.change(metric))
        rows.append(row)
    control = "" if random is None else "; control: random subspaces of the same rank, 1 draw"
    return {"kind": "evaluated", "rows": rows, "said": f"{task.name}, {len(task)} prompts{control}"}


def _known(value: float) -> float | None:
    """JSON has no number for what is not known, such as the interval of one value."""
    return value if math.isfinite(value) else None
