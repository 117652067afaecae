"""Prompts, each with its right answer and, if asked for, the one that corpus statistics suggest."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

import pandas as pd

from tl_truncate.checks import whole
from tl_truncate.tasks.files.frames import COLUMNS

Scoring = Literal["token", "sequence"]
#: How many faults of a task an error names.
LISTED = 10
_MANY = dict(prompts="prompts", in_context="right answers", global_="global answers")
_KINDS = {2: ("prompt", "answer"), 3: ("prompt", "in-context answer", "global answer")}
_Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Prompts:
    """Prompts with one or two answers each; `Task` says what the fields are, and what must hold."""

    name: str
    prompts: Sequence[str] | Sequence[Sequence[int]]
    in_context: Sequence[str] | Sequence[Sequence[int]]
    global_: Sequence[str] | Sequence[Sequence[int]] | str | None = None
    scoring: Scoring = field(default="token", kw_only=True)
    description: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.prompts, str) or isinstance(self.in_context, str):
            raise TypeError("A task's prompts and in_context must be lists of texts, got one text.")
        same = isinstance(self.global_, str)
        others: Any = [self.global_] * len(self.prompts) if same else self.global_
        for name, values in (("prompts", self.prompts), ("in_context", self.in_context)):
            object.__setattr__(self, name, tuple(map(frozen, values)))
        if others is not None:
            object.__setattr__(self, "global_", tuple(map(frozen, others)))
        if self.scoring not in get_args(Scoring):
            raise ValueError(f"A task's scoring must be 'token' or 'sequence', got {self.scoring!r}.")
        _check_rows(self.name, self.columns, self.scoring)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def in_tokens(self) -> bool:
        """Whether the prompts are token numbers, so that no tokenizer is needed."""
        return not isinstance(self.prompts[0], str)

    @property
    def has_global(self) -> bool:
        """Whether each prompt has a global answer beside the right one."""
        return self.global_ is not None

    @property
    def columns(self) -> dict[str, Any]:
        """Prompts, right answers and, if there are any, global answers, by their names."""
        both = dict(prompts=self.prompts, in_context=self.in_context)
        return both if self.global_ is None else both | dict(global_=self.global_)

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
        columns: dict[str, Any] = {
            name: tuple(values[i] for i in indices) for name, values in self.columns.items()
        }
        return replace(self, **columns)

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt, with the columns prompt, in_context and, if there is one, global_."""
        columns = [list(map(_shown, each)) for each in self.columns.values()]
        return pd.DataFrame(dict(zip(COLUMNS, columns, strict=False)))


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


def _check_rows(name: str, columns: Mapping[str, Sequence[Any]], scoring: Scoring) -> None:
    """Refuses a task whose prompts and answers do not fit each other.

    Args:
        name: of the task, for the message.
        columns: prompts and answers: texts, or rows of token numbers.
        scoring: `token` asks for answers of one token.

    Raises:
        ValueError, TypeError: naming the rows that do not fit, and why.
    """
    if not columns["prompts"]:
        raise ValueError(f"A task must have at least one prompt, got none in {name!r}.")
    lengths = {kind: len(values) for kind, values in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{count} {_MANY[kind]}" for kind, count in lengths.items())
        raise ValueError(
            f"A task must have one answer of each kind for each prompt, got {told} in {name!r}."
        )
    rows = list(zip(*columns.values(), strict=True))
    in_text = any(isinstance(value, str) for row in rows for value in row)
    if in_text:
        _check_texts(rows)
    else:
        _check_tokens(rows)
    wrong = [said for index, row in enumerate(rows) for said in _faults(index, row, in_text, scoring)]
    if wrong:
        raise ValueError(faults_told(name, wrong))


def _check_texts(rows: _Rows) -> None:
    for index, row in enumerate(rows):
        for kind, text in zip(_KINDS[len(row)], row, strict=True):
            if not isinstance(text, str):
                raise TypeError(f"The {kind} of prompt {index} must be text, got {text!r}.")


def _check_tokens(rows: _Rows) -> None:
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


def _faults(index: int, row: tuple[Any, ...], in_text: bool, scoring: Scoring) -> list[str]:
    """What is wrong with a prompt and its answers, a sentence each."""
    found = _text_faults(index, row) if in_text else _token_faults(index, row, scoring)
    if len(row) == 3 and row[1] == row[2]:
        found.append(f"The two answers of a prompt must differ, got {row[1]!r} twice at {index}.")
    return found


def _text_faults(index: int, row: tuple[str, ...]) -> list[str]:
    empty = [
        f"The {kind} of prompt {index} must not be empty, got {text!r}."
        for kind, text in zip(_KINDS[len(row)], row, strict=True)
        if not text.strip()
    ]
    if empty:
        return empty
    prompt, *answers = row
    found = []
    if prompt[-1] in " \t":
        found.append(
            f"A prompt must not end in a space, since tokenizers put the space in front of the "
            f"next word, got {prompt!r} at {index}. Move it to the answer: ' Mary'."
        )
    found += [
        f"An answer must begin with a space where the prompt ends in a word, got {answer!r} after "
        f"{prompt[-20:]!r} at {index}. Write {' ' + answer!r}."
        for answer in answers
        if re.match(r"\w", answer) and re.search(r"\w\Z", prompt)
    ]
    return found


def _token_faults(index: int, row: tuple[Any, ...], scoring: Scoring) -> list[str]:
    long = [repr(answer) for answer in row[1:] if len(answer) != 1]
    if scoring != "token" or not long:
        return []
    return [
        f"An answer of a task scored by token must be one token, got {' and '.join(long)} at {index}. "
        "Use scoring='sequence'."
    ]


def faults_told(name: str, wrong: Sequence[str]) -> str:
    """All that is wrong with a task, at once: the first ten faults, and how many more there are.

    Examples:
        >>> faults_told("drink", ["This is wrong."])
        'This is wrong.'
        >>> print(faults_told("drink", ["This is wrong."] * 2))
        The answers and prompts of 'drink' must be mended, got 2 faults:
          This is wrong.
          This is wrong.
    """
    if len(wrong) == 1:
        return wrong[0]
    left = len(wrong) - LISTED
    lines = [f"The answers and prompts of {name!r} must be mended, got {len(wrong)} faults:"]
    lines += [f"  {each}" for each in wrong[:LISTED]] + ([f"  and {left} more."] if left > 0 else [])
    return "\n".join(lines)
