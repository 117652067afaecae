"""Direct logit attribution: what a part of the residual stream says through the frozen final norm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.decompose.norms import FrozenNorm, frozen_norm, no_norm
from tl_truncate.weights.unembedding import unembedding


@dataclass(frozen=True, eq=False)
class Readout:
    """`part -> norm(part) W_U`, with the final norm's scale as it was in the pass, without its bias.

    Attributes:
        norm: the frozen final norm.
        unembedding: `[d_model, d_vocab]`, the model's own.
    """

    norm: FrozenNorm
    unembedding: Float[Tensor, "d_model d_vocab"]

    def logits(
        self,
        part: Float[Tensor, "batch pos d_model"],
        token_ids: Sequence[int] | None = None,
        *,
        centred: bool = True,
    ) -> Float[Tensor, "batch pos token"]:
        """What a part adds to logits, in nats; centred by the mean over the vocabulary.

        Args:
            part: of the residual stream.
            token_ids: which tokens; all by default.
            centred: subtracts the part's mean logit, which a softmax does not see.
        """
        directions = self.norm.linear(part.double())
        whole = self.unembedding
        chosen = whole if token_ids is None else whole[:, list(token_ids)]
        found = directions @ chosen.double()
        if centred:
            mean = torch.ones(whole.shape[1], 1, dtype=whole.dtype, device=whole.device)
            found = found - directions @ (whole @ mean / whole.shape[1]).double()
        return found

    def gram(self) -> Float[Tensor, "d_model d_model"]:
        """`C C^T` of the centred unembedding: products of parts' logits without the logits."""
        whole = self.unembedding.float()
        mean = whole.mean(1).double()
        return (whole @ whole.T).double() - whole.shape[1] * torch.outer(mean, mean)

    def with_scale(self, scale: Float[Tensor, "batch pos 1"]) -> "Readout":
        """The readout with the norm's scale at other places."""
        norm = FrozenNorm(scale, self.norm.weight, self.norm.bias, self.norm.centres)
        return Readout(norm, self.unembedding)


def readout(
    model: Any, before: Float[Tensor, "batch pos d_model"], after: Float[Tensor, "batch pos d_model"]
) -> Readout:
    """The readout of a pass, from what entered the final norm and what left it."""
    norm = getattr(model, "ln_final", None)
    frozen = no_norm(before) if norm is None else frozen_norm(norm, before, after)
    return Readout(frozen, unembedding(model))
