"""A sweep as HTML: what it found in words, and layer by rank as a table of colours."""

from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from tl_truncate.experiments.scoring.view import LONG, NAMES, scores_table, setup
from tl_truncate.markup import details, join, paragraphs, shade, table

if TYPE_CHECKING:
    from tl_truncate.experiments.sweep.result import SweepResult

PICKED = (
    "Settings are picked here by looking at the same prompts that score them, which flatters them: test "
    "a pick on prompts of its own, as a search does."
)


def sweep_html(result: "SweepResult") -> Markup:
    """What a notebook shows of a sweep."""
    parts = [paragraphs(sweep_words(result))]
    for task in result.tasks:
        parts.append(scores_table(result.baselines[task.name], f"{task.name}, the uncut model"))
        cells = heat_frame(result.frame, task.name)
        for metric in (name for name in ("p_in_context", "p_global") if name in result.metrics):
            for matrix in dict.fromkeys(cells["matrix"]):
                title = f"{matrix}: change of {NAMES[metric]} on {task.name}"
                own = cells[(cells["matrix"] == matrix) & (cells["kind"] == "Cut")]
                if not own.empty:
                    parts.append(details(title, heat_table(own, metric, title)))
    return Markup("<div>{}</div>").format(join(parts))


def sweep_words(result: "SweepResult") -> list[str]:
    """What was done and what was found, in sentences."""
    first = result.baselines[result.tasks[0].name].record
    kept = len(dict.fromkeys(cut.label for cut in result.grid))
    sites = len(dict.fromkeys(str(cut.site) for cut in result.grid))
    whole, done = len(result.grid), len(result.settings)
    words = [
        f"One weight matrix at a time was changed while the model ran, at {sites} sites with {kept} "
        f"amounts kept: {f'all {whole}' if result.finished else f'{done} of {whole}'} settings are "
        f"scored. The model is {setup(first)}."
    ]
    if not result.finished:
        words.append("The run is not finished; the same call with the same folder goes on.")
    for task in result.tasks:
        words += _task_words(result, task.name)
    return [*words, PICKED] if result.settings else words


def _task_words(result: "SweepResult", task: str) -> list[str]:
    base = result.baselines[task]
    words = [
        f"On {base.record.n_prompts} prompts of {task} the uncut model gives the in-context answer "
        f"probability {base.p_in_context} and the global answer {base.p_global}."
    ]
    table = result.frame[(result.frame["task"] == task)] if result.settings else pd.DataFrame()
    if table.empty:
        return words
    cuts = table[table["kind"] == "Cut"] if (table["kind"] == "Cut").any() else table
    for metric in (name for name in ("p_in_context", "p_global") if name in result.metrics):
        change = f"{metric}_change"
        low, high = cuts[f"{change}_low"], cuts[f"{change}_high"]
        clear = int(((low > 0) | (high < 0)).sum())
        words.append(
            f"{LONG[metric].capitalize()} rises most, by "
            f"{_told(cuts.loc[cuts[change].idxmax()], change)}, and falls most, by "
            f"{_told(cuts.loc[cuts[change].idxmin()], change)}. {clear} of {len(cuts)} changes have an "
            f"interval without zero; about {round(0.05 * len(cuts))} would by chance if nothing had an "
            "effect."
        )
    words.append(_control_words(table, cuts))
    return words


def _told(row: pd.Series, change: str) -> str:
    return (
        f"{row[change]:+.3f} [{row[f'{change}_low']:+.3f}, {row[f'{change}_high']:+.3f}] at "
        f"{row['site']} with {kept_text(row['keep'])} kept"
    )


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
    beside = table[(table["site"] == row["site"]) & (table["keep"] == row["keep"])]
    low, high = f"{metric}_low", f"{metric}_high"
    told = [
        f"{each['kind']} {each[metric]:+.3f} [{each[low]:+.3f}, {each[high]:+.3f}]"
        for _, each in beside[beside["kind"] != "Cut"].iterrows()
    ]
    return (
        "Controls remove as much of the same matrix, of no particular meaning. Beside the largest rise "
        f"among cuts that have some, {_told(row, metric)}, they give: {'; '.join(told)}."
    )


def controlled(table: pd.DataFrame) -> pd.DataFrame:
    """The cuts that have a control at the same site with the same amount kept."""
    others = table[table["kind"] != "Cut"]
    beside = set(zip(others["site"], others["keep"], strict=True))
    cuts = table[table["kind"] == "Cut"]
    return cuts[[pair in beside for pair in zip(cuts["site"], cuts["keep"], strict=True)]]


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
    keeps = list(dict.fromkeys(cells["keep"]))
    size = max(float(cells[change].abs().quantile(0.9)), 1e-9)
    by_place: dict[tuple[Any, Any], Any] = {
        (row["layer"], row["keep"]): row for _, row in cells.iterrows()
    }
    rows = [
        [str(layer), *(_cell(by_place.get((layer, keep)), change, size) for keep in keeps)]
        for layer in sorted(set(cells["layer"]))
    ]
    columns = ["layer", *(f"{kept_text(keep)} kept" for keep in keeps)]
    return table(columns, rows, caption=f"{caption}; in brackets where the 95% interval includes zero")


def _cell(row: Any, change: str, size: float) -> Markup:
    if row is None:
        return Markup("<td></td>")
    value, low, high = (float(row[f"{change}{end}"]) for end in ("", "_low", "_high"))
    text = f"{value:+.3f}" if low > 0 or high < 0 else f"({value:+.3f})"
    return Markup('<td style="{}" title="{}">{}</td>').format(
        shade(value, size), f"[{low:+.3f}, {high:+.3f}]", text
    )


def kept_text(keep: object) -> str:
    """What is kept, as a table shows it: 10%, 8, or a rule's text."""
    return f"{100 * keep:g}%" if isinstance(keep, float) else str(keep)
