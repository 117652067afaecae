"""Several sweeps of one task on one model, as one: what was asked of it beside different other tasks."""

from collections.abc import Sequence
from dataclasses import replace

from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.result import SweepResult


def of_one_task(sweeps: Sequence[SweepResult], name: str) -> SweepResult:
    """All settings of some sweeps, of one task that each of them has; a setting of several counts once.

    Args:
        sweeps: of the same model and prompts, with the same options; the first one's baseline is kept.
        name: of the task.

    Raises:
        ValueError: if a sweep does not have the task, or has other prompts under its name.
    """
    found = [_alone(each, name) for each in sweeps]
    if len({each.tasks[0].hash for each in found}) > 1:
        raise ValueError(f"The sweeps must be of the same prompts, but those of {name!r} differ.")
    grid = {setting_key(cut): cut for each in found for cut in each.grid}
    done = {setting_key(setting.cut): setting for each in reversed(found) for setting in each.settings}
    metrics = dict.fromkeys(metric for each in found for metric in each.metrics)
    return replace(
        found[0],
        grid=tuple(grid.values()),
        settings=tuple(done[key] for key in grid if key in done),
        metrics=tuple(metrics),
    )


def _alone(sweep: SweepResult, name: str) -> SweepResult:
    places = [place for place, task in enumerate(sweep.tasks) if task.name == name]
    if len(places) != 1:
        known = ", ".join(task.name for task in sweep.tasks)
        raise ValueError(f"The task must be one of the sweep's, {known}, got {name!r}.")
    place = places[0]
    return replace(
        sweep,
        tasks=(sweep.tasks[place],),
        baselines={name: sweep.baselines[name]},
        settings=tuple(
            replace(setting, outcomes=(setting.outcomes[place],)) for setting in sweep.settings
        ),
    )
