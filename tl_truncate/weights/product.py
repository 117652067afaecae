"""Whether a module writes `x W + b` of the weight that it shows.

An adapter that was put in (peft's `lora.Linear`), a linear that rounds its weight or its inputs anew in
each pass (BitNet, quantisation-aware training) or a method that was put onto one module write something
else, while their `weight` looks like any other. Torch's and transformers' own linears, and the kernels
of bitsandbytes, are known; any other module is asked, with one random row.
"""

import torch
from torch import Tensor, nn

from tl_truncate.weights.holding.forward import is_known
from tl_truncate.weights.stored import Stored

# How far two ways of adding up one product lie apart, of its length.
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def require_product(name: str, stored: Stored, bias: Tensor | None) -> None:
    """Refuses a linear that does not multiply by its weight.

    Args:
        name: of the site.
        stored: its weight, of which there are numbers.
        bias: that the module shows.

    Raises:
        ValueError: if the module writes something else than `x W + b`, or cannot be asked.
    """
    module = stored.module
    if is_known(module):
        return
    weight = stored.as_read().detach()
    found = _difference(module, weight, bias)
    if found is not None and found <= _ROUNDING.get(weight.dtype, 1e-5):
        return
    kind = f"{type(module).__module__}.{type(module).__name__}"
    got = "cannot be called with one row" if found is None else f"is {found:.0%} away from it"
    raise ValueError(
        f"{name} must write x W + b of its weight, but what {kind} writes {got}. Merge an adapter into "
        "the weight first (merge_and_unload(), before the Bridge is made); take a plain linear in place "
        "of one that rounds its weight or its inputs in each pass."
    )


def _difference(module: nn.Module, weight: Tensor, bias: Tensor | None) -> float | None:
    """How far a module's output is from `x W + b`, of that; None where it has none."""
    drawn = torch.randn(1, len(weight), generator=torch.Generator().manual_seed(0))
    x = drawn.to(weight.device, weight.dtype)
    devices = [weight.device] if weight.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices):  # an adapter may drop inputs out
        try:
            written = module.forward(x)
        except (TypeError, RuntimeError):
            return None
        wanted = x @ weight
        if bias is not None:
            wanted = wanted + bias
        if not isinstance(written, Tensor) or written.shape != wanted.shape:
            return None
        return float((written - wanted).float().norm() / wanted.float().norm())
