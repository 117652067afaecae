"""The rules that a hand can turn: what they are called, how far they go, and what they keep."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tl_truncate.weights.keep import (
    Band,
    DropTop,
    Energy,
    Fraction,
    Keep,
    MarchenkoPastur,
    OptimalThreshold,
    Rank,
)

#: In what a rule's amount is: a share from 0 to 1, a number of components, or nothing to choose.
Unit = Literal["share", "count", "none"]


@dataclass(frozen=True)
class Rule:
    """One way to choose what stays.

    Attributes:
        name: in a request.
        label: in words.
        unit: of the amount.
        side: of the picture from which the amount counts: that of the largest or of the smallest.
        keep: the rule from an amount and the rank of the matrix.
        start: the amount that is shown first.
    """

    name: str
    label: str
    unit: Unit
    side: Literal["largest", "smallest"]
    keep: Callable[[float, int], Keep]
    start: float = 0.5

    def to_json(self) -> dict[str, Any]:
        """What a page has to know of it."""
        step = {"share": 0.005, "count": 1, "none": None}[self.unit]
        most = 1 if self.unit == "share" else None
        shown = dict(name=self.name, label=self.label, unit=self.unit, side=self.side, start=self.start)
        return shown | dict(min=0, max=most, step=step)

    def check(self, amount: float) -> float:
        """The amount, if the rule can have it.

        Raises:
            ValueError: if not.
        """
        if self.unit == "share" and not 0 <= amount <= 1:
            raise ValueError(f"The amount must be a share from 0 to 1, got {amount:g}.")
        if self.unit == "count" and (amount < 0 or amount != int(amount)):
            raise ValueError(f"The amount must be a number of components, got {amount:g}.")
        return amount


def _smallest(share: float, rank: int) -> Keep:
    kept = math.floor(share * rank)
    return Band(rank - kept, rank)


_ALL = (
    Rule("largest", "largest kept", "share", "largest", lambda share, _: Fraction(share)),
    Rule("smallest", "smallest kept", "share", "smallest", _smallest),
    Rule("rank", "largest kept, counted", "count", "largest", lambda count, _: Rank(int(count)), 64),
    Rule("drop_top", "largest removed", "count", "largest", lambda count, _: DropTop(int(count)), 8),
    Rule("energy", "energy kept", "share", "largest", lambda share, _: Energy(share), 0.9),
    Rule("marchenko_pastur", "above noise", "none", "largest", lambda *_: MarchenkoPastur()),
    Rule(
        "optimal_threshold",
        "above the optimal threshold",
        "none",
        "largest",
        lambda *_: OptimalThreshold(),
    ),
)
#: By name.
RULES: dict[str, Rule] = {rule.name: rule for rule in _ALL}
