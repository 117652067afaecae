"""A norm with its scale held fixed: a linear map, found from what went in and what came out."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_truncate.weights.holding.offloaded import real

# How far a norm's output may be from the linear map's, over its size. Transformers' RMSNorm computes in
# float32 also where the model is in float64.
_AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-4}
_AGREEMENT_HALF = 5e-2


@dataclass(frozen=True)
class FrozenNorm:
    """`x -> (x - mean(x)) / scale * weight + bias` at each position, without the mean for an RMS norm.

    Attributes:
        scale: `[batch, pos, 1]`, fixed at what it was in the pass.
        weight, bias: `[d_model]`.
        centres: whether the mean over d_model is subtracted.
    """

    scale: Float[Tensor, "batch pos 1"]
    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centres: bool

    def linear(self, x: Float[Tensor, "*streams batch pos d_model"]) -> Tensor:
        """The map without its bias."""
        centred = x - x.mean(-1, keepdim=True) if self.centres else x
        return centred / self.scale * self.weight

    def to(self, dtype: torch.dtype) -> "FrozenNorm":
        """The map in another precision."""
        return FrozenNorm(self.scale.to(dtype), self.weight.to(dtype), self.bias.to(dtype), self.centres)

    def rows(self, count: int) -> "FrozenNorm":
        """The map of the first rows."""
        return FrozenNorm(self.scale[:count], self.weight, self.bias, self.centres)


def frozen_norm(
    module: nn.Module, x: Float[Tensor, "batch pos d_model"], y: Float[Tensor, "batch pos d_model"]
) -> FrozenNorm:
    """The linear map that a norm was in one pass.

    The scale is the least-squares fit of `y - bias` by the unscaled map, in float64; LayerNorm, RMSNorm
    and no norm at all are tried, and the one that fits is taken.

    Args:
        module: the norm; its weight and bias are `weight`, `bias` or `w`, `b`.
        x: what went in.
        y: what came out.

    Raises:
        ValueError: if none fits.
    """
    precise, out = x.double(), y.double()
    weight, bias = _parameter(module, ("weight", "w")), _parameter(module, ("bias", "b"))
    ones, zeros = torch.ones_like(precise[0, 0]), torch.zeros_like(precise[0, 0])
    found = []
    for own in (ones,) if weight is None else (weight.double(), 1 + weight.double(), ones):
        offset = zeros if bias is None else bias.double()
        for centres in (True, False):
            found.append(_fit(precise, out, own, offset, centres))
    gap, best = min(found, key=lambda each: each[0])
    if not gap <= _AGREEMENT.get(y.dtype, _AGREEMENT_HALF):
        raise ValueError(
            "A norm must be LayerNorm or RMSNorm to be held fixed, but the output of "
            f"{type(module).__name__} differs from both by {gap:.1e} of its size."
        )
    return best


def _fit(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, centres: bool) -> tuple[float, FrozenNorm]:
    unscaled = (x - x.mean(-1, keepdim=True) if centres else x) * weight
    target = y - bias
    size, crossed = unscaled.square().sum(-1, keepdim=True), (unscaled * target).sum(-1, keepdim=True)
    # Where nothing enters, or the norm's weight is zero, any scale leaves nothing.
    scale = torch.where(size == 0, 1.0, size / crossed)
    length = target.norm().clamp_min(torch.finfo(torch.float64).tiny)
    gap = float((unscaled / scale - target).norm() / length)
    return (gap if gap == gap else float("inf")), FrozenNorm(scale, weight, bias, centres)


def no_norm(like: Float[Tensor, "batch pos d_model"]) -> FrozenNorm:
    """The identity, for models without norms."""
    ones = torch.ones_like(like[0, 0], dtype=torch.float64)
    return FrozenNorm(torch.ones_like(like[..., :1], dtype=torch.float64), ones, 0 * ones, False)


def _parameter(module: Any, names: tuple[str, ...]) -> Tensor | None:
    for name in names:
        found = real(module, name)
        if found is not None:
            return found.detach()
    return None
