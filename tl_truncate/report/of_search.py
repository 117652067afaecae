"""The report of a search."""

from typing import Any

from markupsafe import Markup

from tl_truncate.experiments.scoring.evaluate import Metric, Scores
from tl_truncate.experiments.scoring.view import NAMES, frame_table, record_table, scores_table
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.search.view import (
    cost_table,
    looks_table,
    paired,
    search_words,
    splits_table,
)
from tl_truncate.markup import details, join, paragraphs
from tl_truncate.report import prompts
from tl_truncate.report.page import Chart, Choice, Page, Section, rounded

_METRICS: tuple[Metric, ...] = ("logit_diff", "accuracy", "p_in_context", "p_global")


def search_page(found: SearchResult) -> Page:
    """Summary, validation beside test with controls, side effects, looks, prompts and provenance."""
    record = next(iter(found.test.values())).record
    uncut = {task: scores.baseline or scores for task, scores in found.test.items()}
    baseline = join(scores_table(each, f"{task}, uncut, test prompts") for task, each in uncut.items())
    told = Markup(
        "<p>What was chosen on the validation prompts is flattered there; the test prompts had no say. "
        "Controls remove as much of the same matrices, of no particular meaning. Bars are 95% "
        "intervals.</p>"
    )
    sections = [
        Section("summary", "Summary", paragraphs(search_words(found))),
        Section("baseline", "The uncut model", baseline),
        Section(
            "splits",
            "Validation and test",
            told,
            (_chart(found),),
            join(splits_table(found, task) for task in found.test),
        ),
        Section("cost", "Side effects", _cost(found)),
        Section("looks", "What was looked at", looks_table(found)),
        Section("prompts", "Prompt by prompt", prompts=True),
        Section(
            "provenance",
            "Where this comes from",
            record_table({**record.to_json(), **{f"search: {k}": v for k, v in found.settings.items()}}),
        ),
    ]
    title = f"{' and '.join(found.test)}: a search on {record.model}"
    return Page(title, tuple(sections), _groups(found))


def _columns(found: SearchResult, task: str) -> dict[str, Scores]:
    return {
        "validation (chose the cuts)": found.validation[task],
        "test": found.test[task],
        **{f"{kind}, test": by_task[task] for kind, by_task in found.controls.items()},
    }


def _chart(found: SearchResult) -> Chart:
    tasks = tuple(found.test)
    metrics = (found.objective, *(metric for metric in _METRICS if metric != found.objective))
    choices = [Choice("metric", tuple(NAMES[metric] for metric in metrics))]
    if len(tasks) > 1:
        choices.insert(0, Choice("task", tasks))
    panels = []
    for task in tasks:
        columns = _columns(found, task)
        for metric in metrics:
            values = [paired(scores, metric) for scores in columns.values()]
            panel: dict[str, Any] = dict(
                key=[*([task] if len(tasks) > 1 else []), NAMES[metric]],
                names=list(columns),
                x=f"paired change of {NAMES[metric]}",
                y=rounded([float(value) for value in values]),
                low=rounded([value.low for value in values]),
                high=rounded([value.high for value in values]),
            )
            panels.append(panel)
    label = "Dots with intervals: the change on validation and test prompts and under controls."
    return Chart("splits", "points", label, tuple(choices), tuple(panels))


def _cost(found: SearchResult) -> Markup:
    if found.cost is None:
        return paragraphs(["Running text was not scored, or nothing was cut."])
    passages = found.cost.frame.assign(text=found.cost.frame["text"].str.slice(0, 80))
    return cost_table(found.cost) + details(
        "Each passage", frame_table(passages, "Each passage's mean over its tokens, in nats")
    )


def _groups(found: SearchResult) -> tuple[dict[str, Any], ...]:
    groups = []
    most = prompts.share(2 * len(found.test))
    for task, scores in found.test.items():
        base = None if scores.baseline is None else scores.baseline.frame
        settings = [prompts.Setting("chosen cuts", scores.frame, base, change=1.0)]
        settings += [
            prompts.Setting(f"control: {kind}", by_task[task].frame, base)
            for kind, by_task in found.controls.items()
        ]
        groups.append(prompts.group(f"{task}, test", scores.frame, settings, most))
        other = found.validation[task]
        base = None if other.baseline is None else other.baseline.frame
        only = [prompts.Setting("chosen cuts", other.frame, base)]
        groups.append(prompts.group(f"{task}, validation", other.frame, only, most))
    return tuple(groups)
