"""Every cut of a grid of sites and keeps, each alone, exactly, and resumable."""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from tqdm.auto import tqdm

from tl_truncate.experiments.scoring.answers import Outcome
from tl_truncate.experiments.scoring.evaluate import check_model, check_task
from tl_truncate.experiments.scoring.metrics import SCORED, Metric
from tl_truncate.experiments.sweep.engine import Engine
from tl_truncate.experiments.sweep.grid import Control, make_grid, setting_key
from tl_truncate.experiments.sweep.memory import Plan, make_plan
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.result import Setting, SweepResult, result_fields
from tl_truncate.runs.codec import plain, read
from tl_truncate.runs.folder import RunFolder, make_manifest
from tl_truncate.runs.record import Record, make_record
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.tasks.encode import EncodedTask, encode
from tl_truncate.tasks.task import Task
from tl_truncate.weights.identity.content import hashed_once
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.keep.defaults import KEEPS
from tl_truncate.weights.site import Site

# Uncut scores that a resumed run may differ by, in nats: another number of threads rounds otherwise.
_SAME_BASELINE = 0.02
# What a run folder may be gone on with: it changes the number of a setting by rounding at most. Of tasks
# their hashes and their order are compared.
_MAY_DIFFER: dict[str, Any] = dict(
    free=("model", "tasks", "metrics", "resamples"),
    grows=("grid",),
    noted=("device", "batches", "cuts_in_a_pass"),
)


