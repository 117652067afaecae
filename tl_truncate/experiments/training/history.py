"""One task over training: a table with intervals, paired with each step's uncut model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from tl_truncate.experiments.scoring.drawn import are_draws, spreads, table_columns
from tl_truncate.experiments.scoring.estimates import estimate_values
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import Metric, metrics_of
from tl_truncate.experiments.screening.part_attribution import PartAttribution
from tl_truncate.experiments.sweep.result import SETTING_COLUMNS, SweepResult
from tl_truncate.experiments.training.reading import UNCUT, Reading
from tl_truncate.experiments.training.steps import FirstStep, first_lasting
from tl_truncate.statistics import q_values
from tl_truncate.statistics.columns import ENDINGS
from tl_truncate.surgery.controls import is_control
from tl_truncate.surgery.counterparts import control_kind
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.tasks.task import Task

#: What `History.kinds` calls cuts that are no control.
CUT = "cut"
_ENDINGS = (*ENDINGS, *(f"_change{end}" for end in (*ENDINGS, "_q", "_spread")))


@dataclass(frozen=True)
class History:
    """What the checkpoints said to one task.

    Attributes:
        task: that was asked.
        readings: by step, and by `uncut` or the name of the cuts.
        asked: the checkpoints that were asked for; those that are not in `readings` are missing.
        cuts: their names, a control's draws one by one.
        missing: the steps that lack something of what was asked for.
        parts: by step, what the parts of MLP outputs add to the answers; empty if they were not asked.
        swept: by step, where the run folders of its sweeps lie, one for each group of tasks that had a
            grid; empty if none was asked.
        made: by their name, the cuts as plain data.
        given: the cuts themselves, of those that whoever asked still has: what they were fitted on may
            not have been saved.
    """

    task: Task
    readings: Mapping[int, Mapping[str, Reading]]
    asked: tuple[int, ...]
    cuts: tuple[str, ...]
    missing: tuple[int, ...]
    parts: Mapping[int, PartAttribution] = field(default_factory=dict)
    swept: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    made: Mapping[str, Sequence[dict[str, Any]]] = field(default_factory=dict, kw_only=True)
    given: Mapping[str, Sequence[SiteCut]] = field(default_factory=dict, kw_only=True, compare=False)
    resamples: int = field(default=2000, kw_only=True)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that there are of the task."""
        return metrics_of(self.task)

    @cached_property
    def draws(self) -> dict[str, list[str]]:
        """The readings that each name stands for: the draws of a control are one."""
        found = {UNCUT: [UNCUT]}
        for name in self.cuts:
            first, sign, number = name.rpartition(" #")
            # A name alone does not make a draw: two cuts may be called so.
            of_another = sign and number.isdigit() and first in found and self._are_draws(first, name)
            found.setdefault(first if of_another else name, []).append(name)
        return found

    def _are_draws(self, first: str, name: str) -> bool:
        return are_draws(self.made.get(first, ()), self.made.get(name, ()))

    @cached_property
    def kinds(self) -> dict[str, str]:
        """What each name is: a cut, or which kind of control."""
        return {name: self._kind(name) for name in self.draws}

    def _kind(self, name: str) -> str:
        """A control is called as the cuts call it whose it is, and one of none by its own kinds."""
        own = self._cuts[name]
        given = [control_kind(own, cuts) for cuts in self._cuts.values() if cuts]
        alone = (
            ", ".join(sorted({cut.kind for cut in own})) if own and all(map(is_control, own)) else CUT
        )
        return next((kind for kind in given if kind is not None), alone)

    @cached_property
    def _cuts(self) -> dict[str, list[SiteCut]]:
        """The cuts of each name, of a control's draws those of the first."""
        read = {name: map(SiteCut.from_json, self.made.get(name, ())) for name in self.draws}
        return {name: list(self.given.get(name, cuts)) for name, cuts in read.items()}

    def controls_of(self, name: str) -> list[str]:
        """The names of the controls that some cuts have beside them."""
        return [each for each, own in self._cuts.items() if control_kind(own, self._cuts[name])]

    def names_at(self, step: int) -> list[str]:
        """The names that there are scores of at a checkpoint."""
        here = self.readings.get(step, {}).keys()
        return [name for name, draws in self.draws.items() if here >= set(draws)]

    def table(self) -> pd.DataFrame:
        """One row per (step, cut); `Dynamics.frame` says what is in it."""
        steps = sorted({*self.asked, *self.readings})
        rows = [self.row(step, name) for step in steps for name in self.draws]
        numbers = [f"{metric}{end}" for metric in self.metrics for end in _ENDINGS]
        table = pd.DataFrame(rows, columns=["step", "cut", "draws", *numbers])
        kinds = table["cut"].map(self.kinds)
        for metric in self.metrics:
            column = f"{metric}_change_q"
            table[column] = table.groupby(kinds)[column].transform(q_values)
        return table

    def row(self, step: int, name: str) -> dict[str, Any]:
        """A row of the table, whose numbers are left out where the step is missing."""
        draws = self.draws[name]
        row: dict[str, Any] = dict(step=step, cut=name, draws=len(draws))
        if name not in self.names_at(step):
            return row
        here, base = self.readings[step], self.readings[step][UNCUT]
        together = [list(range(len(draws)))]
        for metric in self.metrics:
            values = np.array([here[draw].values[metric] for draw in draws]).T
            changes = values - np.array(base.values[metric])[:, None]
            columns = table_columns(metric, values, together).named(metric)
            found = table_columns(metric, changes, together, changes=True)
            columns |= found.named(f"{metric}_change")
            columns[f"{metric}_change_q"] = np.full(1, np.nan) if name == UNCUT else found.p
            columns[f"{metric}_change_spread"] = spreads(changes, together)
            row |= {title: float(each[0]) for title, each in columns.items()}
        return row

    def parts_table(self) -> pd.DataFrame:
        """One row per (step, layer, part, answer), without numbers where the step is missing."""
        found = {step: each.frame for step, each in self.parts.items()}
        keys = next(iter(found.values()))[["layer", "part", "answer"]]
        steps = sorted({*self.asked, *found})
        tables = [found.get(step, keys).assign(step=step) for step in steps]
        table = pd.concat(tables, ignore_index=True)
        names = list(next(iter(found.values())))
        return table[["step", *names]]

    def scores(self, step: int, name: str) -> Scores:
        """The scores at a checkpoint, of a cut paired with the uncut model's."""
        uncut = self._scores(step, UNCUT, None)
        return uncut if name == UNCUT else self._scores(step, name, uncut)

    def _scores(self, step: int, name: str, baseline: Scores | None) -> Scores:
        return self.readings[step][name].scores(self.task, baseline, resamples=self.resamples)

    def first_step(self, metric: Metric, above: float, name: str, lasting: int) -> FirstStep | None:
        """The first step from which on a metric's mean is above a value; None if there is none."""
        steps = sorted({*self.asked, *self.readings})
        found = [
            estimate_values(metric, self.readings[step][name].values[metric])
            if name in self.names_at(step)
            else None
            for step in steps
        ]
        return first_lasting(steps, found, above, lasting)


def swept_table(history: History, sweep_of: Callable[[int], SweepResult]) -> pd.DataFrame:
    """The tables of a task's sweeps, one below the other; a missing step has rows without numbers."""
    found = {}
    for step in sorted(history.swept):
        table = sweep_of(step).frame
        found[step] = table[table["task"] == history.task.name]
    settings = next(iter(found.values()))[SETTING_COLUMNS].drop(columns="rank")
    steps = sorted({*history.asked, *found})
    tables = [found.get(step, settings).assign(step=step) for step in steps]
    table = pd.concat(tables, ignore_index=True)
    names = [name for name in next(iter(found.values())) if name != "task"]
    return table[["task", "step", *names]]
