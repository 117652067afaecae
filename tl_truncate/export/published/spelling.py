"""Whether a HookedTransformer has the numbers of its base also outside of its matrices.

It has other names for them than the files, so that each is looked up by its numbers, as matrices are.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tl_truncate.export.published.home import Home
from tl_truncate.export.published.sameness import linears, same


def require_same_numbers(model: Any, home: Home) -> None:
    """That each parameter is one of the base's, and each tensor of the base is one of the model's.

    Those that the matrices of the blocks lie in are compared with them (`require_same_blocks`).

    Raises:
        ValueError: if one is not.
    """
    compared, used = set(), set()
    for linear in linears(model):
        parameters, name = linear.stored.module._parameters, linear.stored.name
        place = home.place(linear)
        compared.add(id(parameters[name]))
        used |= {place.name, f"{place.module}.bias"}
        if linear.bias() is not None:
            compared.add(id(parameters.get(name.replace("W_", "b_"))))
    for path, parameter in model.named_parameters():
        if id(parameter) in compared:
            continue
        found = list(_found(path, parameter.detach(), home))
        # TransformerLens has biases of zeros where the base has none.
        if not found and parameter.any():
            raise ValueError(
                f"The model must have the weights of its base, but the numbers of {path} are nowhere "
                f"in {home.base}. Has the model been trained or edited since it was loaded? Save it "
                "as a model of transformers and name that folder: base=folder."
            )
        used |= set(found)
    for name in home.originals.names:
        if name not in used and home.originals.tensor(name).any():
            raise ValueError(
                f"The model must have the weights of its base, but the numbers of {name} in "
                f"{home.base} are nowhere in it. Has the model been edited since it was loaded, or "
                "has it fewer layers? Load it anew."
            )


def _found(path: str, own: Tensor, home: Home) -> Iterator[str]:
    parts = path.split(".")
    layer = parts[1] if parts[0] == "blocks" else None
    for name in home.originals.names:
        numbers = [part for part in name.split(".") if part.isdigit()]
        is_near = layer in numbers if layer is not None else not numbers
        # Its shape is in the head of its file: one of another size is not read.
        shape = home.originals.shape(name)
        has_room = sorted(shape) == sorted(own.shape) or (
            path == "pos_embed.W_pos" and len(shape) == 2 and shape[0] > own.shape[0]
        )
        if is_near and has_room:
            told = home.originals.tensor(name)
            if any(same(own, each) for each in _spellings(told, own, home)):
                yield name


def _spellings(told: Tensor, own: Tensor, home: Home) -> Iterator[Tensor]:
    kind = str(home.layout.config.model_type)
    yield told
    if told.ndim == 2:
        yield told.T
        # The first positions; OPT counts from 2.
        yield told[-len(own) :] if kind == "opt" else told[: len(own)]
    if kind.startswith("gemma"):  # as TransformerLens converts it
        if told.ndim == 1:
            yield told.to(own.dtype) + 1
        else:
            yield told.to(own.dtype) * torch.tensor(own.shape[-1] ** 0.5, dtype=own.dtype)
