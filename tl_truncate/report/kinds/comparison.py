"""The report of ways to take the global part away, side by side."""

import pandas as pd

from tl_truncate.experiments.comparison.compare import Comparison
from tl_truncate.experiments.scoring.metrics import PROBABILITIES, SCORED, first, label_of, metrics_of
from tl_truncate.experiments.scoring.view import setup
from tl_truncate.markup import paragraphs, table
from tl_truncate.report.answers.ways import ways_answer
from tl_truncate.report.charts import points_panel
from tl_truncate.report.page import Chart, Choice, Page, Section
from tl_truncate.report.provenance import where_section
from tl_truncate.statistics import shown_in

_ENDS = {"y": "", "low": "_low", "high": "_high"}


def comparison_page(found: Comparison) -> Page:
    """Ways to take the global part away, side by side."""
    record, frame = found.baseline.record, found.frame
    told = ["All ways were scored on the same prompts; none was chosen."]
    metrics = metrics_of(record, SCORED)
    rows = [[str(way), *(shown_in(row, metric) for metric in metrics)] for way, row in frame.iterrows()]
    columns = ["way", *(label_of(metric, record.has_global).short for metric in metrics)]
    sections = [
        Section("summary", "Summary", paragraphs([*told, f"The model is {setup(record.to_json())}."])),
        Section("ways", "Side by side", charts=(ways_chart(frame, record.has_global),)),
        Section("table", "Every way", table(columns, rows, caption="Means with 95% intervals")),
        where_section(record),
    ]
    title = f"{record.task}: ways to change the MLP of block {found.layer} of {record.model}"
    return Page(title, ways_answer(found), tuple(sections))


def ways_chart(frame: pd.DataFrame, has_global: bool = True) -> Chart:
    """Each way's metrics with their intervals."""
    metrics = [metric for metric in first(PROBABILITIES[0]) if metric in frame]
    names = [str(way) for way in frame.index]
    # The uncut model, ways, and what they are compared with.
    colours = [0 if way == "uncut" else 4 if "(control)" in way else 1 for way in names]
    panels = []
    for metric in metrics:
        values = {end: frame[f"{metric}{ending}"] for end, ending in _ENDS.items()}
        short = label_of(metric, has_global).short
        panels.append(points_panel([short], values, names, x=short, colours=colours))
    choice = Choice("metric", tuple(label_of(metric, has_global).short for metric in metrics))
    told = "Dots with intervals: each way's mean of the metric. A table follows."
    return Chart("ways", "points", told, (choice,), tuple(panels))
