"""A task: prompts, each with an in-context answer and a global one."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from tl_truncate.weights.files import replacing

Scoring = Literal["token", "sequence"]


@dataclass(frozen=True)
class Task:
    """Prompts with the answer that each prompt calls for and the one that corpus statistics suggest.

    Args:
        name: what to call it in tables and files.
        prompts: the texts, without a trailing space.
        in_context: for each prompt the answer that it calls for, with its leading space.
        global_: for each prompt the answer of the corpus; one text stands for all prompts.
        scoring: `token` if each answer is one token after its prompt (checked before any pass),
            `sequence` if an answer is scored by the log-probability of all its tokens.
        description: where the prompts come from and what they measure.

    Raises:
        ValueError: if there are no prompts, the lengths differ, a text is empty, a prompt ends in a
            space, an answer runs into its prompt's last word, or two answers of a prompt are equal.
        TypeError: if something is not text.

    Example:
        >>> task = Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> len(task), task.global_
        (1, (' the',))
    """

    name: str
    prompts: Sequence[str]
    in_context: Sequence[str]
    global_: Sequence[str] | str
    scoring: Scoring = field(default="token", kw_only=True)
    description: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.prompts, str) or isinstance(self.in_context, str):
            raise TypeError("A task's prompts and in_context must be lists of texts, got one text.")
        same = isinstance(self.global_, str)
        answers = [self.global_] * len(self.prompts) if same else self.global_
        object.__setattr__(self, "prompts", tuple(self.prompts))
        object.__setattr__(self, "in_context", tuple(self.in_context))
        object.__setattr__(self, "global_", tuple(answers))
        if self.scoring not in get_args(Scoring):
            raise ValueError(f"A task's scoring must be 'token' or 'sequence', got {self.scoring!r}.")
        _check(self)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def hash(self) -> str:
        """A short hash of the prompts, answers and scoring, by which results are compared."""
        content = json.dumps([self.prompts, self.in_context, self.global_, self.scoring])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def subset(self, indices: Sequence[int]) -> "Task":
        """The task with some of its prompts, in the order given.

        Example:
            >>> task = Task(name="t", prompts=["a to", "b to"], in_context=[" x", " y"], global_=" z")
            >>> task.subset([1]).prompts
            ('b to',)
        """
        return Task(
            name=self.name,
            prompts=[self.prompts[i] for i in indices],
            in_context=[self.in_context[i] for i in indices],
            global_=[self.global_[i] for i in indices],
            scoring=self.scoring,
            description=self.description,
        )

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, *, name: str, scoring: Scoring = "token", description: str = ""
    ) -> "Task":
        """A task from a DataFrame with the columns prompt, in_context and global_.

        Raises:
            ValueError: if a column is missing, or as for the class.
        """
        missing = [column for column in _COLUMNS if column not in frame.columns]
        if missing:
            raise ValueError(
                f"The frame must have the columns {', '.join(_COLUMNS)}; {', '.join(missing)} "
                f"missing among {', '.join(map(str, frame.columns))}."
            )
        prompts, in_context, global_ = (frame[column].tolist() for column in _COLUMNS)
        return cls(name, prompts, in_context, global_, scoring=scoring, description=description)

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt, with the columns prompt, in_context and global_."""
        columns = (self.prompts, self.in_context, self.global_)
        return pd.DataFrame(dict(zip(_COLUMNS, columns, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """The task as plain data; `Task.from_json` is the inverse."""
        return {
            "name": self.name,
            "prompts": list(self.prompts),
            "in_context": list(self.in_context),
            "global_": list(self.global_),
            "scoring": self.scoring,
            "description": self.description,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Task":
        """Reads a task that `to_json` wrote.

        Raises:
            ValueError: if a field is missing or unknown, or as for the class.
        """
        missing = {"name", "prompts", "in_context", "global_"} - set(data)
        unknown = set(data) - set(cls.__dataclass_fields__)
        if missing or unknown:
            raise ValueError(
                f"A task must have name, prompts, in_context and global_ (and may have scoring and "
                f"description); missing {sorted(missing)}, unknown {sorted(unknown)}."
            )
        return cls(**data)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the task as JSON, under a temporary name first."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Task":
        """Reads a task that `save` wrote, or that was written by hand in the same form."""
        return cls.from_json(json.loads(Path(path).read_text()))


_COLUMNS = ("prompt", "in_context", "global_")


def _check(task: Task) -> None:
    if not task.prompts:
        raise ValueError(f"A task must have at least one prompt, got none in {task.name!r}.")
    lengths = len(task.prompts), len(task.in_context), len(task.global_)
    if len(set(lengths)) > 1:
        raise ValueError(
            f"A task must have one in-context and one global answer for each prompt, got "
            f"{lengths[0]} prompts, {lengths[1]} in-context and {lengths[2]} global answers."
        )
    rows = zip(task.prompts, task.in_context, task.global_, strict=True)
    for index, (prompt, *answers) in enumerate(rows):
        for kind, text in zip(
            ("prompt", "in-context answer", "global answer"), (prompt, *answers), strict=True
        ):
            if not isinstance(text, str):
                raise TypeError(f"The {kind} of prompt {index} must be text, got {text!r}.")
            if not text.strip():
                raise ValueError(f"The {kind} of prompt {index} must not be empty, got {text!r}.")
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
