"""A weight as it would read with cuts made in it, for closed forms that need the matrix itself."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.weights.linear import Linear
from tl_truncate.weights.locate import carrier
from tl_truncate.weights.reading import as_stored


def with_cuts(model: Any, linear: Linear, cuts: Sequence[SiteCut]) -> Linear:
    """A linear of all heads whose weight reads as the cuts of it, or of single heads, leave it.

    Args:
        model: that has the linear.
        linear: of all heads jointly.
        cuts: in the order in which they are made; those made in other matrices are passed over.
    """
    site = linear.site
    here = [cut for cut in cuts if cut.site.layer == site.layer]
    made = [(cut, carrier(model, cut.site)) for cut in here]
    own = [(cut, where) for cut, where in made if where.site.matrix == site.matrix]
    if not own:
        return linear
    with as_stored():  # what reads as cut already would be cut twice
        weight = in_compute_precision(linear.weight()).clone()
        for cut, where in own:
            part, edit = where.part, cut.edit(model)
            weight[part] = edit.moved(weight.device, weight.dtype).of_weight(weight[part], cut.strength)
    return replace(linear, weight=lambda: weight)
