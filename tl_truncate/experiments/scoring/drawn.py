"""Controls are distributions: one control's draws put together, and a cut held against them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tl_truncate.experiments.scoring.estimates import (
    columns_of_changes,
    columns_of_values,
    estimate_against,
    estimate_drawn,
)
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.metrics import Metric, check_metric
from tl_truncate.runs.files import rows_of
from tl_truncate.statistics import (
    CLEAR,
    Columns,
    Estimate,
)
from tl_truncate.surgery.counterparts import draw_key
from tl_truncate.surgery.cut import SiteCut

Array = NDArray[np.float64]
Groups = Sequence[Sequence[int]]


def draws_together(cuts: Sequence[SiteCut]) -> list[list[int]]:
    """The places of cuts that are one control under several seeds, in the order of their first.

    Examples:
        >>> draws_together([tlt.RandomSubspace("blocks.0.mlp.W_in", 8, seed) for seed in (0, 1)])
        [[0, 1]]
    """
    found: dict[str, list[int]] = {}
    for place, cut in enumerate(cuts):
        found.setdefault(draw_key(cut), []).append(place)
    return list(found.values())


def are_draws(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> bool:
    """Whether two lists of cuts, as plain data, are one control under two seeds.

    Examples:
        >>> first, second = (tlt.RandomSubspace("blocks.0.mlp.W_in", 8, seed) for seed in (0, 1))
        >>> are_draws([first.to_json()], [second.to_json()])
        True
        >>> are_draws([first.to_json()], [tlt.Cut("blocks.0.mlp.W_in", 8).to_json()])
        False
    """
    first, second = ([SiteCut.from_json(each).without_draw() for each in cuts] for cuts in (one, other))
    return first == second and list(one) != list(other)


def table_columns(metric: Metric, values: Array, groups: Groups, *, changes: bool = False) -> Columns:
    """The estimates of each group of settings, `[prompt, setting]`: over prompts, and over draws."""
    of_one = columns_of_changes if changes else columns_of_values
    alone = of_one(metric, values[:, [group[0] for group in groups]])
    found = [
        alone[place] if len(group) == 1 else estimate_drawn(metric, values[:, group].T, changes=changes)
        for place, group in enumerate(groups)
    ]
    se, low, high, p = (
        np.array([getattr(each, name) for each in found]) for name in ("se", "low", "high", "p")
    )
    return Columns(np.array(found, dtype=float), se, low, high, p, len(values))


def spreads(values: Array, groups: Groups) -> Array:
    """The standard deviation of each group's means over draws; NaN where there is one."""
    means = values.mean(axis=0)
    return np.array([means[group].std(ddof=1) if len(group) > 1 else np.nan for group in groups])


#: What a verdict says of a cut.
VERDICTS = {
    "more": "the cut does more",
    "less": "the cut does less",
    "alike": "a random draw may do as much",
    "none": "too few draws or prompts for a verdict",
}


def verdict(difference: Estimate, q: float) -> str:
    """Whether a cut does more than a random draw of its control, in a word.

    Examples:
        >>> verdict(Estimate(0.2, low=0.1, high=0.3, se=0.05, n=9), 0.01)
        'more'
    """
    if np.isnan(q):
        return "none"
    if q >= CLEAR:
        return "alike"
    return "more" if difference > 0 else "less"


def towards(found: str, change: float) -> str:
    """A verdict on a signed difference, as one on how far a cut goes in its own direction.

    Of a cut that falls, less is further; one that moves nothing does not do more than what moves.

    Args:
        found: what `verdict` says.
        change: the cut's.

    Examples:
        >>> towards("less", -0.5), towards("more", -0.5), towards("alike", -0.5), towards("more", 0.0)
        ('more', 'less', 'alike', 'less')
    """
    if found not in ("more", "less"):
        return found
    return "more" if (change > 0 and found == "more") or (change < 0 and found == "less") else "less"


