"""Whether an MLP's output is what its block adds to the residual stream."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from tl_truncate.decompose.passes import entry_of, exit_of, observe
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site

# `|resid_post - resid_pre - attn_out - mlp_out|` over the size of what is added.
_AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-4}
_AGREEMENT_HALF = 5e-2
# Enough positions to tell, and few enough to cost nothing.
_POSITIONS = 8
_checked: "weakref.WeakKeyDictionary[Any, set[int]]" = weakref.WeakKeyDictionary()


def require_additive(model: Any, tokens: Int64[Tensor, "batch pos"], layers: Sequence[int]) -> None:
    """Checks `resid_post = resid_pre + attn_out + mlp_out`, once for each block of a model.

    Raises:
        ValueError: if it does not hold in a block.
    """
    done = _checked.setdefault(model, set())
    left = sorted(set(layers) - done)
    if not left:
        return
    modules = {}
    for layer in left:
        block = model.blocks[layer]
        modules[f"{layer} post"] = exit_of(block)
        modules[f"{layer} pre"] = entry_of(block)
        modules[f"{layer} attn"] = locate(model, Site(layer, "W_O")).output.module
        modules[f"{layer} mlp"] = locate(model, Site(layer, "W_out")).output.module
    seen = observe(model, tokens[:1, :_POSITIONS], modules, until=None)
    for layer in left:
        before, after, attention, mlp = (
            seen[f"{layer} {name}"].double() for name in ("pre", "post", "attn", "mlp")
        )
        gap = float((after - before - attention - mlp).norm() / (attention.norm() + mlp.norm()))
        if not gap <= _AGREEMENT.get(seen[f"{layer} mlp"].dtype, _AGREEMENT_HALF):
            raise ValueError(
                "An MLP's output must be what its block adds to the residual stream (resid_post = "
                f"resid_pre + attn_out + mlp_out), but in block {layer} they differ by {gap:.1e} of "
                "what is added. Architectures that normalise or scale an MLP's output behind it cannot "
                "be decomposed."
            )
        done.add(layer)
