"""Scores as HTML: the metrics with their intervals, where they come from, and each prompt."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from tl_truncate.markup import details, interval, paragraphs, table

if TYPE_CHECKING:
    from tl_truncate.experiments.scoring.evaluate import Scores
    from tl_truncate.runs.record import Record

_PROMPTS_SHOWN = 200
NAMES = {
    "accuracy": "accuracy",
    "p_in_context": "p(in-context)",
    "p_global": "p(global)",
    "logit_diff": "logit difference, nats",
    "rank": "rank of the in-context answer",
    "answer_rank": "rank of the in-context answer",
}
#: In words, for an aria-label or a sentence.
LONG = {
    "accuracy": "the share of prompts answered in context",
    "p_in_context": "the probability of the in-context answer",
    "p_global": "the probability of the global answer",
    "logit_diff": "the logit difference, in-context minus global, in nats",
    "rank": "the rank of the in-context answer",
}


def scores_html(scores: "Scores") -> Markup:
    """What a notebook shows of scores."""
    return Markup("<div>{}{}{}</div>").format(
        scores_table(scores),
        details(f"The {min(len(scores.frame), _PROMPTS_SHOWN)} prompts", prompts_table(scores)),
        details("Where this comes from", record_table(scores.record)),
    )


def scores_table(scores: "Scores", caption: str | None = None) -> Markup:
    """One row per metric: value and interval, and with a baseline the paired change."""
    record = scores.record
    told = caption or f"{record.task}: {record.n_prompts} prompts on {record.model}"
    base = scores.baseline
    columns = ["metric", "value" if base is None else "cut"]
    columns += [] if base is None else ["uncut", "paired change"]
    rows = []
    for metric, name in NAMES.items():
        if metric not in scores.frame:
            continue
        row: list[Any] = [name, interval(scores.estimate(metric))]  # type: ignore[arg-type]
        if base is not None:
            row.append(interval(base.estimate(metric)))  # type: ignore[arg-type]
            row.append(interval(scores.change(metric), signed=True))  # type: ignore[arg-type]
        rows.append(row)
    return table(columns, rows, caption=f"{told} (means with 95% bootstrap intervals)")


def prompts_table(scores: "Scores") -> Markup:
    """One row per prompt: the text, its answers and their probabilities."""
    shown = scores.frame.head(_PROMPTS_SHOWN)
    columns = ["prompt", "in-context answer", "global answer", "p(in-context)", "p(global)"]
    rows: list[tuple[Any, ...]] = [
        (
            row.prompt,
            repr(row.in_context),
            repr(row.global_),
            f"{row.p_in_context:.3f}",
            f"{row.p_global:.3f}",
        )
        for row in shown.itertuples()
    ]
    if scores.baseline is not None:
        columns += ["uncut p(in-context)", "uncut p(global)"]
        before = scores.baseline.frame.head(_PROMPTS_SHOWN)
        rows = [
            (*row, f"{one:.3f}", f"{other:.3f}")
            for row, one, other in zip(rows, before["p_in_context"], before["p_global"], strict=True)
        ]
    left = len(scores.frame) - len(shown)
    caption = "Every prompt" if not left else f"The first {len(shown)} prompts; {left} are left out"
    return table(columns, rows, caption=caption, texts=3)


def record_table(record: "Record | Mapping[str, Any]") -> Markup:
    """Where a result comes from, one fact a row."""
    facts = dict(record) if isinstance(record, Mapping) else record.to_json()
    rows = [(name, _fact(value)) for name, value in facts.items()]
    return table(["what", "value"], rows, caption="Where this comes from", texts=2, kind="facts")


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_fact, value)) if value else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def frame_table(frame: pd.DataFrame, caption: str, *, texts: int = 1) -> Markup:
    """A data frame as a table, its numbers with three digits."""
    rows = [
        [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row]
        for row in frame.itertuples(index=False, name=None)
    ]
    return table([str(column) for column in frame.columns], rows, caption=caption, texts=texts)


def setup(record: "Record | Mapping[str, Any]") -> str:
    """Model, weights and BOS, in a few words."""
    facts = record if isinstance(record, Mapping) else record.to_json()
    bos = "with" if facts["prepend_bos"] else "without"
    return f"{facts['model']}, {facts['weights']} weights, {bos} a BOS in front of the prompts"


__all__ = [
    "LONG",
    "NAMES",
    "frame_table",
    "paragraphs",
    "prompts_table",
    "record_table",
    "scores_html",
    "scores_table",
    "setup",
]
