"""Context ablation: what an MLP would write if a position saw only itself and position 0.

Source: derived in docs/decomposition.md. Self-only attention would be wrong for models with rotary
positions, whose attention rests on position 0.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_truncate.decompose.passes import observe
from tl_truncate.surgery.hooks import intercept
from tl_truncate.weights.linear import Linear
from tl_truncate.weights.locate import locate, n_layers
from tl_truncate.weights.site import Matrix, Site

# A pattern computed again from queries and keys may differ from the model's own by this much.
_AGREEMENT = 1e-4
_AGREEMENT_HALF = 5e-2


def ablated_pattern(pattern: Float[Tensor, "batch head query key"]) -> Tensor:
    """A pattern with all but the diagonal and the first column masked, renormalised.

    Equal to masking the scores in front of the softmax.

    Examples:
        >>> ablated_pattern(torch.tensor([[[[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.6, 0.2]]]]))[0, 0, 2]
        tensor([0.5000, 0.0000, 0.5000])
    """
    masked = torch.where(_outside(pattern), 0.0, pattern)
    total = masked.sum(-1, keepdim=True)
    alone = torch.eye(pattern.shape[-1], dtype=pattern.dtype, device=pattern.device)
    return torch.where(total > 0, masked / total.clamp_min(torch.finfo(pattern.dtype).tiny), alone)


def _outside(scores: Tensor) -> Tensor:
    """Where a query looks at neither itself nor position 0."""
    size = scores.shape[-1]
    found = ~torch.eye(size, dtype=torch.bool, device=scores.device)
    found[:, 0] = False
    return found


def ablated_outputs(
    model: Any, tokens: Int64[Tensor, "batch pos"], layers: Sequence[int], *, from_layer: int = 0
) -> dict[int, Tensor]:
    """What some MLPs write in a pass without context.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tokens: without padding in front.
        layers: of the MLPs.
        from_layer: the first block whose attention is masked.

    Raises:
        ValueError: if an attention cannot be masked.
    """
    modules = {str(layer): locate(model, Site(layer, "W_out")).output.module for layer in layers}
    with without_context(model, tokens, from_layer, max(layers)):
        found = observe(model, tokens, modules, until=max(layers))
    return {layer: found[str(layer)] for layer in layers}


@contextmanager
def without_context(
    model: Any, tokens: Int64[Tensor, "batch pos"], from_layer: int, last: int | None = None
) -> Iterator[None]:
    """A model whose positions attend to themselves and position 0 alone, from a block on."""
    top = n_layers(model) - 1 if last is None else last
    masked = range(from_layer, top + 1)
    if not masked:
        yield
        return
    live = _live(model, tokens, from_layer)
    with ExitStack() as stack:
        for layer in masked:
            attention = model.blocks[layer].attn
            if live == "scores":
                _place(stack, attention.get_submodule("hook_attn_scores"), _mask_scores)
            elif live == "pattern":
                _place(stack, attention.get_submodule("hook_pattern"), ablated_pattern)
            else:
                _recompute(stack, model, layer, tokens)
        yield


def _place(stack: ExitStack, module: Any, action: Any) -> None:
    stack.callback(intercept(module, action).remove)


def _mask_scores(scores: Tensor) -> Tensor:
    return scores.masked_fill(_outside(scores), torch.finfo(scores.dtype).min)


def _live(model: Any, tokens: Tensor, layer: int) -> str:
    """At which hook point an attention can be changed before it acts: scores, pattern or queries."""
    attention = model.blocks[layer].attn
    z = locate(model, Site(layer, "W_O")).input
    points = {"scores": "hook_attn_scores", "pattern": "hook_pattern"}
    modules = {name: attention.get_submodule(point) for name, point in points.items()}
    assert z is not None
    order = list(observe(model, tokens[:1, :2], {**modules, "z": z.module}, until=layer))
    if order.index("scores") < order.index("pattern") < order.index("z"):
        return "scores"
    return "pattern" if order.index("pattern") < order.index("z") else "queries"


def _recompute(stack: ExitStack, model: Any, layer: int, tokens: Tensor) -> None:
    """Replaces the mixed values by those of the masked pattern, from queries, keys and values.

    For attentions that report their pattern only after it has acted.
    """
    names: tuple[Matrix, ...] = ("W_Q", "W_K", "W_V")
    linears: dict[str, Linear] = {name: locate(model, Site(layer, name)) for name in names}
    _require_plain(model, layer, linears, tokens)
    seen: dict[str, Tensor] = {}
    for name, linear in linears.items():

        def note(value: Tensor, name: str = name) -> None:
            seen[name] = value

        _place(stack, linear.output.module, note)

    def mix(value: Tensor) -> Tensor:
        pattern = ablated_pattern(_pattern(model, layer, seen["W_Q"], seen["W_K"]))
        values = _by_head(seen["W_V"], pattern.shape[1], linears["W_V"].n_heads)
        return (pattern @ values).transpose(1, 2).reshape(value.shape)

    z = locate(model, Site(layer, "W_O")).input
    assert z is not None
    _place(stack, z.module, mix)


def _by_head(value: Tensor, heads: int, own: int) -> Float[Tensor, "batch head pos d_head"]:
    flat = value if value.ndim == 3 else value.flatten(2)
    split = flat.view(*flat.shape[:2], own, -1).transpose(1, 2)
    return split.repeat_interleave(heads // own, 1)


def _pattern(model: Any, layer: int, queries: Tensor, keys: Tensor) -> Tensor:
    heads = locate(model, Site(layer, "W_Q")).n_heads
    q = _by_head(queries, heads, heads)
    k = _by_head(keys, heads, locate(model, Site(layer, "W_K")).n_heads)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    ahead = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
    return scores.masked_fill(ahead, -torch.inf).softmax(-1)


def _require_plain(model: Any, layer: int, linears: dict[str, Linear], tokens: Tensor) -> None:
    """Compares the pattern from queries and keys with the model's own, on one row."""
    modules = {name: linear.output.module for name, linear in linears.items()}
    modules["pattern"] = model.blocks[layer].attn.get_submodule("hook_pattern")
    seen = observe(model, tokens[:1], modules)
    again = _pattern(model, layer, seen["W_Q"], seen["W_K"])
    gap = float((again - seen["pattern"]).abs().max())
    if not gap <= (_AGREEMENT if again.element_size() >= 4 else _AGREEMENT_HALF):
        raise ValueError(
            f"The attention of block {layer} must show its pattern before it acts, or be plain causal "
            f"softmax attention, to be masked; its pattern differs from that by {gap:.1e}. Load the "
            "model as another class, or use method='token_mean' or 'own_path'."
        )
