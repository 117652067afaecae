"""Where a site lives in a model: its weight, its bias, and the hook points around it.

Two families of models are read: `HookedTransformer`, whose blocks hold parameters named W_Q ...
W_out, and `TransformerBridge`, whose blocks hold one wrapped linear for each matrix. They are told
apart by what a block has, so that this module imports neither.

The weight and the bias are read anew at each use: `model.to(...)` replaces parameters, and a copy
taken earlier would be stale.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_truncate.weights.site import ATTENTION_MATRICES, Matrix, Site, as_matrices

_BRIDGE_PART = {
    "W_Q": "q",
    "W_K": "k",
    "W_V": "v",
    "W_O": "o",
    "W_in": "in",
    "W_gate": "gate",
    "W_out": "out",
}
# Output and input hook point of each matrix on HookedTransformer, relative to the block.
_HOOKED_POINTS: dict[Matrix, tuple[str, str | None]] = {
    "W_Q": ("attn.hook_q", None),
    "W_K": ("attn.hook_k", None),
    "W_V": ("attn.hook_v", None),
    "W_O": ("hook_attn_out", "attn.hook_z"),
    "W_in": ("mlp.hook_pre", None),
    "W_gate": ("mlp.hook_pre", None),
    "W_out": ("hook_mlp_out", "mlp.hook_post"),
}
# OLMo 2 and 3 normalise a sublayer's output without a separate ln1_post / ln2_post module.
_POST_NORM_ARCHITECTURES = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")


@dataclass(frozen=True)
class Point:
    """A hook point of a model and the name under which it is found there."""

    name: str
    module: nn.Module


@dataclass(frozen=True)
class Linear:
    """One site of one model: `y = x W + b` with hook points at y and, where one exists, at x.

    `shape` is `(n_in, n_out)`, `weight()` `[n_in, n_out]` and `bias()` `[n_out]` or None, all of the
    site alone: sliced to the head where the site names one. W_O's bias belongs to no head.
    """

    site: Site
    shape: tuple[int, int]
    weight: Callable[[], Float[Tensor, "n_in n_out"]]
    bias: Callable[[], Float[Tensor, " n_out"] | None]
    output: Point
    input: Point | None
    result: Point | None
    n_heads: int
    uses_result: Callable[[], bool]

    @property
    def writes_one_head(self) -> bool:
        """Whether the site is one head of W_O, whose output is only seen summed with the others."""
        return self.site.matrix == "W_O" and self.site.head is not None


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

    Example:
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
    if isinstance(layer, bool) or not isinstance(layer, int) or not -total <= layer < total:
        raise ValueError(f"A layer must be in 0..{total - 1} for this model, got {layer!r}.")
    return layer % total


def available(model: Any, layer: int) -> tuple[Matrix, ...]:
    """The matrices of one block that surgery can address."""
    return tuple(matrix for matrix in _HOOKED_POINTS if _has(model.blocks[layer], matrix))


def _has(block: nn.Module, matrix: Matrix) -> bool:
    attention = matrix in ATTENTION_MATRICES
    part = getattr(block, "attn" if attention else "mlp", None)
    # The Bridge calls a mixture of experts' router `gate`, which is no W_gate.
    if part is None or (not attention and _is_sparse(part)):
        return False
    if _is_bridge(block):
        return _wrapped_linear(part, matrix) is not None
    return isinstance(getattr(part, matrix, None), Tensor)


def _is_bridge(block: nn.Module) -> bool:
    return hasattr(block, "hook_in")


def _wrapped_linear(part: nn.Module, matrix: Matrix) -> Any:
    """The Bridge's wrapper of one dense linear, or None where there is none."""
    wrapper = getattr(part, _BRIDGE_PART[matrix], None)
    linear = getattr(wrapper, "original_component", None)
    weight = getattr(linear, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 2 and hasattr(wrapper, "hook_out"):
        return wrapper
    return None


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
    linear = (_locate_bridge if _is_bridge(block) else _locate_hooked)(model, block, site)
    _check_weight(linear)
    return linear


def _missing(model: Any, block: nn.Module, site: Site) -> str:
    part = getattr(block, "attn" if site.is_attention else "mlp", None)
    has = ", ".join(available(model, site.layer)) or "none that can be cut"
    if part is not None and _is_sparse(part):
        return (
            f"{site} belongs to a sparse mixture of experts, where each token passes through its "
            f"own weights; only dense matrices can be cut. Block {site.layer} has: {has}."
        )
    hint = " Only gated MLPs have W_gate." if site.matrix == "W_gate" else ""
    return f"The model must have {site}; the matrices of its block {site.layer} are: {has}.{hint}"


def _is_sparse(part: nn.Module) -> bool:
    sources = (part, getattr(part, "original_component", None))
    return any(hasattr(source, name) for source in sources for name in ("experts", "W_gate_experts"))


def _check_weight(linear: Linear) -> None:
    weight = linear.weight()
    if weight.is_meta:
        raise ValueError(
            f"The weight of {linear.site} must hold data, got a tensor on the meta device. "
            "Load the model's weights (not only its configuration) before cutting."
        )
    if not weight.is_floating_point() or weight.element_size() < 2:
        raise ValueError(
            f"The weight of {linear.site} must be in floating point of 16 bits or more, got "
            f"{weight.dtype}. Load the model without quantisation."
        )


def _check_head(site: Site, heads: int) -> None:
    if site.head is not None and site.head >= heads:
        kind = "key/value heads" if site.matrix in ("W_K", "W_V") else "heads"
        raise ValueError(
            f"The head of {site} must be in 0..{heads - 1}: {site.matrix} has {heads} {kind} in "
            f"this model, got head {site.head}."
        )


def head_slice(site: Site, size: int, heads: int) -> slice:
    """The columns (rows for W_O) of a joint attention matrix that belong to the site."""
    if site.head is None:
        return slice(0, size)
    width = size // heads
    return slice(site.head * width, (site.head + 1) * width)


def _shape(weight: Tensor) -> tuple[int, int]:
    n_in, n_out = weight.shape
    return n_in, n_out


def _sliced(site: Site, heads: int, weight: Tensor) -> Tensor:
    """The site's part of a joint `[n_in, n_out]` weight."""
    if site.head is None:
        return weight
    if site.matrix == "W_O":
        return weight[head_slice(site, weight.shape[0], heads)]
    return weight[:, head_slice(site, weight.shape[1], heads)]


def _sliced_bias(site: Site, heads: int, bias: Tensor | None) -> Tensor | None:
    if bias is None or site.head is None:
        return bias
    if site.matrix == "W_O":
        return None
    return bias[head_slice(site, bias.shape[0], heads)]


def _locate_bridge(model: Any, block: Any, site: Site) -> Linear:
    part = block.attn if site.is_attention else block.mlp
    wrapper = _wrapped_linear(part, site.matrix)
    component = wrapper.original_component
    # GPT-2's Conv1D stores [in, out], torch's Linear [out, in].
    transpose = type(component).__name__ != "Conv1D"
    heads = _bridge_heads(model, component, site, transpose)
    _check_head(site, heads)
    prefix = f"blocks.{site.layer}.{'attn' if site.is_attention else 'mlp'}"
    name = f"{prefix}.{_BRIDGE_PART[site.matrix]}"
    result = getattr(part, "hook_result", None) if site.matrix == "W_O" else None

    def weight() -> Tensor:
        stored = wrapper.original_component.weight.detach()
        return _sliced(site, heads, stored.T if transpose else stored)

    def bias() -> Tensor | None:
        stored = getattr(wrapper.original_component, "bias", None)
        return _sliced_bias(site, heads, None if stored is None else stored.detach())

    return Linear(
        site=site,
        shape=_shape(weight()),
        weight=weight,
        bias=bias,
        output=Point(f"{name}.hook_out", wrapper.hook_out),
        input=Point(f"{name}.hook_in", wrapper.hook_in),
        result=None if result is None else Point(f"{prefix}.hook_result", result),
        n_heads=heads,
        uses_result=lambda: result is not None and bool(getattr(model.cfg, "use_attn_result", 0)),
    )


def _bridge_heads(model: Any, component: Any, site: Site, transpose: bool) -> int:
    """Heads of one attention matrix by its own width, which some models vary by layer."""
    if not site.is_attention:
        return 1
    n_in, n_out = component.weight.shape[::-1] if transpose else component.weight.shape
    width = n_in if site.matrix == "W_O" else n_out
    d_head = int(getattr(model.cfg, "d_head", 0) or model.cfg.d_model // model.cfg.n_heads)
    if width % d_head:
        if site.head is not None:
            raise ValueError(
                f"The width of {site.matrix} must be a multiple of d_head={d_head} to address one "
                f"head, got {width} in block {site.layer}. Cut all heads jointly instead."
            )
        return 1
    return int(width // d_head)


def _locate_hooked(model: Any, block: Any, site: Site) -> Linear:
    part = block.attn if site.is_attention else block.mlp
    _refuse_post_norm(model, block, site)
    output, input_ = _HOOKED_POINTS[site.matrix]
    gated = not site.is_attention and isinstance(getattr(part, "W_gate", None), Tensor)
    if site.matrix == "W_in" and gated:
        output = "mlp.hook_pre_linear"
    stored_name, bias_name = _hooked_parameters(part, site, gated)
    heads = int(getattr(part, stored_name).shape[0]) if site.is_attention else 1
    _check_head(site, heads)

    def weight() -> Tensor:
        stored = getattr(part, stored_name).detach()
        if site.matrix == "W_O":
            stored = stored.reshape(-1, stored.shape[-1])
        elif site.is_attention:
            stored = stored.permute(1, 0, 2).reshape(stored.shape[1], -1)
        return _sliced(site, heads, stored)

    def bias() -> Tensor | None:
        stored = None if bias_name is None else getattr(part, bias_name, None)
        return None if stored is None else _sliced_bias(site, heads, stored.detach().flatten())

    def point(relative: str) -> Point:
        return Point(f"blocks.{site.layer}.{relative}", block.get_submodule(relative))

    return Linear(
        site=site,
        shape=_shape(weight()),
        weight=weight,
        bias=bias,
        output=point(output),
        input=None if input_ is None else point(input_),
        result=point("attn.hook_result") if site.matrix == "W_O" else None,
        n_heads=heads,
        uses_result=lambda: site.matrix == "W_O" and bool(model.cfg.use_attn_result),
    )


def _hooked_parameters(part: nn.Module, site: Site, gated: bool) -> tuple[str, str | None]:
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
            f"hook point lies behind the post-norm of this architecture. Load the model as a "
            "TransformerBridge, which has a hook point at the linear itself."
        )


def require_no_overlap(sites: Sequence[Site]) -> None:
    """Refuses a joint cut of an attention matrix together with a cut of one of its heads.

    The two spectra belong to different matrices, so the order of the cuts would decide the result.
    """
    joint = {(site.layer, site.matrix) for site in sites if site.head is None}
    for site in sites:
        if site.head is not None and (site.layer, site.matrix) in joint:
            raise ValueError(
                f"Cuts that are active together must not overlap, got {site} and all heads of "
                f"blocks.{site.layer}.attn.{site.matrix} jointly. Cut either the whole matrix or "
                "single heads."
            )


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision to compute in: float64 stays, everything else is done in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
