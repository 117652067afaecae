"""When in training something begins: a step with an interval."""

from collections.abc import Callable, Sequence

from tl_truncate.statistics import Estimate


class FirstStep(int):
    """A training step, usable as an int, with a 95% interval over prompts.

    Attributes:
        low: the first step from which on the mean may be above the value; None if it is unknown.
        high: the first step from which on it is above the value for sure; None if that is never.
        missing: steps that were asked for and about which nothing is known. Anything may be there: the
            interval begins and ends accordingly.

    Examples:
        >>> step = FirstStep(64, low=64, high=512)
        >>> step == 64, str(step)
        (True, '64 [64, 512]')
        >>> str(FirstStep(64, low=32, high=512, missing=(32,)))
        '64 [32, 512] (missing: step 32)'
    """

    low: int | None
    high: int | None
    missing: tuple[int, ...]

    def __new__(
        cls, step: int, *, low: int | None, high: int | None, missing: Sequence[int] = ()
    ) -> "FirstStep":
        """A step with what is known of it."""
        self = super().__new__(cls, step)
        self.low, self.high, self.missing = low, high, tuple(missing)
        return self

    def __str__(self) -> str:
        low, high = ("?" if each is None else each for each in (self.low, self.high))
        gaps = f" (missing: {steps_told(self.missing)})" if self.missing else ""
        return f"{int(self)} [{low}, {high}]{gaps}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (int(self), self.low, self.high, self.missing))


def _rebuild(step: int, low: int | None, high: int | None, missing: tuple[int, ...]) -> FirstStep:
    return FirstStep(step, low=low, high=high, missing=missing)


def steps_told(steps: Sequence[int], most: int = 8) -> str:
    """Some steps in words.

    Examples:
        >>> steps_told([4]), steps_told([0, 1, 2], most=2)
        ('step 4', 'steps 0, 1 and 1 more')
    """
    shown = ", ".join(map(str, steps[:most]))
    more = f" and {len(steps) - most} more" if len(steps) > most else ""
    return f"step{'s' if len(steps) > 1 else ''} {shown}{more}"


def first_lasting(
    steps: Sequence[int], means: Sequence[Estimate | None], above: float, lasting: int
) -> FirstStep | None:
    """The first step from which on means are above a value, so many in a row; None if there is none.

    Args:
        steps: in order.
        means: one for each; None where it is missing. Such a step is passed over in finding the step; in
            finding the interval's beginning it may be above, in finding its end it need not be.
        above: the value.
        lasting: how many in a row, or as many as are left.

    Examples:
        >>> means = [Estimate(mean, low=mean - 0.1, high=mean + 0.1, se=0.05, n=9)
        ...          for mean in (0.1, 0.4, 0.1, 0.35, 0.5)]
        >>> str(first_lasting([0, 1, 2, 4, 8], means, 0.3, 2))
        '4 [4, 8]'
        >>> str(first_lasting([0, 1, 2, 4, 8], [*means[:3], None, means[4]], 0.3, 2))
        '8 [4, 8] (missing: step 4)'
    """
    pairs = list(zip(steps, means, strict=True))

    def first(value: Callable[[Estimate], float], unknown: bool | None) -> int | None:
        known = [(step, mean) for step, mean in pairs if mean is not None or unknown is not None]
        passed = [unknown if mean is None else value(mean) > above for _, mean in known]
        for place, (step, _) in enumerate(known):
            if all(passed[place : place + lasting]):
                return step
        return None

    found = first(float, None)
    if found is None:
        return None
    return FirstStep(
        found,
        low=first(lambda mean: mean.high, True),
        high=first(lambda mean: mean.low, False),
        missing=[step for step, mean in pairs if mean is None],
    )
