"""Where numbers come from: the model, what was done to its weights, and the versions of the packages."""

import platform
import weakref
from importlib import metadata
from typing import Any

from tl_truncate.weights.holding.placement import model_device, model_dtype
from tl_truncate.weights.identity.content import weights_hash
from tl_truncate.weights.locate import n_layers
from tl_truncate.weights.processing import processing

_PACKAGES = ("tl-truncate", "transformer-lens", "torch", "transformers", "numpy")

_sources: "weakref.WeakKeyDictionary[Any, str]" = weakref.WeakKeyDictionary()


def note_source(model: Any, source: str) -> None:
    """Remembers a model's source, such as `EleutherAI/pythia-70m@step3000`."""
    _sources[model] = source


def source(model: Any) -> str:
    """A model's noted source, or else the name in its configuration."""
    return _sources.get(model) or str(getattr(model.cfg, "model_name", None) or "unnamed")


def of_model(model: Any) -> dict[str, Any]:
    """A model's name, class, depth, dtype, device, its weights' processing and hash, as plain data."""
    return dict(
        model=source(model),
        model_class=type(model).__name__,
        n_layers=n_layers(model),
        dtype=str(model_dtype(model)).removeprefix("torch."),
        device=str(model_device(model)),
        weights=str(processing(model)),
        weights_hash=weights_hash(model),
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
