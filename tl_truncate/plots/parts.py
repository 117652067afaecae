"""Global and in-context parts: what they push, layer by layer; and ways to take them away, compared."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tl_truncate.colours import ORIGIN
from tl_truncate.decompose.parts import PARTS
from tl_truncate.experiments.comparison.chosen import ChosenComparison
from tl_truncate.experiments.comparison.compare import Comparison
from tl_truncate.experiments.scoring.metrics import PROBABILITIES, answer_name, title_of
from tl_truncate.experiments.screening.part_attribution import PartAttribution
from tl_truncate.plots.shared.forest import Row, forest
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import GLOBAL, IN_CONTEXT, changes_map, sheet
from tl_truncate.statistics import Estimate
from tl_truncate.surgery.spoken import cut_all_along

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_NAMES = {"global": "global part", "in_context": "in-context part"}


@draws(PartAttribution)
def parts(found: PartAttribution) -> "Figure":
    """What each layer's global and in-context part adds to the answers: a heat map and marks.

    Full marks are the global part, hollow ones the in-context part.

    Args:
        found: from `part_attribution`.

    Returns:
        A matplotlib figure; left layers x (part, answer), right the same with 95% intervals.
    """

    figure = sheet(10, max(3.2, 0.2 * len(found.layers) + 1.6))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    table, places = found.frame, {layer: place for place, layer in enumerate(found.layers)}
    _map(left, table, found.layers)
    for place, (part, answer) in enumerate((p, a) for p in PARTS for a in found.answers):
        own = table[(table["part"] == part) & (table["answer"] == answer)]
        right.errorbar(
            own["logits"],
            own["layer"].map(places) + 0.06 * (place - 1.5),
            xerr=[own["logits"] - own["low"], own["high"] - own["logits"]],
            color=GLOBAL if answer == "global" else IN_CONTEXT,
            linestyle="none",
            marker="o" if part == "global" else "s",
            markerfacecolor=None if part == "global" else "none",
            markersize=4,
            elinewidth=0.9,
            label=f"{_NAMES[part]} to the {answer_name(answer, found.record.has_global)}",
        )
    right.axvline(0, color="black", linewidth=0.8)
    right.set_ylim(left.get_ylim())
    right.set_yticks(left.get_yticks(), [each.get_text() for each in left.get_yticklabels()])
    right.set_xlabel("logits added where the answer is said (nats, centred)", fontsize=8)
    right.tick_params(labelsize=8)
    right.grid(axis="x", linewidth=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    told = f"{found.record.task}, parts by {found.split['method']}"
    told = f"{told}: {_most(table, found.record.has_global)}{cut_all_along(found.record.cuts)}"
    figure.suptitle(told, fontsize=10)
    return figure


def _most(table: pd.DataFrame, has_global: bool) -> str:
    """What adds most to each answer: what the figure has to say."""
    told = []
    for answer in dict.fromkeys(table["answer"]):
        own = table[table["answer"] == answer]
        row = own.loc[own["logits"].idxmax()]
        said = f"layer {row['layer']}'s {_NAMES[row['part']]} adds most to the"
        told.append(f"{said} {answer_name(answer, has_global)} ({row['logits']:+.2g} nats)")
    return "; ".join(told)


def _map(axis: "Axes", table: pd.DataFrame, layers: Sequence[int]) -> None:
    columns = [(part, answer) for part in PARTS for answer in dict.fromkeys(table["answer"])]
    wide = table.pivot_table(index="layer", columns=["part", "answer"], values="logits")
    values = wide.loc[list(layers), columns].to_numpy()
    size = float(np.abs(values).max()) or 1.0
    image = axis.imshow(values, cmap=changes_map(), vmin=-size, vmax=size, aspect="auto", origin=ORIGIN)
    both = len(columns) > len(PARTS)
    names = [
        f"{part.replace('_', '-')}\nto {answer_name(answer, both).removesuffix(' answer')}"
        for part, answer in columns
    ]
    axis.set_xticks(range(len(columns)), names, fontsize=6)
    step = max(1, len(layers) // 15)
    axis.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]], fontsize=8)
    axis.set_ylabel("layer", fontsize=8)
    axis.figure.colorbar(image, ax=axis, shrink=0.7).ax.tick_params(labelsize=7)


@draws(Comparison, ChosenComparison)
def comparison(
    found: Comparison | ChosenComparison,
    *,
    ways: Sequence[str] | None = None,
    metrics: tuple[str, ...] | None = None,
) -> "Figure":
    """What each way to take the global part away changes, paired prompt by prompt, with 95% intervals.

    Args:
        found: from `compare` or `compare_chosen`.
        ways: the rows, of `found.frame`, from top to bottom; all by default.
        metrics: one panel each; by default the probabilities of the answers.

    Returns:
        A matplotlib figure; the line at zero is the uncut model, hollow marks are controls.

    Raises:
        ValueError: if there is no such way.
    """
    table = found.frame
    metrics = tuple(each for each in PROBABILITIES if each in table) if metrics is None else metrics
    chosen = _ways(table, ways)
    figure = sheet(3.2 + 3.4 * len(metrics), 0.26 * len(chosen) + 1.3)
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        forest(axis, [Row(way, _change(table.loc[way], metric), "(control)" in way) for way in chosen])
        told, uncut = title_of(metric, "p_global" in table), table.loc["uncut", metric]
        axis.set_title(f"change of the {told}, uncut {uncut:.3g}", fontsize=8)
    figure.suptitle(_title(found), fontsize=10)
    return figure


def _ways(table: pd.DataFrame, asked: Sequence[str] | None) -> list[str]:
    there = [str(way) for way in table.index if way != "uncut"]
    if asked is None:
        return there
    for way in asked:
        if way not in there:
            raise ValueError(f"A way must be one of {', '.join(there)}, got {way!r}.")
    return list(asked)


def _change(row: pd.Series, metric: str) -> Estimate:
    """Where a family chose nothing, nothing changes."""
    value, low, high = (row[f"{metric}_change{end}"] for end in ("", "_low", "_high"))
    nothing = math.isnan(value)
    return Estimate(0.0 if nothing else value, low=low, high=high, se=math.nan, n=0)


def _title(found: Comparison | ChosenComparison) -> str:
    if isinstance(found, ChosenComparison):
        return f"{found.task}: each family's best cut, on prompts that did not choose it"
    record = found.baseline.record
    return f"{record.task}, {record.n_prompts} prompts: the MLP of block {found.layer} changed"
