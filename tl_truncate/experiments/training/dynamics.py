"""A task asked of every checkpoint of a training run, uncut and cut, one model at a time."""

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from tl_truncate.checks import positive
from tl_truncate.experiments.scoring.evaluate import Scores, check_task, evaluate
from tl_truncate.experiments.scoring.memory import prompts_that_fit
from tl_truncate.experiments.training.parts_over_training import Parts
from tl_truncate.experiments.training.reading import Reading
from tl_truncate.experiments.training.result import UNCUT, Dynamics, dynamics_fields
from tl_truncate.runs.codec import plain
from tl_truncate.runs.folder import RunFolder, make_manifest
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.tasks.encode import encode
from tl_truncate.tasks.task import Task

Load = Callable[[int], Any]
AnyCuts = SiteCut | Sequence[SiteCut]


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
            stopped.
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
            loaded.
        TypeError: if an argument is of the wrong kind.

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> history = tlt.dynamics(lambda step: model, [0, 1], task, tlt.Ablated("blocks.0.mlp.W_out"))
        >>> history.frame[["step", "cut"]].values.tolist()
        [[0, 'uncut'], [0, 'cut'], [1, 'uncut'], [1, 'cut']]
    """
    check_task(task)
    steps, named = check_checkpoints(checkpoints), _named(cuts)
    for option, value in (("batch_size", batch_size), ("resamples", resamples)):
        positive(option, value)
    if not callable(load):
        raise TypeError(f"load must be a function from a training step to a model, got {load!r}.")
    settings: dict[str, Any] = dict(prepend_bos=prepend_bos, seed=seed, resamples=resamples)
    if parts is not None:
        settings["parts"] = parts.to_json()
    manifest = _manifest(name, task, steps, named, settings)
    folder = None if run_dir is None else RunFolder(run_dir)
    if folder is not None:
        folder.open(manifest, resume=resume)
    lines = [] if folder is None else folder.lines()
    options: dict[str, Any] = dict(prepend_bos=prepend_bos, resamples=resamples, seed=seed)
    options |= dict(batch_size=batch_size, max_memory=max_memory, progress=False)
    done = {line["step"] for line in lines}
    left = [step for step in steps if step not in done]
    with tqdm(
        total=len(steps), initial=len(done), desc="dynamics", unit="checkpoint", disable=not progress
    ) as bar:
        for step in left:
            bar.set_postfix_str(f"step {step}")
            gc.collect()  # models may hold themselves in cycles, and the next one needs the room
            line = dict(step=step, **_read(load(step), task, named, parts, options))
            if folder is not None:
                folder.append([line])
            lines.append(line)
            bar.update()
    return Dynamics(**dynamics_fields(manifest, lines))


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
    options: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """The readings of one checkpoint as plain data; nothing of the model is kept."""
    _require_room(model, task, named, parts, options)
    uncut = evaluate(model, task, **options)
    scores: dict[str, Scores] = {UNCUT: uncut}
    for name, each in named.items():
        scores[name] = evaluate(model, task, each, baseline=uncut, **options)
    line = dict(readings=plain({name: Reading.of(each) for name, each in scores.items()}))
    if parts is not None:
        line["parts"] = plain(parts.attribute(model, task, **options))
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
    wrong = [step for step in steps if isinstance(step, bool) or not isinstance(step, int) or step < 0]
    if wrong or not steps:
        raise ValueError(
            "checkpoints must be training steps, integers from 0 up such as [0, 1, 512, 143000], got "
            f"{(wrong or [checkpoints])[0]!r}."
        )
    return tuple(sorted(set(steps)))


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
