"""What a search optimises: the change of a metric on validation prompts, over one or several tasks."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from tl_truncate.experiments.scoring.evaluate import Scores, evaluate
from tl_truncate.experiments.search.bound import Limit
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.places import Place
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.tasks.task import Task
from tl_truncate.weights.holding.placement import model_dtype

Objective = Literal["p_in_context", "logit_diff", "accuracy"]
Combine = Literal["mean", "worst"]
# By how much the same scores from passes of other shapes differ at most, in nats.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5}
_ROUNDING_HALF = 1e-3


@dataclass(frozen=True)
class Split:
    """One task in two: prompts to choose on, and prompts to report on."""

    validation: Task
    test: Task


def split_tasks(
    tasks: Sequence[Task], *, test_fraction: float, seed: int, again: int = 0
) -> list[Split]:
    """`split_task` of each; a prompt that several tasks have is on the same side in all of them.

    Raises:
        ValueError: as for `split_task`, or if a task's demonstration is a prompt of another.
    """
    _check_none_is_shown(tasks)
    sides: dict[Any, bool] = {}
    found = []
    for task in tasks:
        options: dict[str, Any] = dict(test_fraction=test_fraction, seed=seed, again=again)
        split = split_task(task, **options, sides=sides)
        for part, is_test in ((split.test, True), (split.validation, False)):
            sides |= dict.fromkeys(part.without_demonstrations().prompts, is_test)
        found.append(split)
    return found


def split_task(
    task: Task,
    *,
    test_fraction: float,
    seed: int,
    again: int = 0,
    sides: Mapping[Any, bool] = MappingProxyType({}),
    uses: str = "choose on and two to report on",
) -> Split:
    """Shuffles the prompts by a seed and divides them; prompts that are equal stay together.

    Args:
        task: to divide.
        test_fraction: share of the prompts to report on.
        seed: of the shuffling.
        again: 0, or the number of a further split.
        sides: prompts that are on the test side already, or are not.
        uses: what the two sides are for, for the error.

    Raises:
        ValueError: if either part would have fewer than two prompts.
    """
    count = round(len(task) * test_fraction)
    order = list(range(len(task)))
    # By what is tested, so that a task is divided alike with any number of demonstrations.
    plain = task.without_demonstrations()
    random.Random(f"split {seed} {plain.hash}" + (f" {again}" if again else "")).shuffle(order)
    equal: dict[Any, list[int]] = {}
    for place in order:
        equal.setdefault(plain.prompts[place], []).append(place)
    test: list[int] = []
    validation: list[int] = []
    for prompt, places in equal.items():
        tests = sides.get(prompt, len(test) + len(places) <= count)
        (test if tests else validation).extend(places)
    if min(len(test), len(validation)) < 2:
        raise ValueError(
            f"A search must have at least two prompts to {uses}, got "
            f"{len(equal)} different ones of {len(task)} in {task.name!r} with "
            f"test_fraction={test_fraction}. Use more prompts."
        )
    return Split(task.subset(validation), task.subset(test))


def _check_none_is_shown(tasks: Sequence[Task]) -> None:
    """That no task shows, with its answer, what another one asks."""
    asked = {prompt: task.name for task in tasks for prompt in task.without_demonstrations().prompts}
    for task in tasks:
        for prompt in () if task.demonstrations is None else task.demonstrations.prompts:
            if prompt in asked:
                raise ValueError(
                    f"A demonstration must not be a prompt that is tested, but {task.name!r} shows what "
                    f"{asked[prompt]!r} asks: {prompt!r}. Give all with_demonstrations, also k=0, with "
                    "the same seed and reserve."
                )


@dataclass(frozen=True)
class Candidate:
    """A composition and what it gains on validation prompts, by task and combined."""

    cuts: Cuts
    changes: tuple[float, ...]
    value: float


@dataclass(frozen=True)
class Pick:
    """What a look comes to.

    Attributes:
        best: the candidate, or None if none raises the objective within the bound.
        refused: candidates that raised it more, and were over the bound.
    """

    best: Candidate | None
    refused: int = 0


@dataclass
class Judge:
    """Scores candidates on the first prompts of the validation split.

    Attributes:
        at: where the model is that is cut.
        tasks: the validation split of each task.
        objective: the metric that should rise.
        combine: of several tasks, the mean change or the worst.
        run_dir: each look is a run folder in it, so that an interrupted search goes on.
        options: of each look.
        limit: the bound on what a choice may cost, if there is one.
        looks: what has been looked at, one row each.
        refused: what each composition gained that was over the bound, on all validation prompts.
    """

    at: Place
    tasks: Sequence[Task]
    objective: Objective
    combine: Combine
    run_dir: Path | None
    options: SweepOptions
    limit: Limit | None = None
    refused: list[float] = field(default_factory=list)
    looks: list[dict[str, Any]] = field(default_factory=list)
    _uncut: dict[int, tuple[float, ...]] = field(default_factory=dict)

    @property
    def prompts(self) -> int:
        """How many validation prompts the largest task has."""
        return max(map(len, self.tasks))

    def look(
        self, around: Cuts, additions: Sequence[SiteCut], prompts: int, label: str
    ) -> list[Candidate]:
        """Adds each cut to those already chosen, exactly, on the first `prompts` of each task.

        Returns:
            The candidates, best first.
        """
        some = [task.subset(range(min(prompts, len(task)))) for task in self.tasks]
        name = f"{len(self.looks):02d}-{label.replace(' ', '-')}{_of(around)}"
        folder = None if self.run_dir is None else self.run_dir / name
        options = replace(self.options, metrics=(self.objective,), run_dir=folder, label=label)
        result = self.at.sweep(some, additions, options, around)
        if prompts not in self._uncut:
            self._uncut[prompts] = self._base(some) if around else self._means(result)
        uncut = self._uncut[prompts]
        found = []
        for setting in result.settings:
            means = [float(each.metrics()[self.objective].mean()) for each in setting.outcomes]
            changes = tuple(mean - base for mean, base in zip(means, uncut, strict=True))
            found.append(Candidate(Cuts(around, setting.cut), changes, self.value(changes)))
        found.sort(key=lambda candidate: -candidate.value)
        best = found[0]
        self.looks.append(
            dict(
                label=label,
                prompts=min(prompts, self.prompts),
                candidates=len(additions),
                best=repr(best.cuts[-1]),
                validation_change=best.value,
            )
        )
        return found

    def pick(self, ranked: Sequence[Candidate], best: Candidate | None) -> Pick:
        """The first of some candidates, best first, that is better than the best so far and within the
        bound.
        """
        refused = 0
        for candidate in ranked:
            if not self.improves(candidate, best):
                break
            if self.limit is None or self.limit.allows(candidate.cuts):
                return Pick(candidate, refused)
            refused += 1
            self.refused.append(candidate.value)
        return Pick(None, refused)

    def improves(self, found: Candidate, best: Candidate | None) -> bool:
        """Whether a candidate is better than the best so far, or than no cut, by more than rounding.

        A cut that changes nothing shares its pass with others, and so differs in the last bits: by so
        many nats, of which a probability takes its own size, and a share of prompts nothing.
        """
        uncut = self._uncut[max(self._uncut)]  # on the most prompts that were looked at
        asked: dict[str, Any] = dict(objective=self.objective, uncut=max(uncut))
        rounding = self.at.ask(float, partial(rounding_of, **asked))
        return found.value > (0.0 if best is None else best.value) + rounding

    def value(self, changes: Sequence[float]) -> float:
        """One number for the changes of all tasks."""
        return min(changes) if self.combine == "worst" else sum(changes) / len(changes)

    def _means(self, result: Any) -> tuple[float, ...]:
        return tuple(float(scores.frame[self.objective].mean()) for scores in result.baselines.values())

    def _base(self, tasks: Sequence[Task]) -> tuple[float, ...]:
        """The uncut model's means on prompts that it has not been asked yet."""
        bos = self.options.prepend_bos
        asked: dict[str, Any] = dict(prepend_bos=bos, progress=False)
        scores = [self.at.ask(Scores, partial(evaluate, task=task, **asked)) for task in tasks]
        return tuple(float(each.frame[self.objective].mean()) for each in scores)


def rounding_of(model: Any, objective: Objective, uncut: float) -> float:
    """By how much a metric differs at most between passes of other shapes.

    Args:
        model: in whose precision it is computed.
        objective: the metric.
        uncut: its mean without a cut, of whose size a probability's rounding is.
    """
    nats = _ROUNDING.get(model_dtype(model), _ROUNDING_HALF)
    return nats * {"logit_diff": 1.0, "accuracy": 0.0, "p_in_context": uncut}[objective]


def _of(around: Cuts) -> str:
    """Tells looks around other cuts apart, which a folder that is gone on with may have."""
    if not around:
        return ""
    text = json.dumps([cut.to_json() for cut in around], sort_keys=True)
    return "-" + hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
