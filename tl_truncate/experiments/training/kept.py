"""What a run of dynamics has finished, in its folder: its own lines, or those of all its shards."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tl_truncate.experiments.training.alike import require_alike
from tl_truncate.experiments.training.reading import GRIDS, PARTS, UNCUT, WANTED, said_of
from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.sharded.joining import take_over
from tl_truncate.runs.sharded.kinds import RunKind
from tl_truncate.runs.sharded.opening import opened_shard
from tl_truncate.runs.sharded.parts import MOMENT
from tl_truncate.runs.shards import Shard
from tl_truncate.tasks.task import Task


def tasks_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The tasks in a run's manifest as plain data, by name; an earlier version had one.

    A description is no part of what is compared, and stands by itself.
    """
    if "tasks" not in manifest:
        return {manifest["task_name"]: manifest["task"]}
    about = manifest.get("about", {})
    return {
        name: {**task, "description": about.get(name, "")} for name, task in manifest["tasks"].items()
    }


def facts_of(tasks: Sequence[Task]) -> dict[str, Any]:
    """What a manifest says of tasks; `tasks_of` is the inverse."""
    plain = {task.name: task.to_json() for task in tasks}
    about = {name: task.pop("description", "") for name, task in plain.items()}
    return dict(tasks=plain, about=about, task_hashes={task.name: task.hash for task in tasks})


def names_of(steps: Sequence[int], tasks: Sequence[str], said: Sequence[str]) -> list[str]:
    """A name for each thing that is said of each task at each step."""
    return [_name(step, task, each) for step in steps for task in tasks for each in said]


def things(cuts: Iterable[str], parts: bool, grids: Iterable[str]) -> tuple[str, ...]:
    """What is to be said: of the uncut model, of cuts by their names, of parts, of grids by their keys.

    Examples:
        >>> things(["parts"], True, ["1f"])
        ('uncut', 'cut parts', 'parts', 'grid 1f')
    """
    named = (of_cut(name) for name in cuts if name != UNCUT)
    return (UNCUT, *named, *([PARTS] if parts else []), *map(of_grid, grids))


def of_cut(name: str) -> str:
    """What is said of a cut, in `things`."""
    return f"cut {name}"


def of_grid(key: str) -> str:
    """What is said of a grid, in `things`."""
    return f"grid {key}"


def said_in(said: Mapping[str, Any]) -> tuple[str, ...]:
    """What a line says of one task, as `things` names it."""
    return things(said["readings"], PARTS in said, said.get(GRIDS, ()))


def _name(step: int, task: str, what: str) -> str:
    return json.dumps([step, task, what])


def _wanted(manifest: Mapping[str, Any]) -> list[str]:
    said = things(manifest["cuts"], manifest.get(PARTS) is not None, manifest.get(GRIDS, ()))
    return names_of(manifest["checkpoints"], list(tasks_of(manifest)), said)


def _told(line: Mapping[str, Any]) -> list[str]:
    return [
        _name(line["step"], task, each) for task, said in said_of(line).items() for each in said_in(said)
    ]


#: A run folder of dynamics. Nothing of what it may be gone on with changes a number that is there.
#: Shards are of one training run, by its name; each of its checkpoints has weights of its own.
DYNAMICS = RunKind(
    "dynamics",
    wanted=_wanted,
    told=_told,
    passed_over=lambda line: line.get(WANTED, ()),
    free=("model", "about", "resamples"),
    grows=("checkpoints", "cuts", "tasks", "task_hashes", PARTS, GRIDS),
    alike=("model",),
    require_alike=require_alike,
)


@dataclass(frozen=True)
class Kept:
    """What was there when a run began.

    Attributes:
        folder: that new lines are written to; None if nothing is kept.
        lines: of the folder; of a shard, those of all others behind its own.
        begin: writes what is asked for into the folder, and gives the manifest as this call asks for it.
    """

    folder: RunFolder | None
    lines: list[dict[str, Any]]
    begin: Callable[[], Mapping[str, Any]]

    def add(self, line: dict[str, Any]) -> None:
        """Keeps what is finished, and waits until it is on the disk.

        Raises:
            ValueError: if it is of a model that was made in another way than those before; nothing is
                kept of it then.
        """
        self.require_alike(line)
        if self.folder is not None:
            self.folder.append([line])
        self.lines.append(line)

    def require_alike(self, *more: dict[str, Any]) -> None:
        """That all lines, and some more, are of models that were made in one way.

        Raises:
            ValueError: if they are not.
        """
        where = "" if self.folder is None else f" What is kept is in {self.folder.path}."
        remedy = "Have load make all of them in one way, or use a folder for each way."
        require_alike([*self.lines, *more], f"{remedy}{where}")


@contextmanager
def kept_in(
    run_dir: str | os.PathLike[str] | None,
    shard: Shard | None,
    manifest: dict[str, Any],
    names: Sequence[str],
    *,
    resume: bool,
) -> Iterator[Kept]:
    """What a run has finished; inside, its folder is held, if it has one.

    Args:
        run_dir: the folder, or None.
        shard: which share of the run this is; None is all of it.
        manifest: of the whole run.
        names: of what is this shard's.
        resume: False refuses a folder that holds a run.

    Raises:
        ValueError: if the folder holds another run.
        BlockingIOError: if another process works in the folder, or on the same shard.
    """
    if run_dir is None:
        yield Kept(None, [], lambda: manifest)
        return
    folder = RunFolder(run_dir)
    if shard is None:
        with folder.held():
            take_over(folder.path, DYNAMICS, resume=resume)
            _renew(folder)
            if folder.exists() and resume:
                folder.require_same_run(manifest, **DYNAMICS.may_differ)
            begin = partial(folder.open, manifest, resume=resume, **DYNAMICS.may_differ)
            if folder.exists() and not resume:
                begin()  # which refuses
            yield Kept(folder, folder.lines(), begin)
        return
    if folder.exists():
        with folder.held(wait=MOMENT):
            _renew(folder)
    with opened_shard(run_dir, shard, manifest, names, DYNAMICS, resume=resume) as own:
        yield Kept(own.folder, [*own.folder.lines(), *own.elsewhere], lambda: own.manifest)


def _renew(folder: RunFolder) -> None:
    """Writes the manifest of an earlier version, which had one task, as it is written today."""
    if not folder.exists() or "task_name" not in (found := folder.manifest()):
        return
    kept = {name: each for name, each in found.items() if not name.startswith("task")}
    name, task = found["task_name"], dict(found["task"])
    about = {name: task.pop("description", "")}
    new = dict(tasks={name: task}, about=about, task_hashes={name: found["task_hash"]})
    folder.take({**kept, **new}, None, folder.lines())
