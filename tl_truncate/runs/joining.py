"""Shards of a run that become one run again: begun together, read together, merged.

All shards of a run are of one model, one set of prompts and one list of what is wanted, divided into the
same number of shares. Whichever of them has finished a setting, it is finished for all.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tl_truncate.runs.folder import CIRCUMSTANCES, RESUMED, RunFolder, differences, gone_on
from tl_truncate.runs.interrupts import says_how_to_go_on
from tl_truncate.runs.shards import Shard, shard_folder, shards_in

# In a shard's manifest: which one it is, and the names of what is its share.
_SHARD, _SHARE = "shard", "share"
#: Seconds for which the run's folder may be held by other shards that begin.
MOMENT = 60.0


class UnfinishedShardsWarning(UserWarning):
    """A run was read of which some shards have something to do."""


@dataclass(frozen=True)
class RunKind:
    """How runs of one kind are told apart and joined.

    Attributes:
        name: the kind in the manifest.
        wanted: names of all that a manifest asks for.
        told: names of what a line says.
        passed_over: names of what cannot be had, as a line says. They are not there, but no shard has to
            be waited for because of them.
        free, grows, noted: as for `RunFolder.open`.
        alike: of what is free or noted, that in which shards must agree.
    """

    name: str
    wanted: Callable[[Mapping[str, Any]], Sequence[str]]
    told: Callable[[Mapping[str, Any]], Sequence[str]]
    passed_over: Callable[[Mapping[str, Any]], Sequence[str]] = lambda line: ()
    free: Collection[str] = ()
    grows: Collection[str] = ()
    noted: Collection[str] = ()
    alike: Collection[str] = ()

    @property
    def may_differ(self) -> dict[str, Any]:
        """What a run may be gone on with."""
        return dict(free=self.free, grows=self.grows, noted=self.noted)


@dataclass(frozen=True)
class _Part:
    """A shard as its folder has it."""

    shard: Shard
    folder: RunFolder
    manifest: Mapping[str, Any]
    lines: Sequence[dict[str, Any]]

    @property
    def of_the_run(self) -> dict[str, Any]:
        """The manifest that the run would have."""
        own = (_SHARD, _SHARE, RESUMED)
        return {name: value for name, value in self.manifest.items() if name not in own}


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


@dataclass(frozen=True)
class OpenedShard:
    """A shard at work.

    Attributes:
        folder: its own.
        manifest: of the run, as this shard was asked.
        elsewhere: lines of what others have finished.
        baseline: what the uncut model says; None if no process has come so far.
    """

    folder: RunFolder
    manifest: dict[str, Any]
    elsewhere: list[dict[str, Any]] = field(default_factory=list)
    baseline: Any = None


@contextmanager
def opened_shard(
    run_dir: str | os.PathLike[str],
    shard: Shard,
    manifest: Mapping[str, Any],
    names: Sequence[str],
    kind: RunKind,
    *,
    resume: bool,
) -> Iterator[OpenedShard]:
    """A shard's folder, held and opened for its work.

    Args:
        run_dir: of the run.
        shard: which.
        manifest: of the whole run.
        names: what of it is this shard's.
        kind: of run.
        resume: False refuses what was begun.

    Raises:
        ValueError: if the folder, or a shard that is there and was not merged, is of another run, or of
            another number of shards.
        BlockingIOError: if another process works on this shard, or on the whole run.
    """
    whole, own = RunFolder(run_dir), RunFolder(shard_folder(run_dir, shard))
    whole.require_room()
    with says_how_to_go_on(whole.path), own.held():
        with whole.held(wait=MOMENT):
            opened = _begin(whole, own, shard, manifest, names, kind, resume)
        parts = [part for part in _parts(run_dir) if part.shard != shard]
        baselines = [folder.baseline() for folder in (own, whole, *(part.folder for part in parts))]
        yield OpenedShard(
            own,
            opened,
            [*whole.lines(), *(line for part in parts for line in part.lines)],
            next((each for each in baselines if each is not None), None),
        )


def _begin(
    whole: RunFolder,
    own: RunFolder,
    shard: Shard,
    manifest: Mapping[str, Any],
    names: Sequence[str],
    kind: RunKind,
    resume: bool,
) -> dict[str, Any]:
    """Opens a shard's folder, if it goes together with what is there."""
    wanted = dict(manifest)
    if whole.exists():
        if not resume:
            raise ValueError(
                f"The run folder must be new without resume, got {whole.path}, which holds a run."
            )
        whole.require_same_run(wanted, **kind.may_differ)
    if own.exists():
        own.require_same_run(wanted | {_SHARD: _told(shard), _SHARE: []}, **_may_differ_in(kind))
    others = [part for part in _unmerged(whole.path, kind) if part.shard != shard]
    _require_one_run(
        whole, [*others, _Part(shard, own, wanted, [])], kind, "Use another folder for another run."
    )
    # What a shard asks for now is all that it is asked for: its list does not grow, as a run's does.
    strict = [name for name in kind.noted if name not in kind.alike]
    free = (*kind.free, *kind.grows, _SHARE)
    marked = wanted | {_SHARD: _told(shard), _SHARE: list(names)}
    return own.open(marked, resume=resume, free=free, noted=strict)


