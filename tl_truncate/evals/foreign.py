"""Hooks of the user, which are at work in a model and in no key of its answers."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

#: Whose hooks come with a model or with its cuts, by the beginning of the function's module.
_OWN = ("transformer_lens.model_bridge.", "transformers.", "accelerate.", "torch.nn.", "tl_truncate.")
_POINTS = "transformer_lens.hook_points"


def foreign_hooks(model: nn.Module) -> Iterator[str]:
    """Names of the modules and hook points at which there is a forward hook of the user.

    Hooks of `torch` count as those of TransformerLens do; not those that a Bridge has put itself, that
    offload weights, or by which cuts are made.
    """
    for name, module in model.named_modules():
        hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        by_lens = [each for each in getattr(module, "fwd_hooks", ()) if not _comes_with_it(each)]
        if by_lens or not all(map(_is_own, hooks)):
            yield name or type(module).__name__


def _comes_with_it(handle: Any) -> bool:
    """Of a hook point: a permanent one of the Bridge itself, as in OPT's MLP."""
    return bool(handle.is_permanent) and _module(handle.user_hook).startswith(_OWN[0])


def _is_own(hook: Any) -> bool:
    # Those of hook points are known by whom they call.
    return f"{_module(hook)}.".startswith((*_OWN, f"{_POINTS}."))


def _module(hook: Any) -> str:
    while isinstance(hook, partial):
        hook = hook.func
    return str(getattr(hook, "__module__", None))


def require_no_hooks(model: nn.Module) -> None:
    """Refuses to keep answers of a model with hooks, which no key can tell apart.

    Raises:
        ValueError: if it has some.
    """
    for name in foreign_hooks(model):
        raise ValueError(
            f"The model must have no hooks where answers are kept, got one at {name}: what it does "
            "is in no answer's key. Remove it (model.reset_hooks(), or its handle.remove()), or leave "
            "answers and the run folder away."
        )
