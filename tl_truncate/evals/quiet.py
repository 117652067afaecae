"""The harness without what it prints, and with what it warns of in a list."""

import contextlib
import io
import logging
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_LOGGERS = ("lm_eval", "datasets", "transformers")


class _Notes(logging.Handler):
    """Warnings, each form of them once: numbers in it differ from sample to sample."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.notes: list[str] = []
        self._forms: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        form = re.sub(r"\d+", "#", text)
        if form not in self._forms:
            self._forms.add(form)
            self.notes.append(text)


@contextlib.contextmanager
def quiet(*, progress: bool) -> Iterator[list[str]]:
    """Inside, the harness prints nothing but, if asked, its bars; what it warns of is listed.

    Args:
        progress: whether bars are shown, on stderr.

    Yields:
        The list, which is whole when the context is left.
    """
    notes = _Notes()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(each.handlers, each.propagate, each.level) for each in loggers]
    shown = contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO())
    try:
        for each in loggers:
            each.handlers, each.propagate = [notes], False
            each.setLevel(logging.WARNING)
        with contextlib.redirect_stdout(sys.stderr), shown:
            yield notes.notes
    finally:
        for each, (handlers, propagate, level) in zip(loggers, before, strict=True):
            each.handlers, each.propagate = handlers, propagate
            each.setLevel(level)


@dataclass(frozen=True)
class RandomState:
    """Where the generators of random, NumPy and, on the CPU, torch stand."""

    python: Any
    numpy: Any
    torch: Any

    @classmethod
    def now(cls) -> "RandomState":
        """As they stand."""
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state())

    def set(self) -> None:
        """Puts them back there."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)


@contextlib.contextmanager
def seeded_as_the_harness(further: RandomState | None = None) -> Iterator[None]:
    """Inside, random numbers are those of a fresh call of the harness; outside, as they were.

    Args:
        further: where such a call had come to; its beginning by default.
    """
    before = RandomState.now()
    with torch.random.fork_rng():  # puts devices back too
        try:
            random.seed(0)
            np.random.seed(1234)
            torch.manual_seed(1234)
            if further is not None:
                further.set()
            yield
        finally:
            before.set()
