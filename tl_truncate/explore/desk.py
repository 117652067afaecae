"""Who is served next: questions of all pages to one model, one step at a time."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tl_truncate.explore.asked import Asked, CutAsked, EvaluateAsked, PromptAsked, StopAsked, Unreadable

Message = dict[str, Any]
Send = Callable[[Message], None]
#: What a question is worth: an answer to a hand goes before a long work, and the map is drawn last.
_HAND, _LONG, _MAP = range(3)
#: Seconds without a hand's question after which the map is drawn further: its steps may take a second.
QUIET = 0.4


@dataclass(eq=False)
class Visitor:
    """One page.

    Attributes:
        send: takes an answer to it.
        memory: what is kept of it between questions.
    """

    send: Send
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class _Job:
    visitor: Visitor
    asked: Asked
    steps: Iterator[Message | None] | None = None
    rank: int = _HAND
    number: int = 0
    begun: bool = False


class Desk:
    """Takes questions, and answers them step by step, the newest cut of a page instead of all its cuts.

    Args:
        answer: gives the answers to a question of a page, one at each step; None is a step without one.
            Answers behind the first one of a prompt are those that can wait.
    """

    def __init__(self, answer: Callable[[Visitor, Asked], Iterator[Message | None]]) -> None:
        self._answer = answer
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._last = -float("inf")

    def take(self, visitor: Visitor, asked: Asked) -> Callable[[], bool]:
        """Takes a question.

        Returns:
            Whether it still waits, as a function.
        """
        rank = _LONG if isinstance(asked, EvaluateAsked) else _HAND
        job = _Job(visitor, asked, rank=rank, number=next(self._numbers))
        with self._changed:
            gone = [each for each in self._jobs if each.visitor is visitor and _replaces(asked, each)]
            self._jobs = [each for each in self._jobs if each not in gone]
            if not isinstance(asked, StopAsked):
                self._jobs.append(job)
            self._last = time.monotonic() if rank == _HAND else self._last
            self._changed.notify()
        for each in gone:
            if each.rank != _MAP:
                visitor.send({"kind": "dropped", "id": each.asked.id})
        if isinstance(asked, StopAsked):
            visitor.send({"kind": "stopped", "id": asked.id})
        return lambda: not job.begun and job in self._jobs

    def leave(self, visitor: Visitor) -> None:
        """Forgets a page that is closed."""
        with self._changed:
            self._jobs = [each for each in self._jobs if each.visitor is not visitor]

    def wait(self, seconds: float) -> bool:
        """Waits for work; whether there is some that may be done now."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._jobs), seconds)
            if self._jobs and self._due() is None:
                self._changed.wait(QUIET / 4)
            return self._due() is not None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to do."""
        return not self._jobs

    def _due(self) -> _Job | None:
        """What is done next; None if it can wait for a hand that may go on."""
        first = min(self._jobs, key=lambda each: (each.rank, each.number), default=None)
        rests = time.monotonic() - self._last >= QUIET
        return first if first is not None and (first.rank != _MAP or rests) else None

    def step(self, *, hands_only: bool = False) -> bool:
        """Does one step of the most urgent question; whether there was one.

        Args:
            hands_only: leaves long work for later.
        """
        with self._changed:
            job = self._due()
            if job is None or (hands_only and job.rank != _HAND):
                return False
            job.begun = True
        found, ended = self._next(job)
        with self._changed:
            there = job in self._jobs  # or dropped meanwhile, and told so
            if ended and there:
                self._jobs.remove(job)
            if isinstance(job.asked, PromptAsked):
                job.rank = _MAP
        if there and found is not None:
            job.visitor.send({**found, "id": job.asked.id})
        return True

    def _next(self, job: _Job) -> tuple[Message | None, bool]:
        """An answer, and whether it is the last one."""
        try:
            if job.steps is None:
                job.steps = self._answer(job.visitor, job.asked)
            return next(job.steps), False
        except StopIteration:
            return None, True
        except Exception as problem:  # noqa: BLE001 -- whatever a model raises is told, and the next is served
            return error(problem), True


def error(problem: Exception) -> Message:
    """What a page hears of what went wrong."""
    said = str(problem) if isinstance(problem, (ValueError, TypeError, RuntimeError)) else repr(problem)
    found: Message = {"kind": "error", "message": said or repr(problem)}
    if isinstance(problem, Unreadable):
        found |= {} if problem.field is None else {"field": problem.field}
        found |= {} if problem.id is None else {"id": problem.id}
    return found


def _replaces(asked: Asked, job: _Job) -> bool:
    if isinstance(asked, CutAsked):
        return isinstance(job.asked, CutAsked) and not job.begun
    if isinstance(asked, PromptAsked):  # the map of the one before, and cuts of it
        return isinstance(job.asked, (PromptAsked, CutAsked)) and (not job.begun or job.rank == _MAP)
    return isinstance(asked, StopAsked) and isinstance(job.asked, EvaluateAsked)
