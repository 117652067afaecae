"""What all pictures are made of: shapes as escaped text, axes with round numbers, and two widths."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tl_truncate.markup import join

#: In pixels: beside the sentence of a wide page, and on a telephone.
WIDE, NARROW = 760, 360
#: About the width of a letter at the size of pictures.
LETTER = 7.2


@dataclass(frozen=True)
class Axis:
    """A straight axis from values to pixels.

    Attributes:
        low, high: the values at its ends.
        start, end: the pixels there.
        bend: what a value goes through first, such as a logarithm.
    """

    low: float
    high: float
    start: float
    end: float
    bend: Callable[[float], float] = float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high = self.bend(self.low), self.bend(self.high)
        share = (self.bend(value) - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def tag(name: str, content: Markup | str = "", **attributes: object) -> Markup:
    """An element; `_` in an attribute's name is `-`, and what is None is left away.

    Examples:
        >>> tag("text", "<b>", x=1.25, text_anchor="end")
        Markup('<text x="1.25" text-anchor="end">&lt;b&gt;</text>')
    """
    told = join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{}{}>{}</{}>").format(Markup(name), told, content, Markup(name))


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def picture(
    width: float, height: float, label: str, parts: Sequence[Markup], *, has_buttons: bool = False
) -> Markup:
    """The whole of a picture; a screen reader hears its label, and its buttons if it has some."""
    return tag(
        "svg",
        join(parts),
        viewBox=f"0 0 {width:g} {height:g}",
        width=f"{width:g}",
        height=f"{height:g}",
        role="group" if has_buttons else "img",
        aria_label=label,
    )


def at_both_widths(draw: Callable[[int], Markup]) -> Markup:
    """A picture for a wide page and one for a narrow one, of which a page shows the one that fits."""
    return Markup('<div class="at-wide">{}</div><div class="at-narrow">{}</div>').format(
        draw(WIDE), draw(NARROW)
    )


def words(x: float, y: float, text: str, anchor: str = "start", kind: str | None = None) -> Markup:
    """A line of text."""
    return tag("text", text, x=float(x), y=float(y), text_anchor=anchor, class_=kind)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line."""
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=kind)


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two, about so many.

    Examples:
        >>> round_ticks(0.0, 0.5, 5), round_ticks(-1.0, 1.0, 2)
        ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [-1.0, 0.0, 1.0])
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    size = 10 ** math.floor(math.log10(rough))
    step = size * next(each for each in (1, 2, 5, 10) if size * each >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A number at an axis, as short as it is.

    Examples:
        >>> tick_text(0.25), tick_text(2000.0), tick_text(0.0)
        ('0.25', '2,000', '0')
    """
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def around(values: Sequence[float], *, zero: bool = False) -> tuple[float, float]:
    """Ends of an axis that holds some values, and zero if it must; what is not finite is left out."""
    known = [value for value in values if math.isfinite(value)] + ([0.0] if zero else [])
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    return low - room, high + room
