"""A task asked of every checkpoint of a training run, uncut and cut, one model at a time."""

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from tqdm.auto import tqdm

from tl_truncate.checks import natural, positive, whole
from tl_truncate.experiments.scoring.evaluate import Scores, check_task, evaluate
from tl_truncate.experiments.scoring.memory import prompts_that_fit
from tl_truncate.experiments.training.parts_over_training import Parts
from tl_truncate.experiments.training.reading import Reading
from tl_truncate.experiments.training.result import UNCUT, Dynamics, dynamics_fields
from tl_truncate.runs.codec import plain, read
from tl_truncate.runs.folder import RunFolder, make_manifest
from tl_truncate.runs.record import OF_THE_WEIGHTS, Record
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.tasks.encode import encode
from tl_truncate.tasks.task import Task
from tl_truncate.weights.identity.content import hashed_once
from tl_truncate.weights.identity.provenance import of_model

Load = Callable[[int], Any]
AnyCuts = SiteCut | Sequence[SiteCut]
_PARTS = "parts"
# What a run folder may be gone on with: nothing of it changes a number that is there.
_MAY_DIFFER: dict[str, Any] = dict(
    free=("model", "task", "resamples"),  # of the task its hash and name are compared
    grows=("checkpoints", "cuts", _PARTS),
)


