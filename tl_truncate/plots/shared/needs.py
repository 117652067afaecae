"""What figures need: said before any work, and in one place."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tl_truncate.checks import require_extra

P = ParamSpec("P")
R = TypeVar("R")


def needs_matplotlib(draw: Callable[P, R]) -> Callable[P, R]:
    """Makes a function ask for the extra `plots` before it does anything else.

    Raises:
        ModuleNotFoundError: when the function is called without it, with the command that installs it.
    """

    @functools.wraps(draw)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        require_extra("plots")
        return draw(*args, **kwargs)

    return checked
