"""Whether an MLP's output is what its block adds to the residual stream."""

from collections.abc import Sequence
from typing import Any

import torch

from tl_truncate.decompose.passes import attention_out_of, entry_of, exit_of, observe, own_pass
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site

# `|resid_post - resid_pre - attn_out - mlp_out|` over the size of what is added.
_AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-4}
_AGREEMENT_HALF = 5e-2
# Enough positions to tell, and few enough to cost nothing.
_POSITIONS = 8


@torch.no_grad()
def require_additive(model: Any, layers: Sequence[int]) -> None:
    """Checks `resid_post = resid_pre + attn_out + mlp_out` in some blocks, on a few tokens.

    Whether it holds is a matter of the blocks and of their weights as they are now, so it is looked at
    anew each time.

    Raises:
        ValueError: if it does not hold in a block.
    """
    modules = {}
    for layer in layers:
        block = model.blocks[layer]
        modules[f"{layer} post"] = exit_of(block)
        modules[f"{layer} pre"] = entry_of(block)
        modules[f"{layer} attn"] = attention_out_of(model, layer)
        modules[f"{layer} mlp"] = locate(model, Site(layer, "W_out")).output.module
    limits = [int(getattr(model.cfg, name, 0) or _POSITIONS) for name in ("d_vocab", "n_ctx")]
    with own_pass(model):
        seen = observe(model, torch.arange(min(_POSITIONS, *limits))[None], modules, until=max(layers))
    silent = sorted(set(modules) - set(seen))
    if silent:
        raise ValueError(
            "What a block adds to the residual stream must be visible, but a pass does not reach the "
            f"hook points (block, place) {', '.join(silent)}. This architecture cannot be decomposed."
        )
    for layer in layers:
        dtype = seen[f"{layer} mlp"].dtype
        before, after, attention, mlp = (
            seen[f"{layer} {name}"].double() for name in ("pre", "post", "attn", "mlp")
        )
        added, gap = attention.norm() + mlp.norm(), (after - before - attention - mlp).norm()
        # A block may add nothing, or much less than there is: then rounding is that of the stream.
        rounding = torch.finfo(dtype).eps * after.norm()
        if not gap <= _AGREEMENT.get(dtype, _AGREEMENT_HALF) * added + rounding:
            raise ValueError(
                "An MLP's output must be what its block adds to the residual stream (resid_post = "
                f"resid_pre + attn_out + mlp_out), but in block {layer} they differ by "
                f"{float(gap / added):.1e} of what is added. Architectures that normalise or scale an "
                "MLP's output behind it cannot be decomposed."
            )
