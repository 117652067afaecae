"""From the residual stream at some block up to the logits at the answers' positions."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.replay.calls import BlockCall, Layout, fits, layout_of
from tl_truncate.replay.passed import Part, Passed, passed_alone
from tl_truncate.replay.past import Behind, Cache, Full, KeysSeen, Known
from tl_truncate.replay.recording import Entered, Recording, enter, record
from tl_truncate.weights.linear import where_float64_is
from tl_truncate.weights.locate import n_layers

# Largest tolerated difference of log-probability between a replayed and a full pass, by precision.
# The operations are the same and only their batch differs, so this is generous.
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3}
_TOLERANCE_HALF = 0.25
# Enough of a row to try what several copies of several rows need, and little beside the model.
_TRIED = 6

#: Residual streams of the segments of a tree; behind the last block those of leaves alone count.
Streams = tuple[Tensor, ...]


class Replayer:
    """Calls a model's blocks again, with the last one at the answers' positions alone where it can.

    In the last block only the answers' queries matter, but everyone's keys and values. The block is
    called twice with a cache of the caller's own: once on all positions, to have its keys and values
    and be left there, and once on the last positions, which find those as their past. In the same way
    rows that begin alike share their beginning: a block is called on it once, and its keys and values
    are the past of what differs.

    Args:
        model: a HookedTransformer or TransformerBridge.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.last = n_layers(model) - 1
        self.layouts: list[Layout] = []
        self._narrow = True
        self._of_one_row: tuple[BlockCall, ...] = ()

    def accepts(self, seen: Recording) -> bool:
        """Whether two short rows in two copies each get their own logits; to be asked first.

        The short last block is tried first, and then the whole one. Whoever goes on compares the whole
        pass with a replay of its rows.
        """
        two = self._learn(seen)
        if two is None or not self.fits(seen):
            return False
        return self.tries((two.start,), passed_alone(two, two.positions), (two.logits,))

    def widens(self) -> bool:
        """Has the last block run whole from now on; whether it was short before."""
        was_narrow, self._narrow = self._narrow, False
        return was_narrow

    def fits(self, seen: Entered) -> bool:
        """Whether it is known of a batch what in its calls goes with its rows."""
        calls = zip(seen.calls, self.layouts, self._of_one_row, strict=True)
        return all(fits(call, layout, one, len(seen.tokens)) for call, layout, one in calls)

    def _learn(self, seen: Recording) -> Recording | None:
        """What goes with the rows, from one short row and from two, and the pass of the two."""
        tokens = seen.tokens[:2, :_TRIED]
        if len(tokens) == 1:
            tokens = torch.cat([tokens, tokens.flip(1)])
        one = enter(self.model, tokens[:1], seen.returns)
        two = record(self.model, tokens, min(seen.positions, tokens.shape[1]))
        one = one or record(self.model, tokens[:1], 1)
        if one is None or two is None:
            return None
        pairs = zip(one.calls, two.calls, strict=True)
        layouts = [layout for pair in pairs if (layout := layout_of(*pair)) is not None]
        self.layouts, self._of_one_row = layouts, one.calls
        return two if len(layouts) == len(one.calls) else None

    def tries(self, start: Streams, passed: Passed, wanted: Sequence[Tensor]) -> bool:
        """Whether two copies of a tree's rows get some logits, with the last block short or whole."""
        for narrow in (True, False):
            self._narrow = narrow
            if self._agrees(start, passed, wanted):
                return True
        return False

    def _agrees(self, start: Streams, passed: Passed, wanted: Sequence[Tensor]) -> bool:
        try:
            again = self.upwards(0, copied(start, 2), passed)
        except Exception:  # noqa: BLE001 -- whatever a block of any architecture raises, it means no
            return False
        pairs = zip(again, copied(wanted, 2), strict=True)
        return all(same_logits(found, own) for found, own in pairs)

    def blocks(self, layer: int, resids: Streams, passed: Passed) -> Streams:
        """One block's output."""
        known: dict[int, Known] = {}
        return tuple(
            self._block(layer, resid, passed, index, known) for index, resid in enumerate(resids)
        )

    def _block(
        self, layer: int, resid: Tensor, passed: Passed, index: int, known: dict[int, Known]
    ) -> Tensor:
        part = passed.parts[index]
        call = self._call(layer, resid, part)
        if passed.tree.shares and not (part.segment.is_leaf and part.segment.parent is None):
            cache = Cache(_behind(part, resid, known))
            left = self._run(layer, resid, _cached(call, cache))
            if not part.segment.is_leaf:
                known[index] = _seen(cache)
            return left
        return self._run(layer, resid, call)

    def _call(self, layer: int, resid: Tensor, part: Part) -> BlockCall:
        return part.call(layer, resid.shape[0] // part.rows, self.layouts)

    def _run(self, layer: int, resid: Tensor, call: BlockCall) -> Float[Tensor, "batch pos d_model"]:
        out = self.model.blocks[layer](resid, **call.arguments)
        left: Tensor = out[0] if isinstance(out, (tuple, list)) else out
        return left

    @torch.no_grad()
    def upwards(self, layer: int, resids: Streams, passed: Passed) -> tuple[Tensor, ...]:
        """Logits from the residual streams that enter a block, or leave the last one.

        Args:
            layer: the block; one more than the last to unembed at once.
            resids: for each segment a whole number of copies of its rows; that of a segment from which
                rows go on is not looked at behind the last block.
            passed: the rows' way.

        Returns:
            For each leaf `[tall, positions, d_vocab]`.
        """
        for index in range(layer, self.last):
            resids = self.blocks(index, resids, passed)
        if layer <= self.last:
            resids = self._last_block(resids, passed)
        return self.unembed(resids, passed)

    def unembed(self, resids: Streams, passed: Passed) -> tuple[Tensor, ...]:
        """Logits at the answers' positions of each leaf, from what leaves the last block."""
        pairs = zip(resids, passed.parts, strict=True)
        return tuple(
            self.read(resid[:, -part.positions :]) for resid, part in pairs if part.segment.is_leaf
        )

    def _last_block(self, resids: Streams, passed: Passed) -> Streams:
        known: dict[int, Known] = {}
        left = []
        for index, (resid, part) in enumerate(zip(resids, passed.parts, strict=True)):
            call = self._call(self.last, resid, part)
            behind = _behind(part, resid, known)
            cache = Cache(behind, leaves=True)
            short, noting = call.suffix(part.positions), call.with_cache(cache)
            if part.segment.is_leaf and (not self._narrow or short is None or noting is None):
                left.append(self._block(self.last, resid, passed, index, known))
                continue
            try:
                # A block that ignores the cache has done all its work, and this is its output.
                left.append(self._run(self.last, resid, _cached(call, cache)))
                continue
            except KeysSeen:
                pass
            if not part.segment.is_leaf:
                known[index] = _seen(cache)
                left.append(resid)
                continue
            assert short is not None
            full = _cached(short, Full(_seen(cache), part.positions))
            left.append(self._run(self.last, resid[:, -part.positions :], full))
        return tuple(left)

    def read(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits read off a residual stream through the final norm and the unembedding."""
        norm = getattr(self.model, "ln_final", None)
        logits: Tensor = self.model.unembed(resid if norm is None else norm(resid))
        cap = float(getattr(self.model.cfg, "output_logits_soft_cap", 0) or 0)
        return logits if cap <= 0 else cap * torch.tanh(logits / cap)


class NoCache(Exception):
    """A block that takes no keys and values of others."""


def _cached(call: BlockCall, cache: Cache | Full) -> BlockCall:
    found = call.with_cache(cache)
    if found is None:
        raise NoCache
    return found


def _seen(cache: Cache) -> Known:
    if cache.known is None:
        raise NoCache
    return cache.known


def _behind(part: Part, resid: Tensor, known: dict[int, Known]) -> Behind | None:
    parent = part.segment.parent
    if parent is None:
        return None
    return Behind(known[parent], part.segment.within, resid.shape[0] // part.rows)


def copied(streams: Sequence[Tensor], copies: int) -> Streams:
    """Each stream as a tall batch of so many copies."""
    return tuple(each.repeat(copies, *[1] * (each.ndim - 1)) for each in streams)


def same_logits(found: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors of logits are the same but for rounding."""
    if found.shape != wanted.shape:
        return False
    gap = log_probability_gap(found, wanted)
    return gap <= _TOLERANCE.get(wanted.dtype, _TOLERANCE_HALF)


def log_probability_gap(first: Tensor, second: Tensor) -> float:
    """The largest difference of log-probability between two tensors of logits."""
    one, other = where_float64_is(first), where_float64_is(second)
    gap = one.double().log_softmax(-1) - other.double().log_softmax(-1)
    return float(gap.abs().max())
