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
from tl_truncate.surgery.counterparts import draw_key, own_controls
from tl_truncate.surgery.cut import SiteCut

_COLUMNS = ["task", "site", "keep", "strength", "control", "draws", "metric", "change"]
_COLUMNS += ["control_change", "control_spread", "difference", "low", "high", "q", "verdict", "row"]


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
    groups = draws_together(cuts)
    row_of = {place: row for row, group in enumerate(groups) for place in group}
    owners = _owners(cuts)
    for group in groups:
        for place, kind in owners.get(draw_key(cuts[group[0]]), ()):
            cut = cuts[place]
            for metric in metrics:
                own = outcomes[place][metric].to_numpy(float)
                drawn = np.stack([outcomes[each][metric].to_numpy(float) for each in group])
                means = drawn.mean(axis=1) - uncut[metric].mean()
                found = estimate_against(metric, own, drawn)
                rows.append(
                    dict(
                        task=task,
                        site=str(cut.site),
                        keep=cut.label,
                        strength=cut.strength,
                        control=kind,
                        draws=len(group),
                        metric=column_of(metric),
                        change=own.mean() - uncut[metric].mean(),
                        control_change=means.mean(),
                        control_spread=means.std(ddof=1) if len(means) > 1 else np.nan,
                        difference=found,
                        low=found.low,
                        high=found.high,
                        q=found.p,
                        row=row_of[place],
                    )
                )
    table = pd.DataFrame(rows, columns=_COLUMNS)
    if rows:
        table["q"] = table.groupby(["control", "metric"])["q"].transform(q_values)
        table["verdict"] = list(map(verdict, table["difference"], table["q"]))
        table["difference"] = table["difference"].astype(float)
        table["keep"] = keep_column(row["keep"] for row in rows)
    return table[_COLUMNS]


def _owners(cuts: Sequence[SiteCut]) -> dict[str, list[tuple[int, str]]]:
    """By the key of a control's draws, the places of the cuts whose control it is, and of which kind.

    Only cuts that have some at their site are asked, since those on a fit have to read it.
    """
    drawn = {(cut.site, cut.strength) for cut in cuts if is_control(cut)}
    found: dict[str, list[tuple[int, str]]] = {}
    for place, cut in enumerate(cuts):
        if not is_control(cut) and (cut.site, cut.strength) in drawn:
            for key, kind in own_controls(cut).items():
                found.setdefault(key, []).append((place, kind))
    return found
