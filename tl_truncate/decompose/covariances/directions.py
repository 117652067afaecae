"""Along which directions something varies most: eigenvectors of a second moment."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Directions:
    """Eigenvectors of a second moment, in the order of how much lies along them.

    Attributes:
        values: `[rank]`, the mean square along each, largest first.
        vectors: `[width, rank]`, orthonormal columns.
        seen: how many of the values are more than rounding; the vectors of the others are arbitrary.
    """

    values: Float[Tensor, " rank"]
    vectors: Float[Tensor, "width rank"]
    seen: int

    def splits_unseen(self, kept: Int64[Tensor, " kept"]) -> bool:
        """Whether some of the arbitrary directions are kept and others are not."""
        unseen = len(self.values) - self.seen
        inside = int((kept >= self.seen).sum())
        return 0 < inside < unseen


def directions_of(
    moment: Float[Tensor, "width width"], rows: Float[Tensor, "width rank"] | None = None
) -> Directions:
    """The eigenvectors of a second moment, in float64.

    Args:
        moment: symmetric, without negative eigenvalues but by rounding.
        rows: an orthonormal basis of a space that everything is known to lie in, so that the
            eigenvectors are found in it; the whole space by default.

    Examples:
        >>> found = directions_of(torch.diag(torch.tensor([1.0, 4.0, 0.0])))
        >>> found.values.tolist(), found.vectors[:, 0].abs().tolist(), found.seen
        ([4.0, 1.0, 0.0], [0.0, 1.0, 0.0], 2)
    """
    precise = moment.double()
    inside = precise if rows is None else rows.double().T @ precise @ rows.double()
    values, vectors = torch.linalg.eigh((inside + inside.T) / 2)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    rounding = len(values) * torch.finfo(torch.float64).eps * values[0]
    found = vectors if rows is None else rows.double() @ vectors
    return Directions(values, found, int((values > rounding).sum()))
