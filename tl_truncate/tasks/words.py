"""Choosing words that are one token, and sampling without touching the global random state."""

from collections.abc import Sequence
from typing import Any


def single_token_words(
    words: Sequence[str], tokenizer: Any | None, *, least: int, kind: str
) -> list[str]:
    """The words that are one token when they follow a space; all of them without a tokenizer.

    Args:
        words: without their leading space.
        tokenizer: a Hugging Face tokenizer, or None.
        least: how many must remain.
        kind: what the words are, for the error.

    Raises:
        ValueError: if fewer than `least` remain.
    """
    if tokenizer is None:
        return list(words)
    kept = [word for word in words if token_count(f" {word}", tokenizer) == 1]
    if len(kept) < least:
        raise ValueError(
            f"At least {least} of the {len(words)} {kind} must be single tokens of this tokenizer, got "
            f"{len(kept)}. Make a Task of your own with scoring='sequence'."
        )
    return kept


def token_ids(text: str, tokenizer: Any) -> list[int]:
    """The tokens of a text, without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def token_count(text: str, tokenizer: Any) -> int:
    """How many tokens a text has, without special tokens."""
    return len(token_ids(text, tokenizer))


def has_unknown(tokens: Sequence[int], tokenizer: Any) -> bool:
    """Whether one of the tokens stands for what the tokenizer does not know."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    return unknown in tokens and unknown not in (None, getattr(tokenizer, "bos_token_id", None))
