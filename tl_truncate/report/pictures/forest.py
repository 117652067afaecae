"""A forest: values with their intervals, one below the other, beside zero."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tl_truncate.markup import join
from tl_truncate.report.pictures.canvas import (
    LETTER,
    WIDE,
    Axis,
    around,
    at_both_widths,
    line,
    picture,
    round_ticks,
    tag,
    tick_text,
    words,
)


@dataclass(frozen=True)
class Row:
    """A line of a forest.

    Attributes:
        name: beside it.
        value, low, high: where it stands; ends that are NaN are none.
        kind: `chosen` (flattered), `cut`, `control` or `uncut`: its colour and its shape.
        told: the numbers, as text.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    kind: str = "cut"
    told: str = ""


def forest(rows: Sequence[Row], label: str, axis: str, *, zero: bool = True) -> Markup:
    """The picture at both widths.

    Args:
        rows: from above.
        label: what a screen reader says.
        axis: what the numbers are.
        zero: whether the axis has zero on it, with a line.
    """
    return at_both_widths(lambda width: _forest(rows, label, axis, width, zero=zero))


def _forest(rows: Sequence[Row], label: str, title: str, width: int, *, zero: bool) -> Markup:
    wide = width == WIDE
    # On a narrow page a name has a line of its own above its value.
    names = min(max(len(row.name) for row in rows) * LETTER + 14, 0.42 * width) if wide else 6
    numbers = max(len(row.told) for row in rows) * LETTER + 12 if wide else 8
    pitch = min(52.0, max(22.0, 420 / len(rows))) if wide else 44
    top, height = 8, pitch * len(rows)
    ends = around([each for row in rows for each in (row.value, row.low, row.high)], zero=zero)
    x = Axis(*ends, names, width - numbers)
    parts = [
        _grid(x, top, top + height, zero=zero),
        words((x.start + x.end) / 2, top + height + 36, title, "middle", "quiet"),
    ]
    letters = int((names - 14) / LETTER) if wide else int(width / LETTER)
    for place, row in enumerate(rows):
        y = top + pitch * (place + 0.5) + (0 if wide else 9)
        parts.append(_mark(x, y, row))
        shown = row.name if len(row.name) <= letters else row.name[: letters - 1] + "…"
        if wide:
            parts.append(words(names - 12, y + 4, shown, "end"))
            parts.append(words(width - numbers + 10, y + 4, row.told, kind="number"))
        else:
            parts.append(words(6, y - 12, shown))
            parts.append(words(width - 6, y - 12, row.told.split(" ")[0], "end", "number"))
    return picture(width, top + height + 46, label, parts)


def _grid(x: Axis, top: float, bottom: float, *, zero: bool) -> Markup:
    parts = []
    for value in round_ticks(x.low, x.high, max(2, int((x.end - x.start) / 90))):
        parts.append(line(x(value), top, x(value), bottom, "zero" if zero and value == 0 else "grid"))
        parts.append(words(x(value), bottom + 16, tick_text(value), "middle", "tick"))
    return join(parts)


def _mark(x: Axis, y: float, row: Row) -> Markup:
    if not math.isfinite(row.value):
        return Markup("")
    parts = [tag("title", f"{row.name}: {row.told}")]
    if math.isfinite(row.low) and math.isfinite(row.high):
        parts.append(line(x(row.low), y, x(row.high), y, "bar"))
    at = x(row.value)
    if row.kind == "control":
        parts.append(tag("path", d=f"M{at - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10", class_="cross"))
    else:
        parts.append(tag("circle", cx=at, cy=float(y), r=6.0, class_="dot"))
    return tag("g", join(parts), class_=f"row {row.kind}")
