"""The main job on a real model: which late MLPs say *the*, and what is said without them."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.experiments.sweep.sweep import sweep
from tl_truncate.statistics import CLEAR
from tl_truncate.tasks.facts import factual_recall
from tl_truncate.tasks.ioi import ioi
from tl_truncate.weights.locate import find_sites, n_layers


@dataclass(frozen=True)
class LayerEffects:
    """Cuts of each late MLP on two tasks.

    Attributes:
        result: of the sweep.
    """

    result: SweepResult

    @property
    def frame(self) -> pd.DataFrame:
        """One row per (task, cut)."""
        return self.result.frame

    @property
    def baselines(self) -> dict[str, Scores]:
        """The uncut scores by the task's name."""
        return dict(self.result.baselines)

    def rows(self, task: str, *, keep: float = 0.0, kind: str = "Cut") -> pd.DataFrame:
        """The rows of one task, keep and kind, by layer."""
        frame = self.frame
        chosen = (frame["task"] == task) & (frame["keep"] == keep) & (frame["kind"] == kind)
        return frame[chosen].set_index("layer").sort_index()

    def helped(self, task: str) -> list[int]:
        """Layers without which the in-context answer gains and the global one loses, both clearly among
        all cuts (q).
        """
        rows = self.rows(task)
        return list(rows.index[_clear(rows, "p_in_context", 1) & _clear(rows, "p_global", -1)])

    def reversed(self, task: str) -> list[int]:
        """Layers without which the global answer clearly gains (q): there the effect is reversed."""
        rows = self.rows(task)
        return list(rows.index[_clear(rows, "p_global", 1)])


def _clear(rows: pd.DataFrame, metric: str, sign: int) -> pd.Series:
    return (rows[f"{metric}_change_q"] < CLEAR) & (sign * rows[f"{metric}_change"] > 0)


def late_layer_effects(
    model: Any,
    *,
    n: int | None = 50,
    keeps: tuple[float, ...] = (0.0, 0.1, 0.5),
    seed: int = 0,
    prepend_bos: bool | None = None,
    batch_size: int = 64,
    max_memory: int | None = None,
    progress: bool = True,
) -> LayerEffects:
    """Cuts the MLP output weights of the last third of the layers, one at a time.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        n: prompts for each task; all facts and 100 of the other with None.
        keeps: fractions of the rank that stay.
        seed: of the prompts and the controls.
        prepend_bos: overrides the model's default.
        batch_size: most prompts in a batch.
        max_memory: most bytes beside the model.
        progress: shows a bar.

    Returns:
        Effects on indirect objects and on facts, with random subspaces of the same rank as controls: a
        few draws of each.

    Raises:
        ValueError: as `evaluate` does.
    """
    total = n_layers(model)
    sites = find_sites(model, "W_out", layers=range(total - max(1, total // 3), total))
    tokenizer = model.tokenizer
    tasks = [
        ioi(n=100 if n is None else n, seed=seed, tokenizer=tokenizer),
        factual_recall(n=n, seed=seed, tokenizer=tokenizer),
    ]
    result = sweep(
        model,
        tasks,
        sites=sites,
        keeps=keeps,
        controls=["random_subspace"],
        prepend_bos=prepend_bos,
        batch_size=batch_size,
        max_memory=max_memory,
        seed=seed,
        progress=progress,
    )
    return LayerEffects(result)
