"""The report of a learned mask: that of a search, with how the learning went."""

from dataclasses import replace

from markupsafe import Markup

from tl_truncate.experiments.learning.result import LearnedMask
from tl_truncate.experiments.scoring.metrics import label_of
from tl_truncate.markup import paragraphs
from tl_truncate.report.kinds.search import search_page
from tl_truncate.report.page import Chart, Choice, Page, Section, rounded

#: Columns of the history by what a menu calls them.
_CURVES = {"worth": ("change", "worth"), "size of the mask": ("components", "entered", "left")}


def learned_page(found: LearnedMask) -> Page:
    """The sections of a search, and behind the summary the learning curve."""
    page = search_page(found)
    learned = Section(
        "learning", "Learning", Markup(paragraphs([found.learning_words()])), (_curve(found),)
    )
    summary, *rest = page.sections
    title = page.title.replace("a search on", "a mask learned on")
    return replace(page, title=title, sections=(summary, learned, *rest))


def _curve(found: LearnedMask) -> Chart:
    history = found.history
    steps = [int(step) for step in history["step"]]
    panels = []
    for name, columns in _CURVES.items():
        series = []
        for place, column in enumerate(columns):
            y = rounded(history[column])
            series.append(dict(name=column, colour=place, control=False, x=steps, y=y))
        unit = label_of(found.objective, found.has_global).short if name == "worth" else "components"
        panels.append(dict(key=[name], x="step", y=unit, series=series))
    told = "Curves: what the mask is worth on the watched prompts, and its size, against the step."
    return Chart("learning", "lines", told, (Choice("show", tuple(_CURVES)),), tuple(panels))
