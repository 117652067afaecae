"""The page: sections of fragments and charts, put into one file that needs nothing else."""

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from markupsafe import Markup

from tl_truncate.checks import require_extra
from tl_truncate.markup import PALETTE


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
class Page:
    """A whole report.

    Attributes:
        title: of the page.
        sections: in order.
        prompts: the groups of the table of prompts, as `tl_truncate.report.prompts` makes them.
    """

    title: str
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
        "prompts": page.prompts,
    }
    return shelf.get_template("page.html").render(
        page=page,
        data=in_script(data),
        plotly=_packed(get_plotlyjs()) if charts else "",
        style=Markup(_asset("page.css")),
        script=Markup(_asset("page.js")),
    )


def _asset(name: str) -> str:
    return (resources.files("tl_truncate.report") / "assets" / name).read_text(encoding="utf-8")


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
