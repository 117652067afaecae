"""Own path: what of an MLP's output has come from the current token through its own position alone.

With attention patterns, norm scales and activation ratios held fixed the model is linear in what enters
it. A token's own stream passes each attention through the diagonal of its pattern; all other ways lead
from other positions, and the biases are a stream of their own.

Source: Oh and Schuler 2023 (token-wise decomposition), with the MLPs' ratios held fixed too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tl_truncate.decompose.norms import FrozenNorm, frozen_norm, no_norm
from tl_truncate.decompose.passes import entry_of, observe
from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.surgery.edited import with_cuts
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.weights.holding.placement import model_dtype
from tl_truncate.weights.linear import Linear, compute_dtype
from tl_truncate.weights.locate import available, locate
from tl_truncate.weights.mlp import find_activation
from tl_truncate.weights.site import Matrix, Site

# The whole, sent along the same way, may differ from the MLP's own output by this share of its size.
_AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-3}
_AGREEMENT_HALF = 0.1


@dataclass(frozen=True, eq=False)
class FrozenBlock:
    """One block with patterns, scales and ratios held fixed: a linear map of streams.

    Attributes:
        first, second: the norms in front of attention and MLP.
        pattern: `[batch, head, pos, pos]`.
        ratio: `[batch, pos, d_mlp]`, post- over pre-activation, or the activated gate.
        behind_gate: a bias that is added behind the gate, `[d_mlp]`.
        parallel: whether the MLP reads what enters the block.
        linears: W_V, W_O, W_in, W_out, as the cuts at work leave them.
    """

    first: FrozenNorm
    second: FrozenNorm
    pattern: Float[Tensor, "batch head pos pos"]
    ratio: Float[Tensor, "batch pos d_mlp"]
    behind_gate: Tensor | None
    parallel: bool
    linears: dict[Matrix, Linear]

    @property
    def has_biases(self) -> bool:
        """Whether anything joins in by itself."""
        biases = [linear.bias() for linear in self.linears.values()]
        biases += [self.behind_gate, self.first.bias, self.second.bias]
        return any(bias is not None and bool(bias.any()) for bias in biases)

    def advance(
        self, stream: Float[Tensor, "*streams batch pos d_model"], *, local: bool, biases: bool
    ) -> tuple[Tensor, Tensor]:
        """The stream behind the block, and what the MLP writes of it.

        Args:
            stream: in front of the block.
            local: passes attention through the diagonal alone.
            biases: lets all biases join in.
        """
        read = self._norm(self.first, stream, biases)
        attended = self._through("W_O", self._attend(self._through("W_V", read, biases), local), biases)
        middle = stream if self.parallel else stream + attended
        pre = self._through("W_in", self._norm(self.second, middle, biases), biases)
        post = pre * self.ratio
        if biases and self.behind_gate is not None:
            post = post + self.behind_gate
        written = self._through("W_out", post, biases)
        return stream + attended + written, written

    def _norm(self, norm: FrozenNorm, x: Tensor, biases: bool) -> Tensor:
        found = norm.linear(x)
        return found + norm.bias if biases else found

    def _through(self, matrix: Matrix, x: Tensor, biases: bool) -> Tensor:
        linear = self.linears[matrix]
        found = x @ linear.weight().to(x.dtype)
        bias = linear.bias() if biases else None
        return found if bias is None else found + bias.to(x.dtype)

    def _attend(self, values: Tensor, local: bool) -> Tensor:
        heads = self.pattern.shape[1]
        by_head = values.view(*values.shape[:-1], self.linears["W_V"].n_heads, -1)
        by_head = by_head.repeat_interleave(heads // by_head.shape[-2], -2)
        if local:
            diagonal = self.pattern.diagonal(dim1=-2, dim2=-1).transpose(-1, -2)
            return (by_head * diagonal[..., None]).flatten(-2)
        mixed: Tensor = self.pattern @ by_head.transpose(-2, -3)
        return mixed.transpose(-2, -3).flatten(-2)


@dataclass(frozen=True, eq=False)
class Streams:
    """What one MLP writes, by where it has come from; `own + bias + others` is its output.

    Attributes:
        own: `[batch, pos, d_model]`, of the current token, through its own position.
        bias: of the model's biases, through all positions.
        others: of the other tokens.
    """

    own: Float[Tensor, "batch pos d_model"]
    bias: Float[Tensor, "batch pos d_model"]
    others: Float[Tensor, "batch pos d_model"]


def own_path(
    model: Any, tokens: Int64[Tensor, "batch pos"], layers: Sequence[int]
) -> dict[int, Streams]:
    """The streams of some MLPs' outputs, from one pass and a second one along the frozen maps.

    Cuts that are at work belong to the model.

    Raises:
        ValueError: if the model is not linear in this way (the whole, sent along the frozen maps, is not
            the MLP's output), as under hooks that change something.
    """
    start, blocks, outputs = freeze(model, tokens, max(layers))
    _require_linear(model, start, blocks, outputs, layers)
    own = _written(blocks, start, local=True, biases=False)
    bias = _bias_streams(blocks, start)
    return {
        layer: Streams(own[layer], bias[layer], outputs[layer] - own[layer] - bias[layer])
        for layer in layers
    }


def _bias_streams(blocks: Sequence[FrozenBlock], start: Tensor) -> list[Tensor]:
    nothing = torch.zeros_like(start)
    if not any(block.has_biases for block in blocks):
        return [nothing] * len(blocks)
    return _written(blocks, nothing, local=False, biases=True)


def source_streams(
    model: Any, tokens: Int64[Tensor, "batch pos"], layer: int
) -> Float[Tensor, "source batch pos d_model"]:
    """What an MLP writes, by the token that it has come from; without the biases' stream.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tokens: without padding.
        layer: of the MLP.

    Returns:
        One stream for each source position. At position t those of sources after t are zero.

    Raises:
        ValueError: if the model is not linear along frozen patterns, scales and ratios.
    """
    start, blocks, outputs = freeze(model, tokens, layer)
    _require_linear(model, start, blocks, outputs, [layer])
    alone = torch.eye(tokens.shape[1], dtype=start.dtype, device=start.device)
    return _written(blocks, alone[:, None, :, None] * start, local=False, biases=False)[layer]


def _written(
    blocks: Sequence[FrozenBlock], stream: Tensor, *, local: bool, biases: bool
) -> list[Tensor]:
    found = []
    for block in blocks:
        stream, written = block.advance(stream, local=local, biases=biases)
        found.append(written)
    return found


def freeze(
    model: Any, tokens: Int64[Tensor, "batch pos"], last: int
) -> tuple[Tensor, list[FrozenBlock], list[Tensor]]:
    """What enters the first block, the frozen blocks up to `last`, and what their MLPs write."""
    modules: dict[str, nn.Module] = {"start": entry_of(model.blocks[0])}
    inputs: dict[str, nn.Module] = {}
    for layer in range(last + 1):
        block = model.blocks[layer]
        modules[f"{layer} pattern"] = block.attn.get_submodule("hook_pattern")
        for matrix in _matrices(model, layer):
            modules[f"{layer} {matrix}"] = locate(model, Site(layer, matrix)).output.module
        for name in ("ln1", "ln2"):
            if getattr(block, name, None) is not None:
                inputs[f"{layer} {name} in"] = getattr(block, name)
                modules[f"{layer} {name} out"] = getattr(block, name)
    seen = observe(model, tokens, modules, inputs=inputs)
    blocks = [_freeze(model, layer, seen) for layer in range(last + 1)]
    outputs = [in_compute_precision(seen[f"{layer} W_out"]) for layer in range(last + 1)]
    return in_compute_precision(seen["start"]), blocks, outputs


def _matrices(model: Any, layer: int) -> tuple[Matrix, ...]:
    found: tuple[Matrix, ...] = ("W_in", "W_out")
    return ("W_gate", *found) if "W_gate" in available(model, layer) else found


def _freeze(model: Any, layer: int, seen: dict[str, Tensor]) -> FrozenBlock:
    block, dtype = model.blocks[layer], compute_dtype(seen["start"].dtype)
    norms = [_frozen(block, layer, name, seen).to(dtype) for name in ("ln1", "ln2")]
    # A removal depends on the tokens and is no change of a weight: it is left to the check of the whole.
    cuts = [cut for cut in active_cuts(model) if not cut.reads_tokens]
    linears = {matrix: with_cuts(model, locate(model, Site(layer, matrix)), cuts) for matrix in _USED}
    activation = find_activation(model, layer)
    if activation is None:
        raise ValueError(f"The MLP of block {layer} must have an activation that can be found by name.")
    pre, gate = seen[f"{layer} W_in"], seen.get(f"{layer} W_gate")
    behind = activation.bias()
    if gate is None:
        ratio = torch.where(pre == 0, 0.0, activation.act(pre) / pre)
    else:
        ratio = activation.act(gate)
    pattern = seen[f"{layer} pattern"].to(dtype)
    parallel = _reads_entry(block, layer, seen)
    return FrozenBlock(norms[0], norms[1], pattern, ratio.to(dtype), behind, parallel, linears)


_USED: tuple[Matrix, ...] = ("W_V", "W_O", "W_in", "W_out")


def _frozen(block: Any, layer: int, name: str, seen: dict[str, Tensor]) -> FrozenNorm:
    norm = name if f"{layer} {name} in" in seen else "ln1"  # some parallel blocks share one norm
    if f"{layer} {norm} in" not in seen:
        return no_norm(seen["start"])
    before, after = seen[f"{layer} {norm} in"], seen[f"{layer} {norm} out"]
    return frozen_norm(getattr(block, norm), before, after)


def _reads_entry(block: Any, layer: int, seen: dict[str, Tensor]) -> bool:
    first, second = seen.get(f"{layer} ln1 in"), seen.get(f"{layer} ln2 in")
    if second is None:
        return not hasattr(block, "hook_resid_mid")
    return first is not None and bool((first == second).all())


def _require_linear(
    model: Any,
    start: Tensor,
    blocks: Sequence[FrozenBlock],
    outputs: Sequence[Tensor],
    layers: Sequence[int],
) -> None:
    """Sends one row's whole stream along the frozen maps, and compares."""
    allowed = _AGREEMENT.get(model_dtype(model), _AGREEMENT_HALF)
    whole = _written([_row(block) for block in blocks], start[:1], local=False, biases=True)
    for layer in layers:
        own = outputs[layer][:1]
        tiny = torch.finfo(own.dtype).tiny  # an MLP may write nothing
        gap = float((whole[layer] - own).norm() / own.norm().clamp_min(tiny))
        if not gap <= allowed:
            raise ValueError(
                "own_path must find the model linear along frozen patterns, norm scales and activations,"
                f" but the MLP of block {layer} differs from that by {gap:.1e} of its output. Leave "
                "contexts with removals and hooks first, load quantised weights as plain ones, or use "
                "method='context_ablation'."
            )


def _row(block: FrozenBlock) -> FrozenBlock:
    return FrozenBlock(
        block.first.rows(1),
        block.second.rows(1),
        block.pattern[:1],
        block.ratio[:1],
        block.behind_gate,
        block.parallel,
        block.linears,
    )
