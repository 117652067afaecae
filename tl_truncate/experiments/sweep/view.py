"""A sweep as HTML: what it found in words, and layer by rank as a table of colours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from tl_truncate.experiments.scoring.keeps import kept_text
from tl_truncate.experiments.scoring.metrics import PROBABILITIES, label_of
from tl_truncate.experiments.scoring.view import ShownScores, scores_table, setup
from tl_truncate.markup import details, join, paragraphs, shade, table
from tl_truncate.statistics import shown, shown_in

PICKED = (
    "Settings are picked here by looking at the same prompts that score them, which flatters them: test "
    "a pick on prompts of its own, as a search does."
)


@dataclass(frozen=True, eq=False)
class ShownSweep:
    """A sweep as plain data.

    Attributes:
        frame: as `SweepResult.frame` has it.
        baselines: the uncut model's scores by the task's name.
        metrics: their columns in the frame.
        sites: how many there are.
        keeps: how many amounts were kept.
        asked: settings in all.
        done: settings that are scored.
    """

    frame: pd.DataFrame
    baselines: Mapping[str, ShownScores]
    metrics: tuple[str, ...]
    sites: int
    keeps: int
    asked: int
    done: int

    @property
    def shown_first(self) -> list[str]:
        """Those of the metrics that there is room for."""
        return [name for name in PROBABILITIES if name in self.metrics]


def sweep_html(result: ShownSweep) -> Markup:
    """What a notebook shows of a sweep."""
    parts = [paragraphs(sweep_words(result))]
    for task, baseline in result.baselines.items():
        parts.append(scores_table(baseline, f"{task}, the uncut model"))
        cells = heat_frame(result.frame, task)
        for metric in result.shown_first:
            for matrix in dict.fromkeys(cells["matrix"]):
                title = f"{matrix}: change of {label_of(metric).short} on {task}"
                own = cells[(cells["matrix"] == matrix) & (cells["kind"] == "Cut")]
                if not own.empty:
                    parts.append(details(title, heat_table(own, metric, title)))
    return Markup("<div>{}</div>").format(join(parts))


def sweep_words(result: ShownSweep) -> list[str]:
    """What was done and what was found, in sentences."""
    first = next(iter(result.baselines.values()))
    finished = result.done == result.asked
    settings = f"all {result.asked}" if finished else f"{result.done} of {result.asked}"
    words = [
        f"One weight matrix at a time was changed while the model ran, at {result.sites} sites with "
        f"{result.keeps} amounts kept: {settings} settings are scored. The model is "
        f"{setup(first.record)}."
    ]
    if not finished:
        words.append("The run is not finished; the same call with the same folder goes on.")
    for task in result.baselines:
        words += _task_words(result, task)
    return [*words, PICKED] if result.done else words


def _task_words(result: ShownSweep, task: str) -> list[str]:
    base = result.baselines[task]
    told = {name: shown(*base.summary.loc[name, ["value", "low", "high"]]) for name in PROBABILITIES}
    words = [
        f"On {base.record['n_prompts']} prompts of {task} the uncut model gives the in-context answer "
        f"probability {told['p_in_context']} and the global answer {told['p_global']}."
    ]
    table = result.frame[(result.frame["task"] == task)] if result.done else pd.DataFrame()
    if table.empty:
        return words
    cuts = table[table["kind"] == "Cut"] if (table["kind"] == "Cut").any() else table
    for metric in result.shown_first:
        change = f"{metric}_change"
        low, high = cuts[f"{change}_low"], cuts[f"{change}_high"]
        clear = int(((low > 0) | (high < 0)).sum())
        words.append(
            f"{label_of(metric).told.capitalize()} rises most, by "
            f"{_told(cuts.loc[cuts[change].idxmax()], change)}, and falls most, by "
            f"{_told(cuts.loc[cuts[change].idxmin()], change)}. {clear} of {len(cuts)} changes have an "
            f"interval without zero; about {round(0.05 * len(cuts))} would by chance if nothing had an "
            "effect."
        )
    words.append(_control_words(table, cuts))
    return words


def _told(row: pd.Series, change: str) -> str:
    told = shown_in(row, change, signed=True)
    return f"{told} at {row['site']} with {kept_text(row['keep'])} kept"


def _control_words(table: pd.DataFrame, cuts: pd.DataFrame) -> str:
    kinds = [kind for kind in dict.fromkeys(table["kind"]) if kind != "Cut"]
    metric = "p_in_context_change"
    if not kinds or metric not in cuts:
        return (
            "No controls were scored, so that a change may come from how much was removed and not from "
            "what was: controls=['random_subspace', 'norm_matched'] adds them."
        )
    best = controlled(table).nlargest(1, metric)
    if best.empty:
        return "No cut has a control beside it."
    row = best.iloc[0]
    kept = table["keep"].map(kept_text) == kept_text(row["keep"])
    beside = table[(table["site"] == row["site"]) & kept]
    told = [
        f"{each['kind']} {shown_in(each, metric, signed=True)}"
        for _, each in beside[beside["kind"] != "Cut"].iterrows()
    ]
    return (
        "Controls remove as much of the same matrix, of no particular meaning. Beside the largest rise "
        f"among cuts that have some, {_told(row, metric)}, they give: {'; '.join(told)}."
    )


def controlled(table: pd.DataFrame) -> pd.DataFrame:
    """The cuts that have a control at the same site with the same amount kept."""
    others = table[table["kind"] != "Cut"]
    beside = set(zip(others["site"], others["keep"].map(kept_text), strict=True))
    cuts = table[table["kind"] == "Cut"]
    inside = [pair in beside for pair in zip(cuts["site"], cuts["keep"].map(kept_text), strict=True)]
    return cuts[np.array(inside, dtype=bool)]


def heat_frame(frame: pd.DataFrame, task: str) -> pd.DataFrame:
    """The rows of one task; single heads get a matrix of their own, such as `W_O.5`."""
    chosen = frame[frame["task"] == task].copy()
    heads = chosen["head"].notna()
    chosen.loc[heads, "matrix"] += "." + chosen.loc[heads, "head"].astype(str)
    return chosen


def heat_table(cells: pd.DataFrame, metric: str, caption: str) -> Markup:
    """The change of a metric for each layer (rows) and amount kept (columns), coloured.

    A change whose 95% interval includes zero is in brackets.
    """
    change = f"{metric}_change"
    kept = cells["keep"].map(kept_text)  # as text, in which the rank 1 and all of it differ
    keeps = list(dict.fromkeys(kept))
    size = max(float(cells[change].abs().quantile(0.9)), 1e-9)
    by_place: dict[tuple[Any, Any], Any] = {
        (row["layer"], text): row for text, (_, row) in zip(kept, cells.iterrows(), strict=True)
    }
    rows = [
        [str(layer), *(_cell(by_place.get((layer, keep)), change, size) for keep in keeps)]
        for layer in sorted(set(cells["layer"]))
    ]
    columns = ["layer", *(f"{keep} kept" for keep in keeps)]
    return table(columns, rows, caption=f"{caption}; in brackets where the 95% interval includes zero")


def _cell(row: Any, change: str, size: float) -> Markup:
    if row is None:
        return Markup("<td></td>")
    value, low, high = (float(row[f"{change}{end}"]) for end in ("", "_low", "_high"))
    text = f"{value:+.3f}" if low > 0 or high < 0 else f"({value:+.3f})"
    return Markup('<td style="{}" title="{}">{}</td>').format(
        shade(value, size), f"[{low:+.3f}, {high:+.3f}]", text
    )
