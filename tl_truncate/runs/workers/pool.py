"""Workers that take one task after the other; what a worker had that is lost, another one does.

Ray starts nothing again by itself here: a worker that has died is replaced by a new one, which loads and
opens its job as every worker does, and its task goes to whoever is free. So a machine that is gone for
good holds nothing up. A task may be done twice, and is counted once.
"""

import itertools
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from tl_truncate.runs.manifests import differences
from tl_truncate.runs.workers.cluster import connected
from tl_truncate.runs.workers.ray import Ray, as_ray
from tl_truncate.runs.workers.sending import Load, as_load, require_sendable
from tl_truncate.runs.workers.worker import Answer, Opening, Worker

#: Workers that one task may be lost with before it is given up.
TRIES = 5
#: How often each worker may be lost before it has loaded, with none that has loaded in between.
LOADS = 4


@dataclass
class Shared:
    """A job that the workers of a pool have a part in each.

    Attributes:
        number: of the job.
        sent: its opening, where workers find it.
        first: the first answer, whose `told` all others must agree with.
    """

    number: int
    sent: Any
    first: Answer | None = None


@dataclass
class _Member:
    """One worker, and which task of which run it is at; None while it loads."""

    actor: Any
    at: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Raised:
    """What a task raised, and the words of where."""

    cause: BaseException
    told: str


#: What comes of a task; None if its worker was lost.
_Outcome = Answer | _Raised | None


@contextmanager
def pool(on: Any, model: Any, *, progress: bool = False) -> Iterator["Pool"]:
    """Workers that load once, and are there as long as the context.

    Args:
        on: `tlt.Ray`; or the workers of an outer context, which stay, with what they have loaded.
        model: what a worker loads: a name, a folder, or a function without arguments.
        progress: says that they are started, since that may take a minute.

    Raises:
        TypeError: if `on` is something else, or the model is one, which is not sent anywhere.
        ModuleNotFoundError: if Ray is not installed.
        ConnectionError: if there is no Ray at the address.
        ValueError: if there is no room for the workers, or the function cannot be sent.
    """
    if isinstance(on, Pool):
        yield on
        return
    ray = as_ray(on)
    load = as_load(model, ray)
    if progress:
        tqdm.write(f"Ray: {ray}, which load the model", file=sys.stderr)
    with connected(ray):
        workers = Pool(ray, load)
        try:
            yield workers
        finally:
            workers.end()


