"""Compiled code does not see hooks that were placed since; while a cut is at work, none of it runs."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_at_work = 0
#: Holds the stance that the process had before, while one of ours is in force.
_stance = ExitStack()
_in_force = False


@contextmanager
def uncompiled() -> Iterator[None]:
    """Lets `torch.compile` have no effect: what was compiled runs as it was written.

    Slower, and right: code that was compiled before would ignore a cut, and what is compiled inside
    would keep it for ever. Contexts may be left in any order.
    """
    global _at_work, _in_force
    was_there = _compiler_is_there()
    if was_there and not _in_force:
        _stance.enter_context(torch.compiler.set_stance("force_eager"))
        _in_force = True
    _at_work += 1
    try:
        yield
    finally:
        _at_work -= 1
        if _at_work == 0 and _in_force:
            _stance.close()
            _in_force = False
        if not was_there and _compiler_is_there():
            # Compiled for the first time inside: with the cut.
            torch.compiler.reset()


def _compiler_is_there() -> bool:
    return "torch._dynamo" in sys.modules
