"""Which figure draws which result: said by the figures themselves, asked by `.plot()` and by errors."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import pandas as pd

from tl_truncate.checks import require_extra
from tl_truncate.plots.shared.finish import finish

P = ParamSpec("P")
R = TypeVar("R")

#: The figures of each kind of result, each with the results that it is for.
_FIGURES: dict[type, list[tuple[Callable[[Any], bool], Callable[..., Any]]]] = {}
_TAKES: dict[str, tuple[type, ...]] = {}


def draws(
    *kinds: type,
    own: bool | Sequence[type] = True,
    several: bool = False,
    columns: Sequence[str] = (),
    when: Callable[[Any], bool] = lambda result: True,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function the figure of results of some kinds; it refuses all others kindly.

    Args:
        kinds: of its first argument.
        own: whether `.plot()` of such a result draws this; or of which kinds it does.
        several: whether a list of them will do.
        columns: that a table must have.
        when: which of these results `.plot()` draws so; others are drawn by what says so after it.

    Returns:
        A decorator. The function then asks for the extra `plots` before anything else, and what it
        draws is laid out so that no text lies on another.
    """

    def decorate(draw: Callable[P, R]) -> Callable[P, R]:
        name = draw.__name__

        @functools.wraps(draw)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            require_extra("plots")
            first: Any = args[0] if args else next(iter(kwargs.values()), None)
            several_given = several and isinstance(first, (list, tuple))
            for each in first if several_given else [first]:
                _check(name, each, kinds, columns)
            return finish(draw(*args, **kwargs))  # type: ignore[arg-type, return-value]

        _TAKES[name] = kinds
        for kind in kinds if own is True else own or ():
            _FIGURES.setdefault(kind, []).append((when, checked))
        return checked

    return decorate


def figure_of(result: Any) -> Callable[..., Any]:
    """The figure that shows a result.

    Raises:
        TypeError: if there is none.
    """
    own = (each for kind in type(result).__mro__ for each in _FIGURES.get(kind, ()))
    found = next((figure for when, figure in own if when(result)), None)
    if found is None:
        raise TypeError(
            f"There must be a figure of what is drawn, but there is none of {_named(result)}."
        )
    return found


def takes() -> dict[str, tuple[type, ...]]:
    """The kinds of each function's first argument, by its name."""
    return dict(_TAKES)


def _check(name: str, given: Any, kinds: tuple[type, ...], columns: Sequence[str]) -> None:
    if not isinstance(given, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(
            f"plots.{name} must have a {wanted} as its first argument, got a {_named(given)}."
            f"{_instead(given)}"
        )
    table: Any = given
    missing = [column for column in columns if column not in table]
    if missing:
        raise TypeError(
            f"plots.{name} must have a table with the columns {', '.join(columns)}, got one without "
            f"{', '.join(missing)}."
        )


def _instead(given: Any) -> str:
    if isinstance(given, pd.DataFrame) or not any(kind in _FIGURES for kind in type(given).__mro__):
        return ""
    return f" Call plots.{figure_of(given).__name__}(result), or result.plot()."


def _named(given: Any) -> str:
    return type(given).__name__
