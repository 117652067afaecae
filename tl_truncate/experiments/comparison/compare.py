"""All ways to take the global part away from one layer, side by side on a task; and the best of each."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.experiments.comparison.families import TO_CHOOSE, TO_COMPARE, Ways, last_token
from tl_truncate.experiments.scoring.drawn import DrawnScores
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import PROBABILITIES, SCORED
from tl_truncate.experiments.search.judge import Objective, split_task
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.search.search import search
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.experiments.sweep.sweep import sweep
from tl_truncate.runs.files import write_table
from tl_truncate.runs.saved import Saved
from tl_truncate.statistics import q_values, shown_in
from tl_truncate.surgery.controls import draws_for
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.tasks.task import Task
from tl_truncate.weights.files import as_path


@dataclass(frozen=True, repr=False)
class Comparison(Saved):
    """Many ways at one layer, each alone, paired with the uncut model.

    Attributes:
        layer: whose MLP is changed.
        cuts: by name; of a control its first draw.
        result: of scoring them.
        draws: of each control all its draws, by name; files of earlier versions have one.
    """

    layer: int
    cuts: Mapping[str, SiteCut]
    result: SweepResult
    draws: Mapping[str, tuple[SiteCut, ...]] = field(default_factory=dict)

    @property
    def baseline(self) -> Scores:
        """The uncut model's scores."""
        return self.result.baseline

    def scores(self, name: str) -> Scores:
        """The scores of one way, prompt by prompt.

        Raises:
            ValueError: if there is no such way.
        """
        if name not in self.cuts:
            raise ValueError(f"The way must be one of {', '.join(self.cuts)}, got {name!r}.")
        return self.result.scores_of(self.cuts[name])

    def drawn(self, name: str) -> DrawnScores:
        """The scores of all draws of a control; of another way there is one.

        Raises:
            ValueError: if there is no such way.
        """
        draws = self.draws.get(name)
        if draws is None:
            return DrawnScores((self.scores(name),))
        return DrawnScores(tuple(map(self.result.scores_of, draws)))

    @property
    def frame(self) -> pd.DataFrame:
        """One row per way, the uncut model first: each metric with `_low`, `_high`, and `_change` with
        its own, and with `_q`, the false discovery rate among all ways but controls. Of a control the
        mean over its `draws`, with `_change_spread`, their standard deviation.
        """
        rows = [_row("uncut", self.baseline)]
        rows += [_row(name, self.drawn(name)) for name in self.cuts]
        return _with_q(pd.DataFrame(rows).set_index("way"))

    def __str__(self) -> str:
        table = self.frame
        told = pd.DataFrame(
            {
                metric: [shown_in(row, metric) for _, row in table.iterrows()]
                for metric in ("accuracy", *PROBABILITIES)
            },
            index=table.index,
        )
        record = self.baseline.record
        head = f"{record.task}: {record.n_prompts} prompts on {record.model}, MLP of block {self.layer}"
        return f"{head}\n{told.to_string()}"

    def __repr__(self) -> str:
        return str(self)


def _row(name: str, scores: Scores | DrawnScores) -> dict[str, Any]:
    drawn = scores if isinstance(scores, DrawnScores) else DrawnScores((scores,))
    row: dict[str, Any] = dict(way=name, draws=len(drawn.draws))
    for metric in SCORED:
        found = {"": scores.estimate(metric)}
        if scores.baseline is not None:
            found["_change"] = scores.change(metric)
            row |= {f"{metric}_change_q": found["_change"].p}
            row |= {f"{metric}_change_spread": drawn.spread(metric)}
        for ending, value in found.items():
            row |= {
                f"{metric}{ending}": float(value),
                f"{metric}{ending}_low": value.low,
                f"{metric}{ending}_high": value.high,
            }
    return row


def _with_q(table: pd.DataFrame) -> pd.DataFrame:
    """Each change's p as its q among all ways of the table, controls among controls."""
    controls = table.index.str.endswith("(control)")
    for name in (name for name in table if name.endswith("_change_q")):
        for group in (controls, ~controls):
            table.loc[group, name] = q_values(table.loc[group, name])
    return table


