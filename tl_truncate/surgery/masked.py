"""A cut with a strength for each component, which may be learned: autograd sees the strengths."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.surgery.cut import SiteCut, fill
from tl_truncate.surgery.edit import Edit
from tl_truncate.weights.site import Site


@dataclass(frozen=True)
class MaskedProjection(Edit):
    """`u -> u - sum_i m_i (u . v_i) v_i`, with the strengths read anew in every pass.

    Strengths of 0 leave the output as it is to the last bit, strengths of 0 and 1 are a projection.

    Args:
        vectors: `[n_out, rank]`, orthonormal columns inside the row space of the weight.
        strengths: `[rank]`, of the caller's own, who may change them and ask for their gradient.

    Examples:
        >>> edit = MaskedProjection(torch.eye(3)[:, :2], torch.tensor([0.5, 0.0]))
        >>> edit.kept(torch.ones(3), None).tolist()
        [0.5, 1.0, 1.0]
    """

    vectors: Float[Tensor, "n_out rank"]
    strengths: Float[Tensor, " rank"]

    @property
    def needs_input(self) -> bool:
        """Never: the output is enough."""
        return False

    @property
    def is_identity(self) -> bool:
        """Never for good, since the strengths may change."""
        return False

    def moved(self, device: torch.device, dtype: torch.dtype) -> "MaskedProjection":
        """The same edit with its vectors elsewhere; the strengths stay those of the caller."""
        return MaskedProjection(self.vectors.to(device, dtype).contiguous(), self.strengths)

    def removed(self, u: Tensor, x: Tensor | None) -> Tensor:
        """What the strengths take from `u`."""
        return ((u @ self.vectors) * self.strengths.to(u.device, u.dtype)) @ self.vectors.T

    def kept(self, u: Tensor, x: Tensor | None) -> Tensor:
        """What they leave of it."""
        return u - self.removed(u, x)

    def apply(self, y: Tensor, bias: Tensor | None, x: Tensor | None, strength: float) -> Tensor:
        """The output less what is removed; the bias is not taken off and put on again."""
        return y - strength * self.removed(y if bias is None else y - bias, x)


@dataclass(frozen=True, repr=False)
class _MaskedCut(SiteCut):
    """A mask with a cut's interface, so that it can be at work through hooks; it has no JSON."""

    mask: MaskedProjection

    def __init__(self, site: Site, mask: MaskedProjection) -> None:
        fill(self, site=site, strength=1.0, mask=mask)

    def edit(self, model: Any) -> Edit:
        """The mask."""
        return self.mask

    def __repr__(self) -> str:
        return f"a mask of {int((self.mask.strengths != 0).sum())} components of {self.site}"


def masked_cut(
    site: Site, vectors: Float[Tensor, "n_out rank"], strengths: Float[Tensor, " rank"]
) -> SiteCut:
    """A cut of one site that takes from each direction what the strengths say at that moment."""
    return _MaskedCut(site, MaskedProjection(vectors, strengths))
