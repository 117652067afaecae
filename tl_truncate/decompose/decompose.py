"""Dividing MLP outputs into a global and an in-context part, by four methods."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tl_truncate.corpora.corpus import fill, read_prompts
from tl_truncate.decompose.means.sums import usable
from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.decompose.padding import Unpadded
from tl_truncate.decompose.parts import Method, MLPDecomposition
from tl_truncate.decompose.passes import exit_of, observe
from tl_truncate.decompose.readout import Readout, readout
from tl_truncate.decompose.residual import require_additive
from tl_truncate.decompose.split import Split, global_of
from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.weights.identity.provenance import of_model, versions
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.locate import find_sites, locate
from tl_truncate.weights.site import Site


def decompose_mlp(
    model: Any,
    tokens: Tensor | str | Sequence[Any],
    layer: int,
    method: Method = "token_mean",
    *,
    means: TokenMeans | None = None,
    from_layer: int = 0,
    keep: Keep | int | float = 0.1,
    mask: Tensor | None = None,
    prepend_bos: bool | None = None,
) -> MLPDecomposition:
    """Divides one MLP's output into a global and an in-context part: `mlp_out = global_ + in_context`.

    - `token_mean`: global is `G(x_t)`, what the MLP writes on average at the current token.
    - `context_ablation`: global is what it writes if positions see themselves and position 0 alone.
    - `own_path`: global is what has come from the token's own embedding through its own position, and
      from biases, with attention patterns, norm scales and activation ratios held fixed.
    - `spectral`: in-context is what the kept components of W_out write; a split of the weight, not of
      meaning.

    Args:
        model: a HookedTransformer or TransformerBridge whose blocks add the MLP's output to the residual
            stream.
        tokens: `[batch, pos]`; or a text, or several texts or lists of token numbers.
        layer: of the MLP; negative ones count from the end.
        method: how to divide.
        means: fitted, for `token_mean`.
        from_layer: for `context_ablation`, the first block whose attention is masked. From 0, deep
            layers of a real model leave what they were trained on.
        keep: for `spectral`.
        mask: `[batch, pos]`, False or 0 at padding, on either side. Padding never matters.
        prepend_bos: for texts; overrides the model's default.

    Returns:
        The parts, with `.logits(token_ids)`, `.fractions()`, `.to_frame()`.

    Raises:
        ValueError: if an argument does not fit, or the block does not add the MLP's output to the
            residual stream.
        TypeError: if tokens are of no known kind.

    Source: derived in docs/decomposition.md; own_path: Oh and Schuler 2023.

    Examples:
        >>> parts = tlt.decompose_mlp(model, tokens, layer=1, method="own_path")
        >>> parts.global_.shape, parts.in_context.shape
        (torch.Size([2, 7, 32]), torch.Size([2, 7, 32]))
    """
    split = Split(method, means, from_layer, keep)
    (found,) = decompose(model, tokens, [layer], split, mask=mask, prepend_bos=prepend_bos).values()
    return found


def decompose_layers(
    model: Any,
    tokens: Tensor | str | Sequence[Any],
    layers: Sequence[int] | None = None,
    method: Method = "token_mean",
    *,
    means: TokenMeans | None = None,
    from_layer: int = 0,
    keep: Keep | int | float = 0.1,
    mask: Tensor | None = None,
    prepend_bos: bool | None = None,
) -> dict[int, MLPDecomposition]:
    """`decompose_mlp` of several layers, which share their passes.

    Args:
        layers: all by default.

    The other arguments, and what is raised, are those of `decompose_mlp`.

    Returns:
        The parts by layer.

    Examples:
        >>> sorted(tlt.decompose_layers(model, tokens, method="spectral"))
        [0, 1, 2]
    """
    split = Split(method, means, from_layer, keep)
    return decompose(model, tokens, layers, split, mask=mask, prepend_bos=prepend_bos)


@torch.no_grad()
def decompose(
    model: Any,
    tokens: Tensor | str | Sequence[Any],
    layers: Sequence[int] | None,
    split: Split,
    *,
    mask: Tensor | None = None,
    prepend_bos: bool | None = None,
) -> dict[int, MLPDecomposition]:
    """The decompositions of some layers' MLPs; the arguments are those of `decompose_layers`."""
    chosen = [site.layer for site in find_sites(model, "W_out", layers)]
    split = split.ready()
    split.check(model, chosen)
    batch = fill(read_prompts(model, tokens, mask=mask, prepend_bos=prepend_bos))
    require_additive(model, chosen)
    outputs, final = _outputs(model, batch.tokens, chosen)
    found = split.terms(model, batch.tokens, outputs)
    shape = Unpadded.of(batch, mask)
    given = tokens if isinstance(tokens, Tensor) else shape.put(batch.tokens)
    record = dict(
        **of_model(model),
        **split.to_json(),
        versions=versions(),
        cuts=[cut.to_json() for cut in active_cuts(model)],
    )
    made = {}
    for layer in chosen:
        terms, output = found[layer], in_compute_precision(outputs[layer])
        whole = global_of(split, terms)
        site = Site(layer, "W_out")
        means = split.means
        counts = means.counts(site, batch.tokens) if isinstance(means, TokenMeans) else None
        made[layer] = MLPDecomposition(
            method=split.method,
            layer=layer,
            tokens=given,
            valid=shape.put(usable(batch.real, output)),
            global_=shape.put(whole),
            in_context=shape.put(output - whole),
            terms={name: shape.put(term) for name, term in terms.items()},
            counts=None if counts is None else shape.put(counts),
            readout=_put_readout(shape, final),
            texts=_texts(model, given),
            record=record,
        )
    return made


def _outputs(model: Any, tokens: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], Readout]:
    modules = {str(layer): locate(model, Site(layer, "W_out")).output.module for layer in layers}
    norm = getattr(model, "ln_final", None)
    last = exit_of(model.blocks[len(model.blocks) - 1])
    ends = {"after": last if norm is None else norm}
    seen = observe(model, tokens, {**modules, **ends}, inputs=None if norm is None else {"before": norm})
    before = seen.get("before", seen["after"])
    return {layer: seen[str(layer)] for layer in layers}, readout(model, before, seen["after"])


def _put_readout(shape: Unpadded, final: Readout) -> Readout:
    scale = shape.put(final.norm.scale)
    return final.with_scale(torch.where(scale == 0, 1.0, scale))


def _texts(model: Any, tokens: Tensor) -> tuple[tuple[str, ...], ...]:
    tokenizer = getattr(model, "tokenizer", None)

    def text(token: int) -> str:
        return str(token) if tokenizer is None else str(tokenizer.decode([token]))

    return tuple(tuple(map(text, row)) for row in tokens.tolist())
