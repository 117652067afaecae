"""A cut model as one of lm-evaluation-harness' own: a thin subclass of its `HFLM`.

Imports the harness, so this file is imported when it is asked for.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import simple_parse_args_string

from tl_truncate.checks import positive
from tl_truncate.evals.answers import Answers, key_of
from tl_truncate.evals.causal import causal
from tl_truncate.evals.foreign import require_no_hooks
from tl_truncate.evals.quiet import quiet
from tl_truncate.evals.tokenizer import may_have_borrowed_bos, plain_tokenizer, read_again, tokenizer_key
from tl_truncate.experiments.scoring.evaluate import check_model
from tl_truncate.models import load_model
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.hooks import active_cuts, truncated
from tl_truncate.weights.identity.provenance import of_model, versions

_LOADED_WITH = ("backend", "revision", "checkpoint", "dtype", "device")
_TAKEN = ("batch_size", "max_length", "add_bos_token")


@register_model("tl-truncate")
class TruncatedLM(HFLM):  # type: ignore[misc]
    """A model with cuts at work whenever the harness asks it something.

    Without cuts its numbers are those of `lm_eval --model hf` on the same weights; with cuts those on
    weights that were edited in place. Whatever else is at work in the model, such as an outer
    `tlt.truncated` or hooks, is at work here too.

    Args:
        model: a TransformerBridge of a Hugging Face model, or a HookedTransformer, which generates
            greedily alone; in evaluation mode.
        cuts: one or several, made together.
        tokenizer: the model's own by default, as its files have it: without the BOS that TransformerLens
            has it put in front.
        add_bos_token: whether a BOS stands in front; by default as the tokenizer's files have it.
        batch_size: requests in a pass.
        max_length: most tokens of a request, of which the last are kept; the model's context by default.
        answers: a file in which answers are kept, by request, cuts and weights; none by default.

    Raises:
        ValueError: if an argument does not fit, a cut addresses nothing, or whether a BOS belongs in
            front cannot be found out.
        TypeError: if it is no TransformerLens model.

    Examples:
        >>> lm = tlt.evals.TruncatedLM(model, tlt.Cut("blocks.1.mlp.W_out", 0.1))
        >>> results = lm_eval.simple_evaluate(model=lm, tasks=["arc_easy"])  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        cuts: SiteCut | Sequence[SiteCut] = (),
        *,
        tokenizer: Any = None,
        add_bos_token: bool | None = None,
        batch_size: int = 1,
        max_length: int | None = None,
        answers: Any = None,
    ) -> None:
        check_model(model)
        self.lens_model, self.cuts = model, Cuts(cuts)
        own = _tokenizer(model, tokenizer, add_bos_token)
        length = _length(model, max_length)
        with truncated(model, self.cuts):
            pass  # what cannot be cut is refused here
        with quiet(progress=False):
            super().__init__(
                pretrained=causal(model),
                backend="causal",
                tokenizer=own,
                add_bos_token=add_bos_token,
                batch_size=positive("batch_size", batch_size),
                max_length=length,
            )
        self._tokens = tokenizer_key(own, add_bos_token)
        self._answers = answers if answers is None or isinstance(answers, Answers) else Answers(answers)
        self._at_work = False

    @property
    def tokens_hash(self) -> str:
        """A short hash of the tokenizer, and of what it puts in front."""
        return hashlib.sha256(self._tokens.encode()).hexdigest()[:16]

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "TruncatedLM":
        """For `lm_eval --model tl-truncate --model_args pretrained=demo,cuts=cuts.json`.

        Args:
            arg_dict: pretrained (as for `load_model`, with its backend, revision, checkpoint, dtype and
                device), cuts (a file of `Cuts.save`), batch_size, max_length, add_bos_token.
            additional_config: of the command.

        Raises:
            ValueError: if there is another argument, or no pretrained.
        """
        further = {name: each for name, each in (additional_config or {}).items() if each is not None}
        further.pop("max_batch_size", None)
        asked = {**arg_dict, **further}
        name, file = asked.pop("pretrained", None), asked.pop("cuts", None)
        unknown = [each for each in asked if each not in (*_LOADED_WITH, *_TAKEN)]
        if unknown or name is None:
            raise ValueError(
                "The model's arguments must be pretrained and any of cuts, "
                f"{', '.join((*_LOADED_WITH, *_TAKEN))}, got {', '.join(arg_dict) or 'none'}."
            )
        model = load_model(
            str(name), **{each: asked.pop(each) for each in _LOADED_WITH if each in asked}
        )
        if "batch_size" in asked and str(asked["batch_size"]).isdigit():
            asked["batch_size"] = int(asked["batch_size"])
        return cls(model, () if file is None else Cuts.load(str(file)), **asked)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> "TruncatedLM":
        """As `create_from_arg_obj`, from `name=value,name=value`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuses the harness' own cache, in which two cuts share answers.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "lm-eval's own cache (use_cache) must not be used with cuts: it knows a request by its text "
            "alone, so that two cuts share answers. Use TruncatedLM(..., answers=FILE)."
        )

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """As `HFLM`, with the cuts at work."""
        return self._ask("loglikelihood", super().loglikelihood, requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """As `HFLM`, with the cuts at work."""
        return self._ask("loglikelihood_rolling", super().loglikelihood_rolling, requests, disable_tqdm)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """As `HFLM`, with the cuts at work."""
        return self._ask("generate_until", super().generate_until, requests, disable_tqdm)

    def _model_call(self, *args: Any, **kwargs: Any) -> Any:
        with self._cut():
            return super()._model_call(*args, **kwargs)

    def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
        with self._cut():
            return super()._model_generate(*args, **kwargs)

    @contextmanager
    def _cut(self) -> Iterator[None]:
        """The cuts at work, once: whoever calls the inner methods alone meets them too."""
        if self._at_work:
            yield
            return
        self._at_work = True
        try:
            with truncated(self.lens_model, self.cuts), torch.no_grad():
                yield
        finally:
            self._at_work = False

    def _ask(
        self, kind: str, ask: Callable[..., list[Any]], requests: list[Any], disable_tqdm: bool
    ) -> list[Any]:
        """The model's answers, but those that are known."""
        check_model(self.lens_model)
        if self._answers is None:
            with self._cut():
                return ask(requests, disable_tqdm=disable_tqdm)
        self.cache_hook = kept = _Kept(self._answers, self._identity())
        keys = [kept.key(kind, each.args) for each in requests]
        known = [key is not None and key in self._answers for key in keys]
        missing = [each for each, there in zip(requests, known, strict=True) if not there]
        with self._cut():
            fresh = iter(ask(missing, disable_tqdm=disable_tqdm) if missing else [])
        found = zip(keys, known, strict=True)
        return [kept.answer(kind, key) if there else next(fresh) for key, there in found]

    def _identity(self) -> dict[str, Any]:
        """Who is asked, as plain data: where one thing differs, no answer is shared."""
        model = self.lens_model
        require_no_hooks(model)
        facts = of_model(model)
        own = {name: facts[name] for name in ("model_class", "dtype", "weights_hash")}
        cuts = [cut.to_json() for cut in Cuts(active_cuts(model), self.cuts)]
        return dict(
            **own,
            cuts=cuts,
            tokens=self.tokens_hash,
            max_length=self.max_length,
            generation=self.model.generation,
            versions=_versions(),
        )


