"""Whether a Bridge is its base's model: in every tensor, in every module, and in nothing else.

Without files the base is what the model's own configuration says: what is written then is all of it.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tl_truncate.export.published.home import Home
from tl_truncate.export.published.originals import original_name
from tl_truncate.weights.linear import Linear
from tl_truncate.weights.locate import available, locate, n_layers
from tl_truncate.weights.site import CIRCUITS, Site

# What a module says of itself that another check reads, or that changes no number.
_ELSEWHERE = re.compile(r",? *(bias|padding_idx)=\w+")


def require_same_tensors(home: Home) -> None:
    """That a Bridge holds each tensor of its base's model, with the numbers that the files have.

    Raises:
        ValueError: if it lacks one, or has other numbers or fewer digits.
    """
    for name in home.layout.names:
        own = home.held.tensors.get(name)
        if own is None:
            raise ValueError(
                f"The model must hold each tensor of its base, but {name} of {home.base} is not in it. "
                "Has it an adapter, a pruning or a parametrisation, or was a module replaced? Make "
                "these part of the weights, save it and name that folder: base=folder."
            )
        # Files hold a tied tensor once.
        stored = next(
            (each for each in (name, *home.layout.same_as(name)) if each in home.originals.names), None
        )
        assert stored is not None  # or it would have been lacking
        told = home.originals.tensor(stored)
        if told.data_ptr() == own.data_ptr():
            continue
        if not same(own, told):
            tied = "" if stored == name else f", where it is {stored}"
            raise ValueError(
                f"The model must have the weights of its base, but {name} is another than in "
                f"{home.base}{tied}. Name the right base, or its revision; of a model that has been "
                "trained or edited since it was loaded, save it and name that folder: base=folder."
            )
        _require_digits(name, own, told, home)


def _require_digits(name: str, own: Tensor, told: Tensor, home: Home) -> None:
    # Others load files in the precision that their configuration names.
    usual = getattr(home.layout.config, "dtype", None)
    read = told.to(usual) if isinstance(usual, torch.dtype) and told.is_floating_point() else told
    if not same(read, own):
        kind = str(read.dtype).removeprefix("torch.")
        raise ValueError(
            f"The model must have the numbers of its files, but is in {own.dtype}, and {name} is "
            f"stored in {told.dtype}, so that it would be another one in what others load. Load it "
            f"with dtype='{kind}' or float32."
        )


def require_same_modules(model: Any, home: Home) -> None:
    """That each module that has no others in it is the one that the base's model has there.

    Raises:
        ValueError: if one was replaced.
    """
    kinds: dict[str, set[str]] = defaultdict(set)
    for path, module in _root(model).named_modules(remove_duplicate=False):
        if not type(module).__module__.startswith("transformer_lens"):
            kinds[original_name(path)].add(_kind(module))
    for path, module in home.layout.empty.named_modules():
        is_leaf = next(module.children(), None) is None and not isinstance(module, nn.Dropout)
        if is_leaf and kinds[path] and _kind(module) not in kinds[path]:
            raise ValueError(
                f"The model must have the modules of its base, but {path} is "
                f"{', '.join(sorted(kinds[path]))}, and {_kind(module)} in {home.base}. Others would "
                "load the base, and not this model. Load it anew."
            )


def _kind(module: nn.Module) -> str:
    return f"{type(module).__name__}({_ELSEWHERE.sub('', module.extra_repr())})"


def require_nothing_else(model: Any, home: Home) -> None:
    """That a Bridge has no parameters beside its base's and its copies of their parts.

    Raises:
        ValueError: if it has one.
    """
    known = {_key(tensor) for tensor in home.held.tensors.values()}
    for linear in _copies(model, home):
        known |= {_key(each) for each in linear.stored.module._parameters.values() if each is not None}
    for path, tensor in _others(model, home):
        # The Bridge itself gives an unembedding a bias of zeros.
        if _key(tensor) not in known and not (path.endswith("bias") and not tensor.any()):
            raise ValueError(
                f"The model must have no tensors beside those of its base, but has {path}, which "
                f"{home.base} knows nothing of. Has a bias or an adapter been added since it was "
                "loaded? Others would load the base without it."
            )


def _others(model: Any, home: Home) -> Iterator[tuple[str, Tensor]]:
    """What a Bridge has under names that are not its base's: parameters, and biases that are none."""
    for path, tensor in nn.Module.named_parameters(_root(model), remove_duplicate=False):
        yield original_name(path), tensor
    owners = {name.rpartition(".")[0] for name in home.layout.names if name.endswith(".weight")}
    for path, buffer in nn.Module.named_buffers(_root(model), remove_duplicate=False):
        owner, _, own = original_name(path).rpartition(".")
        if own == "bias" and owner in owners:
            yield f"{owner}.bias", buffer


def _key(tensor: Tensor) -> tuple[int, torch.Size]:
    return tensor.data_ptr(), tensor.shape


def _root(model: Any) -> nn.Module:
    root: nn.Module = model.__dict__["original_model"]
    return root


def require_same_blocks(model: Any, home: Home) -> None:
    """That what the blocks compute with is what the tensors say: parts of fused ones are copies.

    Raises:
        ValueError: if a weight or bias is another.
    """
    for linear in _copies(model, home):
        _require_same_bias(linear, home)


def _copies(model: Any, home: Home) -> Iterator[Linear]:
    """The matrices that are none of the tensors themselves."""
    own = {_key(tensor) for tensor in home.held.tensors.values()}
    for linear in linears(model):
        stored = linear.stored.module._parameters[linear.stored.name]
        assert stored is not None
        if _key(stored) not in own:
            yield linear


def linears(model: Any) -> Iterator[Linear]:
    """All matrices of the blocks, circuits aside."""
    for layer in range(n_layers(model)):
        for matrix in available(model, layer):
            if matrix not in CIRCUITS:
                yield locate(model, Site(layer, matrix))


def _require_same_bias(linear: Linear, home: Home) -> None:
    place, bias = home.place(linear), linear.bias()
    name = f"{place.module}.bias"
    told = (
        home.originals.tensor(name)[place.outputs.to(home.originals.tensor(name).device)]
        if name in home.originals.names
        else torch.zeros(len(place.outputs))
    )
    # No bias is one of zeros, and the other way round.
    bias = torch.zeros_like(told) if bias is None else bias
    sure = ~place.doubtful
    if not same(bias[sure.to(bias.device)], told[sure.to(told.device)]):
        raise ValueError(
            f"The bias of {linear.site} must be that of {name} in {home.base}, but is another. Has the "
            "model been trained, edited or processed since it was loaded? Save it and name that folder: "
            "base=folder."
        )


def same(own: Tensor, other: Tensor) -> bool:
    """Whether a tensor is another one in the precision that it has itself."""
    return own.shape == other.shape and torch.equal(own.detach(), other.to(own.device, own.dtype))
