"""The answers of scores on a task and on running text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from tl_truncate.experiments.scoring.drawn import drawn_beside, drawn_table
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import METRICS, Metric, label_of
from tl_truncate.experiments.scoring.side_effects import SideEffects
from tl_truncate.markup import interval
from tl_truncate.report.answers.sweep import first_metric
from tl_truncate.report.answers.verdicts import (
    NOT_READ,
    beside,
    chance,
    control_number,
    counted,
    leaves,
    number,
    q_number,
)
from tl_truncate.report.page import Answer, Number
from tl_truncate.report.pictures.curves import Curve, Panel, curves
from tl_truncate.report.pictures.forest import Row, forest
from tl_truncate.statistics import Estimate, shown
from tl_truncate.surgery.spoken import cut_all_along, listed, said_cuts, said_kind

#: Metrics between 0 and 1, which have an axis in common.
_SHARES: tuple[Metric, ...] = ("p_in_context", "p_global", "accuracy")


def first_scored(scores: Scores) -> Metric:
    """The metric that an answer is about."""
    found: Metric = first_metric([metric for metric in METRICS if metric in scores.frame])  # type: ignore[assignment]
    return found


def scores_answer(scores: Scores, cuts: int) -> Answer:
    """What the cuts at work change, or what the uncut model says.

    Args:
        scores: cut or uncut.
        cuts: how many of the record's are the call's own; the last ones.
    """
    metric, record = first_scored(scores), scores.record
    value, label = scores.estimate(metric), label_of(metric, scores.has_global)
    prompts = counted(record.n_prompts, "prompt")
    if scores.baseline is None:
        told = interval(value)
        sentence = f"On {prompts} of {record.task}, {label.told} is {told}; {_nothing(record.cuts)}."
        shown_metrics = [each for each in METRICS if each in scores.frame][:4]
        numbers = [
            _number(label_of(each, scores.has_global).short, scores.estimate(each))
            for each in shown_metrics
        ]
        return Answer(sentence, tuple(numbers), *_forest(scores))
    before, change = scores.baseline.estimate(metric), scores.change(metric)
    names = listed(said_cuts(record.cuts[-cuts:]))
    controls, told = drawn_table(scores, metric), interval(change, signed=True)
    verdicts = dict(zip(controls["control"], controls["verdict"], strict=True))
    does = leaves(change, told, f"{label.told} on {prompts} of {record.task}")
    certain = f", {chance(change.p, 'p')}" if change else ""
    sentence = (
        f"Cutting {names} {does}{certain}, {beside(verdicts, change)}"
        f"{cut_all_along(scores.baseline.record.cuts)}."
    )
    numbers = [
        _number(f"uncut: {label.short}", before),
        _number("change", change, signed=True),
        control_number(controls, change),
        NOT_READ,
        q_number(change.p, f"paired, {prompts}", "p"),
    ]
    return Answer(sentence, tuple(numbers), *_forest(scores))


def _nothing(cuts: Sequence[Mapping[str, Any]]) -> str:
    return f"nothing was cut but {listed(said_cuts(cuts))}" if cuts else "nothing was cut"


def _number(name: str, value: Estimate, *, signed: bool = False, digits: int = 3) -> Number:
    return number(name, value, value.low, value.high, signed=signed, digits=digits)


def _forest(scores: Scores) -> tuple[Markup, str]:
    """What lies between 0 and 1, as changes where there are some, each with those of its controls."""
    rows, drawn = [], drawn_beside(scores)
    for metric in (each for each in _SHARES if each in scores.frame):
        value = scores.estimate(metric) if scores.baseline is None else scores.change(metric)
        told = shown(value, value.low, value.high, signed=scores.baseline is not None)
        kind = "uncut" if scores.baseline is None else "cut"
        rows.append(
            Row(label_of(metric, scores.has_global).short, value, value.low, value.high, kind, told)
        )
        for name, control in drawn.items():
            mean = float(control.change(metric))
            rows.append(Row(said_kind(name), mean, math.nan, math.nan, "control", f"{mean:+.3f}"))
    what = "mean" if scores.baseline is None else "paired change from the uncut model"
    crosses = " Crosses are the means of its controls." if drawn else ""
    label = f"Dots with intervals: the {what} of each metric.{crosses} A table is below."
    caption = f"Each metric's {what}, with its 95% interval over prompts.{crosses}"
    return forest(rows, label, what), caption


def effects_answer(found: SideEffects) -> Answer:
    """What the cuts cost on running text."""
    before, after, change = found.uncut_perplexity, found.perplexity, found.loss_change
    told = interval(change, signed=True)
    does = leaves(change, f"{told} nats a token", "the loss on running text")
    certain = f", {chance(change.p, 'p', 'passages')}" if change else ""
    sentence = (
        f"Cutting {listed(said_cuts(found.record.cuts)) or 'nothing'} {does}{certain}: "
        f"perplexity {float(before):.1f} becomes {float(after):.1f}."
    )
    numbers = (
        _number("uncut perplexity", before, digits=1),
        _number("cut perplexity", after, digits=1),
        _number("change of the loss, nats", change, signed=True),
        _number("KL(uncut ‖ cut), nats", found.kl),
        _number("same most probable token", found.agreement),
    )
    changes = np.sort((found.frame["loss"] - found.frame["uncut_loss"]).to_numpy(float))
    places = list(range(1, len(changes) + 1))
    ends = [[end] * len(changes) for end in (float(change), change.low, change.high)]
    lines = [
        Curve("a passage", places, list(changes), colour=0),
        Curve("all tokens", places, ends[0], ends[1], ends[2], colour=1, dashed=True),
    ]
    label = "Curve: each passage's change of the loss, from the least to the most. A table is below."
    caption = (
        "The change of the loss of each passage, in order; the band is the 95% interval of the whole."
    )
    panel = Panel("change of the loss, nats a token", lines)
    return Answer(
        sentence,
        numbers,
        curves([panel], label, "passages, from the least to the most", steps=False),
        caption,
    )
