"""A sweep that several workers share: each has the model, and the driver the run folder.

What a worker is given at a time is a unit, the cuts that share their passes in one process too, so that
every bit is that of one process.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from tl_truncate.experiments.scoring.evaluate import check_model
from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.result import Setting, SweepResult
from tl_truncate.experiments.sweep.work.engine import Engine
from tl_truncate.experiments.sweep.work.finished import Finished, finished_in
from tl_truncate.experiments.sweep.work.prepare import prepare
from tl_truncate.runs.codec import plain, read
from tl_truncate.runs.shards import share
from tl_truncate.runs.workers.pool import Pool, Shared
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.hooks import truncated
from tl_truncate.tasks.task import Task

#: Makes the grid for a model.
Grid = Callable[[Any], Sequence[SiteCut]]


@dataclass(frozen=True)
class SweepAsked:
    """A sweep as it is asked for, from which each worker prepares the same one.

    Attributes:
        grid: makes it for the model.
        tasks: that are scored.
        options: of the passes; the folder is the driver's.
        around: cuts that are at work in both sides.
    """

    grid: Grid
    tasks: Sequence[Task]
    options: SweepOptions
    around: Cuts = field(default_factory=Cuts)


class SweepPart:
    """A worker's part in a sweep.

    Args:
        asked: the sweep.
        model: the worker's own.
    """

    def __init__(self, asked: SweepAsked, model: Any) -> None:
        check_model(model)
        self._model, self._around = model, asked.around
        with truncated(model, asked.around):
            self._prepared = prepare(model, asked.tasks, asked.grid(model), asked.options)
        self._engine: Engine | None = None

    def told(self) -> dict[str, Any]:
        """The sweep's manifest and its units, as plain data."""
        place = {setting_key(cut): place for place, cut in enumerate(self._prepared.grid)}
        units = [
            dict(cost=unit.cost, cuts=[place[setting_key(cut)] for cut in unit.cuts])
            for unit in self._prepared.units
        ]
        return dict(
            manifest=dict(self._prepared.manifest),
            units=units,
            memory=str(self._prepared.plan.memory),
        )

    def do(self, task: int | None) -> dict[str, Any]:
        """The settings of a unit, or of none, and what the uncut model says, as plain data."""
        prepared = self._prepared
        cuts = () if task is None else prepared.units[task].cuts
        wanted = set(map(setting_key, cuts))
        with truncated(self._model, self._around):
            if self._engine is None:
                self._engine = Engine(self._model, prepared.tasks, prepared.plan, lowest=prepared.lowest)
            groups = self._engine.run(prepared.grid, lambda cut: setting_key(cut) not in wanted)
            settings = [
                Setting(cut, cut.kept_rank(self._model), tuple(outcomes))
                for group in groups
                for cut, outcomes in group
            ]
        return dict(settings=plain(settings), baseline=prepared.baseline(self._engine.baseline))


def sweep_on(workers: Pool, asked: SweepAsked, own: Sequence[SiteCut] = ()) -> SweepResult:
    """A sweep by workers; this process writes its folder.

    Args:
        workers: that have loaded the model.
        asked: the sweep.
        own: cuts of the grid that are there already; others are read from their JSON.
    """
    options = asked.options
    of_a_worker = replace(options, run_dir=None, shard=None, progress=False)
    job = workers.share(partial(SweepPart, replace(asked, options=of_a_worker)))
    told = workers.told(job)
    if options.progress and options.says_memory:
        tqdm.write(f"{options.label}: about {told['memory']} beside each model", file=sys.stderr)
    grid = with_own(list(map(SiteCut.from_json, told["manifest"]["grid"])), own)
    units = _of_this_shard(told["units"], options)
    cuts = [grid[place] for place in sorted(place for unit in units.values() for place in unit)]
    with finished_in(dict(told["manifest"]), asked.tasks, options, cuts) as finished:
        _finish(
            workers,
            job,
            {unit: [grid[place] for place in own] for unit, own in units.items()},
            finished,
            options,
        )
    return finished.result(cuts)


def with_own(cuts: Sequence[SiteCut], own: Sequence[SiteCut]) -> list[SiteCut]:
    """Cuts that were read, and in the place of those that are there already these themselves.

    What such a cut was fitted on need not have been saved, and cannot be read then.
    """
    there = {setting_key(cut): cut for cut in own}
    return [there.get(setting_key(cut), cut) for cut in cuts]


def _of_this_shard(units: Sequence[dict[str, Any]], options: SweepOptions) -> dict[int, list[int]]:
    """The places in the grid of each unit."""
    every = range(len(units))
    own = every if options.shard is None else share([unit["cost"] for unit in units], options.shard)
    return {unit: list(units[unit]["cuts"]) for unit in own}


def _finish(
    workers: Pool,
    job: Shared,
    units: dict[int, list[SiteCut]],
    finished: Finished,
    options: SweepOptions,
) -> None:
    """Has scored what is missing.

    In the order of one process, which is that of the cost of a cut: whoever is free goes on upwards.
    """
    left: list[int | None] = [unit for unit, cuts in units.items() if not all(map(finished.done, cuts))]
    if not left and not finished.has_baseline:
        left = [None]
    cuts = [cut for own in units.values() for cut in own]
    with tqdm(
        total=len(cuts),
        initial=sum(map(finished.done, cuts)),
        disable=not options.progress,
        desc=options.name,
    ) as bar:
        for _, value in workers.run(job, left):
            finished.add_baseline(value["baseline"])
            found = [read(Setting, each) for each in value["settings"]]
            new = [setting for setting in found if not finished.done(setting.cut)]
            finished.add(new)
            bar.update(len(new))
            bar.set_postfix_str(str(new[-1].cut.site) if new else "")
