"""What one model answered to one task: the harness' numbers, and each sample's values, as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Number:
    """One of the harness' own numbers.

    Attributes:
        task: of the task, or of the group of tasks, that it is of.
        filter: of the answers, such as `strict-match`; `none` for no filter.
        metric: such as `acc`.
        value: None where the harness has none.
        higher_is_better: as the task says; None if it does not.
        shots: examples in front of each question.
        parts: of a group, its tasks; empty for a task.
    """

    task: str
    filter: str
    metric: str
    value: float | None
    higher_is_better: bool | None
    shots: int
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One question, read through one filter.

    Attributes:
        task, filter: where it belongs.
        doc_id: its place in the task's data.
        hashes: of the data, the prompt and the target, by which samples are paired.
        values: of each metric the one number of a mean, or the sum and the weight of a ratio.
        asked: the end of the prompt.
        target: as the task has it.
        said: what was answered.
    """

    task: str
    filter: str
    doc_id: int
    hashes: tuple[str, ...]
    values: dict[str, tuple[float, ...]]
    asked: str
    target: str
    said: str


@dataclass(frozen=True)
class Answered:
    """One task, as it was named, asked of one variant of the model.

    Attributes:
        name: of the task or group.
        variant: `uncut`, `cut`, or a control with its draw, such as `RandomSubspace 3`.
        numbers, samples: what was found.
        notes: what the harness warned of.
    """

    name: str
    variant: str
    numbers: tuple[Number, ...]
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()


def require_paired(first: Answered, other: Answered) -> None:
    """That two variants were asked the same samples, in the same order.

    Raises:
        ValueError: if not: the task's data or prompts have changed in between.
    """
    for one, two in zip(first.samples, other.samples, strict=False):
        if (one.task, one.filter, one.doc_id, one.hashes) != (
            two.task,
            two.filter,
            two.doc_id,
            two.hashes,
        ):
            raise ValueError(
                f"Both sides must be asked the same samples, but sample {one.doc_id} of {one.task} is "
                f"another one for {other.variant!r} than for {first.variant!r}. Has the task's data "
                "changed? Use another folder."
            )
    counts = len(first.samples), len(other.samples)
    if counts[0] != counts[1]:
        raise ValueError(
            f"Both sides must be asked the same samples of {first.name}, got {counts[0]} for "
            f"{first.variant!r} and {counts[1]} for {other.variant!r}. Use another folder."
        )


def tasks_of(answered: Answered, number: Number) -> tuple[str, ...]:
    """The tasks that a number is of: of a group, those that have the metric, as the harness has it."""
    if not number.parts:
        return (number.task,)
    having = {
        each.task
        for each in answered.numbers
        if not each.parts and (each.filter, each.metric) == (number.filter, number.metric)
    }
    return tuple(part for part in number.parts if part in having)


def values_of(answered: Answered, number: Number) -> Sequence[tuple[float, ...]] | None:
    """What a number is put together from, `[sample, 1 or 2]`; None if the samples have no numbers."""
    found = [
        each.values.get(number.metric)
        for task in tasks_of(answered, number)
        for each in answered.samples
        if each.task == task and each.filter == number.filter
    ]
    known = [each for each in found if each is not None]
    alike = len({len(each) for each in known}) == 1
    return known if alike and len(known) == len(found) else None
