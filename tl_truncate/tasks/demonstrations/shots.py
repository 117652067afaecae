"""The same prompts behind several numbers of demonstrations."""

from collections.abc import Sequence
from typing import Any

from tl_truncate.checks import natural
from tl_truncate.tasks.task import Task


def with_shots(tasks: Sequence[Task], shots: Any, seed: int) -> list[Task]:
    """Each task with each number of demonstrations; the largest says how many prompts are set aside.

    So a task's prompts are the same ones, in the same order, for all numbers, and scores can be paired.

    Args:
        tasks: without demonstrations.
        shots: numbers of demonstrations; None gives the tasks as they are.
        seed: of the draw.

    Raises:
        ValueError: if there is no number, one is negative or given twice, or a task has too few
            prompts.
        TypeError: if it is no list.

    Examples:
        >>> task = Task("t", ["a to", "b to", "c to"], [" x", " y", " z"], " the")
        >>> [(each.name, len(each)) for each in with_shots([task], (0, 2), seed=0)]
        [('t-0-shot', 1), ('t-2-shot', 1)]
    """
    if shots is None:
        return list(tasks)
    if isinstance(shots, str) or not isinstance(shots, Sequence):
        raise TypeError(f"shots must be a list of numbers, such as (0, 1, 4, 16), got {shots!r}.")
    numbers = [natural("shots", each) for each in shots]
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"shots must be one or more different numbers, got {list(shots)}.")
    most = max(numbers)
    return [task.with_demonstrations(k, seed, reserve=most) for task in tasks for k in numbers]
