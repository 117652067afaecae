"""Memory that the allocator holds free, given back to the system."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Gives back what is free, after work in large matrices.

    glibc keeps what was freed for what may come, in pieces between which the next large tensor does not
    fit: the process would grow by both. Elsewhere nothing is done.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    # Other C libraries of Linux have no such function.
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found
