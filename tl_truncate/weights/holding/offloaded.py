"""Weights that accelerate keeps on disk or in the host's memory, and puts in place for a pass.

Between passes such a parameter is on the meta device, where it has a shape and no numbers. The hook that
puts it in place knows where the numbers are, and they are read from there: one weight at a time, as a
pass does, without touching the model.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def real(module: nn.Module, name: str) -> Tensor | None:
    """A parameter or buffer with its numbers, wherever they are kept; as it is where there are none.

    Args:
        module: that owns it, or a Bridge's component around the module that does.
        name: of the parameter.

    Returns:
        None where the module has none of that name.

    Examples:
        >>> real(torch.nn.Linear(2, 3), "bias").shape
        torch.Size([3])
    """
    found = getattr(module, name, None)
    if not isinstance(found, Tensor):
        return None
    return found if not found.is_meta else real_of(_owner(module, name), name, found)


def real_of(module: nn.Module, name: str, stored: Tensor) -> Tensor:
    """The numbers of what a module has stored, wherever they are kept; as it is where there are none."""
    if not stored.is_meta:
        return stored
    for hook in _hooks(module):
        try:
            value: Tensor = hook.weights_map[name]
        except KeyError:
            continue
        if not value.is_meta:
            return value.to(device_of(hook), stored.dtype)
    return stored


def is_kept_elsewhere(module: nn.Module, name: str) -> bool:
    """Whether a hook of the module puts the parameter in place for a pass; nothing is read."""
    return any(
        getattr(hook.weights_map, "prefix", "") + name in set(hook.weights_map)
        for hook in _hooks(module)
    )


def execution_device(model: nn.Module) -> torch.device | None:
    """Where the first weight that is kept elsewhere is put for a pass; None if there is none."""
    for module in model.modules():
        for hook in _hooks(module):
            return device_of(hook)
    return None


def device_of(hook: Any) -> torch.device:
    """Where a hook puts weights."""
    wanted = hook.execution_device
    return torch.device("cpu" if wanted is None else wanted)


def _owner(module: nn.Module, name: str) -> nn.Module:
    while name not in module._parameters and name not in module._buffers:
        inner = module._modules.get("_original_component")
        if inner is None:
            break
        module = inner
    return module


def _hooks(module: nn.Module) -> Iterator[Any]:
    """accelerate's hooks of a module that put weights in place, the one that has the last word first."""
    own = module.__dict__.get("_hf_hook")
    for hook in reversed(getattr(own, "hooks", (own,))):
        if getattr(hook, "offload", False) and getattr(hook, "weights_map", None) is not None:
            yield hook
