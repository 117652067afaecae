"""Tasks asked of every checkpoint of a training run, uncut and cut, one model at a time."""

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from tl_truncate.checks import natural, positive, whole
from tl_truncate.experiments.scoring.evaluate import as_tasks
from tl_truncate.experiments.training.alike import different
from tl_truncate.experiments.training.checkpoints.checkpoint import Passes
from tl_truncate.experiments.training.checkpoints.failing import (
    BadCheckpointWarning,
    require_some,
)
from tl_truncate.experiments.training.checkpoints.places import BOS, Load, Look, Reader, reader_of
from tl_truncate.experiments.training.checkpoints.requests import Wanted, requests
from tl_truncate.experiments.training.grid import Grid
from tl_truncate.experiments.training.kept import facts_of, kept_in, names_of
from tl_truncate.experiments.training.parts_over_training import Parts
from tl_truncate.experiments.training.reading import (
    FAILED,
    GRIDS,
    PARTS,
    UNCUT,
    Reading,
    said_of,
)
from tl_truncate.experiments.training.result import Dynamics
from tl_truncate.experiments.training.told import dynamics_fields
from tl_truncate.models.checkpoints import Checkpoints
from tl_truncate.runs.codec import read
from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.manifests import TOKENS, make_manifest
from tl_truncate.runs.record import Record
from tl_truncate.runs.shards import Shard, as_shard, every_nth, require_folder
from tl_truncate.runs.workers.pool import Pool
from tl_truncate.runs.workers.ray import Ray
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.tasks.task import Task
from tl_truncate.weights.files import as_path

AnyCuts = SiteCut | Sequence[SiteCut]
# Of the passes' options those that a run is of.
_OF_A_RUN = ("prepend_bos", "seed", "resamples")


def dynamics(
    load: Load,
    checkpoints: Sequence[int],
    task: Task | Sequence[Task],
    cuts: AnyCuts | Mapping[str, AnyCuts] = (),
    *,
    parts: Parts | None = None,
    grid: Grid | None = None,
    name: str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    shard: tuple[int, int] | None = None,
    resume: bool = True,
    prepend_bos: bool | None = None,
    batch_size: int = 32,
    max_memory: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
    on: Ray | Pool | None = None,
    progress: bool = True,
) -> Dynamics:
    """Scores tasks at each checkpoint, uncut and cut; one model is in memory at a time.

    The numbers are those of `evaluate`, to rounding. Cuts that are each made alone share the uncut pass
    and the blocks below them, as in `sweep`, and all tasks share the loading of a checkpoint.

    Args:
        load: gives the model of a training step, such as `run.at` of a recall run; or
            `tlt.Checkpoints("EleutherAI/pythia-160m")`, which fetches the next while one is scored.
        checkpoints: training steps, in any order.
        task: prompts and answers, the same at each checkpoint; or several tasks with different names.
        cuts: made together; or several such by name, each scored by itself. The spectra are those of
            each checkpoint. A control's further draws have its name with #2, #3, ... after it, and share
            its row.
        parts: divides each checkpoint's MLP outputs, and says what their global and in-context parts add
            to the two answers; means are fitted anew for each checkpoint.
        grid: a sweep at each checkpoint, in a run folder of its own within `run_dir`, which it needs;
            `.sweep(step)` and `.sweep_frame` read it.
        name: of the training run, for the record and the figure.
        run_dir: a folder with a line for each finished checkpoint. Given again, the run goes on where it
            stopped, also with more checkpoints, cuts or tasks; the last finished checkpoint is loaded
            again, to see that `load` gives the same weights.
        shard: `(3, 8)` makes every eighth checkpoint from the third on. The others are made by the same
            call in other processes, on any machine that has the folder; `merge` or `Dynamics.load` joins
            them. The result is of this shard alone.
        resume: False refuses a folder that holds a run.
        prepend_bos: overrides the models' default.
        batch_size: prompts in a pass.
        max_memory: most bytes beside a model, by an estimate; fewer prompts share a pass then.
        resamples: has no effect; of versions whose intervals were drawn.
        seed: for the record; nothing is drawn.
        on: `tlt.Ray(workers=8)` has as many checkpoints read at a time, by processes of their own, to
            which `load` is sent; only this one writes the folder.
        progress: shows a bar, and before it what `Checkpoints` will download.

    Returns:
        The history: `.frame`, `.scores(step, name)`, `.first_step(metric, above)`, and with parts
        `.parts` and `.parts_frame`.

    Raises:
        ValueError: if an argument does not fit, or the folder holds another run; before a model is
            loaded. If `load` gives other weights than those of a finished checkpoint. And if no single
            checkpoint can be read.
        TypeError: if an argument is of the wrong kind.
        BadCheckpointWarning: as a warning, if a checkpoint is passed over: its files are not there, not
            whole or of another model, or its logits are not finite, twice. It is in `.failed`, has rows
            without numbers, and is tried again by the next call with the same folder.
        BlockingIOError: if another process works in the folder, or on the same shard.

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> history = tlt.dynamics(lambda step: model, [0, 1], task, tlt.Ablated("blocks.0.mlp.W_out"))
        >>> history.frame[["step", "cut"]].values.tolist()
        [[0, 'uncut'], [0, 'cut'], [1, 'uncut'], [1, 'cut']]
    """
    tasks = as_tasks(task)
    steps, named = check_checkpoints(checkpoints), _named(cuts)
    _check_load(load, grid, on, run_dir)
    passes = Passes(
        prepend_bos=prepend_bos,
        batch_size=positive("batch_size", batch_size),
        max_memory=max_memory,
        resamples=positive("resamples", resamples),
        seed=natural("seed", seed),
    )
    part = as_shard(shard)
    require_folder(part, run_dir)
    name = load.name if name is None and isinstance(load, Checkpoints) else name
    manifest = _manifest(name, tasks, steps, named, parts, grid, passes)
    own = steps if part is None else tuple(steps[place] for place in every_nth(len(steps), part))
    place = None if run_dir is None else as_path(run_dir)
    wanted = Wanted(tuple(tasks), named, parts, grid, passes, place)
    names = names_of(own, [task.name for task in tasks], wanted.things)
    with kept_in(run_dir, part, manifest, names, resume=resume) as kept:
        kept.require_alike()
        left = requests(own, wanted, kept.lines)
        checked = _last_finished(kept.lines, own)
        _say_downloads(load, [request.step for request in left], checked, aloud=progress)
        with (
            reader_of(load, on, progress=progress) as reader,
            _bar(len(own), len(left), part, shown=progress) as bar,
        ):
            if kept.folder is not None:
                _require_same_weights(reader, checked, wanted, kept.folder)
            asked = {**kept.begin(), "checkpoints": own}
            for line in reader.lines(left):
                bar.set_postfix_str(f"step {line['step']}")
                if FAILED in line:
                    _warn(line)
                kept.add(line)
                bar.update()
    require_some([line for line in kept.lines if line["step"] in own])
    return Dynamics(**dynamics_fields(asked, kept.lines, place, named))