def _may_differ_in(kind: RunKind) -> dict[str, Any]:
    """What a shard may be gone on with."""
    strict = [name for name in kind.noted if name not in kind.alike]
    return dict(free=(*kind.free, _SHARE), grows=kind.grows, noted=strict)


def unmerged_folders(run_dir: str | os.PathLike[str], kind: RunKind) -> list[Path]:
    """The folders of shards that have something that the run's own folder has not."""
    return [part.folder.path for part in _unmerged(run_dir, kind)]


def kind_of(run_dir: str | os.PathLike[str]) -> str | None:
    """Which kind of run a folder holds, be it in shards; None if none was begun."""
    whole = RunFolder(run_dir)
    folders = [whole, *(RunFolder(path) for _, path in shards_in(run_dir))]
    found = next((folder for folder in folders if folder.exists()), None)
    return None if found is None else found.manifest().get("kind")


def shard_of(manifest: Mapping[str, Any]) -> Shard | None:
    """Which shard a manifest is of; None if it is of a whole run."""
    found = manifest.get(_SHARD)
    return None if found is None else Shard(**found)


def _told(shard: Shard) -> dict[str, int]:
    return dict(index=shard.index, count=shard.count)


def join(run_dir: str | os.PathLike[str], kind: RunKind) -> Joined:
    """Reads a run folder, with what its shards have finished.

    Args:
        run_dir: a run folder, or one that has shards alone.
        kind: of run.

    Raises:
        ValueError: if the folder holds no run of that kind, or its shards are not of one run.
    """
    whole = RunFolder(run_dir)
    parts = _unmerged(run_dir, kind)
    _require_one_run(whole, parts, kind, "Delete the folder of the wrong one, and run that shard again.")
    if not whole.exists() and parts:
        manifest, lines, baseline = parts[0].of_the_run, [], None
    else:
        manifest, lines, baseline = whole.manifest(), whole.lines(), whole.baseline()
        _require_kind(manifest, kind, whole)
    there = _all_told(lines, kind)
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
    wanted = kind.wanted(manifest)
    if there.issuperset(wanted):
        return Joined(manifest, baseline, lines, True, ())
    # Those of which all is in the run's folder already may have sisters that have not begun.
    at_work = {part.shard for part in parts}
    asked = [
        part
        for part in _parts(run_dir)
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
    parts = _unmerged(run_dir, kind)
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
        parts = _unmerged(run_dir, kind)
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


def _parts(run_dir: str | os.PathLike[str]) -> list[_Part]:
    """The shards that have begun."""
    found = []
    for shard, path in shards_in(run_dir):
        folder = RunFolder(path)
        if folder.exists():
            found.append(_Part(shard, folder, folder.manifest(), folder.lines()))
    return found


def _unmerged(run_dir: str | os.PathLike[str], kind: RunKind) -> list[_Part]:
    """The shards that have begun, but for those of which all is in the run's folder already."""
    whole, parts = RunFolder(run_dir), _parts(run_dir)
    for part in parts:
        _require_kind(part.manifest, kind, part.folder)
    if not whole.exists() or not parts:
        return parts
    _require_kind(whole.manifest(), kind, whole)
    wanted, lines = set(kind.wanted(whole.manifest())), whole.lines()
    return [part for part in parts if not _is_merged(part, kind, wanted, lines)]


def _is_merged(part: _Part, kind: RunKind, wanted: set[str], lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all that it has told, and all of its share that can be had, is among the run's lines."""
    there = _all_told(lines, kind)
    passed_over = {name for line in lines for name in kind.passed_over(line)}
    return (
        wanted.issuperset(kind.wanted(part.manifest))
        and there.issuperset(_all_told(part.lines, kind))
        and (there | passed_over).issuperset(part.manifest[_SHARE])
    )


def _all_told(lines: Sequence[Mapping[str, Any]], kind: RunKind) -> set[str]:
    return {name for line in lines for name in kind.told(line)}


def _require_kind(manifest: Mapping[str, Any], kind: RunKind, folder: RunFolder) -> None:
    if manifest.get("kind") != kind.name:
        raise ValueError(
            f"The run folder must be of kind {kind.name!r}, got kind {manifest.get('kind')!r} in "
            f"{folder.path}."
        )


def _require_one_run(whole: RunFolder, parts: Sequence[_Part], kind: RunKind, remedy: str) -> None:
    """That shards are of the same run, and of as many.

    Raises:
        ValueError: if they are not, with what differs.
    """
    counts = sorted({part.shard.count for part in parts})
    if len(counts) > 1:
        shown = ", ".join(str(part.shard) for part in parts)
        raise ValueError(
            f"The shards in {whole.path} must be of one number until they are merged, got shards of "
            f"{' and of '.join(map(str, counts))}: {shown}. Go on with one number and merge; or leave "
            "shard away, and one process takes over what they have finished."
        )
    free = {*kind.free, *kind.noted, *CIRCUMSTANCES, _SHARD, _SHARE}.difference(kind.alike)
    for part in parts[1:]:
        one, other = (
            {name: value for name, value in each.of_the_run.items() if name not in free}
            for each in (parts[0], part)
        )
        different = differences(one, other, f"in {parts[0].shard}", f"in {part.shard}")
        if different:
            raise ValueError(
                f"The shards in {whole.path} must be of the same model, prompts, settings and sizes of "
                f"batches. {part.shard} differs from {parts[0].shard} in: {different}. {remedy}"
            )


def _note(manifest: dict[str, Any], part: _Part) -> None:
    """Keeps what a shard has noted of its circumstances."""
    noted = [{"shard": str(part.shard), **each} for each in part.manifest.get(RESUMED, [])]
    new = [each for each in noted if each not in manifest.get(RESUMED, [])]
    if new:
        manifest[RESUMED] = [*manifest.get(RESUMED, []), *new]


def _lacking(parts: Sequence[_Part], there: set[str]) -> Iterator[str]:
    """A word on each shard that has something to do."""
    count = max((part.shard.count for part in parts), default=0)
    begun = {part.shard.index: part for part in parts if part.shard.count == count}
    for index in range(1, count + 1):
        part = begun.get(index)
        if part is None:
            yield f"{Shard(count, index)} has not begun"
            continue
        left = sum(name not in there for name in part.manifest[_SHARE])
        if left:
            yield f"{part.shard} has {left} of {len(part.manifest[_SHARE])} to do"
