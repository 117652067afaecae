"""The best cut of each family, chosen on some prompts and reported on others."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from tl_truncate.decompose.covariances.factors import CurvatureFactors
from tl_truncate.decompose.covariances.moments import OutputMoments
from tl_truncate.decompose.covariances.removed import removed_share
from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.drawing import Drawn
from tl_truncate.experiments.comparison.families import (
    FITTED,
    LEARNED,
    TO_CHOOSE,
    Ways,
    as_many,
    last_token,
    learnable_sites,
)
from tl_truncate.experiments.comparison.rows import row_of, with_q
from tl_truncate.experiments.learning.learn_mask import learn_mask
from tl_truncate.experiments.scoring.metrics import PROBABILITIES
from tl_truncate.experiments.search.judge import Objective, split_task
from tl_truncate.experiments.search.placebos import placebos_of
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.search.search import search
from tl_truncate.runs.files import write_table
from tl_truncate.runs.saved import Saved
from tl_truncate.statistics import Estimate, q_values, shown_in
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.tasks.task import Task
from tl_truncate.weights.files import as_path
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site


@dataclass(frozen=True)
class Size:
    """How much was looked at, and how much the chosen cut takes.

    Attributes:
        settings: that the family's search could choose from; of learned masks, those looked at.
        kept: the rank of what the cut leaves, of the full rank of its sites; 1 where it is full, as
            it is of `Curvature` whatever that removes. NaN if nothing was chosen, or it depends on the
            tokens.
        removed_share: of the energy that the sites write on data; NaN where it is not known.
        seconds: that choosing and reporting took in this call, which may have gone on with a folder.
    """

    settings: int
    kept: float
    removed_share: float
    seconds: float = math.nan


@dataclass(frozen=True, repr=False)
class ChosenComparison(Drawn, Saved):
    """The best cut of each family, chosen on some prompts and reported on others.

    Attributes:
        task: its name.
        found: the search in each family.
        sizes: by family how much was looked at, and how much its cut takes; none in older files.
    """

    task: str
    found: Mapping[str, SearchResult]
    sizes: Mapping[str, Size] = field(default_factory=dict)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per family, the uncut model first, on the prompts that had no say.

        Columns: the cut, each metric with its interval and paired change, the change's q among the
        families, what the objective gained where it was chosen (optimism), and the perplexity of running
        text. With sizes also settings, kept and removed_share; with a null the objective's change under
        the cut that the same search chose among random ones (null_change), and by how much the family's
        own is above it (over_null), each with `_low` and `_high`, and over_null's q among families.
        """
        rows: list[dict[str, Any]] = []
        for family, result in self.found.items():
            scores = result.test[self.task]
            if not rows:
                rows.append(row_of("uncut", scores if scores.baseline is None else scores.baseline))
            row = row_of(family, scores) | dict(cut=", ".join(map(repr, result.cuts)) or "none")
            row["optimism"] = float(result.optimism(self.task))
            if family in self.sizes:
                size = self.sizes[family]
                row |= dict(settings=size.settings, kept=size.kept, removed_share=size.removed_share)
            if result.null is not None:
                row |= _ends("null_change", result.null.change(self.task))
                row |= _ends("over_null", over := result.over_null(self.task)) | {"over_null_q": over.p}
            if result.cost is not None:
                rows[0]["perplexity"] = float(result.cost.uncut_perplexity)
                row["perplexity"] = float(result.cost.perplexity)
                row["loss_change"] = float(result.cost.loss_change)
                row["kl"] = float(result.cost.kl)
            for kind, by_task in result.controls.items():
                row[f"{kind}_p_in_context"] = float(by_task[self.task].estimate("p_in_context"))
            rows.append(row)
        table = with_q(pd.DataFrame(rows).set_index("way"))
        if "over_null_q" in table:
            table["over_null_q"] = q_values(table["over_null_q"])
        return table

    def __str__(self) -> str:
        lines = [f"{self.task}: each family's best cut, on prompts that did not choose it"]
        for way, row in self.frame.iterrows():
            metrics = [metric for metric in PROBABILITIES if metric in row]
            told = ", ".join(f"{metric} {shown_in(row, metric)}" for metric in metrics)
            changes = ""
            if pd.notna(row.get("p_in_context_change")):
                changes = f"; change of p_in_context {shown_in(row, 'p_in_context_change', signed=True)}"
            if pd.notna(row.get("over_null")):
                changes += f"; over its null {shown_in(row, 'over_null', signed=True)}"
            cost = f"; perplexity {row['perplexity']:.2f}" if row.get("perplexity", 0) > 0 else ""
            cut = "" if way == "uncut" else f" ({row['cut']})"
            lines.append(f"  {way}{cut}: {told}{changes}{cost}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


def _ends(name: str, value: Estimate) -> dict[str, float]:
    return {name: float(value), f"{name}_low": value.low, f"{name}_high": value.high}


def compare_chosen(
    model: Any,
    task: Task,
    means: TokenMeans,
    *,
    moments: OutputMoments | None = None,
    factors: CurvatureFactors | None = None,
    layers: Sequence[int] | None = None,
    token: int | None = None,
    ways: Ways = TO_CHOOSE,
    settings: int | None = None,
    null: bool = False,
    objective: Objective = "p_in_context",
    draws: int | None = None,
    texts: Sequence[str] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    prepend_bos: bool | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> ChosenComparison:
    """In each family of cuts (LASER, targeted, direction, global removal, dropping, and those that
    `ways` asks for beside them) chooses layer and setting on half of the prompts, and reports on the
    other half, with intervals and perplexity.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode.
        task: prompts and answers.
        means: fitted, on a corpus without the task's prompts.
        moments: of the layers' W_in and W_out, for OutputPCA and for `removed_share`.
        factors: of the same, for Curvature.
        layers: to choose from; all that the means are of by default.
        token: for shares and the direction; what most prompts that choose end in by default.
        ways: the settings to choose from; `Ways.every()` for all families.
        settings: at most so many of each family, drawn at random by the seed, so that none has more to
            choose from than another; all by default. A mask is learned in so many steps.
        null: makes each search a second time among as many random cuts of the same sites and ranks, and
            reports what that finds beside; of families that have a random counterpart.
        objective: the metric that should rise.
        draws: of each chosen cut's controls; 16 for cuts of one site, else 4. With a null few suffice.
        texts: running text for the cost; the sample that ships with the package by default.
        run_dir: a folder; given again, the searches go on. It can be reported.
        prepend_bos: overrides the model's default.
        batch_size: most prompts in a batch.
        seed: of the split and the controls.
        progress: shows bars.

    Returns:
        The comparison, with `.frame` and the searches in `.found`.

    Raises:
        ValueError: if an argument does not fit, or `ways` asks for a family that needs moments or
            factors and there are none.

    Examples:
        >>> means = tlt.TokenMeans.fit(model, tokens, progress=False)
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to", "John gave a drink to"] * 2,
        ...             in_context=[" John", " Mary"] * 2, global_=" the")
        >>> both = tlt.compare_chosen(model, task, means, texts=(), progress=False)
        >>> both.frame.index.tolist()
        ['uncut', 'LASER', 'targeted', 'global removal', 'dropping']
    """
    choosing = split_task(task, test_fraction=0.5, seed=seed).validation
    layers = means.layers if layers is None else layers
    chosen = last_token(model, choosing, prepend_bos=prepend_bos) if token is None else token
    offered = ways.families(model, means, layers, chosen, moments=moments, factors=factors)
    families = as_many(offered, settings, seed)
    folder = None if run_dir is None else as_path(run_dir)
    if folder is not None:
        ChosenComparison.require_place(folder)
    asked: dict[str, Any] = dict(
        objective=objective, draws=draws, texts=texts, seed=seed, progress=progress
    )
    asked |= dict(prepend_bos=prepend_bos, batch_size=batch_size, progress=progress)
    study = _Study(model, task, moments, factors, folder, null, asked)
    for cut in (cut for cuts in families.values() for cut in cuts if isinstance(cut, FITTED)):
        cut.edit(model)  # which the data may not be enough for: said before any search
    if ways.mask is not None:  # first, since what it refuses the searches would not
        study.learn(learnable_sites(model, layers), ways.mask, settings)
    for family, cuts in families.items():
        study.search(family, cuts)
    order = [family for family in (*families, LEARNED) if family in study.found]
    found = {family: study.found[family] for family in order}
    result = ChosenComparison(task.name, found, {family: study.sizes[family] for family in order})
    if folder is not None:
        result.save_into(folder)
        write_table(folder / "table.csv", result.frame, index=True)
    return result


@dataclass
class _Study:
    """Families that are looked at one after the other.

    Attributes:
        model: that is cut.
        task: prompts and answers.
        moments: to say how much a cut takes.
        factors: likewise.
        folder: of the run, with a folder for each family.
        null: whether a family's search is made again among random cuts, where it has such.
        asked: options that all searches share.
    """

    model: Any
    task: Task
    moments: OutputMoments | None
    factors: CurvatureFactors | None
    folder: Path | None
    null: bool
    asked: dict[str, Any]
    found: dict[str, SearchResult] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)

    def search(self, family: str, cuts: Sequence[SiteCut]) -> None:
        """Chooses among cuts."""
        start = time.perf_counter()
        null = self.null and bool(placebos_of(self.model, cuts, self.asked["seed"]))
        # Families are compared by what each gains most, with the cost beside it.
        most = dict(max_perplexity_ratio=None, splits=1)
        options = dict(null=null, run_dir=self._place(family), **most, **self.asked)
        found = search(self.model, self.task, cuts=cuts, **options)
        self._note(family, found, len(cuts), start)

    def learn(self, sites: Sequence[Site], budget: int, steps: int | None) -> None:
        """Learns a mask."""
        start = time.perf_counter()
        options = dict(null=self.null, run_dir=self._place(LEARNED), **self.asked)
        options |= {} if steps is None else dict(steps=steps)
        found = learn_mask(self.model, self.task, sites=sites, budget=budget, **options)
        self._note(LEARNED, found, found.steps, start)

    def _place(self, family: str) -> Path | None:
        return None if self.folder is None else self.folder / family.replace(" ", "-")

    def _note(self, family: str, found: SearchResult, settings: int, start: float) -> None:
        took = time.perf_counter() - start
        self.found[family] = found
        self.sizes[family] = size_of(self.model, found, settings, self.moments, self.factors, took)


def size_of(
    model: Any,
    found: SearchResult,
    settings: int,
    moments: OutputMoments | None,
    factors: CurvatureFactors | None,
    seconds: float,
) -> Size:
    """How much a family had to choose from, and how much of the model what it chose takes."""
    if not found.cuts:
        return Size(settings, math.nan, math.nan, seconds)
    ranks = [min(locate(model, cut.site).shape) for cut in found.cuts]
    # Groups of columns may have more components together than the matrix has.
    left = [min(cut.kept_rank(model), rank) for cut, rank in zip(found.cuts, ranks, strict=True)]
    reads_tokens = any(cut.reads_tokens for cut in found.cuts)
    kept = math.nan if reads_tokens else sum(left) / sum(ranks)
    share = math.nan if moments is None else removed_share(model, found.cuts, moments, factors)
    return Size(settings, kept, share, seconds)
