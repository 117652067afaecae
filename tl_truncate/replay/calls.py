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
from tl_truncate.weights.locate import n_layers

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

    def tiled(self, copies: int, batch: int) -> "BlockCall":
        """The call for a tall batch of `copies` times the rows; what is shared by all rows stays."""

        def tile(value: Tensor) -> Tensor:
            rows = value.ndim > 1 and value.shape[0] == batch > 1
            return value.repeat(copies, *[1] * (value.ndim - 1)) if rows else value

        return self if copies == 1 else BlockCall(_each_tensor(self.arguments, tile))

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
    def through(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        return tuple(map(through, value)) if isinstance(value, tuple) else value

    return {name: through(value) for name, value in arguments.items()}


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
        passed: how the blocks were called.
        start: the residual stream that entered block 0.
        logits: at the last positions.
    """

    passed: Passed
    start: Float[Tensor, "batch pos d_model"]
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
    # A cache of keys would be filled by the pass, and captured with the arguments.
    options = {"use_cache": False} if is_bridge_block(model.blocks[0]) else {}
    device = next(iter(model.parameters())).device
    with torch.no_grad(), unembedding_only(model, positions):
        logits: Tensor = model(tokens.to(device), return_type="logits", **options)
    return logits[:, -positions:]


@contextmanager
def unembedding_only(model: Any, positions: int) -> Iterator[None]:
    """Lets the model unembed the last positions alone."""

    def last(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (args[0][:, -positions:], *args[1:]) if args else None

    handle = model.unembed.register_forward_pre_hook(last)
    try:
        yield
    finally:
        handle.remove()


def record(model: Any, tokens: Int64[Tensor, "batch pos"], positions: int) -> Recording | None:
    """Runs the uncut model and notes how it calls its blocks.

    Returns:
        What was seen, or None if the blocks are not called once each, in order, with arguments that
        can be given again.
    """
    seen: list[tuple[int, Tensor, BlockCall | None]] = []
    with ExitStack() as stack:
        for layer in range(n_layers(model)):
            block = model.blocks[layer]

            def note(
                module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], layer: int = layer
            ) -> None:
                hidden, call = _read_call(module, args, kwargs)
                seen.append((layer, hidden, call))

            stack.callback(block.register_forward_pre_hook(note, with_kwargs=True).remove)
        logits = last_logits(model, tokens, positions)
    calls = tuple(call for _, _, call in seen if call is not None)
    if [layer for layer, _, _ in seen] != list(range(n_layers(model))) or len(calls) != len(seen):
        return None
    return Recording(Passed(len(tokens), positions, calls), seen[0][1], logits)


def _read_call(
    block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, BlockCall | None]:
    named = dict(kwargs)
    if args:
        hidden, *rest = args
    else:
        hidden, rest = named.pop("hidden_states"), []
    if rest:
        inner = getattr(block, "original_component", None) or block
        names = list(inspect.signature(inner.forward).parameters)[1 : len(rest) + 1]
        named.update(zip(names, rest, strict=True))
    understood = all(_can_repeat(value) for value in named.values())
    return hidden, BlockCall(named) if understood else None


def _can_repeat(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_can_repeat, value))
    return value is None or isinstance(value, (bool, int, float, str, Tensor))