def sweep(
    model: Any,
    task: Task | Sequence[Task],
    *,
    sites: Sequence[Site | str] | None = None,
    keeps: Sequence[Keep | int | float] = KEEPS,
    cuts: Sequence[SiteCut] = (),
    controls: Sequence[Control] = (),
    draws: int | None = None,
    metrics: Sequence[Metric] = SCORED,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = True,
    prepend_bos: bool | None = None,
    batch_size: int = 64,
    tokens_in_flight: int = 1024,
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
        model: a HookedTransformer or TransformerBridge in evaluation mode.
        task: one task, or several with different names.
        sites: Sites or their names; W_in and W_out of every layer by default.
        keeps: ranks, fractions or rules, each made at every site.
        cuts: further settings of any kind, such as `GlobalDirection` or `GlobalRemoval`. Given without
            sites, they are the whole grid.
        controls: `random_subspace`, `norm_matched`, scored beside each cut that has a counterpart.
        draws: of each control, under seeds of their own; 16 of a single site, else 4. They share a row
            of the table, and `.beside_controls` says which cuts do more than they.
        metrics: in the table.
        run_dir: a folder for the manifest and one line for each finished setting. Given again, the run
            goes on where it stopped, also with more or other sites, keeps, metrics or resamples. One
            process at a time works in it.
        resume: False refuses a folder that holds a run.
        prepend_bos: overrides the model's default.
        batch_size: most prompts in a batch.
        tokens_in_flight: cuts of a site share a pass until it has about this many tokens.
        max_memory: most bytes beside the model; what will be used is said before the start.
        resamples: has no effect; of versions whose intervals were drawn.
        seed: of the controls' first draw.
        progress: shows a bar, and the memory.

    Returns:
        The result, with `.frame`, `.baseline` and `.scores(site, keep)`.

    Raises:
        ValueError: if the task does not fit the tokenizer, a site or keep does not fit the model, the
            memory does not suffice, or the folder holds another run, such as of other weights; before
            any pass runs. And if logits are not finite.
        BlockingIOError: if another process works in the folder.
        TypeError: if an argument is of the wrong kind.
        FullPassesWarning: as a warning, if the model cannot be run from the middle.

    Source: derived in the documentation, "What a sweep has to compute".

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> result = tlt.sweep(model, task, sites=["blocks.1.mlp.W_out"], keeps=[0.0, 0.5])
        >>> result.frame[["site", "keep", "rank"]].values.tolist()
        [['blocks.1.mlp.W_out', 0.0, 0], ['blocks.1.mlp.W_out', 0.5, 16]]
    """
    tasks = check_tasks(model, task)
    grid = make_grid(model, sites, keeps, controls, seed, cuts, draws)
    options = SweepOptions(
        metrics=metrics,
        run_dir=run_dir,
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
    return sweep_cuts(model, tasks, grid, options)


def sweep_cuts(
    model: Any, tasks: Sequence[Task], grid: Sequence[SiteCut], options: SweepOptions
) -> SweepResult:
    """`sweep` over a list of cuts instead of a grid."""
    encoded = [encode(model, each, prepend_bos=options.prepend_bos) for each in tasks]
    plan = make_plan(
        model,
        encoded,
        list(dict.fromkeys(cut.site for cut in grid)),
        batch_size=options.batch_size,
        tokens_in_flight=options.tokens_in_flight,
        max_memory=options.max_memory,
    )
    if options.progress and options.says_memory:
        tqdm.write(f"{options.label}: about {plan.memory} beside the model", file=sys.stderr)
    with hashed_once(model):
        records = _records(model, tasks, encoded, options.seed)
    manifest = _manifest(tasks, records, grid, plan, options)
    folder = None if options.run_dir is None else RunFolder(options.run_dir)
    with nullcontext() if folder is None else folder.held():
        settings: list[Setting] = []
        if folder is not None:
            manifest = folder.open(manifest, resume=options.resume, **_MAY_DIFFER)
            settings = [_checked(read(Setting, line), tasks, folder) for line in folder.lines()]
        run = _Run(model, tasks, plan, records, encoded, folder, settings)
        baseline = run.finish(grid, options.progress, options.label)
    return SweepResult(**result_fields(manifest, baseline, run.settings, grid))


def _checked(setting: Setting, tasks: Sequence[Task], folder: RunFolder) -> Setting:
    """A setting that was read, if it has an outcome for each prompt."""
    found = [len(outcome.log_p_in_context) for outcome in setting.outcomes]
    wanted = list(map(len, tasks))
    if found != wanted:
        raise ValueError(
            f"Each setting in {folder.path} must have an outcome for each of {wanted} prompts, got "
            f"{found} for {setting.cut!r}. Delete its line in settings.jsonl; it will be computed again."
        )
    return setting


class _Run:
    """A sweep at work: what is finished, and where it is written."""

    def __init__(
        self,
        model: Any,
        tasks: Sequence[Task],
        plan: Plan,
        records: Sequence[Record],
        encoded: Sequence[EncodedTask],
        folder: RunFolder | None,
        settings: list[Setting],
    ) -> None:
        self._model, self._tasks, self._plan, self._folder = model, tasks, plan, folder
        self._records, self._encoded = records, encoded
        self.settings = settings
        self._keys = {setting_key(setting.cut) for setting in settings}

    def _done(self, cut: SiteCut) -> bool:
        return setting_key(cut) in self._keys

    def finish(self, grid: Sequence[SiteCut], progress: bool, label: str) -> list[dict[str, Any]]:
        """Scores what is missing, and gives the baseline as plain data."""
        stored = None if self._folder is None else self._folder.baseline()
        if stored is not None and all(map(self._done, grid)):
            return list(stored)
        with tqdm(
            total=len(grid), initial=sum(map(self._done, grid)), disable=not progress, desc=label
        ) as bar:
            lowest = min((cut.site.layer for cut in grid), default=0)
            engine = Engine(self._model, self._tasks, self._plan, lowest=lowest)
            baseline = self._baseline(engine.baseline, stored)
            for found in engine.run(grid, self._done):
                new = [Setting(cut, cut.kept_rank(self._model), tuple(all_)) for cut, all_ in found]
                if self._folder is not None:
                    self._folder.append(plain(new))
                self.settings += new
                self._keys |= {setting_key(setting.cut) for setting in new}
                bar.update(len(new))
                bar.set_postfix_str(str(new[-1].cut.site) if new else "")
        return baseline

    def _baseline(self, outcomes: Sequence[Outcome], stored: Any) -> list[dict[str, Any]]:
        found = [
            dict(
                record=plain(record),
                outcome=plain(outcome),
                n_tokens=[len(each.prompt) for each in encoded.prompts],
            )
            for record, outcome, encoded in zip(self._records, outcomes, self._encoded, strict=True)
        ]
        if stored is None:
            if self._folder is not None:
                self._folder.write_baseline(found)
            return found
        for outcome, before in zip(outcomes, stored, strict=True):
            _require_same(outcome, read(Outcome, before["outcome"]))
        return list(stored)


def _require_same(now: Outcome, before: Outcome) -> None:
    pairs = zip(
        now.log_p_in_context + now.log_p_global,
        before.log_p_in_context + before.log_p_global,
        strict=True,
    )
    gap = max(abs(one - other) for one, other in pairs)
    if not gap <= _SAME_BASELINE:
        raise ValueError(
            "The uncut model must score as it did when the run began, but a log-probability differs by "
            f"{gap:.3g} nats. Are these the same weights? Use another folder."
        )


def check_tasks(model: Any, task: Any) -> list[Task]:
    """One task or several, for a model that can be scored.

    Raises:
        ValueError: if there is none, two have the same name, or the model has active dropout.
        TypeError: if something is not a task.
    """
    tasks = [task] if isinstance(task, Task) else list(task) if isinstance(task, (list, tuple)) else task
    if not isinstance(tasks, list):
        raise TypeError(f"task must be a Task or a list of tasks, got {task!r}.")
    for each in tasks:
        check_task(each)
    names = [each.name for each in tasks]
    if not tasks or len(set(names)) < len(names):
        raise ValueError(f"Tasks must be one or more with different names, got {names}.")
    check_model(model)
    return tasks


def _records(
    model: Any, tasks: Sequence[Task], encoded: Sequence[EncodedTask], seed: int
) -> list[Record]:
    around = Cuts(active_cuts(model))
    return [
        make_record(model, task, cuts=around, prepend_bos=each.prepend_bos, seed=seed)
        for task, each in zip(tasks, encoded, strict=True)
    ]


def _manifest(
    tasks: Sequence[Task],
    records: Sequence[Record],
    grid: Sequence[SiteCut],
    plan: Plan,
    options: SweepOptions,
) -> dict[str, Any]:
    of_task = ("task", "task_hash", "n_prompts")
    common = {name: value for name, value in plain(records[0]).items() if name not in of_task}
    return make_manifest(
        "sweep",
        **common
        | dict(
            tasks=[task.to_json() for task in tasks],
            task_hashes={task.name: task.hash for task in tasks},
            task_order=[task.name for task in tasks],
            grid=[cut.to_json() for cut in grid],
            metrics=list(options.metrics),
            resamples=options.resamples,
            batches=[[len(batch.rows), len(batch.rows[0])] for batch in plan.batches],
            cuts_in_a_pass=plan.copies,
        ),
    )
