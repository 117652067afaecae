"""Prompts that stand answered in front of the others: which ones, and how they are joined."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tl_truncate.checks import natural

Prompt = str | tuple[int, ...]
#: Between texts, as lm-evaluation-harness has it; between token numbers there is nothing.
SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Demonstrations:
    """What stands in front of each prompt of a task: other prompts of it, each with its answer.

    Attributes:
        task: the name of the task that they were drawn from.
        prompts: those that are shown, in this order.
        answers: their in-context answers.
        separator: behind each answer.
        reserved: how many different prompts were set aside, shown or not; none of them is tested.
        seed: of the draw.

    Raises:
        TypeError: if the separator is not what the prompts are, text or token numbers.
        ValueError: if it is an empty text.
    """

    task: str
    prompts: tuple[Prompt, ...]
    answers: tuple[Prompt, ...]
    separator: Prompt
    reserved: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("prompts", "answers"):
            object.__setattr__(self, name, tuple(map(as_prompt, getattr(self, name))))
        object.__setattr__(self, "separator", as_prompt(self.separator))
        if self.separator == "":
            raise ValueError(
                "A separator between texts must not be empty, since an answer would run into the next "
                f"prompt. Use separator={SEPARATOR!r}, or ' '."
            )
        check_kinds((*self.prompts, *self.answers), self.separator)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def front(self) -> Any:
        """All of it as one text or one row of token numbers, up to where the tested prompt begins."""
        joined: Any = "" if isinstance(self.separator, str) else ()
        for prompt, answer in zip(self.prompts, self.answers, strict=True):
            joined = joined + prompt + answer + self.separator
        return joined

    def to_json(self) -> dict[str, Any]:
        """As plain data; `from_json` is the inverse."""
        return {name: as_plain(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Demonstrations":
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if a field is missing or unknown, or as for the class.
        """
        if set(data) != set(cls.__dataclass_fields__):
            raise ValueError(
                f"Demonstrations must have {', '.join(cls.__dataclass_fields__)}, got {sorted(data)}."
            )
        return cls(**data)


def draw_demonstrations(
    task: str,
    prompts: Sequence[Any],
    answers: Sequence[Any],
    *,
    count: int,
    seed: int,
    reserve: int | None,
    separator: Prompt | None,
) -> tuple[Demonstrations, list[int]]:
    """The demonstrations of one task, and the places of the prompts that are left to be tested.

    Different prompts are shuffled by the seed alone; the first `reserve` are set aside, and of these
    the first `count` are shown. So fewer are the beginning of more, and with one `reserve` any number of
    them leaves the same prompts.

    Args:
        task: its name.
        prompts: all of them.
        answers: the one that a demonstration shows, for each.
        count: how many to show.
        seed: of the draw.
        reserve: how many to set aside; as many as are shown by default.
        separator: behind each answer; by default `SEPARATOR` between texts.

    Raises:
        ValueError: if fewer are reserved than shown, or no prompt is left.
        TypeError: if the separator is of another kind than the prompts.
    """
    count, seed = natural("k", count), natural("seed", seed)
    reserved = count if reserve is None else natural("reserve", reserve)
    if reserved < count:
        raise ValueError(
            f"reserve must be at least the {count} demonstrations that are shown, got {reserved}."
        )
    first: dict[Prompt, int] = {}
    for place, prompt in enumerate(prompts):
        first.setdefault(prompt, place)
    if len(first) <= reserved:
        raise ValueError(
            f"A task must have more different prompts than the {reserved} that are set aside for "
            f"demonstrations, got {len(first)} in {task!r}. Make it of more prompts, or show fewer."
        )
    order = list(first)
    random.Random(f"demonstrations {seed}").shuffle(order)
    aside = set(order[:reserved])
    shown = [first[prompt] for prompt in order[:count]]
    default: Prompt = SEPARATOR if isinstance(prompts[0], str) else ()
    drawn = Demonstrations(
        task=task,
        prompts=tuple(prompts[place] for place in shown),
        answers=tuple(answers[place] for place in shown),
        separator=default if separator is None else separator,
        reserved=reserved,
        seed=seed,
    )
    return drawn, [place for place, prompt in enumerate(prompts) if prompt not in aside]


def check_kinds(prompts: Sequence[Any], separator: Any) -> None:
    """That all are texts, or all token numbers.

    Raises:
        TypeError: if the separator is of another kind.
    """
    if any(isinstance(each, str) != isinstance(separator, str) for each in prompts):
        raise TypeError(
            "A separator must be a text between prompts in text, and a list of token numbers between "
            f"prompts in token numbers, got {separator!r}."
        )


def check_front(prompts: Sequence[Any], demonstrations: Demonstrations) -> None:
    """That each prompt has the demonstrations in front of it, and something behind them.

    Raises:
        ValueError: if one has not.
        TypeError: if they are of another kind.
    """
    check_kinds(prompts, demonstrations.separator)
    front: Any = demonstrations.front
    for index, prompt in enumerate(prompts):
        if prompt[: len(front)] != front or len(prompt) == len(front):
            raise ValueError(
                f"A prompt must begin with the task's {len(demonstrations)} demonstrations, got another "
                f"beginning at {index}. Use task.with_demonstrations, and replace no prompts after it."
            )


def as_prompt(value: Any) -> Any:
    """A text, or token numbers as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def as_plain(value: Any) -> Any:
    """A tuple as a list, and what is in it; all else as it is."""
    return list(map(as_plain, value)) if isinstance(value, tuple) else value
