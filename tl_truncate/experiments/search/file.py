"""A search on disk: `search.json`, from which the result comes back prompt by prompt."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tl_truncate.experiments.scoring.drawn import DrawnScores
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.side_effects import SideEffects
from tl_truncate.experiments.search.bound import Bound
from tl_truncate.experiments.sweep.grid import SWEEP
from tl_truncate.runs.codec import plain, read
from tl_truncate.runs.files import read_json, write_json
from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.sharded.joining import merge_shards, take_over
from tl_truncate.runs.sharded.kinds import RunKind
from tl_truncate.runs.sharded.opening import opened_shard
from tl_truncate.runs.sharded.parts import kind_of, unmerged_folders
from tl_truncate.runs.shards import SHARDS, Shard
from tl_truncate.surgery.cut import Cuts
from tl_truncate.weights.files import as_path

FILE = "search.json"
#: What the file has beside the summary, so that the result comes back.
FORMAT = 3


#: In the manifest: names of all searches that were asked for in the folder.
ASKED = "asked"
#: What a search may be asked anew in the same folder. Its looks are in common, its result is another.
_ANEW = ("greedy", "budget", "splits", "draws", "null", "texts_hash", "max_perplexity_ratio")
_SEARCHED = "searched"


def _wanted(manifest: Mapping[str, Any]) -> list[str]:
    return [*SWEEP.wanted(manifest), *manifest.get(ASKED, ())]


#: A search's run folder: each setting of each look is known by itself. A line says among which cuts a
#: search was made that has ended, and behind them its name; its result is in a file beside it.
SEARCH = RunKind(
    "search",
    wanted=_wanted,
    told=lambda line: list(line[_SEARCHED]),
    free=("model", "tasks", *_ANEW),
    grows=("grid", ASKED),
    noted=("device",),
    alike=_ANEW,
)


@dataclass(frozen=True)
class Place:
    """Where a search is kept.

    Attributes:
        looks: the folder of its looks, which all shards have in common.
        result: the folder of its result.
        among: names of the cuts that it chooses from, and of the search itself.
    """

    looks: Path
    result: RunFolder
    among: list[str]

    def write(self, summary: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        """Writes the result, and then a line that it is there."""
        write_search(summary, fields, self.result.path)
        # Another may have ended here since the same one did.
        if {_SEARCHED: self.among} not in self.result.lines()[-1:]:
            self.result.append([{_SEARCHED: self.among}])


@contextmanager
def opened_search(
    run_dir: str | os.PathLike[str] | None,
    manifest: dict[str, Any],
    shard: Shard | None = None,
) -> Iterator[Place | None]:
    """A run folder held and opened for a search, which goes on there if one was begun; None without one.

    Args:
        run_dir: of the search.
        manifest: of the search.
        shard: which of several processes this is, whose looks are in common.

    Raises:
        ValueError: if the folder holds another run, or an earlier version has searched there, which
            wrote no manifest.
        BlockingIOError: if another process is at work in the folder, or as the same shard.
    """
    if run_dir is None:
        yield None
        return
    folder = RunFolder(run_dir)
    old = (folder.path / FILE).exists() or any(folder.path.glob("*/manifest.json"))
    if old and not folder.exists():
        raise ValueError(
            f"The search in {folder.path} must say which weights it is of to be gone on with, but an "
            "earlier version wrote it, which did not note them. What has ended can still be read, by "
            "SearchResult.load; to search again, use another folder."
        )
    if shard is not None:
        named, among = _named(manifest, folder)
        with opened_shard(folder.path, shard, named, among, SEARCH, resume=True) as own:
            yield Place(folder.path, own.folder, among)
        return
    with folder.held():
        take_over(folder.path, SEARCH, resume=True)
        named, among = _named(manifest, folder)
        folder.open(named, resume=True, **SEARCH.may_differ)
        yield Place(folder.path, folder, among)


def _named(manifest: dict[str, Any], folder: RunFolder) -> tuple[dict[str, Any], list[str]]:
    """The manifest with the search's name, and what a line says of it once it has ended.

    The name is that of the folder's last search if this is the same. Otherwise it is new, also if the
    same was made before others: what ended long ago would be taken for it.
    """
    facts = [manifest.get(each) for each in ("grid", *_ANEW)]
    # Before there was a bound, searches had none, and names without a word about it.
    facts = facts[:-1] if facts[-1] is None else facts
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
    lines = folder.lines()
    # Of a run of another kind, which is refused later, no line is a search's.
    last = lines[-1].get(_SEARCHED, [])[-1:] if lines else []
    name = next((each for each in last if each.startswith(digest)), f"{digest}-{len(lines)}")
    named = manifest | {ASKED: [name]}
    return named, list(SEARCH.wanted(named))


def merge_search(run_dir: str | os.PathLike[str]) -> None:
    """Makes an ordinary folder of a search of one that was searched in shards.

    Raises:
        ValueError: if no shard has come to the end, or they are of different searches.
        BlockingIOError: if a process is at work in the folder.
    """
    place = as_path(run_dir)

    def bring(folders: Sequence[Path]) -> None:
        for look in _looks(place):
            merge_shards(look, SWEEP)
        found = _ended(folders)
        assert found is not None  # or a shard would have had something to do
        write_json(place / FILE, read_json(found))

    merge_shards(place, SEARCH, bring)


def _looks(place: Path) -> list[Path]:
    """The run folders of all looks that have shards, those of further splits and of the null too."""
    found = {path.parent for path in place.glob(f"*/{SHARDS}")}
    return sorted(found | {path.parent for path in place.glob(f"*/*/{SHARDS}")})


def _ended(folders: Sequence[Path]) -> Path | None:
    """The result of a shard that has come to the end of what it was last asked: all have the same."""
    for path in folders:
        folder = RunFolder(path)
        manifest, lines = folder.manifest(), folder.lines()
        # An earlier version wrote one line for all searches among the same cuts.
        last = lines[-1:] if ASKED in manifest else lines
        if any({*SEARCH.wanted(manifest)} == {*SEARCH.told(line)} for line in last):
            return path / FILE
    return None


def search_file(folder: str | os.PathLike[str]) -> Path | None:
    """The file of a search that has ended, be it a shard's that was not merged yet."""
    place = as_path(folder)
    if kind_of(place) == SEARCH.name and (found := _ended(unmerged_folders(place, SEARCH))):
        return found
    return place / FILE if (place / FILE).exists() else None


