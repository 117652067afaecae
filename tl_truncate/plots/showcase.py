"""One prompt's next words, uncut, cut and beside a control; below them what holds over all prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tl_truncate.plots.shared.needs import needs_matplotlib
from tl_truncate.plots.shared.style import GLOBAL, IN_CONTEXT
from tl_truncate.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A ground of its own, which is quiet on white pages and on dark ones.
_GROUND, _INK, _SOFT, _QUIET, _OTHER = "#f6f8fa", "#24292f", "#57606a", "#8c959f", "#c4cbd3"
#: Ends of the lower axis, in changes of a probability: words stand at its left, numbers at its right.
_LEFT, _RIGHT = -0.36, 0.34


@dataclass(frozen=True)
class Column:
    """What a model says next.

    Attributes:
        title: uncut, cut or control.
        words: what that is.
        tokens: the likeliest next tokens and their probabilities.
    """

    title: str
    words: str
    tokens: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Row:
    """A paired change over all prompts; of a control the mean over draws, and that of each draw."""

    name: str
    change: Estimate
    draws: tuple[float, ...] = ()


@needs_matplotlib
def showcase(
    prompt: str,
    *,
    answers: tuple[str, str],
    columns: Sequence[Column],
    rows: Sequence[Row],
    message: str,
) -> "Figure":
    """Draws what a cut does to one prompt's next words, and to all prompts.

    Args:
        prompt: what the model is asked.
        answers: the in-context one and the global one, in their colours.
        columns: three of them.
        rows: the cut's change first, then those of its controls.
        message: what the rows are.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.8), dpi=150, facecolor=_GROUND)
    figure.text(0.03, 0.925, f"“{prompt} …”", fontsize=15, color=_INK, style="italic")
    for place, column in enumerate(columns):
        left = 0.1 + 0.325 * place
        figure.text(left - 0.07, 0.84, column.title, fontsize=13, color=_INK, weight="bold")
        figure.text(left - 0.07, 0.795, column.words, fontsize=11, color=_SOFT)
        _bars(figure.add_axes((left, 0.49, 0.215, 0.27)), column.tokens, answers)
    figure.text(0.03, 0.4, message, fontsize=13, color=_INK, weight="bold")
    _forest(figure.add_axes((0.03, 0.06, 0.94, 0.31)), rows)
    return figure


def _bars(axis: "Axes", tokens: Sequence[tuple[str, float]], answers: tuple[str, str]) -> None:
    for place, (word, value) in enumerate(tokens):
        colour = {answers[0]: IN_CONTEXT, answers[1]: GLOBAL}.get(word, _OTHER)
        weight = "bold" if word in answers else "normal"
        axis.barh([place], [value], color=colour, height=0.72)
        shown = word.strip() or repr(word)
        axis.text(-0.02, place, shown, ha="right", va="center", fontsize=12, color=_INK, weight=weight)
        axis.text(value + 0.015, place, f"{value:.2f}", va="center", fontsize=11, color=_INK)
    axis.set(xlim=(0, 1.12), ylim=(len(tokens) - 0.4, -0.6), xticks=[], yticks=[])
    axis.axis("off")


def _forest(axis: "Axes", rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        colour, weight = (_INK, "normal") if place else (IN_CONTEXT, "bold")
        axis.plot(
            row.draws, [place] * len(row.draws), "o", color=_QUIET, markersize=7, alpha=0.35, mew=0
        )
        axis.plot([row.change.low, row.change.high], [place, place], color=colour, linewidth=2.5)
        axis.plot([float(row.change)], [place], "o", color=colour, markersize=8)
        axis.text(_LEFT, place, row.name, va="center", fontsize=12, color=_INK)
        number = _signed(row.change)
        axis.text(
            _RIGHT, place, number, ha="right", va="center", fontsize=12.5, color=colour, weight=weight
        )
    axis.axvline(0, color=_QUIET, linewidth=0.8, zorder=0)
    # A change that reaches further makes the axis longer and is never cut off.
    ends = [end for row in rows for end in (row.change.low, row.change.high, *row.draws)]
    reach = max([1.0, *(end / 0.26 for end in ends), *(-end / 0.16 for end in ends)])
    for text in axis.texts:
        text.set_x(text.get_position()[0] * reach)
    axis.set(xlim=(_LEFT * reach, _RIGHT * reach), ylim=(len(rows) - 0.5, -0.6), yticks=[])
    axis.set_xticks([place * reach for place in (-0.1, 0, 0.1, 0.2)])
    axis.set_xticklabels(
        [_signed(place * reach) for place in (-0.1, 0, 0.1, 0.2)], fontsize=10, color=_QUIET
    )
    axis.tick_params(length=0)
    axis.patch.set_visible(False)
    axis.set_frame_on(False)


def _signed(value: float) -> str:
    """A change with two digits; the sign is the one that typesetters use.

    Examples:
        >>> _signed(0.187), _signed(-0.052).replace(chr(0x2212), "minus "), _signed(-0.001)
        ('+0.19', 'minus 0.05', '0.00')
    """
    text = f"{abs(float(value)):.2f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else chr(0x2212)) + text