class _Kept:
    """Answers as the harness gives them away one by one, under the key of who gave them."""

    def __init__(self, answers: Answers, identity: Mapping[str, Any]) -> None:
        self._answers, self._identity = answers, identity

    def key(self, kind: str, arguments: Sequence[Any]) -> str | None:
        """None where an answer is drawn, so that each is another."""
        drawn = kind == "generate_until" and _is_drawn(arguments[1])
        return None if drawn else key_of(self._identity, kind, list(arguments))

    def add_partial(self, kind: str, arguments: Sequence[Any], answer: Any) -> None:
        """What the harness calls with each answer."""
        key = self.key(kind, arguments)
        if key is not None:
            self._answers.add(key, answer)

    def answer(self, kind: str, key: str | None) -> Any:
        """An answer in the harness' own form."""
        found = self._answers[str(key)]
        return tuple(found) if kind == "loglikelihood" else found


def _is_drawn(options: Mapping[str, Any]) -> bool:
    """Whether the harness may draw tokens: it does by a temperature alone, in some versions."""
    return bool(options.get("do_sample", options.get("temperature")))


def _versions() -> dict[str, str]:
    return {**versions(), "lm_eval": metadata.version("lm_eval")}


def _tokenizer(model: Any, given: Any, add_bos_token: bool | None) -> Any:
    """A tokenizer of our own, since the harness writes into it."""
    if given is None and add_bos_token is None:
        return plain_tokenizer(model)
    own = copy.deepcopy(model.tokenizer if given is None else given)
    if given is None and not add_bos_token and may_have_borrowed_bos(own):
        own.bos_token = read_again(own).bos_token
    if add_bos_token and own("a")["input_ids"][:1] != [own.bos_token_id]:
        raise ValueError(
            "The tokenizer must put a BOS in front of texts for add_bos_token=True, but it does not. "
            "Give tokenizer=AutoTokenizer.from_pretrained(name, add_bos_token=True)."
        )
    return own


def _length(model: Any, asked: int | None) -> int | None:
    """Most tokens of a request; None for what the harness finds in the configuration."""
    found = None if asked is None else positive("max_length", asked)
    if getattr(model, "original_model", None) is not None:
        return found
    window = int(model.cfg.n_ctx)
    if found is not None and found > window:
        raise ValueError(f"max_length must be at most {window}, the model's context, got {found}.")
    return found or window
