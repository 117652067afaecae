"""A way's scores as a row of a table, and the q of all of its rows."""

from typing import Any

import pandas as pd

from tl_truncate.experiments.scoring.drawn import DrawnScores
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import SCORED, metrics_of
from tl_truncate.statistics import q_values


def row_of(name: str, scores: Scores | DrawnScores) -> dict[str, Any]:
    """A name with draws, and the mean and change of each metric with the ends of their intervals."""
    drawn = scores if isinstance(scores, DrawnScores) else DrawnScores((scores,))
    row: dict[str, Any] = dict(way=name, draws=len(drawn.draws))
    for metric in metrics_of(drawn, SCORED):
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


def with_q(table: pd.DataFrame) -> pd.DataFrame:
    """Each change's p as its q among all ways of the table, controls among controls."""
    controls = table.index.str.endswith("(control)")
    for name in (name for name in table if name.endswith("_change_q")):
        for group in (controls, ~controls):
            table.loc[group, name] = q_values(table.loc[group, name])
    return table
