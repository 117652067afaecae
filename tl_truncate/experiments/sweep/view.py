"""A sweep as HTML: what it found in words, and layer by rank as a table of colours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any

import pandas as pd
from markupsafe import Markup

from tl_truncate.colours import scale_end
from tl_truncate.experiments.scoring.drawn import VERDICTS, towards
from tl_truncate.experiments.scoring.keeps import kept_text
from tl_truncate.experiments.scoring.metrics import PROBABILITIES, answer_names, label_of
from tl_truncate.experiments.scoring.view import ShownScores, scores_table, setup
from tl_truncate.markup import details, join, paragraphs, shade, table
from tl_truncate.statistics import CLEAR, clear, shown, shown_in
from tl_truncate.surgery.spoken import said_kind, said_setting
from tl_truncate.weights.spoken import said_keep

PICKED = (
    "Settings are picked here by looking at the same prompts that score them, which flatters them: test "
    "a pick on prompts of its own, as a search does."
)


@dataclass(frozen=True, eq=False)
class ShownSweep:
    """A sweep as plain data.

    Attributes:
        frame: as `SweepResult.frame` has it, with each setting's strength and, told, its own name.
        beside: as `SweepResult.beside_controls` has it.
        baselines: the uncut model's scores by the task's name.
        metrics: their columns in the frame.
        sites: how many there are.
        keeps: how many amounts were kept.
        asked: settings in all.
        done: settings that are scored.
        drawn: of those in all, controls, each draw by itself.
        controls: the kinds that are such.
        around: the cuts that were at work all along, also in the uncut model.
    """

    frame: pd.DataFrame
    beside: pd.DataFrame
    baselines: Mapping[str, ShownScores]
    metrics: tuple[str, ...]
    sites: int
    keeps: int
    asked: int
    done: int
    drawn: int = 0
    controls: tuple[str, ...] = ()
    around: tuple[Mapping[str, Any], ...] = ()

    @property
    def has_global(self) -> bool:
        """Whether the prompts of all tasks have global answers."""
        return all(each.has_global for each in self.baselines.values())

    def cuts_of(self, task: str) -> pd.DataFrame:
        """The rows of a task that are no controls, of whatever kind."""
        own = self.frame[self.frame["task"] == task]
        return own[~own["kind"].isin(self.controls)]

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
                title = f"{matrix}: change of {label_of(metric, baseline.has_global).short} on {task}"
                own = cells[(cells["matrix"] == matrix) & (cells["kind"] == "Cut")]
                if not own.empty:
                    parts.append(details(title, heat_table(own, metric, title)))
    return Markup("<div>{}</div>").format(join(parts))


def sweep_words(result: ShownSweep) -> list[str]:
    """What was done and what was found, in sentences."""
    first = next(iter(result.baselines.values()))
    finished = result.done == result.asked
    words = [
        f"One weight matrix at a time was changed while the model ran: {settings_told(result)}. The "
        f"model is {setup(first.record)}."
    ]
    if not finished:
        words.append("The run is not finished; the same call with the same folder goes on.")
    for task in result.baselines:
        words += _task_words(result, task)
    return [*words, PICKED] if result.done else words


def settings_told(result: ShownSweep) -> str:
    """How many settings there are, and what they are: cuts, and draws of controls.

    Sites times amounts are the cuts of a plain grid; of others it is only said how many there are.
    """
    cuts = result.asked - result.drawn
    grid = f" ({_counted(result.sites, 'site')}, {_counted(result.keeps, 'amount')} kept)"
    told = f"{_counted(cuts, 'cut')}{grid if cuts == result.sites * result.keeps else ''}"
    if result.drawn:
        told += f" and {_counted(result.drawn, 'draw')} of controls beside them"
    if result.done == result.asked:
        return f"{told}, {'all ' if result.asked > 1 else ''}scored"
    return f"{told}; {result.done} of {_counted(result.asked, 'setting')} are scored"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _task_words(result: ShownSweep, task: str) -> list[str]:
    base = result.baselines[task]
    words = [
        f"On {base.record['n_prompts']} prompts of {task} the uncut model gives {_uncut_told(base)}."
    ]
    cuts = result.cuts_of(task) if result.done else pd.DataFrame()
    if cuts.empty:
        return words
    for metric in result.shown_first:
        change = f"{metric}_change"
        found = int((cuts[f"{change}_q"] < CLEAR).sum())
        goal = label_of(metric, base.has_global).told
        words.append(
            f"{goal[0].upper()}{goal[1:]} {_ends(cuts, change)}. {found} of {len(cuts)} changes are "
            "clear of zero (q < .05: of such, one in twenty is false on average)."
        )
    words.append(_control_words(result, task))
    return words


def _uncut_told(base: ShownScores) -> str:
    """Each answer's probability, in words."""
    values = [
        shown(*base.summary.loc[name, ["value", "low", "high"]])
        for name in PROBABILITIES
        if name in base.summary.index
    ]
    first, *others = zip(answer_names(base.has_global), values, strict=True)
    told = f"the {first[0]} probability {first[1]}"
    return " and ".join([told, *(f"the {name} {value}" for name, value in others)])


