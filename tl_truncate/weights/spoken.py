"""Sites and keeps as people say them: what reports, figures and the terminal show."""

import re
from collections.abc import Collection
from typing import Any

from tl_truncate.weights.keep import (
    Band,
    Components,
    DropTop,
    Energy,
    Fraction,
    Keep,
    LaserCompat,
    MarchenkoPastur,
    OptimalThreshold,
    OutsideBulk,
    Rank,
    Without,
)
from tl_truncate.weights.site import Site

_FEW = 4
_REPR = re.compile(r"([A-Za-z]+)\((.*)\)")
_ARGUMENT = re.compile(r"(\w+)=([^,]+)")


def said_site(site: Site | str) -> str:
    """A site in words; text that names none as it is.

    Examples:
        >>> said_site("blocks.27.mlp.W_out"), said_site("blocks.3.attn.OV.5")
        ('layer 27, W_out', 'layer 3, OV of head 5')
    """
    place = _parsed(site)
    if place is None:
        return str(site)
    head = "" if place.head is None else f" of head {place.head}"
    return f"layer {place.layer}, {place.matrix}{head}"


def short_site(site: Site | str) -> str:
    """A site where there is little room, in a table of a terminal or at an axis.

    Examples:
        >>> short_site("blocks.27.mlp.W_out"), short_site("blocks.3.attn.W_O.5")
        ('27 W_out', '3 W_O.5')
    """
    place = _parsed(site)
    if place is None:
        return str(site)
    head = "" if place.head is None else f".{place.head}"
    return f"{place.layer} {place.matrix}{head}"


def said_keep(keep: Keep | int | float | str) -> str:
    """What is kept, in words, of a rule or of what a table shows of it; other text as it is.

    Examples:
        >>> said_keep(0.1), said_keep(8), said_keep(0.0), said_keep(1.0)
        ('10% kept', 'rank 8 kept', 'nothing kept', 'all kept')
        >>> said_keep(DropTop(64)), said_keep("Energy(e=0.95)"), said_keep("token_mean")
        ('without the 64 largest', '95% of the energy kept', 'token_mean')
    """
    return _said(_rule(keep))


def short_keep(keep: Keep | int | float | str) -> str:
    """What is kept, where there is little room: `10%`, `rank 8`, `-64 largest`.

    Examples:
        >>> short_keep(0.125), short_keep(8), short_keep(DropTop(64)), short_keep("Band(i=2, j=8)")
        ('12.5%', 'rank 8', '-64 largest', '2 to 7')
    """
    match _rule(keep):
        case Fraction(rho):
            return percent(rho)
        case Rank(k):
            return f"rank {k}"
        case DropTop(k):
            return f"-{k} largest"
        case Band(i, j) if j > i:
            return f"{i} to {j - 1}"
        case Energy(e):
            return f"{percent(e)} energy"
        case other:
            return _said(other).removesuffix(" kept")


def percent(share: float) -> str:
    """A share in per cent, with as many digits as it has and no more than four.

    Examples:
        >>> percent(0.1), percent(0.005), percent(1 / 3)
        ('10%', '0.5%', '33.33%')
    """
    return f"{100 * share:.4g}%"


def _said(rule: Keep | str) -> str:
    match rule:
        case Fraction(rho) if rho in (0, 1):
            return "all kept" if rho else "nothing kept"
        case Fraction(rho):
            return f"{percent(rho)} kept"
        case Rank(k):
            return f"rank {k} kept" if k else "nothing kept"
        case Energy(e):
            return f"{percent(e)} of the energy kept"
        case DropTop(k):
            return f"without the {k} largest" if k != 1 else "without the largest"
        case Band(i, j):
            return f"components {i} to {j - 1} kept" if j > i else "nothing kept"
        case Components(chosen):
            return f"{_counted(chosen)} kept" if chosen else "nothing kept"
        case Without(gone, name):
            return f"without {name or _counted(gone)}"
        case LaserCompat(rho):
            return f"LASER's sketch of {percent(rho)}"
        case MarchenkoPastur() | OptimalThreshold() | OutsideBulk():
            return _NOISE[type(rule)]
        case other:
            return str(other)


_NOISE: dict[type[Keep], str] = {
    MarchenkoPastur: "what is above noise kept",
    OptimalThreshold: "what is above the optimal threshold kept",
    OutsideBulk: "what is outside the bulk kept",
}


def _counted(components: Collection[int]) -> str:
    """A few components by their places, more by their number."""
    if len(components) <= _FEW:
        listed = ", ".join(map(str, sorted(components)))
        return f"component{'' if len(components) == 1 else 's'} {listed}"
    return f"{len(components)} components"


def _parsed(site: Site | str) -> Site | None:
    try:
        return Site.parse(site)
    except ValueError:
        return None


def _rule(keep: Keep | int | float | str) -> Keep | str:
    """A rule from what a table shows of it; text that is no rule with numbers stays text."""
    if isinstance(keep, Keep):
        return keep
    if not isinstance(keep, str):
        whole = not isinstance(keep, float)  # an int, or NumPy's: a rank
        return Rank(int(keep)) if whole else Fraction(float(keep))
    found = _REPR.fullmatch(keep)
    if found is None:
        return keep
    try:
        values: dict[str, Any] = {
            name: int(text) if text.strip().isdigit() else float(text)
            for name, text in _ARGUMENT.findall(found[2])
        }
        return Keep.named(found[1])(**values)
    except (ValueError, TypeError):
        return keep
