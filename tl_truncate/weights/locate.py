"""Finding sites in a model, of either family; they are told apart by what a block has."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tl_truncate.checks import whole
from tl_truncate.weights.bridge import has_matrix, is_bridge_block, locate_in_bridge
from tl_truncate.weights.circuits import CARRIERS, FACTORS, reason_against
from tl_truncate.weights.hooked import locate_in_hooked
from tl_truncate.weights.linear import Linear
from tl_truncate.weights.site import (
    ATTENTION_MATRICES,
    CIRCUITS,
    MATRICES,
    Circuit,
    Matrix,
    Site,
    as_matrices,
)


def n_layers(model: Any) -> int:
    """Number of blocks of a TransformerLens model.

    Raises:
        TypeError: if the object has no `blocks`.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(model, nn.Module) or blocks is None:
        raise TypeError(
            f"The model must be a TransformerLens model with blocks (HookedTransformer or "
            f"TransformerBridge), got {type(model).__name__}. Wrap a Hugging Face model with "
            "TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer)."
        )
    return len(blocks)


def find_sites(
    model: Any,
    matrices: Sequence[str] | str = ("W_in", "W_out"),
    layers: Sequence[int] | None = None,
) -> list[Site]:
    """Lists the sites of a model, layer by layer, that surgery can address.

    Args:
        model: a HookedTransformer or TransformerBridge.
        matrices: which of W_Q, W_K, W_V, W_O, W_in, W_gate, W_out, and of the circuits QK and OV, of
            which each head has its own; those that a block does not have (W_gate of an ungated MLP,
            sparse mixture-of-experts) are left out.
        layers: which blocks; all by default. Negative ones count from the end.

    Returns:
        The sites, ordered by layer and then as `matrices` is.

    Raises:
        ValueError: for an unknown matrix or a layer out of range, if nothing is left, or if a head's
            two weights make no circuit in this model, such as QK with rotary positions.

    Examples:
        >>> [str(site) for site in tlt.find_sites(model, "W_out", layers=[0, -1])]
        ['blocks.0.mlp.W_out', 'blocks.2.mlp.W_out']
        >>> [str(site) for site in tlt.find_sites(model, "OV", layers=[0])][:2]
        ['blocks.0.attn.OV.0', 'blocks.0.attn.OV.1']
    """
    names = as_matrices(matrices)
    total = n_layers(model)
    wanted = range(total) if layers is None else [_layer_index(layer, total) for layer in layers]
    sites = [
        site
        for layer in wanted
        for matrix in names
        if _has(model.blocks[layer], matrix)
        for site in _sites_of(model, layer, matrix)
    ]
    if not sites:
        present = available(model, wanted[0]) if wanted else ()
        raise ValueError(
            f"The model must have at least one of {', '.join(names)} in the layers asked for; "
            f"it has {', '.join(present) or 'no dense matrix'} there."
        )
    return sites


def _sites_of(model: Any, layer: int, matrix: Matrix) -> list[Site]:
    if matrix not in CIRCUITS:
        return [Site(layer, matrix)]
    heads = range(locate(model, Site(layer, CARRIERS[matrix])).n_heads)
    sites = [Site(layer, matrix, head) for head in heads]
    _require_circuit(model, sites[0])
    return sites


def _layer_index(layer: int, total: int) -> int:
    found = whole(layer)
    if found is None or not -total <= found < total:
        raise ValueError(f"A layer must be in 0..{total - 1} for this model, got {layer!r}.")
    return found % total


def available(model: Any, layer: int) -> tuple[Matrix, ...]:
    """The matrices of one block that surgery can address."""
    return tuple(matrix for matrix in MATRICES if _has(model.blocks[layer], matrix))


def _part(block: nn.Module, matrix: Matrix) -> Any:
    return getattr(block, "attn" if matrix in (*ATTENTION_MATRICES, *CIRCUITS) else "mlp", None)


def _has(block: nn.Module, matrix: Matrix) -> bool:
    if matrix in CIRCUITS:
        return all(_has(block, factor) for factor in FACTORS[matrix])
    part = _part(block, matrix)
    # The Bridge calls a mixture of experts' router `gate`, which is no W_gate.
    if part is None or (matrix not in ATTENTION_MATRICES and _is_sparse(part)):
        return False
    if is_bridge_block(block):
        return has_matrix(part, matrix)
    return isinstance(getattr(part, matrix, None), Tensor)


def _is_sparse(part: nn.Module) -> bool:
    return any(hasattr(each, "experts") for each in (part, getattr(part, "original_component", None)))


