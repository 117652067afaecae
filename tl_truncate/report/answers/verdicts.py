"""The words of an answer: whether a change is clear of chance and of its control, and large figures."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tl_truncate.experiments.scoring.drawn import VERDICTS, towards
from tl_truncate.experiments.scoring.view import ShownCost
from tl_truncate.report.page import Number
from tl_truncate.statistics import clear, shown
from tl_truncate.surgery.spoken import said_kind

#: What stands where there is no number.
NONE = "–"
NOT_SCORED = Number("its control", NONE, "none was scored")
NOT_READ = Number("cost on running text", NONE, "no text was read")


def q_text(q: float) -> str:
    """A false discovery rate, as short as it is meant.

    Examples:
        >>> q_text(0.0312), q_text(1e-9)
        ('0.031', '< 0.001')
    """
    if math.isnan(q):
        return NONE
    return "< 0.001" if q < 0.001 else f"{q:.2g}"


#: The columns of a table of controls behind those that name what was cut, but for that of q or p.
BESIDE = ("control", "its mean", "spread", "draws", "cut less a draw")
BESIDE_TOLD = (
    "parts of no particular meaning that remove as much: the mean of their draws and its standard "
    "deviation, and whether the cut could be one more draw (95% intervals over prompts and draws)"
)


def beside_cells(row: Any, chance_of: str) -> list[Any]:
    """The cells of `BESIDE` for one control of a cut, with the q or the p and the verdict.

    Args:
        row: of `beside_controls` or `drawn_table`.
        chance_of: `q` or `p`, which of both the table has.
    """
    return [
        said_kind(row["control"]),
        f"{row['control_change']:+.3f}",
        f"{row['control_spread']:.3f}" if row["draws"] > 1 else "one draw",
        row["draws"],
        shown(row["difference"], row["low"], row["high"], signed=True),
        q_text(row[chance_of]),
        VERDICTS[towards(row["verdict"], row["change"])],
    ]


def chance(q: float, sign: str = "q", of: str = "prompts") -> str:
    """Whether a change is clear of chance.

    Args:
        q: of the change; NaN where there are too few.
        sign: `q` or `p`.
        of: what there are too few of.

    Examples:
        >>> chance(0.03), chance(0.5, "p")
        ('clear of chance (q = 0.03)', 'not clear of chance (p = 0.5)')
        >>> chance(float("nan"))
        'with too few prompts to tell it from chance'
    """
    if math.isnan(q):
        return f"with too few {of} to tell it from chance"
    told = q_text(q) if q < 0.001 else f"= {q_text(q)}"
    return f"{'' if clear(q) else 'not '}clear of chance ({sign} {told})"


def moves(change: float) -> str:
    """The verb that agrees with a change's sign.

    Examples:
        >>> moves(0.1), moves(-0.1), moves(0.0)
        ('raises', 'lowers', 'does not move')
    """
    return "raises" if change > 0 else "lowers" if change < 0 else "does not move"


def leaves(change: float, told: str, what: str = "it") -> str:
    """What a cut does to what is named, by how much.

    Examples:
        >>> leaves(-0.1, "-0.100"), leaves(0.0, "+0.000")
        ('lowers it by -0.100', 'leaves it as it is')
        >>> leaves(-1e-7, "-0.000 [within 0.001]")
        'moves it by less than 0.001 [within 0.001]'
    """
    if not change:
        return f"leaves {what} as it is"
    figure, _, rest = told.partition(" ")
    if float(figure) == 0:  # of so few digits
        least = 10.0 ** -len(figure.partition(".")[2])
        return f"moves {what} by less than {least:g} {rest}".rstrip()
    return f"{moves(change)} {what} by {told}"


def end_of(change: float, *, top: bool) -> str:
    """What the highest or the lowest of some changes is: none is a rise where all of them fall.

    Examples:
        >>> end_of(0.1, top=True), end_of(-0.1, top=True), end_of(0.0, top=True)
        ('largest rise', 'smallest fall', 'highest change')
        >>> end_of(-0.1, top=False), end_of(0.1, top=False), end_of(0.0, top=False)
        ('largest fall', 'smallest rise', 'lowest change')
    """
    if not change:
        return "highest change" if top else "lowest change"
    return f"{'largest' if (change > 0) == top else 'smallest'} {'rise' if change > 0 else 'fall'}"


def furthest(changes: "pd.Series[Any]", change: float) -> Any:
    """The label of the control that goes furthest to where a cut goes, up or down.

    Beside a cut that moves nothing it is the one that moves most.

    Examples:
        >>> controls = pd.Series({"RandomSubspace": -0.2, "NormMatched": 0.1})
        >>> furthest(controls, -0.5), furthest(controls, 0.5), furthest(controls, 0.0)
        ('RandomSubspace', 'NormMatched', 'RandomSubspace')
    """
    values = changes.astype(float)
    return (values * math.copysign(1, change) if change else values.abs()).idxmax()


def beside(verdicts: Mapping[str, str], change: float) -> str:
    """Whether a cut does more than its controls, by what the verdict on each is.

    Args:
        verdicts: by the kind of control, whether the cut's change is more than the control's, or less.
        change: the cut's: of one that falls, less is further.

    Examples:
        >>> beside({"RandomSubspace": "more", "NormMatched": "alike"}, 0.2)
        'but a norm-matched control may do as much'
        >>> beside({"RandomSubspace": "more"}, 0.2), beside({"RandomSubspace": "more"}, -0.2)
        ('and more than its control (random subspace)', 'but a random subspace control does more')
        >>> beside({}, 0.2)
        'with no control scored'
    """
    if not verdicts:
        return "with no control scored"
    verdicts = {kind: towards(each, change) for kind, each in verdicts.items()}
    words = {
        "less": ("but a {} control does more", "but its {} controls do more"),
        "alike": ("but a {} control may do as much", "but its {} controls may do as much"),
        "none": ("with too few draws or prompts to hold it against its {} control{}",) * 2,
    }
    for verdict, (one, several) in words.items():
        found = [said_kind(kind) for kind, each in verdicts.items() if each == verdict]
        if found:
            many = len(found) > 1
            return (several if many else one).format(" and ".join(found), "s" if many else "")
    names = ", ".join(map(said_kind, verdicts))
    return f"and more than its control{'s' if len(verdicts) > 1 else ''} ({names})"


def beside_null(over: float, q: float, told: str, change: float) -> str:
    """Whether a chosen cut is worth more than what the same search chose among random cuts.

    Args:
        over: the objective under the cut less that under the random one; more is better.
        q: of that difference; NaN where there are too few prompts.
        told: the difference in words.
        change: the cut's own change: of one that falls nothing is beyond.

    Examples:
        >>> beside_null(0.2, 0.01, "+0.200", 0.3)
        'and +0.200 beyond what the same search finds among random cuts'
        >>> beside_null(0.2, 0.01, "+0.200", -0.1)
        'and the same search among random cuts does worse (difference +0.200)'
        >>> beside_null(-0.2, 0.01, "-0.200", 0.3)
        'but the same search among random cuts does better (difference -0.200)'
        >>> beside_null(-0.2, 0.5, "-0.200", 0.3)
        'but the same search among random cuts may find as much (difference -0.200)'
    """
    search = "the same search among random cuts"
    if math.isnan(q):
        return f"with too few prompts to hold it against {search} (difference {told})"
    if not clear(q):
        return f"but {search} may find as much (difference {told})"
    if over < 0:
        return f"but {search} does better (difference {told})"
    if change <= 0:
        return f"and {search} does worse (difference {told})"
    return f"and {told} beyond what the same search finds among random cuts"


def number(
    name: str, value: float, low: float, high: float, *, digits: int = 3, signed: bool = False
) -> Number:
    """A large figure with its interval below it."""
    told = shown(value, low, high, digits=digits, signed=signed)
    first, _, rest = told.partition(" ")
    if first.startswith("-") and float(first) == 0:
        first = first.replace("-", "+" if signed else "")
    return Number(name, NONE if math.isnan(value) else first, rest)


def number_in(row: Any, column: str, name: str, *, signed: bool = False) -> Number:
    """`number` of three columns of a table's row."""
    return number(name, *(float(row[f"{column}{end}"]) for end in ("", "_low", "_high")), signed=signed)


