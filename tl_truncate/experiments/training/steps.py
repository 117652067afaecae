"""When in training something begins: a step with an interval."""

from collections.abc import Callable, Sequence

from tl_truncate.statistics import Estimate


class FirstStep(int):
    """A training step, usable as an int, with a 95% interval over prompts.

    Attributes:
        low: the first step from which on the mean may be above the value; None if it is unknown.
        high: the first step from which on it is above the value for sure; None if that is never.

    Examples:
        >>> step = FirstStep(64, low=64, high=512)
        >>> step == 64, str(step)
        (True, '64 [64, 512]')
    """

    low: int | None
    high: int | None

    def __new__(cls, step: int, *, low: int | None, high: int | None) -> "FirstStep":
        """A step with what is known of it."""
        self = super().__new__(cls, step)
        self.low, self.high = low, high
        return self

    def __str__(self) -> str:
        low, high = ("?" if each is None else each for each in (self.low, self.high))
        return f"{int(self)} [{low}, {high}]"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (int(self), self.low, self.high))


def _rebuild(step: int, low: int | None, high: int | None) -> FirstStep:
    return FirstStep(step, low=low, high=high)


def first_lasting(
    steps: Sequence[int], means: Sequence[Estimate], above: float, lasting: int
) -> FirstStep | None:
    """The first step from which on means are above a value, so many in a row; None if there is none.

    Args:
        steps: in order.
        means: one for each.
        above: the value.
        lasting: how many in a row, or as many as are left.

    Examples:
        >>> means = [Estimate(mean, low=mean - 0.1, high=mean + 0.1, se=0.05, n=9)
        ...          for mean in (0.1, 0.4, 0.1, 0.35, 0.5)]
        >>> str(first_lasting([0, 1, 2, 4, 8], means, 0.3, 2))
        '4 [4, 8]'
    """

    def first(value: Callable[[Estimate], float]) -> int | None:
        passed = [value(mean) > above for mean in means]
        for place, step in enumerate(steps):
            if all(passed[place : place + lasting]):
                return step
        return None

    found = first(float)
    if found is None:
        return None
    return FirstStep(found, low=first(lambda mean: mean.high), high=first(lambda mean: mean.low))
