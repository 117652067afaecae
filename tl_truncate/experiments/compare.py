"""Several cuts side by side on several tasks: one row for each, paired with the uncut model."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from tl_truncate.experiments.evaluate import METRICS, Scores, evaluate
from tl_truncate.surgery.controls import RandomSubspace
from tl_truncate.surgery.cut import Cut, SiteCut
from tl_truncate.tasks.task import Task
from tl_truncate.weights.site import Site


def compare(
    model: Any,
    tasks: Task | Sequence[Task],
    cuts: Sequence[SiteCut],
    *,
    prepend_bos: bool | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> tuple[pd.DataFrame, dict[str, Scores]]:
    """Scores each cut alone on each task, paired with the uncut model.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode.
        tasks: one task or several.
        cuts: each is made alone.
        prepend_bos: overrides the model's default.
        batch_size: prompts in a pass.
        seed: of the bootstrap.
        progress: shows a bar.

    Returns:
        A frame with one row per (task, cut): task, site, layer, matrix, kind, keep, and for each
        metric its value and `<metric>_change`, the paired change from the uncut model, both with the
        ends of their 95% intervals, `..._low` and `..._high`. And the uncut scores by task name.

    Raises:
        ValueError: as `evaluate` does.
    """
    chosen = [tasks] if isinstance(tasks, Task) else list(tasks)
    options: dict[str, Any] = dict(prepend_bos=prepend_bos, batch_size=batch_size, seed=seed)
    options["progress"] = False  # one bar is enough
    baselines = {task.name: evaluate(model, task, **options) for task in chosen}
    rows = []
    with tqdm(total=len(cuts) * len(chosen), disable=not progress, desc="cuts") as bar:
        for cut in cuts:
            for task in chosen:
                bar.set_postfix_str(f"{cut.site} {task.name}")
                scores = evaluate(model, task, cut, baseline=baselines[task.name], **options)
                rows.append(_row(cut, scores))
                bar.update()
    return pd.DataFrame(rows), baselines


def _row(cut: SiteCut, scores: Scores) -> dict[str, Any]:
    row: dict[str, Any] = dict(
        task=scores.record.task,
        site=str(cut.site),
        layer=cut.site.layer,
        matrix=cut.site.matrix,
        kind=type(cut).__name__,
        keep=keep_label(cut),
    )
    for metric in METRICS:
        for name, value in (
            (metric, scores.estimate(metric)),
            (f"{metric}_change", scores.change(metric)),
        ):
            row[name] = float(value)
            row[f"{name}_low"], row[f"{name}_high"] = value.low, value.high
    return row


def keep_label(cut: SiteCut) -> str:
    """How much a cut keeps, in few characters: `0.1`, `8`, `Energy(e=0.9)`, or `0.0` for Ablated.

    Example:
        >>> keep_label(Cut("blocks.0.mlp.W_in", keep=0.1))
        '0.1'
    """
    keep = getattr(cut, "keep", None)
    if keep is None:
        return "0.0"
    value = getattr(keep, "rho", getattr(keep, "k", None))
    return str(value) if type(keep).__name__ in ("Fraction", "Rank") else repr(keep)


def layer_cuts(sites: Sequence[Site], keeps: Sequence[float], *, seed: int = 0) -> list[SiteCut]:
    """Every site cut at every fraction, and a random subspace of the same rank beside it.

    Nothing kept has no random counterpart: a random subspace of rank 0 is the same as the cut.

    Example:
        >>> layer_cuts([Site(0, "W_out")], [0.0, 0.1])[-1]
        RandomSubspace(site='blocks.0.mlp.W_out', keep=Fraction(rho=0.1), seed=0)
    """
    cuts: list[SiteCut] = []
    for site in sites:
        for keep in keeps:
            cuts.append(Cut(site, keep))
            if keep > 0:
                cuts.append(RandomSubspace(site, keep, seed))
    return cuts
