"""A difference of two weights as the product of two narrow matrices."""

import torch
from jaxtyping import Float
from torch import Tensor


def low_rank(
    difference: Float[Tensor, "n_in n_out"], tolerance: float
) -> tuple[Float[Tensor, "n_in rank"], Float[Tensor, "n_out rank"], float]:
    """The two factors of a matrix, `D = L R^T`, with as few columns as its rank.

    Rows and columns of zeros stay zeros to the bit: they are left out of the decomposition.

    Args:
        difference: D, in float64.
        tolerance: singular values up to it are rounding, and are left away.

    Returns:
        L, whose columns carry the singular values, R, whose columns are orthonormal, and the largest
        singular value that was left away.

    Examples:
        >>> left, right, rest = low_rank(torch.tensor([[0.0, 2.0, 4.0], [0.0, 1.0, 2.0]]).double(), 1e-9)
        >>> left.shape, right.shape, right[0].tolist(), rest < 1e-9
        (torch.Size([2, 1]), torch.Size([3, 1]), [0.0], True)
    """
    rows, columns = (difference != 0).any(1).nonzero()[:, 0], (difference != 0).any(0).nonzero()[:, 0]
    u, s, vh = torch.linalg.svd(difference[rows][:, columns], full_matrices=False)
    rank = int((s > tolerance).sum())
    left = difference.new_zeros(difference.shape[0], rank)
    right = difference.new_zeros(difference.shape[1], rank)
    left[rows], right[columns] = u[:, :rank] * s[:rank], vh[:rank].T
    return left, right, float(s[rank]) if rank < len(s) else 0.0
