"""Searching for cuts that help, and saying on other prompts whether they do."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import pandas as pd

from tl_truncate.checks import natural, positive, real
from tl_truncate.corpora.texts import sample_texts
from tl_truncate.experiments.scoring.evaluate import evaluate
from tl_truncate.experiments.scoring.memory import factor_bytes, prompts_that_fit
from tl_truncate.experiments.scoring.side_effects import (
    SideEffects,
    encode_passages,
    passages_that_fit,
    side_effects,
)
from tl_truncate.experiments.search.file import held_for_search, write_search
from tl_truncate.experiments.search.judge import (
    Candidate,
    Combine,
    Judge,
    Objective,
    Split,
    split_task,
)
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.search.strategies import halving, laser
from tl_truncate.experiments.sweep.grid import make_grid
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.sweep import check_tasks
from tl_truncate.runs.folder import RunFolder, make_manifest
from tl_truncate.surgery.controls import controls_of
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.tasks.encode import EncodedTask, encode
from tl_truncate.tasks.task import Task
from tl_truncate.weights.content import hashed_once
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.keep.defaults import KEEPS
from tl_truncate.weights.provenance import of_model
from tl_truncate.weights.site import Site

Method = Literal["halving", "laser"]
# What a run folder may be gone on with: each setting of each look is known by itself.
_MAY_DIFFER: dict[str, Any] = dict(
    free=("model", "tasks", "greedy", "budget"), grows=("grid",), noted=("device",)
)


def search(
    model: Any,
    task: Task | Sequence[Task],
    *,
    sites: Sequence[Site | str] | None = None,
    keeps: Sequence[Keep | int | float] = KEEPS,
    cuts: Sequence[SiteCut] = (),
    objective: Objective = "logit_diff",
    combine: Combine = "mean",
    method: Method = "halving",
    greedy: int = 1,
    budget: float | None = None,
    test_fraction: float = 0.5,
    texts: Sequence[str] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    prepend_bos: bool | None = None,
    batch_size: int = 64,
    max_memory: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> SearchResult:
    """Finds a composition of cuts on validation prompts, and reports it on untouched test prompts.

    The prompts of each task are divided by the seed. Only the validation part is looked at while
    choosing; the result's change, interval and controls are of the test part, and the optimism says how
    much of the validation gain came from choosing. Prompts of one generator share words and templates
    across the split, so that the test part speaks for prompts like these.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode.
        task: one task, or several that one composition has to serve.
        sites: to choose from; W_in and W_out of every layer by default.
        keeps: to choose from, at every site.
        cuts: further cuts to choose from, of any kind, such as targeted truncations, `GlobalDirection`,
            `GlobalRemoval` and `Ablated`. Given without sites, they are all there is to choose from.
        objective: the metric that should rise.
        combine: of several tasks, the `mean` change, or that of the `worst` task.
        method: `halving` (exact on 8 prompts, then 16, then all), or `laser`, the published search.
        greedy: most cuts in the composition; they are added one at a time while the objective rises.
        budget: most work for each cut added, in settings scored on all validation prompts (`halving`).
        test_fraction: share of the prompts that is reported on.
        texts: running text for the cost of the cuts; the sample that ships with the package by default,
            none with `()`.
        run_dir: a folder in which each look is stored; given again, the search goes on, also with more
            sites, keeps or cuts to choose from. One process at a time works in it.
        prepend_bos: overrides the model's default.
        batch_size: most prompts in a batch.
        max_memory: most bytes beside the model.
        seed: of the split, a limited budget, the controls and the bootstrap.
        progress: shows bars.

    Returns:
        The result; `.cuts` is empty if nothing raised the objective.

    Raises:
        ValueError: if an argument does not fit, or the folder holds another search or run; before any
            pass.
        TypeError: if an argument is of the wrong kind.
        BlockingIOError: if another process works in the folder.

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to", "John gave a drink to"] * 2,
        ...             in_context=[" John", " Mary"] * 2, global_=" the")
        >>> found = tlt.search(model, task, sites=["blocks.1.mlp.W_out"], keeps=[0.0, 0.5], texts=())
        >>> len(found.cuts) <= 1, sorted(found.test)
        (True, ['drink'])
    """
    tasks = check_tasks(model, task)
    greedy, seed = positive("greedy", greedy), natural("seed", seed)
    _check_choices(objective, combine, method, budget, test_fraction)
    splits = [split_task(each, test_fraction=test_fraction, seed=seed) for each in tasks]
    encoded = [encode(model, each, prepend_bos=prepend_bos) for each in tasks]
    grid = make_grid(model, sites, keeps, (), seed, cuts)
    if max_memory is not None:
        _check_report_fits(model, encoded, grid, greedy, texts, prepend_bos, max_memory)
    options = SweepOptions(
        prepend_bos=prepend_bos,
        batch_size=batch_size,
        max_memory=max_memory,
        seed=seed,
        progress=progress,
    )
    asked = _Asked(objective, combine, method, greedy, real(budget), float(test_fraction))
    settings = asked.settings(grid, keeps, seed)
    folder = None if run_dir is None else RunFolder(run_dir)
    with hashed_once(model), nullcontext() if folder is None else held_for_search(folder):
        if folder is not None:
            manifest = _manifest(model, tasks, encoded, grid, asked, seed)
            folder.open(manifest, resume=True, **_MAY_DIFFER)
        place = None if folder is None else folder.path
        judge = Judge(model, [split.validation for split in splits], objective, combine, place, options)
        best = asked.choose(judge, grid, seed)
        found = Cuts() if best is None else best.cuts
        result = SearchResult(
            found,
            objective,
            combine,
            **_report(model, splits, found, options),
            cost=_cost(model, found, texts, prepend_bos, max_memory),
            looks=pd.DataFrame(judge.looks),
            settings=settings,
        )
        if place is not None:
            write_search(result.to_json(), vars(result), place)
    return result


@dataclass(frozen=True)
class _Asked:
    """What is looked for, and how."""

    objective: Objective
    combine: Combine
    method: Method
    greedy: int
    budget: float | None
    test_fraction: float

    def choose(self, judge: Judge, grid: Sequence[SiteCut], seed: int) -> Candidate | None:
        """The best composition of cuts of a grid, or None."""
        if self.method == "laser":
            return laser(judge, grid, greedy=self.greedy)
        return halving(judge, grid, greedy=self.greedy, budget=self.budget, seed=seed)

    def settings(
        self, grid: Sequence[SiteCut], keeps: Sequence[Keep | int | float], seed: int
    ) -> dict[str, Any]:
        """What is asked, as plain data."""
        return dict(
            method=self.method,
            greedy=self.greedy,
            budget=self.budget,
            test_fraction=self.test_fraction,
            seed=seed,
            grid=f"{len(grid)} settings",
            sites=sorted({str(cut.site) for cut in grid}),
            keeps=[repr(keep) for keep in keeps],
        )


def _manifest(
    model: Any,
    tasks: Sequence[Task],
    encoded: Sequence[EncodedTask],
    grid: Sequence[SiteCut],
    asked: _Asked,
    seed: int,
) -> dict[str, Any]:
    return make_manifest(
        "search",
        **of_model(model),
        cuts=[cut.to_json() for cut in active_cuts(model)],
        tasks=[task.to_json() for task in tasks],
        task_hashes={task.name: task.hash for task in tasks},
        task_order=[task.name for task in tasks],
        prepend_bos=[each.prepend_bos for each in encoded],
        seed=seed,
        grid=[cut.to_json() for cut in grid],
        **asdict(asked),
    )


def _check_report_fits(
    model: Any,
    encoded: Sequence[EncodedTask],
    grid: Sequence[SiteCut],
    greedy: int,
    texts: Sequence[str] | None,
    prepend_bos: bool | None,
    max_memory: int,
) -> None:
    """The search itself asks for its memory before it starts; its report must not fail after it."""
    largest = max((cut.site for cut in grid), key=lambda site: factor_bytes(model, [site])[0])
    sites = [largest] * greedy
    for each in encoded:
        prompts_that_fit(model, each, sites, batch_size=1, max_memory=max_memory)
    if texts is None or texts:
        passages = encode_passages(model, texts, prepend_bos)
        passages_that_fit(model, passages, sites, batch_size=1, max_memory=max_memory)


def _check_choices(objective: str, combine: str, method: str, budget: Any, test_fraction: Any) -> None:
    for name, value, kind in (
        ("objective", objective, Objective),
        ("combine", combine, Combine),
        ("method", method, Method),
    ):
        if value not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}.")
    if budget is not None and not (real(budget) or 0) > 0:
        raise ValueError(f"budget must be a positive number of settings, got {budget!r}.")
    if not 0 < (real(test_fraction) or 0) < 1:
        raise ValueError(f"test_fraction must be a number between 0 and 1, got {test_fraction!r}.")


def _cost(
    model: Any,
    cuts: Cuts,
    texts: Sequence[str] | None,
    prepend_bos: bool | None,
    max_memory: int | None,
) -> SideEffects | None:
    chosen = sample_texts() if texts is None else texts
    if not cuts or not chosen:
        return None
    options: dict[str, Any] = dict(prepend_bos=prepend_bos, max_memory=max_memory, progress=False)
    return side_effects(model, cuts, chosen, **options)


def _report(
    model: Any, splits: Sequence[Split], cuts: Cuts, options: SweepOptions
) -> dict[str, Mapping[str, Any]]:
    """Scores of the chosen cuts on both parts, and of their controls on the test prompts."""
    asked: dict[str, Any] = dict(
        prepend_bos=options.prepend_bos,
        batch_size=options.batch_size,
        max_memory=options.max_memory,
        seed=options.seed,
        progress=False,
    )
    validation, test = (
        {task.name: evaluate(model, task, cuts, **asked) for task in tasks}
        for tasks in zip(*((split.validation, split.test) for split in splits), strict=True)
    )
    controls = {
        kind: {
            split.test.name: evaluate(
                model, split.test, placebo, baseline=test[split.test.name].baseline, **asked
            )
            for split in splits
        }
        for kind, placebo in controls_of(cuts, seed=options.seed).items()
    }
    return dict(validation=validation, test=test, controls=controls)
