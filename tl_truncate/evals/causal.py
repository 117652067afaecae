"""A TransformerLens model as the harness asks a Hugging Face model: logits of tokens, and generation."""

import contextlib
import json
from collections.abc import Mapping
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


#: Architectures of which a Bridge does not read the attention mask.
_BLIND = ("openai-gpt",)


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

    @property
    def generation(self) -> dict[str, Any]:
        """The settings of `generation_config` that are not everybody's, as plain data."""
        return _settings(self._inner.generation_config)

    def __call__(self, tokens: Int64[Tensor, "batch pos"]) -> Any:
        """An object with `.logits`, `[batch, pos, d_vocab]`; tokens are filled up on the right."""
        found = self._inner(tokens)
        self._checked(tokens, found.logits)
        return found

    def generate(self, **options: Any) -> Int64[Tensor, "batch pos"]:
        """As `transformers` has it; without a cache where the Bridge would lose it, which is slower.

        Raises:
            ValueError: if the Bridge would not see that a row is filled up.
        """
        filled = options.get("attention_mask")
        if self.config.model_type in _BLIND and filled is not None and not bool(filled.all()):
            raise ValueError(
                f"Prompts of {self.config.model_type} must be asked one by one to generate, since its "
                "Bridge does not see which tokens fill a batch up. Use batch_size=1."
            )
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
        self.generation = _settings_on_disk(model)

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
        require_plain(self.generation)
        ends = torch.tensor(self._ends(), device=input_ids.device)
        cache = _cache(self._model, len(input_ids))
        tokens, fresh, mask = input_ids, input_ids, attention_mask
        done = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        while tokens.shape[1] < max_length and not bool(done.all()):
            logits = self._model(fresh, past_kv_cache=cache, attention_mask=mask)[:, -1]
            chosen = self._checked(tokens, logits).argmax(-1)
            fresh = torch.where(done, pad_token_id, chosen)[:, None]
            tokens, mask = torch.cat([tokens, fresh], dim=1), torch.ones_like(fresh)
            done |= torch.isin(fresh[:, 0], ends) | stopping_criteria(tokens, logits)
        return tokens

    def _ends(self) -> list[int]:
        """The tokens that end a text."""
        found = self.generation.get("eos_token_id", self._model.tokenizer.eos_token_id)
        return list(found) if isinstance(found, list) else [found] * (found is not None)


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


#: Settings that say nothing of the most probable token, or are asked for with each request.
_IDLE = frozenset(
    "eos_token_id bos_token_id pad_token_id max_length max_new_tokens use_cache cache_implementation "
    "do_sample temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff "
    "output_attentions output_hidden_states".split()
)


def require_plain(generation: Mapping[str, Any]) -> None:
    """Refuses settings of a `generation_config.json` that a HookedTransformer does not follow.

    Raises:
        ValueError: if there are some, such as a penalty for repetitions.
    """
    other = ", ".join(f"{name}={each!r}" for name, each in generation.items() if name not in _IDLE)
    if other:
        raise ValueError(
            "A HookedTransformer must generate the most probable tokens here, got a "
            f"generation_config.json that asks for {other}. Load the model as a TransformerBridge."
        )


def _settings(generation: Any) -> dict[str, Any]:
    """What differs from the defaults of `transformers`."""
    if generation is None:
        return {}
    found: dict[str, Any] = json.loads(generation.to_json_string(use_diff=True))
    return {name: each for name, each in found.items() if name not in _OF_WHOM}


_OF_WHOM = ("transformers_version", "_from_model_config")


def _settings_on_disk(model: Any) -> dict[str, Any]:
    """Of the folder from which the tokenizer is; nothing where there is none."""
    from transformers import AutoConfig, GenerationConfig

    name = getattr(model.tokenizer, "name_or_path", None)
    if not name:
        return {}
    with contextlib.suppress(OSError):
        return _settings(GenerationConfig.from_pretrained(name, local_files_only=True))
    with contextlib.suppress(OSError, ValueError):
        own = AutoConfig.from_pretrained(name, local_files_only=True)
        return _settings(GenerationConfig.from_model_config(own))
    return {}


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
    if inner.config.model_type == "gpt2" and not inner.config.scale_attn_weights:
        raise ValueError(
            "A GPT-2 must scale its attention to be asked through a Bridge, which always does, got "
            "scale_attn_weights=False."
        )
    return OfBridge(model)
