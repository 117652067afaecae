"""Keep rules: how much of a spectrum stays.

A rule looks at the singular values (largest first) and the shape of a matrix and names the
components that are kept. It knows nothing of models or hooks.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor


class Keep(ABC):
    """A rule that chooses which components of a spectrum stay.

    A new rule is a frozen dataclass with `indices`; being a subclass makes it readable from JSON.
    """

    _rules: ClassVar[dict[str, type["Keep"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Keep._rules[cls.__name__] = cls

    @staticmethod
    def named(name: str) -> type["Keep"]:
        """The rule with a name.

        Raises:
            ValueError: if there is none.

        Examples:
            >>> Keep.named("Energy")(0.9)
            Energy(e=0.9)
        """
        if name not in Keep._rules:
            raise ValueError(
                f"A keep rule must be one of {', '.join(sorted(Keep._rules))}, got {name!r}."
            )
        return Keep._rules[name]

    @abstractmethod
    def indices(
        self, singular_values: Float[Tensor, " rank"], shape: tuple[int, int]
    ) -> Int64[Tensor, " kept"]:
        """The kept components.

        Args:
            singular_values: of the matrix, largest first.
            shape: `(n_in, n_out)` of the matrix.

        Returns:
            Indices into `singular_values`, ascending.

        Raises:
            ValueError: if the matrix has fewer components than the rule asks for.
        """

    def count(self, max_rank: int) -> int | None:
        """How many components stay, where that does not depend on the singular values."""
        return None

    def to_json(self) -> dict[str, Any]:
        """The rule as plain data; `Keep.from_json` is the inverse.

        Examples:
            >>> Keep.from_json(Rank(3).to_json())
            Rank(k=3)
        """
        return {"rule": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Keep":
        """Reads a rule that `to_json` wrote.

        Raises:
            ValueError: if the rule is unknown or its values do not fit.
        """
        fields = dict(data)
        return Keep.named(fields.pop("rule", None))(**fields)


def _natural(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be an integer from 0 up, got {value!r}.")
    return value


def _unit(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}.")
    return float(value)


def _at_most(name: str, value: int, max_rank: int) -> int:
    if value > max_rank:
        raise ValueError(f"{name} must be at most {max_rank}, the rank of this matrix, got {value}.")
    return value


@dataclass(frozen=True)
class Rank(Keep):
    """Keeps the `k` largest components.

    Examples:
        >>> Rank(2).indices(torch.tensor([3.0, 2.0, 1.0]), (3, 5)).tolist()
        [0, 1]
    """

    k: int

    def __post_init__(self) -> None:
        _natural("Rank's k", self.k)

    def count(self, max_rank: int) -> int:
        """k itself."""
        return _at_most("Rank's k", self.k, max_rank)

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
        object.__setattr__(self, "rho", _unit("The kept fraction", self.rho))

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
        object.__setattr__(self, "e", _unit("The kept energy", self.e))

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
        _natural("DropTop's k", self.k)

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """All but the first k."""
        return torch.arange(_at_most("DropTop's k", self.k, len(singular_values)), len(singular_values))


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
        if _natural("Band's i", self.i) > _natural("Band's j", self.j):
            raise ValueError(f"Band's i must be at most its j, got Band({self.i}, {self.j}).")

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """i to j - 1."""
        return torch.arange(self.i, _at_most("Band's j", self.j, len(singular_values)))


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
        naturals = [_natural("A component's index", index) for index in chosen]
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


@dataclass(frozen=True)
class LaserCompat(Keep):
    """The published LASER code's approximation: `torch.svd_lowrank` with `niter=2`, seeded.

    It is not the truncation of the spectrum: its output differs from the exact one by tens of per
    cent on real weights. Use it only to compare with results of that code, whose seed is unknown.

    Args:
        rho: fraction of the maximum rank, floored as in `Fraction`.
        seed: of the random sketch; the global random state is left as it was.
    """

    rho: float
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rho", _unit("The kept fraction", self.rho))
        _natural("LaserCompat's seed", self.seed)

    def count(self, max_rank: int) -> int:
        """floor(rho * max_rank)."""
        return math.floor(self.rho * max_rank)

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """Always raises: a sketch chooses no components of the spectrum."""
        raise ValueError(
            "LaserCompat has no set of kept components: it replaces the weight by a random sketch. "
            "Use Fraction(rho) for the exact truncation."
        )

    def factors(self, weight: Float[Tensor, "n_in n_out"]) -> tuple[Tensor, Tensor]:
        """The sketch `weight ~ left @ right.T`.

        The matrix is handed over as a linear layer stores it, `[n_out, n_in]`, because the side on
        which the sketch is taken depends on it.

        Returns:
            left `[n_in, rank]` and right `[n_out, rank]`, of the weight's dtype or float32.
        """
        rank = self.count(min(weight.shape))
        working = weight if weight.dtype == torch.float64 else weight.float()
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed the generators of all other devices too.
            torch.default_generator.manual_seed(self.seed)
            u, s, v = torch.svd_lowrank(working.T.cpu(), q=rank, niter=2)
        return v * s, u


def as_keep(value: "Keep | int | float") -> Keep:
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
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            "keep must be an int (a rank), a float from 0 to 1 (a fraction of the maximum rank) or "
            f"a rule such as Energy(0.95), got {value!r}."
        )
    if isinstance(value, int):
        return Rank(value)
    if not 0 <= value <= 1:
        raise ValueError(
            f"keep as a float is a fraction and must be from 0 to 1, got {value!r}. "
            "Give a rank as an int."
        )
    return Fraction(value)
