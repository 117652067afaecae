"""The report of a sweep."""

from markupsafe import Markup

from tl_truncate.experiments.scoring.drawn import draws_together
from tl_truncate.experiments.scoring.metrics import PROBABILITIES, label_of
from tl_truncate.experiments.scoring.view import scores_table
from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.names import setting_names
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.experiments.sweep.view import (
    ShownSweep,
    heat_frame,
    heat_table,
    sweep_words,
)
from tl_truncate.markup import details, join, paragraphs, table
from tl_truncate.report import prompts
from tl_truncate.report.answers.sweep import first_metric, sweep_answer
from tl_truncate.report.answers.verdicts import BESIDE, BESIDE_TOLD, beside_cells
from tl_truncate.report.charts import heat_chart, rank_chart
from tl_truncate.report.page import Page, Section
from tl_truncate.report.provenance import provenance
from tl_truncate.weights.spoken import said_site

_BESIDE = 12


def sweep_page(result: SweepResult) -> Page:
    """Summary, baseline, heatmap, rank curves, controls, prompts and provenance of a sweep."""
    shown = result.shown
    tasks = list(shown.baselines)
    first = first_metric(shown.metrics)
    metrics = sorted(shown.metrics, key=lambda metric: metric != first)
    baseline = join(scores_table(each, f"{task}, uncut") for task, each in shown.baselines.items())
    sections = [
        Section("summary", "Summary", paragraphs(sweep_words(shown))),
        Section("baseline", "The uncut model", baseline),
    ]
    groups: tuple[dict[str, object], ...] = ()
    if result.settings:
        sections += _found(shown, tasks, metrics)
        groups = _groups(result, tasks)
    sections.append(Section("provenance", "Where this comes from", provenance(result.manifest)))
    title = f"{' and '.join(tasks)}: cutting weights of {result.manifest['model']}"
    answer = sweep_answer(shown, first)
    return Page(title, answer, tuple(sections), groups)


def _found(result: ShownSweep, tasks: list[str], metrics: list[str]) -> list[Section]:
    frame = result.frame
    told = Markup(
        "<p>Rows are layers, columns how much of the spectrum stays. Orange is more than the uncut "
        "model, blue is less; a dot marks a change that is not clear of zero among all (q of .05 or "
        "more). The largest tenth of the changes lies beyond the ends of the colours. A click on a cell "
        "shows its prompts.</p>"
    )
    sections = [
        Section(
            "heatmap",
            "Every cut",
            told,
            (heat_chart(frame, tasks, metrics, result.has_global),),
            _tables(result, tasks, metrics),
        )
    ]
    if (frame["kind"] == "Cut").any():
        told = Markup(
            "<p>Bars are 95% intervals over prompts, the band is the uncut model's. Dotted "
            "lines are controls, where there are some. The six sites are picked by what is shown.</p>"
        )
        chart = rank_chart(frame, result.baselines, metrics, result.has_global)
        sections.append(Section("ranks", "How much has to stay", told, (chart,)))
    sections.append(Section("controls", "Controls", _controls(result, tasks, metrics[0])))
    told = Markup("<p>What the model says to each prompt, without and with one of the settings.</p>")
    sections.append(Section("prompts", "Prompt by prompt", told, prompts=True))
    return sections


def _tables(result: ShownSweep, tasks: list[str], metrics: list[str]) -> Markup:
    """The heatmaps of probabilities as tables, for readers and printers; the chart has all metrics."""
    frame = result.frame
    few = [metric for metric in metrics if metric in PROBABILITIES] or metrics[:1]
    parts = []
    for task in tasks:
        cells = heat_frame(frame[frame["kind"] == "Cut"], task)
        for matrix in dict.fromkeys(cells["matrix"]):
            for metric in few:
                title = f"{matrix}: change of {label_of(metric, result.has_global).short} on {task}"
                parts.append(heat_table(cells[cells["matrix"] == matrix], metric, title))
    return details("The same as tables", join(parts)) if parts else Markup("")


def _controls(result: ShownSweep, tasks: list[str], metric: str) -> Markup:
    """The cuts that change most, each beside its controls."""
    beside = result.beside
    if beside.empty:
        return Markup(
            "<p>None were scored. Without them a change may come from how much was removed, and not "
            "from what was: <code>tl-truncate sweep --controls</code> scores random subspaces of the "
            "same rank and norm-matched ones beside each cut.</p>"
        )
    columns = ["site", "kept", "cut", *BESIDE, "q", "verdict"]
    name = label_of(metric, result.has_global).short
    parts = []
    for task in tasks:
        own = beside[(beside["task"] == task) & (beside["metric"] == metric)]
        order = own["change"].abs().sort_values(ascending=False, kind="stable").index
        rows = [
            [
                said_site(row["site"]),
                result.frame.loc[row["row"], "told"].removeprefix(f"{said_site(row['site'])}, "),
                f"{row['change']:+.3f}",
                *beside_cells(row, "q"),
            ]
            for _, row in own.loc[order[:_BESIDE]].iterrows()
        ]
        caption = f"{task}: the cuts that change {name} most, beside {BESIDE_TOLD}"
        parts.append(table(columns, rows, caption=caption))
    return join(parts)


def _groups(result: SweepResult, tasks: list[str]) -> tuple[dict[str, object], ...]:
    most = prompts.share(len(tasks))
    found, names = [], setting_names([result.firsts])
    for place, task in enumerate(tasks):
        uncut = result.baselines[task].frame
        settings = []
        for draws in draws_together([setting.cut for setting in result.settings]):
            setting = result.settings[draws[0]]
            each = [result.settings[draw].outcomes[place].metrics() for draw in draws]
            cut = each[0] if len(each) == 1 else sum(each[1:], each[0]) / len(each)  # a control's mean
            name = names[setting_key(setting.cut)]
            shared = next(metric for metric in prompts.SHOWN if metric in cut)
            change = float((cut[shared] - uncut[shared]).mean())
            settings.append(prompts.Setting(name, cut, uncut, change))
        found.append(prompts.group(task, uncut, settings, most))
    return tuple(found)
