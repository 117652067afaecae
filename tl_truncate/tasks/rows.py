"""What must hold of a task's prompts and answers."""

import re
from collections.abc import Sequence
from typing import Any, Literal

Scoring = Literal["token", "sequence"]
Rows = list[tuple[Any, Any, Any]]


def check_rows(
    name: str,
    prompts: Sequence[Any],
    in_context: Sequence[Any],
    global_: Sequence[Any],
    scoring: Scoring,
) -> None:
    """Refuses a task whose prompts and answers do not fit each other.

    Args:
        name: of the task, for the message.
        prompts: texts, or rows of token numbers.
        in_context: an answer for each.
        global_: the other answer for each.
        scoring: `token` asks for answers of one token.

    Raises:
        ValueError, TypeError: saying which row does not fit, and why.
    """
    if not prompts:
        raise ValueError(f"A task must have at least one prompt, got none in {name!r}.")
    lengths = len(prompts), len(in_context), len(global_)
    if len(set(lengths)) > 1:
        raise ValueError(
            f"A task must have one in-context and one global answer for each prompt, got "
            f"{lengths[0]} prompts, {lengths[1]} in-context and {lengths[2]} global answers."
        )
    rows = list(zip(prompts, in_context, global_, strict=True))
    if any(isinstance(value, str) for row in rows for value in row):
        _check_texts(rows)
    else:
        _check_tokens(rows, scoring)


def _check_texts(rows: Rows) -> None:
    kinds = ("prompt", "in-context answer", "global answer")
    for index, row in enumerate(rows):
        for kind, text in zip(kinds, row, strict=True):
            if not isinstance(text, str):
                raise TypeError(f"The {kind} of prompt {index} must be text, got {text!r}.")
            if not text.strip():
                raise ValueError(f"The {kind} of prompt {index} must not be empty, got {text!r}.")
        prompt, *answers = map(str, row)
        if prompt[-1] in " \t":
            raise ValueError(
                f"A prompt must not end in a space, since tokenizers put the space in front of the "
                f"next word, got {prompt!r} at {index}. Move it to the answer: ' Mary'."
            )
        if answers[0] == answers[1]:
            raise ValueError(
                f"The two answers of a prompt must differ, got {answers[0]!r} twice at {index}."
            )
        for answer in answers:
            if re.match(r"\w", answer) and re.search(r"\w\Z", prompt):
                raise ValueError(
                    f"An answer must begin with a space where the prompt ends in a word, got "
                    f"{answer!r} after {prompt[-20:]!r} at {index}. Write {' ' + answer!r}."
                )


def _check_tokens(rows: Rows, scoring: Scoring) -> None:
    for index, row in enumerate(rows):
        for tokens in row:
            natural = isinstance(tokens, tuple) and all(
                isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in tokens
            )
            if not natural or not tokens:
                raise TypeError(
                    "A prompt and its answers must be texts, or all token numbers from 0 up, got "
                    f"{tokens!r} at {index}."
                )
        if row[1] == row[2]:
            raise ValueError(
                f"The two answers of a prompt must differ, got {row[1]!r} twice at {index}."
            )
        if scoring == "token" and not len(row[1]) == len(row[2]) == 1:
            raise ValueError(
                f"An answer of a task scored by token must be one token, got {row[1]!r} and {row[2]!r} "
                f"at {index}. Use scoring='sequence'."
            )
