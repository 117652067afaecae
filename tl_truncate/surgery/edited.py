"""A weight as it would read with cuts made in it, for closed forms that need the matrix itself."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.edit import Edit, in_compute_precision
from tl_truncate.weights.linear import Linear, head_slice


def edited_weight(
    weight: Float[Tensor, "n_in n_out"], edit: Edit, strength: float
) -> Float[Tensor, "n_in n_out"]:
    """`W - strength * R`: what the edit makes of the outputs of all unit inputs, `I W = W`.

    Examples:
        >>> from tl_truncate.surgery.edit import project_components
        >>> first = project_components(torch.eye(2), torch.tensor([0]))
        >>> edited_weight(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), first, 1.0).tolist()
        [[1.0, 0.0], [3.0, 0.0]]
    """
    inputs = (
        torch.eye(len(weight), dtype=weight.dtype, device=weight.device) if edit.needs_input else None
    )
    return edit.moved(weight.device, weight.dtype).apply(weight, None, inputs, strength)


def with_cuts(model: Any, linear: Linear, cuts: Sequence[SiteCut]) -> Linear:
    """A linear of all heads whose weight reads as the cuts of it, or of single heads, leave it.

    Args:
        model: that has the linear.
        linear: of all heads jointly.
        cuts: in the order in which they are made; those of other matrices are passed over.
    """
    site = linear.site
    own = [cut for cut in cuts if (cut.site.layer, cut.site.matrix) == (site.layer, site.matrix)]
    if not own:
        return linear
    weight = in_compute_precision(linear.weight()).clone()
    for cut in own:
        axis = 0 if site.matrix == "W_O" else 1
        part = head_slice(cut.site, weight.shape[axis], linear.n_heads)
        where = (part, slice(None)) if axis == 0 else (slice(None), part)
        weight[where] = edited_weight(weight[where], cut.edit(model), cut.strength)
    return replace(linear, weight=lambda: weight)
