"""A heatmap of changes: layers from the bottom up, amounts kept across, the best cell marked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tl_truncate.markup import join
from tl_truncate.report.pictures.canvas import WIDE, at_both_widths, picture, tag, words

_TALLEST = 440
_STOPS = (-1.0, -0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Cell:
    """One setting.

    Attributes:
        layer: its row.
        keep: its column.
        change: its colour.
        clear: of zero among all; others have a dot.
        name: of the setting.
        told: under the pointer.
    """

    layer: int
    keep: str
    change: float
    clear: bool
    name: str
    told: str


def heat(
    panels: Mapping[str, Sequence[Cell]],
    best: Cell | None,
    end: float,
    label: str,
    mark: str,
) -> Markup:
    """The picture at both widths.

    Args:
        panels: cells by the panel's title, such as a matrix; all have the same colours.
        best: the cell to be marked.
        end: the change at the ends of the colours.
        label: what a screen reader says.
        mark: what the marked cell is, such as the largest rise.
    """
    return at_both_widths(lambda width: _heat(panels, best, end, label, mark, width))


def _heat(
    panels: Mapping[str, Sequence[Cell]],
    best: Cell | None,
    end: float,
    label: str,
    mark: str,
    width: int,
) -> Markup:
    layers = sorted({cell.layer for cells in panels.values() for cell in cells})
    place = {layer: row for row, layer in enumerate(layers)}
    pitch = min(60.0, max(9.0, _TALLEST / len(layers)))
    top, left, gap, height = 24.0, 34.0, 14.0, pitch * len(layers)
    each = (width - left - gap * (len(panels) - 1)) / len(panels)
    each = min(each, 130.0 * max(len({cell.keep for cell in cells}) for cells in panels.values()))
    parts = [_rows(layers, top, height, pitch, left)]
    for number, (title, cells) in enumerate(panels.items()):
        start = left + number * (each + gap)
        keeps = list(dict.fromkeys(cell.keep for cell in cells))
        wide = each / len(keeps)
        parts.append(words(start + each / 2, 15, title, "middle", "title"))
        for column, keep in enumerate(keeps):
            parts.append(words(start + wide * (column + 0.5), top + height + 16, keep, "middle", "tick"))
        ordered = sorted(cells, key=lambda cell: cell is best)  # the mark lies above its neighbours
        for cell in ordered:
            x = start + wide * keeps.index(cell.keep)
            y = top + height - pitch * (place[cell.layer] + 1)  # layer 0 at the bottom
            parts.append(_cell(cell, x, y, wide, pitch, end, is_best=cell is best))
    middle = left + (each * len(panels) + gap * (len(panels) - 1)) / 2
    parts.append(words(middle, top + height + 34, "of the spectrum kept", "middle", "quiet"))
    parts.append(_scale(end, left, top + height + 46, mark, width))
    return picture(width, top + height + 82, label, parts, has_buttons=best is not None)


def _rows(layers: Sequence[int], top: float, height: float, pitch: float, left: float) -> Markup:
    every = max(1, math.ceil(14 / pitch))
    shown = [row for row in range(len(layers)) if row % every == 0]
    last = len(layers) - 1
    if last not in shown:  # the last layer is named, even where one below it is not
        shown = [row for row in shown if last - row >= every] + [last]
    parts = [
        words(left - 6, top + height - pitch * (row + 0.5) + 4, str(layers[row]), "end", "tick")
        for row in shown
    ]
    return join([*parts, words(0, 15, "layer", kind="quiet")])


def _cell(
    cell: Cell, x: float, y: float, width: float, height: float, end: float, *, is_best: bool
) -> Markup:
    share = max(-1.0, min(1.0, cell.change / end))
    parts = [
        tag("title", cell.told),
        tag(
            "rect",
            x=x + 0.5,
            y=y + 0.5,
            width=max(width - 1, 1.0),
            height=max(height - 1, 1.0),
            style=f"fill:{_colour(share)}",
        ),
    ]
    if not cell.clear:
        parts.append(tag("circle", cx=x + width / 2, cy=y + height / 2, r=1.5, class_="unclear"))
    named = dict(role="button", tabindex=0, aria_label=f"Best: {cell.told}") if is_best else {}
    return tag(
        "g", join(parts), class_="cell best" if is_best else "cell", data_setting=cell.name, **named
    )


def _colour(share: float) -> str:
    end = "--more" if share > 0 else "--less"
    return f"color-mix(in srgb,var({end}) {100 * abs(share):.0f}%,var(--middle))"


def _scale(end: float, left: float, y: float, mark: str, width: int) -> Markup:
    """The colours and what they stand for; changes beyond the ends have the ends' colours."""
    size = 36.0 if width == WIDE else 26.0
    start = left + 44
    parts = [words(start - 6, y + 10, f"−{end:.2g}", "end", "tick")]
    for number, share in enumerate(_STOPS):
        parts.append(
            tag(
                "rect",
                x=start + size * number,
                y=float(y),
                width=size,
                height=12.0,
                style=f"fill:{_colour(share)}",
            )
        )
    last = start + size * len(_STOPS)
    parts.append(words(last + 6, y + 10, f"+{end:.2g}", kind="tick"))
    parts.append(words(left, y + 30, f"dot: not clear of zero among all; frame: {mark}", kind="quiet"))
    return join(parts)
