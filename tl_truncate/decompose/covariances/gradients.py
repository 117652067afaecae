"""What linears read, and the gradient of the next token's loss at what they write."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_truncate.corpora.corpus import Filled, Row
from tl_truncate.decompose.covariances.watching import columns_of, positions_of, watching
from tl_truncate.replay.calls import graph_from
from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.weights.bridge import is_bridge_block
from tl_truncate.weights.holding.placement import model_device
from tl_truncate.weights.linear import Linear
from tl_truncate.weights.site import Site

#: Which next token the loss is of: one drawn from the model's own prediction, or the corpus' own.
Labels = Literal["model", "data"]


def as_labels(value: Any) -> Labels:
    """Checks which labels are wanted.

    Raises:
        ValueError: if it is unknown.
    """
    if value not in get_args(Labels):
        raise ValueError(f"labels must be one of {', '.join(get_args(Labels))}, got {value!r}.")
    found: Labels = value
    return found


def inputs_and_gradients(
    model: Any, batch: Filled, linears: Sequence[Linear], labels: Labels, seed: int
) -> dict[Site, tuple[Tensor, Tensor]]:
    """x and g of each linear at the positions that have a next token in their row.

    `g_t = d/dy_t sum_s loss_s`, the gradient of the summed loss of the whole row at the linear's output.
    A sum and no mean, so that the company of a row does not matter. No gradient of a weight is computed.

    Args:
        model: a HookedTransformer or TransformerBridge.
        batch: rows.
        linears: of the model.
        labels: which next token the loss is of.
        seed: of the labels that are drawn; each row has its own.

    Returns:
        `[positions, n_in]` and `[positions, n_out]` by site.

    Raises:
        ValueError: if the pass does not reach a linear.
    """
    counted = torch.zeros_like(batch.real)
    counted[:, :-1] = batch.real[:, 1:]
    lowest = min(linear.site.layer for linear in linears)
    device = model_device(model)
    options = {"use_cache": False} if is_bridge_block(model.blocks[0]) else {}
    with torch.inference_mode(False), graph_from(model, lowest):
        tokens = batch.tokens.to(device).clone()  # which the graph can hold, wherever they were made
        with watching(tokens, linears, linears) as seen:
            logits = model(tokens, return_type="logits", **options)
        points = {linear.output.name: seen.output(linear) for linear in linears}
        said = in_compute_precision(logits.detach()).softmax(-1)
        drawn = labels == "model"
        wanted = drawn_labels(said, batch.rows, seed) if drawn else tokens.roll(-1, 1)
        slope = loss_gradient(said, wanted, counted.to(device)).to(logits.dtype)
        found = torch.autograd.grad(logits, list(points.values()), slope)
    gradients = dict(zip(points, found, strict=True))
    inputs = {
        each.site: seen.input(each) for each in linears
    }  # all held, so that none is in another's place
    read = {_memory(x): x for x in inputs.values()}
    read = {memory: positions_of(x, counted) for memory, x in read.items()}
    return {
        each.site: (
            read[_memory(inputs[each.site])],
            positions_of(columns_of(each, gradients[each.output.name], tokens), counted),
        )
        for each in linears
    }


def _memory(value: Tensor) -> tuple[object, ...]:
    """The same for tensors that are one, as what W_in and W_gate read."""
    return value.data_ptr(), value.device, value.dtype, value.shape, value.stride()


def loss_gradient(
    probabilities: Float[Tensor, "batch pos d_vocab"],
    labels: Int64[Tensor, "batch pos"],
    counted: Bool[Tensor, "batch pos"],
) -> Float[Tensor, "batch pos d_vocab"]:
    """The gradient of the summed cross-entropy at the logits, `p - e_label`, in the memory of p.

    Examples:
        >>> loss_gradient(torch.tensor([[[0.25, 0.75]]]), torch.tensor([[1]]), torch.tensor([[True]]))
        tensor([[[ 0.2500, -0.2500]]])
    """
    one = torch.ones((), dtype=probabilities.dtype, device=probabilities.device)
    slope = probabilities.scatter_add_(-1, labels[..., None], -one.expand(*labels.shape, 1))
    return slope.mul_(counted[..., None])


def drawn_labels(
    probabilities: Float[Tensor, "batch pos d_vocab"], rows: Sequence[Row], seed: int
) -> Int64[Tensor, "batch pos"]:
    """A token for each position from the model's own prediction there.

    Each row has numbers of its own, whatever batch it is in, and positions behind its end have label 0.
    """
    numbers = torch.zeros(probabilities.shape[:2], dtype=torch.float64)
    for place, row in enumerate(rows):
        digest = hashlib.blake2b(f"{seed} {row.passage} {row.tokens}".encode(), digest_size=7).digest()
        own = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        drawn = torch.rand(len(row.tokens), generator=own, dtype=torch.float64)
        numbers[place, : len(row.tokens)] = drawn
    return token_at(probabilities, numbers.to(probabilities.device, probabilities.dtype))


def token_at(
    probabilities: Float[Tensor, "batch pos d_vocab"],
    level: Float[Tensor, "batch pos"],
    width: int = 256,
) -> Int64[Tensor, "batch pos"]:
    """The first token up to which the probabilities sum to more than a share of their sum.

    Sought among sums of `width` tokens first and then within, since running sums of a whole vocabulary
    take as long as a block of the model, and lose more to rounding.

    Examples:
        >>> said = torch.tensor([[[0.5, 0.0, 0.25, 0.25]] * 4])
        >>> token_at(said, torch.tensor([[0.0, 0.5, 0.75, 0.999]]), width=2).tolist()
        [[0, 2, 3, 3]]
    """
    tall = torch.nn.functional.pad(probabilities, (0, -probabilities.shape[-1] % width))
    blocks = tall.reshape(*tall.shape[:-1], -1, width)
    upto = blocks.sum(-1).cumsum(-1)
    wanted = level[..., None] * upto[..., -1:]
    block = torch.searchsorted(upto, wanted, right=True).clamp_max(upto.shape[-1] - 1)
    below = torch.where(block > 0, upto.gather(-1, (block - 1).clamp_min(0)), 0.0)
    own = blocks.gather(-2, block[..., None].expand(*block.shape, width))[..., 0, :]
    inside = torch.searchsorted(own.cumsum(-1), wanted - below, right=True)
    # Where rounding leads past the block's end, its most probable token, which is none of the filling.
    inside = torch.where(inside < width, inside, own.argmax(-1, keepdim=True))
    found: Tensor = (block * width + inside)[..., 0]
    return found
