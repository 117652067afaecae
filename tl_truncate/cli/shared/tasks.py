"""Tasks by name, as the commands take them."""

import re
from dataclasses import dataclass
from typing import Any

from tl_truncate import tasks as generators
from tl_truncate.checks import meant
from tl_truncate.cli.shared.options import Bos, Prompts, Seed, Shots
from tl_truncate.tasks.by_name import GENERATED
from tl_truncate.tasks.task import Task
from tl_truncate.weights.files import as_path


@dataclass(frozen=True, kw_only=True)
class DrawnOptions:
    """Which prompts, and whether with a BOS."""

    n: Prompts = None
    seed: Seed = 0
    prepend_bos: Bos = None

    def make(self, name: str, model: Any) -> Task:
        """The task with a name, for a model.

        Raises:
            ValueError: if n does not fit.
        """
        return make_task(name, self.n, self.seed, model)


@dataclass(frozen=True, kw_only=True)
class PromptOptions(DrawnOptions):
    """Which prompts, and what stands in front of them."""

    shots: Shots = None

    def make(self, name: str, model: Any) -> Task:
        """The task with a name, for a model, with its demonstrations.

        Raises:
            ValueError: if n or the number of demonstrations does not fit.
        """
        task = super().make(name, model)
        return task if self.shots is None else task.with_demonstrations(self.shots, self.seed)


def read_shots(text: str | None) -> tuple[int, ...] | None:
    """Numbers of demonstrations.

    Raises:
        ValueError: if the text is another.

    Examples:
        >>> read_shots("0,4")
        (0, 4)
    """
    if text is None:
        return None
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text):
        raise ValueError(
            f"--shots must be numbers with commas between them, such as 0,1,4,16, got {text!r}."
        )
    return tuple(map(int, text.split(",")))


#: Files that are tables of prompts, one a row.
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
BUILT_IN = (*GENERATED, "induction")
NAMES = (*BUILT_IN, "counterfact:FILE")


def check_task_name(name: str) -> str:
    """Checks a task's name before a model is loaded.

    Raises:
        ValueError: if it is neither a known name nor a file.
    """
    path = name.removeprefix("counterfact:")
    if name not in GENERATED and name != "induction" and not as_path(path).is_file():
        raise ValueError(
            f"--task must be one of {', '.join(NAMES)}, a task's JSON file, or a table "
            f"({', '.join(TABLES)}) with columns prompt, in_context and, if need be, "
            f"global_, got {name!r}.{meant(name, BUILT_IN)}"
        )
    return name


def make_task(name: str, n: int | None, seed: int, model: Any) -> Task:
    """The task with a name, for a model's tokenizer or vocabulary.

    Raises:
        ValueError: if n does not fit.
    """
    if name == "facts":
        return generators.factual_recall(n=n, seed=seed, tokenizer=model.tokenizer)
    if name in GENERATED:
        return GENERATED[name](n=100 if n is None else n, seed=seed, tokenizer=model.tokenizer)
    if name == "induction":
        return _induction(100 if n is None else n, seed, model)
    if name.startswith("counterfact:"):
        return Task.from_counterfact(name.removeprefix("counterfact:"), n=n, seed=seed)
    if as_path(name).suffix in TABLES:
        return Task.from_dataset(name, n=n, seed=seed)
    task = Task.load(name)
    return task if n is None else task.subset(range(min(n, len(task))))


def _induction(n: int, seed: int, model: Any) -> Task:
    """Repeated random tokens of the model's vocabulary, against *" the"* where it is one token."""
    the = (
        [] if model.tokenizer is None else model.tokenizer(" the", add_special_tokens=False)["input_ids"]
    )
    d_vocab = int(model.cfg.d_vocab)
    return generators.induction(
        n,
        seed,
        d_vocab=d_vocab,
        # Special tokens and single bytes come first in large vocabularies.
        first_token=1000 if d_vocab > 10_000 else 10,
        global_token=the[0] if len(the) == 1 else None,
    )
