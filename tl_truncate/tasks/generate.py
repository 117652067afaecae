"""Making tasks from a seed: distinct prompts, one after the other, from a function that draws one."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from tl_truncate.checks import positive
from tl_truncate.tasks.task import Task
from tl_truncate.tasks.words import token_count

#: A prompt, its in-context answer and its global answer.
Example = tuple[str, str, str]
# How often in a row the draw may repeat itself before the pools are said to be too small.
_PATIENCE = 2000


def generate(
    name: str,
    draw: Callable[[random.Random, int], Example],
    *,
    n: int,
    seed: int,
    tokenizer: Any | None,
    description: str,
) -> Task:
    """A task of `n` different prompts.

    Args:
        name: of the task.
        draw: makes the example with a given index from a random generator.
        n: number of prompts.
        seed: of the draws; the global random state is not touched.
        tokenizer: examples whose answers are not one token each, or the same token, are drawn again.
        description: for the task.

    Returns:
        The task.

    Raises:
        ValueError: if n is not positive, or so many different prompts cannot be made.
    """
    positive("n", n)
    generator = random.Random(f"{name} {seed}")
    found: dict[str, Example] = {}
    misses = 0
    while len(found) < n:
        example = draw(generator, len(found))
        if example[0] in found or not _fits(example, tokenizer):
            misses += 1
            if misses == _PATIENCE:
                raise ValueError(
                    f"n must be at most about {len(found)} for {name!r}, whose words make no more "
                    f"different prompts{'' if tokenizer is None else ' for this tokenizer'}, got {n}."
                )
            continue
        found[example[0]], misses = example, 0
    prompts, in_context, global_ = zip(*found.values(), strict=True)
    text = f"{description}; {n} prompts, seed {seed}"
    return Task(name, prompts, in_context, global_, description=text)


def _fits(example: Example, tokenizer: Any | None) -> bool:
    if tokenizer is None:
        return True
    prompt, *answers = example
    before = token_count(prompt, tokenizer)
    return all(token_count(prompt + answer, tokenizer) == before + 1 for answer in answers)


def article(word: str) -> str:
    """The word with its indefinite article.

    Examples:
        >>> article("eagle"), article("fox")
        ('an eagle', 'a fox')
    """
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def alternate(items: Sequence[str], index: int) -> str:
    """The items in turn, so that each occurs equally often."""
    return items[index % len(items)]
