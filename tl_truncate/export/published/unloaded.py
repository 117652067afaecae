"""A model of which only the layers to be cut are read: enough for their spectra, not for a pass."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tl_truncate.export.published.base import Base
from tl_truncate.export.published.home import Home
from tl_truncate.export.published.originals import (
    Held,
    Layout,
    Shards,
    held_by,
    in_files,
    layout_of,
)
from tl_truncate.surgery.cut import SiteCut


def read_layers(base: Base, cuts: Sequence[SiteCut]) -> tuple[Any, Home]:
    """A TransformerBridge whose layers that some cuts are in hold data, and where its weights belong.

    Args:
        base: whose folder is read.
        cuts: that are to be made.

    Raises:
        ValueError: if the files lack weights of the model, or its layers are in several precisions.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoConfig

    layout = layout_of(AutoConfig.from_pretrained(base.folder))
    files = in_files(base, layout)
    _require_shapes(base, layout, files)
    model = layout_of(layout.config).empty  # another one, since the Bridge rewires what it is given
    layers = {str(cut.site.layer) for cut in cuts}
    tensors = {name: files.tensor(name) for name in files.names if layers & set(name.split(".")[:-1])}
    dtypes = {tensor.dtype for tensor in tensors.values()} or {torch.float32}
    if len(dtypes) > 1:
        raise ValueError(
            f"The layers of a folder must be in one precision to be cut unloaded, got "
            f"{', '.join(sorted(map(str, dtypes)))} in {base}. Load the model and give it instead."
        )
    dtype = dtypes.pop()
    # One zero for all other tensors: a Bridge takes fused ones apart, which needs some number.
    for module in model.modules():
        for own, parameter in module._parameters.items():
            if parameter is not None:
                nothing = torch.zeros((), dtype=dtype).expand(parameter.shape)
                module._parameters[own] = nn.Parameter(nothing, requires_grad=False)
    for name, tensor in tensors.items():
        place, _, own = name.rpartition(".")
        owner = model.get_submodule(place)
        if own in owner._parameters:
            owner._parameters[own] = nn.Parameter(tensor, requires_grad=False)
    bridge = TransformerBridge.boot_transformers(base.name, hf_model=model, dtype=dtype).eval()
    held = {name: each for name, each in held_by(bridge, layout).items() if name in tensors}
    return bridge, Home(base, layout, files, Held(held))


def _require_shapes(base: Base, layout: Layout, files: Shards) -> None:
    """Refuses files that transformers would not open as this model: they are not loaded here."""
    expected = layout.empty.state_dict()
    taken: dict[str, str] = {}
    for name in files.names:
        shape, wanted = files.shape(name), tuple(expected[name].shape)
        if shape != wanted:
            raise ValueError(
                f"The files of {base} must fit its config.json, but {name} has shape {shape} for "
                f"{wanted}."
            )
        other = taken.setdefault(files.keys[name], name)
        if other != name and other not in layout.same_as(name):
            raise ValueError(
                f"The files of {base} must have all weights of the model, but have one for {other} and "
                f"{name}."
            )
