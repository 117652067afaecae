"""How a model calls its blocks, seen in a pass: a whole one, or one that computes no block."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tl_truncate.replay.calls import BlockCall, last_logits, run_whole
from tl_truncate.surgery.watch import unwatched
from tl_truncate.weights.locate import n_layers


@dataclass(frozen=True)
class Entered:
    """What a batch brings to the blocks.

    Attributes:
        tokens: of the batch.
        start: the residual stream that enters block 0.
        calls: of each block.
    """

    tokens: Int64[Tensor, "batch pos"]
    start: Float[Tensor, "batch pos d_model"]
    calls: tuple[BlockCall, ...]


@dataclass(frozen=True)
class Recording(Entered):
    """What one pass of the uncut model showed.

    Attributes:
        logits: at the last positions.
        returns: for each block how many values it returns in a tuple; 0 for a bare tensor.
    """

    logits: Float[Tensor, "batch positions d_vocab"]
    returns: tuple[int, ...]

    @property
    def positions(self) -> int:
        """At how many last positions there are logits."""
        return self.logits.shape[1]


def record(model: Any, tokens: Int64[Tensor, "batch pos"], positions: int) -> Recording | None:
    """Runs the uncut model and notes how it calls its blocks.

    Returns:
        What was seen, or None if the blocks are not called once each, in order, with arguments that
        can be given again.
    """
    notes = _Notes()
    with notes.taken(model, notes.leave):
        logits = last_logits(model, tokens, positions)
    if not notes.in_order(model):
        return None
    return Recording(tokens, notes.start, notes.calls, logits, tuple(notes.returns))


@torch.no_grad()
def enter(model: Any, tokens: Int64[Tensor, "batch pos"], returns: Sequence[int]) -> Entered | None:
    """What a batch brings to the blocks, from a pass in which no block computes anything.

    The model embeds the batch and makes the arguments of its blocks; each block hands on what it got.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tokens: without padding.
        returns: how each block returns its output, from a `Recording`.

    Returns:
        What was seen, or None if the model does not run so.
    """
    notes = _Notes()
    with ExitStack() as stack:
        stack.enter_context(unwatched())
        stack.enter_context(notes.taken(model, None))
        for block, values in zip(model.blocks, returns, strict=True):
            stack.enter_context(_standing_in(block, values))
        stack.callback(model.unembed.register_forward_pre_hook(_one_alone).remove)
        try:
            run_whole(model, tokens)
        except Exception:  # noqa: BLE001 -- whatever a model of any architecture raises, it means no
            return None
    return Entered(tokens, notes.start, notes.calls) if notes.in_order(model) else None


def _one_alone(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    return (args[0][:1, -1:], *args[1:]) if args else None


@contextmanager
def _standing_in(block: nn.Module, values: int) -> Iterator[None]:
    """Lets a block hand on what it got."""
    # In its own dictionary: a Bridge hands attributes on to what it wraps. Accelerate has one there
    # where weights are kept elsewhere.
    own = block.__dict__.get("forward")
    block.__dict__["forward"] = partial(_hand_on, values)
    try:
        yield
    finally:
        del block.__dict__["forward"]
        if own is not None:
            block.__dict__["forward"] = own


def _hand_on(values: int, *args: Any, **kwargs: Any) -> Any:
    hidden = args[0] if args else kwargs["hidden_states"]
    return (hidden, *[None] * (values - 1)) if values else hidden


class _Notes:
    """What a pass shows of its blocks: how each is called, what enters the first, how each returns."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, BlockCall | None]] = []
        self.start = torch.empty(0)
        self.returns: list[int] = []

    @contextmanager
    def taken(self, model: Any, leave: Callable[..., None] | None) -> Iterator[None]:
        """Takes notes of a model's passes, at the end of its blocks too if asked."""
        with ExitStack() as stack:
            for layer, block in enumerate(model.blocks):
                note = partial(self._take, layer)
                stack.callback(block.register_forward_pre_hook(note, with_kwargs=True).remove)
                if leave is not None:
                    stack.callback(block.register_forward_hook(leave).remove)
            yield

    @property
    def calls(self) -> tuple[BlockCall, ...]:
        """Of the blocks, as far as they are understood."""
        return tuple(call for _, call in self._seen if call is not None)

    def in_order(self, model: Any) -> bool:
        """Whether each block was called once, in order, with arguments that can be given again."""
        layers = [layer for layer, _ in self._seen]
        return layers == list(range(n_layers(model))) and len(self.calls) == len(layers)

    def _take(self, layer: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, call = _read_call(module, args, kwargs)
        self._seen.append((layer, call))
        if layer == 0 and isinstance(hidden, Tensor):
            # A block that writes into what it reads gives other logits when it is called again.
            self.start = hidden

    def leave(self, module: Any, args: Any, output: Any) -> None:
        """As a hook behind a block."""
        self.returns.append(len(output) if isinstance(output, (tuple, list)) else 0)


def _read_call(
    block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, BlockCall | None]:
    named = dict(kwargs)
    if args:
        hidden, *rest = args
    else:
        hidden, rest = named.pop("hidden_states", None), []
    inner = getattr(block, "original_component", None) or block
    # Of its class, behind itself and the residual stream: something may stand in for it.
    names = list(inspect.signature(type(inner).forward).parameters)[2 : len(rest) + 2]
    named.update(zip(names, rest, strict=False))
    understood = isinstance(hidden, Tensor) and len(names) == len(rest)
    understood = understood and all(_can_repeat(value) for value in named.values())
    return hidden, BlockCall(named) if understood else None


def _can_repeat(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_can_repeat, value))
    return value is None or isinstance(value, (bool, int, float, str, Tensor))