def compare(
    model: Any,
    task: Task,
    layer: int,
    means: TokenMeans,
    *,
    token: int | None = None,
    ways: Ways = TO_COMPARE,
    draws: int | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    prepend_bos: bool | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """Scores a task with one layer's MLP changed in every way: the four methods' global parts removed,
    LASER, targeted truncation, one direction, the MLP dropped, and controls.

    Nothing is chosen here: all rows are of the same prompts. To choose and to report on other prompts,
    use `compare_chosen`.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode.
        task: prompts and answers.
        layer: whose MLP is changed.
        means: fitted, on a corpus without the task's prompts.
        token: for shares and the direction; what most prompts end in by default.
        ways: the settings.
        draws: of each random control, whose row is their mean; 16 by default.
        run_dir: a folder; given again, the comparison goes on.
        prepend_bos: overrides the model's default.
        batch_size: most prompts in a batch.
        seed: of controls.
        progress: shows a bar.

    Returns:
        The comparison, with `.frame`; `tl_truncate.plots.comparison` draws it.

    Raises:
        ValueError: if an argument does not fit.

    Examples:
        >>> means = tlt.TokenMeans.fit(model, tokens, layers=[1], progress=False)
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> tlt.compare(model, task, 1, means, progress=False).frame.index[:2].tolist()
        ['uncut', 'MLP dropped']
    """
    chosen = last_token(model, task, prepend_bos=prepend_bos) if token is None else token
    cuts = ways.side_by_side(model, means, layer, chosen, seed, draws_for(1, draws))
    result = sweep(
        model,
        task,
        cuts=[cut for drawn in cuts.values() for cut in drawn],
        run_dir=run_dir,
        prepend_bos=prepend_bos,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    first = {name: drawn[0] for name, drawn in cuts.items()}
    several = {name: drawn for name, drawn in cuts.items() if len(drawn) > 1}
    return Comparison(layer, first, result, several)


@dataclass(frozen=True, repr=False)
class ChosenComparison(Saved):
    """The best cut of each family, chosen on some prompts and reported on others.

    Attributes:
        task: its name.
        found: the search in each family.
    """

    task: str
    found: Mapping[str, SearchResult]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per family, the uncut model first, on the prompts that had no say: the cut, each
        metric with its interval and paired change, the change's q among the families, what the objective
        gained where it was chosen, and the perplexity of running text.
        """
        rows: list[dict[str, Any]] = []
        for family, result in self.found.items():
            scores = result.test[self.task]
            if not rows:
                rows.append(_row("uncut", scores if scores.baseline is None else scores.baseline))
            row = _row(family, scores) | dict(cut=", ".join(map(repr, result.cuts)) or "none")
            row["optimism"] = float(result.optimism(self.task))
            if result.cost is not None:
                rows[0]["perplexity"] = float(result.cost.uncut_perplexity)
                row["perplexity"] = float(result.cost.perplexity)
                row["loss_change"] = float(result.cost.loss_change)
            for kind, by_task in result.controls.items():
                row[f"{kind}_p_in_context"] = float(by_task[self.task].estimate("p_in_context"))
            rows.append(row)
        return _with_q(pd.DataFrame(rows).set_index("way"))

    def __str__(self) -> str:
        lines = [f"{self.task}: each family's best cut, on prompts that did not choose it"]
        for way, row in self.frame.iterrows():
            told = ", ".join(f"{metric} {shown_in(row, metric)}" for metric in PROBABILITIES)
            changes = ""
            if pd.notna(row.get("p_in_context_change")):
                changes = f"; change of p_in_context {shown_in(row, 'p_in_context_change', signed=True)}"
            cost = f"; perplexity {row['perplexity']:.2f}" if row.get("perplexity", 0) > 0 else ""
            cut = "" if way == "uncut" else f" ({row['cut']})"
            lines.append(f"  {way}{cut}: {told}{changes}{cost}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


def compare_chosen(
    model: Any,
    task: Task,
    means: TokenMeans,
    *,
    layers: Sequence[int] | None = None,
    token: int | None = None,
    ways: Ways = TO_CHOOSE,
    objective: Objective = "p_in_context",
    texts: Sequence[str] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    prepend_bos: bool | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> ChosenComparison:
    """In each family of cuts (LASER, targeted, direction, global removal, dropping) chooses layer and
    setting on half of the prompts, and reports on the other half, with intervals and perplexity.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode.
        task: prompts and answers.
        means: fitted, on a corpus without the task's prompts.
        layers: to choose from; all that the means are of by default.
        token: for shares and the direction; what most prompts end in by default.
        ways: the settings to choose from.
        objective: the metric that should rise.
        texts: running text for the cost; the sample that ships with the package by default.
        run_dir: a folder; given again, the searches go on.
        prepend_bos: overrides the model's default.
        batch_size: most prompts in a batch.
        seed: of the split and the controls.
        progress: shows bars.

    Returns:
        The comparison, with `.frame` and the searches in `.found`.

    Raises:
        ValueError: if an argument does not fit.

    Examples:
        >>> means = tlt.TokenMeans.fit(model, tokens, progress=False)
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to", "John gave a drink to"] * 2,
        ...             in_context=[" John", " Mary"] * 2, global_=" the")
        >>> both = tlt.compare_chosen(model, task, means, texts=(), progress=False)
        >>> both.frame.index.tolist()
        ['uncut', 'LASER', 'targeted', 'global removal', 'dropping']
    """
    split_task(task, test_fraction=0.5, seed=seed)
    layers = means.layers if layers is None else layers
    chosen = last_token(model, task, prepend_bos=prepend_bos) if token is None else token
    families = ways.families(model, means, layers, chosen)
    folder = None if run_dir is None else as_path(run_dir)
    found = {
        family: search(
            model,
            task,
            cuts=cuts,
            objective=objective,
            splits=1,
            texts=texts,
            run_dir=None if folder is None else folder / family.replace(" ", "-"),
            prepend_bos=prepend_bos,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        for family, cuts in families.items()
    }
    result = ChosenComparison(task.name, found)
    if folder is not None:
        write_table(folder / "table.csv", result.frame, index=True)
    return result
