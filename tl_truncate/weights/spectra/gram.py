"""Sums of outer products of rows, of which one triangle is enough."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor


def no_gram(width: int) -> Float[Tensor, "width width"]:
    """The sum over no rows, in float64."""
    return torch.zeros(width, width, dtype=torch.float64)


def add_lower_gram(
    sums: Float[Tensor, "width width"], rows: Float[Tensor, "rows width"], blocks: int = 8
) -> None:
    """Adds the lower triangle of `A^T A` in place, in blocks of rows: 9/16 of the work.

    What is above the diagonal is not meant to be read; `mirror` puts it right.

    Args:
        sums: in the precision of the rows; on any device.
        rows: A.
        blocks: of the triangle.
    """
    edges = torch.linspace(0, rows.shape[1], blocks + 1).long().tolist()
    for start, stop in pairwise(edges):
        left, right, into = rows[:, start:stop].T, rows[:, :stop], sums[start:stop, :stop]
        if sums.device == rows.device:
            into.addmm_(left, right)
        else:
            into += (left @ right).to(sums.device)


def mirror(sums: Float[Tensor, "width width"]) -> Float[Tensor, "width width"]:
    """Makes a matrix symmetric in place, by its lower triangle.

    Examples:
        >>> mirror(torch.tensor([[1.0, 9.0], [2.0, 3.0]])).tolist()
        [[1.0, 2.0], [2.0, 3.0]]
    """
    sums.tril_()
    # Its own transpose must not be read while it is being written.
    return sums.add_(sums.tril(-1).T)
