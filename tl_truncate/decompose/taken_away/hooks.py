"""The removal of global parts as plain hooks, for tokens that are known."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tl_truncate.decompose.decompose import decompose
from tl_truncate.decompose.parts import Method
from tl_truncate.decompose.split import Split
from tl_truncate.decompose.taken_away.removal import Means, layers_of
from tl_truncate.surgery.hooks import HookFunction
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site


def global_removal_hooks(
    model: Any,
    tokens: Tensor | str | Sequence[Any],
    layers: int | Sequence[int],
    method: Method = "token_mean",
    *,
    means: Means | None = None,
    from_layer: int = 0,
    keep: Keep | int | float = 0.1,
    only: tuple[str, ...] | None = None,
    strength: float = 1.0,
    mask: Tensor | None = None,
    prepend_bos: bool | None = None,
) -> list[tuple[str, HookFunction]]:
    """Hooks that remove the global parts of some MLPs' outputs on given tokens, never at position 0.

    For `model.run_with_hooks(tokens, fwd_hooks=hooks)`. The parts are those of the model as it is now,
    so that the hooks fit these tokens alone; `without_global` reads the tokens as they pass.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tokens: `[batch, pos]`, or texts.
        layers: whose MLPs.
        mask: False or 0 at padding, where nothing is removed.

    The other arguments, and what is raised, are those of `without_global` and `decompose_mlp`.

    Returns:
        Pairs of a hook point's name and a function of (value, hook).

    Examples:
        >>> hooks = tlt.global_removal_hooks(model, tokens, [1], "own_path")
        >>> logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    """
    split = Split(method, means, from_layer, keep, only)
    chosen = layers_of(model, layers)
    parts = decompose(model, tokens, chosen, split, mask=mask, prepend_bos=prepend_bos)
    hooks: list[tuple[str, HookFunction]] = []
    for layer, own in parts.items():
        acting = torch.ones_like(own.tokens, dtype=torch.bool) if mask is None else mask.bool().clone()
        first = acting.int().argmax(1)
        acting[torch.arange(len(acting)), first] = False
        removed = strength * own.global_ * acting.to(own.global_.device)[..., None]
        name = locate(model, Site(layer, "W_out")).output.name
        hooks.append((name, _subtraction(removed)))
    return hooks


def _subtraction(removed: Tensor) -> HookFunction:
    def hook_function(value: Tensor, hook: Any = None) -> Tensor:
        if value.shape != removed.shape:
            raise ValueError(
                f"These hooks must run on the tokens that they were made for, of shape "
                f"{tuple(removed.shape[:2])}, got {tuple(value.shape[:2])}. Use tlt.without_global."
            )
        return value - removed.to(value.device, value.dtype)

    return hook_function
