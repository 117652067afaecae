"""The circuits of a head: which two weights each is a product of, and where it is no such product."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from tl_truncate.weights.site import Circuit, Site, Weight

#: The left and the right factor; the right one of QK is transposed.
FACTORS: dict[Circuit, tuple[Weight, Weight]] = {"QK": ("W_Q", "W_K"), "OV": ("W_V", "W_O")}
#: The factor that belongs to one head alone, also where keys and values are shared: a cut is made in it.
CARRIERS: dict[Circuit, Weight] = {"QK": "W_Q", "OV": "W_O"}


def reason_against(model: Any, attention: nn.Module, circuit: Circuit) -> str | None:
    """Why what a head does is not told by the product of two weights, or None.

    Args:
        model: that the attention belongs to.
        attention: of one block.
        circuit: that is asked for.
    """
    if circuit == "QK":
        kind = _positions(model, attention)
        if kind is not None:
            return (
                f"positions are of the kind {kind!r}, neither added to the stream nor to the scores, so "
                "that what queries and keys are compared by is another matrix at each distance"
            )
    elsewhere = ("v",) if circuit == "QK" else ("q", "k")
    norms = [name for name in _norms(attention) if not name.startswith(elsewhere)]
    if norms:
        return f"a norm, {norms[0]}, stands between its two weights"
    gates = [path for path, _ in attention.named_modules() if "gate" in path.lower()]
    if circuit == "OV" and gates:
        return f"a gate, {gates[0].rpartition('.')[2]}, stands between its two weights"
    if any(_clips(module) for module in attention.modules()):
        return "queries, keys and values are clipped between its two weights"
    return None


def _positions(model: Any, attention: nn.Module) -> str | None:
    """What positions do to queries and keys; None if they add to the stream, or to the scores alone."""
    named = (path.rpartition(".")[2] for path, _ in attention.named_modules())
    turned = any("rotary" in type(module).__name__.lower() for module in model.modules())
    if turned or any(name.startswith("hook_rot") for name in named):
        return "rotary"
    kind = str(getattr(model.cfg, "positional_embedding_type", None))
    # A Bridge says `standard` of what it knows nothing of; then there is no table of positions.
    apart = kind == "alibi" or (kind == "standard" and hasattr(model, "pos_embed"))
    return None if apart else f"{kind}, without a table"


def weights_of(site: Site) -> set[tuple[int, Weight]]:
    """The weights of which a site is made, by layer: one, or the two of a circuit.

    Examples:
        >>> sorted(weights_of(Site(3, "OV", 1)))
        [(3, 'W_O'), (3, 'W_V')]
    """
    if site.matrix == "QK" or site.matrix == "OV":
        return {(site.layer, factor) for factor in FACTORS[site.matrix]}
    return {(site.layer, site.matrix)}


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
