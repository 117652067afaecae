"""The two-layer transformer of the recall experiments, as a trainable TransformerLens model.

One head a layer, no LayerNorm, ReLU MLPs, no biases; token, position and output embeddings are random
and frozen, and the query matrix is the identity.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from tl_truncate.models import Backend, hooked_transformer
from tl_truncate.weights.locate import find_sites, locate
from tl_truncate.weights.site import Matrix

#: What is trained; the rest is frozen.
TRAINED: tuple[Matrix, ...] = ("W_K", "W_V", "W_O", "W_in", "W_out")


def build_recall_model(
    *,
    d_vocab: int,
    n_ctx: int,
    d_model: int,
    d_mlp: int,
    n_layers: int,
    seed: int,
    backend: Backend,
    dtype: torch.dtype,
    device: torch.device | str | None,
    initialisation: Literal["official", "gpt2"] = "official",
    unembedding_scale: float = 1.0,
) -> Any:
    """A fresh model.

    `official`: embeddings standard normal, other weights uniform in `+-1/sqrt(n_in)`. `gpt2`: all normal
    with standard deviation `0.8/sqrt(d_model)`, W_O and W_out with `1/sqrt(2 n_layers)` of that.

    Args:
        d_vocab, n_ctx, d_model, d_mlp, n_layers: sizes.
        seed: of the weights; the global random state is not touched.
        backend: `bridge` (boot_native) or `hooked` (TransformerLens 3).
        dtype: of the weights, which are drawn in float64.
        device: where to put them.
        initialisation: of the weights.
        unembedding_scale: of W_U, over that of the initialisation.

    Raises:
        ValueError: if the installed TransformerLens does not have the backend.

    Source: the initialisation of the official code of Chen, Bruna and Bietti 2024; TransformerLens'.
    """
    sizes = dict(
        d_vocab=d_vocab, n_ctx=n_ctx, d_model=d_model, d_head=d_model, n_heads=1, n_layers=n_layers
    )
    settings = dict(d_mlp=d_mlp, act_fn="relu", normalization_type=None, seed=seed, dtype=dtype, **sizes)
    model = (_native if backend == "bridge" else _hooked)(settings)
    generator = torch.Generator().manual_seed(seed)
    std = 0.8 / math.sqrt(d_model)

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def drawn(n_in: int, n_out: int, writes: bool = False) -> Tensor:
        if initialisation == "official":
            draw = torch.rand(n_in, n_out, generator=generator, dtype=torch.float64)
            return (2 * draw - 1) / math.sqrt(n_in)
        return normal(torch.Size((n_in, n_out))) * std / math.sqrt(2 * n_layers if writes else 1)

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for embedding in (model.W_E, _positions(model)):
            embedding.copy_(normal(embedding.shape) * (1 if initialisation == "official" else std))
        model.W_U.copy_(drawn(*model.W_U.shape) * unembedding_scale)
        for site in find_sites(model, "W_Q"):
            locate(model, site).weight().copy_(torch.eye(d_model))
        for site in find_sites(model, TRAINED):
            weight = locate(model, site).weight()
            n_in, n_out = weight.shape
            weight.copy_(drawn(n_in, n_out, site.matrix in ("W_O", "W_out")))
    if device is not None:
        model.to(device)
    return freeze(model)


def freeze(model: Any) -> Any:
    """Lets only the trained matrices have gradients."""
    trained = {
        locate(model, site).weight().untyped_storage().data_ptr() for site in find_sites(model, TRAINED)
    }
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.untyped_storage().data_ptr() in trained)
    return model


def _native(settings: dict[str, Any]) -> Any:
    import transformer_lens.model_bridge as bridges

    boot = getattr(bridges.TransformerBridge, "boot_native", None)
    if boot is None:
        raise ValueError(
            "backend='bridge' must have a TransformerLens with TransformerBridge.boot_native, such as "
            "3.9; got an older one. Use backend='hooked', or upgrade."
        )
    from transformer_lens.config import TransformerBridgeConfig

    return boot(TransformerBridgeConfig(**settings), dtype=settings["dtype"])


def _hooked(settings: dict[str, Any]) -> Any:
    cls = hooked_transformer()
    from transformer_lens import HookedTransformerConfig

    return cls(HookedTransformerConfig(device="cpu", **settings))


def _positions(model: Any) -> Tensor:
    """The position embeddings, `[n_ctx, d_model]`; TransformerLens 3's Bridge has no name for them."""
    wrapped = getattr(model.pos_embed, "original_component", None)
    found: Tensor = model.W_pos if wrapped is None else wrapped.weight
    return found


def tensors(model: Any) -> dict[str, Tensor]:
    """All weights by TransformerLens' names, the same for both classes, `[n_in, n_out]`."""
    found = {"W_E": model.W_E, "W_pos": _positions(model), "W_U": model.W_U}
    for site in find_sites(model, ("W_Q", *TRAINED)):
        found[str(site)] = locate(model, site).weight()
    return {name: value.detach() for name, value in found.items()}


def write(model: Any, weights: dict[str, Tensor]) -> None:
    """Copies weights as `tensors` gives them into a model.

    Raises:
        ValueError: if names or shapes differ.
    """
    own = tensors(model)
    wanted = {name: tuple(value.shape) for name, value in own.items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if wanted != found:
        wrong = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        raise ValueError(
            f"The weights must be of a model with this configuration; these differ: {', '.join(wrong)}."
        )
    for name, value in own.items():
        value.copy_(weights[name])