def _ends(cuts: pd.DataFrame, change: str) -> str:
    """The largest rise and the largest fall; where all go one way, the largest and the smallest."""
    most, least = cuts.loc[cuts[change].idxmax()], cuts.loc[cuts[change].idxmin()]
    top, bottom = _told(most, change), _told(least, change)
    if len(cuts) == 1:
        return f"changes by {top}"
    if least[change] >= 0:
        return f"falls under no cut: it rises most, by {top}, and least, by {bottom}"
    if most[change] <= 0:
        return f"rises under no cut: it falls most, by {bottom}, and least, by {top}"
    return f"rises most, by {top}, and falls most, by {bottom}"


def _told(row: pd.Series, change: str) -> str:
    told = shown_in(row, change, signed=True)
    return f"{told} at {said_setting(row['site'], row['keep'], row['kind'], row.get('strength', 1.0))}"


def _control_words(result: ShownSweep, task: str) -> str:
    beside = result.beside[result.beside["task"] == task]
    metric = (result.shown_first or result.metrics)[0]
    beside = beside[beside["metric"] == metric]
    if beside.empty and (result.frame.loc[result.frame["task"] == task, "kind"] != "Cut").any():
        return "No cut has a control beside it."
    if beside.empty:
        return (
            "No controls were scored, so that a change may come from how much was removed and not from "
            "what was: controls=['random_subspace', 'norm_matched'] adds them."
        )
    best = beside.loc[beside["change"].idxmax()]
    own = beside[beside["row"] == best["row"]]
    told = [f"{said_kind(row['control'])} {control_told(row)}" for _, row in own.iterrows()]
    kind = result.frame.loc[best["row"], "kind"]
    setting = said_setting(best["site"], best["keep"], kind, best["strength"])
    which = _which_told(float(best["change"]), label_of(metric, result.has_global).told)
    return (
        f"Controls remove as much of the same matrix, of no particular meaning. {which}, "
        f"{best['change']:+.3f} at {setting}, they give: {'; '.join(told)}."
    )


def _which_told(change: float, goal: str) -> str:
    """Beside which of some cuts controls are looked at, by the largest of the cuts' changes."""
    if change > 0:
        return f"Beside the largest rise of {goal} among cuts that have some"
    least = "the smallest fall" if change < 0 else "one that leaves it as it is"
    return f"No cut that has some raises {goal}: beside {least}"


def control_told(row: Any) -> str:
    """A control's change, its spread over draws, and the verdict, from a row of `beside_controls`."""
    spread = "" if row["draws"] == 1 else f", spread {row['control_spread']:.3f}"
    draws = f"{row['draws']} draw{'' if row['draws'] == 1 else 's'}"
    found = VERDICTS[towards(row["verdict"], row["change"])]
    return f"{row['control_change']:+.3f} ({draws}{spread}): {found}"


def heat_frame(frame: pd.DataFrame, task: str) -> pd.DataFrame:
    """The rows of one task; single heads get a matrix of their own, such as `W_O.5`, and so do cuts of
    another strength than 1, where the frame has strengths."""
    chosen = frame[frame["task"] == task].copy()
    heads = chosen["head"].notna()
    chosen.loc[heads, "matrix"] += "." + chosen.loc[heads, "head"].astype(str)
    if "strength" in chosen:
        others = chosen["strength"] != 1
        told = [f", strength {strength:g}" for strength in chosen.loc[others, "strength"]]
        chosen.loc[others, "matrix"] += pd.Series(told, chosen.index[others], dtype=object)
    return chosen


def columns_of(cells: pd.DataFrame, said: Callable[[Any], str]) -> "pd.Series[str]":
    """The column of each row in a map of layers and amounts; a place that two would share becomes two.

    Args:
        cells: of one task, with layer, matrix and kind.
        said: an amount as the map writes it.
    """
    kept = cells["keep"].map(said).astype(object)
    by = [cells[name] for name in ("matrix", "kind", "layer") if name in cells]
    twins = kept.groupby([*by, kept]).cumcount()
    return kept + twins.map(lambda place: f" ({place + 1})" if place else "")


def heat_table(cells: pd.DataFrame, metric: str, caption: str) -> Markup:
    """The change of a metric for each layer (rows) and amount kept (columns), coloured.

    A change that is not clear of zero among all (q of .05 or more) is in brackets.
    """
    change = f"{metric}_change"
    kept = columns_of(cells, kept_text)  # as text, in which the rank 1 and all of it differ
    keeps = list(dict.fromkeys(kept))
    size = scale_end(cells[change])
    by_place: dict[tuple[Any, Any], Any] = {
        (row["layer"], text): row for text, (_, row) in zip(kept, cells.iterrows(), strict=True)
    }
    rows = [
        [str(layer), *(_cell(by_place.get((layer, keep)), change, size) for keep in keeps)]
        for layer in sorted(set(cells["layer"]), reverse=True)  # layer 0 at the bottom, as in a figure
    ]
    told = dict(zip(kept, columns_of(cells, said_keep), strict=True))
    columns = ["layer", *(told[keep] for keep in keeps)]
    return table(columns, rows, caption=f"{caption}; in brackets where q is .05 or more")


def _cell(row: Any, change: str, size: float) -> Markup:
    if row is None:
        return Markup("<td></td>")
    value, low, high = (float(row[f"{change}{end}"]) for end in ("", "_low", "_high"))
    q = float(row[f"{change}_q"])
    text = f"{value:+.3f}" if clear(q) else f"({value:+.3f})"
    told = shown(value, low, high, signed=True)
    title = told if isnan(q) else f"{told}, q = {q:.2g}"
    return Markup('<td style="{}" title="{}">{}</td>').format(shade(value, size), title, text)