class Pool:
    """The driver's side of some workers; made by `pool`."""

    def __init__(self, on: Ray, load: Load) -> None:
        import ray

        self._ray, self._on, self._load = ray, on, ray.put(load)
        self._numbers = itertools.count()
        # Answers that have come and were not fetched, by the number of the run that asked.
        self._runs = itertools.count()
        self._come: dict[int, deque[tuple[int, _Outcome]]] = {}
        self._free: deque[_Member] = deque()
        self._busy: dict[Any, _Member] = {}
        self._warned: set[tuple[type[Warning], str]] = set()
        self._lost_at_loading = 0
        for _ in range(on.workers):
            self._hire()

    @property
    def size(self) -> int:
        """How many workers there are."""
        return self._on.workers

    def wait(self) -> None:
        """Waits until all workers have loaded."""
        while any(member.at is None for member in self._busy.values()):
            self._receive()

    def share(self, opening: Opening) -> Shared:
        """A job for all workers; each opens it when it is given its first task.

        Raises:
            ValueError: if it cannot be sent to another process.
            TypeError: if there is a model in it.
        """
        require_sendable(opening, "What is computed")
        return Shared(next(self._numbers), self._ray.put(opening))

    def told(self, job: Shared) -> Any:
        """What a job tells that is the same in every worker; by the worker that is there first."""
        if job.first is None:
            for _ in self._answers(job, [()]):
                pass
        assert job.first is not None
        return job.first.told

    def run(self, job: Shared, tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Does tasks, in their order as workers get free.

        Yields the place of each task with what came of it, as they are finished.

        Args:
            job: that they are tasks of.
            tasks: plain data, the most expensive first, so that no worker is left with one at the end.

        Raises:
            ValueError: if a worker's job is another than that of the first, such as of other weights.
            ChildProcessError: if workers are lost again and again.
            Exception: what a worker raised.
        """
        for place, answer in self._answers(job, [(task,) for task in tasks]):
            yield place, answer.value

    def end(self) -> None:
        """Ends all workers."""
        for member in (*self._free, *self._busy.values()):
            self._ray.kill(member.actor, no_restart=True)
        self._free.clear()
        self._busy.clear()

    def _hire(self) -> None:
        on = self._on
        options: dict[str, Any] = dict(num_cpus=on.threads, num_gpus=on.gpus, memory=on.memory)
        options |= dict(max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD")
        remote = self._ray.remote(Worker).options(**options, runtime_env={"env_vars": on.environment()})
        actor = remote.remote(self._load, on.threads)
        self._busy[actor.load.remote()] = _Member(actor)

    def _answers(self, job: Shared, tasks: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Answer]]:
        """The place of each task and its answer, as they come."""
        left, lost, open_ = deque(range(len(tasks))), [0] * len(tasks), len(tasks)
        run, come = next(self._runs), deque[tuple[int, _Outcome]]()
        self._come[run] = come
        try:
            while open_:
                while left and self._free:
                    self._give(self._free.popleft(), job, (run, left.popleft()), tasks)
                if not come:
                    self._receive()
                    continue
                place, answer = come.popleft()
                if isinstance(answer, _Raised):
                    raise answer.cause from _InAWorker(answer.told)
                if answer is None:
                    lost[place] += 1
                    self._require_hope(lost[place])
                    left.appendleft(place)
                    continue
                _require_same(job, answer)
                open_ -= 1
                yield place, answer
        finally:
            del self._come[run]

    def _give(
        self, member: _Member, job: Shared, at: tuple[int, int], tasks: Sequence[tuple[Any, ...]]
    ) -> None:
        member.at = at
        self._busy[member.actor.do.remote(job.number, job.sent, *tasks[at[1]])] = member

    def _receive(self) -> None:
        """Waits for one worker, and keeps its answer for the run that asked.

        A run may be stopped in the middle, with tasks at work, while another goes on; of one that was
        left for good nobody wants to know.
        """
        member, answer = self._next()
        at, member.at = member.at, None
        if at is not None and at[0] in self._come:
            self._come[at[0]].append((at[1], answer))

    def _next(self) -> tuple[_Member, _Outcome]:
        """Whoever is finished first, and with what; None if the worker is lost, and replaced."""
        (reference, *_), _ = self._ray.wait(list(self._busy), num_returns=1)
        member = self._busy.pop(reference)
        errors = self._ray.exceptions
        try:
            answer: Answer = self._ray.get(reference)
        except errors.RayTaskError as problem:
            if member.at is None:  # without what it loads it is of no use, and the next call says why
                self._busy[member.actor.load.remote()] = member
                raise problem.cause from _InAWorker(f"\n{problem}")
            self._free.append(member)  # the error is the task's
            return member, _Raised(problem.cause, f"\n{problem}")
        except (
            errors.RayActorError,
            errors.WorkerCrashedError,
            errors.OutOfMemoryError,
            errors.NodeDiedError,
            errors.ObjectLostError,
        ) as problem:
            self._replace(member, problem)
            return member, None
        self._free.append(member)
        self._lost_at_loading = 0 if member.at is None else self._lost_at_loading
        self._warn(answer)
        return member, answer

    def _replace(self, member: _Member, problem: Exception) -> None:
        if getattr(problem, "actor_init_failed", False):  # such as a package that is not there
            raise ChildProcessError(f"A worker must start, but it could not: {_why(problem)}")
        self._ray.kill(member.actor, no_restart=True)  # it may only have been out of reach
        self._last = _why(problem)
        if member.at is None:
            self._lost_at_loading += 1
            if self._lost_at_loading >= LOADS * self.size:
                raise ChildProcessError(
                    f"Workers must live to load the model, but {self._lost_at_loading} were lost at it "
                    f"one after the other. {self._advice()}"
                )
        self._hire()

    def _require_hope(self, lost: int) -> None:
        if lost >= TRIES:
            raise ChildProcessError(
                f"Workers must live to finish their tasks, but {TRIES} were lost at the same one. "
                f"{self._advice()}"
            )

    def _advice(self) -> str:
        return (
            f"The last time: {self._last} If memory was short, use fewer workers, or `memory=` for "
            "fewer on a machine, or a smaller max_memory. What is finished in a run folder is kept."
        )

    def _warn(self, answer: Answer) -> None:
        for kind, text in answer.warned:
            if (kind, text) not in self._warned:
                self._warned.add((kind, text))
                warnings.warn(text, kind, stacklevel=2)


class _InAWorker(Exception):
    """Where in a worker an error was raised."""


def _why(problem: Exception) -> str:
    """Ray's reason in a sentence or two, without its guesses."""
    text = " ".join(str(problem).split("Some common causes include")[0].split())
    return text if len(text) <= 300 else f"... {text[-300:]}"


def _require_same(job: Shared, answer: Answer) -> None:
    """That all workers are at the same job: of the same weights, prompts and versions."""
    if job.first is None:
        job.first = answer
    here, there = f"on {job.first.machine}", f"on {answer.machine}"
    different = differences(dict(told=job.first.told), dict(told=answer.told), here, there)
    if different:
        raise ValueError(
            "All workers must have the same model, versions and prompts, but two differ in: "
            f"{different}. See that every machine has the same files and packages."
        )
