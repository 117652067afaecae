"""The shards that have begun in a run's folder: of one run, and what of them the run itself has not."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.manifests import CIRCUMSTANCES, RESUMED, differences, untold
from tl_truncate.runs.sharded.kinds import RunKind
from tl_truncate.runs.shards import Shard, shards_in

#: In a shard's manifest: which one it is.
SHARD = "shard"
#: In a shard's manifest: the names of what is its share.
SHARE = "share"
#: In a shard's manifest: what every name of an entry that may grow has stood for in it so far.
DEFINED = "defined"
#: Seconds for which the run's folder may be held by other shards that begin.
MOMENT = 60.0


@dataclass(frozen=True)
class Part:
    """A shard as its folder has it."""

    shard: Shard
    folder: RunFolder
    manifest: Mapping[str, Any]
    lines: Sequence[dict[str, Any]]

    @property
    def of_the_run(self) -> dict[str, Any]:
        """The manifest that the run would have."""
        own = (SHARD, SHARE, DEFINED, RESUMED)
        return {name: value for name, value in self.manifest.items() if name not in own}


def kind_of(run_dir: str | os.PathLike[str]) -> str | None:
    """Which kind of run a folder holds, be it in shards; None if none was begun."""
    whole = RunFolder(run_dir)
    folders = [whole, *(RunFolder(path) for _, path in shards_in(run_dir))]
    found = next((folder for folder in folders if folder.exists()), None)
    return None if found is None else found.manifest().get("kind")


def shard_of(manifest: Mapping[str, Any]) -> Shard | None:
    """Which shard a manifest is of; None if it is of a whole run."""
    found = manifest.get(SHARD)
    return None if found is None else Shard(**found)


def unmerged_folders(run_dir: str | os.PathLike[str], kind: RunKind) -> list[Path]:
    """The folders of shards that have something that the run's own folder has not."""
    return [part.folder.path for part in unmerged(run_dir, kind)]


def parts_of(run_dir: str | os.PathLike[str]) -> list[Part]:
    """The shards that have begun."""
    found = []
    for shard, path in shards_in(run_dir):
        folder = RunFolder(path)
        if folder.exists():
            found.append(Part(shard, folder, folder.manifest(), folder.lines()))
    return found


def unmerged(run_dir: str | os.PathLike[str], kind: RunKind) -> list[Part]:
    """The shards that have begun, but for those of which all is in the run's folder already."""
    whole, parts = RunFolder(run_dir), parts_of(run_dir)
    for part in parts:
        require_kind(part.manifest, kind, part.folder)
    if not whole.exists() or not parts:
        return parts
    require_kind(whole.manifest(), kind, whole)
    wanted, lines = set(kind.wanted(whole.manifest())), whole.lines()
    return [part for part in parts if not _is_merged(part, kind, wanted, lines)]


def _is_merged(part: Part, kind: RunKind, wanted: set[str], lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all that it has told, and all of its share that can be had, is among the run's lines."""
    there = all_told(lines, kind)
    passed_over = {name for line in lines for name in kind.passed_over(line)}
    return (
        wanted.issuperset(kind.wanted(part.manifest))
        and there.issuperset(all_told(part.lines, kind))
        and (there | passed_over).issuperset(part.manifest[SHARE])
    )


def all_told(lines: Sequence[Mapping[str, Any]], kind: RunKind) -> set[str]:
    """Names of all that lines say."""
    return {name for line in lines for name in kind.told(line)}


def require_kind(manifest: Mapping[str, Any], kind: RunKind, folder: RunFolder) -> None:
    """That a manifest is of a run of that kind.

    Raises:
        ValueError: if it is of another.
    """
    if manifest.get("kind") != kind.name:
        raise ValueError(
            f"The run folder must be of kind {kind.name!r}, got kind {manifest.get('kind')!r} in "
            f"{folder.path}."
        )


def require_one_run(whole: RunFolder, parts: Sequence[Part], kind: RunKind, remedy: str) -> None:
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
    free = {*kind.free, *kind.noted, *CIRCUMSTANCES, SHARD, SHARE}.difference(kind.alike)
    for part in parts[1:]:
        left_out = free | untold(parts[0].manifest, part.manifest)
        one, other = (
            {name: value for name, value in each.of_the_run.items() if name not in left_out}
            for each in (parts[0], part)
        )
        different = differences(one, other, f"in {parts[0].shard}", f"in {part.shard}")
        if different:
            raise ValueError(
                f"The shards in {whole.path} must be of the same model, prompts, settings and sizes of "
                f"batches. {part.shard} differs from {parts[0].shard} in: {different}. {remedy}"
            )
