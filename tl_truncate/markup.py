"""HTML fragments that escape what they show: what notebooks and the report are made of.

Colours are inline and half transparent, and text takes the page's own colour, so that a fragment can be
read on a light and on a dark page.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from tl_truncate.statistics import Estimate, shown

#: Okabe and Ito's colours, told apart with every common colour vision.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
#: What rises, and the global answer; what falls, and the in-context answer.
MORE, LESS = PALETTE[:2]
_STRONGEST = 0.7  # of a background, so that text on it can be read


def join(parts: Iterable[Markup], between: str = "") -> Markup:
    """Fragments after one another."""
    return Markup(between).join(parts)


def paragraphs(texts: Iterable[str]) -> Markup:
    """Texts as paragraphs.

    Examples:
        >>> paragraphs(["1 < 2"])
        Markup('<p>1 &lt; 2</p>')
    """
    return join(Markup("<p>{}</p>").format(text) for text in texts)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str,
    texts: int = 1,
    kind: str = "",
) -> Markup:
    """A table with a caption; what is not a fragment is escaped.

    Not pandas' Styler, which needs Jinja2 and so an extra: a notebook of the base install shows results
    too. And its rows have no titles that a screen reader can say.

    Args:
        columns: titles.
        rows: cells, the first of which names its row.
        caption: what the table shows.
        texts: how many first columns are text and not numbers.
        kind: a class for whoever styles it.

    Returns:
        The table.

    Examples:
        >>> fragment = table(["a", "b"], [("x", "<b>")], caption="two", texts=2)
        >>> '<td style="text-align:left">&lt;b&gt;</td>' in fragment
        True
    """
    head = join(
        Markup('<th scope="col" style="text-align:{}">{}</th>').format(
            "left" if place < texts else "right", column
        )
        for place, column in enumerate(columns)
    )
    body = join(_row(cells, texts) for cells in rows)
    return Markup(
        '<div class="wide" tabindex="0" role="region" aria-label="{}" style="overflow-x:auto">'
        '<table class="{}"><caption style="text-align:left">{}</caption>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(caption, kind, caption, head, body)


def _row(cells: Sequence[Any], texts: int) -> Markup:
    first, *others = cells
    found = [Markup('<th scope="row" style="text-align:left">{}</th>').format(first)]
    for place, cell in enumerate(others, 1):
        if isinstance(cell, Markup) and cell.startswith("<td"):
            found.append(cell)
        elif place < texts:
            found.append(Markup('<td style="text-align:left">{}</td>').format(cell))
        else:
            found.append(Markup("<td>{}</td>").format(cell))
    return Markup("<tr>{}</tr>").format(join(found))


def details(summary: str, content: Markup) -> Markup:
    """Content that is folded until it is asked for."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, content)


def interval(value: Estimate | float, digits: int = 3, *, signed: bool = False) -> str:
    """An estimate with its interval, as a table shows it; a bare number without one.

    Examples:
        >>> interval(Estimate(0.5, low=0.4, high=0.6, se=0.05, n=9), signed=True)
        '+0.500 [+0.400, +0.600]'
    """
    if not isinstance(value, Estimate):
        return format(value, f"{'+' if signed else ''}.{digits}f")
    return shown(value, value.low, value.high, digits=digits, signed=signed)


def shade(value: float, size: float) -> str:
    """A background for a signed value: orange is more, blue is less, `size` is the strongest.

    Examples:
        >>> shade(-1.0, 2.0)
        'background:rgba(0,114,178,0.35)'
    """
    red, green, blue = bytes.fromhex((MORE if value > 0 else LESS).removeprefix("#"))
    share = min(abs(value) / size, 1.0) if size else 0.0
    return f"background:rgba({red},{green},{blue},{_STRONGEST * share:.2f})"


def coloured_tokens(texts: Sequence[str], values: Sequence[float], size: float) -> Markup:
    """A text whose tokens are coloured by a value each; the value is shown under the pointer."""
    return join(
        Markup('<span title="{}" style="{}">{}</span>').format(
            f"{value:+.3f}", shade(value, size), text.replace("\n", "\\n")
        )
        for text, value in zip(texts, values, strict=True)
    )
