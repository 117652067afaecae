"""Prompts, each with the answer that it calls for and the one that corpus statistics suggest."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, get_args

import pandas as pd

from tl_truncate.checks import whole
from tl_truncate.tasks.files.frames import COLUMNS
from tl_truncate.tasks.rows import Scoring, check_rows


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
        check_rows(self.name, self.prompts, self.in_context, self.global_, self.scoring)

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
