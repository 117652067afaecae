"""Where a site lives in a HookedTransformer: parameters named W_Q ... W_out, and their hook points."""

from typing import Any

from torch import Tensor, nn

from tl_truncate.weights.bridge import has_inputs_by_head
from tl_truncate.weights.holding.offloaded import real
from tl_truncate.weights.linear import Argument, Linear, Point, make_linear
from tl_truncate.weights.site import Matrix, Site
from tl_truncate.weights.stored import by_head, plain

# Output and input hook point of each matrix, relative to the block.
_POINTS: dict[Matrix, tuple[str, str | None]] = {
    "W_Q": ("attn.hook_q", None),
    "W_K": ("attn.hook_k", None),
    "W_V": ("attn.hook_v", None),
    "W_O": ("hook_attn_out", "attn.hook_z"),
    "W_in": ("mlp.hook_pre", None),
    "W_gate": ("mlp.hook_pre", None),
    "W_out": ("hook_mlp_out", "mlp.hook_post"),
}
# What the attention or the MLP is called with, where no hook point has it.
_ARGUMENTS: dict[Matrix, str] = {
    "W_Q": "query_input",
    "W_K": "key_input",
    "W_V": "value_input",
    "W_in": "x",
    "W_gate": "x",
}
# OLMo 2 and 3 normalise a sublayer's output without a separate ln1_post / ln2_post module.
_POST_NORM_ARCHITECTURES = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")


def locate_in_hooked(model: Any, block: Any, site: Site) -> Linear:
    """The linear of a site that the block is known to have.

    Raises:
        ValueError: if its output is only visible behind a post-norm, its head is out of range, or its
            weight holds no numbers to factor.
    """
    _refuse_post_norm(model, block, site)
    part = block.attn if site.is_attention else block.mlp
    gated = not site.is_attention and isinstance(getattr(part, "W_gate", None), Tensor)
    weight_name, bias_name = _parameters(part, site, gated)
    output, input_ = _POINTS[site.matrix]
    if site.matrix == "W_in" and gated:
        output = "mlp.hook_pre_linear"

    if site.is_attention:
        stored = by_head(part, weight_name, reads_heads=site.matrix == "W_O")
    else:
        stored = plain(part, weight_name, transposed=False)

    def whole_bias() -> Tensor | None:
        stored = None if bias_name is None else real(part, bias_name)
        return None if stored is None else stored.flatten()

    def point(relative: str) -> Point:
        return Point(f"blocks.{site.layer}.{relative}", block.get_submodule(relative))

    return make_linear(
        site,
        stored=stored,
        whole_bias=whole_bias,
        output=point(output),
        input=None if input_ is None else point(input_),
        given=Argument(part, _ARGUMENTS[site.matrix]) if input_ is None else None,
        result=point("attn.hook_result") if site.matrix == "W_O" else None,
        # The block has the hook point, and the part may be called without it.
        returns=part if site.matrix in ("W_O", "W_out") else None,
        n_heads=int(getattr(part, weight_name).shape[0]) if site.is_attention else 1,
        uses_result=lambda: site.matrix == "W_O" and bool(model.cfg.use_attn_result),
        comes_whole=lambda: (
            not ((site.mixes_heads and has_inputs_by_head(model)) or _repeats_heads(model, site))
        ),
    )


def _repeats_heads(model: Any, site: Site) -> bool:
    """Whether a key or value head comes once for each of its queries."""
    grouped = getattr(model.cfg, "n_key_value_heads", None) is not None
    ungrouped = bool(getattr(model.cfg, "ungroup_grouped_query_attention", False))
    return grouped and ungrouped and site.matrix in ("W_K", "W_V")


def _parameters(part: nn.Module, site: Site, gated: bool) -> tuple[str, str | None]:
    """Parameter names of a matrix and of the bias that is added at its hook point."""
    if site.matrix in ("W_K", "W_V") and hasattr(part, f"_{site.matrix}"):
        # Grouped-query attention: the public property repeats the heads, the parameter does not.
        return f"_{site.matrix}", f"_b_{site.matrix[-1]}"
    if gated and site.matrix in ("W_in", "W_gate"):
        return site.matrix, None  # b_in is added after gating, behind the hook point
    return site.matrix, site.matrix.replace("W_", "b_")


def _refuse_post_norm(model: Any, block: nn.Module, site: Site) -> None:
    norm = {"W_O": "ln1_post", "W_out": "ln2_post"}.get(site.matrix)
    if norm is None:
        return
    architecture = getattr(model.cfg, "original_architecture", None)
    if hasattr(block, norm) or architecture in _POST_NORM_ARCHITECTURES:
        raise ValueError(
            f"The output of {site} must be visible before normalisation, but HookedTransformer's "
            "hook point lies behind the post-norm of this architecture. Load the model as a "
            "TransformerBridge, which has a hook point at the linear itself."
        )
