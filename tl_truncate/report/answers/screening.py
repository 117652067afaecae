"""The answers of screens: what is predicted, and what parts of MLP outputs push."""

import pandas as pd

from tl_truncate.colours import scale_end
from tl_truncate.experiments.scoring.metrics import answer_name, label_of
from tl_truncate.experiments.screening.attribution import Attribution
from tl_truncate.experiments.screening.part_attribution import PartAttribution
from tl_truncate.experiments.screening.value_gradients import SingularValueGradients
from tl_truncate.report.answers.verdicts import NONE, chance, counted, end_of, moves, number_in, q_number
from tl_truncate.report.page import Answer, Number
from tl_truncate.report.pictures.curves import Curve, Panel, curves
from tl_truncate.report.pictures.forest import Row, forest
from tl_truncate.report.pictures.heat import Cell, heat
from tl_truncate.statistics import clear, shown_in
from tl_truncate.surgery.spoken import cut_all_along, said_setting
from tl_truncate.weights.spoken import said_site, short_keep

_PANELS, _SITES = 4, 14


def screen_answer(screen: Attribution, frame: pd.DataFrame) -> Answer:
    """The highest predicted change.

    Args:
        screen: that predicts.
        frame: of its grid: site, layer, matrix, keep, and the metric's change with ends and q.
    """
    change, goal = f"{screen.metric}_change", label_of(screen.metric, screen.record.has_global)
    best, worst = (frame.loc[each] for each in (frame[change].idxmax(), frame[change].idxmin()))
    names = [end_of(float(row[change]), top=row is best) for row in (best, worst)]
    q = float(best[f"{change}_q"])
    told = shown_in(best, change, signed=True)
    name = said_setting(best["site"], best["keep"])
    sentence = (
        f"Predicted to first order, not measured: cutting {name} {moves(float(best[change]))} "
        f"{goal.told} on {screen.record.task} by {told}, {chance(q)} over prompts; a sweep says "
        f"whether it holds{cut_all_along(screen.record.cuts)}."
    )
    numbers = (
        *(
            number_in(row, change, name.replace(" ", " predicted "), signed=True)
            for row, name in zip((best, worst), names, strict=True)
        ),
        Number("its control", NONE, "a prediction has none"),
        Number("sites", str(len(screen.by_row)), f"{counted(screen.n_prompts, 'prompt')} each"),
        q_number(q, f"among {counted(len(frame), 'cut')}"),
    )
    matrices = list(dict.fromkeys(frame["matrix"]))
    shown = matrices if len(matrices) <= _PANELS else [best["matrix"]]
    cells: dict[str, list[Cell]] = {matrix: [] for matrix in shown}
    marked = None
    for place, row in frame[frame["matrix"].isin(shown)].iterrows():
        q = float(row[f"{change}_q"])
        named = said_setting(row["site"], row["keep"])
        told = f"{named}: {shown_in(row, change, signed=True)}, {chance(q)}"
        keep = short_keep(row["keep"])
        cell = Cell(int(row["layer"]), keep, float(row[change]), clear(q), named, told)
        cells[row["matrix"]].append(cell)
        marked = cell if place == best.name else marked
    label = "Heatmap: the predicted change by layer and amount kept. A table of components is below."
    caption = f"Predicted change of {goal.told}: orange is more than the uncut model, blue is less."
    picture = heat(cells, marked, scale_end(frame[change]), label, f"the {names[0]}")
    return Answer(sentence, numbers, picture, caption)


def gradients_answer(found: SingularValueGradients) -> Answer:
    """The site that most speaks for a reduction."""
    sites, screen = found.sites, found.screen
    goal = label_of(screen.metric, screen.record.has_global)
    best = sites.iloc[0]
    sentence = (
        f"On {screen.record.task}, {goal.told} would rise fastest if singular values of "
        f"{said_site(best['site'])} shrank: by {float(best['score']):.3g} for each unit that all values "
        "with a negative gradient lose. It is a slope, and no effect of a cut"
        f"{cut_all_along(screen.record.cuts)}."
    )
    share = float(best["share"])
    numbers = (
        Number("its score", f"{float(best['score']):.3g}", said_site(best["site"])),
        Number(
            "share of its values",
            NONE if pd.isna(share) else f"{share:.0%}",
            "whose gradient is negative",
        ),
        Number("sites", str(len(screen.by_row)), f"{counted(screen.n_prompts, 'prompt')} each"),
    )
    rows = [
        Row(said_site(row["site"]), float(row["score"]), kind="cut", told=f"{float(row['score']):.3g}")
        for _, row in sites.head(_SITES).iterrows()
    ]
    label = "Dots: the score of the first sites. A table is below."
    caption = "How fast the metric would rise as each site's harmful singular values shrank."
    return Answer(sentence, numbers, forest(rows, label, "score"), caption)


def parts_answer(found: PartAttribution) -> Answer:
    """The block whose global part pushes the global answer most, and beside it the in-context part.

    Where there is one answer, it is that which is pushed.
    """
    frame, record, answer = found.frame, found.record, found.answers[-1]
    pushed_answer, other_answer = (
        answer_name(each, record.has_global) for each in (answer, "in_context")
    )
    block = found.largest("global", answer)[0]
    by_key = frame.set_index(["layer", "part", "answer"])
    most, other = by_key.loc[(block, "global", answer)], by_key.loc[(block, "in_context", answer)]
    adds, beside = (shown_in(_named(each), "logits", signed=True) for each in (most, other))
    sentence = (
        f"Of {counted(len(found.layers), 'block')} looked at, the global part of block {block} adds "
        f"most to the {pushed_answer} on {record.task}, {adds} nats; its in-context part adds {beside}"
        f"{cut_all_along(record.cuts)}."
    )
    inside = found.largest("in_context", "in_context")[0]
    pushed = by_key.loc[(inside, "in_context", "in_context")]
    numbers = (
        number_in(
            _named(most), "logits", f"block {block}: global part to the {pushed_answer}", signed=True
        ),
        number_in(_named(other), "logits", f"block {block}: in-context part to the same", signed=True),
        number_in(
            _named(pushed),
            "logits",
            f"block {inside}: in-context part to the {other_answer}",
            signed=True,
        ),
    )
    lines = []
    for place, (part, told) in enumerate((("global", "global part"), ("in_context", "in-context part"))):
        own = frame[(frame["part"] == part) & (frame["answer"] == answer)]
        layers, mean, low, high = (
            own[each].astype(float).tolist() for each in ("layer", "logits", "low", "high")
        )
        lines.append(Curve(told, layers, mean, low, high, place))
    panel = Panel(f"logits added to the {pushed_answer}, nats", lines)
    label = f"Curves: what both parts of each block's MLP add to the {pushed_answer}. A table is below."
    caption = f"Above zero a part pushes the {pushed_answer}; bands are 95% intervals over prompts."
    return Answer(sentence, numbers, curves([panel], label, "layer", steps=False), caption)


def _named(row: "pd.Series[float]") -> dict[str, float]:
    return {"logits": row["logits"], "logits_low": row["low"], "logits_high": row["high"]}