def _check_load(
    load: Any, grid: Grid | None, on: Ray | Pool | None, run_dir: str | os.PathLike[str] | None
) -> None:
    if not callable(load):
        raise TypeError(f"load must be a function from a training step to a model, got {load!r}.")
    if grid is not None and on is not None:
        raise ValueError("grid must go without on: each checkpoint's sweep is a folder of its own.")
    if grid is not None and run_dir is None:
        raise ValueError("grid must come with run_dir, where each checkpoint's sweep is kept, got none.")


def _bar(count: int, left: int, shard: Shard | None, *, shown: bool) -> Any:
    return tqdm(
        total=count,
        initial=count - left,
        desc="dynamics" if shard is None else f"dynamics {shard}",
        unit="checkpoint",
        disable=not shown,
    )


def _say_downloads(
    load: Load, steps: Sequence[int], checked: Mapping[str, Any] | None, *, aloud: bool
) -> None:
    """What will be downloaded, before any of it is.

    Raises:
        OSError: if the disk has not the room.
    """
    if isinstance(load, Checkpoints):
        told = load.told(sorted({*steps, *([] if checked is None else [checked["step"]])}))
        if told is not None and aloud:
            tqdm.write(f"dynamics: {told}", file=sys.stderr)


def _warn(line: Mapping[str, Any]) -> None:
    warnings.warn(
        f"Step {line['step']} could not be read twice and is passed over: {line[FAILED]} The same call "
        "with the same run_dir tries it again.",
        BadCheckpointWarning,
        stacklevel=3,
    )


def _last_finished(lines: Sequence[Mapping[str, Any]], own: Sequence[int]) -> Mapping[str, Any] | None:
    """The line of the last step that something is said about; of a shard's own, if there is one."""
    finished = [line for line in lines if said_of(line)]
    mine = [line for line in finished if line["step"] in own]
    return max(mine or finished, key=lambda line: int(line["step"]), default=None)


def _require_same_weights(
    reader: Reader, last: Mapping[str, Any] | None, wanted: Wanted, folder: RunFolder
) -> None:
    """That the last finished checkpoint is loaded as the model that its line is of."""
    if last is None:
        return
    said = said_of(last)
    before = {
        name: read(dict[str, Reading], each["readings"])[UNCUT].record for name, each in said.items()
    }
    first = next(iter(before.values()))
    if first.weights_hash == Record().weights_hash:
        raise ValueError(
            f"The run in {folder.path} must say which weights it is of to be resumed, but an earlier "
            "version wrote it, which did not note them. It can still be read, by Dynamics.load; to "
            "compute more, use another folder."
        )
    tasks = tuple(task for task in wanted.tasks if task.name in before)
    now = reader.weights(Look(last["step"], tasks, wanted.passes.prepend_bos))
    of_tasks = [(BOS, name, before[name].prepend_bos, done) for name, done in now[BOS].items()]
    of_tasks += [(TOKENS, name, said[name].get(TOKENS), read) for name, read in now[TOKENS].items()]
    told = [different(first, now)] + [
        f"{about} of {name} ({one}, now {other})"
        for about, name, one, other in of_tasks
        if one not in (None, other)
    ]
    if any(told):
        raise ValueError(
            f"load must give the weights that the run in {folder.path} is of, but at step "
            f"{last['step']} it gives others, which differ in: {'; '.join(filter(None, told))}. Use "
            "another folder."
        )


def _manifest(
    name: str | None,
    tasks: Sequence[Task],
    steps: tuple[int, ...],
    named: Mapping[str, Cuts],
    parts: Parts | None,
    grid: Grid | None,
    passes: Passes,
) -> dict[str, Any]:
    settings: dict[str, Any] = {name: getattr(passes, name) for name in _OF_A_RUN}
    if parts is not None:
        settings[PARTS] = parts.to_json()
    if grid is not None:
        settings[GRIDS] = {grid.key: grid.to_json()}
    return make_manifest(
        "dynamics",
        model=name,
        **facts_of(tasks),
        checkpoints=list(steps),
        cuts={name: [cut.to_json() for cut in each] for name, each in named.items()},
        **settings,
    )


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
