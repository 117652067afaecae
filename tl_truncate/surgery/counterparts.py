"""Which control is whose: a cut says itself what its controls are, whatever they are called."""

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

from tl_truncate.surgery.controls import RotatedComponents
from tl_truncate.surgery.cut import Cut, SiteCut


class UnknownControlsWarning(UserWarning):
    """A cut that cannot say what its controls are, since what it was fitted on is not at hand."""


def draw_key(cut: SiteCut) -> str:
    """A text that is the same for all draws of one control, and of a cut for equal ones only.

    Examples:
        >>> one, other = (tlt.RandomSubspace("blocks.0.mlp.W_in", 8, seed) for seed in (0, 1))
        >>> draw_key(one) == draw_key(other)
        True
    """
    return json.dumps(cut.without_draw(), sort_keys=True)


def own_controls(cut: SiteCut) -> dict[str, str]:
    """The controls of a cut: the kind of each, by the key of its draws.

    Raises:
        UnknownControlsWarning: as a warning, if the cut cannot say; it has none then.

    Examples:
        >>> own_controls(tlt.Ablated("blocks.0.mlp.W_in"))[
        ...     draw_key(tlt.RandomSubspace("blocks.0.mlp.W_in", 0, seed=7))
        ... ]
        'RandomSubspace'
    """
    if cut.is_drawn:
        return {}
    try:
        found = cut.controls(0)
    except (ValueError, OSError) as problem:
        warnings.warn(
            f"{cut!r} must say what its controls are, but cannot, and has none beside it. {problem}",
            UnknownControlsWarning,
            stacklevel=2,
        )
        return {}
    if isinstance(cut, Cut):
        # What it would choose of another basis: no control of every cut, but of this one if it is there.
        turned = RotatedComponents(cut.site, cut.keep, strength=cut.strength)
        found = {**found, turned.kind: turned}
    return {draw_key(control): kind for kind, control in found.items()}


def control_kind(placebo: Sequence[SiteCut], cuts: Sequence[SiteCut]) -> str | None:
    """The kind of control that cuts made together are of other such cuts; None if they are none.

    As `controls_of` draws them: each is of that kind for one of the cuts, or that cut itself.

    Examples:
        >>> cuts = [tlt.Cut("blocks.0.mlp.W_in", 8), tlt.Ablated("blocks.1.mlp.W_in")]
        >>> control_kind([tlt.RandomSubspace("blocks.0.mlp.W_in", 8, seed=3), cuts[1]], cuts)
        'RandomSubspace'
        >>> control_kind([tlt.RandomSubspace("blocks.0.mlp.W_in", 4), cuts[1]], cuts)
    """
    if not any(cut.is_drawn for cut in placebo) or len(placebo) != len(cuts):
        return None
    wanted = [{kind: key for key, kind in own_controls(cut).items()} for cut in cuts]
    there = Counter(map(draw_key, placebo))
    for kind in wanted[0]:
        if _are_of_kind(kind, there, cuts, wanted):
            return kind
    return None


def _are_of_kind(
    kind: str, there: Counter[str], cuts: Sequence[SiteCut], wanted: Sequence[Mapping[str, str]]
) -> bool:
    left = Counter(there)
    for cut, own in zip(cuts, wanted, strict=True):
        key = own.get(kind, "")
        left.subtract([key if left[key] > 0 else draw_key(cut)])
    return not any(left.values())
