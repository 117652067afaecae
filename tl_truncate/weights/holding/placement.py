"""In what precision and where a model computes, whatever holds its weights."""

import torch
from torch import nn

from tl_truncate.weights.holding.offloaded import execution_device


def model_dtype(model: nn.Module) -> torch.dtype:
    """The precision of a model's values: that of its first parameter in floating point.

    Examples:
        >>> model_dtype(model)
        torch.float32
    """
    plain = (each.dtype for each in model.parameters() if each.is_floating_point())
    return next((dtype for dtype in plain if dtype.itemsize >= 2), torch.float32)


def model_device(model: nn.Module) -> torch.device:
    """Where a model takes its tokens: at its first parameter, or where that is put for a pass.

    Examples:
        >>> model_device(model)
        device(type='cpu')
    """
    first = next(iter(model.parameters())).device
    return first if first.type != "meta" else execution_device(model) or first
