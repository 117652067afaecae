"""A run that ends in one result: kept in its folder, or in as many parts as there are shards."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.sharded.joining import merge_shards
from tl_truncate.runs.sharded.kinds import RunKind
from tl_truncate.runs.sharded.opening import opened_shard
from tl_truncate.runs.sharded.parts import all_told, unmerged_folders
from tl_truncate.runs.shards import Shard

R = TypeVar("R")
_HAS = "has"


def said(line: Mapping[str, Any]) -> list[str]:
    """Names of what a result has, from its line."""
    return list(line[_HAS])


@dataclass(frozen=True)
class ResultKind(Generic[R]):
    """How results of one kind are kept, and joined.

    Attributes:
        run: of the run; `told` is `said`.
        save: a result into a folder.
        load: what `save` wrote.
        join: of the manifest, and of each shard's names with its result.
    """

    run: RunKind
    save: Callable[[R, Path], Any]
    load: Callable[[Path], R]
    join: Callable[[Mapping[str, Any], Sequence[tuple[list[str], R]]], R]


def kept(
    kind: ResultKind[R],
    run_dir: str | os.PathLike[str] | None,
    shard: Shard | None,
    manifest: dict[str, Any],
    names: Sequence[str],
    work: Callable[[Path | None], R],
) -> R:
    """The result of some work, which is done unless the folder has it.

    Args:
        kind: of result.
        run_dir: where it is kept; None keeps nothing.
        shard: which share of the run it is; None is the whole.
        manifest: of the whole run.
        names: of what this share has.
        work: makes it; is given its folder.

    Raises:
        ValueError: if the folder holds another run, or shards that are not merged.
        BlockingIOError: if another process works in the folder, or on the same shard.
    """
    if run_dir is None:
        return work(None)
    if shard is not None:
        with opened_shard(run_dir, shard, manifest, names, kind.run, resume=True) as own:
            return _once(kind, own.folder, names, work)
    folder = RunFolder(run_dir)
    with folder.held():
        if unmerged_folders(run_dir, kind.run):
            raise ValueError(
                "The run folder must have no shards that are not merged to be worked in as a whole, got "
                f"{run_dir}. Finish them and merge, or use another folder."
            )
        if _is_whole(kind, folder):
            folder.require_same_run(manifest, **kind.run.may_differ)
            return kind.load(folder.path)
        folder.open(manifest, resume=True, **kind.run.may_differ)
        return _once(kind, folder, names, work)


def _is_whole(kind: ResultKind[R], folder: RunFolder) -> bool:
    """Whether the folder has all that its run asked for, be it merged of shards: each of them has left a
    line, and means have other names for their shares than one process has for its own.
    """
    if not folder.exists():
        return False
    manifest, lines = folder.manifest(), folder.lines()
    # A run of another kind is refused where it is opened.
    return (
        manifest.get("kind") == kind.run.name
        and bool(lines)
        and all_told(lines, kind.run).issuperset(kind.run.wanted(manifest))
    )


def _once(kind: ResultKind[R], folder: RunFolder, names: Sequence[str], work: Callable[[Path], R]) -> R:
    if any(said(line) == list(names) for line in folder.lines()[-1:]):
        return kind.load(folder.path)
    result = work(folder.path)
    kind.save(result, folder.path)
    folder.append([{_HAS: list(names)}])
    return result


def merge_results(run_dir: str | os.PathLike[str], kind: ResultKind[R]) -> R:
    """Joins the results of shards into that of the run, and gives it.

    Raises:
        ValueError: if a shard is missing or unfinished, or they are not of one run.
        BlockingIOError: if a process is at work in the run folder.
    """

    def bring(folders: Sequence[Path]) -> None:
        parts = [(said(RunFolder(path).lines()[-1]), kind.load(path)) for path in folders]
        kind.save(kind.join(RunFolder(run_dir).manifest(), parts), RunFolder(run_dir).path)

    merge_shards(run_dir, kind.run, bring)
    return kind.load(RunFolder(run_dir).path)
