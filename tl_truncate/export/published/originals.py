"""The tensors of a Hugging Face model by the names that they have there: in files, or in a Bridge.

A Bridge wraps the modules of the model that it was given, and some get new names. All of the old names
still lead to the tensors, among others.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tl_truncate.export.published.base import Base, shards_of


class Originals(ABC):
    """Tensors of a Hugging Face model, each read when it is asked for."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """What there is, by the names of the model's state dict."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor, which is not read."""

    @abstractmethod
    def tensor(self, name: str) -> Tensor:
        """One tensor."""


@dataclass(frozen=True)
class Held(Originals):
    """Those that a Bridge holds in memory."""

    tensors: Mapping[str, Tensor]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one."""
        return tuple(self.tensors[name].shape)

    def tensor(self, name: str) -> Tensor:
        """One, as it is stored."""
        return self.tensors[name].detach()


@dataclass(frozen=True)
class Shards(Originals):
    """Those in safetensors files, of which each is opened for one tensor.

    Attributes:
        folder: with the files.
        files: the file of each tensor, by the name in the file.
        keys: the name in the file, by the name in the model: files may leave out the beginning.
    """

    folder: Path
    files: Mapping[str, str]
    keys: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Those that the model has too."""
        return tuple(self.keys)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one, from the head of its file."""
        with self._open(name) as file:
            return tuple(file.get_slice(self.keys[name]).get_shape())

    def tensor(self, name: str) -> Tensor:
        """One, from its file."""
        with self._open(name) as file:
            found: Tensor = file.get_tensor(self.keys[name])
            return found

    def _open(self, name: str) -> Any:
        return safe_open(self.folder / self.files[self.keys[name]], framework="pt")


@dataclass(frozen=True)
class Layout:
    """What a Hugging Face model of a configuration consists of, without its numbers.

    Attributes:
        config: of the model.
        empty: the model on the meta device.
    """

    config: Any
    empty: nn.Module = field(repr=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of its state dict."""
        return tuple(self.empty.state_dict())

    def same_as(self, name: str) -> tuple[str, ...]:
        """All names of one tensor, which are several where it is tied."""
        state = self._parameters
        return tuple(other for other in state if state[other] is state.get(name))

    @cached_property
    def _parameters(self) -> dict[str, Tensor]:
        return dict(self.empty.named_parameters(remove_duplicate=False))


def layout_of(config: Any) -> Layout:
    """The layout of a configuration.

    Raises:
        ValueError: if transformers knows no causal language model of it.
    """
    from transformers import AutoModelForCausalLM, PreTrainedConfig

    if not isinstance(config, PreTrainedConfig):
        raise ValueError(
            "The model must be one of transformers to be taken elsewhere, got a model that was made "
            f"from a {type(config).__name__}. Save its state dict instead."
        )
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return Layout(config, AutoModelForCausalLM.from_config(config).eval())


def in_files(base: Base, layout: Layout) -> Shards:
    """The tensors in the files of a base.

    Raises:
        ValueError: if files lack some.
    """
    assert base.folder is not None
    files = shards_of(base.folder)
    keys = _paired(files, layout)
    renamed = Shards(base.folder, files, {key: key for key in files if key not in keys.values()})
    lacking = [
        name for name in layout.names if not any(each in keys for each in (name, *layout.same_as(name)))
    ]
    for name in lacking:
        shape = tuple(layout.empty.state_dict()[name].shape)
        # transformers renames some when it reads them: GPT-NeoX's embed_out is its lm_head.
        left = [key for key in renamed.names if renamed.shape(key) == shape]
        if len(left) != 1:
            raise ValueError(
                f"The files of {base} must have all weights of the model, but lack {name}. Write them "
                "with the installed version of transformers: "
                "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new)."
            )
        keys[name] = left[0]
    return Shards(base.folder, files, keys)


def _paired(files: Mapping[str, str], layout: Layout) -> dict[str, str]:
    """The name in the files of each tensor that has its own there, with or without the beginning."""
    beginning = f"{getattr(layout.empty, 'base_model_prefix', '')}."
    keys = {}
    for key in files:
        for name in (key, f"{beginning}{key}", key.removeprefix(beginning)):
            if name in layout.names:
                keys[name] = key
                break
    return keys


def held_by(model: Any, layout: Layout) -> dict[str, Tensor]:
    """The tensors of a Bridge by their names in the Hugging Face model; none of a HookedTransformer."""
    root = model.__dict__.get("original_model")
    found: dict[str, Tensor] = {}
    if root is None:
        return found
    # All names: a wrapped module that has a new one comes under it first.
    everything = (
        *nn.Module.named_parameters(root, remove_duplicate=False),
        *nn.Module.named_buffers(root, remove_duplicate=False),
    )
    for path, tensor in everything:
        found.setdefault(original_name(path), tensor)
    return {name: found[name] for name in layout.names if name in found}


def original_name(path: str) -> str:
    """The name in the Hugging Face model of what a Bridge has wrapped.

    Examples:
        >>> original_name("lm_head._original_component.weight")
        'lm_head.weight'
    """
    return ".".join(part for part in path.split(".") if part.lstrip("_") != "original_component")
