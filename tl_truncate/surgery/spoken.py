"""Cuts as people say them: `layer 27, W_out, 10% kept`, and not how Python writes them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tl_truncate.surgery.cut import SiteCut
from tl_truncate.weights.site import Site
from tl_truncate.weights.spoken import said_keep, said_site

_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_REPR = re.compile(r"([A-Z]\w+)\(site='([^']+)'(?:, keep=(\w+\([^()]*\)))?((?:, \w+=[^,()]+)*)\)")
_STRENGTH = re.compile(r"strength=([^,]+)")


def said_kind(kind: str) -> str:
    """A kind of cut or control in words.

    Examples:
        >>> said_kind("RandomSubspace"), said_kind("NormMatched"), said_kind("OutputPCA")
        ('random subspace', 'norm-matched', 'output PCA')
    """
    if kind == "NormMatched":
        return "norm-matched"
    words = _CAPITAL.sub(" ", kind).split()
    return " ".join(word if word.isupper() else word.lower() for word in words)


def said_setting(site: Site | str, keep: object, kind: str = "Cut", strength: float = 1.0) -> str:
    """A cut by its parts, as tables have them.

    Examples:
        >>> said_setting("blocks.27.mlp.W_out", 0.1)
        'layer 27, W_out, 10% kept'
        >>> said_setting("blocks.2.mlp.W_in", 8, "RandomSubspace", 0.5)
        'layer 2, W_in, rank 8 kept (random subspace), strength 0.5'
    """
    told = f"{said_site(site)}, {said_keep(keep)}"  # type: ignore[arg-type]
    told = told if kind == "Cut" else f"{told} ({said_kind(kind)})"
    return told if strength == 1.0 else f"{told}, strength {strength:g}"


def said_cut(cut: SiteCut) -> str:
    """A cut in words.

    Examples:
        >>> said_cut(tlt.Cut("blocks.27.mlp.W_out", 0.1)), said_cut(tlt.Ablated("blocks.3.mlp.W_out"))
        ('layer 27, W_out, 10% kept', 'layer 3, W_out, nothing kept (ablated)')
    """
    keep = getattr(cut, "keep", cut.label)
    return said_setting(cut.site, keep, cut.kind, cut.strength)


def said_cuts(cuts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Cuts of a record in words.

    Examples:
        >>> said_cuts([tlt.Cut("blocks.27.mlp.W_out", 0.1).to_json()])
        ['layer 27, W_out, 10% kept']
    """
    return [said_cut(SiteCut.from_json(dict(each))) for each in cuts]


def cut_all_along(cuts: Sequence[Mapping[str, Any]]) -> str:
    """What is said where cuts were at work also in what is called uncut: the end of a sentence or title.

    Examples:
        >>> cut_all_along([]), cut_all_along([tlt.Cut("blocks.1.mlp.W_in", 0.1).to_json()])
        ('', '; layer 1, W_in, 10% kept was cut all along')
    """
    if not cuts:
        return ""
    return f"; {listed(said_cuts(cuts))} {'was' if len(cuts) == 1 else 'were'} cut all along"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names in a sentence, of many the first.

    Examples:
        >>> listed(["a", "b"]), listed(["a", "b", "c", "d", "e"])
        ('a and b', 'a, b, c and 2 more')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def said_in_text(text: str) -> str:
    """A text in which cuts that Python wrote are said in words; what it does not know stays.

    Examples:
        >>> said_in_text("chose Cut(site='blocks.1.mlp.W_in', keep=Fraction(rho=0.5)) here")
        'chose layer 1, W_in, 50% kept here'
    """
    return _REPR.sub(_said_match, text)


def _said_match(found: "re.Match[str]") -> str:
    kind, site, keep, rest = found.groups()
    strength = _STRENGTH.search(rest)
    of = 1.0 if strength is None else float(strength[1])
    return said_setting(site, 0.0 if keep is None else keep, kind, of)
