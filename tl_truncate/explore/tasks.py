"""Tasks that cuts are evaluated on, by name."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tl_truncate.tasks.by_name import GENERATED
from tl_truncate.tasks.task import Task

#: A task of so many prompts.
TaskMaker = Callable[[int], Task]


def makers(model: Any, own: Mapping[str, Task] | None = None) -> dict[str, TaskMaker]:
    """The tasks for a model: a user's own first, and those that can be made for its tokenizer."""
    found: dict[str, TaskMaker] = {name: partial(_first, task) for name, task in (own or {}).items()}
    if getattr(model, "tokenizer", None) is not None:
        for name, generate in GENERATED.items():
            found.setdefault(name, partial(_generated, generate, model.tokenizer))
    return found


def _first(task: Task, n: int) -> Task:
    return task.subset(range(min(n, len(task))))


def _generated(generate: Callable[..., Task], tokenizer: Any, n: int) -> Task:
    return generate(n=n, seed=0, tokenizer=tokenizer)
