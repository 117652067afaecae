"""The side of a spectrum that is not kept, from the matrix and the side that is."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.weights.linear import where_float64_is


def left_side(
    matrices: Sequence[Tensor], right: Float[Tensor, "n_out rank"]
) -> Float[Tensor, "n_in rank"]:
    """The left singular vectors of a matrix, or of a product of two, from its right ones.

    `W V = U diag(S)` up to the rounding of V. Dividing by S would enlarge that rounding to
    `eps s_1 / s_i`. But what of it is large lies along the components before: with `W V = Q R`, which
    takes them out one after the other, U is Q with the signs of R's diagonal, and nothing is divided.
    It is orthonormal in float64 whatever the singular values, zero included; of a product it stays in
    the space that its left matrix spans.

    Args:
        matrices: W; or the left and the right one of a product.
        right: V, largest component first, in the precision that it is kept in.

    Returns:
        U in the precision and on the device of V.

    Source: derived in the documentation, "One side of a spectrum".

    Examples:
        >>> weight = torch.diag(torch.tensor([3.0, 1.0, 0.0]))
        >>> left_side([weight], torch.eye(3)).diagonal().tolist()
        [1.0, 1.0, 1.0]
    """
    first, *rest = (where_float64_is(each.detach()).double() for each in matrices)
    read = right.to(first)
    for each in rest:
        read = each @ read
    if rest:
        span, first = torch.linalg.qr(first)
    found, upper = torch.linalg.qr(first @ read)
    found = torch.where(upper.diagonal() < 0, -found, found)
    return (span @ found if rest else found).to(right)
