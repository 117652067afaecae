"""Where a model's weights came from, noted when they are loaded and read by the records."""

import weakref
from typing import Any

_sources: "weakref.WeakKeyDictionary[Any, str]" = weakref.WeakKeyDictionary()


def note_source(model: Any, source: str) -> None:
    """Remembers a model's source, such as `EleutherAI/pythia-70m@step3000`."""
    _sources[model] = source


def source(model: Any) -> str:
    """A model's noted source, or else the name in its configuration."""
    return _sources.get(model) or str(getattr(model.cfg, "model_name", None) or "unnamed")
