"""Where the weights of a model belong, which is known only of a model that is its base's."""

import os
from typing import Any

from tl_truncate.export.published.base import Base, find_base
from tl_truncate.export.published.configuration import (
    require_same_architecture,
    require_same_configuration,
)
from tl_truncate.export.published.home import Home
from tl_truncate.export.published.originals import Held, held_by, in_files, layout_of
from tl_truncate.export.published.sameness import (
    require_nothing_else,
    require_same_blocks,
    require_same_modules,
    require_same_tensors,
)
from tl_truncate.export.published.spelling import require_same_numbers
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.weights.locate import n_layers
from tl_truncate.weights.processing import processing


def find_home(model: Any, base: str | os.PathLike[str] | None, revision: str | None) -> Home:
    """Where the weights of a model belong, if it has them as they were published.

    Of a base whose files are at hand the configuration and every tensor are compared with the model's.
    Of one without, the model must be what its own configuration says.

    Args:
        model: a HookedTransformer or TransformerBridge.
        base: as for `export_adapter`.
        revision: as for `export_adapter`.

    Raises:
        ValueError: if a cut is at work in the model, its weights are processed, or it is not the base's
            model; of a HookedTransformer also if the base's files are not on this machine.
    """
    _require_as_loaded(model)
    found = find_base(model, base, revision)
    original = model.__dict__.get("original_model")
    if original is None:
        return _of_hooked(model, found)
    layout = layout_of(getattr(original, "config", None))
    held = Held(held_by(model, layout))
    if found.folder is None:
        home = Home(found, layout, held, held)
    else:
        home = Home(found, layout, in_files(found, layout), held)
        require_same_configuration(layout.config, found)
    require_same_tensors(home)
    require_same_modules(model, home)
    require_same_blocks(model, home)
    require_nothing_else(model, home)
    return home


def _of_hooked(model: Any, base: Base) -> Home:
    if base.folder is None:
        raise ValueError(
            f"The files of {base} must be on this machine, since a HookedTransformer keeps its weights "
            "under other names, but they are not in the local cache. Name a folder, base=folder, or "
            "load the model as a TransformerBridge."
        )
    from transformers import AutoConfig

    layout = layout_of(AutoConfig.from_pretrained(base.folder, local_files_only=True))
    home = Home(base, layout, in_files(base, layout), Held({}))
    require_same_architecture(model.cfg, layout.config, base)
    require_same_blocks(model, home)
    require_same_numbers(model, home)
    return home


def _require_as_loaded(model: Any) -> None:
    n_layers(model)
    at_work = active_cuts(model)
    if at_work:
        raise ValueError(
            f"No cut must be at work in a model that is taken elsewhere, got {at_work[0]!r}. Leave its "
            "context, and name all cuts."
        )
    found = processing(model)
    if not found.is_raw:
        raise ValueError(
            "The weights must be as they were trained to be taken elsewhere, but are processed "
            f"({found}): what is cut from a folded or centred weight is no change of the one that "
            "others load. Load the raw weights: tlt.load_model(name)."
        )
