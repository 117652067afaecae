"""A weight with some of its entries kept, in a basis of its input and one of its output."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_truncate.surgery.edit import Edit

# Products that differ by less than rounding are equal, and equal ones stay or go together.
_EQUAL = 1e-9


def heaviest(
    a: Float[Tensor, " n_in"], g: Float[Tensor, " n_out"], mass: float
) -> Bool[Tensor, "n_in n_out"]:
    """The entries with the largest products `a_i g_j`, the fewest with a share `mass` of their sum.

    Those that are as large as the smallest of them are among them too: eigenvectors of equal eigenvalues
    are arbitrary, and nothing must depend on which were found.

    Args:
        a: not negative.
        g: not negative.
        mass: from 0 to 1; 1 keeps everything, also entries without mass.

    Raises:
        ValueError: if all products are zero, so that there are no shares.

    Examples:
        >>> heaviest(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.0]), 0.7).tolist()
        [[True, False], [False, False]]
    """
    products = a[:, None] * g[None, :]
    if mass in (0.0, 1.0):
        return torch.full_like(products, mass == 1.0, dtype=torch.bool)
    if not float(products.max()) > 0:
        raise ValueError("There must be curvature to keep a share of it, got none on this corpus.")
    in_order = products.flatten().sort(descending=True).values
    sums = in_order.cumsum(0)
    last = int((sums < mass * sums[-1]).sum())
    smallest = in_order[min(last, len(in_order) - 1)] * (1 - _EQUAL)
    return (products >= smallest) & (products > 0)


@dataclass(frozen=True)
class Masked(Edit):
    """Some entries of the weight in two orthonormal bases: `W -> A (M * (A^T W G)) G^T`.

    It is linear in the weight and no projection of the output, so it needs the input: `kept = x W'`.

    Args:
        left: `[n_in, n_in]`, A.
        mask: `[n_in, n_out]`, M, 1 at what is kept and 0 elsewhere.
        right: `[n_out, n_out]`, G.
        weight: `[n_in, n_out]`, the W' that this makes of the stored weight.

    Source: K-FAC edits (arXiv 2510.24256).
    """

    left: Float[Tensor, "n_in n_in"]
    mask: Float[Tensor, "n_in n_out"]
    right: Float[Tensor, "n_out n_out"]
    weight: Float[Tensor, "n_in n_out"]

    @property
    def needs_input(self) -> bool:
        """Always."""
        return True

    @property
    def is_identity(self) -> bool:
        """Never: all kept is no mask."""
        return False

    def of_weight(self, weight: Tensor, strength: float) -> Float[Tensor, "n_in n_out"]:
        """The edited weight, whatever another cut has made of it before."""
        kept = masked(weight, self.left, self.mask, self.right)
        return weight - strength * (weight - kept) if strength != 1.0 else kept

    def moved(self, device: torch.device, dtype: torch.dtype) -> "Masked":
        """The same edit elsewhere."""
        tensors = (self.left, self.mask, self.right, self.weight)
        return Masked(*(tensor.to(device, dtype) for tensor in tensors))

    def kept(self, u: Tensor, x: Tensor | None) -> Tensor:
        """The output of what is kept."""
        if x is None:
            raise ValueError("Entries kept of a weight need the linear's input, got none.")
        return x @ self.weight


def masked(
    weight: Float[Tensor, "n_in n_out"], left: Tensor, mask: Tensor, right: Tensor
) -> Float[Tensor, "n_in n_out"]:
    """`A (M * (A^T W G)) G^T`.

    Examples:
        >>> mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> masked(torch.ones(2, 2), torch.eye(2), mask, torch.eye(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return left @ (mask * (left.T @ weight @ right)) @ right.T
