"""The report of a search."""

from typing import Any

from markupsafe import Markup

from tl_truncate.experiments.scoring.metrics import first, label_of
from tl_truncate.experiments.scoring.view import (
    ShownCost,
    cost_table,
    frame_table,
    record_table,
    scores_table,
)
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.search.view import (
    ShownSearch,
    looks_table,
    search_words,
    splits_table,
)
from tl_truncate.markup import details, join, paragraphs
from tl_truncate.report import prompts
from tl_truncate.report.answers.search import column_name, search_answer
from tl_truncate.report.charts import points_panel
from tl_truncate.report.page import Chart, Choice, Page, Section
from tl_truncate.surgery.spoken import said_kind


def search_page(found: SearchResult) -> Page:
    """Summary, validation beside test with controls, side effects, looks, prompts and provenance."""
    shown = found.shown
    uncut = {task: (scores.baseline or scores).shown for task, scores in found.test.items()}
    baseline = join(scores_table(each, f"{task}, uncut, test prompts") for task, each in uncut.items())
    told = Markup(
        "<p>What was chosen on the validation prompts is flattered there; the test prompts had no say. "
        "Controls remove as much of the same matrices, of no particular meaning: the mean of their "
        "draws. Bars are 95% intervals, over prompts and draws.</p>"
    )
    sections = [
        Section("summary", "Summary", paragraphs(search_words(shown))),
        Section("baseline", "The uncut model", baseline),
        Section(
            "splits",
            "Validation and test",
            told,
            (_chart(shown),),
            join(splits_table(shown, task) for task in shown.tasks),
        ),
        Section("cost", "Side effects", cost_section(shown.cost)),
        Section("looks", "What was looked at", looks_table(shown)),
        Section("prompts", "Prompt by prompt", prompts=True),
        Section(
            "provenance",
            "Where this comes from",
            record_table({**shown.record, **{f"search: {k}": v for k, v in shown.settings.items()}}),
        ),
    ]
    title = f"{' and '.join(found.test)}: a search on {shown.record['model']}"
    return Page(title, search_answer(found, shown), tuple(sections), _groups(found))


def _chart(found: ShownSearch) -> Chart:
    tasks = found.tasks
    metrics = [each for each in first(found.objective) if all(each in found.metrics(t) for t in tasks)]
    choices = [Choice("metric", tuple(label_of(metric, found.has_global).short for metric in metrics))]
    if len(tasks) > 1:
        choices.insert(0, Choice("task", tuple(tasks)))
    panels = []
    for task in tasks:
        for metric in metrics:
            rows = found.of(task, metric)
            short = label_of(metric, found.has_global).short
            panel = points_panel(
                [*([task] if len(tasks) > 1 else []), short],
                rows.rename(columns={"change": "y"}),
                list(map(column_name, rows.index)),
                x=f"paired change of {short}",
                colours=[0, 1, *[2] * (len(rows) - 2)],
            )
            panels.append(panel)
    told = "Dots with intervals: the change on validation and test prompts and under controls."
    return Chart("splits", "points", told, tuple(choices), tuple(panels))


def cost_section(cost: ShownCost | None) -> Markup:
    """What cuts do to running text, with every passage."""
    if cost is None:
        return paragraphs(["Running text was not scored, or nothing was cut."])
    passages = cost.frame.assign(text=cost.frame["text"].str.slice(0, 80))
    return cost_table(cost) + details(
        "Each passage", frame_table(passages, "Each passage's mean over its tokens, in nats")
    )


def _groups(found: SearchResult) -> tuple[dict[str, Any], ...]:
    groups = []
    most = prompts.share(2 * len(found.test))
    for task, scores in found.test.items():
        base = None if scores.baseline is None else scores.baseline.frame
        settings = [prompts.Setting("chosen cuts", scores.frame, base, change=1.0)]
        settings += [
            prompts.Setting(f"control: {said_kind(kind)}, mean of its draws", by_task[task].frame, base)
            for kind, by_task in found.controls.items()
        ]
        groups.append(prompts.group(f"{task}, test", scores.frame, settings, most))
        other = found.validation[task]
        base = None if other.baseline is None else other.baseline.frame
        only = [prompts.Setting("chosen cuts", other.frame, base)]
        groups.append(prompts.group(f"{task}, validation", other.frame, only, most))
    return tuple(groups)
