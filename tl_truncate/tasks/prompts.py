"""Prompts, each with the answer that it calls for and the one that corpus statistics suggest."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

import pandas as pd

from tl_truncate.checks import whole
from tl_truncate.tasks.files.frames import COLUMNS

Scoring = Literal["token", "sequence"]
_Rows = list[tuple[Any, Any, Any]]


@dataclass(frozen=True)
class Prompts:
    """Prompts with two answers each; `Task` says what the fields are, and what must hold of them."""

    name: str
    prompts: Sequence[str] | Sequence[Sequence[int]]
    in_context: Sequence[str] | Sequence[Sequence[int]]
    global_: Sequence[str] | Sequence[Sequence[int]] | str
    scoring: Scoring = field(default="token", kw_only=True)
    description: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.prompts, str) or isinstance(self.in_context, str):
            raise TypeError("A task's prompts and in_context must be lists of texts, got one text.")
        same = isinstance(self.global_, str)
        answers = [self.global_] * len(self.prompts) if same else self.global_
        for name, values in (("prompts", self.prompts), ("in_context", self.in_context)):
            object.__setattr__(self, name, tuple(map(frozen, values)))
        object.__setattr__(self, "global_", tuple(map(frozen, answers)))
        if self.scoring not in get_args(Scoring):
            raise ValueError(f"A task's scoring must be 'token' or 'sequence', got {self.scoring!r}.")
        _check_rows(self.name, self.prompts, self.in_context, self.global_, self.scoring)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def in_tokens(self) -> bool:
        """Whether the prompts are token numbers, so that no tokenizer is needed."""
        return not isinstance(self.prompts[0], str)

    @property
    def hash(self) -> str:
        """A short hash of the prompts, answers and scoring, by which results are compared."""
        content = json.dumps([self.prompts, self.in_context, self.global_, self.scoring])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def subset(self, indices: Sequence[int]) -> Self:
        """The task with some of its prompts, in the order given.

        Examples:
            >>> task = tlt.Task(name="t", prompts=["a to", "b to"], in_context=[" x", " y"],
            ...                 global_=" z")
            >>> task.subset([1]).prompts
            ('b to',)
        """
        columns: dict[str, Any] = dict(
            prompts=tuple(self.prompts[i] for i in indices),
            in_context=tuple(self.in_context[i] for i in indices),
            global_=tuple(self.global_[i] for i in indices),
        )
        return replace(self, **columns)

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt, with the columns prompt, in_context and global_."""
        columns = [list(map(_shown, each)) for each in (self.prompts, self.in_context, self.global_)]
        return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))


def frozen(value: Any) -> Any:
    """A text as it is; token numbers, however they are held, as a tuple of integers."""
    if hasattr(value, "tolist"):  # an array or tensor of token numbers
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return value
    numbers = [whole(each) for each in value]
    return tuple(each if number is None else number for each, number in zip(value, numbers, strict=True))


def _shown(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _check_rows(
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


def _check_texts(rows: _Rows) -> None:
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


def _check_tokens(rows: _Rows, scoring: Scoring) -> None:
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
