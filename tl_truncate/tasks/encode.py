"""Tasks as tokens: one careful way to turn prompts and answers into numbers."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tl_truncate.tasks.demonstrations.behind import check_texts_behind, check_tokens_behind
from tl_truncate.tasks.reading import Row, read_task
from tl_truncate.tasks.task import Task


@dataclass(frozen=True)
class EncodedPrompt:
    """Token numbers of one prompt (with its BOS, if any) and of its answers; None is no global one."""

    prompt: tuple[int, ...]
    in_context: tuple[int, ...]
    global_: tuple[int, ...] | None = None

    @property
    def answers(self) -> tuple[tuple[int, ...], ...]:
        """The right answer and, if there is one, the global answer."""
        return (self.in_context,) if self.global_ is None else (self.in_context, self.global_)


@dataclass(frozen=True)
class EncodedTask:
    """A task in a model's tokens; `prepend_bos` says what was done, not what was asked."""

    prompts: tuple[EncodedPrompt, ...]
    prepend_bos: bool

    @property
    def hash(self) -> str:
        """The same for the same tokens: a task's own hash is of texts, which two tokenizers read
        otherwise.
        """
        rows = [(each.prompt, each.in_context, each.global_) for each in self.prompts]
        return hashlib.blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()


def encode(model: Any, task: Task, *, prepend_bos: bool | None = None) -> EncodedTask:
    """Tokenises a task for a model and checks all that can go wrong, before any pass is run.

    Prompt and answer are tokenised together, as the model would meet them, and the prompt's tokens
    must be the beginning of the result. A BOS is put in front as `model.to_tokens` would, and never
    twice, also where the prompt's text already has one.

    Args:
        model: with a tokenizer and a configuration.
        task: the prompts and answers.
        prepend_bos: overrides the model's `default_prepend_bos`.

    Returns:
        Token numbers without any padding.

    Raises:
        ValueError: if the model has no tokenizer, a BOS is asked of a tokenizer that has none, answers
            of a token-scored task are not one token or merge with their prompts (all of them are
            named), a prompt has other tokens behind demonstrations than by itself or begins with a BOS
            there, or it is longer than the context window; or if a prompt's text begins with a BOS, the
            model by default has none, and `prepend_bos` does not say which it is to be.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if task.in_tokens:
        return _encode_tokens(model, tokenizer, task, prepend_bos)
    if tokenizer is None:
        raise ValueError(
            "The model must have a tokenizer to read a task's prompts, got none. Load it with "
            "tokenizer=..., or call model.set_tokenizer(tokenizer) on a HookedTransformer."
        )
    bos = bos_token(model, tokenizer, prepend_bos)
    if task.shots:
        check_texts_behind(task, tokenizer)
    rows = read_task(task, tokenizer)
    if prepend_bos is None and bos is None:
        for index, row in enumerate(rows):
            require_no_bos(row.prompt, tokenizer, f"prompt {index}")
    prompts = tuple(_with_bos(row, tokenizer, bos) for row in rows)
    _check_fit(model, prompts, task.shots)
    return EncodedTask(prompts, bos is not None)


def _encode_tokens(model: Any, tokenizer: Any, task: Task, prepend_bos: bool | None) -> EncodedTask:
    """A task in token numbers, as it is; with a BOS only where one is asked for."""
    bos = bos_token(model, tokenizer, True) if prepend_bos else None
    front = () if bos is None else (bos,)
    if task.shots:
        check_tokens_behind(task, tokenizer)
    rows = zip(*task.columns.values(), strict=True)
    prompts = tuple(EncodedPrompt((*front, *prompt), *answers) for prompt, *answers in rows)
    _check_fit(model, prompts, task.shots)
    return EncodedTask(prompts, bos is not None)


def bos_token(model: Any, tokenizer: Any, prepend_bos: bool | None) -> int | None:
    """The token to put in front of a prompt, or None.

    Raises:
        ValueError: if a BOS is asked of a tokenizer that has none.
    """
    wanted = getattr(model.cfg, "default_prepend_bos", True) if prepend_bos is None else prepend_bos
    token = getattr(tokenizer, "bos_token_id", None)
    if prepend_bos and token is None:
        raise ValueError(
            "The tokenizer must have a BOS token for prepend_bos=True, got none. Use prepend_bos=False."
        )
    return token if wanted else None


def require_no_bos(ids: Sequence[int], tokenizer: Any, told: str) -> None:
    """A BOS that somebody has written, such as a chat's first mark, is not taken away without a word.

    Args:
        ids: of a text that is read without a BOS since that is the model's default.
        tokenizer: of the model.
        told: which text it is.

    Raises:
        ValueError: if the text begins with one.
    """
    token = getattr(tokenizer, "bos_token_id", None)
    if token is not None and list(ids[:1]) == [token]:
        raise ValueError(
            "Prompts must not begin with a BOS where the model by default is read without one, but "
            f"{told} begins with {tokenizer.bos_token!r}. Say which it is to be: prepend_bos=True keeps "
            "it, once, and gives it to all; prepend_bos=False takes it away."
        )


def _with_bos(row: Row, tokenizer: Any, bos: int | None) -> EncodedPrompt:
    """A prompt that was read, with a BOS in front if there is to be one, and never with two."""
    ids = row.prompt
    starts_with_bos = bool(ids) and ids[0] == getattr(tokenizer, "bos_token_id", None)
    if starts_with_bos and bos is None:
        ids = ids[1:]
    elif not starts_with_bos and bos is not None:
        ids = [bos, *ids]
    return EncodedPrompt(tuple(ids), *row.answers)


def _check_fit(model: Any, prompts: tuple[EncodedPrompt, ...], shots: int | None) -> None:
    window = int(getattr(model.cfg, "n_ctx", 0) or 0)
    vocabulary = int(getattr(model.cfg, "d_vocab", 0) or 0)
    for index, each in enumerate(prompts):
        length = len(each.prompt) + max(map(len, each.answers)) - 1
        if window and length > window:
            told = f" with {shots} demonstrations. Show fewer." if shots else "."
            raise ValueError(
                f"A prompt with its answer must fit into the model's context of {window} tokens, got "
                f"{length} at {index}{told}"
            )
        if not each.prompt:
            raise ValueError(
                f"A prompt must have at least one token, got none at {index} without a BOS. "
                "Use prepend_bos=True."
            )
        largest = max(max(each.prompt), *map(max, each.answers))
        if vocabulary and largest >= vocabulary:
            raise ValueError(
                f"The tokenizer must fit the model's vocabulary of {vocabulary}, got token {largest} "
                f"at {index}. Load the tokenizer that belongs to the model."
            )
