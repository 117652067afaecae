"""A TransformerLens model as the harness asks a Hugging Face model: logits of tokens, and generation."""

from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from tl_truncate.experiments.scoring.answers import REMEDY, told
from tl_truncate.models import keeps_keys
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.weights.locate import n_layers


class _RequiresFinite:
    """Of logits no probability can be made of, the harness would make one, or a text."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, tokens: Any, logits: Tensor) -> Tensor:
        # The largest is NaN where one is; and -inf, as a mask of the vocabulary has it, only if all are.
        if not bool(logits.amax(-1).isfinite().all()):
            raise ValueError(
                f"The logits must be finite, but with {told(active_cuts(self._model))} they are not. "
                f"{REMEDY}"
            )
        return logits


class OfBridge:
    """The Hugging Face model inside a Bridge, in which hooks and cuts are at work.

    It is not handed over itself: the harness would tie its weights again and change its mode.

    Args:
        model: a TransformerBridge of a Hugging Face model.
    """

    def __init__(self, model: Any) -> None:
        self._inner = model.original_model
        self._checked = _RequiresFinite(model)
        self._keeps_keys = keeps_keys(model)
        self.config = self._inner.config
        self.device = self._inner.device
        self.dtype = self._inner.dtype

    def __call__(self, tokens: Int64[Tensor, "batch pos"]) -> Any:
        """An object with `.logits`, `[batch, pos, d_vocab]`; tokens are filled up on the right."""
        found = self._inner(tokens)
        self._checked(tokens, found.logits)
        return found

    def generate(self, **options: Any) -> Int64[Tensor, "batch pos"]:
        """As `transformers` has it; without a cache where the Bridge would lose it, which is slower."""
        if not self._keeps_keys:
            options["use_cache"] = False
        chosen: Tensor = self._inner.generate(logits_processor=[self._checked], **options)
        return chosen


class OfHooked:
    """A HookedTransformer: its own passes, and greedy generation with a cache of keys and values.

    Args:
        model: a HookedTransformer.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._checked = _RequiresFinite(model)
        weight = next(iter(model.parameters()))
        self.config = SimpleNamespace(model_type=model.cfg.original_architecture or "transformer_lens")
        self.device, self.dtype = weight.device, weight.dtype

    def __call__(self, tokens: Int64[Tensor, "batch pos"]) -> Any:
        """An object with `.logits`, `[batch, pos, d_vocab]`; tokens are filled up on the right."""
        # Without a mask, a tokenizer that pads on the left has a BOS taken for padding.
        logits = self._model(tokens, attention_mask=torch.ones_like(tokens))
        return SimpleNamespace(logits=self._checked(tokens, logits))

    @torch.no_grad()
    def generate(
        self,
        *,
        input_ids: Int64[Tensor, "batch pos"],
        attention_mask: Int64[Tensor, "batch pos"],
        max_length: int,
        stopping_criteria: Any,
        pad_token_id: int,
        use_cache: bool = True,
        **options: Any,
    ) -> Int64[Tensor, "batch longer"]:
        """The most probable tokens one after the other, until EOS, a stop or the length.

        Args:
            input_ids: filled up on the left.
            attention_mask: 0 where they are.
            max_length: of the whole.
            stopping_criteria: of `transformers`.
            pad_token_id: behind a row's end.
            use_cache: has no effect; there is one.
            options: refused if they ask for something else.

        Raises:
            ValueError: if they do.
        """
        require_greedy(options)
        end = self._model.tokenizer.eos_token_id
        cache = _cache(self._model, len(input_ids))
        tokens, fresh, mask = input_ids, input_ids, attention_mask
        done = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        while tokens.shape[1] < max_length and not bool(done.all()):
            logits = self._model(fresh, past_kv_cache=cache, attention_mask=mask)[:, -1]
            chosen = self._checked(tokens, logits).argmax(-1)
            fresh = torch.where(done, pad_token_id, chosen)[:, None]
            tokens, mask = torch.cat([tokens, fresh], dim=1), torch.ones_like(fresh)
            done |= (fresh[:, 0] == end) | stopping_criteria(tokens, logits)
        return tokens


def require_greedy(options: dict[str, Any]) -> None:
    """Refuses what a HookedTransformer does not generate here.

    Raises:
        ValueError: if more is asked than the most probable token each time.
    """
    ignored = ("temperature", "top_p", "top_k")  # when nothing is drawn
    drawn = bool(options.get("do_sample"))
    other = [name for name in options if name not in (*ignored, "do_sample")]
    if drawn or other:
        asked = ", ".join(f"{name}={options[name]!r}" for name in (["do_sample"] * drawn + other))
        remedy = ", or use gen_kwargs={'do_sample': False}" if not other else ""
        raise ValueError(
            "A HookedTransformer must generate the most probable tokens here, got a task that asks for "
            f"{asked}. Load the model as a TransformerBridge{remedy}."
        )


def _cache(model: Any, rows: int) -> Any:
    """The class has another name in each version."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    return TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, rows)


def causal(model: Any) -> OfBridge | OfHooked:
    """What the harness asks, of either class.

    Raises:
        TypeError: if it is no TransformerLens model.
        ValueError: if it wraps no model of `transformers`.
    """
    n_layers(model)  # refuses what is no model
    inner = getattr(model, "original_model", None)
    if inner is None:
        return OfHooked(model)
    if not hasattr(inner, "generate") or not hasattr(inner, "config"):
        raise ValueError(
            "The Bridge must wrap a Hugging Face model to be asked by lm-eval, got one that wraps "
            f"{type(inner).__name__}. Load it with load_model(name), or boot_transformers(name, "
            "hf_model=...)."
        )
    return OfBridge(model)
