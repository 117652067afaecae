"""The report of two runs: what one has that the other has not, setting by setting."""

from collections import Counter
from dataclasses import dataclass

from markupsafe import Markup

from tl_truncate.colours import scale_end
from tl_truncate.experiments.scoring.estimates import estimate_changes, estimate_values
from tl_truncate.experiments.scoring.metrics import Metric, label_of
from tl_truncate.experiments.scoring.view import setup
from tl_truncate.markup import details, interval, join, paragraphs, table
from tl_truncate.report.answers.verdicts import NONE, chance, counted, number, q_number, q_text
from tl_truncate.report.page import Answer, Number, Page, Section
from tl_truncate.report.pairs.pair import Pair
from tl_truncate.report.pairs.sides import UNCUT, Side, control_of
from tl_truncate.report.pictures.forest import Row, forest
from tl_truncate.report.pictures.heat import Cell, heat
from tl_truncate.report.provenance import provenance
from tl_truncate.statistics import Estimate, clear, q_values
from tl_truncate.surgery.spoken import listed, said_kind
from tl_truncate.weights.spoken import short_keep

_MAP, _PANELS, _ROWS = 3, 4, 14


@dataclass(frozen=True)
class Difference:
    """One setting on both sides.

    Attributes:
        setting: in words.
        one, other: its change on each side, with its interval.
        value: the other less the first.
        q: of the difference, among all settings.
    """

    setting: str
    one: Estimate
    other: Estimate
    value: Estimate
    q: float


def pair_page(pair: Pair) -> Page:
    """Both sides of everything that both have."""
    found = {metric: differences(pair, metric) for metric in pair.metrics}
    metrics = sorted(pair.metrics, key=lambda metric: metric != pair.metric)
    tables = [_table(pair, metric, found[metric]) for metric in metrics]
    told = (
        Markup(
            "<p>Changes from each side's own uncut model, and their difference, with 95% intervals.</p>"
        )
        if pair.settings != (UNCUT,)
        else Markup("")
    )
    sections = (
        Section("summary", "Summary", paragraphs(_words(pair))),
        Section("baseline", "The uncut models", _uncut(pair)),
        Section(
            "settings",
            "Every setting on both sides",
            told
            + tables[0]
            + join(
                details(label_of(name, pair.has_global).short, each)
                for name, each in zip(metrics[1:], tables[1:], strict=True)
            ),
        ),
        Section("provenance", "Where this comes from", _origins(pair)),
    )
    title = f"{pair.one.record.task}: {pair.one.name} and {pair.other.name}"
    return Page(title, pair_answer(pair, found[pair.metric]), sections)


def differences(pair: Pair, metric: str) -> list[Difference]:
    """Every setting that both sides have."""
    estimate = estimate_values if pair.settings == (UNCUT,) else estimate_changes
    name: Metric = metric  # type: ignore[assignment]
    values = [pair.difference(setting, metric) for setting in pair.settings]
    found = []
    for setting, value, q in zip(
        pair.settings, values, q_values([each.p for each in values]), strict=True
    ):
        sides = [estimate(name, side.changes[setting][metric]) for side in (pair.one, pair.other)]
        found.append(Difference(setting, sides[0], sides[1], value, float(q)))
    return found


def pair_answer(pair: Pair, found: list[Difference]) -> Answer:
    """The largest difference, and how many are clear."""
    most = max(found, key=lambda each: abs(each.value))
    goal, less = label_of(pair.metric, pair.has_global), f"{pair.other.name} less {pair.one.name}"
    prompts = f"paired on the same {counted(most.value.n, 'prompt')} of {pair.one.record.task}"
    if not pair.is_paired:
        prompts = f"unpaired, on prompts of {pair.one.record.task} that are not all the same"
    sides = f"{pair.one.name} {interval(most.one, signed=True)}, {pair.other.name} "
    sides += interval(most.other, signed=True)
    told = interval(most.value, signed=True)
    if len(found) == 1:
        first = (
            f"{goal.told[0].upper()}{goal.told[1:]}, {most.setting}: {less} is {told}, "
            f"{chance(most.q)}, {prompts}"
        )
    else:
        distinct = sum(clear(each.q) for each in found)
        first = (
            f"{distinct} of {len(found)} settings that both have change {goal.told} differently, "
            f"{prompts}; the largest difference is at {most.setting}, where {less} is {told}, "
            f"{chance(most.q)}"
        )
    caveats = "".join(f"; {word}" for word in [*pair.unlike, *_left_out(pair)])
    numbers = (
        _uncut_number(pair.one, pair.metric),
        _uncut_number(pair.other, pair.metric),
        number(
            "largest difference" if len(found) > 1 else "difference",
            most.value,
            most.value.low,
            most.value.high,
            signed=True,
        ),
        _control(pair, most.setting),
        q_number(most.q, f"among {counted(len(found), 'setting')}"),
    )
    picture, caption = _map(pair, found, most) or _list(pair, found)
    return Answer(f"{first}{caveats}.", numbers, picture, f"{caption} There: {sides}.")


def _uncut_number(side: Side, metric: str) -> Number:
    value = estimate_values(metric, side.uncut[metric])  # type: ignore[arg-type]
    return number(f"uncut, {side.name}", value, value.low, value.high)


