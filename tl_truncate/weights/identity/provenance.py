"""Where numbers come from: the model, what was done to its weights, and the versions of the packages."""

import platform
import weakref
from functools import cache
from importlib import metadata
from typing import Any

from tl_truncate.weights.files import as_path
from tl_truncate.weights.holding.placement import model_device, model_dtype
from tl_truncate.weights.identity.content import weights_hash
from tl_truncate.weights.locate import n_layers
from tl_truncate.weights.processing import processing

_PACKAGES = ("tl-truncate", "transformer-lens", "torch", "transformers", "numpy")

_sources: "weakref.WeakKeyDictionary[Any, str]" = weakref.WeakKeyDictionary()
_bases: "weakref.WeakKeyDictionary[Any, tuple[str, str | None]]" = weakref.WeakKeyDictionary()


def note_source(model: Any, source: str) -> None:
    """Remembers a model's source, such as `EleutherAI/pythia-70m@step3000`."""
    _sources[model] = source


def source(model: Any) -> str:
    """A model's noted source, or else the name in its configuration."""
    return _sources.get(model) or str(getattr(model.cfg, "model_name", None) or "unnamed")


def note_base(model: Any, name: str, revision: str | None) -> None:
    """Remembers by which name, a folder's or one of the hub, transformers finds a model's weights."""
    folder = as_path(name)  # the path may be read from another working folder
    _bases[model] = (str(folder.resolve()) if folder.is_dir() else name, revision)


def base_of(model: Any) -> tuple[str, str | None]:
    """The noted name and revision, or else the name in the model's configuration, which is a guess."""
    return _bases.get(model) or (str(getattr(model.cfg, "model_name", None) or "unnamed"), None)


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
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


@cache  # of what the process runs, whatever is installed meanwhile; reading it takes milliseconds
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
