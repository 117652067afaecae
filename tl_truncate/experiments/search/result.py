"""The result of a search: what was chosen on one split, and what it is worth on the other."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import SCORED, Metric, first
from tl_truncate.experiments.scoring.side_effects import SideEffects
from tl_truncate.experiments.search.file import read_search
from tl_truncate.experiments.search.judge import Combine, Objective
from tl_truncate.experiments.search.view import TEST, VALIDATION, ShownSearch, search_html
from tl_truncate.statistics import Estimate
from tl_truncate.surgery.cut import Cuts


@dataclass(frozen=True, repr=False)
class SearchResult:
    """A composition of cuts, chosen on validation prompts and reported on untouched test prompts.

    Attributes:
        cuts: the composition; empty if nothing raised the objective on the validation prompts.
        objective: the metric that was to rise.
        combine: of several tasks, the mean or the worst change was to rise.
        validation: scores on the prompts that chose the cuts, by the task's name.
        test: scores on prompts that had no say, by the task's name, paired with the uncut model.
        controls: of the same composition with random parts in place of the chosen ones, on the test
            prompts, by kind and task.
        cost: what the cuts do to running text; None if no text was given.
        looks: one row for each look at candidates.
        settings: of the search, as plain data.
    """

    cuts: Cuts
    objective: Objective
    combine: Combine
    validation: Mapping[str, Scores]
    test: Mapping[str, Scores]
    controls: Mapping[str, Mapping[str, Scores]]
    cost: SideEffects | None
    looks: pd.DataFrame
    settings: Mapping[str, Any]

    def change(self, task: str | None = None) -> Estimate:
        """The paired change of the objective on the test prompts; zero if nothing was chosen.

        Args:
            task: its name; may be left away if there is one task.

        Raises:
            ValueError: if there is no such task.
        """
        return paired(self.test[self._name(task)], self.objective)

    def optimism(self, task: str | None = None) -> float:
        """Validation change minus test change: how much of the gain came from choosing.

        Raises:
            ValueError: if there is no such task.
        """
        name = self._name(task)
        return float(paired(self.validation[name], self.objective)) - float(self.change(name))

    @property
    def survives(self) -> bool:
        """Whether the change's interval is above zero on the test prompts of every task."""
        return bool(self.cuts) and all(self.change(name).low > 0 for name in self.test)

    def _name(self, task: str | None) -> str:
        if task is None and len(self.test) == 1:
            return next(iter(self.test))
        if task is None or task not in self.test:
            raise ValueError(f"The task must be one of {', '.join(self.test)}, got {task!r}.")
        return task

    def summary(self) -> pd.DataFrame:
        """One row per task: uncut and cut value, change with its interval, optimism, controls, and what
        became of the other metrics.
        """
        rows = []
        for name, scores in self.test.items():
            change = self.change(name)
            base = scores if scores.baseline is None else scores.baseline
            row = dict(
                task=name,
                uncut=float(base.estimate(self.objective)),
                cut=float(scores.estimate(self.objective)),
                change=float(change),
                low=change.low,
                high=change.high,
                optimism=self.optimism(name),
            )
            for kind, by_task in self.controls.items():
                row[kind] = float(paired(by_task[name], self.objective))
            for metric in first(self.objective)[1:]:
                row[f"{metric}_change"] = float(paired(scores, metric))
            rows.append(row)
        return pd.DataFrame(rows).set_index("task")

    def columns(self, task: str) -> dict[str, Scores]:
        """The scores of the chosen cuts on both splits, and of their controls on the test prompts."""
        controls = {f"{kind}, {TEST}": by_task[task] for kind, by_task in self.controls.items()}
        return {VALIDATION: self.validation[task], TEST: self.test[task], **controls}

    @property
    def changes(self) -> pd.DataFrame:
        """One row per (task, column, metric): the paired change, its interval, and the prompts.

        The columns are those of `columns`.
        """
        rows = []
        for task in self.test:
            for column, scores in self.columns(task).items():
                for metric in SCORED:
                    value = paired(scores, metric)
                    row = dict(task=task, column=column, metric=metric, change=float(value))
                    rows.append(row | dict(low=value.low, high=value.high, n=value.n))
        return pd.DataFrame(rows)

    @property
    def shown(self) -> ShownSearch:
        """The result as plain data, for pages."""
        return ShownSearch(
            cuts=tuple(map(repr, self.cuts)),
            objective=self.objective,
            changes=self.changes,
            optimism={task: self.optimism(task) for task in self.test},
            cost=None if self.cost is None else self.cost.shown,
            looks=self.looks,
            settings=self.settings,
            record=next(iter(self.test.values())).record.to_json(),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data: cuts, summary, cost, looks, settings, and the test scores' records."""
        return {
            "cuts": [cut.to_json() for cut in self.cuts],
            "objective": self.objective,
            "combine": self.combine,
            "survives": self.survives,
            "summary": self.summary().reset_index().to_dict(orient="records"),
            "cost": None if self.cost is None else self.cost.to_json(),
            "looks": self.looks.to_dict(orient="records"),
            "settings": dict(self.settings),
            "records": {name: scores.record.to_json() for name, scores in self.test.items()},
        }

    @classmethod
    def load(cls, run_dir: str | os.PathLike[str]) -> "SearchResult":
        """Reads the folder of a finished search.

        Args:
            run_dir: that `search` wrote to.

        Raises:
            ValueError: if the folder holds no finished search.
        """
        return cls(**read_search(run_dir))

    def __str__(self) -> str:
        if not self.cuts:
            return (
                f"No cut of {self.settings['grid']} raised {self.objective} on the validation prompts "
                f"of {', '.join(self.test)} by more than rounding."
            )
        lines = [f"{len(self.cuts)} cuts, chosen for {self.objective} on validation prompts:"]
        lines += [f"  {cut!r}" for cut in self.cuts]
        for name in self.test:
            change = self.change(name)
            verdict = "survives" if change.low > 0 else "does not survive"
            lines.append(
                f"{name}: {change} on {change.n} test prompts ({verdict}); optimism "
                f"{self.optimism(name):+.3f}"
            )
            others = [f"{m} {paired(self.test[name], m)}" for m in first(self.objective)[1:]]
            lines.append(f"  with it: {', '.join(others)}")
            for kind, by_task in self.controls.items():
                lines.append(f"  {kind}: {paired(by_task[name], self.objective)}")
        if self.cost is not None:
            lines.append(str(self.cost))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return search_html(self.shown)

    def __repr__(self) -> str:
        return str(self)


def paired(scores: Scores, metric: Metric) -> Estimate:
    """The paired change, which is zero where nothing was cut."""
    if scores.baseline is None:
        return Estimate(0.0, low=0.0, high=0.0, se=0.0, n=len(scores.frame))
    return scores.change(metric)
