"""One pass of a model, with what goes by at some of its modules."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from tl_truncate.replay.calls import last_logits
from tl_truncate.weights.bridge import is_bridge_block
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site

# Models in whose pass another pass is being made.
_inside: "weakref.WeakSet[Any]" = weakref.WeakSet()


class _Reached(Exception):
    """No error: the way out of a pass whose rest is not wanted."""


@torch.no_grad()
def observe(
    model: Any,
    tokens: Int64[Tensor, "batch pos"],
    modules: Mapping[str, nn.Module],
    *,
    inputs: Mapping[str, nn.Module] | None = None,
    until: int | None = None,
) -> dict[str, Tensor]:
    """The values that modules give in one pass.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tokens: without padding in front.
        modules: whose outputs are wanted, by any name.
        inputs: modules whose inputs are wanted.
        until: the last block that has to be run; the pass runs to the final norm by default.

    Returns:
        The values by name, in the order in which they went by.
    """
    seen: dict[str, Tensor] = {}
    with ending_after(model, until), ExitStack() as stack:
        for name, module in modules.items():

            def leave(module: Any, args: Any, value: Any, name: str = name) -> None:
                seen.setdefault(name, by_row(value[0] if isinstance(value, tuple) else value, tokens))

            stack.callback(module.register_forward_hook(leave).remove)
        for name, module in (inputs or {}).items():

            def enter(module: Any, args: Any, kwargs: Any, name: str = name) -> None:
                seen.setdefault(name, by_row(args[0] if args else next(iter(kwargs.values())), tokens))

            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        last_logits(model, tokens, 1)
    return seen


@contextmanager
def ending_after(model: Any, layer: int | None) -> Iterator[None]:
    """Lets a pass inside end behind a block, and leaves the context then; None runs all of it."""
    if layer is None:
        yield
        return
    handle = model.blocks[layer].register_forward_hook(_stop)
    try:
        with suppress(_Reached):
            yield
    finally:
        handle.remove()


def by_row(value: Tensor, tokens: Int64[Tensor, "batch pos"]) -> Tensor:
    """OPT's MLP lays all positions of all rows one behind the other."""
    return value.view(*tokens.shape, -1) if value.ndim == 2 and len(value) == tokens.numel() else value


def _stop(module: Any, args: Any, value: Any) -> None:
    raise _Reached


def outputs_of(
    model: Any, tokens: Int64[Tensor, "batch pos"], sites: Sequence[Site]
) -> dict[Site, Tensor]:
    """The outputs of linears, each behind its bias, `[batch, pos, width]`, from one pass.

    Raises:
        ValueError: if the model has no such site.
    """
    modules = {str(site): locate(model, site).output.module for site in sites}
    found = observe(model, tokens, modules, until=max(site.layer for site in sites))
    return {site: _columns(model, site, found[str(site)]) for site in sites}


def _columns(model: Any, site: Site, value: Tensor) -> Tensor:
    """Heads side by side, as the site's matrix has them."""
    linear = locate(model, site)
    flat = value if value.ndim == 3 else value.flatten(2)
    if site.head is None:
        return flat
    if linear.writes_one_head:
        raise ValueError(
            f"The output of {site} must be visible by itself, but one head of W_O is only seen summed "
            "with the others. Use all heads jointly."
        )
    width = linear.shape[1]
    return flat[..., site.head * width : (site.head + 1) * width]


def entry_of(block: Any) -> nn.Module:
    """The hook point at the residual stream that enters a block."""
    found: nn.Module = block.hook_in if is_bridge_block(block) else block.hook_resid_pre
    return found


def exit_of(block: Any) -> nn.Module:
    """The hook point at the residual stream that leaves a block."""
    found: nn.Module = block.hook_out if is_bridge_block(block) else block.hook_resid_post
    return found


def attention_out_of(model: Any, layer: int) -> nn.Module:
    """The hook point at what attention adds to the residual stream.

    It is that of the output projection, since some architectures put the residual into attention's own;
    which is asked where a Bridge computes the results of heads and goes past the projection.
    """
    linear = locate(model, Site(layer, "W_O"))
    by_head = linear.uses_result() and is_bridge_block(model.blocks[layer])
    found: nn.Module = model.blocks[layer].attn.hook_out if by_head else linear.output.module
    return found


@contextmanager
def own_pass(model: nn.Module) -> Iterator[None]:
    """For passes in between, of which the model's user is not to see anything.

    The hooks at the hook points are set aside, and edits that read the tokens take no notice.
    """
    if model in _inside:
        yield
        return
    points = [module for module in model.modules() if hasattr(module, "fwd_hooks")]
    aside = [(point, point._forward_hooks, point._backward_hooks) for point in points]
    _inside.add(model)
    for point, forward, backward in aside:
        point._forward_hooks, point._backward_hooks = type(forward)(), type(backward)()
    try:
        yield
    finally:
        for point, forward, backward in aside:
            point._forward_hooks, point._backward_hooks = forward, backward
        _inside.discard(model)


def is_own_pass(model: nn.Module) -> bool:
    """Whether the pass that is going on in a model is one in between."""
    return model in _inside
