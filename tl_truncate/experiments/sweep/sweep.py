"""Every cut of a grid of sites and keeps, each alone, exactly, and resumable."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from tl_truncate.experiments.scoring.evaluate import as_tasks, check_model
from tl_truncate.experiments.scoring.metrics import Metric
from tl_truncate.experiments.sweep.grid import SWEEP, Control, make_grid, setting_key
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.result import Setting, SweepResult, joined_result
from tl_truncate.experiments.sweep.work.engine import Engine
from tl_truncate.experiments.sweep.work.finished import Finished, finished_in
from tl_truncate.experiments.sweep.work.on_workers import SweepAsked, sweep_on
from tl_truncate.experiments.sweep.work.prepare import Prepared, prepare
from tl_truncate.runs.sharded.waiting import whole_run
from tl_truncate.runs.shards import as_shard, require_folder
from tl_truncate.runs.workers.pool import Pool, pool
from tl_truncate.runs.workers.ray import Ray
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.tasks.demonstrations.shots import with_shots
from tl_truncate.tasks.task import Task
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.keep.defaults import KEEPS
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.cache import forgetting


def sweep(
    model: Any,
    task: Task | Sequence[Task],
    *,
    sites: Sequence[Site | str] | None = None,
    keeps: Sequence[Keep | int | float] = KEEPS,
    cuts: Sequence[SiteCut] = (),
    controls: Sequence[Control] = (),
    draws: int | None = None,
    shots: Sequence[int] | None = None,
    metrics: Sequence[Metric] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    shard: tuple[int, int] | None = None,
    on: Ray | Pool | None = None,
    resume: bool = True,
    prepend_bos: bool | None = None,
    batch_size: int = 64,
    tokens_in_flight: int | None = None,
    max_memory: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> SweepResult:
    """Scores every cut of a grid, each alone, on one or several tasks at once.

    The numbers are those of `evaluate`, to rounding. Only the blocks at and above a cut are run, the
    cut block's own work is shared by its cuts, the last block runs at the answers' positions alone, and
    several cuts share a pass when the prompts are few. A model whose blocks cannot be called again is
    run in full, and a `FullPassesWarning` says why. Inside a `truncated` context the cuts of that
    context belong to both sides.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode. With `on`, what each worker
            loads: a name or folder, as `load_model` does, or a function without arguments.
        task: one task, or several with different names.
        sites: Sites or their names; W_in and W_out of every layer by default.
        keeps: ranks, fractions or rules, each made at every site.
        cuts: further settings of any kind, such as `GlobalDirection` or `GlobalRemoval`. Given without
            sites, they are the whole grid.
        controls: `random_subspace`, `norm_matched`, scored beside each cut that has a counterpart, of
            `cuts` too. A cut of its own kind may have others: give them as cuts, `cut.controls(seed)`.
        draws: of each control, under seeds of their own; 16 of a single site, else 4. They share a row
            of the table, and `.beside_controls` says which cuts do more than they.
        shots: numbers of demonstrations, such as (0, 1, 4, 16): each task is scored with each, by
            `Task.with_demonstrations`. The largest says how many prompts are set aside, so that all
            numbers are scored on the same prompts; the table has a column `shots` then, and tasks are
            named `ioi-4-shot`. Another set of numbers asks other prompts and takes a folder of its own.
        metrics: in the table; accuracy, p_in_context, p_global and logit_diff by default; the last two
            only if all tasks have global answers.
        run_dir: a folder for the manifest and one line for each finished setting. Given again, the run
            goes on where it stopped, also with more or other sites, keeps, metrics or resamples. One
            process at a time works in it.
        shard: `(3, 8)` makes the third of eight shares of the grid, which cost about the same. The
            others are made by the same call in other processes, on any machine that has the folder;
            `merge` or `SweepResult.load` joins them. The result is of this shard alone.
        on: `tlt.Ray(workers=8)` shares the work among processes with a model each, on this machine or
            many; only this one writes the folder.
        resume: False refuses a folder that holds a run.
        prepend_bos: overrides the model's default.
        batch_size: most prompts in a batch.
        tokens_in_flight: cuts of a site share a pass until it has about this many tokens; by default
            1024 on a CPU and 8192 on a card, which waits for Python in smaller passes.
        max_memory: most bytes beside the model; what will be used is said before the start.
        resamples: has no effect; of versions whose intervals were drawn.
        seed: of the controls' first draw, and of the demonstrations.
        progress: shows a bar, and the memory.

    Returns:
        The result, with `.frame`, `.baseline` and `.scores(site, keep)`.

    Raises:
        ValueError: if the task does not fit the tokenizer, or with all its demonstrations the context
            window, a site or keep does not fit the model, no cut has a control, the memory does not
            suffice, or the folder or another shard in it is of another run, such as of other weights;
            before any pass runs. And if logits are not finite.
        BlockingIOError: if another process works in the folder, or on the same shard.
        TypeError: if an argument is of the wrong kind, such as a model with `on`.
        ModuleNotFoundError: if Ray is asked for and not installed.
        ChildProcessError: if workers are lost again and again, such as for want of memory.
        FullPassesWarning: as a warning, if the model cannot be run from the middle.

    Source: derived in the documentation, "What a sweep has to compute".

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> result = tlt.sweep(model, task, sites=["blocks.1.mlp.W_out"], keeps=[0.0, 0.5])
        >>> result.frame[["site", "keep", "rank"]].values.tolist()
        [['blocks.1.mlp.W_out', 0.0, 0], ['blocks.1.mlp.W_out', 0.5, 16]]
    """
    tasks = with_shots(as_tasks(task) if on is not None else check_tasks(model, task), shots, seed)
    part = as_shard(shard)
    require_folder(part, run_dir)
    options = SweepOptions(
        metrics=metrics,
        run_dir=run_dir,
        shard=part,
        resume=resume,
        prepend_bos=prepend_bos,
        batch_size=batch_size,
        tokens_in_flight=tokens_in_flight,
        max_memory=max_memory,
        resamples=resamples,
        seed=seed,
        progress=progress,
        label="sweep",
        says_memory=True,
    )
    if on is not None:
        asked: dict[str, Any] = dict(
            sites=sites, keeps=keeps, controls=controls, seed=seed, cuts=cuts, draws=draws
        )
        whole = SweepAsked(partial(make_grid, **asked), tasks, options)
        with pool(on, model, progress=progress) as workers:
            return sweep_on(workers, whole, Cuts(cuts))
    grid = make_grid(model, sites, keeps, controls, seed, cuts, draws)
    return sweep_cuts(model, tasks, grid, options)


def sweep_cuts(
    model: Any, tasks: Sequence[Task], grid: Sequence[SiteCut], options: SweepOptions
) -> SweepResult:
    """`sweep` over a list of cuts instead of a grid."""
    prepared = prepare(model, tasks, grid, options)
    if options.progress and options.says_memory:
        tqdm.write(f"{options.label}: about {prepared.plan.memory} beside the model", file=sys.stderr)
    cuts = grid if options.shard is None else prepared.share(options.shard)
    with finished_in(dict(prepared.manifest), tasks, options, cuts) as finished:
        _finish(model, prepared, cuts, finished, options)
    if options.run_dir is None or options.shard is None or options.patience is None:
        return finished.result(cuts)
    joined = whole_run(
        options.run_dir,
        options.shard,
        SWEEP,
        patience=options.patience,
        progress=options.progress,
        label=options.label,
    )
    return joined_result(joined, grid)


def _finish(
    model: Any,
    prepared: Prepared,
    cuts: Sequence[SiteCut],
    finished: Finished,
    options: SweepOptions,
) -> None:
    """Scores what is missing of some cuts, in the company that the whole grid gives them."""
    known = finished.has_baseline or (options.patience is not None and not cuts)
    if known and all(map(finished.done, cuts)):
        return
    left = {setting_key(cut) for cut in cuts if not finished.done(cut)}
    before = len(cuts) - len(left)
    with (
        forgetting(options.max_memory is not None),
        tqdm(total=len(cuts), initial=before, disable=not options.progress, desc=options.name) as bar,
    ):
        engine = Engine(model, prepared.tasks, prepared.plan, lowest=prepared.lowest)
        finished.add_baseline(prepared.baseline(engine.baseline))
        for found in engine.run(prepared.grid, lambda cut: setting_key(cut) not in left):
            new = [Setting(cut, cut.kept_rank(model), tuple(all_)) for cut, all_ in found]
            finished.add(new)
            bar.update(len(new))
            bar.set_postfix_str(str(new[-1].cut.site) if new else "")


def check_tasks(model: Any, task: Any) -> list[Task]:
    """One task or several, for a model that can be scored.

    Raises:
        ValueError: if there is none, two have the same name, or the model has active dropout.
        TypeError: if something is not a task.
    """
    tasks = as_tasks(task)
    check_model(model)
    return tasks
