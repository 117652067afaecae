"""The harness without what it prints, and with what it warns of in a list."""

import contextlib
import io
import logging
import random
import re
import sys
from collections.abc import Iterator

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


@contextlib.contextmanager
def seeded_as_the_harness() -> Iterator[None]:
    """Inside, random numbers are those of a fresh call of the harness; outside, as they were."""
    # By importing torch.random's own context, devices are put back too.
    own, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            random.seed(0)
            np.random.seed(1234)
            torch.manual_seed(1234)
            yield
        finally:
            random.setstate(own)
            np.random.set_state(numpy)
