"""Searching for cuts that help, and saying on other prompts whether they do."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from tl_truncate.checks import natural, positive, real
from tl_truncate.experiments.scoring.evaluate import as_tasks, check_model
from tl_truncate.experiments.scoring.metrics import require_metrics
from tl_truncate.experiments.search.asked import Asked
from tl_truncate.experiments.search.bound import (
    MAX_RATIO,
    Bound,
    Limit,
    Texts,
    check_limit,
    divided_texts,
)
from tl_truncate.experiments.search.file import opened_search
from tl_truncate.experiments.search.judge import Combine, Judge, Objective, Split, split_tasks
from tl_truncate.experiments.search.on_test import check_report_fits, controls_on, cost_of, scores_of
from tl_truncate.experiments.search.placebos import required_placebos
from tl_truncate.experiments.search.result import SearchResult, paired
from tl_truncate.experiments.search.strategies import halving, laser
from tl_truncate.experiments.sweep.grid import make_grid
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.places import place_of
from tl_truncate.experiments.sweep.work.on_workers import with_own
from tl_truncate.runs.manifests import HOOKS, TOKENS, make_manifest
from tl_truncate.runs.record import texts_hash
from tl_truncate.runs.sharded.waiting import PATIENCE, check_patience
from tl_truncate.runs.shards import Shard, as_shard, require_folder
from tl_truncate.runs.workers.pool import Pool
from tl_truncate.runs.workers.ray import Ray
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.tasks.encode import EncodedTask, encode
from tl_truncate.tasks.task import Task
from tl_truncate.weights.identity.hooks import hooks_at
from tl_truncate.weights.identity.provenance import of_model
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.keep.defaults import KEEPS
from tl_truncate.weights.site import Site

Method = Literal["halving", "laser"]


def search(
    model: Any,
    task: Task | Sequence[Task],
    *,
    sites: Sequence[Site | str] | None = None,
    keeps: Sequence[Keep | int | float] = KEEPS,
    cuts: Sequence[SiteCut] = (),
    objective: Objective = "p_in_context",
    max_perplexity_ratio: float | None = MAX_RATIO,
    combine: Combine = "mean",
    method: Method = "halving",
    greedy: int = 1,
    budget: float | None = None,
    test_fraction: float = 0.5,
    splits: int = 5,
    draws: int | None = None,
    null: bool = False,
    texts: Sequence[str] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    shard: tuple[int, int] | None = None,
    patience: float = PATIENCE,
    prepend_bos: bool | None = None,
    batch_size: int = 64,
    max_memory: int | None = None,
    seed: int = 0,
    on: Ray | Pool | None = None,
    progress: bool = True,
) -> SearchResult:
    """Finds a composition of cuts on validation prompts, and reports it on untouched test prompts.

    The prompts of each task are divided by the seed; prompts that are equal are on the same side, in all
    tasks. Only the validation part is looked at while choosing; the result's change, interval and
    controls are of the test part. The optimism says how much of a gain comes from choosing: the search
    is made again on further splits for it, which takes as long each time, and `splits=1` leaves that
    away. Prompts of one generator share words and templates across the split, so that the test part
    speaks for prompts like these.

    What is chosen keeps a bound on its cost: the perplexity of running text becomes at most
    `max_perplexity_ratio` times what it is uncut. The best composition within the bound is chosen, also
    for the further splits and the null; if nothing that raises the objective keeps it, nothing is
    chosen, and the result says so. Every second passage of the text decides on the bound, and the cost
    is reported on the others.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode. With `on`, what each worker
            loads: a name or folder, as `load_model` does, or a function without arguments.
        task: one task, or several that one composition has to serve.
        sites: to choose from; W_in and W_out of every layer by default.
        keeps: to choose from, at every site.
        cuts: further cuts to choose from, of any kind, such as targeted truncations, `GlobalDirection`,
            `GlobalRemoval` and `Ablated`. Given without sites, they are all there is to choose from.
        objective: the metric that should rise; `logit_diff` needs global answers.
        max_perplexity_ratio: most times that the perplexity of running text may become what it is uncut;
            None for no bound.
        combine: of several tasks, the `mean` change, or that of the `worst` task.
        method: `halving` (exact on 8 prompts, then 16, then all), or `laser`, the published search.
        greedy: most cuts in the composition; they are added one at a time while the objective rises.
        budget: most work for each cut added, in settings scored on all validation prompts (`halving`).
        test_fraction: share of the prompts that is reported on.
        splits: how often the search is made for the optimism, each time on another split; the first one
            gives the cuts. Fewer than five give it no interval.
        draws: of each control; 16 for cuts of one site, else 4.
        null: makes the same search among random subspaces of the same sites and ranks, and reports what
            it chose beside the chosen cuts: the control that was selected as the cuts were.
        texts: running text for the bound and for the cost of the cuts; the sample that ships with the
            package by default. With `()` no cost is reported, and the sample decides on the bound.
        run_dir: a folder in which each look is stored; given again, the search goes on, also with more
            sites, keeps or cuts to choose from. One process at a time works in it.
        shard: `(3, 8)` is the third of eight processes that search together: each makes its share of
            every look's settings, which cost about the same, and waits for the others before it chooses.
            All have to be at work at once; all come to the result of one process.
        patience: seconds for which a shard waits while no other gets on.
        prepend_bos: overrides the model's default.
        batch_size: most prompts in a batch.
        max_memory: most bytes beside the model.
        seed: of the splits, a limited budget and the controls.
        on: `tlt.Ray(workers=8)` shares each look among processes with a model each, which load it once;
            only this one writes the folder.
        progress: shows bars.

    Returns:
        The result; `.cuts` is empty if nothing raised the objective within the bound.

    Raises:
        ValueError: if an argument does not fit, there is a bound and no tokenizer to read running text
            with, or the folder holds another search or run; before any pass.
        TypeError: if an argument is of the wrong kind, such as a model with `on`.
        BlockingIOError: if another process works in the folder, or as the same shard.
        TimeoutError: if a shard has lost its patience, with whom it waits for; the same call goes on.
        ModuleNotFoundError: if Ray is asked for and not installed.
        ChildProcessError: if workers are lost again and again, such as for want of memory.

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to", "John gave a drink to"] * 2,
        ...             in_context=[" John", " Mary"] * 2, global_=" the")
        >>> found = tlt.search(model, task, sites=["blocks.1.mlp.W_out"], keeps=[0.0, 0.5], texts=())
        >>> len(found.cuts) <= 1, sorted(found.test)
        (True, ['drink'])
    """
    tasks = as_tasks(task)
    greedy, seed, splits = positive("greedy", greedy), natural("seed", seed), positive("splits", splits)
    draws = None if draws is None else positive("draws", draws)
    part, patience = as_shard(shard), check_patience(patience)
    _check_shard(part, on, run_dir)
    _check_choices(objective, combine, method, budget, test_fraction)
    require_metrics([objective], tasks)
    limit = check_limit(max_perplexity_ratio)
    asked: dict[str, Any] = dict(test_fraction=test_fraction, seed=seed)
    divided = [split_tasks(tasks, **asked, again=again) for again in range(splits)]
    passes: dict[str, Any] = dict(prepend_bos=prepend_bos, batch_size=batch_size, progress=progress)
    options = SweepOptions(**passes, max_memory=max_memory, seed=seed)
    settings = dict(method=method, greedy=greedy, budget=real(budget), draws=draws, null=null)
    told = asked | settings | dict(splits=splits, max_perplexity_ratio=limit)
    begin = partial(
        _begin,
        tasks=tasks,
        grid=partial(make_grid, sites=sites, keeps=keeps, controls=(), seed=seed, cuts=cuts),
        judged=told | dict(objective=objective, combine=combine),
        texts=texts,
        options=options,
    )
    with place_of(model, on, progress=progress) as at:
        begun = at.ask(_Begun, begin)
        grid = with_own(begun.grid, cuts)
        with opened_search(run_dir, begun.manifest, part) as place:
            looks = options if part is None else replace(options, shard=part, patience=patience)
            folder = None if place is None else place.looks
            asks = Asked(at, options)
            of_text = dict(prepend_bos=prepend_bos, max_memory=max_memory)
            bound = None if limit is None else Limit(at, limit, begun.texts.bound, of_text)
            made = _Search(asks, looks, objective, combine, method, greedy, budget, seed, folder, bound)
            told |= _grid_told(grid, keeps)
            result = made.result(grid, divided, begun.placebos, told, draws, begun.texts)
            if place is not None:
                place.write(result.to_json(), vars(result))
    return result


@dataclass(frozen=True)
class _Begun:
    """What the model has to be asked before a search begins."""

    manifest: dict[str, Any]
    grid: tuple[SiteCut, ...]
    placebos: tuple[SiteCut, ...]
    texts: Texts


def _begin(
    model: Any,
    *,
    tasks: Sequence[Task],
    grid: Callable[[Any], Sequence[SiteCut]],
    judged: Mapping[str, Any],
    texts: Sequence[str] | None,
    options: SweepOptions,
) -> _Begun:
    """The grid and the manifest; and that the report will fit when the search is over."""
    check_model(model)
    bos, memory, greedy = options.prepend_bos, options.max_memory, judged["greedy"]
    encoded = [encode(model, each, prepend_bos=bos) for each in tasks]
    cuts = grid(model)
    parts = divided_texts(model, texts, judged["max_perplexity_ratio"], bos)
    read = texts if texts or not parts.bound else None  # the sample decides on a bound in their place
    check_report_fits(model, encoded, cuts, greedy, read, bos, memory)
    placebos = required_placebos(model, cuts, options.seed) if judged["null"] else []
    manifest = _manifest(model, tasks, encoded, cuts, judged, texts)
    return _Begun(manifest, tuple(cuts), tuple(placebos), parts)


@dataclass(frozen=True)
class _Choice:
    """What one search chose, what it looked at, and how many that gained more were over the bound."""

    cuts: Cuts
    looks: pd.DataFrame
    refused: int


@dataclass(frozen=True)
class _Search:
    """How to choose; what among and on which prompts is said each time."""

    asked: Asked
    options: SweepOptions
    objective: Objective
    combine: Combine
    method: Method
    greedy: int
    budget: float | None
    seed: int
    run_dir: Path | None
    limit: Limit | None

    def result(
        self,
        grid: Sequence[SiteCut],
        divided: Sequence[Sequence[Split]],
        placebos: Sequence[SiteCut],
        told: Mapping[str, Any],
        draws: int | None,
        texts: Texts,
    ) -> SearchResult:
        """Chooses, and reports on the test prompts; the arguments are those of `search`.

        Args:
            grid: to choose from.
            divided: the prompts, for each time that the search is made.
            placebos: to choose from for the null; without any there is none.
            told: settings, for the record.
            draws: of each control in the report.
            texts: of the bound and of the report.
        """
        chosen, first = self.choose(grid, divided[0]), divided[0]
        asked, options = self.asked, self.asked.options
        return SearchResult(
            chosen.cuts,
            self.objective,
            self.combine,
            *scores_of(asked, first, chosen.cuts),
            controls=controls_on(asked, first, chosen.cuts, draws),
            cost=cost_of(asked.at, chosen.cuts, texts.report, options.prepend_bos, options.max_memory),
            looks=chosen.looks,
            settings=told,
            repeats=self.repeats(grid, divided[1:]),
            null=self.null(placebos, first, told, texts) if placebos else None,
            bound=self.bound(chosen, texts),
        )

    def choose(
        self, among: Sequence[SiteCut], parts: Sequence[Split], name: str | None = None
    ) -> _Choice:
        """What is best on the validation prompts; the looks are stored in a folder of that name."""
        folder = self.run_dir if self.run_dir is None or name is None else self.run_dir / name
        validation = [part.validation for part in parts]
        at, options = self.asked.at, self.options
        judge = Judge(at, validation, self.objective, self.combine, folder, options, self.limit)
        if self.method == "laser":
            best = laser(judge, among, greedy=self.greedy)
        else:
            best = halving(judge, among, greedy=self.greedy, budget=self.budget, seed=self.seed)
        chosen, gained = (Cuts(), 0.0) if best is None else (best.cuts, best.value)
        # What was over the bound in an early step may have gained less than what came of later ones.
        refused = sum(value > gained for value in judge.refused)
        return _Choice(chosen, pd.DataFrame(judge.looks), refused)

    def bound(self, choice: _Choice, texts: Texts) -> Bound | None:
        """The bound that a choice was made under, if there was one."""
        if self.limit is None:
            return None
        told: dict[str, Any] = dict(refused=choice.refused, passages=len(texts.bound), apart=texts.apart)
        return Bound(self.limit.most, self.limit.ratio(choice.cuts), **told)

    def repeats(
        self, among: Sequence[SiteCut], further: Sequence[Sequence[Split]]
    ) -> dict[str, tuple[tuple[float, float], ...]]:
        """By task the change on validation and on test prompts of each further split."""
        found: dict[str, list[tuple[float, float]]] = {}
        for again, parts in enumerate(further, 1):
            cuts = self.choose(among, parts, f"split-{again}").cuts
            validation, test = scores_of(self.asked, parts, cuts)
            for task in test:
                one, other = (float(paired(each[task], self.objective)) for each in (validation, test))
                found.setdefault(task, []).append((one, other))
        return {task: tuple(pairs) for task, pairs in found.items()}

    def null(
        self,
        placebos: Sequence[SiteCut],
        parts: Sequence[Split],
        settings: Mapping[str, Any],
        texts: Texts,
    ) -> SearchResult:
        """What the same search chooses among random cuts, and what that is worth."""
        own = self.choose(placebos, parts, "null")
        scores = scores_of(self.asked, parts, own.cuts)
        among = {**settings, "grid": f"{len(placebos)} settings"}
        told: dict[str, Any] = dict(looks=own.looks, settings=among, controls={}, cost=None)
        told["bound"] = self.bound(own, texts)
        return SearchResult(own.cuts, self.objective, self.combine, *scores, **told)


def _grid_told(grid: Sequence[SiteCut], keeps: Sequence[Keep | int | float]) -> dict[str, Any]:
    return dict(
        grid=f"{len(grid)} settings",
        sites=sorted({str(cut.site) for cut in grid}),
        keeps=[repr(keep) for keep in keeps],
    )


def _manifest(
    model: Any,
    tasks: Sequence[Task],
    encoded: Sequence[EncodedTask],
    grid: Sequence[SiteCut],
    judged: Mapping[str, Any],
    texts: Sequence[str] | None,
) -> dict[str, Any]:
    return make_manifest(
        "search",
        **of_model(model),
        cuts=[cut.to_json() for cut in active_cuts(model)],
        tasks=[task.to_json() for task in tasks],
        task_hashes={task.name: task.hash for task in tasks},
        task_order=[task.name for task in tasks],
        prepend_bos=[each.prepend_bos for each in encoded],
        **{TOKENS: {task.name: each.hash for task, each in zip(tasks, encoded, strict=True)}},
        **{HOOKS: hooks_at(model)},
        grid=[cut.to_json() for cut in grid],
        **judged,
        texts_hash=None if texts is None else texts_hash(texts),
    )


def _check_shard(
    shard: Shard | None, on: Ray | Pool | None, run_dir: str | os.PathLike[str] | None
) -> None:
    require_folder(shard, run_dir)
    if shard is not None and on is not None:
        raise ValueError(f"Give either shard or on, got shard {shard} and {on}.")


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
