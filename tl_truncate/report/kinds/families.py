"""The report of families of cuts: families down, tasks across, what each choice was worth and cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tl_truncate.experiments.comparison.chosen import ChosenComparison
from tl_truncate.experiments.comparison.together import families_of, has_global_of, objective_of
from tl_truncate.experiments.scoring.metrics import label_of
from tl_truncate.experiments.scoring.view import setup
from tl_truncate.markup import join, paragraphs, table
from tl_truncate.report.answers.ways import families_answer
from tl_truncate.report.charts import estimates
from tl_truncate.report.kinds.comparison import ways_chart
from tl_truncate.report.page import Chart, Page, Section
from tl_truncate.report.provenance import where_section
from tl_truncate.statistics import shown_in
from tl_truncate.surgery.spoken import said_in_text

_CROSSES = (
    "Crosses are what the same search found among as many random cuts of the same sites and ranks: "
    "what is not clear of its cross could have been found without the family."
)


def families_page(several: Sequence[ChosenComparison]) -> Page:
    """Each family's chosen cut on every task."""
    objective = objective_of(several)
    goal = label_of(objective, has_global_of(several)).title
    records = [next(iter(each.found.values())).test[each.task].record for each in several]
    models = list(dict.fromkeys(record.model for record in records))
    tasks = ", ".join(each.task for each in several)
    told = [
        "Each family's cut was chosen on other prompts than those that it is shown on.",
        *([_CROSSES] if any("null_change" in each.frame for each in several) else []),
        f"The objective is {goal}. The model is {setup(records[0].to_json())}.",
    ]
    tables = join(
        table(_COLUMNS, _rows(each, objective), caption=f"{each.task}: means with 95% intervals")
        for each in several
    )
    metrics = [ways_chart(several[0].frame)] if len(several) == 1 else []
    sections = [
        Section("summary", "Summary", paragraphs(told)),
        Section("families", "Families by tasks", charts=(families_chart(several),), after=tables),
        *(Section("ways", "Every metric", charts=(chart,)) for chart in metrics),
        where_section(records[0]),
    ]
    title = f"{tasks}: each family's best cut on {', '.join(models)}"
    return Page(title, families_answer(several, objective), tuple(sections))


def families_chart(several: Sequence[ChosenComparison]) -> Chart:
    """The objective's change of each family (rows) by task (columns), and the loss on running text."""
    objective, names = objective_of(several), families_of(several)
    columns = [
        dict(title=each.task, colour=1, series=_changes(each, names, objective)) for each in several
    ]
    costs = [series for each in several for series in _costs(each, names)]
    columns += [dict(title="loss on text, nats", colour=2, series=costs)] if costs else []
    told = (
        "Dots with intervals: the change by each family's cut, one column for each task, and the loss "
        "on running text. Tables follow."
    )
    panel = dict(key=[], names=names, columns=columns)
    return Chart("families", "columns", told, (), (panel,))


def _changes(each: ChosenComparison, names: Sequence[str], objective: str) -> list[dict[str, Any]]:
    own = each.frame.reindex(names)
    # Where nothing was chosen, nothing changes.
    values = own[f"{objective}_change"].mask(own["cut"] == "none", 0.0)
    own = own.assign(**{f"{objective}_change": values})
    found = [
        _series(
            each.task,
            own,
            f"{objective}_change",
            own["cut"].map(said_in_text, na_action="ignore"),
            beside=False,
        )
    ]
    if "null_change" in own:
        told = pd.Series("the same search among random cuts", own.index)
        found.append(_series(each.task, own, "null_change", told, beside=True))
    return found


def _costs(each: ChosenComparison, names: Sequence[str]) -> list[dict[str, Any]]:
    costs = {name: result.cost for name, result in each.found.items() if result.cost is not None}
    if not costs:
        return []
    rows = {
        name: (
            float(cost.loss_change),
            cost.loss_change.low,
            cost.loss_change.high,
            float(cost.perplexity),
        )
        for name, cost in costs.items()
    }
    columns = ["loss", "loss_low", "loss_high", "perplexity"]
    own = pd.DataFrame(rows, index=columns).T.reindex(names)
    notes = own["perplexity"].map("perplexity {:.1f}".format, na_action="ignore")
    return [_series(f"cut of {each.task}", own, "loss", notes, beside=False)]


def _series(
    name: str, own: pd.DataFrame, column: str, notes: "pd.Series[Any]", *, beside: bool
) -> dict[str, Any]:
    return dict(
        name=name,
        beside=beside,
        notes=["" if pd.isna(note) else str(note) for note in notes],
        **estimates(own, column),
    )


_COLUMNS = ("family", "cut", "change", "q", "random", "over random", "kept", "energy", "perplexity")


def _rows(each: ChosenComparison, objective: str) -> list[list[str]]:
    return [
        [str(family), said_in_text(str(row["cut"])), *_told(row, objective)]
        for family, row in each.frame.iterrows()
        if family != "uncut"
    ]


def _told(row: Mapping[str, Any], objective: str) -> list[str]:
    changes = [f"{objective}_change", "null_change", "over_null"]
    change, null, over = (
        shown_in(row, name, signed=True) if pd.notna(row.get(name)) else "–" for name in changes
    )
    numbers = [
        (f"{objective}_change_q", ".3f"),
        ("kept", ".3f"),
        ("removed_share", ".3f"),
        ("perplexity", ".1f"),
    ]
    q, *others = (
        format(row[name], digits) if pd.notna(row.get(name)) else "–" for name, digits in numbers
    )
    return [change, q, null, over, *others]
