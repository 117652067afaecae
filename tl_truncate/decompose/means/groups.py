"""Sums over positions that have something in common, such as their token, as they stream by."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_truncate.weights.linear import where_float64_is


@dataclass
class Groups:
    """Counts and sums in float64, one row for each group that has been seen.

    Args:
        width: of the values.
    """

    width: int
    _rows: dict[int, int] = field(default_factory=dict)
    _counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    _sums: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))

    def __post_init__(self) -> None:
        self._sums = torch.zeros(0, self.width, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def keys(self) -> Int64[Tensor, " groups"]:
        """What the groups are called, in the order in which they were first seen."""
        return torch.tensor(list(self._rows), dtype=torch.int64)

    @property
    def counts(self) -> Float[Tensor, " groups"]:
        """How many positions each group has."""
        return self._counts[: len(self)]

    @property
    def sums(self) -> Float[Tensor, "groups width"]:
        """The sum of each group's values."""
        return self._sums[: len(self)]

    def add(self, keys: Int64[Tensor, " positions"], values: Float[Tensor, "positions width"]) -> None:
        """Takes in some positions."""
        where = where_float64_is(values).device
        own, inverse = torch.unique(keys.to(where), return_inverse=True)
        counts = torch.zeros(len(own), dtype=torch.float64, device=where)
        sums = torch.zeros(len(own), self.width, dtype=torch.float64, device=where)
        counts = _added(counts, inverse, torch.ones(len(keys), dtype=torch.float64, device=where))
        sums = _added(sums, inverse, values.to(where).double())
        self.add_sums(own.cpu(), counts.cpu(), sums.cpu())

    def add_sums(self, keys: Tensor, counts: Tensor, sums: Tensor) -> None:
        """Takes in sums over different groups."""
        rows = [self._rows.setdefault(key, len(self._rows)) for key in keys.tolist()]
        self._make_room()
        where = torch.tensor(rows, dtype=torch.int64)
        self._counts[where] += counts
        self._sums[where] += sums

    def _make_room(self) -> None:
        missing = len(self._rows) - len(self._counts)
        if missing > 0:
            more = max(missing, len(self._counts) // 2)
            self._counts = torch.cat([self._counts, torch.zeros(more, dtype=torch.float64)])
            self._sums = torch.cat([self._sums, torch.zeros(more, self.width, dtype=torch.float64)])

    def copy(self) -> "Groups":
        """The same sums, to be added to."""
        found = Groups(self.width)
        found.add_sums(self.keys, self.counts, self.sums)
        return found


def _added(into: Tensor, places: Int64[Tensor, " positions"], values: Tensor) -> Tensor:
    """The values added up at their places, in an order that is always the same, to the bit.

    A card's `index_add_` adds as its threads come; what accumulates by sorted places does not.
    """
    if into.device.type == "cpu":
        return into.index_add_(0, places, values)
    return into.index_put_((places,), values, accumulate=True)
