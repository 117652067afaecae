"""Where a matrix of the model lies in a tensor of the Hugging Face model: looked up by its numbers.

A fused tensor holds queries, keys and values one after the other or head by head, in an order that each
architecture has for itself; and a HookedTransformer has names of its own. What is looked up by its
numbers is found in any order, and found only if the numbers are the same.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_truncate.export.published.originals import Held, Layout, Originals
from tl_truncate.weights.linear import Linear
from tl_truncate.weights.reading import as_stored


@dataclass(frozen=True)
class Place:
    """A part of a tensor of the Hugging Face model.

    Attributes:
        name: of the tensor.
        inputs_first: whether it is stored `[n_in, n_out]`, as GPT-2's are.
        outputs: which of the tensor's outputs are the matrix's, in the matrix's order.
        doubtful: of which outputs others have the same numbers, so that it may be one of those.
    """

    name: str
    inputs_first: bool
    outputs: Int64[Tensor, " n_out"]
    doubtful: Bool[Tensor, " n_out"]

    @property
    def module(self) -> str:
        """The module that owns the tensor."""
        return self.name.rpartition(".")[0]


def match_outputs(
    matrix: Float[Tensor, "n_in n_out"], whole: Float[Tensor, "n_in all"]
) -> tuple[Int64[Tensor, " n_out"], Bool[Tensor, " n_out"]] | None:
    """Which columns of a matrix are those of another, and which of them have a double; None if not all.

    Examples:
        >>> whole = torch.tensor([[1.0, 2.0, 3.0, 2.0], [0.0, 5.0, 1.0, 5.0]])
        >>> match_outputs(whole[:, [2, 1]], whole)
        (tensor([2, 1]), tensor([False,  True]))
    """
    if matrix.shape == whole.shape and torch.equal(matrix, whole):
        count = matrix.shape[1]
        return torch.arange(count), torch.zeros(count, dtype=torch.bool)
    found: dict[bytes, list[int]] = defaultdict(list)
    for place, column in enumerate(_columns(whole)):
        found[column].append(place)
    taken: dict[bytes, int] = defaultdict(int)
    outputs, doubtful = [], []
    for column in _columns(matrix):
        places = found.get(column, [])
        if taken[column] >= len(places):
            return None
        outputs.append(places[taken[column]])
        doubtful.append(len(places) > 1)
        taken[column] += 1
    return torch.tensor(outputs), torch.tensor(doubtful)


def _columns(matrix: Tensor) -> list[bytes]:
    rows = matrix.detach().cpu().T.contiguous().view(torch.uint8).numpy()
    return [row.tobytes() for row in rows]


def find_place(linear: Linear, originals: Originals, held: Held, layout: Layout) -> Place:
    """Where the matrix of a linear of all heads lies.

    Args:
        linear: of all heads jointly.
        originals: the tensors to look in.
        held: those that the model itself holds, if it is a Bridge.
        layout: of the Hugging Face model.

    Raises:
        ValueError: if it is nowhere, in several tensors, or there with more digits than the model has.
    """
    with as_stored():
        matrix = linear.weight()
    own = _own_name(linear, held)
    names = [own] if own in originals.names else _candidates(linear, originals)
    places = []
    for name in names:
        tensor, inputs_first = originals.tensor(name), _inputs_first(layout, name)
        whole = (tensor if inputs_first else tensor.T).to(matrix.device, matrix.dtype)
        found = match_outputs(matrix, whole) if whole.shape[0] == matrix.shape[0] else None
        if found is not None:
            _require_digits(linear, tensor, matrix.dtype)
            places.append(Place(name, inputs_first, *found))
    if not places:
        raise ValueError(
            f"The weight of {linear.site} must be one of its base's, but no tensor of that layer has "
            "its numbers. Has the model been trained, edited or processed since it was loaded, or is it "
            "another one? Save it and name that folder: base=folder."
        )
    if len(places) > 1:
        raise ValueError(
            f"The weight of {linear.site} must be found in one tensor, but {places[0].name} and "
            f"{places[1].name} have the same numbers, so that it is not known which of them is cut. "
            "Load the model as a TransformerBridge, which knows."
        )
    return places[0]


def _own_name(linear: Linear, held: Held) -> str | None:
    """The name of the very tensor that the linear stores its weight in, unless it is a part of one."""
    stored = linear.stored.module._parameters[linear.stored.name]
    assert stored is not None
    same = (
        name
        for name, tensor in held.tensors.items()
        if tensor.data_ptr() == stored.data_ptr() and tensor.shape == stored.shape
    )
    return next(same, None)


def _candidates(linear: Linear, originals: Originals) -> list[str]:
    layer, (n_in, n_out) = str(linear.site.layer), linear.shape
    found = []
    for name in originals.names:
        if layer in name.split(".")[:-1]:
            shape = originals.shape(name)
            if len(shape) == 2 and n_in in shape and shape[0] * shape[1] >= n_in * n_out:
                found.append(name)
    return found


def _inputs_first(layout: Layout, name: str) -> bool:
    module = layout.empty.get_submodule(name.rpartition(".")[0])
    return type(module).__name__ == "Conv1D"


def _require_digits(linear: Linear, tensor: Tensor, dtype: torch.dtype) -> None:
    if not torch.equal(tensor.to(dtype).to(tensor.dtype), tensor):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(
            f"The model must have the numbers of its files, but is in {dtype}, and {linear.site} is "
            f"stored in {tensor.dtype}, so that what is cut would be rounded and the rest not. Load it "
            f"with dtype='{kind}' or float32."
        )
