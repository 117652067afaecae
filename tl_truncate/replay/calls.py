"""How a model calls its blocks: the arguments beside the residual stream, caught in one pass."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_truncate.weights.bridge import is_bridge_block
from tl_truncate.weights.holding.gradients import gradients_through_quantised
from tl_truncate.weights.holding.placement import model_device
from tl_truncate.weights.locate import n_layers

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
        changed: dict[str, Any] = {}
        for name, value in self.arguments.items():
            cutter = _SUFFIXES.get(name)
            if cutter is None and _holds_tensor(value):
                return None
            changed[name] = value
            if cutter is not None:
                changed.update(_each_tensor({name: value}, partial(_call_with, cutter, positions)))
        return BlockCall(changed)

    def with_cache(self, cache: object) -> "BlockCall | None":
        """The call with past keys and values; None if the block takes none."""
        for name in _CACHES:
            if name in self.arguments:
                names = (name, _HANDED_ON.get(name, name))
                return BlockCall({**self.arguments, **dict.fromkeys(names, cache)})
        return None


def _tile(copies: int, value: Any, of_rows: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_tile(copies, *pair) for pair in zip(value, of_rows, strict=True))
    return value.repeat(copies, *[1] * (value.ndim - 1)) if of_rows else value


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


def _call_with(cutter: Callable[[Tensor, int], Tensor], positions: int, value: Tensor) -> Tensor:
    return cutter(value, positions)


def _mask_rows(mask: Tensor, positions: int) -> Tensor:
    # A mask of two dimensions is of keys alone.
    return mask[..., -positions:, :] if mask.ndim > 2 else mask


_SUFFIXES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "attention_mask": _mask_rows,
    "position_ids": lambda ids, positions: ids[..., -positions:],
    "position_embeddings": lambda table, positions: table[..., -positions:, :],
    "cache_position": lambda places, positions: places[-positions:],
}


def _each_tensor(arguments: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {name: _changed(change, value) for name, value in arguments.items()}


def _changed(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    return tuple(_changed(change, each) for each in value) if isinstance(value, tuple) else value


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, tuple) and any(map(_holds_tensor, value)))


@dataclass(frozen=True)
class Passed:
    """How one batch went through the model: its size, and how each block was called.

    Attributes:
        batch: how many rows it has.
        positions: at how many positions of each row logits are wanted, counted from its end.
        calls: of each block.
    """

    batch: int
    positions: int
    calls: tuple[BlockCall, ...]


@dataclass(frozen=True)
class Recording:
    """What one pass of the uncut model showed.

    Attributes:
        tokens: that were run.
        passed: how the blocks were called.
        start: the residual stream that entered block 0.
        entered: what entered the block that was asked for.
        logits: at the last positions.
    """

    tokens: Int64[Tensor, "batch pos"]
    passed: Passed
    start: Float[Tensor, "batch pos d_model"]
    entered: Float[Tensor, "batch pos d_model"]
    logits: Float[Tensor, "batch positions d_vocab"]


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
    # A cache of keys would be filled by the pass, and captured with the arguments.
    options = {"use_cache": False} if is_bridge_block(model.blocks[0]) else {}
    with unembedding_only(model, positions):
        logits: Tensor = model(tokens.to(model_device(model)), return_type="logits", **options)
    return logits[:, -positions:]


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


def record(
    model: Any, tokens: Int64[Tensor, "batch pos"], positions: int, *, entering: int = 0
) -> Recording | None:
    """Runs the uncut model and notes how it calls its blocks, and what enters one of them.

    Returns:
        What was seen, or None if the blocks are not called once each, in order, with arguments that
        can be given again.
    """
    notes = _Notes(entering)
    with ExitStack() as stack:
        for layer in range(n_layers(model)):
            note = partial(notes.take, layer)
            handle = model.blocks[layer].register_forward_pre_hook(note, with_kwargs=True)
            stack.callback(handle.remove)
        logits = last_logits(model, tokens, positions)
    calls = tuple(call for _, call in notes.seen if call is not None)
    in_order = [layer for layer, _ in notes.seen] == list(range(n_layers(model)))
    if not in_order or len(calls) != len(notes.seen):
        return None
    passed = Passed(len(tokens), positions, calls)
    return Recording(tokens, passed, notes.entered[0], notes.entered[entering], logits)


class _Notes:
    """What a pass shows of its blocks: how each is called, and what enters the first and one other."""

    def __init__(self, entering: int) -> None:
        self._kept = (0, entering)
        self.seen: list[tuple[int, BlockCall | None]] = []
        self.entered: dict[int, Tensor] = {}

    def take(self, layer: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """As a hook before a block."""
        hidden, call = _read_call(module, args, kwargs)
        self.seen.append((layer, call))
        if layer in self._kept and isinstance(hidden, Tensor):
            # A block that writes into what it reads is found out at block 0.
            self.entered[layer] = hidden if layer == 0 else hidden.clone()


def _read_call(
    block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, BlockCall | None]:
    named = dict(kwargs)
    if args:
        hidden, *rest = args
    else:
        hidden, rest = named.pop("hidden_states", None), []
    inner = getattr(block, "original_component", None) or block
    names = list(inspect.signature(inner.forward).parameters)[1 : len(rest) + 1]
    named.update(zip(names, rest, strict=False))
    understood = isinstance(hidden, Tensor) and len(names) == len(rest)
    understood = understood and all(_can_repeat(value) for value in named.values())
    return hidden, BlockCall(named) if understood else None


def _can_repeat(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_can_repeat, value))
    return value is None or isinstance(value, (bool, int, float, str, Tensor))
