"""Where a model is asked: here, in this process, or by workers that have it each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from tl_truncate.experiments.scoring.evaluate import check_model
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.experiments.sweep.sweep import sweep_cuts
from tl_truncate.experiments.sweep.work.on_workers import SweepAsked, sweep_on
from tl_truncate.runs.codec import plain, read
from tl_truncate.runs.workers.pool import Pool, pool
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.hooks import truncated
from tl_truncate.tasks.task import Task
from tl_truncate.weights.identity.content import hashed_once

T = TypeVar("T")
UNCUT = Cuts()


class Place(Protocol):
    """A model that is asked, wherever it is."""

    def ask(self, kind: Any, function: Callable[[Any], T]) -> T:
        """What a function of the model gives, of a kind that can be written as plain data."""

    def sweep(
        self,
        tasks: Sequence[Task],
        cuts: Sequence[SiteCut],
        options: SweepOptions,
        around: Cuts = UNCUT,
    ) -> SweepResult:
        """Scores each cut alone, beside cuts that are at work in both sides."""


@dataclass(frozen=True)
class Here:
    """The model of this process."""

    model: Any

    def ask(self, kind: Any, function: Callable[[Any], T]) -> T:
        """What the function gives."""
        return function(self.model)

    def sweep(
        self,
        tasks: Sequence[Task],
        cuts: Sequence[SiteCut],
        options: SweepOptions,
        around: Cuts = UNCUT,
    ) -> SweepResult:
        """One after the other."""
        with truncated(self.model, around):
            return sweep_cuts(self.model, tasks, cuts, options)


@dataclass(frozen=True)
class There:
    """The models of some workers."""

    workers: Pool

    def ask(self, kind: Any, function: Callable[[Any], T]) -> T:
        """What the function gives in a worker that is free."""
        job = self.workers.share(partial(_Question, function))
        ((_, value),) = self.workers.run(job, [None])
        return read(kind, value)  # type: ignore[no-any-return]

    def sweep(
        self,
        tasks: Sequence[Task],
        cuts: Sequence[SiteCut],
        options: SweepOptions,
        around: Cuts = UNCUT,
    ) -> SweepResult:
        """By all of them."""
        asked = SweepAsked(partial(_given, tuple(cuts)), tasks, options, around)
        return sweep_on(self.workers, asked, cuts)


@contextmanager
def place_of(model: Any, on: Any, *, progress: bool) -> Iterator[Place]:
    """Where a model is asked, as the arguments of a call say it.

    Args:
        model: itself, or with `on` what each worker loads.
        on: None, or where the workers are.
        progress: says that they are started.
    """
    if on is None:
        check_model(model)
        with hashed_once(model):
            yield Here(model)
        return
    with pool(on, model, progress=progress) as workers:
        yield There(workers)


def _given(cuts: tuple[SiteCut, ...], model: Any) -> tuple[SiteCut, ...]:
    return cuts


@dataclass(frozen=True)
class _Question:
    """A job with one answer."""

    function: Callable[[Any], Any]
    model: Any

    def told(self) -> None:
        """Nothing that others would have to agree with."""

    def do(self, task: None) -> Any:
        """The answer as plain data."""
        return plain(self.function(self.model))
