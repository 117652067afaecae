"""Names at the ends of lines, instead of a legend: moved apart where lines end at one height."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def label_ends(
    axis: "Axes", ends: Sequence[tuple[float, str, str]], *, size: float = 7, height: float = 2.4
) -> None:
    """Writes names to the right of a panel, each as near to its line's end as the others leave room.

    Args:
        axis: whose limits are final.
        ends: of each line where it ends, its name and its colour.
        size: of the letters, in points.
        height: of the panel, in inches, about.
    """
    known = [end for end in ends if end[0] == end[0]]
    low, high = axis.get_ylim()
    places = [axis.transData.transform((0, value))[1] for value, _, _ in known]
    bottom, top = (axis.transData.transform((0, end))[1] for end in (low, high))
    shares = [(place - bottom) / (top - bottom) for place in places]
    for (_, name, colour), place in zip(known, apart(shares, 1.35 * size / 72 / height), strict=True):
        axis.annotate(
            name,
            (1.02, place),
            xycoords="axes fraction",
            fontsize=size,
            color=colour,
            va="center",
            annotation_clip=False,
        )


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Places from 0 to 1 moved as little as leaves a gap between each two, in the order that they had.

    Examples:
        >>> [round(place, 2) for place in apart([0.5, 0.5, 0.9], 0.2)]
        [0.4, 0.6, 0.9]
    """
    order = sorted(range(len(places)), key=lambda place: places[place])
    # Groups that touch lie around the mean of where their members would be.
    groups: list[list[float]] = [[places[place]] for place in order]
    while True:
        for at, (one, other) in enumerate(pairwise(groups)):
            if _middle(other) - _middle(one) < gap * (len(one) + len(other)) / 2 - 1e-12:
                groups[at : at + 2] = [one + other]
                break
        else:
            break
    found = [0.0] * len(places)
    spread = [
        _middle(group) + gap * (place - (len(group) - 1) / 2)
        for group in groups
        for place in range(len(group))
    ]
    for place, where in zip(order, spread, strict=True):
        found[place] = where
    return found


def _middle(group: Sequence[float]) -> float:
    return sum(group) / len(group)
