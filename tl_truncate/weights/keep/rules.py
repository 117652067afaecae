"""The keep rules that count components or energy, and how numbers stand for them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import SupportsIndex

import torch
from torch import Tensor

from tl_truncate.checks import natural, real, whole
from tl_truncate.weights.keep.rule import Keep, at_most, unit


@dataclass(frozen=True)
class Rank(Keep):
    """Keeps the `k` largest components.

    Examples:
        >>> Rank(2).indices(torch.tensor([3.0, 2.0, 1.0]), (3, 5)).tolist()
        [0, 1]
    """

    k: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", natural("Rank's k", self.k))

    @property
    def table_label(self) -> int | float | str:
        """k."""
        return self.k if type(self) is Rank else super().table_label

    def count(self, max_rank: int) -> int:
        """k itself."""
        return at_most("Rank's k", self.k, max_rank)

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """The first k."""
        return torch.arange(self.count(len(singular_values)))


@dataclass(frozen=True)
class Fraction(Keep):
    """Keeps the `floor(rho * max_rank)` largest components, as LASER counts them.

    Source: LASER (Sharma et al. 2023), section 4, where rho is the fraction of the maximum rank.

    Examples:
        >>> Fraction(0.5).indices(torch.tensor([3.0, 2.0, 1.0]), (3, 5)).tolist()
        [0]
    """

    rho: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "rho", unit("The kept fraction", self.rho))

    @property
    def table_label(self) -> int | float | str:
        """rho."""
        return self.rho if type(self) is Fraction else super().table_label

    def count(self, max_rank: int) -> int:
        """floor(rho * max_rank)."""
        return math.floor(self.rho * max_rank)

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """The first floor(rho * max_rank)."""
        return torch.arange(self.count(len(singular_values)))


@dataclass(frozen=True)
class Energy(Keep):
    """Keeps the fewest largest components whose squares sum to at least `e` of the whole.

    `k = min { k : sum_{i<k} s_i^2 >= e * sum_i s_i^2 }`

    Examples:
        >>> Energy(0.9).indices(torch.tensor([3.0, 1.0, 0.1]), (3, 5)).tolist()
        [0, 1]
    """

    e: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "e", unit("The kept energy", self.e))

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """The fewest that reach the energy."""
        if self.e == 1.0:
            return torch.arange(len(singular_values))
        energy = singular_values.double().square().cumsum(0)
        total = energy[-1] if len(energy) else torch.zeros(())
        reached = int((energy < self.e * total).sum()) + 1
        return torch.arange(0 if self.e == 0.0 else min(reached, len(singular_values)))


@dataclass(frozen=True)
class DropTop(Keep):
    """Drops the `k` largest components and keeps the rest.

    Examples:
        >>> DropTop(1).indices(torch.tensor([3.0, 2.0, 1.0]), (3, 5)).tolist()
        [1, 2]
    """

    k: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", natural("DropTop's k", self.k))

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """All but the first k."""
        return torch.arange(at_most("DropTop's k", self.k, len(singular_values)), len(singular_values))


@dataclass(frozen=True)
class Band(Keep):
    """Keeps components `i` to `j - 1`, counted from the largest, as a Python slice does.

    Examples:
        >>> Band(1, 3).indices(torch.tensor([4.0, 3.0, 2.0, 1.0]), (4, 5)).tolist()
        [1, 2]
    """

    i: int
    j: int

    def __post_init__(self) -> None:
        for name in ("i", "j"):
            object.__setattr__(self, name, natural(f"Band's {name}", getattr(self, name)))
        if self.i > self.j:
            raise ValueError(f"Band's i must be at most its j, got Band({self.i}, {self.j}).")

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """i to j - 1."""
        return torch.arange(self.i, at_most("Band's j", self.j, len(singular_values)))


@dataclass(frozen=True)
class Components(Keep):
    """Keeps the components with the given indices, counted from 0 at the largest.

    Examples:
        >>> Components([2, 0]).indices(torch.tensor([3.0, 2.0, 1.0]), (3, 5)).tolist()
        [0, 2]
    """

    components: Sequence[int] = field(default=())

    def __post_init__(self) -> None:
        chosen = self.components.tolist() if hasattr(self.components, "tolist") else self.components
        naturals = [natural("A component's index", index) for index in chosen]
        object.__setattr__(self, "components", tuple(sorted(set(naturals))))

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """The chosen ones."""
        if self.components:
            last = len(singular_values) - 1
            if self.components[-1] > last:
                raise ValueError(
                    f"A component's index must be at most {last} for this matrix, got "
                    f"{self.components[-1]}."
                )
        return torch.tensor(self.components, dtype=torch.int64)


@dataclass(frozen=True, repr=False)
class Without(Keep):
    """Keeps all but the components with the given indices, counted from 0 at the largest.

    Args:
        components: that are removed.
        name: what they are, for tables.

    Examples:
        >>> Without([1], "the noise").indices(torch.tensor([3.0, 2.0, 1.0]), (3, 5)).tolist()
        [0, 2]
    """

    components: Sequence[int]
    name: str = ""

    def __post_init__(self) -> None:
        chosen = Components(self.components).components
        object.__setattr__(self, "components", chosen)

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """All but the chosen ones."""
        inside = torch.ones(len(singular_values), dtype=torch.bool)
        inside[Components(self.components).indices(singular_values, shape)] = False
        return inside.nonzero()[:, 0]

    def __repr__(self) -> str:
        return f"Without({self.name or list(self.components)})"


def as_keep(value: "Keep | SupportsIndex | float") -> Keep:
    """An int is a rank, a float a fraction of the maximum rank, a rule is itself.

    Raises:
        TypeError: for anything else.
        ValueError: for a negative rank, or a fraction outside 0..1 or NaN.

    Examples:
        >>> as_keep(3), as_keep(0.1)
        (Rank(k=3), Fraction(rho=0.1))
    """
    if isinstance(value, Keep):
        return value
    rank, share = whole(value), real(value)
    if share is None:
        raise TypeError(
            "keep must be an int (a rank), a float from 0 to 1 (a fraction of the maximum rank) or "
            f"a rule such as Energy(0.95), got {value!r}."
        )
    if rank is not None:
        return Rank(rank)
    if not 0 <= share <= 1:
        raise ValueError(
            f"keep as a float is a fraction and must be from 0 to 1, got {value!r}. "
            "Give a rank as an int."
        )
    return Fraction(share)
