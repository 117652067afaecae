"""The circuits of a head: which two weights each is a product of, and where it is no such product."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from tl_truncate.weights.site import Circuit, Weight

#: The left and the right factor; the right one of QK is transposed.
FACTORS: dict[Circuit, tuple[Weight, Weight]] = {"QK": ("W_Q", "W_K"), "OV": ("W_V", "W_O")}
#: The factor that belongs to one head alone, also where keys and values are shared: a cut is made in it.
CARRIERS: dict[Circuit, Weight] = {"QK": "W_Q", "OV": "W_O"}
# Positions add to the stream, or to the scores a term of their own.
_POSITIONS_APART = ("standard", "alibi")


def reason_against(model: Any, attention: nn.Module, circuit: Circuit) -> str | None:
    """Why what a head does is not told by the product of two weights, or None.

    Args:
        model: that the attention belongs to.
        attention: of one block.
        circuit: that is asked for.
    """
    if circuit == "QK":
        positions = str(getattr(model.cfg, "positional_embedding_type", None))
        turned = any("rotary" in type(module).__name__.lower() for module in model.modules())
        if turned or positions not in _POSITIONS_APART:
            kind = "rotary" if turned else positions
            return (
                f"positions are of the kind {kind!r} here, not {' or '.join(_POSITIONS_APART)}, so that "
                "what queries and keys are compared by is another matrix at each distance"
            )
    elsewhere = ("v",) if circuit == "QK" else ("q", "k")
    norms = [name for name in _norms(attention) if not name.startswith(elsewhere)]
    if norms:
        return f"a norm, {norms[0]}, stands between its two weights"
    if any(_clips(module) for module in attention.modules()):
        return "queries, keys and values are clipped between its two weights"
    return None


def _norms(attention: nn.Module) -> Iterator[str]:
    for path, module in attention.named_modules():
        name = path.rpartition(".")[2]
        if "norm" in type(module).__name__.lower() and not name.startswith("_"):
            yield name


def _clips(module: nn.Module) -> bool:
    # Of the module's own: a Bridge answers for attributes of what it wraps too.
    own = module.__dict__
    asked = getattr(own.get("config"), "clip_qkv", None)
    return asked is not None or own.get("clip_qkv") is not None
