"""What a forward pass is about: its tokens, and where position 0 and the padding are."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from tl_truncate.surgery.surgeon import CutNotApplied

_MISSED = (
    "A cut that depends on the tokens must see them at the embedding and its block's attention in each "
    "pass, but they did not go by. Run the whole model on token numbers."
)
# Models in whose pass another pass is being made, of which no edit that reads tokens takes notice.
_inside: "weakref.WeakSet[Any]" = weakref.WeakSet()


class Reader:
    """Reads tokens at the embedding, and positions off an attention pattern of the same block.

    With a cache of keys a pattern has more keys than queries, which says where the tokens stand; a key
    that nobody may look at is padding. So neither masks nor caches have to be understood.

    Args:
        model: a HookedTransformer or TransformerBridge.
        layer: whose attention is looked at.
        ahead: is given whole rows of tokens before the pass goes on, and its result is kept.
    """

    def __init__(self, model: Any, layer: int, ahead: Callable[[Tensor], Tensor] | None = None) -> None:
        self._model, self._layer, self._ahead = model, layer, ahead
        self._tokens: Tensor | None = None
        self._so_far: Tensor | None = None
        self._found: Tensor | None = None
        self._pattern: tuple[int, Tensor] | None = None

    def watch(self) -> Iterator[RemovableHandle]:
        """Places the hooks."""
        pattern = self._model.blocks[self._layer].attn.get_submodule("hook_pattern")
        yield self._model.embed.register_forward_pre_hook(self._embed, with_kwargs=True)
        yield pattern.register_forward_pre_hook(self._attend)

    @property
    def asleep(self) -> bool:
        """Whether this is a pass inside another one."""
        return self._model in _inside

    def _embed(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.asleep:
            return
        (tokens,) = args if args else kwargs.values()
        self._tokens, self._pattern, self._found = tokens.detach(), None, None
        if self._ahead is not None:
            _inside.add(self._model)
            try:
                self._found = self._ahead(self._tokens)
            finally:
                _inside.discard(self._model)

    def _attend(self, module: Any, args: tuple[Any, ...]) -> None:
        if not self.asleep:
            pattern = args[0].detach()
            # The last query may look at everything that is real.
            seen = pattern[..., -1, :].amax(1) > 0
            self._pattern = (pattern.shape[-1] - pattern.shape[-2], seen)

    def now(self, value: Tensor) -> tuple[Int64[Tensor, "batch known"], Bool[Tensor, "batch pos"]]:
        """The tokens up to a value's last position, and where an edit acts: not at position 0, nor at
        padding.

        The first positions of a value may come from an earlier pass (a cache of keys), or the tokens of
        its last position alone may have been embedded anew; either way those before are remembered.

        Raises:
            CutNotApplied: if the tokens of this pass have not gone by.
        """
        if self._tokens is None or self._pattern is None:
            raise CutNotApplied(_MISSED)
        before, seen = self._pattern
        tokens = self._known(before + value.shape[1], value.shape[1])
        if tokens is None or len(tokens) != len(value):
            raise CutNotApplied(_MISSED)
        if self._ahead is not None and tokens.shape != self._tokens.shape:
            raise CutNotApplied(
                "This method must see whole prompts, but the pass goes on from an earlier one. Run "
                "whole prompts (for generation with use_past_kv_cache=False on a TransformerBridge), or "
                "use method='token_mean'."
            )
        first = seen.int().argmax(-1, keepdim=True)
        places = before + torch.arange(value.shape[1], device=seen.device)
        return tokens, (places > first).to(value.device)

    def _known(self, total: int, own: int) -> Tensor | None:
        """All tokens up to the value's last position, or those of the value where more are not known."""
        assert self._tokens is not None
        if self._tokens.shape[1] == total:
            self._so_far = self._tokens
        elif self._so_far is not None and len(self._so_far) == len(self._tokens):
            joined = torch.cat([self._so_far, self._tokens], 1)
            self._so_far = joined if joined.shape[1] == total else None
        known = self._so_far
        if known is not None and known.shape[1] == total:
            return known
        return self._tokens if self._tokens.shape[1] == own else None

    @property
    def found(self) -> Tensor | None:
        """What `ahead` gave for this pass."""
        return self._found
