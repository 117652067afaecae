"""Whether a figure can be read: no text lies on another, and none leaves the sheet."""

from itertools import combinations

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

_AIR = 1.0  # pixels that boxes of text may share: they are a little larger than their letters


def texts(figure):
    """All text that is drawn. A tick beyond the ends of its axis has a label that is not."""
    ticks = {text for axis in figure.findobj(Axis) for text in axis.findobj(Text)}
    drawn = [
        label
        for axes in figure.axes
        if axes.axison and axes.get_visible()
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis._update_ticks()
        for label in (tick.label1, tick.label2)
    ]
    drawn += [axis.label for axes in figure.axes if axes.axison for axis in (axes.xaxis, axes.yaxis)]
    drawn += [text for text in figure.findobj(Text) if text not in ticks]
    return [text for text in drawn if text.get_visible() and text.get_text().strip()]


def faults(figure):
    """What is wrong with a figure's text, in words."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    sheet = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts(figure)]
    assert boxes, "a figure must say what it shows"
    out = [
        f"{told!r} leaves the sheet"
        for told, box in boxes
        if min(box.x0 - sheet.x0, box.y0 - sheet.y0, sheet.x1 - box.x1, sheet.y1 - box.y1) < -_AIR
    ]
    for (one, left), (other, right) in combinations(boxes, 2):
        wide = min(left.x1, right.x1) - max(left.x0, right.x0)
        high = min(left.y1, right.y1) - max(left.y0, right.y0)
        if wide > _AIR and high > _AIR:
            out.append(f"{one!r} lies on {other!r}")
    return out
