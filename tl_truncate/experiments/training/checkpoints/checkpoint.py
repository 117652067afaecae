"""One checkpoint read: the unit of work, from plain settings to a line of plain data.

Cuts that are each made alone are scored as a sweep scores them: they share the uncut pass and the blocks
below them, and so do the tasks. Cuts that are made together take passes of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tl_truncate.experiments.scoring.answers import Outcome
from tl_truncate.experiments.scoring.evaluate import (
    Scores,
    check_baseline,
    check_model,
    evaluate,
    score_frame,
)
from tl_truncate.experiments.scoring.memory import prompts_that_fit
from tl_truncate.experiments.scoring.metrics import metrics_of
from tl_truncate.experiments.sweep.grid import make_grid
from tl_truncate.experiments.sweep.work.engine import Engine
from tl_truncate.experiments.sweep.work.finished import SAME_BASELINE
from tl_truncate.experiments.sweep.work.memory import Plan, in_flight, make_plan
from tl_truncate.experiments.training.alike import different
from tl_truncate.experiments.training.grid import Grid, place_of
from tl_truncate.experiments.training.kept import things
from tl_truncate.experiments.training.parts_over_training import Parts
from tl_truncate.experiments.training.reading import GRIDS, PARTS, TASKS, UNCUT, Reading
from tl_truncate.runs.codec import plain
from tl_truncate.runs.manifests import HOOKS, TOKENS
from tl_truncate.runs.record import Record, make_record
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.tasks.encode import EncodedTask, encode
from tl_truncate.tasks.task import Task
from tl_truncate.weights.holding.placement import model_device
from tl_truncate.weights.identity.content import hashed_once
from tl_truncate.weights.identity.hooks import hooks_at
from tl_truncate.weights.identity.provenance import of_model


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How prompts are run; `dynamics` says what each option means."""

    prepend_bos: bool | None = None
    batch_size: int = 32
    max_memory: int | None = None
    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Work:
    """What has not been said about a step, for tasks that lack the same.

    Attributes:
        tasks: with different names.
        cuts: by name; what stands under one name is made together.
        parts: to divide MLP outputs into, if that is lacking.
        grid: to sweep, if that is lacking.
        before: the uncut scores by the task's name, where they are known: of the same weights.
    """

    tasks: tuple[Task, ...]
    cuts: Mapping[str, Cuts]
    parts: Parts | None
    grid: Grid | None
    before: Mapping[str, Scores]

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of what is to be said."""
        return things(self.cuts, self.parts is not None, [] if self.grid is None else [self.grid.key])


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be said about one checkpoint.

    Attributes:
        step: of training.
        works: of different tasks.
        passes: how prompts are run.
        sweeps: the folder in which checkpoints' sweeps have their run folders; nothing else is written.
        before: of what model something was said about the step, whatever task it was said to.
    """

    step: int
    works: tuple[Work, ...]
    passes: Passes
    sweeps: Path | None = None
    before: Record | None = None


def read_checkpoint(model: Any, request: Request) -> dict[str, Any]:
    """The line of a run folder about one checkpoint, as plain data; nothing of the model is kept.

    Args:
        model: of the step.
        request: what to say about it.

    Raises:
        ValueError: if the memory does not suffice, before any pass; if logits are not finite; or if the
            weights are others than those of what was said before.
    """
    said: dict[str, Any] = {}
    check_model(model)
    with hashed_once(model):
        _require_same_weights(model, request)
        for work in request.works:
            _require_room(model, work, request.passes)
        for work in request.works:
            said |= _said(model, work, request.passes)
        for work in request.works:
            for task, place in _swept(model, work, request).items():
                said[task][GRIDS] = place
    return {"step": request.step, TASKS: said}


def _require_same_weights(model: Any, request: Request) -> None:
    """That a task which was added later is asked of the model that the others were asked of."""
    before = request.before
    if before is None or before.weights_hash == Record().weights_hash:
        return
    told = different(before, of_model(model))
    if told:
        raise ValueError(
            f"load must give the weights that the run is of, but at step {request.step} it gives others "
            f"than for the task {before.task} before, which differ in: {told}. Use another run_dir."
        )


def _said(model: Any, work: Work, passes: Passes) -> dict[str, dict[str, Any]]:
    alone = {name: each[0] for name, each in work.cuts.items() if len(each) == 1}
    options: dict[str, Any] = dict(vars(passes), progress=False)
    found = _shared(model, work, alone, passes) if alone else {}
    said = {}
    for task in work.tasks:
        scores = found.get(task.name)
        if scores is None:
            before = work.before.get(task.name)
            scores = {UNCUT: replace(evaluate(model, task, baseline=before, **options), baseline=None)}
        for name in [name for name in work.cuts if name not in alone]:
            scores[name] = evaluate(model, task, work.cuts[name], baseline=scores[UNCUT], **options)
        in_order = {name: Reading.of(scores[name]) for name in (UNCUT, *work.cuts)}
        tokens = encode(model, task, prepend_bos=passes.prepend_bos).hash
        said[task.name] = {"readings": plain(in_order), TOKENS: tokens, HOOKS: hooks_at(model)}
        if work.parts is not None:
            said[task.name][PARTS] = plain(work.parts.attribute(model, task, **options))
    return said


