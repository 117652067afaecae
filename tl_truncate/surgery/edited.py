"""A weight as it would read with cuts made in it, for closed forms that need the matrix itself."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.surgery.cut import SiteCut
from tl_truncate.weights.linear import Linear, compute_dtype, where_float64_is
from tl_truncate.weights.locate import carrier
from tl_truncate.weights.reading import as_stored


def with_cuts(model: Any, linear: Linear, cuts: Sequence[SiteCut]) -> Linear:
    """A linear of all heads whose weight reads as the cuts of it, or of single heads, leave it.

    Args:
        model: that has the linear.
        linear: of all heads jointly.
        cuts: in the order in which they are made; those made in other matrices are passed over.
    """
    own = cuts_in(model, linear, cuts)
    if not own:
        return linear
    weight = cut_weight(model, linear, own, compute_dtype(linear.weight().dtype))
    return replace(linear, weight=lambda: weight)


def cuts_in(model: Any, linear: Linear, cuts: Sequence[SiteCut]) -> list[SiteCut]:
    """Those of some cuts that are made in a linear, of all heads or of single ones."""
    site = linear.site
    here = [cut for cut in cuts if cut.site.layer == site.layer]
    return [cut for cut in here if carrier(model, cut.site).site.matrix == site.matrix]


def cut_weight(
    model: Any, linear: Linear, cuts: Sequence[SiteCut], dtype: torch.dtype
) -> Float[Tensor, "n_in n_out"]:
    """A stored weight with cuts made in it one after the other, whatever is at work in the model.

    Args:
        model: that has the linear.
        linear: of all heads jointly.
        cuts: made in this linear, of all heads or of single ones; each from the spectrum of what is
            stored, as when they are at work together.
        dtype: to compute in.
    """
    with as_stored():  # what reads as cut already would be cut twice
        stored = linear.weight()
        stored = where_float64_is(stored) if dtype == torch.float64 else stored
        weight = stored.to(dtype, copy=True)
        for cut in cuts:
            part, edit = carrier(model, cut.site).part, cut.edit(model)
            weight[part] = edit.moved(weight.device, weight.dtype).of_weight(weight[part], cut.strength)
    return weight
