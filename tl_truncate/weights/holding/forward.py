"""Modules of which it is known that they write `x W + b` of their weight."""

import sys
from typing import Any

from torch import nn

from tl_truncate.weights.holding.gradients import own_forward

# By where the classes are, so that nothing is imported for them.
_KNOWN = (
    ("torch.nn.modules.linear", "Linear"),
    ("transformers.pytorch_utils", "Conv1D"),
    ("bitsandbytes.nn.modules", "Linear8bitLt"),
    ("bitsandbytes.nn.modules", "Linear4bit"),
)


def is_known(module: nn.Module) -> bool:
    """Whether a module computes by the `forward` of a known linear, which a subclass may inherit.

    Examples:
        >>> is_known(torch.nn.Linear(2, 3))
        True
    """
    forward: Any = own_forward(module)
    if getattr(forward, "__self__", None) is not module:
        return False
    classes = (getattr(sys.modules.get(place), name, None) for place, name in _KNOWN)
    return any(forward.__func__ is each.forward for each in classes if each is not None)
