"""Checks of arguments that several rooms make."""

import difflib
import importlib.util
import numbers
import operator
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from typing import Any


def whole(value: Any) -> int | None:
    """The integer that a value is, such as NumPy's or torch's; None for all else, truth values too.

    Examples:
        >>> import numpy as np
        >>> whole(np.int64(3)), whole(3.0), whole(True)
        (3, None, None)
    """
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def real(value: Any) -> float | None:
    """The number that a value is, NumPy's too; None for anything else, truth values too.

    Examples:
        >>> import numpy as np
        >>> real(np.float32(0.5)), real(1), real("1")
        (0.5, 1.0, None)
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    found = whole(value)
    return None if found is None else float(found)


def positive(name: str, value: Any) -> int:
    """A whole number from 1 up.

    Raises:
        ValueError: if it is none.

    Examples:
        >>> positive("n", 3)
        3
    """
    return _from(1, name, value)


def natural(name: str, value: Any) -> int:
    """A whole number from 0 up.

    Raises:
        ValueError: if it is none.

    Examples:
        >>> natural("seed", 0)
        0
    """
    return _from(0, name, value)


def _from(least: int, name: str, value: Any) -> int:
    found = whole(value)
    if found is None or found < least:
        raise ValueError(f"{name} must be an integer from {least} up, got {value!r}.")
    return found


def as_integers(settings: Any, *names: str, check: Any = positive) -> None:
    """Makes fields of a frozen dataclass Python's integers, in its `__post_init__`; None stays.

    Raises:
        ValueError: if one is none.
    """
    assert is_dataclass(settings)
    for name in names:
        value = getattr(settings, name)
        if value is not None:
            object.__setattr__(settings, name, check(name, value))


def probability(name: str, value: Any) -> float:
    """A number from 0 to 1.

    Raises:
        ValueError: if it is none.

    Examples:
        >>> probability("alpha", 0.5)
        0.5
    """
    found = real(value)
    if found is None or not 0 <= found <= 1:
        raise ValueError(f"{name} must be a probability from 0 to 1, got {value!r}.")
    return found


def meant(given: Any, known: Iterable[str]) -> str:
    """A question with the nearest of the known names, to stand behind an error; empty if none is near.

    Examples:
        >>> meant("p_incontext", ["logit_diff", "p_in_context"])
        " Did you mean 'p_in_context'?"
        >>> meant("pie", ["heatmap", "ranks"])
        ''
    """
    near = difflib.get_close_matches(str(given), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def one_of(name: str, given: Any, known: Sequence[str]) -> str:
    """One of some names.

    Raises:
        ValueError: if it is none of them, with the nearest.

    Examples:
        >>> one_of("--figure", "heatmap", ("heatmap", "ranks"))
        'heatmap'
    """
    if given not in known:
        *others, last = known
        names = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{name} must be {names}, got {given!r}.{meant(given, known)}")
    return str(given)


#: The packages of the extras, as pyproject.toml has them; each is imported only where it is needed.
EXTRAS = {
    "demo": ("gguf",),
    "plots": ("matplotlib",),
    "report": ("plotly", "jinja2"),
    "export": ("peft",),
    "evals": ("lm_eval",),
    "ray": ("ray",),
    "explore": ("tornado",),
    "widget": ("anywidget",),
}


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
            f"{verb} not. Run in a clone of tl_truncate: pip install '.[{extra}]'."
            f"{otherwise and ' ' + otherwise}"
        )
