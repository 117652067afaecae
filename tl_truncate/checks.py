"""Checks of arguments that several rooms make."""

import importlib.util
from typing import Any


def positive(name: str, value: Any) -> int:
    """A whole number from 1 up.

    Raises:
        ValueError: if it is none.

    Examples:
        >>> positive("n", 3)
        3
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer from 1 up, got {value!r}.")
    return value


def probability(name: str, value: Any) -> float:
    """A number from 0 to 1.

    Raises:
        ValueError: if it is none.

    Examples:
        >>> probability("alpha", 0.5)
        0.5
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability from 0 to 1, got {value!r}.")
    return float(value)


def require(package: str, *, extra: str) -> None:
    """Checks that a package of an extra is installed.

    Raises:
        ModuleNotFoundError: if it is not, with the command that installs it.

    Examples:
        >>> require("torch", extra="report")
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{package} must be installed for this, but it is not. Run: pip install "
            f"'tl-truncate[{extra}]'."
        )
