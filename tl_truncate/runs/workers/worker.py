"""What runs in a worker's process."""

import platform
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Job(Protocol):
    """A worker's part in some work: made there, of what the worker has loaded.

    What it gives to the driver is plain data.
    """

    def told(self) -> Any:
        """What must be the same in every worker, such as the hash of the weights."""

    def do(self, task: Any) -> Any:
        """One task; asked twice, the same is given twice."""


#: Makes a worker's job of what it has loaded.
Opening = Callable[[Any], Job]


@dataclass(frozen=True)
class Answer:
    """What a worker sends to the driver.

    Attributes:
        told: of the job.
        value: of the task; None where the job was only opened.
        machine: that the worker is on.
        warned: kind and text of each warning, which nobody sees in a worker.
    """

    told: Any
    value: Any
    machine: str
    warned: tuple[tuple[type[Warning], str], ...]


class Worker:
    """Loads once, and then does one task after the other.

    Args:
        load: gives what tasks are done with.
        threads: of torch.
    """

    def __init__(self, load: Callable[[], Any], threads: int) -> None:
        self._threads, self._load = threads, load
        self._loaded: Any = None
        self._job: Job | None = None
        self._number = -1

    def load(self) -> Answer:
        """Loads, which may fail with an error of its own, and is therefore not done in `__init__`."""
        with _noted() as warned:
            self._loaded = self._load()
        self._bound_threads()
        return Answer(None, None, platform.node(), _unique(warned))

    def _bound_threads(self) -> None:
        """Once torch is there, which is long in coming: not every load is of a model."""
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._threads)

    def do(self, number: int, opening: Opening, *tasks: Any) -> Answer:
        """Does a task, or none, of the job with a number, which is opened when the number is new."""
        with _noted() as warned:
            if number != self._number:
                # Before the next, which may need the room; and whose opening may fail.
                self._job, self._number = None, -1
                self._job, self._number = opening(self._loaded), number
                self._bound_threads()
            assert self._job is not None
            told = self._job.told()
            value = [self._job.do(task) for task in tasks]
        return Answer(told, value[0] if value else None, platform.node(), _unique(warned))


def _noted() -> Any:
    return warnings.catch_warnings(record=True)


def _unique(warned: Any) -> tuple[tuple[type[Warning], str], ...]:
    return tuple(dict.fromkeys((each.category, str(each.message)) for each in warned))
