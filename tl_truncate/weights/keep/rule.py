"""What every keep rule is: it looks at singular values and names the components that stay.

A rule sees the singular values (largest first) and the shape of a matrix. It knows nothing of models or
hooks.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from tl_truncate.checks import real


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

    @property
    def table_label(self) -> float | int | str:
        """What is kept, as a table shows it: a fraction, a rank, or a text."""
        return repr(self)

    def to_json(self) -> dict[str, Any]:
        """The rule as plain data; `Keep.from_json` is the inverse.

        Examples:
            >>> Keep.from_json(tlt.Rank(3).to_json())
            Rank(k=3)
        """
        values = asdict(self)  # type: ignore[call-overload]
        plain = {name: list(each) if isinstance(each, tuple) else each for name, each in values.items()}
        return {"rule": type(self).__name__, **plain}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Keep":
        """Reads a rule that `to_json` wrote.

        Raises:
            ValueError: if the rule is unknown or its values do not fit.
        """
        fields = dict(data)
        return Keep.named(fields.pop("rule", None))(**fields)


def unit(name: str, value: Any) -> float:
    """A number from 0 to 1.

    Raises:
        ValueError: if it is none.
    """
    found = real(value)
    if found is None or not 0 <= found <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}.")
    return found


def at_most(name: str, value: int, max_rank: int) -> int:
    """A number of components that a matrix has.

    Raises:
        ValueError: if it has fewer.
    """
    if value > max_rank:
        raise ValueError(f"{name} must be at most {max_rank}, the rank of this matrix, got {value}.")
    return value
