"""Gradients through quantised linears, also where their kernel has none.

Some kernels cannot be gone back through: that of bitsandbytes' four bits on a CPU with AVX512-BF16, and
those of torchao that quantise the input. Autograd would then lose what comes through them, and keep what
comes along the residual stream. What the other kernels do is done for all of them: `dL/dx = dL/dy W^T`
with the dequantised W, as if the input had not been rounded.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tl_truncate.weights.holding.quantised import Quantised, quantised


@contextmanager
def gradients_through_quantised(model: nn.Module) -> Iterator[None]:
    """Inside, a quantised linear has the gradient of the linear of its dequantised weight.

    What it writes is left as it is. Its bias has no gradient.
    """
    with ExitStack() as stack:
        for module in model.modules():
            held = quantised(module, "weight")
            if held is not None:
                stack.callback(_replace_forward(module, _Through(held, module.forward)))
        yield


def _replace_forward(module: nn.Module, forward: Callable[..., Tensor]) -> Callable[[], None]:
    """Lets a module be called in another way; returns what undoes it."""
    before = module.__dict__.get("forward")  # accelerate puts one of its own there
    module.forward = forward

    def undo() -> None:
        del module.forward
        if before is not None:
            module.forward = before

    return undo


def own_forward(module: nn.Module) -> Callable[..., Any]:
    """What a module computes by, without what is put around it for gradients or for offloading.

    Examples:
        >>> own_forward(torch.nn.Linear(2, 3)).__func__ is torch.nn.Linear.forward
        True
    """
    found = module.forward
    if isinstance(found, _Through):
        found = found.inner
    inner: Callable[..., Any] = module.__dict__.get("_old_forward", found)  # accelerate keeps it there
    return inner


class _Through:
    def __init__(self, held: Quantised, forward: Callable[..., Tensor]) -> None:
        self._held, self.inner = held, forward

    def __call__(self, x: Tensor) -> Tensor:
        # A kernel without a gradient may fail, or warn, where one is asked for.
        with torch.no_grad():
            output = self.inner(x.detach())
        if not (torch.is_grad_enabled() and x.requires_grad):
            return output
        found: Tensor = _Linear.apply(x, output, self._held)  # type: ignore[no-untyped-call]
        return found


class _Linear(torch.autograd.Function):
    """What a linear has written, with the gradient by its input, for which its weight is dequantised."""

    @staticmethod
    def forward(x: Tensor, output: Tensor, held: Quantised) -> Tensor:
        return output.view_as(output)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.held, ctx.dtype = inputs[2], inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return (gradient.float() @ ctx.held.weight()).to(ctx.dtype), None, None
