"""All ways to take the global part away from one layer, side by side on a task."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.drawing import Drawn
from tl_truncate.experiments.comparison.families import TO_COMPARE, Ways, last_token
from tl_truncate.experiments.comparison.rows import row_of, with_q
from tl_truncate.experiments.scoring.drawn import DrawnScores
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import PROBABILITIES
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.experiments.sweep.sweep import sweep
from tl_truncate.runs.saved import Saved
from tl_truncate.statistics import shown_in
from tl_truncate.surgery.controls import draws_for
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.tasks.task import Task


@dataclass(frozen=True, repr=False)
class Comparison(Drawn, Saved):
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
        rows = [row_of("uncut", self.baseline)]
        rows += [row_of(name, self.drawn(name)) for name in self.cuts]
        return with_q(pd.DataFrame(rows).set_index("way"))

    def __str__(self) -> str:
        table = self.frame
        told = pd.DataFrame(
            {
                metric: [shown_in(row, metric) for _, row in table.iterrows()]
                for metric in ("accuracy", *PROBABILITIES)
                if metric in table
            },
            index=table.index,
        )
        record = self.baseline.record
        head = f"{record.task}: {record.n_prompts} prompts on {record.model}, MLP of block {self.layer}"
        return f"{head}\n{told.to_string()}"

    def __repr__(self) -> str:
        return str(self)


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
