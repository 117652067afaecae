"""What the null of a search chooses among: random cuts in place of those of its grid."""

from collections.abc import Sequence
from typing import Any

from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.surgery.cut import SiteCut


def placebos_of(model: Any, grid: Sequence[SiteCut], seed: int) -> list[SiteCut]:
    """For each cut a random one of the same site and rank, or as much of another kind.

    Cuts of the same site and rank get draws of their own, so that there is as much to choose from. Where
    nothing or everything is kept there is nothing to draw; if that is all that there is, there are none.

    Examples:
        >>> cuts = [tlt.Cut("blocks.1.mlp.W_out", 4), tlt.Cut("blocks.1.mlp.W_out", 4)]
        >>> [placebo.seed for placebo in placebos_of(model, cuts, 3)]
        [3, 4]
    """
    found: dict[str, SiteCut] = {}
    drawn = False
    for cut in grid:
        for again in range(len(grid)):  # at most so many are alike
            placebo = _placebo(cut, seed + again)
            if placebo is None:
                break
            trivial, key = placebo.equals_the_cut(model), setting_key(placebo)
            if key not in found:
                found[key] = placebo
                drawn = drawn or not trivial
                break
            if trivial:
                break
    return list(found.values()) if drawn else []


def required_placebos(model: Any, grid: Sequence[SiteCut], seed: int) -> list[SiteCut]:
    """`placebos_of`, of which there must be some.

    Raises:
        ValueError: if there are none.
    """
    found = placebos_of(model, grid, seed)
    if not found:
        raise ValueError("null=True must have cuts with a random counterpart among them, got none.")
    return found


def _placebo(cut: SiteCut, seed: int) -> SiteCut | None:
    own = cut.controls(seed)
    return own.get("RandomSubspace", next(iter(own.values()), None))
