"""The history of one task or several over training."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from tl_truncate.checks import positive
from tl_truncate.drawing import Drawn
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import PROBABILITIES, Metric
from tl_truncate.experiments.screening.part_attribution import PartAttribution
from tl_truncate.experiments.sweep.of_one_task import of_one_task
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.experiments.training.history import History, swept_table
from tl_truncate.experiments.training.kept import DYNAMICS
from tl_truncate.experiments.training.reading import (
    UNCUT,
    Reading,
    said_of,
)
from tl_truncate.experiments.training.steps import FirstStep, steps_told
from tl_truncate.experiments.training.told import dynamics_fields
from tl_truncate.runs.folder import SWEEPS
from tl_truncate.runs.sharded.joining import UnfinishedShardsWarning, join, lacking_told
from tl_truncate.runs.sharded.parts import shard_of
from tl_truncate.runs.tables import own_table
from tl_truncate.statistics import shown_in
from tl_truncate.tasks.task import Task
from tl_truncate.weights.files import as_path

_TOLD = (*PROBABILITIES, "accuracy")


class MissingStepsWarning(UserWarning):
    """An answer about all of training that some of the checkpoints which were asked for are not in."""


@dataclass(frozen=True, repr=False)
class Dynamics(Drawn):
    """One task or several over training.

    Attributes:
        histories: of each task, by its name.
        asked: the checkpoints that were asked for; those that are not in `readings` are not finished.
        manifest: what the result came from, as plain data.
        failed: the steps whose model could not be read, each with the reason.
        run_dir: the folder that sweeps are read from; None if nothing is kept.
    """

    histories: Mapping[str, History]
    asked: tuple[int, ...]
    manifest: Mapping[str, Any]
    failed: Mapping[int, str] = field(default_factory=dict)
    run_dir: str | os.PathLike[str] | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those that were asked, in order."""
        return tuple(history.task for history in self.histories.values())

    @property
    def task(self) -> Task:
        """The only task.

        Raises:
            ValueError: if there are several.
        """
        return self._of(None).task

    @property
    def has_global(self) -> bool:
        """Whether all tasks have global answers."""
        return all(task.has_global for task in self.tasks)

    @property
    def readings(self) -> Mapping[int, Mapping[str, Reading]]:
        """Of the only task: by step, and by `uncut` or the name of the cuts.

        Raises:
            ValueError: if there are several tasks.
        """
        return self._of(None).readings

    @property
    def parts(self) -> Mapping[int, PartAttribution]:
        """Of the only task: by step, what parts of MLP outputs add to the answers, if that was asked.

        Raises:
            ValueError: if there are several tasks.
        """
        return self._of(None).parts

    def of(self, task: str) -> "Dynamics":
        """The same history with one of its tasks alone.

        Raises:
            ValueError: if there is no such task.
        """
        return replace(self, histories={task: self._of(task)})

    def _of(self, task: str | None) -> History:
        if task is None and len(self.histories) == 1:
            return next(iter(self.histories.values()))
        if task is None:
            raise ValueError(
                f"The task must be named where there are several, {', '.join(self.histories)}: give "
                "task=..., or take .of(name)."
            )
        if task not in self.histories:
            raise ValueError(f"The task must be one of {', '.join(self.histories)}, got {task!r}.")
        return self.histories[task]

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The steps that there is something of, in order."""
        return tuple(sorted(set[int]().union(*(each.readings for each in self.histories.values()))))

    @property
    def missing(self) -> tuple[int, ...]:
        """The steps that were asked for and lack something: not finished yet, or failed."""
        lacking = set[int]().union(*(each.missing for each in self.histories.values()))
        return tuple(sorted(lacking))

    @property
    def names(self) -> tuple[str, ...]:
        """`uncut` and the names of the cuts; of a control's draws that of the first."""
        return tuple(next(iter(self.histories.values())).draws)

    @property
    def finished(self) -> bool:
        """Whether every checkpoint has been scored."""
        return not self.missing

    def names_at(self, step: int, *, task: str | None = None) -> list[str]:
        """The names that there are scores of at a checkpoint: all, but for one that is gone on with."""
        return self._of(task).names_at(step)

    @own_table
    def frame(self) -> pd.DataFrame:
        """One row per (task, step, cut).

        Columns: task, if there are several; step, cut, and for each metric its mean, `<metric>_se`,
        `<metric>_low`, `<metric>_high`, and with the same endings `<metric>_change`, the paired change
        from the uncut model of the same step (0 for the uncut model itself), with `<metric>_change_q`,
        the false discovery rate among the changes of that metric and task at all steps, of all cuts or
        of one kind of control, and
        `<metric>_change_spread`, the standard deviation over a control's draws. A step that is missing
        has rows without numbers. Of several tasks there are the metrics that all of them have.
        """
        return self._together({name: each.table() for name, each in self.histories.items()})

    @own_table
    def parts_frame(self) -> pd.DataFrame:
        """One row per (step, layer, part, answer): logits with se, low, high, and the part's energy.

        With a column for the task if there are several.

        Raises:
            ValueError: if the parts were not asked.
        """
        if not any(each.parts for each in self.histories.values()):
            raise ValueError(
                "Dynamics must have been asked for parts to have a table of them. Call "
                "dynamics(..., parts=tlt.Parts(corpus))."
            )
        found = {name: each.parts_table() for name, each in self.histories.items() if each.parts}
        return self._together(found)

    def sweep(self, step: int, *, task: str | None = None) -> SweepResult:
        """The sweep of a checkpoint, of `dynamics(..., grid=...)`, with all that was asked for so far.

        Tasks that were swept together are in one result. Where grids were asked of this task beside
        different others, the result is of this task alone, with all of its settings.

        Args:
            step: of training.
            task: its name; may be left away if there is one.

        Raises:
            ValueError: if there is none, or no such task.
        """
        swept = self._of(task).swept
        if step not in swept or self.run_dir is None:
            raise ValueError(
                f"The step must be one whose grid was swept, {', '.join(map(str, swept)) or 'none'}, "
                f"got {step!r}. Call dynamics(..., grid=tlt.Grid(...), run_dir=...)."
            )
        folder = as_path(self.run_dir) / SWEEPS
        found = [SweepResult.load(folder / place) for place in swept[step]]
        return found[0] if len(found) == 1 else of_one_task(found, self._of(task).task.name)

    @own_table
    def sweep_frame(self) -> pd.DataFrame:
        """One row per (task, step, setting), with the columns of `SweepResult.frame` behind the step.

        A step that is missing has rows without numbers. False discovery rates are those within a step.

        Raises:
            ValueError: if no grid was swept.
        """
        tables = [
            swept_table(history, partial(self.sweep, task=name))
            for name, history in self.histories.items()
            if history.swept
        ]
        if not tables:
            raise ValueError(
                "Dynamics must have been asked for a grid to have a table of it. Call "
                "dynamics(..., grid=tlt.Grid(...), run_dir=...)."
            )
        return pd.concat(tables, join="inner", ignore_index=True)

    def _together(self, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        if len(self.histories) == 1:
            return next(iter(tables.values()))
        named = []
        for name, table in tables.items():
            table.insert(0, "task", name)
            named.append(table)
        return pd.concat(named, join="inner", ignore_index=True)  # what all tasks have

    def scores(self, step: int, name: str = UNCUT, *, task: str | None = None) -> Scores:
        """The scores at a checkpoint, prompt by prompt; of a cut paired with the uncut model, and of a
        control those of its first draw, or of the one whose name is given.

        Args:
            step: of training.
            name: `uncut`, or that of a cut.
            task: its name; may be left away if there is one.

        Raises:
            ValueError: if there is no such checkpoint, name or task.
        """
        history = self._of(task)
        known = (UNCUT, *history.cuts)
        if name not in known or name not in history.readings.get(step, {}):
            why = f" Step {step} failed: {self.failed[step]}" if step in self.failed else ""
            raise ValueError(
                f"The step must be one of {', '.join(map(str, sorted(history.readings)))} and the name "
                f"one of {', '.join(known)}, got {step!r} and {name!r}.{why}"
            )
        return history.scores(step, name)

    def first_step(
        self,
        metric: Metric,
        above: float,
        *,
        name: str = UNCUT,
        lasting: int = 2,
        task: str | None = None,
    ) -> FirstStep | None:
        """The first checkpoint from which on a metric's mean is above a value; None if there is none.

        Args:
            metric: whose mean.
            above: this value.
            name: `uncut`, or that of a cut.
            lasting: at so many checkpoints in a row, that one being the first, or at all that are left
                if there are fewer.
            task: its name; may be left away if there is one.

        Returns:
            The step, an int, with an interval over prompts: `.low`, from which on the mean may be above
            the value, and `.high`, from which on it is for sure. `.missing` are the steps about which
            nothing is known; if there is no such step without them, a `MissingStepsWarning` says so.

        Raises:
            ValueError: if there is no such metric, name or task, or lasting is not positive.
        """
        positive("lasting", lasting)
        history = self._of(task)
        if metric not in history.metrics or name not in self.names:
            raise ValueError(
                f"The metric must be one of {', '.join(history.metrics)} and the name one of "
                f"{', '.join(self.names)}, got {metric!r} and {name!r}."
            )
        found = history.first_step(metric, above, name, lasting)
        lacking = [step for step in self.asked if name not in history.names_at(step)]
        if found is None and lacking:
            warnings.warn(
                f"At no step is {metric} above {above}, but {steps_told(lacking)} of those that were "
                "asked for must be finished to know; nothing is known of them.",
                MissingStepsWarning,
                stacklevel=2,
            )
        return found

    @classmethod
    def load(cls, run_dir: str | os.PathLike[str]) -> "Dynamics":
        """Reads a run folder, also one that is not finished, with what its shards have finished.

        Raises:
            ValueError: if the folder holds no dynamics, or nothing has been scored yet, or its shards
                are not of one run.
            UnfinishedShardsWarning: as a warning, if a shard has something to do, with which.
        """
        joined = join(run_dir, DYNAMICS)
        if not any(map(said_of, joined.lines)):
            raise ValueError(
                f"The run folder must hold dynamics with a finished checkpoint, got none in {run_dir}."
            )
        if joined.lacking:
            warnings.warn(lacking_told(run_dir, joined), UnfinishedShardsWarning, stacklevel=2)
        return cls(**dynamics_fields(joined.manifest, joined.lines, run_dir))

    def __str__(self) -> str:
        shard = shard_of(self.manifest)
        lines = [line for name in self.histories for line in self._told(name)]
        return "\n".join(lines) if shard is None else f"shard {shard}: " + "\n".join(lines)

    def _told(self, name: str) -> list[str]:
        history = self.histories[name]
        failed = [step for step in history.missing if step in self.failed]
        left = len(history.missing) - len(failed)
        lines = [
            f"{name}: {len(history.task)} prompts at {len(history.readings)} checkpoints"
            + (f" ({left} to go: the same call with the same run_dir goes on)" if left else "")
        ]
        if failed:
            lines.append(
                f"  missing: {steps_told(failed)}, which could not be read ({self.failed[failed[0]]})"
            )
        for last in sorted(history.readings)[-1:]:
            for cut in history.names_at(last):
                row = history.row(last, cut)
                metrics = [metric for metric in _TOLD if metric in history.metrics]
                told = ", ".join(f"{metric} {shown_in(row, metric)}" for metric in metrics)
                lines.append(f"  step {last}, {cut}: {told}")
        return lines

    def __repr__(self) -> str:
        return str(self)