def q_number(q: float, among: str, sign: str = "q") -> Number:
    """The q, with what it is among."""
    return Number(sign, q_text(q), among)


def control_number(rows: pd.DataFrame, change: float, value: str = "control_change") -> Number:
    """The control that goes furthest to where the cut goes.

    Args:
        rows: of one cut, one for each kind of control, with control and draws.
        change: the cut's.
        value: the column of its mean change.
    """
    if rows.empty:
        return NOT_SCORED
    row = rows.loc[furthest(rows[value], change)]
    draws = int(row["draws"])
    return Number(
        "its control",
        f"{float(row[value]):+.3f}",
        f"{said_kind(str(row['control']))}, {draws} draw{'' if draws == 1 else 's'}",
    )


def cost_number(cost: ShownCost | None) -> Number:
    """What cuts cost on running text: how many times the perplexity is."""
    if cost is None:
        return NOT_READ
    before, after = float(cost.uncut_perplexity), float(cost.perplexity)
    return Number("perplexity", f"×{after / before:.3f}", f"{before:.1f} to {after:.1f} on running text")


def cost_words(cost: ShownCost | None) -> str:
    """The cost in a sentence."""
    if cost is None:
        return "its cost on running text was not measured"
    return f"perplexity {float(cost.uncut_perplexity):.1f} becomes {float(cost.perplexity):.1f}"


def counted(number_: int, what: str) -> str:
    """A number of things.

    Examples:
        >>> counted(1, "cut"), counted(3, "cut")
        ('1 cut', '3 cuts')
    """
    return f"{number_} {what}{'' if number_ == 1 else 's'}"
