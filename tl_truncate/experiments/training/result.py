"""The history of a task over training: a table with intervals, paired with each step's uncut model."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from tl_truncate.checks import positive
from tl_truncate.experiments.scoring.drawn import spreads, table_columns
from tl_truncate.experiments.scoring.estimates import estimate_values
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import METRICS, PROBABILITIES, Metric
from tl_truncate.experiments.screening.part_attribution import PartAttribution
from tl_truncate.experiments.training.reading import Reading
from tl_truncate.experiments.training.steps import FirstStep, first_lasting
from tl_truncate.runs.codec import read
from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.tables import own_table
from tl_truncate.statistics import q_values, shown_in
from tl_truncate.tasks.task import Task

UNCUT = "uncut"
_TOLD = (*PROBABILITIES, "accuracy")


@dataclass(frozen=True, repr=False)
class Dynamics:
    """A task over training.

    Attributes:
        task: that was asked.
        readings: by step, and by `uncut` or the name of the cuts.
        asked: the checkpoints that were asked for; those that are not in `readings` are not finished.
        manifest: what the result came from, as plain data.
        parts: by step, what the parts of MLP outputs add to the answers; empty if they were not asked.
    """

    task: Task
    readings: Mapping[int, Mapping[str, Reading]]
    asked: tuple[int, ...]
    manifest: Mapping[str, Any]
    parts: Mapping[int, PartAttribution] = field(default_factory=dict)
    resamples: int = field(default=2000, kw_only=True)

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The finished steps, in order."""
        return tuple(sorted(self.readings))

    @property
    def names(self) -> tuple[str, ...]:
        """`uncut` and the names of the cuts; of a control's draws that of the first."""
        return tuple(self._draws)

    @cached_property
    def _draws(self) -> dict[str, list[str]]:
        """The readings that each name stands for: the draws of a control are one."""
        found = {UNCUT: [UNCUT]}
        for name in self.manifest["cuts"]:
            first, sign, number = name.rpartition(" #")
            of_another = sign and number.isdigit() and first in found
            found.setdefault(first if of_another else name, []).append(name)
        return found

    @property
    def finished(self) -> bool:
        """Whether every checkpoint has been scored."""
        return self._left == 0

    @property
    def _left(self) -> int:
        """How many checkpoints lack something; a cut that was asked for later may be missing in some."""
        wanted = {UNCUT, *self.manifest["cuts"]}
        return sum(not wanted <= self.readings.get(step, {}).keys() for step in self.asked)

    def names_at(self, step: int) -> list[str]:
        """The names that there are scores of at a checkpoint: all, but for one that is gone on with."""
        here = self.readings[step].keys()
        return [name for name, draws in self._draws.items() if here >= set(draws)]

    @own_table
    def frame(self) -> pd.DataFrame:
        """One row per (step, cut).

        Columns: step, cut, and for each metric its mean, `<metric>_se`, `<metric>_low`,
        `<metric>_high`, and with the same endings `<metric>_change`, the paired change from the uncut
        model of the same step (0 for the uncut model itself), with `<metric>_change_q`, the false
        discovery rate among the changes of that metric at all steps, and `<metric>_change_spread`, the
        standard deviation over a control's draws.
        """
        rows = [self._row(step, name) for step in self.checkpoints for name in self.names_at(step)]
        table = pd.DataFrame(rows)
        for metric in METRICS:
            table[f"{metric}_change_q"] = q_values(table[f"{metric}_change_q"])
        return table

    @own_table
    def parts_frame(self) -> pd.DataFrame:
        """One row per (step, layer, part, answer): logits with se, low, high, and the part's energy.

        Raises:
            ValueError: if the parts were not asked.
        """
        if not self.parts:
            raise ValueError(
                "Dynamics must have been asked for parts to have a table of them. Call "
                "dynamics(..., parts=tlt.Parts(corpus))."
            )
        tables = [found.frame.assign(step=step) for step, found in sorted(self.parts.items())]
        table = pd.concat(tables, ignore_index=True)
        return table[["step", *(name for name in table if name != "step")]]

    def _row(self, step: int, name: str) -> dict[str, Any]:
        here, base = self.readings[step], self.readings[step][UNCUT]
        draws = self._draws[name]
        together = [list(range(len(draws)))]
        row: dict[str, Any] = dict(step=step, cut=name, draws=len(draws))
        for metric in METRICS:
            values = np.array([here[draw].values[metric] for draw in draws]).T
            changes = values - np.array(base.values[metric])[:, None]
            columns = table_columns(metric, values, together).named(metric)
            found = table_columns(metric, changes, together, changes=True)
            columns |= found.named(f"{metric}_change")
            columns[f"{metric}_change_q"] = np.full(1, np.nan) if name == UNCUT else found.p
            columns[f"{metric}_change_spread"] = spreads(changes, together)
            row |= {title: float(each[0]) for title, each in columns.items()}
        return row

    def scores(self, step: int, name: str = UNCUT) -> Scores:
        """The scores at a checkpoint, prompt by prompt; of a cut paired with the uncut model, and of a
        control those of its first draw, or of the one whose name is given.

        Raises:
            ValueError: if there is no such checkpoint or name.
        """
        known = (UNCUT, *self.manifest["cuts"])
        if name not in known or name not in self.readings.get(step, {}):
            raise ValueError(
                f"The step must be one of {', '.join(map(str, self.checkpoints))} and the name one of "
                f"{', '.join(known)}, got {step!r} and {name!r}."
            )
        uncut = self._scores(step, UNCUT, None)
        return uncut if name == UNCUT else self._scores(step, name, uncut)

    def _scores(self, step: int, name: str, baseline: Scores | None) -> Scores:
        return self.readings[step][name].scores(self.task, baseline, resamples=self.resamples)

    def first_step(
        self, metric: Metric, above: float, *, name: str = UNCUT, lasting: int = 2
    ) -> FirstStep | None:
        """The first checkpoint from which on a metric's mean is above a value; None if there is none.

        Args:
            metric: whose mean.
            above: this value.
            name: `uncut`, or that of a cut.
            lasting: at so many checkpoints in a row, that one being the first, or at all that are left
                if there are fewer.

        Returns:
            The step, an int, with an interval over prompts: `.low`, from which on the mean may be above
            the value, and `.high`, from which on it is for sure.

        Raises:
            ValueError: if there is no such metric or name, or lasting is not positive.
        """
        positive("lasting", lasting)
        if metric not in METRICS or name not in self.names:
            raise ValueError(
                f"The metric must be one of {', '.join(METRICS)} and the name one of "
                f"{', '.join(self.names)}, got {metric!r} and {name!r}."
            )
        steps = [step for step in self.checkpoints if name in self.names_at(step)]
        found = [estimate_values(metric, self.readings[step][name].values[metric]) for step in steps]
        return first_lasting(steps, found, above, lasting)

    @classmethod
    def load(cls, run_dir: str | os.PathLike[str]) -> "Dynamics":
        """Reads a run folder, also one that is not finished.

        Raises:
            ValueError: if the folder holds no dynamics, or nothing has been scored yet.
        """
        folder = RunFolder(run_dir)
        manifest, lines = folder.manifest(), folder.lines()
        if manifest.get("kind") != "dynamics" or not lines:
            raise ValueError(
                f"The run folder must hold dynamics with a finished checkpoint, got kind "
                f"{manifest.get('kind')!r} with {len(lines)} in {run_dir}."
            )
        return cls(**dynamics_fields(manifest, lines))

    def __str__(self) -> str:
        left = self._left
        lines = [
            f"{self.task.name}: {len(self.task)} prompts at {len(self.readings)} checkpoints"
            + (f" ({left} to go: the same call with the same run_dir goes on)" if left else "")
        ]
        last = self.checkpoints[-1]
        for name in self.names_at(last):
            row = self._row(last, name)
            told = ", ".join(f"{metric} {shown_in(row, metric)}" for metric in _TOLD)
            lines.append(f"  step {last}, {name}: {told}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


def dynamics_fields(manifest: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a result, from what a run folder holds, so far as the manifest asks for it.

    A step has several lines if cuts or parts were asked for later; what is there twice counts once.
    """
    names, asked = {UNCUT, *manifest["cuts"]}, set(manifest["checkpoints"])
    readings: dict[int, dict[str, Reading]] = {}
    parts: dict[int, PartAttribution] = {}
    for line in lines:
        step = line["step"]
        for name, reading in read(dict[str, Reading], line["readings"]).items():
            if step in asked and name in names:
                readings.setdefault(step, {}).setdefault(name, reading)
        if step in asked and "parts" in line and manifest.get("parts") is not None:
            parts.setdefault(step, read(PartAttribution, line["parts"]))
    return dict(
        task=read(Task, manifest["task"]),
        readings=readings,
        asked=tuple(manifest["checkpoints"]),
        manifest=manifest,
        parts=parts,
        resamples=manifest.get("resamples", 2000),
    )
