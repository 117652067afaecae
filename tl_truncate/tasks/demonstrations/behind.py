"""Whether a prompt is the same tokens behind demonstrations as by itself."""

import warnings
from collections.abc import Sequence
from typing import Any

from tl_truncate.tasks.task import Task
from tl_truncate.tasks.words import has_unknown, token_ids


def check_texts_behind(task: Task, tokenizer: Any) -> None:
    """That each prompt keeps its tokens, that all have the same in front, and no BOS in the middle.

    Args:
        task: in text, with one demonstration or more.
        tokenizer: of the model. Where the separator is unknown to it, a warning says so.

    Raises:
        ValueError: if a prompt merges with the separator, or begins with a BOS.
    """
    separator, shown = task.demonstrations.separator, task.demonstrations.prompts  # type: ignore[union-attr]
    if has_unknown(token_ids(str(separator), tokenizer), tokenizer):
        warnings.warn(
            f"The separator {separator!r} between demonstrations is not known to the tokenizer, which "
            f"reads it as {tokenizer.unk_token}. Use with_demonstrations(k, separator=...).",
            stacklevel=2,
        )
    own = task.without_demonstrations().prompts
    if any(_begins_with_bos(token_ids(str(each), tokenizer), tokenizer) for each in (*shown, *own)):
        raise _bos_in_the_middle(task, tokenizer.bos_token)
    fronts = set()
    for index, (prompt, alone) in enumerate(zip(task.prompts, own, strict=True)):
        ids, last = token_ids(str(prompt), tokenizer), token_ids(str(alone), tokenizer)
        front = len(ids) - len(last)
        fronts.add(tuple(ids[:front]))
        if ids[front:] != last or len(fronts) > 1:
            raise ValueError(
                "A prompt must have the same tokens behind demonstrations as by itself, but "
                f"{str(alone)[:20]!r} merges with the separator {separator!r} at {index}. Use another, "
                r"such as with_demonstrations(k, separator='\n\n') or, for tokenizers that mark the "
                r"beginning of words (Llama 2), '\n\n '."
            )


def check_tokens_behind(task: Task, tokenizer: Any | None) -> None:
    """That prompts in token numbers have no BOS in the middle.

    One random token may be a BOS; where each prompt begins with it, it is one.

    Raises:
        ValueError: if they have.
    """
    own: Any = task.without_demonstrations().prompts
    if all(_begins_with_bos(prompt, tokenizer) for prompt in own):
        raise _bos_in_the_middle(task, own[0][0])


def _begins_with_bos(tokens: Sequence[int], tokenizer: Any | None) -> bool:
    """Where it occurs again in the prompt, it is the mark of a turn in a chat and not a BOS."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos is not None and bool(tokens) and tokens[0] == bos and tokens.count(bos) == 1


def _bos_in_the_middle(task: Task, bos: Any) -> ValueError:
    return ValueError(
        "A prompt behind demonstrations must not begin with a BOS, which would stand in the middle, got "
        f"prompts of {task.name!r} that begin with {bos!r}. Take it away before with_demonstrations, "
        "and use prepend_bos=True."
    )
