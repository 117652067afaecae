"""A number that knows its interval, and how both are shown."""

import math
from typing import Any

#: Fewer units than this give no interval and no verdict: what four prompts say of a mean is a guess.
LEAST = 5


class Estimate(float):
    """A mean over prompts, usable as a float, with a 95% interval.

    Attributes:
        low: lower end of the interval; NaN where there are fewer than five prompts.
        high: upper end of the interval.
        se: standard error of the mean, `std / sqrt(n)`; NaN for one prompt.
        n: number of prompts.
        p: two-sided probability of as much if the truth were zero; it is below .05 exactly where the
            interval leaves zero out. NaN where zero is no hypothesis, or there is no interval.

    Examples:
        >>> value = Estimate(0.5, low=0.4, high=0.6, se=0.05, n=20)
        >>> value + 1, str(value)
        (1.5, '0.500 [0.400, 0.600]')
    """

    low: float
    high: float
    se: float
    n: int
    p: float

    def __new__(
        cls, value: float, *, low: float, high: float, se: float, n: int, p: float = math.nan
    ) -> "Estimate":
        """A value with what is known of its uncertainty."""
        self = super().__new__(cls, value)
        self.low, self.high, self.se, self.n = float(low), float(high), float(se), int(n)
        self.p = float(p)
        return self

    def __str__(self) -> str:
        return shown(self, self.low, self.high)

    def __repr__(self) -> str:
        return f"Estimate({self}, n={self.n})"

    def __reduce__(self) -> Any:
        return (_rebuild, (float(self), self.low, self.high, self.se, self.n, self.p))

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval; False where there is none."""
        return self.low > 0 or self.high < 0


def shown(value: float, low: float, high: float, *, digits: int = 3, signed: bool = False) -> str:
    """A number with the ends of its interval, as every table and sentence shows it.

    Examples:
        >>> shown(0.5, 0.4, 0.6, signed=True)
        '+0.500 [+0.400, +0.600]'
        >>> shown(0.5, math.nan, math.nan)
        '0.500 [n < 5]'
        >>> shown(math.inf, math.nan, math.nan)
        'inf'

        An interval that would show no width says why in words: nothing differs, or nothing that so few
        digits have.

        >>> shown(0.0, 0.0, 0.0), shown(0.00001, 0.0, 0.00002)
        ('0.000 [all the same]', '0.000 [within 0.001]')
    """
    style = f"{'+' if signed else ''}.{digits}f"
    if not math.isfinite(value):
        return f"{float(value):{style}}"
    if math.isnan(low) or math.isnan(high):
        return f"{float(value):{style}} [n < {LEAST}]"
    ends = [f"{float(end):{style}}" for end in (low, high)]
    if low == high:
        return f"{float(value):{style}} [all the same]"
    if len({end.lstrip("+-") if float(end) == 0 else end for end in ends}) == 1:  # -0.000 is 0.000
        return f"{float(value):{style}} [within {10.0**-digits:g}]"
    return f"{float(value):{style}} [{', '.join(ends)}]"


def shown_in(row: Any, name: str, *, digits: int = 3, signed: bool = False) -> str:
    """`shown` of three columns of a table's row: a name, and the same with `_low` and `_high`.

    Examples:
        >>> shown_in({"kl": 0.5, "kl_low": 0.4, "kl_high": 0.6}, "kl")
        '0.500 [0.400, 0.600]'
    """
    ends = (row[name], row[f"{name}_low"], row[f"{name}_high"])
    return shown(*ends, digits=digits, signed=signed)


def _rebuild(value: float, low: float, high: float, se: float, n: int, p: float = math.nan) -> Estimate:
    return Estimate(value, low=low, high=high, se=se, n=n, p=p)
