"""Scores as HTML: the metrics with their intervals, where they come from, and each prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from tl_truncate.experiments.scoring.metrics import PROBABILITIES, answer_names, label_of
from tl_truncate.markup import details, interval, table
from tl_truncate.runs.record import bos_words
from tl_truncate.statistics import Estimate, shown

_PROMPTS_SHOWN = 200


@dataclass(frozen=True, eq=False)
class ShownScores:
    """Scores as plain data.

    Attributes:
        summary: one row per metric, as `Scores.summary` gives it.
        frame: one row per prompt.
        record: where they come from.
        uncut: the uncut model's; None if these are they.
    """

    summary: pd.DataFrame
    frame: pd.DataFrame
    record: Mapping[str, Any]
    uncut: "ShownScores | None"

    @property
    def has_global(self) -> bool:
        """Whether the prompts have a global answer beside the right one."""
        return "p_global" in self.frame


def scores_html(scores: ShownScores) -> Markup:
    """What a notebook shows of scores."""
    return Markup("<div>{}{}{}</div>").format(
        scores_table(scores),
        details(f"The {min(len(scores.frame), _PROMPTS_SHOWN)} prompts", prompts_table(scores)),
        details("Where this comes from", record_table(scores.record)),
    )


def scores_table(scores: ShownScores, caption: str | None = None) -> Markup:
    """One row per metric: value and interval, and with a baseline the paired change."""
    record = scores.record
    told = caption or f"{record['task']}: {record['n_prompts']} prompts on {record['model']}"
    columns = ["metric", "value" if scores.uncut is None else "cut"]
    columns += [] if scores.uncut is None else ["uncut", "paired change"]
    rows = []
    for metric, row in scores.summary.iterrows():
        cells = [
            label_of(str(metric), scores.has_global).short,
            shown(row["value"], row["low"], row["high"]),
        ]
        if scores.uncut is not None:
            before = scores.uncut.summary.loc[metric]
            cells.append(shown(before["value"], before["low"], before["high"]))
            cells.append(shown(row["change"], row["change_low"], row["change_high"], signed=True))
        rows.append(cells)
    return table(columns, rows, caption=f"{told} (means with 95% intervals)")


def prompts_table(scores: ShownScores) -> Markup:
    """One row per prompt: the text, its answers and their probabilities."""
    few = scores.frame.head(_PROMPTS_SHOWN)
    answers = list(answer_names(scores.has_global))
    texts = [name for name in ("in_context", "global_") if name in few]
    metrics = [name for name in PROBABILITIES if name in few]
    shown_as = [label_of(name, scores.has_global).short for name in metrics]
    columns = ["prompt", *answers, *shown_as]
    rows = [
        [row["prompt"], *(repr(row[name]) for name in texts), *(f"{row[name]:.3f}" for name in metrics)]
        for _, row in few.iterrows()
    ]
    if scores.uncut is not None:
        columns += [f"uncut {name}" for name in shown_as]
        for row, (_, before) in zip(rows, scores.uncut.frame.head(len(few)).iterrows(), strict=True):
            row += [f"{before[name]:.3f}" for name in metrics]
    left = len(scores.frame) - len(few)
    caption = "Every prompt" if not left else f"The first {len(few)} prompts; {left} are left out"
    return table(columns, rows, caption=caption, texts=1 + len(answers))


def record_table(record: Mapping[str, Any]) -> Markup:
    """Where a result comes from, one fact a row."""
    # Whether there are global answers is seen from the answers.
    rows = [(name, _fact(value)) for name, value in record.items() if name != "has_global"]
    return table(["what", "value"], rows, caption="Where this comes from", texts=2, kind="facts")


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_fact, value)) if value else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return str(value)


@dataclass(frozen=True, eq=False)
class ShownCost:
    """What cuts do to running text, as plain data.

    Attributes:
        perplexity, uncut_perplexity: over all tokens.
        estimates: loss_change, kl and agreement with their intervals.
        frame: one row per passage.
    """

    perplexity: Estimate
    uncut_perplexity: Estimate
    estimates: Mapping[str, Estimate]
    frame: pd.DataFrame


def cost_table(cost: ShownCost) -> Markup:
    """What the cuts do to running text."""
    rows = [
        ("perplexity, uncut", interval(cost.uncut_perplexity, 2)),
        ("perplexity, cut", interval(cost.perplexity, 2)),
        ("change of the loss, nats a token", interval(cost.estimates["loss_change"], signed=True)),
        ("KL(uncut || cut), nats", interval(cost.estimates["kl"])),
        ("same most probable token", interval(cost.estimates["agreement"])),
    ]
    tokens = int(cost.frame["tokens"].sum())
    caption = f"Side effects on running text, {tokens} tokens of {len(cost.frame)} passages"
    return table(["what", "value"], rows, caption=caption)


def frame_table(frame: pd.DataFrame, caption: str, *, texts: int = 1) -> Markup:
    """A data frame as a table, its numbers with three digits.

    Not pandas' own HTML: this one is read by its row titles, and scrolls on a narrow page.
    """
    cells = frame.map(_cell_text)
    rows = cells.itertuples(index=False, name=None)
    return table([str(column) for column in frame.columns], rows, caption=caption, texts=texts)


def _cell_text(cell: Any) -> str:
    """What is missing is a dash: no interval, no verdict, no head."""
    if cell is None or cell is pd.NA or cell != cell:  # NaN differs from itself
        return "–"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def setup(record: Mapping[str, Any]) -> str:
    """Model, weights and BOS, in a few words."""
    bos = bos_words(record.get("prepend_bos"))
    return f"{record['model']}, {record['weights']} weights, {bos} a BOS in front of the prompts"
