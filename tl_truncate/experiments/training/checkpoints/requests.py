"""What is left to be said about each checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.training.checkpoints.checkpoint import Passes, Request, Work
from tl_truncate.experiments.training.grid import Grid
from tl_truncate.experiments.training.kept import of_cut, of_grid, said_in, things
from tl_truncate.experiments.training.parts_over_training import Parts
from tl_truncate.experiments.training.reading import PARTS, UNCUT, Reading, said_of
from tl_truncate.runs.codec import read
from tl_truncate.runs.folder import SWEEPS
from tl_truncate.runs.record import Record
from tl_truncate.surgery.cut import Cuts
from tl_truncate.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is asked of every checkpoint.

    Attributes:
        tasks: with different names.
        cuts: by name.
        parts: to divide MLP outputs into, or None.
        grid: to sweep, or None.
        passes: how prompts are run.
        run_dir: of the whole run, or None.
    """

    tasks: tuple[Task, ...]
    cuts: Mapping[str, Cuts]
    parts: Parts | None
    grid: Grid | None
    passes: Passes
    run_dir: Path | None

    @property
    def things(self) -> tuple[str, ...]:
        """Names of what is to be said."""
        return things(self.cuts, self.parts is not None, [] if self.grid is None else [self.grid.key])


def requests(steps: Sequence[int], wanted: Wanted, lines: Sequence[Mapping[str, Any]]) -> list[Request]:
    """What is left to be said about each step, in order; nothing of a step that is finished.

    Args:
        steps: that are asked for.
        wanted: of each.
        lines: of the run folder, which say what is there.
    """
    sweeps = None if wanted.run_dir is None else wanted.run_dir / SWEEPS
    found = []
    for step in steps:
        here = [said_of(line) for line in lines if line["step"] == step]
        works = tuple(_works(wanted, here))
        found += [Request(step, works, wanted.passes, sweeps, _before(here))] if works else []
    return found


def _before(lines: Sequence[Mapping[str, Any]]) -> Record | None:
    """Of what model the first line about a step is."""
    readings = [said["readings"] for line in lines for said in line.values()]
    return read(dict[str, Reading], readings[0])[UNCUT].record if readings else None


def _works(wanted: Wanted, lines: Sequence[Mapping[str, Any]]) -> Iterator[Work]:
    """What is left of one step, with the tasks that lack the same together."""
    lacking: dict[tuple[str, ...], list[Task]] = {}
    before: dict[str, Scores] = {}
    for task in wanted.tasks:
        said = [line[task.name] for line in lines if task.name in line]
        if said:
            uncut = read(dict[str, Reading], said[0]["readings"])[UNCUT]
            before[task.name] = uncut.scores(task, None, resamples=1)
        there = {name for each in said for name in said_in(each)}
        missing = tuple(name for name in wanted.things if name not in there)
        if missing:
            lacking.setdefault(missing, []).append(task)
    for missing, tasks in lacking.items():
        grid = wanted.grid
        yield Work(
            tuple(tasks),
            {name: each for name, each in wanted.cuts.items() if of_cut(name) in missing},
            wanted.parts if PARTS in missing else None,
            grid if grid is not None and of_grid(grid.key) in missing else None,
            {task.name: before[task.name] for task in tasks if task.name in before},
        )