def write_search(summary: Mapping[str, Any], fields: Mapping[str, Any], folder: str | Path) -> None:
    """Writes a result, with every prompt's scores, into a folder.

    Args:
        summary: what a reader of the file looks for, as plain data.
        fields: of the result.
        folder: to write to.
    """
    place = as_path(folder)
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / FILE, {"format": FORMAT, "kind": "search", **_with_scores(summary, fields)})


def _with_scores(summary: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    scores = {name: plain(fields[name]) for name in ("validation", "test", "cost", "bound")}
    # The uncut scores of the test prompts are written once.
    scores["controls"] = {
        kind: {
            task: [plain(replace(each, baseline=None)) for each in drawn.draws]
            for task, drawn in by_task.items()
        }
        for kind, by_task in fields["controls"].items()
    }
    data = {**summary, "scores": scores}
    null = fields["null"]
    return data if null is None else {**data, "null": _with_scores(null.to_json(), vars(null))}


def read_search(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of the result that was written, to the last bit.

    Raises:
        ValueError: if the folder holds no finished search, or one without its prompts' scores.
    """
    path = search_file(folder)
    if path is None:
        raise ValueError(
            f"The folder must hold a finished search's {FILE}, got {folder} without one. The same "
            "search with the same folder goes on where it stopped."
        )
    data = read_json(path)
    if "scores" not in data or data.get("format", 1) > FORMAT:
        raise ValueError(
            f"{path} must hold the scores of every prompt, in format {FORMAT} or earlier, but another "
            "version wrote it otherwise. The same search with the same folder writes it anew."
        )
    return _fields(data, data.get("format", 1))


def _fields(data: Mapping[str, Any], version: int) -> dict[str, Any]:
    scores = _of_the_first_format(data) if version == 1 else data["scores"]
    null = data.get("null")
    test = read(dict[str, Scores], scores["test"])
    return dict(
        cuts=read(Cuts, data["cuts"]),
        objective=data["objective"],
        combine=data["combine"],
        validation=read(dict[str, Scores], scores["validation"]),
        test=test,
        controls={
            kind: {task: _drawn(found, test[task].baseline) for task, found in by_task.items()}
            for kind, by_task in scores["controls"].items()
        },
        cost=read(SideEffects | None, scores["cost"]),  # type: ignore[arg-type]
        bound=read(Bound | None, scores.get("bound")),  # type: ignore[arg-type]
        looks=pd.DataFrame(data["looks"]),
        settings=data["settings"],
        repeats={task: tuple(map(tuple, pairs)) for task, pairs in data.get("repeats", {}).items()},
        null=None if null is None else _fields(null, version),
    )


def _drawn(data: Any, baseline: Scores | None) -> DrawnScores:
    """A control's draws; files of earlier formats have one."""
    draws = data if isinstance(data, list) else [data]
    return DrawnScores(tuple(replace(read(Scores, each), baseline=baseline) for each in draws))


def _of_the_first_format(data: Mapping[str, Any]) -> dict[str, Any]:
    """Scores that lay beside their baselines, controls without one, passages beside their record."""

    def paired(own: Mapping[str, Any], uncut: Mapping[str, Any] | None) -> dict[str, Any]:
        return {**own, "baseline": None if uncut is None else {**uncut, "baseline": None}}

    splits = {
        name: {task: paired(*pair) for task, pair in by_task.items()}
        for name, by_task in data["scores"].items()
    }
    controls = {
        kind: {
            task: {**own, "baseline": splits["test"][task]["baseline"]} for task, own in found.items()
        }
        for kind, found in data["control_scores"].items()
    }
    cost = None if data["cost"] is None else {**data["cost"], "frame": data["passages"]}
    return dict(splits, controls=controls, cost=cost)
