"""A task: prompts, each with a right answer and, if asked for, a global one."""

import json
import os
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tl_truncate.tasks.demonstrations.drawn import (
    Demonstrations,
    as_plain,
    check_front,
    check_kinds,
    draw_demonstrations,
)
from tl_truncate.tasks.files.counterfact import read_counterfact
from tl_truncate.tasks.files.frames import columns_of, read_rows
from tl_truncate.tasks.files.harness import write_harness_task
from tl_truncate.tasks.prompts import Prompts, Scoring, frozen
from tl_truncate.tasks.reading import check_with
from tl_truncate.weights.files import as_path, replacing


@dataclass(frozen=True)
class Task(Prompts):
    """Prompts with the right answer of each and, if asked for, the one that corpus statistics suggest.

    Args:
        name: what to call it in tables and files.
        prompts: the texts, without a trailing space; or token numbers, with answers in token numbers.
        in_context: for each prompt its right answer, with its leading space: the one that the whole
            prompt calls for.
        global_: for each prompt the answer of the corpus; one text stands for all prompts. None scores
            the right answer alone: `p_global` and `logit_diff` are not there then.
        scoring: `token` if each answer is one token after its prompt (checked before any pass),
            `sequence` if an answer is scored by the log-probability of all its tokens.
        description: where the prompts come from and what they measure.
        demonstrations: what stands in front of each prompt, and is part of its text; of
            `with_demonstrations`.
        tokenizer: or a model with one: checks all answers at once, here and not when they are scored.

    Raises:
        ValueError: if there are no prompts, the lengths differ, a text is empty, a prompt ends in a
            space, an answer runs into its prompt's last word, two answers of a prompt are equal, or a
            prompt does not begin with the demonstrations; with a tokenizer also if an answer is not
            what `scoring` wants. All that is wrong is named at once.
        TypeError: if something is not text.

    Examples:
        >>> task = Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> len(task), task.global_
        (1, (' the',))
        >>> Task(name="fact", prompts=["Madrid is in"], in_context=[" Spain"]).has_global
        False
    """

    demonstrations: Demonstrations | None = field(default=None, kw_only=True)
    tokenizer: InitVar[Any] = field(default=None, kw_only=True)

    def __post_init__(self, tokenizer: Any) -> None:
        super().__post_init__()
        check_with(tokenizer, self)
        if self.demonstrations is not None:
            check_front(self.prompts, self.demonstrations)

    @property
    def shots(self) -> int | None:
        """How many demonstrations stand in front of each prompt; None if none were asked for."""
        return None if self.demonstrations is None else len(self.demonstrations)

    def with_demonstrations(
        self,
        k: int,
        seed: int = 0,
        *,
        reserve: int | None = None,
        separator: str | Sequence[int] | None = None,
    ) -> "Task":
        """The task with `k` of its prompts, answered in context, in front of each of the others.

        All prompts have the same demonstrations in front, so that they share their past. A prompt that
        is shown is not tested, nor is one that is equal to it. One seed draws one order: the
        demonstrations of a smaller `k` are the first ones of a larger.

        To compare several `k` on the same prompts, give each the same `reserve`, the largest `k`; so do
        `sweep(..., shots=...)` and, for k = 0, the same call: it is the task with the prompts that the
        others test.

        Prompts of one task share words. A demonstration may show what another prompt asks for in other
        words: a phrase in another template, a paraphrase of the same fact, a name that is an answer too.

        Args:
            k: how many are shown.
            seed: of the draw; the global random state is not touched.
            reserve: how many different prompts are set aside, shown or not; `k` by default.
            separator: behind each answer; by default an empty line, as lm-evaluation-harness has it, and
                nothing between token numbers. Each prompt has to keep its own tokens behind it, which is
                checked when the task is scored.

        Returns:
            A task of the prompts that were not set aside, named `<name>-<k>-shot`.

        Raises:
            ValueError: if the task has demonstrations, fewer are reserved than shown, no prompt is left,
                or the separator is an empty text.
            TypeError: if the separator is text between token numbers, or the reverse.

        Examples:
            >>> task = tlt.tasks.factual_recall(n=3).with_demonstrations(1, separator=". ")
            >>> len(task), task.name, task.shots
            (2, 'factual_recall-1-shot', 1)
            >>> task.demonstrations.front
            'Miami is located in Florida. '
        """
        if self.demonstrations is not None:
            raise ValueError(
                f"A task must have no demonstrations yet, got {self.name!r} with {self.shots}. Use "
                "task.without_demonstrations(), or the task that it was made of."
            )
        drawn, tested = draw_demonstrations(
            self.name,
            self.prompts,
            self.in_context,
            count=k,
            seed=seed,
            reserve=reserve,
            separator=None if separator is None else frozen(separator),
        )
        check_kinds(self.prompts, drawn.separator)
        front: Any = drawn.front
        rest = self.subset(tested)
        return replace(
            rest,
            name=f"{self.name}-{len(drawn)}-shot",
            prompts=tuple(front + prompt for prompt in rest.prompts),
            demonstrations=drawn,
        )

    def without_demonstrations(self) -> "Task":
        """The same prompts with nothing in front of them, under the name of the task they come from.

        Examples:
            >>> task = tlt.tasks.factual_recall(n=3)
            >>> task.with_demonstrations(0).without_demonstrations() == task
            True
        """
        drawn = self.demonstrations
        if drawn is None:
            return self
        prompts: Any = tuple(prompt[len(drawn.front) :] for prompt in self.prompts)
        return replace(self, name=drawn.task, prompts=prompts, demonstrations=None)

    def without_global(self) -> "Task":
        """The same prompts with their right answers alone.

        Examples:
            >>> tlt.tasks.factual_recall(n=3).without_global().has_global
            False
        """
        return replace(self, global_=None)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        name: str = "frame",
        prompt: str = "prompt",
        in_context: str = "in_context",
        global_: str | None = "global_",
        scoring: Scoring = "token",
        description: str = "",
    ) -> "Task":
        """A task from a DataFrame; by default with the columns that `to_frame` writes.

        Args:
            frame: one row per prompt.
            name: of the task.
            prompt: the column of the prompts.
            in_context: the column of the right answers, each with its space in front.
            global_: the column of the corpus' answers; or, with a space in front, the answer for all
                prompts, such as `" the"`. None is none, and so is a frame without the column `global_`.
            scoring: as for the class.
            description: as for the class.

        Raises:
            ValueError: if a column is missing, or as for the class.

        Examples:
            >>> frame = pd.DataFrame({"q": ["The capital of France is"], "a": [" Paris"]})
            >>> Task.from_frame(frame, prompt="q", in_context="a", global_=" the").in_context
            (' Paris',)
        """
        columns = columns_of(frame, prompt, in_context, global_)
        return cls(name, **columns, scoring=scoring, description=description)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        *,
        split: str | None = None,
        name: str | None = None,
        prompt: str = "prompt",
        in_context: str = "in_context",
        global_: str | None = "global_",
        n: int | None = None,
        seed: int = 0,
        scoring: Scoring = "token",
        description: str = "",
    ) -> "Task":
        """A task from a dataset of Hugging Face's `datasets`, or from a file.

        Args:
            dataset: a `datasets.Dataset`; a file that ends in .csv, .tsv, .json, .jsonl or .parquet; or
                a name on the hub, which is then fetched, or read where it is kept.
            split: of a dataset that has several.
            name: of the task; by default the file's or the dataset's.
            prompt: the column of the prompts.
            in_context: as for `from_frame`.
            global_: as for `from_frame`.
            n: so many rows, in their order; all by default.
            seed: of their choice.
            scoring: as for the class.
            description: as for the class.

        Raises:
            ValueError: if a column or the split is missing, there are fewer rows than n, or as for the
                class.
            FileNotFoundError: if it is a file that does not exist.
            TypeError: if it is none of these.

        Examples:
            >>> import datasets
            >>> rows = [{"q": "The capital of France is", "a": " Paris"}]
            >>> task = Task.from_dataset(
            ...     datasets.Dataset.from_list(rows), prompt="q", in_context="a", global_=" the"
            ... )
            >>> len(task)
            1
        """
        found, frame = read_rows(dataset, split=split, n=n, seed=seed)
        columns = columns_of(frame, prompt, in_context, global_)
        return cls(name or found, **columns, scoring=scoring, description=description)

    def to_lm_eval(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Writes the task for lm-evaluation-harness, in which it can be asked of any model.

        Two tasks on the same data: `<name>`, whose `acc` is the share of prompts whose right answer
        is more probable than the global one; and `<name>_greedy`, whose `acc` is the share in which it
        is the most probable of all texts as long, and whose `perplexity` is that of the answer. Where
        there is no global answer there is `<name>_greedy` alone. Ask for them with
        `lm_eval --include_path FOLDER --tasks <name>,<name>_greedy`.

        Args:
            folder: made if need be. The YAML files name it, so they do not follow it elsewhere.

        Returns:
            The file of JSON lines, and those of YAML.

        Raises:
            ValueError: if the task is in token numbers, its name is none for the harness, or a prompt
                ends in white space, which the harness counts as part of the answer.
            FileExistsError: if the folder holds a task of that name.

        Examples:
            >>> import tempfile
            >>> task = Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
            ...             global_=" the")
            >>> [path.name for path in task.to_lm_eval(tempfile.mkdtemp())]
            ['drink.jsonl', 'drink.yaml', 'drink_greedy.yaml']
        """
        if self.in_tokens:
            raise ValueError(
                f"A task must be in text to be an lm-eval task, got {self.name!r} in token numbers, "
                "which mean something else to every tokenizer."
            )
        rows = [tuple(map(str, row)) for row in zip(*self.columns.values(), strict=True)]
        return write_harness_task(folder, self.name, rows, self.description)

    def to_json(self) -> dict[str, Any]:
        """The task as plain data; `Task.from_json` is the inverse."""
        drawn = self.demonstrations
        return {
            "name": self.name,
            "prompts": list(map(as_plain, self.prompts)),
            "in_context": list(map(as_plain, self.in_context)),
            **({} if self.global_ is None else {"global_": list(map(as_plain, self.global_))}),
            "scoring": self.scoring,
            "description": self.description,
        } | ({} if drawn is None else {"demonstrations": drawn.to_json()})

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Task":
        """Reads a task that `to_json` wrote.

        Raises:
            ValueError: if a field is missing or unknown, or as for the class.
        """
        missing = {"name", "prompts", "in_context"} - set(data)
        unknown = set(data) - {each.name for each in fields(cls)}
        if missing or unknown:
            raise ValueError(
                f"A task must have name, prompts and in_context (and may have global_, scoring, "
                f"description and demonstrations); missing {sorted(missing)}, unknown {sorted(unknown)}."
            )
        drawn = data.get("demonstrations")
        return cls(
            **{**data, "demonstrations": None if drawn is None else Demonstrations.from_json(drawn)}
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the task as JSON, under a temporary name first."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Task":
        """Reads a task that `save` wrote, or that was written by hand in the same form."""
        return cls.from_json(json.loads(as_path(path).read_text()))

    @classmethod
    def from_counterfact(
        cls,
        path: str | os.PathLike[str],
        *,
        n: int | None = None,
        seed: int = 0,
        paraphrases: bool = False,
        global_: str | None = None,
    ) -> "Task":
        """A task from a local CounterFact file; nothing is fetched.

        The right answer is the true one, the global one the file's false alternative, or what `global_`
        says, such as *" the"*; without either there is none, as in `task.without_global()`. Answers are
        scored by all their tokens.

        Args:
            path: a JSON file in the form of CounterFact's.
            n: number of facts; all by default.
            seed: of their choice.
            paraphrases: asks with the file's paraphrases instead of its plain statements.
            global_: the global answer of all prompts.

        Raises:
            ValueError: if the file is no CounterFact file, or has fewer facts than asked for.

        Source: Meng et al. 2022 (arXiv 2202.05262); LASER's main task.
        """
        facts = read_counterfact(path, n=n, seed=seed, paraphrases=paraphrases, global_=global_)
        return cls(**facts)