def dynamics(
    load: Load,
    checkpoints: Sequence[int],
    task: Task,
    cuts: AnyCuts | Mapping[str, AnyCuts] = (),
    *,
    parts: Parts | None = None,
    name: str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = True,
    prepend_bos: bool | None = None,
    batch_size: int = 32,
    max_memory: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> Dynamics:
    """Scores a task at each checkpoint, uncut and cut; one model is in memory at a time.

    Args:
        load: gives the model of a training step, such as `run.at` of a recall run, or
            `lambda step: tlt.load_model("EleutherAI/pythia-160m", checkpoint=step)`.
        checkpoints: training steps, in any order.
        task: prompts and answers, the same at each checkpoint.
        cuts: made together; or several such by name, each scored by itself. The spectra are those of
            each checkpoint. A control's further draws have its name with #2, #3, ... after it, and share
            its row.
        parts: divides each checkpoint's MLP outputs, and says what their global and in-context parts add
            to the two answers; means are fitted anew for each checkpoint.
        name: of the training run, for the record and the figure.
        run_dir: a folder with a line for each finished checkpoint. Given again, the run goes on where it
            stopped, also with more checkpoints or cuts; the last finished checkpoint is loaded again, to
            see that `load` gives the same weights.
        resume: False refuses a folder that holds a run.
        prepend_bos: overrides the models' default.
        batch_size: prompts in a pass.
        max_memory: most bytes beside a model, by an estimate; fewer prompts share a pass then.
        resamples: has no effect; of versions whose intervals were drawn.
        seed: for the record; nothing is drawn.
        progress: shows a bar.

    Returns:
        The history: `.frame`, `.scores(step, name)`, `.first_step(metric, above)`, and with parts
        `.parts` and `.parts_frame`.

    Raises:
        ValueError: if an argument does not fit, or the folder holds another run; before a model is
            loaded. And if `load` gives other weights than those of a finished checkpoint.
        TypeError: if an argument is of the wrong kind.
        BlockingIOError: if another process works in the folder.

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> history = tlt.dynamics(lambda step: model, [0, 1], task, tlt.Ablated("blocks.0.mlp.W_out"))
        >>> history.frame[["step", "cut"]].values.tolist()
        [[0, 'uncut'], [0, 'cut'], [1, 'uncut'], [1, 'cut']]
    """
    check_task(task)
    steps, named = check_checkpoints(checkpoints), _named(cuts)
    batch_size, resamples = positive("batch_size", batch_size), positive("resamples", resamples)
    seed = natural("seed", seed)
    if not callable(load):
        raise TypeError(f"load must be a function from a training step to a model, got {load!r}.")
    settings: dict[str, Any] = dict(prepend_bos=prepend_bos, seed=seed, resamples=resamples)
    if parts is not None:
        settings["parts"] = parts.to_json()
    manifest = _manifest(name, task, steps, named, settings)
    folder = None if run_dir is None else RunFolder(run_dir)
    options: dict[str, Any] = dict(prepend_bos=prepend_bos, resamples=resamples, seed=seed)
    options |= dict(batch_size=batch_size, max_memory=max_memory, progress=False)
    with nullcontext() if folder is None else folder.held():
        lines: list[dict[str, Any]] = []
        if folder is not None:
            manifest = folder.open(manifest, resume=resume, **_MAY_DIFFER)
            lines = folder.lines()
            _require_same_weights(load, lines, folder)
        left = [(step, missing) for step in steps if (missing := _missing(step, lines, named, parts))]
        with tqdm(
            total=len(steps),
            initial=len(steps) - len(left),
            desc="dynamics",
            unit="checkpoint",
            disable=not progress,
        ) as bar:
            for step, missing in left:
                bar.set_postfix_str(f"step {step}")
                gc.collect()  # models may hold themselves in cycles, and the next one needs the room
                wanted = {each: named[each] for each in missing if each in named}
                divided = parts if _PARTS in missing else None
                before = _uncut(step, lines, task)
                line = dict(step=step, **_read(load(step), task, wanted, divided, before, options))
                if folder is not None:
                    folder.append([line])
                lines.append(line)
                bar.update()
    return Dynamics(**dynamics_fields(manifest, lines))


def _missing(
    step: int, lines: Sequence[Mapping[str, Any]], named: Mapping[str, Cuts], parts: Parts | None
) -> list[str]:
    """What has not been said about a step: names of cuts, `uncut`, and parts."""
    wanted = [UNCUT, *named, *([] if parts is None else [_PARTS])]
    there: set[str] = set()
    for line in lines:
        if line["step"] == step:
            there |= {*line["readings"], *({_PARTS} & line.keys())}
    return [each for each in wanted if each not in there]


def _uncut(step: int, lines: Sequence[Mapping[str, Any]], task: Task) -> Scores | None:
    """The uncut model's scores of a step that is gone on with."""
    for line in lines:
        if line["step"] == step:
            return read(dict[str, Reading], line["readings"])[UNCUT].scores(task, None, resamples=1)
    return None


def _require_same_weights(load: Load, lines: Sequence[Mapping[str, Any]], folder: RunFolder) -> None:
    """That the last finished checkpoint is loaded with the weights that its line is of."""
    if not lines:
        return
    last = max(lines, key=lambda line: int(line["step"]))
    before = read(dict[str, Reading], last["readings"])[UNCUT].record
    if before.weights_hash == Record().weights_hash:
        raise ValueError(
            f"The run in {folder.path} must say which weights it is of to be resumed, but an earlier "
            "version wrote it, which did not note them. It can still be read, by Dynamics.load; to "
            "compute more, use another folder."
        )
    gc.collect()
    now = of_model(load(last["step"]))
    other = [name for name in OF_THE_WEIGHTS if now[name] != getattr(before, name)]
    if other:
        told = "; ".join(f"{name} ({getattr(before, name)}, now {now[name]})" for name in other)
        raise ValueError(
            f"load must give the weights that the run in {folder.path} is of, but at step "
            f"{last['step']} it gives others, which differ in: {told}. Use another folder."
        )


def _manifest(
    name: str | None,
    task: Task,
    steps: tuple[int, ...],
    named: Mapping[str, Cuts],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    return make_manifest(
        "dynamics",
        model=name,
        task=task.to_json(),
        task_name=task.name,
        task_hash=task.hash,
        checkpoints=steps,
        cuts={name: [cut.to_json() for cut in each] for name, each in named.items()},
        **settings,
    )


def _read(
    model: Any,
    task: Task,
    named: Mapping[str, Cuts],
    parts: Parts | None,
    before: Scores | None,
    options: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """The readings of one checkpoint as plain data; nothing of the model is kept.

    `before` are its uncut scores, if something of it has been said, which it must be of the weights of.
    """
    _require_room(model, task, named, parts, options)
    with hashed_once(model):
        uncut = replace(evaluate(model, task, baseline=before, **options), baseline=None)
        scores: dict[str, Scores] = {UNCUT: uncut}
        for name, each in named.items():
            scores[name] = evaluate(model, task, each, baseline=uncut, **options)
        line = dict(readings=plain({name: Reading.of(each) for name, each in scores.items()}))
        if parts is not None:
            line[_PARTS] = plain(parts.attribute(model, task, **options))
    return line


def _require_room(
    model: Any,
    task: Task,
    named: Mapping[str, Cuts],
    parts: Parts | None,
    options: Mapping[str, Any],
) -> None:
    """Cuts take room for their factors, and parts for theirs: asked for before the uncut pass."""
    limits = {name: options[name] for name in ("batch_size", "max_memory")}
    if limits["max_memory"] is not None:
        encoded = encode(model, task, prepend_bos=options["prepend_bos"])
        for each in named.values():
            prompts_that_fit(model, encoded, [cut.site for cut in each], **limits)
        if parts is not None:
            parts.require_room(model, encoded, **limits)


def check_checkpoints(checkpoints: Any) -> tuple[int, ...]:
    """Training steps in order, each once.

    Raises:
        ValueError: if there are none, or one is no step.
    """
    try:
        steps = list(checkpoints)
    except TypeError:
        steps = []
    numbers = [whole(step) for step in steps]
    wrong = [step for step, number in zip(steps, numbers, strict=True) if number is None or number < 0]
    if wrong or not steps:
        raise ValueError(
            "checkpoints must be training steps, integers from 0 up such as [0, 1, 512, 143000], got "
            f"{(wrong or [checkpoints])[0]!r}."
        )
    return tuple(sorted({number for number in numbers if number is not None}))


def _named(cuts: Any) -> dict[str, Cuts]:
    if not isinstance(cuts, Mapping):
        found = Cuts(cuts)
        return {"cut": found} if found else {}
    named = {str(name): Cuts(each) for name, each in cuts.items()}
    empty = [name for name, each in named.items() if not each or name == UNCUT]
    if empty:
        raise ValueError(
            f"Each name in cuts must stand for at least one cut and not be {UNCUT!r}, got {empty[0]!r}."
        )
    return named
