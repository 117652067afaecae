"""Where numbers come from: the model, what was done to its weights, and the versions of the packages."""

import platform
from importlib import metadata
from typing import Any

from tl_truncate.weights.locate import n_layers
from tl_truncate.weights.processing import processing
from tl_truncate.weights.source import source

_PACKAGES = ("tl-truncate", "transformer-lens", "torch", "transformers", "numpy")


def of_model(model: Any) -> dict[str, Any]:
    """A model's name, class, depth, dtype, device and weights' processing, as plain data."""
    weight = next(iter(model.parameters()))
    return dict(
        model=source(model),
        model_class=type(model).__name__,
        n_layers=n_layers(model),
        dtype=str(weight.dtype).removeprefix("torch."),
        device=str(weight.device),
        weights=str(processing(model)),
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
