"""Memory that the allocator holds free, given back to the system."""

import ctypes
import sys
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
def _trim() -> "ctypes._CFuncPtr | None":
    if not sys.platform.startswith("linux"):
        return None
    # Other C libraries of Linux have no such function.
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
