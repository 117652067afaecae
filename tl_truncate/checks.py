"""Checks of arguments that several rooms make."""

from typing import Any


def positive(name: str, value: Any) -> int:
    """A whole number from 1 up.

    Raises:
        ValueError: if it is none.

    Example:
        >>> positive("n", 3)
        3
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer from 1 up, got {value!r}.")
    return value
