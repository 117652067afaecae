"""A report from a run folder or a result, written whole."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from tl_truncate.checks import require_extra
from tl_truncate.evals.result import Benchmarks
from tl_truncate.experiments.comparison.chosen import ChosenComparison
from tl_truncate.experiments.comparison.compare import Comparison
from tl_truncate.experiments.learning.result import LearnedMask
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.side_effects import SIDE_EFFECTS, SideEffects
from tl_truncate.experiments.screening.attribution import ATTRIBUTE, Attribution
from tl_truncate.experiments.screening.part_attribution import PartAttribution
from tl_truncate.experiments.screening.value_gradients import SingularValueGradients
from tl_truncate.experiments.search.file import FILE as SEARCH
from tl_truncate.experiments.search.file import search_file
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.experiments.training.result import Dynamics
from tl_truncate.report.kinds.benchmarks import benchmarks_page
from tl_truncate.report.kinds.comparison import comparison_page
from tl_truncate.report.kinds.export import Exported, export_page
from tl_truncate.report.kinds.families import families_page
from tl_truncate.report.kinds.learning import learned_page
from tl_truncate.report.kinds.pair import pair_page
from tl_truncate.report.kinds.scores import scores_page, side_effects_page
from tl_truncate.report.kinds.screening import (
    attribution_page,
    part_attribution_page,
    value_gradients_page,
)
from tl_truncate.report.kinds.search import search_page
from tl_truncate.report.kinds.sweep import sweep_page
from tl_truncate.report.kinds.training import dynamics_page, recall_page
from tl_truncate.report.page import Page, render
from tl_truncate.report.pairs.pair import pair_of
from tl_truncate.report.pairs.sides import Sided
from tl_truncate.runs.saved import find_result, load_result
from tl_truncate.runs.sharded.parts import kind_of
from tl_truncate.runs.shards import SHARDS
from tl_truncate.toys.recall.train import RecallRun
from tl_truncate.weights.files import as_path, replacing

#: What has a page, and which.
_PAGES: dict[type[Any], Callable[[Any], Page]] = {
    SweepResult: sweep_page,
    LearnedMask: learned_page,  # which is a search too
    SearchResult: search_page,
    Dynamics: dynamics_page,
    RecallRun: recall_page,
    Scores: scores_page,
    SideEffects: side_effects_page,
    Attribution: attribution_page,
    PartAttribution: part_attribution_page,
    SingularValueGradients: value_gradients_page,
    Comparison: comparison_page,
    Benchmarks: benchmarks_page,
    ChosenComparison: lambda found: families_page([found]),
    Exported: export_page,
}
Reportable = (
    SweepResult
    | SearchResult
    | LearnedMask
    | Dynamics
    | RecallRun
    | Scores
    | SideEffects
    | Attribution
    | PartAttribution
    | SingularValueGradients
    | Comparison
    | Benchmarks
    | ChosenComparison
    | Exported
)
Source = str | os.PathLike[str] | Reportable
_LOADERS: dict[
    str, type[SweepResult] | type[LearnedMask] | type[Dynamics] | type[RecallRun] | type[Benchmarks]
] = {
    "sweep": SweepResult,
    "dynamics": Dynamics,
    "recall": RecallRun,
    "learn_mask": LearnedMask,
    "benchmark": Benchmarks,
}


def write_report(
    source: Source | Sequence[Source],
    out: str | os.PathLike[str] = "report.html",
) -> Path:
    """Writes one HTML page that says what a run found, and needs nothing else to be read.

    The page opens with the answer: a sentence, a few large figures and one picture. Folded below are a
    summary in words, the uncut model's scores, interactive charts, the controls, a table of prompts that
    sorts and filters, and where everything comes from. It asks no network.

    Args:
        source: a run folder of a sweep, a search, a learned mask, dynamics, recall or a benchmark, also
            one that is not finished; the folder that a command's `--out` named, also an exported adapter
            or checkpoint; a file that a result's `save` wrote; or a result. Several of `compare_chosen`,
            one for each task, have a page together; so have two sweeps, two searches or two tables of
            scores on one task, such as of two models, with every difference: paired by prompt where the
            prompts are the same.
        out: the file, which is replaced.

    Returns:
        The file's path.

    Raises:
        ValueError: if there is no run or result of these kinds, or several do not fit together, such as
            two of other tasks, objectives or settings.
        ModuleNotFoundError: if plotly or Jinja2 is missing, before the run is read.

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> result = tlt.sweep(model, task, sites=["blocks.1.mlp.W_out"], keeps=[0.0, 0.5])
        >>> import tempfile, pathlib
        >>> page = tlt.write_report(result, pathlib.Path(tempfile.mkdtemp()) / "report.html")
        >>> "layer 1, W_out" in page.read_text()
        True
    """
    require_extra("report")
    path = as_path(out)
    text = render(_page_of(source))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _page_of(source: Source | Sequence[Source]) -> Page:
    if isinstance(source, Sequence) and not isinstance(source, str):
        results = [_result(each) for each in source]
        if len(results) == 2 and all(isinstance(each, Sided) for each in results):
            return pair_page(pair_of(cast(Sequence[Sided], results), list(map(_name_of, source))))
        return families_page(_all_chosen(results))
    result = _result(source)
    return next(make for kind, make in _PAGES.items() if isinstance(result, kind))(result)


def _result(source: Source) -> Reportable:
    return source if isinstance(source, Reportable) else load_run(source)


def _name_of(source: Source) -> str | None:
    """What a folder is called; `run` in it says nothing."""
    if isinstance(source, Reportable):
        return None
    path = as_path(source)
    named = path.parent if path.name == "run" or path.stem == "result" else path
    return named.resolve().name


def _all_chosen(several: Sequence[Reportable]) -> list[ChosenComparison]:
    chosen = [each for each in several if isinstance(each, ChosenComparison)]
    if len(chosen) < len(several):
        others = {type(each).__name__ for each in several if not isinstance(each, ChosenComparison)}
        raise ValueError(
            "Results that have a page together must be of compare_chosen, got "
            f"{', '.join(sorted(others))}; or two sweeps, two searches or two tables of scores. Write a "
            "report for each."
        )
    return chosen


# Kinds of runs that end in one file.
_IN_ONE_FILE = (ATTRIBUTE.run.name, SIDE_EFFECTS.run.name)


def load_run(folder: str | os.PathLike[str]) -> Reportable:
    """The result that a run folder or a file holds, whatever kind it is.

    Args:
        folder: the run's own, or the one around it that a command's `--out` named; or a saved file.

    Raises:
        ValueError: if there is no run, or one that has no report.
    """
    path = as_path(folder)
    if (exported := Exported.load(path)) is not None:
        return exported
    place = path / "run" if (path / "run").is_dir() else path
    kind = kind_of(place)
    saved = path if path.is_file() else find_result(place if kind in _IN_ONE_FILE else path)
    if saved is not None and kind in _IN_ONE_FILE:
        return cast(Reportable, load_result(saved))
    runs = [name for name in (SEARCH, "run", "manifest.json", SHARDS) if (path / name).exists()]
    if saved is not None and runs:
        raise ValueError(
            f"The folder must hold one run or result, got {saved.name} and {runs[0]} in {folder}. Give "
            f"{saved} itself, or {path / 'run'}."
        )
    if saved is not None:
        return cast(Reportable, load_result(saved))
    if (path / SEARCH).exists() or (kind == "search" and search_file(path) is not None):
        return SearchResult.load(path)
    if kind in (None, "search"):
        looks = any(path.glob("*/manifest.json"))
        hint = (
            " A search that has not ended has no report; the same search goes on where it stopped."
            if looks or kind == "search"
            else " Give the folder that --out or run_dir named, of a sweep, a search, learn, "
            "dynamics, recall, compare_chosen, evaluate, side-effects, lm-eval or export; or a file "
            "that a result was saved as."
        )
        raise ValueError(f"The folder must hold a run, got {folder} without one.{hint}")
    if kind not in _LOADERS:
        raise ValueError(
            f"The run must be one of search, {', '.join(_LOADERS)}, got kind {kind!r} in {folder}."
        )
    return _LOADERS[kind].load(place)
