"""The result of a search: what was chosen on one split, and what it is worth on the other."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from tl_truncate.drawing import Drawn
from tl_truncate.experiments.scoring.drawn import VERDICTS, DrawnScores, towards
from tl_truncate.experiments.scoring.drawn import verdict as drawn_verdict
from tl_truncate.experiments.scoring.estimates import estimate_changes
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import SCORED, Metric, first, metrics_of
from tl_truncate.experiments.scoring.side_effects import SideEffects
from tl_truncate.experiments.search.bound import Bound
from tl_truncate.experiments.search.file import read_search
from tl_truncate.experiments.search.judge import Combine, Objective
from tl_truncate.experiments.search.view import (
    FAILS,
    NO_VERDICT,
    NULL,
    SURVIVES,
    TEST,
    VALIDATION,
    ShownSearch,
    cost_told,
    none_raised,
    optimism_told,
    search_html,
)
from tl_truncate.markup import interval
from tl_truncate.runs.files import rows_of
from tl_truncate.statistics import Estimate, clear, estimate_over_splits, q_values
from tl_truncate.surgery.cut import Cuts
from tl_truncate.surgery.spoken import said_cut, said_kind


@dataclass(frozen=True, repr=False)
class SearchResult(Drawn):
    """A composition of cuts, chosen on validation prompts and reported on untouched test prompts.

    Attributes:
        cuts: the composition; empty if nothing raised the objective on the validation prompts.
        objective: the metric that was to rise.
        combine: of several tasks, the mean or the worst change was to rise.
        validation: scores on the prompts that chose the cuts, by the task's name.
        test: scores on prompts that had no say, by the task's name, paired with the uncut model.
        controls: of the same composition with random parts in place of the chosen ones, on the test
            prompts, by kind and task: several draws of each.
        cost: what the cuts do to running text; None if no text was given.
        looks: one row for each look at candidates.
        settings: of the search, as plain data.
        repeats: of the same search on further splits, by task: the change on the prompts that chose, and
            on the others.
        null: the same search among random subspaces of the same sites and ranks; None if it was not
            asked.
        bound: on the cost, and what became of it; None if there was none.
    """

    cuts: Cuts
    objective: Objective
    combine: Combine
    validation: Mapping[str, Scores]
    test: Mapping[str, Scores]
    controls: Mapping[str, Mapping[str, DrawnScores]]
    cost: SideEffects | None
    looks: pd.DataFrame
    settings: Mapping[str, Any]
    repeats: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    null: "SearchResult | None" = None
    bound: Bound | None = None

    @property
    def has_global(self) -> bool:
        """Whether the prompts of all tasks have global answers."""
        return all(scores.has_global for scores in self.test.values())

    def change(self, task: str | None = None) -> Estimate:
        """The paired change of the objective on the test prompts; zero if nothing was chosen.

        Args:
            task: its name; may be left away if there is one task.

        Raises:
            ValueError: if there is no such task.
        """
        return paired(self.test[self._name(task)], self.objective)

    def optimism(self, task: str | None = None) -> Estimate:
        """Validation change minus test change, the mean over all splits: how much of a gain comes from
        choosing. Its interval is over splits; fewer than five have none.

        Raises:
            ValueError: if there is no such task.
        """
        name = self._name(task)
        own = float(paired(self.validation[name], self.objective)) - float(self.change(name))
        others = [validation - test for validation, test in self.repeats.get(name, ())]
        fraction = self.settings.get("test_fraction", 0.5)
        return estimate_over_splits([own, *others], test_fraction=fraction)

    def verdict(self, task: str | None = None) -> str:
        """`survives` if the change on the test prompts is clear of zero (q among all tasks) and above
        it, `does not survive`, or `no verdict` where there are too few test prompts.

        Raises:
            ValueError: if there is no such task.
        """
        change = self.change(task)
        q = self._q[list(self.test).index(self._name(task))]
        if np.isnan(q):
            return NO_VERDICT
        return SURVIVES if clear(q) and change > 0 else FAILS

    @property
    def cost_told(self) -> str:
        """What the cuts cost, as it stands beside every verdict: the perplexity of running text.

        Where no cost is reported, what it was on the text that decided on the bound; where there was
        none either, that it was not measured.
        """
        return cost_told(None if self.cost is None else self.cost.shown, self.bound)

    @property
    def _q(self) -> list[float]:
        return list(q_values([self.change(name).p for name in self.test]))

    @property
    def survives(self) -> bool:
        """Whether the verdict is that the gain survives on the test prompts of every task."""
        return bool(self.cuts) and all(self.verdict(name) == SURVIVES for name in self.test)

    def over_control(self, kind: str, task: str | None = None) -> Estimate:
        """The objective under the cuts less that under a random draw of a control, on the test prompts,
        with the uncertainty of prompts and of draws.

        Raises:
            ValueError: if there is no such control or task.
        """
        name = self._name(task)
        if kind not in self.controls:
            raise ValueError(f"The control must be one of {', '.join(self.controls)}, got {kind!r}.")
        return self.controls[kind][name].beaten_by(self.test[name], self.objective)

    def over_null(self, task: str | None = None) -> Estimate:
        """The objective under the cuts less that under the cut that the same search chose among random
        subspaces, paired on the test prompts.

        Raises:
            ValueError: if the search had no null, or there is no such task.
        """
        name = self._name(task)
        if self.null is None:
            raise ValueError("The search must have been asked for a null. Ask for it with null=True.")
        one, other = (each.test[name].frame[self.objective] for each in (self, self.null))
        return estimate_changes(self.objective, one - other)

    def _name(self, task: str | None) -> str:
        if task is None and len(self.test) == 1:
            return next(iter(self.test))
        if task is None or task not in self.test:
            raise ValueError(f"The task must be one of {', '.join(self.test)}, got {task!r}.")
        return task

    def summary(self) -> pd.DataFrame:
        """One row per task: uncut and cut value, change with its interval and q, optimism with its
        interval over splits, controls' means and spreads over draws, the null's change, and what became
        of the other metrics.
        """
        rows = []
        for name, scores in self.test.items():
            change, optimism = self.change(name), self.optimism(name)
            base = scores if scores.baseline is None else scores.baseline
            row = dict(
                task=name,
                uncut=float(base.estimate(self.objective)),
                cut=float(scores.estimate(self.objective)),
                change=float(change),
                low=change.low,
                high=change.high,
                q=self._q[list(self.test).index(name)],
                optimism=float(optimism),
                optimism_low=optimism.low,
                optimism_high=optimism.high,
            )
            for kind, by_task in self.controls.items():
                row[kind] = float(paired(by_task[name], self.objective))
                row[f"{kind}_spread"] = by_task[name].spread(self.objective)
            if self.null is not None:
                row["null"] = float(self.null.change(name))
            for metric in first(self.objective, metrics_of(scores, SCORED))[1:]:
                row[f"{metric}_change"] = float(paired(scores, metric))
            rows.append(row | self._cost())
        return pd.DataFrame(rows).set_index("task")

    def _cost(self) -> dict[str, float]:
        """The perplexity for a row of the summary; 1 where nothing is cut, NaN where none was read."""
        if self.cost is None:
            nothing = float("nan")
            told = dict.fromkeys(("uncut_perplexity", "perplexity"), nothing)
            return told | dict(perplexity_ratio=nothing if self.cuts else 1.0)
        uncut, cut = float(self.cost.uncut_perplexity), float(self.cost.perplexity)
        return dict(uncut_perplexity=uncut, perplexity=cut, perplexity_ratio=cut / uncut)

    def columns(self, task: str) -> dict[str, Scores | DrawnScores]:
        """The scores of the chosen cuts on both splits, and of their controls and of the null's choice
        on the test prompts.
        """
        controls = {f"{kind}, {TEST}": by_task[task] for kind, by_task in self.controls.items()}
        null = {} if self.null is None else {f"{NULL}, {TEST}": self.null.test[task]}
        return {VALIDATION: self.validation[task], TEST: self.test[task], **controls, **null}

    @property
    def changes(self) -> pd.DataFrame:
        """One row per (task, column, metric): the paired change, its interval, the prompts, the draws,
        and q, among the tasks.

        The columns are those of `columns`.
        """
        rows = []
        for task in self.test:
            for column, scores in self.columns(task).items():
                for metric in metrics_of(scores, SCORED):
                    value = paired(scores, metric)
                    row = dict(task=task, column=column, metric=metric, change=float(value))
                    draws = len(scores.draws) if isinstance(scores, DrawnScores) else 1
                    row |= dict(low=value.low, high=value.high, n=value.n, draws=draws, q=value.p)
                    rows.append(row)
        table = pd.DataFrame(rows)
        table["q"] = table.groupby(["column", "metric"])["q"].transform(q_values)
        return table

    @property
    def shown(self) -> ShownSearch:
        """The result as plain data, for pages."""
        return ShownSearch(
            cuts=tuple(map(said_cut, self.cuts)),
            objective=self.objective,
            changes=self.changes,
            optimism={task: self.optimism(task) for task in self.test},
            verdicts={task: self.verdict(task) for task in self.test},
            beside={task: self._beside(task) for task in self.test},
            cost=None if self.cost is None else self.cost.shown,
            looks=self.looks,
            settings=self.settings,
            record=next(iter(self.test.values())).record.to_json(),
            bound=self.bound,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data: cuts, summary, cost, looks, settings, and the test scores' records."""
        return {
            "cuts": [cut.to_json() for cut in self.cuts],
            "objective": self.objective,
            "combine": self.combine,
            "survives": self.survives,
            "summary": rows_of(self.summary().reset_index()),
            "repeats": {task: list(map(list, pairs)) for task, pairs in self.repeats.items()},
            "cost": None if self.cost is None else self.cost.to_json(),
            "bound": None if self.bound is None else asdict(self.bound),
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
        return _result(read_search(run_dir))

    def __str__(self) -> str:
        if not self.cuts:
            return f"{none_raised(self.shown, self.objective)}."
        many = f"{len(self.cuts)} cut{'' if len(self.cuts) == 1 else 's'}"
        lines = [f"{many}, chosen for {self.objective} on validation prompts:"]
        lines += [f"  {cut!r}" for cut in self.cuts]
        for name in self.test:
            change = self.change(name)
            lines.append(
                f"{name}: {change} on {change.n} test prompts ({self.verdict(name)}; "
                f"{self.cost_told}); optimism {optimism_told(self.optimism(name))}"
            )
            further = first(self.objective, metrics_of(self.test[name], SCORED))[1:]
            others = [f"{m} {paired(self.test[name], m)}" for m in further]
            lines.append(f"  with it: {', '.join(others)}")
            lines += [f"  {told}" for told in self._beside(name)]
        lines += [str(told) for told in (self.bound, self.cost) if told is not None]
        return "\n".join(lines)

    def _beside(self, task: str) -> list[str]:
        """What the controls and the null do on the test prompts, and whether the cuts do more."""
        told = []
        for kind, by_task in self.controls.items():
            drawn, found = by_task[task], self.over_control(kind, task)
            spread = "" if len(drawn.draws) == 1 else f", spread {drawn.spread(self.objective):.3f}"
            draws = f"{len(drawn.draws)} draw{'' if len(drawn.draws) == 1 else 's'}{spread}"
            change = interval(paired(drawn, self.objective), signed=True)
            further = towards(drawn_verdict(found, found.p), self.change(task))
            told.append(f"{said_kind(kind)}: {change} ({draws}): {VERDICTS[further]}")
        if self.null is not None:
            names = " and ".join(map(said_cut, self.null.cuts)) or "nothing"
            told.append(
                f"the same search among random subspaces chose {names}: "
                f"{interval(self.null.change(task), signed=True)}; the difference of the cuts to it: "
                f"{interval(self.over_null(task), signed=True)}"
            )
        return told

    def _repr_html_(self) -> str:
        return search_html(self.shown)

    def __repr__(self) -> str:
        return str(self)


def _result(fields: Mapping[str, Any]) -> SearchResult:
    null = fields["null"]
    return SearchResult(**{**fields, "null": None if null is None else _result(null)})


def paired(scores: Scores | DrawnScores, metric: Metric) -> Estimate:
    """The paired change, which is zero where nothing was cut."""
    if scores.baseline is None:
        return Estimate(0.0, low=0.0, high=0.0, se=0.0, n=len(scores.frame), p=1.0)
    return scores.change(metric)
