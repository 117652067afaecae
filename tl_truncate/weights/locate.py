"""Finding sites in a model, of either family; they are told apart by what a block has."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tl_truncate.checks import whole
from tl_truncate.weights.bridge import has_matrix, is_bridge_block, locate_in_bridge
from tl_truncate.weights.hooked import locate_in_hooked
from tl_truncate.weights.linear import Linear
from tl_truncate.weights.site import ATTENTION_MATRICES, MATRICES, Matrix, Site, as_matrices


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
        matrices: which of W_Q, W_K, W_V, W_O, W_in, W_gate, W_out; those that a block does not
            have (W_gate of an ungated MLP, sparse mixture-of-experts) are left out.
        layers: which blocks; all by default. Negative ones count from the end.

    Returns:
        The sites, ordered by layer and then as `matrices` is.

    Raises:
        ValueError: for an unknown matrix or a layer out of range, or if nothing is left.

    Examples:
        >>> [str(site) for site in tlt.find_sites(model, "W_out", layers=[0, -1])]
        ['blocks.0.mlp.W_out', 'blocks.2.mlp.W_out']
    """
    names = as_matrices(matrices)
    total = n_layers(model)
    wanted = range(total) if layers is None else [_layer_index(layer, total) for layer in layers]
    sites = [
        Site(layer, matrix) for layer in wanted for matrix in names if _has(model.blocks[layer], matrix)
    ]
    if not sites:
        present = available(model, wanted[0]) if wanted else ()
        raise ValueError(
            f"The model must have at least one of {', '.join(names)} in the layers asked for; "
            f"it has {', '.join(present) or 'no dense matrix'} there."
        )
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
    return getattr(block, "attn" if matrix in ATTENTION_MATRICES else "mlp", None)


def _has(block: nn.Module, matrix: Matrix) -> bool:
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
            quantised or on the meta device; or if the only hook point of its output lies behind a
            normalisation, where a projection would not be the truncated weight's output.
        TypeError: if the object is not a TransformerLens model.
    """
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
