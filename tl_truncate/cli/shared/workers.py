"""Where the work of a command is done: in this process, or by workers of Ray."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tl_truncate.cli.shared.grid import Grid
from tl_truncate.cli.shared.model import ModelOptions
from tl_truncate.cli.shared.options import RayAddress, RayGPUs, RayThreads, RayWorkers
from tl_truncate.cli.shared.tasks import BUILT_IN, DrawnOptions
from tl_truncate.experiments.sweep.places import There
from tl_truncate.runs.workers.pool import Pool, pool
from tl_truncate.runs.workers.ray import Ray
from tl_truncate.tasks.task import Task
from tl_truncate.weights.site import Site


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Workers of Ray."""

    ray: RayWorkers = None
    ray_address: RayAddress = None
    ray_gpus: RayGPUs = 0.0
    ray_threads: RayThreads = 1

    def read(self) -> Ray | None:
        """The workers, if there are to be some.

        Raises:
            ValueError: if an option does not fit, or belongs to workers and there are none.
        """
        if self.ray is None:
            if self != RayOptions():
                raise ValueError(
                    "--ray must say how many workers there are, got its other options alone."
                )
            return None
        return Ray(
            workers=self.ray, gpus=self.ray_gpus, threads=self.ray_threads, address=self.ray_address
        )


@dataclass(frozen=True)
class Asked:
    """A model, or what workers load, and what only a model could say of the options."""

    model: Any
    on: Pool | None
    tasks: tuple[Task, ...]
    sites: tuple[Site, ...]


@contextmanager
def asked_of(
    source: ModelOptions, names: Sequence[str], prompts: DrawnOptions, grid: Grid, ray: RayOptions
) -> Iterator[Asked]:
    """The model loaded here, or workers that load it each, and none here.

    Args:
        source: of the model.
        names: of the tasks.
        prompts: of the tasks.
        grid: whose sites are asked for.
        ray: the workers.
    """
    on, said = ray.read(), partial(_said, read_files(names, prompts), prompts, grid)
    if on is None:
        model = source.load()
        yield Asked(model, None, *said(model))
        return
    load: Callable[[], Any] = source.on_a_worker(gpus=on.gpus).load
    with pool(on, load, progress=True) as workers:
        yield Asked(load, workers, *There(workers).ask(tuple[tuple[Task, ...], tuple[Site, ...]], said))


def read_files(names: Sequence[str], prompts: DrawnOptions) -> tuple[Task | str, ...]:
    """The tasks that are files, which are read here: a worker may be on another machine."""
    return tuple(name if name in BUILT_IN else prompts.make(name, None) for name in names)


def make_all(made: Sequence[Task | str], prompts: DrawnOptions, model: Any) -> tuple[Task, ...]:
    """All tasks, of names for a model."""
    return tuple(each if isinstance(each, Task) else prompts.make(each, model) for each in made)


def _said(
    made: tuple[Task | str, ...], prompts: DrawnOptions, grid: Grid, model: Any
) -> tuple[tuple[Task, ...], tuple[Site, ...]]:
    return make_all(made, prompts, model), tuple(grid.sites(model))
