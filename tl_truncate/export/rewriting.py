"""The files of a checkpoint: those of the base, of which only the ones with cuts are rewritten."""

import copy
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_truncate.export.changed import Changed
from tl_truncate.export.published.home import Home
from tl_truncate.export.published.originals import Shards
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.weights.files import load_tensors, save_tensors

# Weights in other formats would be those of the uncut model, and a card that of another one.
_LEFT_OUT = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".onnx",
    ".gguf",
    ".ot",
    ".part",
    ".bin.index.json",
    ".h5.index.json",
    "README.md",
)
# The one folder of a model that transformers reads beside its files.
_TEMPLATES = "additional_chat_templates"


@dataclass(frozen=True)
class ChangedTensor:
    """A tensor of a checkpoint that cuts have changed.

    Attributes:
        name: in the Hugging Face model.
        cuts: that were made in it.
        dtype: in which it is stored.
        rounding: how far that is from the exact one, `|stored - exact| / |exact|` by their norms.
    """

    name: str
    cuts: tuple[SiteCut, ...]
    dtype: torch.dtype
    rounding: float

    @property
    def note(self) -> str:
        """How it is stored, in words."""
        kind = str(self.dtype).removeprefix("torch.")
        return f"in {kind}, which rounds it by {self.rounding:.1e} of its norm"


def write_from_files(
    folder: Path, home: Home, changes: Sequence[Changed], metadata: dict[str, str], *, link: bool
) -> tuple[ChangedTensor, ...]:
    """Fills a folder from the base's files, one at a time.

    Args:
        folder: an empty one.
        home: of the model, with files.
        changes: the tensors that are others.
        metadata: for the heads of the files that are rewritten.
        link: whether files that are not rewritten are linked.
    """
    originals, source = home.originals, home.base.folder
    assert isinstance(originals, Shards)
    assert source is not None
    by_file: dict[str, dict[str, Changed]] = {name: {} for name in originals.files.values()}
    for changed in changes:
        key = originals.keys[changed.name]
        by_file[originals.files[key]][key] = changed
    made: list[ChangedTensor] = []
    for name, own in by_file.items():
        if own:
            made += _rewrite(source / name, folder / name, own, metadata)
        else:
            _put(source / name, folder / name, link)
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(_LEFT_OUT):
            shutil.copyfile(path, folder / path.name)
    if (source / _TEMPLATES).is_dir():
        shutil.copytree(source / _TEMPLATES, folder / _TEMPLATES)
    return tuple(made)


def _rewrite(
    source: Path, target: Path, changes: dict[str, Changed], metadata: dict[str, str]
) -> list[ChangedTensor]:
    tensors, before = load_tensors(source)
    made = []
    for key, changed in changes.items():
        tensors[key], told = _changed(changed, tensors[key])
        made.append(told)
    save_tensors(target, tensors, {**before, **metadata})
    return made


def _put(source: Path, target: Path, link: bool) -> None:
    # The cache of the hub has symbolic links, which would lead nowhere from another machine.
    real = source.resolve()
    if link:
        try:
            os.link(real, target)
            return
        except OSError:  # of another disk, or one that has no links
            pass
    shutil.copyfile(real, target)


def _changed(changed: Changed, stored: Tensor) -> tuple[Tensor, ChangedTensor]:
    exact = changed.exact(stored)
    result = exact.to(stored.dtype).contiguous()
    size = float(exact.norm())
    rounding = float((result.double() - exact).norm()) / size if size else 0.0
    return result, ChangedTensor(changed.name, changed.cuts, stored.dtype, rounding)


def write_from_memory(
    folder: Path, model: Any, home: Home, changes: Sequence[Changed], metadata: dict[str, str]
) -> tuple[ChangedTensor, ...]:
    """Fills a folder with a Bridge's own tensors, configuration and tokenizer.

    Args:
        folder: an empty one.
        model: the Bridge.
        home: of it, without files.
        changes: the tensors that are others.
        metadata: for the heads of the files.

    Raises:
        ValueError: if tensors that are one in a model of this configuration are several in this one.
    """
    from huggingface_hub import save_torch_state_dict

    by_name = {changed.name: changed for changed in changes}
    tensors: dict[str, Tensor] = {}
    made = []
    for name in home.originals.names:
        stored = home.originals.tensor(name)
        first = min(home.layout.same_as(name) or (name,), key=home.layout.names.index)
        if first in tensors:
            if not torch.equal(tensors[first], stored.cpu()):
                raise ValueError(
                    f"{first} and {name} must be one tensor in a model of this configuration, but are "
                    "two in this one. Set tie_word_embeddings=False in its configuration."
                )
            continue
        if name in by_name:
            stored, told = _changed(by_name[name], stored)
            made.append(told)
        tensors[name] = stored.cpu().contiguous()
    save_torch_state_dict(tensors, folder, metadata={"format": "pt", **metadata})
    _write_configuration(folder, model, home, one_precision(home))
    return tuple(made)


def one_precision(home: Home) -> torch.dtype:
    """The precision of all tensors of a model without files.

    Raises:
        ValueError: if there are several.
    """
    found: dict[torch.dtype, str] = {}
    for name in home.originals.names:
        tensor = home.originals.tensor(name)
        if tensor.is_floating_point():
            found.setdefault(tensor.dtype, name)
    if len(found) > 1:
        told = ", ".join(f"{name} in {dtype}" for dtype, name in found.items())
        raise ValueError(
            "A model without files must be in one precision to be written, since a checkpoint is "
            f"loaded in one, got {told}. Convert it first: model.to(torch.float32)."
        )
    return next(iter(found))


def _write_configuration(folder: Path, model: Any, home: Home, dtype: torch.dtype) -> None:
    original = model.__dict__["original_model"]
    config = copy.deepcopy(home.layout.config)
    config.architectures, config.dtype = [type(home.layout.empty).__name__], dtype
    parts = [config, getattr(original, "generation_config", None), getattr(model, "tokenizer", None)]
    for part in parts:
        if part is not None:
            part.save_pretrained(folder)
