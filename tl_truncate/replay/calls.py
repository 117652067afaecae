"""How a model calls its blocks: the arguments beside the residual stream, and what of them is whose."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_truncate.weights.bridge import is_bridge_block
from tl_truncate.weights.holding.gradients import gradients_through_quantised
from tl_truncate.weights.holding.placement import model_device

#: What of a block's arguments goes with the rows of a batch: for each name whether its first axis does,
#: and for a tuple the same of each of its values. None where there is no tensor.
Layout = dict[str, Any]

# Under which of these names a block takes past keys and values, if it takes any.
_CACHES = ("past_key_values", "cache", "layer_past", "past_kv_cache_entry")
# Blocks of transformers 5.24 take `cache` and hand it on under that name, which the Bridge's attention
# of TransformerLens 4.3 does not know yet; what they do not know they hand on too, and this name it
# knows.
_HANDED_ON = {"cache": "layer_past"}


@dataclass(frozen=True)
class BlockCall:
    """The keyword arguments of one block for one batch, by the names that the block itself uses."""

    arguments: dict[str, Any]

    def tiled(self, copies: int, layout: Layout) -> "BlockCall":
        """The call for a tall batch of `copies` times the rows; what is shared by all rows stays."""

        if copies == 1:
            return self
        return BlockCall(
            {name: _tile(copies, value, layout[name]) for name, value in self.arguments.items()}
        )

    def suffix(self, positions: int) -> "BlockCall | None":
        """The call for the last positions of each row; None if an argument is not understood."""
        return self._cut(slice(-positions, None), slice(None))

    def part(self, start: int, end: int) -> "BlockCall | None":
        """The call for some positions of each row behind those in front of them, as `suffix`."""
        return self._cut(slice(start, end), slice(end))

    def _cut(self, queries: slice, keys: slice) -> "BlockCall | None":
        if any(_holds_tensor(value) for name, value in self.arguments.items() if name not in _CUTTERS):
            return None
        changed = {
            name: _changed(partial(_CUTTERS[name], queries, keys), value) if name in _CUTTERS else value
            for name, value in self.arguments.items()
        }
        return BlockCall(changed)

    def first_row(self, rows: int, layout: Layout) -> "BlockCall":
        """The call for the first of so many rows alone."""
        if rows == 1:
            return self
        return BlockCall(
            {name: _first(rows, value, layout[name]) for name, value in self.arguments.items()}
        )

    def same(self, other: "BlockCall") -> bool:
        """Whether both are the same, number by number."""
        return self.arguments.keys() == other.arguments.keys() and all(
            _is_same(value, other.arguments[name]) for name, value in self.arguments.items()
        )

    def with_cache(self, cache: object) -> "BlockCall | None":
        """The call with past keys and values; None if the block takes none."""
        for name in _CACHES:
            if name in self.arguments:
                names = (name, _HANDED_ON.get(name, name))
                return BlockCall({**self.arguments, **dict.fromkeys(names, cache)})
        return None


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def _tile(copies: int, value: Any, of_rows: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_tile(copies, *pair) for pair in zip(value, of_rows, strict=True))
    if not of_rows:
        return value
    if value.shape[0] == 1:  # read, and not copied
        return value.expand(copies, *value.shape[1:])
    return value.repeat(copies, *[1] * (value.ndim - 1))


def _first(rows: int, value: Any, of_rows: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_first(rows, *pair) for pair in zip(value, of_rows, strict=True))
    return value[: value.shape[0] // rows] if of_rows else value


def layout_of(one: BlockCall, two: BlockCall) -> Layout | None:
    """What goes with the rows, from the calls for one row and for two of the same length.

    A size alone does not say: a bias of each head is as long as a batch of as many rows. What has twice
    the length for two rows goes with them, such as an ALiBi bias of each row and head,
    `[row * head, 1, pos]`.

    Returns:
        The layout; None if something is neither the same for two rows nor twice as long.

    Examples:
        >>> def call(rows):
        ...     return BlockCall(dict(mask=torch.zeros(rows, 1, 5, 5), bias=torch.zeros(2, 1, 5)))
        >>> layout_of(call(1), call(2))
        {'mask': True, 'bias': False}
    """
    if one.arguments.keys() != two.arguments.keys():
        return None
    try:
        return {
            name: _goes_with_rows(one.arguments[name], two.arguments[name]) for name in one.arguments
        }
    except _NotUnderstood:
        return None


class _NotUnderstood(Exception):
    """No error: an argument that is neither shared by the rows nor made of them."""


def _goes_with_rows(one: Any, two: Any) -> Any:
    if isinstance(one, tuple) and isinstance(two, tuple) and len(one) == len(two):
        return tuple(map(_goes_with_rows, one, two))
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        if one.shape == two.shape:
            return False
        if one.ndim and two.shape == (2 * one.shape[0], *one.shape[1:]):
            return True
    elif type(one) is type(two) and not isinstance(one, tuple) and one == two:
        return None
    raise _NotUnderstood


def fits(call: BlockCall, layout: Layout, one: BlockCall, batch: int) -> bool:
    """Whether a batch's call is made as the layout says, from the call for one row of any length."""
    return call.arguments.keys() == layout.keys() and all(
        _is_made_so(batch, value, layout[name], one.arguments[name])
        for name, value in call.arguments.items()
    )


