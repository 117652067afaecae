"""The page: sections of fragments and charts, put into one file that needs nothing else."""

import base64
import gzip
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from markupsafe import Markup, escape

from tl_truncate.checks import require_extra
from tl_truncate.colours import DIVERGING, DIVERGING_DARK
from tl_truncate.markup import PALETTE, join

# An interval, what stands in brackets behind "clear of chance", and a word with a hyphen.
_WHOLE = re.compile(r"(\[[^\]]*\]|\([qp] [<=] [^)]*\)|in-context)")


@dataclass(frozen=True)
class Choice:
    """A menu above a chart.

    Attributes:
        name: of what is chosen, such as `metric`.
        options: in the order in which they are shown; the first is chosen at first.
    """

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """An interactive picture, of which one panel is shown at a time.

    Attributes:
        id: unique on the page.
        kind: `heat`, `lines`, `points` or `columns`: which of the page's scripts draws it.
        label: what a screen reader says of it.
        choices: menus.
        panels: plain data for each combination of choices that exists; `key` has the chosen options.
    """

    id: str
    kind: str
    label: str
    choices: tuple[Choice, ...]
    panels: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        id: for links.
        title: the heading.
        before: what stands above the charts.
        charts: in order.
        after: what stands below them.
        prompts: whether the table of prompts belongs here.
    """

    id: str
    title: str
    before: Markup = field(default_factory=Markup)
    charts: tuple[Chart, ...] = ()
    after: Markup = field(default_factory=Markup)
    prompts: bool = False


@dataclass(frozen=True)
class Number:
    """A large figure.

    Attributes:
        name: what it is.
        value: as text.
        note: below it, such as its interval.
    """

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """What a reader sees first, and may be all that he reads.

    Attributes:
        sentence: the answer in plain words, with its change and whether that is clear of chance.
        numbers: three to five.
        picture: one, chosen for the kind of run.
        caption: what is to be seen in it.
    """

    sentence: str
    numbers: tuple[Number, ...]
    picture: Markup
    caption: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: of the page.
        answer: above the fold.
        sections: folded below it, in order.
        prompts: the groups of the table of prompts, as `tl_truncate.report.prompts` makes them.
    """

    title: str
    answer: Answer
    sections: tuple[Section, ...]
    prompts: tuple[Mapping[str, Any], ...] = ()


def render(page: Page) -> str:
    """The page as HTML, with its styles, scripts and data in it.

    Raises:
        ModuleNotFoundError: if plotly or Jinja2 is missing, with the command that installs them.
    """
    require_extra("report")
    from jinja2 import Environment, PackageLoader
    from plotly.offline import get_plotlyjs

    loader = PackageLoader("tl_truncate.report", "assets")
    shelf = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    charts = [chart for section in page.sections for chart in section.charts]
    data = {
        "charts": {
            chart.id: dict(kind=chart.kind, panels=chart.panels) for chart in charts if chart.panels
        },
        "palette": PALETTE,
        "diverging": {"light": DIVERGING, "dark": DIVERGING_DARK},
        "prompts": page.prompts,
    }
    return shelf.get_template("page.html").render(
        page=page,
        sentence=_unbroken(page.answer.sentence),
        data=in_script(data),
        plotly=_packed(get_plotlyjs()) if charts else "",
        style=_scale(DIVERGING, DIVERGING_DARK) + Markup(_asset("page.css")),
        script=Markup(_asset("page.js")),
    )


def _asset(name: str) -> str:
    return (resources.files("tl_truncate.report") / "assets" / name).read_text(encoding="utf-8")


def _unbroken(sentence: str) -> Markup:
    """A sentence in which no number is torn from its interval by the end of a line."""
    parts = _WHOLE.split(sentence)
    whole = Markup('<span class="unbroken">{}</span>').format
    return join(whole(part) if place % 2 else escape(part) for place, part in enumerate(parts))


def _scale(light: Sequence[str], dark: Sequence[str]) -> Markup:
    """The diverging scale as variables of the page, which its pictures mix."""
    names = ("--less", "--middle", "--more")
    bright, deep = (
        "".join(f"{name}:{colour};" for name, colour in zip(names, each, strict=True))
        for each in (light, dark)
    )
    return Markup(
        f":root{{{bright}}}"
        f'@media (prefers-color-scheme: dark){{:root:not([data-theme="light"]){{{deep}}}}}'
        f':root[data-theme="dark"]{{{deep}}}'
        '@media print{:root,:root[data-theme="dark"],:root:not([data-theme="light"]){'
        f"{bright}}}}}\n"
    )


def _packed(text: str) -> str:
    """A library that nobody reads, in a third of its room; the page unpacks it."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def in_script(data: Any) -> Markup:
    """JSON that no text in it can break out of.

    Examples:
        >>> in_script(["</script>"])
        Markup('["\\\\u003c/script\\\\u003e"]')
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def rounded(values: Sequence[float], digits: int = 4) -> list[float | None]:
    """Numbers with a few significant digits, as JSON has them: what is not finite is null.

    Examples:
        >>> rounded([0.123456, float("nan")])
        [0.1235, None]
    """
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values]
