"""What a forward pass is about: its tokens, and where position 0 and the padding are."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from tl_truncate.decompose.passes import is_own_pass, own_pass
from tl_truncate.surgery.surgeon import CutNotApplied
from tl_truncate.weights.bridge import is_bridge_block

_MISSED = (
    "A cut that depends on the tokens must see them where the model is called, in each pass, but they "
    "did not go by. Run the whole model on token numbers."
)
_IN_PIECES = (
    "This method must see whole prompts, but the pass goes on from an earlier one. Run whole prompts "
    "(for generation with use_past_kv_cache=False on a TransformerBridge), or use method='token_mean'."
)
# Under which names transformers' models take the keys and values of earlier passes.
_CACHES = ("past_key_values", "past_key_value", "layer_past")


@dataclass(frozen=True)
class Pass:
    """The tokens of one pass, and what the model was told of them.

    Attributes:
        tokens: `[batch, pos]`, that enter in this pass.
        before: how many positions of each row have entered in earlier passes (a cache of keys).
        mask: `[batch, before + pos]`, False at padding.
        known: `[batch, before + pos]`, the tokens of all positions, if they have gone by.
    """

    tokens: Int64[Tensor, "batch pos"]
    before: int
    mask: Bool[Tensor, "batch known"]
    known: Int64[Tensor, "batch known"] | None

    @property
    def acting(self) -> Bool[Tensor, "batch pos"]:
        """Where an edit acts: not at position 0, which is each row's first real token, nor at padding.

        Examples:
            >>> mask = torch.tensor([[False, True, True], [True, True, True]])
            >>> Pass(torch.ones(2, 3).long(), 0, mask, None).acting.tolist()
            [[False, False, True], [False, True, True]]
        """
        first = self.mask.int().argmax(-1, keepdim=True)
        places = torch.arange(self.mask.shape[1], device=self.mask.device)
        return (self.mask & (places > first))[:, self.before :]


class Reader:
    """Reads tokens, mask and cache where the model is called.

    They are not guessed from an attention pattern: a key that nobody looks at may be padding, or out of
    a sliding window's sight.

    Args:
        model: a HookedTransformer or TransformerBridge.
        layer: whose values are asked about.
        ahead: is given the pass before it goes on, and its result is kept.
    """

    def __init__(self, model: Any, layer: int, ahead: Callable[[Pass], Tensor] | None = None) -> None:
        self._model, self._layer, self._ahead = model, layer, ahead
        self._embedded: Tensor | None = None
        self._so_far: Tensor | None = None
        self._pass: Pass | None = None
        self._found: Tensor | None = None

    def watch(self) -> Iterator[RemovableHandle]:
        """Places the hooks."""
        first = self._model.blocks[0]
        if is_bridge_block(first):
            inner = self._model.original_model
            yield inner.register_forward_pre_hook(self._call_bridge, with_kwargs=True)
        else:  # `generate` goes past the hooks of a HookedTransformer itself, but not past these
            yield self._model.register_forward_pre_hook(self._forget)
            yield self._model.embed.register_forward_pre_hook(self._embed, with_kwargs=True)
            yield first.register_forward_pre_hook(self._call_hooked, with_kwargs=True)

    @property
    def asleep(self) -> bool:
        """Whether this is a pass inside another one."""
        return is_own_pass(self._model)

    def now(self, value: Tensor) -> tuple[Pass, Tensor | None]:
        """The pass that a value belongs to, and what `ahead` gave for it; each pass can be asked once.

        Raises:
            CutNotApplied: if the tokens of this pass have not gone by.
        """
        now, found = self._pass, self._found
        self._forget()
        if now is None or value.numel() != now.tokens.numel() * value.shape[-1]:
            raise CutNotApplied(_MISSED)
        return now, found

    def _forget(self, *_: Any) -> None:
        """A pass that is not on token numbers must not be taken for the last one that was."""
        if not self.asleep:
            self._embedded, self._pass, self._found = None, None, None

    def _call_bridge(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.asleep:
            return
        self._forget()
        names = inspect.signature(module.forward).parameters
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        tokens = given.get("input_ids")
        if isinstance(tokens, Tensor):
            before = _seen_by(given)
            self._join(tokens, before + tokens.shape[1])
            self._begin(tokens, before, given.get("attention_mask"), given.get("position_ids"))

    def _embed(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.asleep:
            (self._embedded,) = args if args else kwargs.values()

    def _call_hooked(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.asleep or self._embedded is None:
            return
        tokens, width = self._embedded, args[0].shape[1]
        self._forget()
        entry = kwargs.get("past_kv_cache_entry")
        before = 0 if entry is None else int(entry.past_keys.shape[1])
        self._join(tokens, before + width)
        if self._so_far is not None:  # `generate` embeds each token once, and may run the others again
            tokens = self._so_far[:, before:]
        if tokens.shape[1] == width:
            self._begin(tokens, before, kwargs.get("attention_mask"), None)

    def _begin(self, tokens: Tensor, before: int, mask: Any, positions: Any) -> None:
        tokens = tokens.detach()
        own = torch.ones(len(tokens), before + tokens.shape[1], dtype=torch.bool, device=tokens.device)
        if mask is not None:
            own = _checked_mask(mask, own)
        now = Pass(tokens, before, own, self._so_far)
        if self._ahead is not None and not self._stops_below():
            if before:
                raise CutNotApplied(_IN_PIECES)
            _require_own_positions(now, positions)
            with own_pass(self._model):
                self._found = self._ahead(now)
        self._pass = now

    def _stops_below(self) -> bool:
        """Whether a Bridge's blocks have been told to end the pass before the layer."""
        stop = getattr(self._model.blocks[0], "_stop_at_layer_idx", None)
        return stop is not None and stop <= self._layer

    def _join(self, tokens: Tensor, total: int) -> None:
        """Keeps the tokens of all positions so far, where those before the newest have gone by too."""
        before = total - tokens.shape[1]
        if not before:
            self._so_far = tokens.detach()
        elif self._so_far is not None and self._so_far.shape == (len(tokens), before):
            self._so_far = torch.cat([self._so_far, tokens.detach()], 1)
        else:
            self._so_far = None


def _seen_by(given: Mapping[str, Any]) -> int:
    """How many positions a cache of keys has seen, also where a window has made it forget them."""
    cache = next((given[name] for name in _CACHES if given.get(name) is not None), None)
    if cache is None:
        return 0
    if not hasattr(cache, "get_seq_length"):
        raise CutNotApplied(
            "A cut that depends on the tokens must know how many a cache of keys has seen, but a "
            f"{type(cache).__name__} does not say. Run whole prompts."
        )
    return int(cache.get_seq_length())


def _checked_mask(mask: Any, like: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.shape != like.shape:
        shown = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise CutNotApplied(
            "The attention mask must be of shape [batch, pos] for a cut that depends on the tokens, "
            f"with the positions that a cache of keys has seen: {tuple(like.shape)}, got {shown}."
        )
    found: Tensor = mask.to(like.device).bool()
    return found


def _require_own_positions(now: Pass, positions: Any) -> None:
    """To find what is removed each prompt is run by itself, with positions from 0, as it must be."""
    if not isinstance(positions, Tensor):
        return
    counted = now.mask.long().cumsum(-1) - 1
    given = positions.to(counted.device).expand_as(counted)
    if not bool((given == counted)[now.mask].all()):
        raise CutNotApplied(
            "The positions must be counted from each prompt's first token for this method, but "
            "position_ids count otherwise. Leave them out, or use method='token_mean'."
        )
