"""Where checkpoints are read: one after the other here, or by workers, each one at a time."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from tl_truncate.experiments.training.checkpoints.checkpoint import Request
from tl_truncate.experiments.training.checkpoints.failing import read_or_note
from tl_truncate.models.checkpoints import Checkpoints
from tl_truncate.runs.manifests import TOKENS
from tl_truncate.runs.workers.pool import Pool, pool
from tl_truncate.tasks.encode import encode
from tl_truncate.tasks.task import Task
from tl_truncate.weights.identity.provenance import of_model, versions

Load = Callable[[int], Any]


BOS = "prepend_bos"


@dataclass(frozen=True, eq=False)
class Look:
    """A checkpoint to be looked at, without a pass.

    Attributes:
        step: of training.
        tasks: to be read in tokens.
        prepend_bos: overrides the model's default.
    """

    step: int
    tasks: tuple[Task, ...]
    prepend_bos: bool | None


class Reader(Protocol):
    """Reads checkpoints, wherever they are loaded."""

    def weights(self, look: Look) -> dict[str, Any]:
        """Which weights a step has, as `of_model` tells it, and of each task its tokens and its BOS."""

    def lines(self, requests: Sequence[Request]) -> Iterator[dict[str, Any]]:
        """The line about each checkpoint, as they are finished."""


@dataclass(frozen=True)
class ReadHere:
    """One model in memory at a time, in this process."""

    load: Load

    def weights(self, look: Look) -> dict[str, Any]:
        """By loading it."""
        gc.collect()  # models may hold themselves in cycles, and the next one needs the room
        model = self.load(look.step)
        encoded = {task.name: encode(model, task, prepend_bos=look.prepend_bos) for task in look.tasks}
        bos = {name: each.prepend_bos for name, each in encoded.items()}
        return {**of_model(model), BOS: bos, TOKENS: {name: each.hash for name, each in encoded.items()}}

    def lines(self, requests: Sequence[Request]) -> Iterator[dict[str, Any]]:
        """In the order in which they are asked for."""
        with _in_turn(self.load, [request.step for request in requests]) as at:
            for request in requests:
                gc.collect()
                yield read_or_note(at, request)


@dataclass(frozen=True)
class ReadThere:
    """One model in the memory of each worker at a time."""

    workers: Pool

    def weights(self, look: Look) -> dict[str, Any]:
        """By a worker."""
        ((_, found),) = self.workers.run(self.workers.share(_Part), [look])
        return dict(found)

    def lines(self, requests: Sequence[Request]) -> Iterator[dict[str, Any]]:
        """As workers get free."""
        for _, line in self.workers.run(self.workers.share(_Part), list(requests)):
            yield line


@contextmanager
def reader_of(load: Load, on: Any, *, progress: bool) -> Iterator[Reader]:
    """Who reads the checkpoints.

    Args:
        load: gives the model of a step.
        on: None, or where the workers are.
        progress: says that they are started.
    """
    if on is None:
        yield ReadHere(load)
        return
    with pool(on, partial(given, load), progress=progress) as workers:
        yield ReadThere(workers)


def _in_turn(load: Load, steps: Sequence[int]) -> AbstractContextManager[Load]:
    """The models of the steps; of `Checkpoints` the files of the next are fetched meanwhile."""
    return load.in_turn(steps) if isinstance(load, Checkpoints) else nullcontext(load)


def given(load: Load) -> Load:
    """What a worker has to load checkpoints with."""
    return load


@dataclass(frozen=True)
class _Part:
    """A worker's part: it loads a checkpoint for each task."""

    load: Load

    def told(self) -> dict[str, str]:
        """What numbers depend on beside the checkpoint."""
        return versions()

    def do(self, task: Request | Look) -> dict[str, Any]:
        """The line about a checkpoint, or which weights it has."""
        here = ReadHere(self.load)
        if isinstance(task, Look):
            return here.weights(task)
        (line,) = here.lines([task])
        return line
