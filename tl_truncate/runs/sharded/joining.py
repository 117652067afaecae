"""Shards of a run that become one run again: read together, taken over by one process, merged.

All shards of a run are of one model, one set of prompts and one list of what is wanted, divided into the
same number of shares. Whichever of them has finished a setting, it is finished for all.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.manifests import RESUMED, gone_on
from tl_truncate.runs.sharded.kinds import RunKind
from tl_truncate.runs.sharded.parts import (
    MOMENT,
    SHARE,
    Part,
    all_told,
    parts_of,
    require_kind,
    require_one_run,
    unmerged,
)
from tl_truncate.runs.shards import Shard

_REMEDY = "Delete the folder of the wrong one, and run that shard again."
_USE_ANOTHER = "Compute what is wrong in another folder."


class UnfinishedShardsWarning(UserWarning):
    """A run was read of which some shards have something to do."""


@dataclass(frozen=True)
class Joined:
    """A run of which some may be in shards.

    Attributes:
        manifest: of the whole run.
        baseline: what the uncut model says; None if no process has come so far.
        lines: all that is finished, each setting once.
        finished: whether that is all that is wanted.
        lacking: if it is not, a word on each shard that has something to do.
    """

    manifest: dict[str, Any]
    baseline: Any
    lines: list[dict[str, Any]]
    finished: bool
    lacking: tuple[str, ...]


def join(run_dir: str | os.PathLike[str], kind: RunKind) -> Joined:
    """Reads a run folder, with what its shards have finished.

    Args:
        run_dir: a run folder, or one that has shards alone.
        kind: of run.

    Raises:
        ValueError: if the folder holds no run of that kind, or its shards are not of one run.
    """
    whole = RunFolder(run_dir)
    parts = unmerged(run_dir, kind)
    require_one_run(whole, parts, kind, _REMEDY)
    if not whole.exists() and parts:
        manifest, lines, baseline = parts[0].of_the_run, [], None
    else:
        manifest, lines, baseline = whole.manifest(), whole.lines(), whole.baseline()
        require_kind(manifest, kind, whole)
    there = all_told(lines, kind)
    for part in parts:
        if whole.exists():
            whole.require_same_run(part.of_the_run, **kind.may_differ)
        manifest = gone_on(manifest, part.of_the_run, **kind.may_differ, after=len(lines))
        _note(manifest, part)
        for line in part.lines:
            new = kind.passed_over(line) and line not in lines
            if new or not there.issuperset(kind.told(line)):
                lines.append(line)
                there.update(kind.told(line))
        baseline = part.folder.baseline() if baseline is None else baseline
    kind.require_alike(lines, f"They are in {whole.path}. {_REMEDY if parts else _USE_ANOTHER}")
    wanted = kind.wanted(manifest)
    if there.issuperset(wanted):
        return Joined(manifest, baseline, lines, True, ())
    # Those of which all is in the run's folder already may have sisters that have not begun.
    at_work = {part.shard for part in parts}
    asked = [
        part
        for part in parts_of(run_dir)
        if part.shard in at_work or {*wanted} <= {*kind.wanted(part.manifest)}
    ]
    passed_over = {name for line in lines for name in kind.passed_over(line)}
    return Joined(manifest, baseline, lines, False, tuple(_lacking(asked, there | passed_over)))


def take_over(run_dir: str | os.PathLike[str], kind: RunKind, *, resume: bool) -> None:
    """Writes into a run folder, which is held, what its shards have finished; they stay as they are.

    Args:
        run_dir: of the run.
        kind: of run.
        resume: False refuses a folder in which shards have begun.

    Raises:
        ValueError: if the shards are not of one run.
        BlockingIOError: if a process is at work on a shard that is not merged.
    """
    parts = unmerged(run_dir, kind)
    if parts and not resume:
        raise ValueError(
            f"The run folder must be new without resume, got {run_dir}, in which shards have begun."
        )
    for part in parts:
        with part.folder.held():
            continue
    if parts:
        _write(run_dir, join(run_dir, kind))


def merge_shards(
    run_dir: str | os.PathLike[str],
    kind: RunKind,
    bring: Callable[[Sequence[Path]], None] | None = None,
) -> None:
    """Makes an ordinary run folder of one with shards, which stay as they are.

    Args:
        run_dir: of the run.
        kind: of run.
        bring: is given the shards' folders, and brings files that they have beside their lines into the
            run's folder.

    Raises:
        ValueError: if a shard has something to do, with which and how; or if they are not of one run.
        BlockingIOError: if a process is at work in the run folder.
    """
    whole = RunFolder(run_dir)
    with whole.held(wait=MOMENT):
        joined = join(run_dir, kind)
        if joined.lacking:
            raise ValueError(
                f"All shards must be finished to be merged. {lacking_told(run_dir, joined)}"
            )
        parts = unmerged(run_dir, kind)
        if parts and bring is not None:
            # Without the lines, so that shards are still to be joined if a crash ends it here.
            whole.take(joined.manifest, None, whole.lines() if whole.exists() else [])
            bring([part.folder.path for part in parts])
        if parts:
            _write(run_dir, joined)


def lacking_told(run_dir: str | os.PathLike[str], joined: Joined) -> str:
    """Which shards have something to do, and how that is done."""
    return (
        f"In {run_dir} {', '.join(joined.lacking)}. Make the same call again for each, with the same "
        f"folder and its shard, such as --shard {joined.lacking[0].split()[0]}; what it has finished is "
        "kept."
    )


def _write(run_dir: str | os.PathLike[str], joined: Joined) -> None:
    whole = RunFolder(run_dir)
    known = whole.baseline() is not None
    whole.take(joined.manifest, None if known else joined.baseline, joined.lines)


def _note(manifest: dict[str, Any], part: Part) -> None:
    """Keeps what a shard has noted of its circumstances."""
    noted = [{"shard": str(part.shard), **each} for each in part.manifest.get(RESUMED, [])]
    new = [each for each in noted if each not in manifest.get(RESUMED, [])]
    if new:
        manifest[RESUMED] = [*manifest.get(RESUMED, []), *new]


def _lacking(parts: Sequence[Part], there: set[str]) -> Iterator[str]:
    """A word on each shard that has something to do."""
    count = max((part.shard.count for part in parts), default=0)
    begun = {part.shard.index: part for part in parts if part.shard.count == count}
    for index in range(1, count + 1):
        part = begun.get(index)
        if part is None:
            yield f"{Shard(count, index)} has not begun"
            continue
        left = sum(name not in there for name in part.manifest[SHARE])
        if left:
            yield f"{part.shard} has {left} of {len(part.manifest[SHARE])} to do"
