"""The lines of Python that do what a page shows."""

from collections.abc import Sequence
from typing import Any

from tl_truncate.explore.answered.session import Prepared
from tl_truncate.explore.asked import Chosen
from tl_truncate.surgery.cut import Cut
from tl_truncate.weights.keep import Fraction, Rank


def as_python(
    model: Any, prepared: Prepared, chosen: Sequence[Chosen], *, loaded: str | None = None
) -> str:
    """Code that makes the cuts, leaves the same next tokens in `p`, and prints the first of them.

    Args:
        model: that is explored.
        prepared: the prompt.
        chosen: the cuts.
        loaded: the arguments of `load_model` that give the model, as code; without them it is `model`.
    """
    imports, tokens = _tokens(model, prepared)
    head = [*imports, "import tl_truncate as tlt", ""]
    if loaded is not None:
        head.append(f"model = tlt.load_model({loaded})")
    lines = [
        f"cuts = {_listed([as_code(each.cut(model)) for each in chosen])}",
        "with tlt.truncated(model, *cuts):",
        f"    p = model({tokens})[0, -1].softmax(-1)",
        "for token in p.topk(5).indices:",
        '    print(f"{p[token]:.3f} {model.tokenizer.decode([int(token)])!r}")',
    ]
    return "\n".join([*head, *lines]) + "\n"


def as_code(cut: Cut) -> str:
    """A cut as it is written.

    Examples:
        >>> as_code(Cut("blocks.3.mlp.W_in", tlt.Energy(0.9)))
        "tlt.Cut('blocks.3.mlp.W_in', keep=tlt.Energy(e=0.9))"
    """
    match cut.keep:
        case Fraction(rho):
            keep = repr(rho)
        case Rank(k):
            keep = repr(k)
        case other:
            keep = f"tlt.{other!r}"
    strength = "" if cut.strength == 1.0 else f", strength={cut.strength!r}"
    return f"tlt.Cut({str(cut.site)!r}, keep={keep}{strength})"


def _listed(cuts: Sequence[str]) -> str:
    if len(cuts) < 2:
        return f"[{''.join(cuts)}]"
    return "\n".join(["[", *(f"    {cut}," for cut in cuts), "]"])


def _tokens(model: Any, prepared: Prepared) -> tuple[list[str], str]:
    """The text where the model reads the same tokens from it, and else the tokens; with their import."""
    text, tokens = prepared.asked.text, list(prepared.read.tokens)
    if text and model.to_tokens(text)[0].tolist() == tokens:
        return [], f"model.to_tokens({text!r})"
    return ["import torch"], f"torch.tensor([{tokens}])"
