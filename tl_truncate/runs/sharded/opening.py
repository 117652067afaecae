"""Shards that begin: each in a folder of its own, if it is of the same run as what is there."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.interrupts import says_how_to_go_on
from tl_truncate.runs.sharded.kinds import RunKind
from tl_truncate.runs.sharded.parts import (
    DEFINED,
    MOMENT,
    SHARD,
    SHARE,
    Part,
    parts_of,
    require_one_run,
    unmerged,
)
from tl_truncate.runs.shards import Shard, shard_folder


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
        parts = [part for part in parts_of(run_dir) if part.shard != shard]
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
        own.require_same_run(wanted | {SHARD: _told(shard), SHARE: []}, **_may_differ_in(kind))
    defined = _defined(whole, own, wanted, kind)
    others = [part for part in unmerged(whole.path, kind) if part.shard != shard]
    require_one_run(
        whole, [*others, Part(shard, own, wanted, [])], kind, "Use another folder for another run."
    )
    # What a shard asks for now is all that it is asked for: its list does not grow, as a run's does.
    strict = [name for name in kind.noted if name not in kind.alike]
    free = (*kind.free, *kind.grows, SHARE, DEFINED)
    marked = wanted | {SHARD: _told(shard), SHARE: list(names), DEFINED: defined}
    return own.open(marked, resume=resume, free=free, noted=strict)


def _may_differ_in(kind: RunKind) -> dict[str, Any]:
    """What a shard may be gone on with."""
    strict = [name for name in kind.noted if name not in kind.alike]
    return dict(free=(*kind.free, SHARE, DEFINED), grows=kind.grows, noted=strict)


def _defined(
    whole: RunFolder, own: RunFolder, wanted: Mapping[str, Any], kind: RunKind
) -> dict[str, Any]:
    """What names stand for in a shard's lines, also those that this call does not ask for.

    Raises:
        ValueError: if one stood for something else, in this shard or in another.
    """
    found: dict[str, Any] = {}
    asked = {about: wanted[about] for about in kind.grows if isinstance(wanted.get(about), Mapping)}
    for about, now in asked.items():
        plain = found[about] = json.loads(json.dumps(dict(now)))
        for part in parts_of(whole.path):
            known = {
                **(part.manifest.get(about) or {}),
                **part.manifest.get(DEFINED, {}).get(about, {}),
            }
            other = [name for name, each in plain.items() if known.get(name, each) != each]
            if other:
                raise ValueError(
                    f"A name must stand for the same in all of a run, but {other[0]!r} of {about} is "
                    f"another one now than for what {part.folder.path} has finished. Use another name, "
                    "or another folder."
                )
            if part.folder.path == own.path:
                found[about] = {**known, **plain}
    return found


def _told(shard: Shard) -> dict[str, int]:
    return dict(index=shard.index, count=shard.count)