def _swept(model: Any, work: Work, request: Request) -> dict[str, dict[str, str]]:
    """For each task where the sweep of the grid lies, once it is finished."""
    if work.grid is None:
        return {}
    assert request.sweeps is not None
    place = place_of(request.step, work.tasks)
    work.grid.sweep(model, work.tasks, request.sweeps / place, vars(request.passes))
    return {task.name: {work.grid.key: place} for task in work.tasks}


def _shared(
    model: Any, work: Work, alone: Mapping[str, SiteCut], passes: Passes
) -> dict[str, dict[str, Scores]]:
    """The scores of cuts that are each made alone, and of the uncut model, by task and name."""
    encoded = [encode(model, task, prepend_bos=passes.prepend_bos) for task in work.tasks]
    records = [
        _record(model, task, each, passes) for task, each in zip(work.tasks, encoded, strict=True)
    ]
    for task, record in zip(work.tasks, records, strict=True):
        check_baseline(work.before.get(task.name), record)
    different: list[SiteCut] = []
    for cut in alone.values():
        different += [] if cut in different else [cut]
    grid = make_grid(model, None, (), (), passes.seed, different)
    lowest = min(cut.site.layer for cut in grid)
    engine = Engine(model, work.tasks, _plan(model, encoded, grid, passes), lowest=lowest)
    for task, again in zip(work.tasks, engine.baseline, strict=True):
        _require_same_scores(work.before.get(task.name), again)
    made = [each for group in engine.run(grid) for each in group]

    def scores(place: int, cut: SiteCut | None) -> Scores:
        task, n_tokens = work.tasks[place], [len(each.prompt) for each in encoded[place].prompts]
        said = engine.baseline if cut is None else next(found for each, found in made if each == cut)
        frame = score_frame(task, n_tokens, said[place])
        cuts = Cuts(active_cuts(model), () if cut is None else cut)
        return Scores(frame, replace(records[place], cuts=tuple(each.to_json() for each in cuts)))

    return {
        task.name: {UNCUT: scores(place, None)}
        | {name: scores(place, cut) for name, cut in alone.items()}
        for place, task in enumerate(work.tasks)
    }


def _require_same_scores(before: Scores | None, again: Outcome) -> None:
    """That the uncut model says what it said: hooks may act that no record knows of.

    Raises:
        ValueError: if it does not.
    """
    if before is None:
        return
    now = again.metrics()
    for metric in metrics_of(before, ("p_in_context", "logit_diff")):
        gap = float((now[metric] - before.frame[metric]).abs().max())
        if not gap <= 2 * SAME_BASELINE:
            raise ValueError(
                f"The uncut model must score as it did when the run began, but {metric} differs by "
                f"{gap:.3g}. Are there hooks that change what passes? Use another run_dir."
            )


def _record(model: Any, task: Task, encoded: EncodedTask, passes: Passes) -> Record:
    around = Cuts(active_cuts(model))
    return make_record(model, task, cuts=around, prepend_bos=encoded.prepend_bos, seed=passes.seed)


def _plan(model: Any, encoded: Sequence[EncodedTask], cuts: Sequence[SiteCut], passes: Passes) -> Plan:
    return make_plan(
        model,
        encoded,
        list(dict.fromkeys(cut.site for cut in cuts)),
        batch_size=passes.batch_size,
        tokens_in_flight=in_flight(None, model_device(model)),
        max_memory=passes.max_memory,
    )


def _require_room(model: Any, work: Work, passes: Passes) -> None:
    """Cuts take room for their factors, and parts for theirs: asked for before the uncut pass."""
    limits: dict[str, Any] = dict(batch_size=passes.batch_size, max_memory=passes.max_memory)
    if passes.max_memory is None:
        return
    encoded = [encode(model, task, prepend_bos=passes.prepend_bos) for task in work.tasks]
    alone = [each[0] for each in work.cuts.values() if len(each) == 1]
    swept = [] if work.grid is None else work.grid.cuts_of(model, passes.seed)
    for cuts in filter(None, (alone, swept)):
        _plan(model, encoded, cuts, passes)
    for each in encoded:
        for together in work.cuts.values():
            if len(together) > 1:
                prompts_that_fit(model, each, [cut.site for cut in together], **limits)
        if work.parts is not None:
            work.parts.require_room(model, each, **limits)
