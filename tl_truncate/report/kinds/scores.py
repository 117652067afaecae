"""The reports of scores on a task and on running text."""

from markupsafe import Markup

from tl_truncate.experiments.scoring.drawn import drawn_beside, drawn_table
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import label_of
from tl_truncate.experiments.scoring.side_effects import SideEffects
from tl_truncate.experiments.scoring.view import scores_table, setup
from tl_truncate.markup import interval, paragraphs, table
from tl_truncate.report import prompts
from tl_truncate.report.answers.scores import effects_answer, first_scored, scores_answer
from tl_truncate.report.answers.verdicts import BESIDE, BESIDE_TOLD, beside_cells
from tl_truncate.report.kinds.search import cost_section
from tl_truncate.report.page import Page, Section
from tl_truncate.report.provenance import where_section
from tl_truncate.surgery.spoken import said_kind


def scores_page(scores: Scores) -> Page:
    """Every metric, every prompt, and where it comes from."""
    # A context's cuts belong to both sides.
    cuts = len(scores.record.cuts)
    own = cuts - (0 if scores.baseline is None else len(scores.baseline.record.cuts))
    told = [f"{scores.record.n_prompts} prompts were asked of {setup(scores.record.to_json())}."]
    if scores.baseline is not None:
        metric = first_scored(scores)
        change = interval(scores.change(metric), signed=True)
        told.append(
            f"{own} cut{'s' if own != 1 else ''} at work: "
            f"{label_of(metric, scores.has_global).told} changes by {change}."
        )
    base = None if scores.baseline is None else scores.baseline.frame
    settings = [prompts.Setting("cut" if cuts else "uncut", scores.frame, base)]
    settings += [
        prompts.Setting(said_kind(kind), control.frame, base)
        for kind, control in drawn_beside(scores).items()
    ]
    sections = [
        Section("summary", "Summary", paragraphs(told)),
        Section("scores", "Scores", scores_table(scores.shown)),
        *([Section("controls", "Controls", _controls(scores))] if scores.drawn else []),
        Section("prompts", "Prompt by prompt", prompts=True),
        where_section(scores.record),
    ]
    groups = (prompts.group(scores.record.task, scores.frame, settings, prompts.MOST_READINGS),)
    title = f"{scores.record.task} on {scores.record.model}"
    return Page(title, scores_answer(scores, own), tuple(sections), groups)


def _controls(scores: Scores) -> Markup:
    """Each metric's change beside those of the controls."""
    columns = ["metric", "change", *BESIDE, "p", "verdict"]
    rows = [
        [
            label_of(metric, scores.has_global).short,
            f"{row['change']:+.3f}",
            *beside_cells(row, "p"),
        ]
        for metric in scores.metrics
        for _, row in drawn_table(scores, metric).iterrows()
    ]
    return table(columns, rows, caption=f"Beside {BESIDE_TOLD}")


def side_effects_page(found: SideEffects) -> Page:
    """What cuts do to running text, passage by passage."""
    told = [
        f"{int(found.frame['tokens'].sum())} tokens of {len(found.frame)} passages were read without "
        f"and with the cuts on {setup(found.record.to_json())}.",
        f"Perplexity {interval(found.uncut_perplexity, 1)} becomes {interval(found.perplexity, 1)} (95% "
        "intervals over passages); the loss changes by "
        f"{interval(found.loss_change, signed=True)} nats a token.",
    ]
    sections = [
        Section("summary", "Summary", paragraphs(told)),
        Section("cost", "Side effects", cost_section(found.shown)),
        where_section(found.record),
    ]
    title = f"Side effects on {found.record.model}"
    return Page(title, effects_answer(found), tuple(sections))
