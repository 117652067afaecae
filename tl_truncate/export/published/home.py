"""A model together with the Hugging Face tensors that it is made of, and whether they are the same."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tl_truncate.export.published.base import Base, find_base
from tl_truncate.export.published.originals import Held, Layout, Originals, held_by, in_files, layout_of
from tl_truncate.export.published.places import Place, find_place
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.weights.linear import Linear
from tl_truncate.weights.locate import available, locate, n_layers
from tl_truncate.weights.processing import processing
from tl_truncate.weights.site import CIRCUITS, Site


@dataclass(frozen=True)
class Home:
    """Where each weight of a model belongs.

    Attributes:
        base: by what name the weights are found.
        layout: of the Hugging Face model.
        originals: its tensors: those of the base's files, or of the Bridge where there are none.
        held: those that a Bridge holds.
    """

    base: Base
    layout: Layout
    originals: Originals
    held: Held

    def place(self, linear: Linear) -> Place:
        """Where the matrix of a linear of all heads lies.

        Raises:
            ValueError: if that is not known, or another weight would change with it.
        """
        found = find_place(linear, self.originals, self.held, self.layout)
        tied = set(self.layout.same_as(found.name))
        stored = self.held.tensors.get(found.name)
        if stored is not None:
            tied |= {
                name
                for name, other in self.held.tensors.items()
                if other.data_ptr() == stored.data_ptr() and other.shape == stored.shape
            }
        others = sorted(tied - {found.name})
        if others:
            raise ValueError(
                f"A cut must change one weight, but {found.name}, in which {linear.site} is cut, is "
                f"also {', '.join(others)}. Give each a tensor of its own first."
            )
        return found


def find_home(model: Any, base: str | os.PathLike[str] | None, revision: str | None) -> Home:
    """Where the weights of a model belong, if it has them as they were published.

    Args:
        model: a HookedTransformer or TransformerBridge.
        base: as for `export_adapter`.
        revision: as for `export_adapter`.

    Raises:
        ValueError: if a cut is at work in the model, its weights are processed, or are not the base's;
            of a HookedTransformer also if the base's files are not on this machine.
    """
    _require_as_loaded(model)
    found = find_base(model, base, revision)
    layout = layout_of(_config(model, found))
    held = Held(held_by(model, layout))
    if found.folder is not None:
        home = Home(found, layout, in_files(found, layout), held)
        _require_same_tensors(home)
    else:
        home = Home(found, layout, held, held)
    _require_same_blocks(model, home)
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


def _config(model: Any, base: Base) -> Any:
    original = model.__dict__.get("original_model")
    if original is not None:
        return getattr(original, "config", None)
    if base.folder is None:
        raise ValueError(
            f"The files of {base} must be on this machine, since a HookedTransformer keeps its weights "
            "under other names, but they are not in the local cache. Name a folder, base=folder, or "
            "load the model as a TransformerBridge."
        )
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(base.folder)


def _require_same_tensors(home: Home) -> None:
    """That a Bridge holds what the files have, tensor by tensor."""
    for name in home.originals.names:
        own = home.held.tensors.get(name)
        if own is not None and not _same(own, home.originals.tensor(name)):
            raise ValueError(
                f"The model must have the weights of its base, but {name} is another than in "
                f"{home.base}. Name the right base, or its revision; of a model that has been trained "
                "or edited since it was loaded, save it and name that folder: base=folder."
            )


def _require_same_blocks(model: Any, home: Home) -> None:
    """That what the blocks compute with is what the tensors say: parts of fused ones are copies."""
    own = {tensor.data_ptr() for tensor in home.held.tensors.values()}
    for layer in range(n_layers(model)):
        for matrix in available(model, layer):
            if matrix in CIRCUITS:
                continue
            linear = locate(model, Site(layer, matrix))
            stored = linear.stored.module._parameters[linear.stored.name]
            assert stored is not None
            if stored.data_ptr() not in own:
                _require_same_bias(linear, home)


def _require_same_bias(linear: Linear, home: Home) -> None:
    place, bias = home.place(linear), linear.bias()
    if bias is None:
        return
    name = f"{place.module}.bias"
    if name in home.originals.names:
        told = home.originals.tensor(name)[place.outputs.to(home.originals.tensor(name).device)]
    else:
        told = bias.new_zeros(bias.shape)
    sure = ~place.doubtful
    same = _same(bias[sure.to(bias.device)], told[sure.to(told.device)])
    if not same:
        raise ValueError(
            f"The bias of {linear.site} must be that of {name} in {home.base}, but is another. Has the "
            "model been trained, edited or processed since it was loaded? Save it and name that folder: "
            "base=folder."
        )


def _same(own: Tensor, other: Tensor) -> bool:
    return own.shape == other.shape and torch.equal(own.detach(), other.to(own.device, own.dtype))
