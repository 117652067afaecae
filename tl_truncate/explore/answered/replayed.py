"""One prompt's pass, from the block that is cut on, with what each block leaves at its last token."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.experiments.scoring.together.courses import HOOKS_ACT, reason_against
from tl_truncate.replay.acting import watch_hooks
from tl_truncate.replay.calls import last_logits
from tl_truncate.replay.passed import Passed, passed_alone
from tl_truncate.replay.recording import record
from tl_truncate.replay.upwards import Replayer, same_logits
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.hooks import truncated
from tl_truncate.weights.identity.hooks import hooks_at
from tl_truncate.weights.locate import n_layers

_OTHER_LOGITS = "its blocks, called again one by one, do not give the logits of a whole pass"


@dataclass(frozen=True)
class Ends:
    """What a pass says of the token behind its last one.

    Attributes:
        logits: of the next token.
        left: the residual stream behind each block but the last, at the last token.
        from_layer: the first block that ran.
    """

    logits: Float[Tensor, " d_vocab"]
    left: Float[Tensor, "blocks d_model"]
    from_layer: int


class Passes:
    """Passes of one prompt through a model, uncut and cut.

    What enters each block is kept of the uncut pass; a cut runs the blocks from its own on. Where a
    model cannot be run from the middle, whole passes are made, and `reason` says why.

    Args:
        model: a HookedTransformer or TransformerBridge, which has the same modules in all passes.
        tokens: of the prompt.
    """

    @torch.no_grad()
    def __init__(self, model: Any, tokens: Sequence[int]) -> None:
        self._model = model
        self._tokens = torch.tensor([tokens])
        self._replayer = Replayer(model)
        self._modules = tuple(model.named_modules())
        self._passed: Passed | None = None
        self._entering: list[Tensor] = []
        self._told: Tensor | None
        self.reason = reason_against(model)
        found, self._told = None, None
        if self.reason is None:
            with watch_hooks(model, self._modules) as acting:
                found = self._climb()
            self.reason = HOOKS_ACT if acting.now else _OTHER_LOGITS if found is None else None
        if found is None or self.reason is not None:
            self._passed, self._entering = None, []
            found = self._whole(())
        self.uncut = found
        if self._told is None or self._passed is None:
            self._told = found.logits

    def still(self) -> bool:
        """Whether a whole pass says what it said, whatever a hook or a module goes by."""
        assert self._told is not None
        return torch.equal(self._whole(()).logits, self._told)

    def cut(self, cuts: Sequence[SiteCut]) -> Ends:
        """The pass under some cuts.

        Raises:
            ValueError: if they cannot be made together.
        """
        if not cuts:
            return self.uncut
        if self._passed is None:
            return self._whole(cuts)
        layer = min(cut.site.layer for cut in cuts)
        watched = watch_hooks(self._model, self._modules)
        with torch.no_grad(), truncated(self._model, *cuts), watched as acting:
            found = self._from(layer)
        return self._whole(cuts) if acting.now else found

    def read(self, left: Float[Tensor, "blocks d_model"]) -> Float[Tensor, "blocks d_vocab"] | None:
        """Logits read off a residual stream through the final norm; None where hooks would see it."""
        if hooks_at(self._model):
            return None
        with torch.no_grad():
            return self._replayer.read(left[:, None])[:, 0]

    def _climb(self) -> Ends | None:
        """The uncut pass block by block; None if that is not the model's own pass."""
        seen = record(self._model, self._tokens, 1)
        self._told = None if seen is None else seen.logits[0, -1]
        if seen is None or not self._replayer.accepts(seen):
            return None
        for _ in range(2):
            self._passed = passed_alone(seen, 1)
            self._entering = [seen.start]
            found = self._from(0, keep=True)
            if same_logits(found.logits, seen.logits[0, -1]):
                return found
            if not self._replayer.widens():
                break
        return None

    def _from(self, layer: int, *, keep: bool = False) -> Ends:
        """The blocks from one on."""
        assert self._passed is not None
        replayer, passed = self._replayer, self._passed
        streams: tuple[Tensor, ...] = (self._entering[layer],)
        left = [each[0, -1] for each in self._entering[1 : layer + 1]]
        for place in range(layer, replayer.last):
            streams = replayer.blocks(place, streams, passed)
            left.append(streams[0][0, -1])
            if keep:
                self._entering.append(streams[0])
        (logits,) = replayer.upwards(replayer.last, streams, passed)
        return Ends(logits[0, -1], _stacked(left, streams[0]), layer)

    @torch.no_grad()
    def _whole(self, cuts: Sequence[SiteCut]) -> Ends:
        """A whole pass."""
        left: list[Tensor] = []
        with truncated(self._model, *cuts), ExitStack() as stack:
            for block in list(self._model.blocks)[:-1]:
                stack.callback(block.register_forward_hook(_noting(left)).remove)
            logits = last_logits(self._model, self._tokens, 1)
        if len(left) != n_layers(self._model) - 1:
            raise ValueError("Each block of the model must be called once in a pass, but is not.")
        return Ends(logits[0, -1], _stacked(left, logits.new_zeros(1, 1, self._model.cfg.d_model)), 0)


def _noting(left: list[Tensor]) -> Callable[..., None]:
    def note(module: Any, args: Any, output: Any) -> None:
        value = output[0] if isinstance(output, (tuple, list)) else output
        left.append(value[0, -1])

    return note


def _stacked(left: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.stack(list(left)) if left else like.new_zeros(0, like.shape[-1])
