"""The reports of a screen of components, and of what the parts of MLP outputs push."""

import math

import pandas as pd

from tl_truncate.colours import scale_end
from tl_truncate.decompose.parts import PARTS
from tl_truncate.experiments.scoring.metrics import answer_name, answer_names, label_of
from tl_truncate.experiments.scoring.view import frame_table, setup
from tl_truncate.experiments.screening.attribution import Attribution
from tl_truncate.experiments.screening.part_attribution import PartAttribution
from tl_truncate.experiments.screening.value_gradients import SingularValueGradients
from tl_truncate.markup import paragraphs
from tl_truncate.report.answers.screening import gradients_answer, parts_answer, screen_answer
from tl_truncate.report.answers.verdicts import counted
from tl_truncate.report.charts import heat_panel, points_panel
from tl_truncate.report.page import Chart, Choice, Page, Section
from tl_truncate.report.provenance import where_section
from tl_truncate.statistics import q_values, shown
from tl_truncate.weights.keep.defaults import GENTLE
from tl_truncate.weights.spoken import said_site

_TOP = 30


def attribution_page(screen: Attribution) -> Page:
    """Predicted changes by layer and amount kept, and the components that matter most."""
    record = screen.record
    name = label_of(screen.metric, record.has_global).told
    told = [
        f"The change of {name} on {screen.n_prompts} prompts of {record.task} "
        f"was predicted for every component of {len(screen.by_row)} sites of "
        f"{setup(record.to_json())}.",
        "These are first-order estimates: a small prediction is no promise. Sweep what they find.",
    ]
    frame = _said(screen.top(_TOP).drop(columns=["layer", "matrix", "head"]))
    predicted = _predictions(screen)
    sections = [
        Section("summary", "Summary", paragraphs(told)),
        Section("heatmap", "Predicted changes", charts=(_predicted(screen, predicted),)),
        Section(
            "components",
            "Components",
            frame_table(frame, f"The {len(frame)} components whose removal changes most, predicted"),
        ),
        where_section(record),
    ]
    title = f"{record.task}: a screen of {record.model}"
    return Page(title, screen_answer(screen, predicted), tuple(sections))


def _said(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose sites are said as people say them."""
    return table.assign(site=table["site"].map(said_site))


def _predictions(screen: Attribution) -> pd.DataFrame:
    rows = []
    for site in screen.by_row:
        for keep in GENTLE:
            value = screen.effect(site, keep)
            rank = len(screen.spectra[site].kept(keep))
            name = f"{site.matrix}.{site.head}" if site.head is not None else site.matrix
            row = dict(site=str(site), layer=site.layer, matrix=name, keep=keep, rank=rank, kind="Cut")
            ends = dict(change=float(value), change_low=value.low, change_high=value.high)
            ends["change_q"] = value.p  # of all cells together, below
            # What the metric is without a cut is not known here, so neither is its value under one.
            rows.append(row | {screen.metric: math.nan} | _named(screen.metric, ends))
    frame = pd.DataFrame(rows)
    among_all = f"{screen.metric}_change_q"
    frame[among_all] = q_values(frame[among_all])
    return frame


def _predicted(screen: Attribution, frame: pd.DataFrame) -> Chart:
    matrices = tuple(dict.fromkeys(frame["matrix"]))
    panels = [
        dict(
            key=[matrix] if len(matrices) > 1 else [],
            **heat_panel(
                frame[frame["matrix"] == matrix],
                screen.metric,
                screen.record.task,
                screen.record.has_global,
                end=scale_end(frame[f"{screen.metric}_change"]),
            ),
        )
        for matrix in matrices
    ]
    choices = (Choice("matrix", matrices),) if len(matrices) > 1 else ()
    told = "Heatmap: the predicted change by layer and amount kept. A table of components follows."
    return Chart("heat", "heat", told, choices, tuple(panels))


def _named(metric: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{metric}_{name}": value for name, value in values.items()}


def value_gradients_page(found: SingularValueGradients) -> Page:
    """Which sites and components a metric answers to, by the gradients of their singular values."""
    screen, record = found.screen, found.screen.record
    name = label_of(screen.metric, record.has_global).told
    told = [
        f"The gradient of {name} with respect to every singular value of "
        f"{len(screen.by_row)} sites of {setup(record.to_json())}, on {screen.n_prompts} prompts of "
        f"{record.task}. A site's score is how fast the metric would rise if all values shrank whose "
        "gradient is negative.",
        "A gradient is per unit of a singular value, and says nothing of how large the value is.",
    ]
    frame = _said(found.top(_TOP).drop(columns=["layer", "matrix", "head"]))
    sites = _said(found.sites.drop(columns=["layer", "matrix", "head"]))
    sections = [
        Section("summary", "Summary", paragraphs(told)),
        Section("sites", "Sites", frame_table(sites, "Every site, by its score")),
        Section(
            "components",
            "Components",
            frame_table(frame, f"The {len(frame)} components with the largest gradients"),
        ),
        where_section(record),
    ]
    title = f"{record.task}: singular value gradients of {record.model}"
    return Page(title, gradients_answer(found), tuple(sections))


def part_attribution_page(found: PartAttribution) -> Page:
    """What each layer's parts add to the two answers."""
    record = found.record
    answer = found.answers[-1]
    pushes = found.largest("global", answer)[0]
    rows = found.frame.set_index(["layer", "part", "answer"])
    most = rows.loc[(pushes, "global", answer)]
    by = shown(most["logits"], most["low"], most["high"], signed=True)
    told = [
        f"What the global and the in-context part of each MLP's output ({found.split['method']}) add to "
        f"the logits of the answers was read off {record.n_prompts} prompts of {record.task} on "
        f"{setup(record.to_json())}.",
        f"Of {counted(len(found.layers), 'block')} looked at, the global part of block {pushes} adds "
        "most to the "
        f"{answer_names(record.has_global)[-1]} on these prompts, {by} nats.",
    ]
    sections = [
        Section("summary", "Summary", paragraphs(told)),
        Section("layers", "Layer by layer", charts=(_by_layer(found),)),
        Section("table", "Every layer", frame_table(found.frame, "Logits added, in nats", texts=3)),
        where_section(record),
    ]
    title = f"{record.task}: MLP outputs in two parts on {record.model}"
    return Page(title, parts_answer(found), tuple(sections))


def _by_layer(found: PartAttribution) -> Chart:
    frame = found.frame
    panels, names = [], []
    for part in PARTS:
        for answer in found.answers:
            own = frame[(frame["part"] == part) & (frame["answer"] == answer)]
            told = answer_name(answer, found.record.has_global)
            names.append(f"{part.replace('_', '-')} part to the {told}")
            values = dict(y=own["logits"], low=own["low"], high=own["high"])
            blocks = [f"block {layer}" for layer in own["layer"]]
            panels.append(points_panel([names[-1]], values, blocks, x="nats"))
    told = "Dots with intervals: the logits that a part of each block's MLP adds. A table follows."
    return Chart("layers", "points", told, (Choice("part", tuple(names)),), tuple(panels))