def locate(model: Any, site: Site) -> Linear:
    """Finds a site in a model, or says what the model has instead.

    Args:
        model: a HookedTransformer or TransformerBridge.
        site: the site to find.

    Returns:
        The weight, bias and hook points of that site.

    Raises:
        ValueError: if the model has no such layer, matrix or head; if the matrix is sparse,
            quantised or on the meta device; if the only hook point of its output lies behind a
            normalisation, where a projection would not be the truncated weight's output; or if the
            site is a circuit, which is two weights.
        TypeError: if the object is not a TransformerLens model.
    """
    if site.is_circuit:
        raise ValueError(
            f"The site must be one weight here, but {site} is the product of two. It has a spectrum and "
            f"can be cut by it; for all else take {_carrier_site(site)}."
        )
    total = n_layers(model)
    if site.layer >= total:
        raise ValueError(
            f"The layer of {site} must be in 0..{total - 1}: the model has {total} blocks, "
            f"got layer {site.layer}."
        )
    block = model.blocks[site.layer]
    if not _has(block, site.matrix):
        raise ValueError(_missing(model, block, site))
    find = locate_in_bridge if is_bridge_block(block) else locate_in_hooked
    return find(model, block, site)


def _missing(model: Any, block: nn.Module, site: Site) -> str:
    part = _part(block, site.matrix)
    has = ", ".join(available(model, site.layer)) or "none that can be cut"
    if part is not None and _is_sparse(part):
        return (
            f"{site} belongs to a sparse mixture of experts, where each token passes through its "
            f"own weights; only dense matrices can be cut. Block {site.layer} has: {has}."
        )
    hint = " Only gated MLPs have W_gate." if site.matrix == "W_gate" else ""
    return f"The model must have {site}; the matrices of its block {site.layer} are: {has}.{hint}"


def carrier(model: Any, site: Site) -> Linear:
    """The linear that a cut of a site is made in: of a circuit the head's own factor, W_Q or W_O.

    Args:
        model: a HookedTransformer or TransformerBridge.
        site: of any kind.

    Returns:
        The linear, whose own site is that of the factor; the smaller side of its shape is the rank of
        the site.

    Raises:
        ValueError: as for `locate`; and if a head's two weights make no circuit in this model.
        TypeError: if the object is not a TransformerLens model.

    Examples:
        >>> str(carrier(model, Site.parse("blocks.1.attn.OV.2")).site)
        'blocks.1.attn.W_O.2'
    """
    if not site.is_circuit:
        return locate(model, site)
    _require_circuit(model, site)
    return locate(model, _carrier_site(site))


def _carrier_site(site: Site) -> Site:
    return Site(site.layer, CARRIERS[_circuit(site)], site.head)


def factor_sites(model: Any, site: Site) -> tuple[Site, Site]:
    """The two weights that a circuit is a product of; keys and values those of the head's group.

    Raises:
        ValueError: as for `locate`, or if the heads of the factors do not match.

    Examples:
        >>> [str(each) for each in factor_sites(model, Site.parse("blocks.1.attn.OV.2"))]
        ['blocks.1.attn.W_V.2', 'blocks.1.attn.W_O.2']
    """
    own = locate(model, _carrier_site(site))
    names = FACTORS[_circuit(site)]
    (shared,) = (name for name in names if name != own.site.matrix)
    groups = locate(model, Site(site.layer, shared)).n_heads
    if own.n_heads % groups:
        raise ValueError(
            f"The heads of {site} must share keys and values evenly, but the model has {own.n_heads} "
            f"heads and {groups} of {shared}."
        )
    assert site.head is not None
    other = Site(site.layer, shared, site.head // (own.n_heads // groups))
    first, second = (own.site if name == own.site.matrix else other for name in names)
    return first, second


def circuit_factors(
    model: Any, site: Site
) -> tuple[Float[Tensor, "d_model d_head"], Float[Tensor, "d_head d_model"]]:
    """The two matrices whose product a circuit is, as they are stored or read.

    Raises:
        ValueError: as for `carrier`.
    """
    carrier(model, site)
    left, right = (locate(model, each).weight() for each in factor_sites(model, site))
    return left, (right.T if site.matrix == "QK" else right)


def _circuit(site: Site) -> Circuit:
    assert site.matrix in CIRCUITS
    return site.matrix


def _require_circuit(model: Any, site: Site) -> None:
    """Refuses a circuit where a head's two weights do not act as their product."""
    carried = locate(model, _carrier_site(site))
    missing = [name for name in FACTORS[_circuit(site)] if not _has(model.blocks[site.layer], name)]
    if missing:
        raise ValueError(_missing(model, model.blocks[site.layer], Site(site.layer, missing[0])))
    reason = reason_against(model, model.blocks[site.layer].attn, _circuit(site))
    if reason is not None:
        raise ValueError(
            f"{site} must be one matrix that the head acts by, but in this model {reason}. Take "
            f"{carried.site} for a cut of one of its weights."
        )
