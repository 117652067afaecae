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


#: The packages of the extras, as pyproject.toml has them; each is imported only where it is needed.
EXTRAS = {"demo": ("gguf",), "plots": ("matplotlib",), "report": ("plotly", "jinja2")}


def missing_of(extra: str) -> list[str]:
    """The packages of an extra that are not installed.

    Examples:
        >>> missing_of("plots")
        []
    """
    return [package for package in EXTRAS[extra] if importlib.util.find_spec(package) is None]


def require_extra(extra: str, *, otherwise: str = "") -> None:
    """Checks that the packages of an extra are installed: called first, before any work.

    Args:
        extra: of `EXTRAS`.
        otherwise: a sentence with the way that needs no extra, where there is one.

    Raises:
        ModuleNotFoundError: if one is not, with the command that installs them.

    Examples:
        >>> require_extra("plots")
    """
    missing = missing_of(extra)
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ModuleNotFoundError(
            f"{' and '.join(EXTRAS[extra])} must be installed for this, but {' and '.join(missing)} "
            f"{verb} not. Run: pip install 'tl-truncate[{extra}]'.{otherwise and ' ' + otherwise}"
        )
