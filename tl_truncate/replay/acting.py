"""Hooks of PyTorch on a model's modules: do they change what passes, or only look at it?"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

#: Whose hooks are not looked at: this package's, and TransformerLens' at its hook points.
_KNOWN = (__name__.split(".")[0] + ".", "transformer_lens.hook_points")


class Acting:
    """Which modules have a hook, not this package's, that has changed anything so far.

    A hook that counts or keeps what it sees may see a batch in parts and in copies. One that changes
    what passes may go by absolute positions, or by the batch, and would change something else there.

    Attributes:
        places: the modules' names.
    """

    def __init__(self) -> None:
        self.places: set[str] = set()

    @property
    def now(self) -> bool:
        """Whether there is one."""
        return bool(self.places)

    def watched(self, place: str, hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a hook, and sees whether it hands on something else or writes into what it was given."""
        given = list(_tensors(args))
        before = [_version(each) for each in given]
        left = hook(*args, **kwargs)
        # The last argument is what is handed on: the output, or of a hook before a module its input.
        same = left is None or left is args[-1]
        written = any(
            old is None or _version(each) != old for each, old in zip(given, before, strict=True)
        )
        if written or not same:
            self.places.add(place)
        return left


@contextmanager
def watch_hooks(
    model: nn.Module, modules: Iterable[tuple[str, nn.Module]] | None = None
) -> Iterator[Acting]:
    """Sees whether hooks on a model's modules act in the passes that are made meanwhile.

    Hooks of TransformerLens' hook points are not looked at: where they stand, it can be told without.

    Args:
        model: whose modules are called.
        modules: all of them by name, where they are at hand: to find them takes milliseconds.

    Examples:
        >>> handle = model.blocks[1].register_forward_hook(lambda module, args, output: None)
        >>> with watch_hooks(model) as acting:
        ...     logits = model(tokens)
        >>> acting.now
        False
        >>> handle.remove()
    """
    acting = Acting()
    changed: list[tuple[dict[int, Any], int, Any]] = []
    for name, module in model.named_modules() if modules is None else modules:
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in hooks.items():
                if not _is_known(hook):
                    changed.append((hooks, key, hook))
                    hooks[key] = partial(acting.watched, name, hook)
    try:
        yield acting
    finally:
        for hooks, key, hook in changed:
            # One that was removed meanwhile stays away.
            if key in hooks:
                hooks[key] = hook


def _is_known(hook: Any) -> bool:
    while isinstance(hook, partial):
        # What another watch calls is looked at, and not that watch.
        watched = isinstance(getattr(hook.func, "__self__", None), Acting)
        hook = hook.args[-1] if watched else hook.func
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return str(module).startswith(_KNOWN)


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was written to; None where nobody counts it."""
    return None if torch.is_inference(tensor) else tensor._version


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
