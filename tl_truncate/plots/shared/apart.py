"""Figures tell settings apart by site, kind and what is kept: others must not share a place."""

from collections.abc import Callable, Sequence

from tl_truncate.experiments.scoring.drawn import draws_together
from tl_truncate.surgery.cut import SiteCut


def require_apart(cuts: Sequence[SiteCut], said_keep: Callable[[float | int | str], str]) -> None:
    """Checks that a figure has a place for each setting; a control's draws are one setting.

    Args:
        cuts: that are drawn.
        said_keep: as the figure writes what is kept.

    Raises:
        ValueError: if two share a place, such as cuts of two strengths, with which they are.

    Examples:
        >>> require_apart([tlt.Cut("blocks.0.mlp.W_in", keep) for keep in (0.1, 0.5)], str)
    """
    places: dict[tuple[str, str, str], list[SiteCut]] = {}
    for first, *_ in draws_together(cuts):
        cut = cuts[first]
        place = (str(cut.site), cut.kind, said_keep(cut.label))
        places.setdefault(place, []).append(cut)
    for found in places.values():
        if len(found) > 1:
            raise ValueError(
                "Settings in this figure must differ in site, kind or what is kept, got "
                f"{len(found)} that it would draw as one: {', '.join(map(repr, found))}. Sweep them "
                "apart, one in each call (cuts=[...]), and draw each result."
            )
