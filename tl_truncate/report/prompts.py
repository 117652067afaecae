"""The table of prompts: what the model says to each one, uncut and under every setting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tl_truncate.experiments.scoring.metrics import answer_names, label_of
from tl_truncate.tasks.files.frames import COLUMNS

#: Metrics that the table shows, with their digits.
SHOWN = {"p_in_context": 4, "p_global": 4, "logit_diff": 2}
#: Readings (prompts times settings) that a page holds at most: about 20 bytes each.
MOST_READINGS = 100_000


@dataclass(frozen=True)
class Setting:
    """One entry of the menu of settings.

    Attributes:
        name: in the menu.
        cut: each prompt's metrics under it.
        uncut: each prompt's metrics without it; None for the uncut model itself.
        change: of the whole. Settings that change least are left out where there are too many; the
            one that rises most is shown at first.
    """

    name: str
    cut: pd.DataFrame
    uncut: pd.DataFrame | None = None
    change: float = 0.0


def group(name: str, frame: pd.DataFrame, settings: Sequence[Setting], most: int) -> dict[str, Any]:
    """One task's prompts with all its settings, as the page's script reads them.

    Args:
        name: in the menu of groups.
        frame: with the columns prompt, in_context and, if there is one, global_.
        settings: in the order of the menu.
        most: readings to hold; of more, the settings that change most are kept.
    """
    kept = _largest(settings, max(1, most // max(len(frame), 1)))
    stored: dict[int, int] = {}
    series: list[dict[str, list[int | None]]] = []

    def place(values: pd.DataFrame) -> int:
        if id(values) not in stored:
            stored[id(values)] = len(series)
            series.append(_numbers(values))
        return stored[id(values)]

    entries = [
        dict(
            name=each.name,
            cut=place(each.cut),
            uncut=None if each.uncut is None else place(each.uncut),
        )
        for each in kept
    ]
    texts = [each for each in COLUMNS if each in frame and frame[each].notna().all()]
    has_global = "global_" in texts
    shown = {metric: digits for metric, digits in SHOWN.items() if metric in frame}
    return dict(
        name=name,
        titles=["prompt", *answer_names(has_global)],
        texts=frame[texts].astype(str).to_numpy().tolist(),
        first=max(range(len(kept)), key=lambda place: kept[place].change),
        series=series,
        settings=entries,
        left_out=len(settings) - len(kept),
        digits=shown,
        names={metric: label_of(metric, has_global).short for metric in shown},
    )


def _largest(settings: Sequence[Setting], count: int) -> list[Setting]:
    if len(settings) <= count:
        return list(settings)
    sizes = sorted((-abs(each.change), place) for place, each in enumerate(settings))
    chosen = {place for _, place in sizes[:count]}
    return [each for place, each in enumerate(settings) if place in chosen]


def _numbers(values: pd.DataFrame) -> dict[str, list[int | None]]:
    """Whole numbers of the last digit, which take less room than fractions."""
    return {
        name: [_whole(value * 10**digits) for value in values[name]]
        for name, digits in SHOWN.items()
        if name in values
    }


def _whole(value: float) -> int | None:
    return round(float(value)) if np.isfinite(value) else None


def share(groups: int) -> int:
    """How many readings each of some groups may hold."""
    return MOST_READINGS // max(1, groups)
