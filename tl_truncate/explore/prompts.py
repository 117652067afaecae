"""Prompts to begin with: a user's own, those of a task, or a few that show something."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tl_truncate.explore.asked import ANSWER, TEXT
from tl_truncate.tasks.task import Task

_OF_A_TASK = 8


@dataclass(frozen=True)
class Example:
    """A prompt, and the answers to follow if there are some.

    Attributes:
        exact: whether answers stand behind the prompt as they are, as those of a task do.
    """

    text: str
    in_context: str | None = None
    global_: str | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        for name, value, most in (
            ("prompt", self.text, TEXT),
            ("in-context answer", self.in_context or "", ANSWER),
            ("global answer", self.global_ or "", ANSWER),
        ):
            if not isinstance(value, str):
                raise TypeError(f"A {name} must be text, got {value!r}.")
            if len(value) > most:
                raise ValueError(f"A {name} must have at most {most:,} characters, got {len(value):,}.")

    def to_json(self) -> dict[str, str | bool | None]:
        """As a page has it."""
        shown = dict(text=self.text, in_context=self.in_context, exact=self.exact)
        return {**shown, "global": self.global_}


#: What is shown where no prompt is given; the first one says nothing without its context.
EXAMPLES = (
    Example("When Mary and John went to the store, John gave a drink to", " Mary", " the"),
    Example("The capital of France is", " Paris", " the"),
    Example("Fact: the capital of France is Rome. So the capital of France is", " Rome", " Paris"),
)


def as_examples(prompts: Any) -> tuple[Example, ...]:
    """Prompts as a user gives them: a text, a Task, or a list of texts, tuples or mappings.

    Raises:
        TypeError: if they are something else.
        ValueError: if there is none, or one is too long.

    Examples:
        >>> as_examples("Mary gave")
        (Example(text='Mary gave', in_context=None, global_=None, exact=False),)
        >>> as_examples([("Mary gave a drink to", " John", " the")])[0].global_
        ' the'
    """
    if prompts is None:
        return EXAMPLES
    if isinstance(prompts, (str, Mapping, Example)):
        prompts = [prompts]
    if isinstance(prompts, Task):
        return _of_task(prompts)
    if not isinstance(prompts, Iterable):
        raise TypeError(f"prompts must be a text, a list of texts, or a Task, got {prompts!r}.")
    found = tuple(map(_example, prompts))
    if not found:
        raise ValueError("prompts must be at least one, got none. Leave them away for a few examples.")
    return found


def _of_task(task: Task) -> tuple[Example, ...]:
    if task.in_tokens:
        raise TypeError(f"A task must be of texts to be shown, but {task.name!r} is of token numbers.")
    others = task.global_ or [None] * len(task)
    rows = list(zip(task.prompts, task.in_context, others, strict=True))[:_OF_A_TASK]
    return tuple(
        Example(str(text), str(right), None if other is None else str(other), exact=True)
        for text, right, other in rows
    )


def _example(given: Any) -> Example:
    match given:
        case Example():
            return given
        case str():
            return Example(given)
        case Mapping() if "text" in given:
            return Example(given["text"], given.get("in_context"), given.get("global"))
        case (text, *answers) if len(answers) <= 2:
            return Example(text, *answers)
    raise TypeError(
        "A prompt must be a text, (text, in_context, global), or {'text': ..., 'in_context': ..., "
        f"'global': ...}}, got {given!r}."
    )