def _control(pair: Pair, setting: str) -> Number:
    """The difference that the same control makes on both sides; of several the largest."""
    one, other = (control_of(side, setting, pair.metric) for side in (pair.one, pair.other))
    both = {kind: other[kind] - value for kind, value in one.items() if kind in other}
    if not both:
        return Number("difference of its control", NONE, "not scored on both sides")
    kind = max(both, key=lambda each: abs(both[each]))
    return Number("difference of its control", f"{both[kind]:+.3f}", said_kind(kind))


def _map(pair: Pair, found: list[Difference], most: Difference) -> tuple[Markup, str] | None:
    cuts = pair.one.cuts
    if len({cuts[each.setting].site.layer for each in found if each.setting in cuts}) < _MAP:
        return None
    cells: dict[str, list[Cell]] = {}
    marked, taken = None, Counter[tuple[str, int, str]]()
    for each in found:
        cut, site = cuts[each.setting], cuts[each.setting].site
        matrix = site.matrix if site.head is None else f"{site.matrix}.{site.head}"
        matrix += "" if cut.kind == "Cut" else f", {said_kind(cut.kind)}"
        matrix += "" if cut.strength == 1 else f", strength {cut.strength:g}"
        told = f"{each.setting}: {interval(each.value, signed=True)}, {chance(each.q)}"
        keep = short_keep(getattr(cut, "keep", cut.label))
        taken[matrix, site.layer, keep] += 1
        if (twin := taken[matrix, site.layer, keep]) > 1:  # a place that two would share becomes two
            keep += f" ({twin})"
        cell = Cell(site.layer, keep, float(each.value), clear(each.q), each.setting, told)
        cells.setdefault(matrix, []).append(cell)
        marked = cell if each is most else marked
    shown_cells = (
        cells if len(cells) <= _PANELS else {name: own for name, own in cells.items() if marked in own}
    )
    label = "Heatmap: the difference of both runs by layer and amount kept. A table is below."
    caption = (
        f"{pair.other.name} less {pair.one.name}, of the change of "
        f"{label_of(pair.metric, pair.has_global).short}: orange is more in the second."
    )
    end = scale_end([float(each.value) for each in found])
    return heat(shown_cells, marked, end, label, "the largest difference"), caption


def _list(pair: Pair, found: list[Difference]) -> tuple[Markup, str]:
    rows = []
    for each in sorted(found, key=lambda each: -abs(each.value))[: max(1, _ROWS // 3)]:
        named = "" if len(found) == 1 else f"{each.setting}: "
        sides = ((pair.one.name, each.one, "uncut"), (pair.other.name, each.other, "chosen"))
        for name, value, kind in (*sides, ("the difference", each.value, "cut")):
            told = interval(value, signed=True)
            rows.append(Row(f"{named}{name}", value, value.low, value.high, kind, told))
    label = "Dots with intervals: both sides and their difference. A table is below."
    what = "value" if pair.settings == (UNCUT,) else "change"
    short = label_of(pair.metric, pair.has_global).short
    caption = f"The {what} of {short} on each side, and the difference; bars are 95% intervals."
    return forest(rows, label, f"{what} of {short}"), caption


def _table(pair: Pair, metric: str, found: list[Difference]) -> Markup:
    rows = [
        [
            each.setting,
            *(interval(value, signed=True) for value in (each.one, each.other, each.value)),
            q_text(each.q),
        ]
        for each in found
    ]
    how = "paired by prompt" if pair.is_paired else "unpaired: the prompts are not the same"
    columns = ("setting", pair.one.name, pair.other.name, "difference", "q")
    return table(
        columns, rows, caption=f"{label_of(metric, pair.has_global).short}; the difference is {how}"
    )


def _uncut(pair: Pair) -> Markup:
    rows = []
    for metric in pair.metrics:
        values = [estimate_values(metric, side.uncut[metric]) for side in (pair.one, pair.other)]  # type: ignore[arg-type]
        rows.append([label_of(metric, pair.has_global).short, *(interval(each) for each in values)])
    return table(("metric", pair.one.name, pair.other.name), rows, caption="Means with 95% intervals")


def _words(pair: Pair) -> list[str]:
    one, other = pair.one, pair.other
    words = [
        f"{one.name} is {setup(one.record.to_json())}; {other.name} is {setup(other.record.to_json())}.",
        f"{counted(len(pair.settings), 'setting')} that both have "
        f"{'is' if len(pair.settings) == 1 else 'are'} "
        f"compared, of {len(one.changes)} and {len(other.changes)}."
        if one.cuts
        else f"What is compared is {pair.settings[0]}.",
    ]
    words.append(
        f"Both were asked the same {counted(one.record.n_prompts, 'prompt')}, so that each prompt "
        "is its own "
        "comparison: differences are paired."
        if pair.is_paired
        else "The prompts are not the same: differences are of means, and their intervals have the "
        "uncertainty of both sides."
    )
    words += [f"{word[0].upper()}{word[1:]}." for word in _left_out(pair)]
    words += [f"What else differs: {word}." for word in pair.unlike if "prompts" not in word]
    words.append("The largest of many differences is flattered by being picked; q is among all of them.")
    return words


def _left_out(pair: Pair) -> list[str]:
    """That the page is about one of several tasks, where it is."""
    if not pair.left_out:
        return []
    return [f"both runs have also {listed(pair.left_out)}, of which this page says nothing"]


def _origins(pair: Pair) -> Markup:
    return join(
        Markup("<h3>{}</h3>{}").format(side.name, provenance(side.record.to_json()))
        for side in (pair.one, pair.other)
    )
