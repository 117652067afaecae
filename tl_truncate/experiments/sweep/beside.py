"""Every cut of a sweep beside its controls, with the verdict whether it does more than they."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tl_truncate.experiments.scoring.drawn import draws_together, verdict
from tl_truncate.experiments.scoring.estimates import estimate_against
from tl_truncate.experiments.scoring.keeps import keep_column
from tl_truncate.experiments.scoring.metrics import Metric, column_of
from tl_truncate.statistics import q_values
from tl_truncate.surgery.controls import is_control
from tl_truncate.surgery.cut import SiteCut

_COLUMNS = ["task", "site", "keep", "strength", "control", "draws", "metric", "change"]
_COLUMNS += ["control_change", "control_spread", "difference", "low", "high", "q", "verdict"]


def beside_controls(
    task: str,
    cuts: Sequence[SiteCut],
    outcomes: Sequence[pd.DataFrame],
    uncut: pd.DataFrame,
    metrics: Sequence[Metric],
) -> pd.DataFrame:
    """The table of one task; `SweepResult.beside_controls` says what is in it.

    Args:
        task: its name.
        cuts: all settings, cuts and controls.
        outcomes: of each, one row per prompt.
        uncut: the uncut model's.
        metrics: to compare.
    """
    rows: list[dict[str, Any]] = []
    chosen: dict[Any, list[int]] = {}
    for place, cut in enumerate(cuts):
        if not is_control(cut):
            chosen.setdefault(_asked(cut), []).append(place)
    for group in draws_together(cuts):
        control = cuts[group[0]]
        if not is_control(control):
            continue
        for place in chosen.get(_asked(control), ()):
            for metric in metrics:
                own = outcomes[place][metric].to_numpy(float)
                drawn = np.stack([outcomes[each][metric].to_numpy(float) for each in group])
                means = drawn.mean(axis=1) - uncut[metric].mean()
                found = estimate_against(metric, own, drawn)
                rows.append(
                    dict(
                        task=task,
                        site=str(control.site),
                        keep=control.label,
                        strength=control.strength,
                        control=type(control).__name__,
                        draws=len(group),
                        metric=column_of(metric),
                        change=own.mean() - uncut[metric].mean(),
                        control_change=means.mean(),
                        control_spread=means.std(ddof=1) if len(means) > 1 else np.nan,
                        difference=found,
                        low=found.low,
                        high=found.high,
                        q=found.p,
                    )
                )
    table = pd.DataFrame(rows, columns=_COLUMNS)
    if rows:
        table["q"] = table.groupby(["control", "metric"])["q"].transform(q_values)
        table["verdict"] = list(map(verdict, table["difference"], table["q"]))
        table["difference"] = table["difference"].astype(float)
        table["keep"] = keep_column(row["keep"] for row in rows)
    return table


def _asked(cut: SiteCut) -> tuple[Any, ...]:
    """What a cut and its control have in common; the rank 1 and all of it differ."""
    return (cut.site, type(cut.label), cut.label, cut.strength)
