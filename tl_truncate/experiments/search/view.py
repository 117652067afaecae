"""A search as HTML: what was chosen, validation beside test, controls, and the cost on running text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from tl_truncate.experiments.scoring.metrics import Metric, first, label_of
from tl_truncate.experiments.scoring.view import ShownCost, cost_table, frame_table, record_table, setup
from tl_truncate.experiments.search.bound import Bound
from tl_truncate.markup import details, interval, join, paragraphs, table
from tl_truncate.statistics import LEAST, Estimate, shown
from tl_truncate.surgery.spoken import said_in_text, said_kind

VALIDATION, TEST, NULL = "validation", "test", "chosen among random subspaces"
SURVIVES, FAILS, NO_VERDICT = "survives", "does not survive", "no verdict: too few prompts"


@dataclass(frozen=True, eq=False)
class ShownSearch:
    """A search as plain data.

    Attributes:
        cuts: that were chosen.
        objective: the metric that was to rise.
        changes: as `SearchResult.changes` gives them.
        optimism: by task.
        verdicts: by task, whether the gain survives on the test prompts.
        beside: by task, what the controls and the null do, and whether the cuts do more.
        cost: on running text, if it was asked.
        looks: one row for each look at candidates.
        settings: of the search.
        record: of the test scores.
        bound: on the cost, if there was one.
    """

    cuts: tuple[str, ...]
    objective: str
    changes: pd.DataFrame
    optimism: Mapping[str, Estimate]
    verdicts: Mapping[str, str]
    beside: Mapping[str, Sequence[str]]
    cost: ShownCost | None
    looks: pd.DataFrame
    settings: Mapping[str, Any]
    record: Mapping[str, Any]
    bound: Bound | None = None

    @property
    def tasks(self) -> list[str]:
        """Their names."""
        return list(self.optimism)

    @property
    def has_global(self) -> bool:
        """Whether the prompts have global answers."""
        return bool(self.record.get("has_global", True))

    def metrics(self, task: str) -> list[Metric]:
        """Those that there are of a task."""
        return list(dict.fromkeys(self.changes.loc[self.changes["task"] == task, "metric"]))

    def of(self, task: str, metric: str) -> pd.DataFrame:
        """The changes of a metric on a task, one row for each column of the table, by its name."""
        chosen = (self.changes["task"] == task) & (self.changes["metric"] == metric)
        return self.changes[chosen].set_index("column")


def search_html(found: ShownSearch) -> Markup:
    """What a notebook shows of a search."""
    return Markup("<div>{}{}{}{}{}</div>").format(
        paragraphs(search_words(found)),
        join(splits_table(found, task) for task in found.tasks),
        Markup("") if found.cost is None else cost_table(found.cost),
        details("What was looked at", looks_table(found)),
        details("Where this comes from", record_table(found.record)),
    )


def search_words(found: ShownSearch) -> list[str]:
    """What was chosen and what it is worth, in sentences."""
    goal = label_of(found.objective, found.has_global).told
    if not found.cuts:
        return [f"{none_raised(found, goal)}.", f"The model is {setup(found.record)}."]
    asked = f"{found.settings['grid']} on {setup(found.record)}"
    names = "; ".join(found.cuts)
    words = [f"Of {asked}, these were chosen because they raise {goal} on validation prompts: {names}."]
    for task in found.tasks:
        words += _task_words(found, task)
    if found.bound is not None:
        told = str(found.bound)
        words.append(f"{told[0].upper()}{told[1:]}.")
    if found.cost is not None:
        words.append(
            f"The cost on running text: perplexity {interval(found.cost.uncut_perplexity, 1)} becomes "
            f"{interval(found.cost.perplexity, 1)}."
        )
    return words


def _task_words(found: ShownSearch, task: str) -> list[str]:
    rows = found.of(task, found.objective)
    change = rows.loc[TEST]
    verdict = found.verdicts[task]
    gain = f"There is {verdict}," if verdict == NO_VERDICT else f"The gain {verdict}"
    words = [
        f"{gain} on {change['n']} prompts of {task} that had no say in the choice: {_cell(change)}, at "
        f"{cost_told(found.cost, found.bound)}. "
        f"Choosing alone is worth {optimism_told(found.optimism[task])} on the validation prompts."
    ]
    if found.beside[task]:
        told = "; ".join(found.beside[task])
        words.append(f"Controls that remove as much, of no particular meaning: {told}.")
    return words


def cost_told(cost: ShownCost | None, bound: Bound | None) -> str:
    """The cost beside a verdict: the perplexity of running text before and after, and their ratio."""
    if cost is not None:
        uncut, cut = float(cost.uncut_perplexity), float(cost.perplexity)
        over = bound is not None and cut > bound.limit * uncut
        beyond = f", over the bound of {bound.limit:g} here" if bound is not None and over else ""
        return f"perplexity {uncut:.1f} -> {cut:.1f}, {cut / uncut:.2f} times{beyond}"
    if bound is not None:
        return f"perplexity {bound.ratio:.2f} times"
    return "perplexity not measured"


@dataclass(frozen=True)
class Looked:
    """How far a search went that chose nothing.

    Attributes:
        first: settings of its first looks; fewer than there are where it had a budget.
        last: settings that were looked at on all validation prompts.
    """

    first: int
    last: int


def looked_at(looks: pd.DataFrame) -> Looked | None:
    """Each setting once, though several looks were at it; None of learned masks, which are no settings.

    Examples:
        >>> looked_at(pd.DataFrame(dict(prompts=[8, 16, 18, 16, 18], candidates=[9, 3, 3, 3, 3])))
        Looked(first=9, last=6)
    """
    if "candidates" not in looks:
        return None
    ends = looks["prompts"].min(), looks["prompts"].max()
    return Looked(*(int(looks.loc[looks["prompts"] == end, "candidates"].sum()) for end in ends))


def none_raised(found: ShownSearch, goal: str) -> str:
    """That nothing was chosen, of no more than was looked at.

    Args:
        found: a search that chose nothing.
        goal: what should have risen.
    """
    grid, names, looked = found.settings["grid"], ", ".join(found.tasks), looked_at(found.looks)
    if looked is None:
        return (
            f"No mask of {grid} that was looked at raised {goal} on the watched validation prompts of "
            f"{names} by more than the price of its components"
        )
    rounding = f"by more than rounding{nothing_kept(found.bound)}"
    every = int(str(grid).split()[0])
    if looked.last == every:
        return f"No cut of {grid} raised {goal} on the validation prompts of {names} {rounding}"
    tried = "" if looked.first in (looked.last, every) else f"{looked.first} that were tried, of "
    among = f"{looked.last} of {tried}{grid}"
    return (
        f"No cut that was looked at on all validation prompts of {names} ({among}) raised {goal} there "
        f"{rounding}"
    )


def nothing_kept(bound: Bound | None) -> str:
    """Why nothing was chosen where a bound had a part in it."""
    if bound is None or not bound.refused:
        return ""
    did = "one that did raises" if bound.refused == 1 else f"{bound.refused} that did raise"
    return f" within the bound on the cost: {did} the perplexity to more than {bound.limit:g} times"


def optimism_told(value: Estimate) -> str:
    """The optimism with its interval over splits; one split has none."""
    if value.n < LEAST:
        return f"{value:+.3f} ({value.n} split{'' if value.n == 1 else 's'})"
    return f"{interval(value, signed=True)} over {value.n} splits"


def _cell(row: pd.Series) -> str:
    return shown(row["change"], row["low"], row["high"], signed=True)


def splits_table(found: ShownSearch, task: str) -> Markup:
    """The paired change of every metric on validation and on test prompts, and of the controls."""
    rows = []
    for metric in first(found.objective, found.metrics(task)):
        cells = found.of(task, metric)
        rows.append(
            [label_of(metric, found.has_global).short, *(_cell(row) for _, row in cells.iterrows())]
        )
    caption = (
        f"{task}: paired change from the uncut model (95% intervals). The validation prompts "
        "chose the cuts, the test prompts did not"
    )
    columns = [column_told(column) for column in found.of(task, found.objective).index]
    return table(["metric", *columns], rows, caption=caption)


def column_told(column: str) -> str:
    """A column of the changes in words; the name of a control's kind stands first in its own.

    Examples:
        >>> column_told("RandomSubspace, test"), column_told("validation")
        ('random subspace, test', 'validation')
    """
    kind, comma, split = column.partition(", ")
    return f"{said_kind(kind)}{comma}{split}" if comma and kind != NULL else column


def looks_table(found: ShownSearch) -> Markup:
    """The candidates of each look, and the best of them."""
    looks = found.looks
    if "best" in looks:
        looks = looks.assign(best=looks["best"].map(said_in_text))
    return frame_table(looks, "Each look at candidates, on validation prompts alone")
