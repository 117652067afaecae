"""Where a site lives in a TransformerBridge: one wrapped linear for each matrix."""

from typing import Any

from torch import Tensor, nn

from tl_truncate.weights.holding.offloaded import real
from tl_truncate.weights.linear import Linear, Point, make_linear
from tl_truncate.weights.product import require_product
from tl_truncate.weights.site import Matrix, Site
from tl_truncate.weights.stored import plain

_PARTS: dict[Matrix, str] = {
    "W_Q": "q",
    "W_K": "k",
    "W_V": "v",
    "W_O": "o",
    "W_in": "in",
    "W_gate": "gate",
    "W_out": "out",
}


def is_bridge_block(block: nn.Module) -> bool:
    """Whether a block belongs to a TransformerBridge."""
    return hasattr(block, "hook_in")


def has_matrix(part: nn.Module, matrix: Matrix) -> bool:
    """Whether an attention or MLP has a dense linear for the matrix."""
    wrapper = getattr(part, _PARTS[matrix], None)
    weight = getattr(getattr(wrapper, "original_component", None), "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and hasattr(wrapper, "hook_out")


def locate_in_bridge(model: Any, block: Any, site: Site) -> Linear:
    """The linear of a site that the block is known to have.

    Raises:
        ValueError: if its head cannot be addressed, its weight holds no numbers to factor, or the
            module that has it multiplies by something else.
    """
    part = block.attn if site.is_attention else block.mlp
    wrapper = getattr(part, _PARTS[site.matrix])
    # GPT-2's Conv1D stores [in, out], torch's Linear [out, in].
    transposed = type(wrapper.original_component).__name__ != "Conv1D"
    prefix = f"blocks.{site.layer}.{'attn' if site.is_attention else 'mlp'}"
    name = f"{prefix}.{_PARTS[site.matrix]}"
    result = getattr(part, "hook_result", None) if site.matrix == "W_O" else None

    stored = plain(wrapper.original_component, "weight", transposed=transposed)
    found = make_linear(
        site,
        stored=stored,
        whole_bias=lambda: real(wrapper.original_component, "bias"),
        output=Point(f"{name}.hook_out", wrapper.hook_out),
        input=Point(f"{name}.hook_in", wrapper.hook_in),
        given=None,
        result=None if result is None else Point(f"{prefix}.hook_result", result),
        returns=None,
        n_heads=_heads(model, stored.shape, site),
        uses_result=lambda: result is not None and bool(getattr(model.cfg, "use_attn_result", 0)),
        comes_whole=lambda: not (site.mixes_heads and has_inputs_by_head(model)),
    )
    require_product(str(site), stored, real(wrapper.original_component, "bias"))
    return found


def has_inputs_by_head(model: Any) -> bool:
    """Whether each head reads an input of its own, as for path patching."""
    return bool(
        getattr(model.cfg, "use_split_qkv_input", False) or getattr(model.cfg, "use_attn_in", False)
    )


def _heads(model: Any, shape: tuple[int, int], site: Site) -> int:
    """Heads of one attention matrix by its own width, which some models vary by layer."""
    if not site.is_attention:
        return 1
    width = shape[0] if site.matrix == "W_O" else shape[1]
    d_head = int(getattr(model.cfg, "d_head", 0) or model.cfg.d_model // model.cfg.n_heads)
    if width % d_head == 0:
        return int(width // d_head)
    if site.head is not None:
        raise ValueError(
            f"The width of {site.matrix} must be a multiple of d_head={d_head} to address one head, "
            f"got {width} in block {site.layer}. Cut all heads jointly instead."
        )
    return 1
