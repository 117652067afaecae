"""Exact singular value factors of a matrix: by a Gram matrix where that is safe, else by a full SVD."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.weights.linear import compute_dtype, where_float64_is
from tl_truncate.weights.spectra.gram import add_lower_gram

Method = Literal["gram", "svd"]

# Largest tolerated departure of the vectors from orthonormality, by the precision that they are
# stored in: about the rounding of the stored numbers themselves.
_TOLERANCE = {torch.float32: 1e-7, torch.float64: 1e-12}


class NotFinite(ValueError):
    """A weight has a NaN or an infinity in it."""


@dataclass(frozen=True)
class Factors:
    """`W = U diag(S) V^T` with what was measured on the way.

    `defect` bounds how far V is from orthonormal before it is rounded to the stored precision.
    """

    U: Float[Tensor, "n_in rank"]
    S: Float[Tensor, " rank"]
    V: Float[Tensor, "n_out rank"]
    method: Method
    defect: float


def factorise(weight: Float[Tensor, "n_in n_out"]) -> Factors:
    """Factors a matrix exactly, with all arithmetic in float64 on the weight's device (on the CPU for
    mps, which has no float64).

    The eigenvectors of the Gram matrix on the short side give one set of singular vectors, and
    `W^T U / S` the other. Its columns are orthonormal up to `eps * (s_1 / s_r)^2`; where that exceeds
    the rounding of the stored precision, a full SVD is taken instead.

    Args:
        weight: of any floating dtype.

    Returns:
        Factors in float64 if the weight is in float64, else in float32, largest first.

    Raises:
        ValueError: if the weight has a NaN or an infinity, or no entries.

    Examples:
        >>> factorise(torch.diag(torch.tensor([1.0, 3.0]))).S.tolist()
        [3.0, 1.0]
    """
    if weight.ndim != 2 or weight.numel() == 0:
        raise ValueError(f"A weight must be a matrix with entries, got shape {tuple(weight.shape)}.")
    stored = compute_dtype(weight.dtype)
    matrix = _in_float64(weight)
    factors = _by_gram(matrix)
    if factors.defect > _TOLERANCE[stored]:
        del factors
        factors = _by_svd(matrix)
    del matrix
    return _stored(factors, stored)


def factorise_product(left: Float[Tensor, "n_in inner"], right: Float[Tensor, "inner n_out"]) -> Factors:
    """Factors a product of two matrices exactly, without forming it: as many as the inner side has.

    With `left = Q_l R_l` and `right^T = Q_r R_r`, the product is `Q_l (R_l R_r^T) Q_r^T`, and what is
    factored is the small matrix in the middle. So U and V span what the two matrices span, also where a
    singular value is zero.

    Args:
        left: of any floating dtype.
        right: of the same.

    Returns:
        Factors in float64 if the matrices are in float64, else in float32, largest first.

    Raises:
        ValueError: if a matrix has a NaN or an infinity.

    Examples:
        >>> factorise_product(torch.eye(3)[:, :2], torch.diag(torch.tensor([1.0, 3.0]))).S.tolist()
        [3.0, 1.0]
    """
    first, second = _in_float64(left), _in_float64(right)
    (q_left, r_left), (q_right, r_right) = torch.linalg.qr(first), torch.linalg.qr(second.T)
    middle = _by_svd(r_left @ r_right.T)
    shape = max(left.shape[0], right.shape[1])
    defect = torch.finfo(torch.float64).eps * shape
    factors = Factors(q_left @ middle.U, middle.S, q_right @ middle.V, "svd", defect)
    return _stored(factors, compute_dtype(left.dtype))


def _in_float64(weight: Tensor) -> Tensor:
    matrix = where_float64_is(weight.detach()).to(torch.float64)
    # A NaN or infinity anywhere shows in the sum, which is much cheaper than a look at each entry.
    if not bool(torch.isfinite(matrix.sum())):
        raise NotFinite("A weight must be finite to be factored, got NaN or infinity in it.")
    return matrix


def _stored(factors: Factors, dtype: torch.dtype) -> Factors:
    u, s, v = (tensor.to(dtype).contiguous() for tensor in (factors.U, factors.S, factors.V))
    return Factors(u, s, v, factors.method, factors.defect)


def _by_gram(matrix: Tensor) -> Factors:
    wide = matrix.shape[0] <= matrix.shape[1]
    tall = matrix.T if wide else matrix  # [long, short]
    gram = tall.new_zeros(tall.shape[1], tall.shape[1])
    add_lower_gram(gram, tall)
    values, vectors = torch.linalg.eigh(gram)  # it reads the lower triangle
    s = values.flip(0).clamp_min(0).sqrt()
    short = vectors.flip(1)
    smallest = float(s[-1] / s[0]) if float(s[0]) > 0 else 0.0
    if smallest == 0.0:
        return Factors(short, s, short, "gram", float("inf"))
    defect = torch.finfo(torch.float64).eps / smallest**2
    del gram, vectors
    long = (tall @ short).div_(s)
    u, v = (short, long) if wide else (long, short)
    return Factors(u, s, v, "gram", defect)


def _by_svd(matrix: Tensor) -> Factors:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return Factors(u, s, vh.T, "svd", torch.finfo(torch.float64).eps * max(matrix.shape))
