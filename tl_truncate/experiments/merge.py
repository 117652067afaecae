"""Shards of whatever kind of run, made one run again."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tl_truncate.decompose.means.token_means import MEANS
from tl_truncate.experiments.scoring.side_effects import SIDE_EFFECTS
from tl_truncate.experiments.screening.attribution import ATTRIBUTE
from tl_truncate.experiments.search.file import merge_search
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.sweep.grid import SWEEP
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.experiments.training.kept import DYNAMICS
from tl_truncate.experiments.training.result import Dynamics
from tl_truncate.runs.sharded.joining import merge_shards
from tl_truncate.runs.sharded.parts import kind_of
from tl_truncate.runs.sharded.results import merge_results
from tl_truncate.weights.files import as_path


def _sweep(run_dir: Any) -> SweepResult:
    merge_shards(run_dir, SWEEP)
    return SweepResult.load(run_dir)


def _search(run_dir: Any) -> SearchResult:
    merge_search(run_dir)
    return SearchResult.load(run_dir)


def _dynamics(run_dir: Any) -> Dynamics:
    merge_shards(run_dir, DYNAMICS)
    return Dynamics.load(run_dir)


_MERGES: Mapping[str, Callable[[Any], Any]] = {
    "sweep": _sweep,
    "search": _search,
    "dynamics": _dynamics,
    "attribute": partial(merge_results, kind=ATTRIBUTE),
    "token_means": partial(merge_results, kind=MEANS),
    "side_effects": partial(merge_results, kind=SIDE_EFFECTS),
}


def merge(run_dir: str | os.PathLike[str]) -> Any:
    """Joins the shards of a run folder into an ordinary one, and gives its result.

    The table is that of one process, and bit for bit so if all had the same number of threads. The
    folder can be gone on with as any other, and merged again: shards that went on meanwhile are joined
    then. The shards' own folders stay; once all is merged, `shards` may be deleted.

    Args:
        run_dir: that all shards were given, or the one around it that `--out` named.

    Returns:
        The result, of the kind that the folder holds, such as a `SweepResult`.

    Raises:
        ValueError: if a shard is missing or unfinished, with which, and how to run it; if one is of
            other weights, prompts or settings than the others; or if the folder holds no run.
        BlockingIOError: if a process is at work on the whole run.

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> for shard in ((1, 2), (2, 2)):  # two processes, in earnest
        ...     part = tlt.sweep(model, task, keeps=[0.5], run_dir=folder, shard=shard, progress=False)
        >>> tlt.merge(folder).finished
        True
    """
    path = as_path(run_dir)
    place = path / "run" if (path / "run").is_dir() else path
    kind = kind_of(place)
    if kind is None or kind not in _MERGES:
        raise ValueError(
            f"The folder must hold shards of one of {', '.join(_MERGES)}, got kind {kind!r} in {place}. "
            "Give the folder that all shards were given."
        )
    return _MERGES[kind](place)