def _is_made_so(batch: int, value: Any, of_rows: Any, own: Any) -> bool:
    if isinstance(value, tuple):
        if not isinstance(own, tuple) or len(value) != len(own):
            return False
        return all(_is_made_so(batch, *each) for each in zip(value, of_rows, own, strict=True))
    if not isinstance(value, Tensor):
        return of_rows is None
    if of_rows is None or value.ndim != own.ndim:
        return False
    return not of_rows or value.shape[0] == batch * own.shape[0]


def _cut_mask(queries: slice, keys: slice, mask: Tensor) -> Tensor:
    # A mask of two dimensions is of keys alone, and one query stands for all.
    if mask.ndim <= 2 or mask.shape[-2] == 1:
        return mask[..., keys]
    return mask[..., queries, keys]


# What of an argument belongs to some queries and keys. A bias of MPT's is for as many keys as there may
# be, and the block takes its end.
_CUTTERS: dict[str, Callable[[slice, slice, Tensor], Tensor]] = {
    "attention_mask": _cut_mask,
    "position_ids": lambda queries, keys, ids: ids[..., queries],
    "position_embeddings": lambda queries, keys, table: table[..., queries, :],
    "cache_position": lambda queries, keys, places: places[queries],
    "alibi": lambda queries, keys, bias: bias[..., keys],
    "position_bias": lambda queries, keys, bias: bias,
}


def _changed(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    return tuple(_changed(change, each) for each in value) if isinstance(value, tuple) else value


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, tuple) and any(map(_holds_tensor, value)))


def last_logits(
    model: Any, tokens: Int64[Tensor, "batch pos"], positions: int
) -> Float[Tensor, "batch positions d_vocab"]:
    """Logits of the last positions, without unembedding the others.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tokens: without padding.
        positions: how many, counted from the end.
    """
    with torch.no_grad():
        return end_logits(model, tokens, positions)


def end_logits(
    model: Any, tokens: Int64[Tensor, "batch pos"], positions: int
) -> Float[Tensor, "batch positions d_vocab"]:
    """`last_logits` with a gradient, where one is wanted."""
    with unembedding_only(model, positions):
        logits = run_whole(model, tokens)
    return logits[:, -positions:]


def run_whole(model: Any, tokens: Int64[Tensor, "batch pos"]) -> Tensor:
    """One pass of a model as it is."""
    # A cache of keys would be filled by the pass, and captured with the arguments.
    options = {"use_cache": False} if is_bridge_block(model.blocks[0]) else {}
    logits: Tensor = model(tokens.to(model_device(model)), return_type="logits", **options)
    return logits


@contextmanager
def unembedding_only(model: Any, positions: int) -> Iterator[None]:
    """Lets the model unembed the last positions alone."""
    handle = model.unembed.register_forward_pre_hook(partial(_last_alone, positions))
    try:
        yield
    finally:
        handle.remove()


def _last_alone(positions: int, module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    return (args[0][:, -positions:], *args[1:]) if args else None


@contextmanager
def graph_from(model: Any, layer: int) -> Iterator[None]:
    """Lets the graph of a pass begin at a block, also where no weight asks for a gradient.

    It goes through quantised linears too.
    """
    handle = model.blocks[layer].register_forward_pre_hook(_from_here, with_kwargs=True)
    try:
        with torch.enable_grad(), gradients_through_quantised(model):
            yield
    finally:
        handle.remove()


def _from_here(module: Any, args: Any, kwargs: Any) -> Any:
    if args:
        return (args[0].detach().requires_grad_(), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach().requires_grad_()}
