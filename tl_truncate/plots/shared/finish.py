"""The last touch to every figure: titles wrap where panels end, tick labels stay apart."""

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_AIR = 1.04  # what lies beside a line of text, as a share of it


def finish(figure: "Figure") -> "Figure":
    """Wraps titles by their measured width and turns tick labels that would touch.

    The room that there is depends on what stands in it, so it is laid out, mended, and laid out again.
    """
    renderer = _laid_out(figure)
    for axis in figure.axes:
        _turn_labels(axis, renderer)
        _thin_labels(axis, renderer)
    renderer = _laid_out(figure)
    for axis in figure.axes:
        _wrap(axis.title, axis.get_window_extent(renderer).width, renderer)
        _wrap(axis.xaxis.label, axis.get_window_extent(renderer).width, renderer)
        _wrap(axis.yaxis.label, axis.get_window_extent(renderer).height, renderer)
    whole = figure.bbox
    for text, room in (
        (figure._suptitle, whole.width),  # type: ignore[attr-defined]
        (figure._supylabel, whole.height),  # type: ignore[attr-defined]
    ):
        if text is not None:
            _wrap(text, 0.98 * room, renderer)
    _laid_out(figure)
    return figure


def _laid_out(figure: "Figure") -> "RendererBase":
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer: RendererBase = canvas.get_renderer()
    return renderer


def _wrap(text: "Text", room: float, renderer: "RendererBase") -> None:
    """Breaks a text between words, so that each line is as long as the room allows.

    A word that has no room by itself, such as a task's long name, is broken too.
    """
    words = text.get_text().split()
    parts = [part for word in words for part in _broken(text, word, room, renderer)]
    lines: list[str] = []
    for word in parts:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _length(text, longer, renderer) * _AIR <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > 1 or len(text.get_text().splitlines()) > 1:
        text.set_text("\n".join(lines))


def _broken(text: "Text", word: str, room: float, renderer: "RendererBase") -> list[str]:
    """A word in parts that fit, ending at a mark in it where there is one."""
    parts: list[str] = []
    while len(word) > 1 and _length(text, word, renderer) * _AIR > room:
        fits = 1
        while _length(text, word[: fits + 1], renderer) * _AIR <= room:
            fits += 1
        end = max(word.rfind(mark, 0, fits) for mark in "_-/.") + 1 or fits
        parts.append(word[:end])
        word = word[end:]
    return [*parts, word]


def _length(text: "Text", line: str, renderer: "RendererBase") -> float:
    width, _, _ = renderer.get_text_width_height_descent(line, text.get_fontproperties(), ismath=False)
    return float(width)


def _turn_labels(axis: "Axes", renderer: "RendererBase") -> None:
    shown = [label for label in axis.get_xticklabels() if label.get_text() and label.get_visible()]
    boxes = sorted((label.get_window_extent(renderer) for label in shown), key=lambda box: box.x0)
    if any(left.x1 + 2 > right.x0 for left, right in pairwise(boxes)):
        axis.tick_params(axis="x", rotation=90)


def _thin_labels(axis: "Axes", renderer: "RendererBase") -> None:
    """Of the numbers at the left every other one goes until none lies on another."""
    labels = [label for label in axis.get_yticklabels() if label.get_text() and label.get_visible()]
    labels.sort(key=lambda label: label.get_window_extent(renderer).y0)
    if not labels or not all(label.get_text().isdigit() for label in labels):
        return  # names are all wanted
    while _touch(labels, renderer):
        for label in labels[1::2]:
            label.set_visible(False)
        labels = labels[::2]


def _touch(labels: "list[Text]", renderer: "RendererBase") -> bool:
    boxes = [label.get_window_extent(renderer) for label in labels]
    return any(low.y1 > high.y0 for low, high in pairwise(boxes))
