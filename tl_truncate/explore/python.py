"""The lines of Python that do what a page shows."""

from collections.abc import Sequence
from typing import Any

from tl_truncate.explore.asked import Chosen
from tl_truncate.explore.session import Prepared
from tl_truncate.surgery.cut import Cut
from tl_truncate.weights.keep import Fraction, Rank


def as_python(
    model: Any, prepared: Prepared, chosen: Sequence[Chosen], *, loaded: str | None = None
) -> str:
    """Code that makes the cuts and shows the same next tokens.

    Args:
        model: that is explored.
        prepared: the prompt.
        chosen: the cuts.
        loaded: the name by which `load_model` finds the model; it is called `model` otherwise.
    """
    lines = ["import tl_truncate as tlt"]
    if loaded is not None:
        lines += ["", f"model = tlt.load_model({loaded!r})"]
    cuts = [_cut(each.cut(model)) for each in chosen]
    own = f"[{cuts[0]}]" if len(cuts) == 1 else "\n".join(["[", *(f"    {cut}," for cut in cuts), "]"])
    lines += [
        f"cuts = {own if cuts else '[]'}",
        "with tlt.truncated(model, *cuts):",
        f"    p = model({_tokens(model, prepared)})[0, -1].softmax(-1)",
        f"for value, token in zip(*p.topk({10})):",
        "    print(f\"{value:.3f} {model.tokenizer.decode([int(token)])!r}\")",
    ]
    return "\n".join(lines) + "\n"


def _cut(cut: Cut) -> str:
    match cut.keep:
        case Fraction(rho):
            keep = repr(rho)
        case Rank(k):
            keep = repr(k)
        case other:
            keep = f"tlt.{other!r}"
    strength = "" if cut.strength == 1.0 else f", strength={cut.strength!r}"
    return f"tlt.Cut({str(cut.site)!r}, keep={keep}{strength})"


def _tokens(model: Any, prepared: Prepared) -> str:
    """The text where the model reads the same tokens from it, and else the tokens."""
    text, tokens = prepared.asked.text, list(prepared.read.tokens)
    if model.to_tokens(text)[0].tolist() == tokens:
        return f"model.to_tokens({text!r})"
    return f"__import__('torch').tensor([{tokens}])"
