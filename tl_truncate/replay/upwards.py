"""From the residual stream at some block up to the logits at the answers' positions."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.replay.calls import BlockCall, Layout, Passed, Recording, fits, layout_of, record
from tl_truncate.weights.linear import where_float64_is
from tl_truncate.weights.locate import n_layers

# Largest tolerated difference of log-probability between a replayed and a full pass, by precision.
# The operations are the same and only their batch differs, so this is generous.
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3}
_TOLERANCE_HALF = 0.25
# Enough of a row to try what several copies of several rows need, and little beside the model.
_TRIED = 8


class Replayer:
    """Calls a model's blocks again, with the last one at the answers' positions alone where it can.

    In the last block only the answers' queries matter, but everyone's keys and values. The block is
    called twice with a cache of the caller's own: once on all positions, to have its keys and values
    and be left there, and once on the last positions, which find those as their past.

    Args:
        model: a HookedTransformer or TransformerBridge.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.last = n_layers(model) - 1
        self._narrow = True
        self._layouts: list[Layout] = []
        self._of_one_row: tuple[BlockCall, ...] = ()

    def accepts(self, seen: Recording) -> bool:
        """Whether a replay of the whole model gives the logits of its own pass; to be asked first.

        Tried on the pass as it was, and on two short rows in two copies each. The short last block is
        tried first, and then the whole one.
        """
        two = self._learn(seen)
        if two is None or not self.fits(seen.passed):
            return False
        for narrow in (True, False):
            self._narrow = narrow
            if self._repeats(seen, 1) and self._repeats(two, 2):
                return True
        return False

    def fits(self, passed: Passed) -> bool:
        """Whether it is known of a batch what in its calls goes with its rows."""
        calls = zip(passed.calls, self._layouts, self._of_one_row, strict=True)
        return all(fits(call, layout, one, passed.batch) for call, layout, one in calls)

    def _learn(self, seen: Recording) -> Recording | None:
        """What goes with the rows, from one short row and from two, and the pass of the two."""
        tokens = seen.tokens[:2, :_TRIED]
        if len(tokens) == 1:
            tokens = torch.cat([tokens, tokens.flip(1)])
        positions = min(seen.passed.positions, tokens.shape[1])
        one, two = (record(self.model, rows, positions) for rows in (tokens[:1], tokens))
        if one is None or two is None:
            return None
        pairs = zip(one.passed.calls, two.passed.calls, strict=True)
        layouts = [layout for pair in pairs if (layout := layout_of(*pair)) is not None]
        self._layouts, self._of_one_row = layouts, one.passed.calls
        return two if len(layouts) == len(one.passed.calls) else None

    def _repeats(self, seen: Recording, copies: int) -> bool:
        """Whether copies of a pass's rows get the logits of that pass."""
        try:
            again = self.upwards(0, seen.start.repeat(copies, 1, 1), seen.passed)
        except Exception:  # noqa: BLE001 -- whatever a block of any architecture raises, it means no
            return False
        wanted = seen.logits.repeat(copies, 1, 1)
        if again.shape != wanted.shape:
            return False
        return log_probability_gap(again, wanted) <= _TOLERANCE.get(wanted.dtype, _TOLERANCE_HALF)

    def block(self, layer: int, resid: Tensor, call: BlockCall) -> Float[Tensor, "batch pos d_model"]:
        """One block's output."""
        out = self.model.blocks[layer](resid, **call.arguments)
        left: Tensor = out[0] if isinstance(out, (tuple, list)) else out
        return left

    @torch.no_grad()
    def upwards(
        self, layer: int, resid: Float[Tensor, "tall pos d_model"], passed: Passed
    ) -> Float[Tensor, "tall positions d_vocab"]:
        """Logits from the residual stream that enters a block, or leaves the last one.

        Args:
            layer: the block; one more than the last to unembed at once.
            resid: a whole number of copies of the batch.
            passed: how the blocks were called on the batch.
        """
        copies = resid.shape[0] // passed.batch
        for index in range(layer, self.last):
            resid = self.block(index, resid, self._tiled(index, copies, passed))
        if layer <= self.last:
            call = self._tiled(self.last, copies, passed)
            resid = self._last_block(resid, call, passed.positions)
        return self._unembed(resid[:, -passed.positions :])

    def _tiled(self, layer: int, copies: int, passed: Passed) -> BlockCall:
        return passed.calls[layer].tiled(copies, self._layouts[layer])

    def _last_block(self, resid: Tensor, call: BlockCall, positions: int) -> Tensor:
        keys = _Keys()
        short, noting = call.suffix(positions), call.with_cache(keys)
        if not self._narrow or short is None or noting is None:
            return self.block(self.last, resid, call)
        try:
            # A block that ignores the cache has done all its work, and this is its output.
            return self.block(self.last, resid, noting)
        except _KeysSeen:
            pass
        known = short.with_cache(_Past(keys, positions))
        assert known is not None
        return self.block(self.last, resid[:, -positions:], known)

    def _unembed(self, resid: Tensor) -> Tensor:
        norm = getattr(self.model, "ln_final", None)
        logits: Tensor = self.model.unembed(resid if norm is None else norm(resid))
        cap = float(getattr(self.model.cfg, "output_logits_soft_cap", 0) or 0)
        return logits if cap <= 0 else cap * torch.tanh(logits / cap)


def log_probability_gap(first: Tensor, second: Tensor) -> float:
    """The largest difference of log-probability between two tensors of logits."""
    one, other = where_float64_is(first), where_float64_is(second)
    gap = one.double().log_softmax(-1) - other.double().log_softmax(-1)
    return float(gap.abs().max())


class _KeysSeen(Exception):
    """No error: the way out of a block whose keys and values are known."""


class _Keys:
    """A cache that takes the keys and values of all positions and leaves the block.

    It answers to the protocols of transformers (`update`) and of TransformerLens 3 (`append`).
    """

    past_keys = torch.empty(0, 0)

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values = keys, values
        raise _KeysSeen

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return self.update(keys, values)


class _Past:
    """A cache that already has the keys and values of all positions, the newest included."""

    def __init__(self, known: _Keys, positions: int) -> None:
        assert known.keys is not None
        assert known.values is not None
        self._both = known.keys, known.values
        self._before = known.keys.shape[1] - positions

    @property
    def past_keys(self) -> Tensor:
        return self._both[0][:, : self._before]

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self._both

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return self._both
