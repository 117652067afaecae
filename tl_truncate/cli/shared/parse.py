"""Cuts and keep rules as text. Nothing is evaluated: a rule is a known name with numbers."""

import re

from tl_truncate.surgery.cut import Cut
from tl_truncate.weights.keep import Keep, as_keep

_RULE = re.compile(r"([A-Za-z]+)\(([^()]*)\)")


def parse_keep(text: str) -> Keep:
    """Reads a keep rule from text: a rank, a fraction, or a rule with its numbers.

    Raises:
        ValueError: if the text is none of these.

    Examples:
        >>> parse_keep("8"), parse_keep("0.1"), parse_keep("Band(2, 8)")
        (Rank(k=8), Fraction(rho=0.1), Band(i=2, j=8))
    """
    match = _RULE.fullmatch(text.strip())
    try:
        if match is None:
            return as_keep(_number(text))
        name, inside = match.groups()
        numbers = [_number(part) for part in inside.split(",") if part.strip()]
        return Keep.named(name)(*([tuple(numbers)] if name == "Components" else numbers))
    except (ValueError, TypeError) as problem:
        raise ValueError(
            f"A keep must be a rank (8), a fraction (0.1) or a rule such as Energy(0.95), got "
            f"{text!r}: {problem}"
        ) from None


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"\s*[+-]?\d+\s*", text) else float(text)


def parse_cut(text: str) -> Cut:
    """Reads a cut from `SITE=KEEP`.

    Raises:
        ValueError: if the text is not of this form.

    Examples:
        >>> parse_cut("blocks.27.mlp.W_in=0.01")
        Cut(site='blocks.27.mlp.W_in', keep=Fraction(rho=0.01))
    """
    site, separator, keep = text.partition("=")
    if not separator:
        raise ValueError(f"A cut must read SITE=KEEP, such as blocks.27.mlp.W_in=0.01, got {text!r}.")
    return Cut(site, parse_keep(keep))
