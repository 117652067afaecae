"""Compiled code does not see hooks that were placed since; while a cut is at work, none of it runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_at_work = 0
_stance: list[object] = []


@contextmanager
def uncompiled() -> Iterator[None]:
    """Lets `torch.compile` have no effect: what was compiled runs as it was written.

    Slower, and right: code that was compiled before would ignore a cut, and what is compiled inside
    would keep it for ever. Contexts may be left in any order.
    """
    global _at_work
    was_there = _compiler_is_there()
    if _at_work == 0 and was_there:
        _stance.append(torch.compiler.set_stance("force_eager"))
    _at_work += 1
    try:
        yield
    finally:
        _at_work -= 1
        if _at_work == 0 and _stance:
            torch.compiler.set_stance("default")
            _stance.clear()
        elif not was_there and _compiler_is_there():
            # Compiled for the first time inside: with the cut.
            torch.compiler.reset()


def _compiler_is_there() -> bool:
    return "torch._dynamo" in sys.modules
