"""Curves over training steps or layers, named at their ends; and small ones, a question each."""

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
class Curve:
    """A line with its band.

    Attributes:
        name: at its end.
        x, y: its points; what is NaN interrupts it.
        low, high: of its band; empty for none.
        colour: place in the palette.
        dashed: for what is not the main matter.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves that answer one question.

    Attributes:
        title: the question, or what the axis says.
        curves: at most four or so.
    """

    title: str
    curves: Sequence[Curve]


def curves(panels: Sequence[Panel], label: str, axis: str, *, steps: bool = True) -> Markup:
    """One panel large, or several small ones, at both widths.

    Args:
        panels: from above, row by row.
        label: what a screen reader says.
        axis: what lies across.
        steps: whether that is training steps, whose axis is logarithmic.
    """
    return at_both_widths(lambda width: _multiples(panels, label, axis, width, steps=steps))


def _multiples(panels: Sequence[Panel], label: str, axis: str, width: int, *, steps: bool) -> Markup:
    across = 1 if width != WIDE or len(panels) == 1 else 2 if len(panels) in (2, 4) else 3
    down = math.ceil(len(panels) / across)
    each = (width - 10 * (across - 1)) / across
    tall = {1: 470.0, 2: 265.0}.get(down, 200.0) if width == WIDE else 230.0
    parts = []
    for place, panel in enumerate(panels):
        row, column = divmod(place, across)
        inside = _panel(panel, axis, each, tall, steps=steps)
        parts.append(
            tag("g", inside, transform=f"translate({column * (each + 10):.1f} {row * (tall + 6):.1f})")
        )
    return picture(width, down * (tall + 6), label, parts)


def _panel(panel: Panel, axis: str, width: float, height: float, *, steps: bool) -> Markup:
    room = min(max(len(curve.name) for curve in panel.curves) * LETTER + 24, 0.46 * width)
    x = _across(panel, 44, width - room, steps=steps)
    known = [
        value for curve in panel.curves for each in (curve.y, curve.low, curve.high) for value in each
    ]
    low, high = around(known)
    # A share or a probability does not lie beyond its bounds, and neither does its axis.
    if all(0 <= value <= 1 for value in known if math.isfinite(value)):
        low, high = max(low, 0.0), min(high, 1.0)
    y = Axis(low, high, height - 40, 26)
    parts = [words(0, 14, panel.title, kind="title"), _grid(x, y, width - room, steps=steps)]
    parts.append(words((x.start + x.end) / 2, height - 6, axis, "middle", "quiet"))
    parts += [_curve(curve, x, y) for curve in panel.curves]
    parts.append(_labels(panel.curves, x, y))
    return join(parts)


def _across(panel: Panel, start: float, end: float, *, steps: bool) -> Axis:
    values = [value for curve in panel.curves for value in curve.x]
    # Of steps the logarithm of one more: step 0 has a place of its own, and nothing piles up there.
    return Axis(min(values), max(values), start, end, math.log1p if steps else float)


def _grid(x: Axis, y: Axis, right: float, *, steps: bool) -> Markup:
    parts = []
    for value in round_ticks(y.low, y.high, max(2, int((y.start - y.end) / 44))):
        parts.append(line(x.start, y(value), right, y(value), "grid" if value else "zero"))
        parts.append(words(x.start - 6, y(value) + 4, tick_text(value), "end", "tick"))
    last = -math.inf
    for value in _powers(x) if steps else round_ticks(x.low, x.high, 6):
        if x(value) - last >= 34:
            parts.append(words(x(value), y.start + 16, tick_text(value), "middle", "tick"))
            last = x(value)
    return join(parts)


def _powers(x: Axis) -> list[float]:
    found, tick = [0.0] if x.low <= 0 else [], 1.0
    while tick <= x.high:
        found += [tick] if tick >= x.low else []
        tick *= 10
    return found if len(found) > 1 else [x.low, x.high]


def _runs(values: Sequence[float]) -> list[list[int]]:
    """Places without a gap between them."""
    found: list[list[int]] = [[]]
    for place, value in enumerate(values):
        if math.isfinite(value):
            found[-1].append(place)
        elif found[-1]:
            found.append([])
    return [run for run in found if run]


def _curve(curve: Curve, x: Axis, y: Axis) -> Markup:
    parts = [tag("title", curve.name)]
    for run in _runs(curve.y):
        points = [f"{x(curve.x[i]):.1f},{y(curve.y[i]):.1f}" for i in run]
        if len(curve.low):
            banded = [i for i in run if math.isfinite(curve.low[i]) and math.isfinite(curve.high[i])]
            above = [f"{x(curve.x[i]):.1f},{y(curve.high[i]):.1f}" for i in banded]
            below = [f"{x(curve.x[i]):.1f},{y(curve.low[i]):.1f}" for i in reversed(banded)]
            parts.append(tag("polygon", points=" ".join(above + below), class_="band"))
        parts.append(
            tag("polyline", points=" ".join(points), class_="dashed" if curve.dashed else "drawn")
        )
        if len(curve.x) <= 12:
            parts += [
                tag("circle", cx=x(curve.x[i]), cy=y(curve.y[i]), r=3.0, class_="dot") for i in run
            ]
    return tag("g", join(parts), class_=f"curve c{curve.colour}")


def _labels(curves_: Sequence[Curve], x: Axis, y: Axis) -> Markup:
    """Each curve's name at its end, pushed apart where ends lie close."""
    ends = []
    for curve in curves_:
        runs = _runs(curve.y)
        if runs:
            ends.append((y(curve.y[runs[-1][-1]]), curve))
    ends.sort(key=lambda end: end[0])
    places = [place for place, _ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + 15)
    over = places[-1] - (y.start + 4) if places else 0
    if over > 0:
        places[-1] -= over
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - 15)
    return join(
        line(x.end + 6, place, x.end + 14, place, f"key c{curve.colour}")
        + words(x.end + 18, place + 4, curve.name)
        for place, (_, curve) in zip(places, ends, strict=True)
    )