@dataclass(frozen=True, repr=False)
class DrawnScores:
    """A control's scores under several seeds.

    Attributes:
        draws: one for each seed, on the same prompts.
    """

    draws: tuple[Scores, ...]

    @property
    def baseline(self) -> Scores | None:
        """The uncut model's scores."""
        return self.draws[0].baseline

    @property
    def has_global(self) -> bool:
        """Whether the prompts have a global answer beside the right one."""
        return self.draws[0].has_global

    @property
    def frame(self) -> pd.DataFrame:
        """One row per prompt: each metric's mean over draws."""
        frame = self.draws[0].frame.copy()
        for metric in self.draws[0].metrics:
            frame[metric] = self._values(metric).mean(axis=0)
        return frame

    def estimate(self, metric: Metric) -> Estimate:
        """The mean of a metric over prompts and draws; its interval has both uncertainties.

        Raises:
            ValueError: if there is no such metric.
        """
        return estimate_drawn(metric, self._values(self._checked(metric)))

    def change(self, metric: Metric) -> Estimate:
        """Control minus uncut, paired by prompt, over all draws.

        Raises:
            ValueError: if there is no such metric, or no baseline.
        """
        if self.baseline is None:
            return self.draws[0].change(metric)  # which says why it cannot
        uncut = self.baseline.frame[self._checked(metric)].to_numpy(float)
        return estimate_drawn(metric, self._values(metric) - uncut, changes=True)

    def spread(self, metric: Metric) -> float:
        """The standard deviation of a metric's mean over draws; NaN for one draw."""
        means = self._values(self._checked(metric)).mean(axis=1)
        return float(means.std(ddof=1)) if len(means) > 1 else float("nan")

    def summary(self) -> pd.DataFrame:
        """One row per metric: as that of `Scores`, with the spread over draws."""
        table = self.draws[0].summary()
        for metric in table.index:
            value = self.estimate(metric)
            row = dict(value=float(value), low=value.low, high=value.high, spread=self.spread(metric))
            if self.baseline is not None:
                change = self.change(metric)
                row |= dict(change=float(change), change_low=change.low, change_high=change.high)
            table.loc[metric, list(row)] = list(row.values())
        return table

    def to_json(self) -> dict[str, Any]:
        """Summary, how many draws, and the record of the first, as plain data."""
        table = rows_of(self.summary().reset_index())
        record = self.draws[0].record.to_json()
        return {"record": record, "draws": len(self.draws), "summary": table}

    def beaten_by(self, cut: Scores, metric: Metric) -> Estimate:
        """A cut's metric less that of a random draw, with the uncertainty of prompts and of draws.

        Raises:
            ValueError: if there is no such metric.
        """
        own = cut.frame[self._checked(metric)].to_numpy(float)
        return estimate_against(metric, own, self._values(metric))

    def _checked(self, metric: Metric) -> Metric:
        return check_metric(metric, self)

    def _values(self, metric: Metric) -> Array:
        return np.stack([each.frame[metric].to_numpy(float) for each in self.draws])

    def __repr__(self) -> str:
        return f"DrawnScores({len(self.draws)} draws of {self.draws[0]!r})"


def with_drawn(cut: Scores, controls: Mapping[str, DrawnScores]) -> Scores:
    """A cut's scores with those of its controls, by kind, so that they are saved together."""
    drawn = {
        kind: tuple(replace(each, baseline=None) for each in found.draws)
        for kind, found in controls.items()
    }
    return replace(cut, drawn=drawn)


def drawn_beside(cut: Scores) -> dict[str, DrawnScores]:
    """The controls that were scored beside a cut, by kind."""
    return {
        kind: DrawnScores(tuple(replace(each, baseline=cut.baseline) for each in draws))
        for kind, draws in cut.drawn.items()
    }


def drawn_table(cut: Scores, metric: Metric) -> pd.DataFrame:
    """One row for each kind of control beside a cut, as a sweep has them; the p is of one comparison.

    Columns: control, draws, change, control_change, control_spread, difference, low, high, p, verdict.
    """
    rows: list[dict[str, Any]] = []
    for kind, drawn in drawn_beside(cut).items():
        found = drawn.beaten_by(cut, metric)
        row: dict[str, Any] = dict(
            control=kind, draws=len(drawn.draws), change=float(cut.change(metric))
        )
        row |= dict(control_change=float(drawn.change(metric)), control_spread=drawn.spread(metric))
        row |= dict(difference=float(found), low=found.low, high=found.high, p=found.p)
        rows.append(row | dict(verdict=verdict(found, found.p)))
    columns = ["control", "draws", "change", "control_change", "control_spread"]
    return pd.DataFrame(rows, columns=[*columns, "difference", "low", "high", "p", "verdict"])
