"""What the sites of a block write, from a cache: where that is, is spelt out again on purpose."""

import inplace
import torch

import tl_truncate as tlt
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import ATTENTION_MATRICES, MATRICES, Site

# HookedTransformer computes rotary embeddings in float32 whatever the model's dtype.
ROTARY = ("neox-parallel", "neox-sequential", "llama-grouped")


def sites_of(model, layer=1) -> list[Site]:
    heads = [Site(layer, matrix, 1) for matrix in ATTENTION_MATRICES]
    return tlt.find_sites(model, MATRICES, [layer]) + heads


def points(name: str, site: Site) -> str:
    """Where the output of a site is in a cache."""
    return {
        "W_Q": "blocks.1.attn.hook_q",
        "W_K": "blocks.1.attn.hook_k",
        "W_V": "blocks.1.attn.hook_v",
        "W_O": "blocks.1.hook_attn_out",
        "W_in": "blocks.1.mlp.hook_pre_linear" if "llama" in name else "blocks.1.mlp.hook_pre",
        "W_gate": "blocks.1.mlp.hook_pre",
        "W_out": "blocks.1.hook_mlp_out",
    }[site.matrix]


def written(model, name, site, tokens) -> torch.Tensor:
    """What a site writes without its bias, `[position, n_out]`, from a cache."""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    if site.matrix == "W_O" and site.head is not None:
        z = cache["blocks.1.attn.hook_z"].flatten(2)
        own = slice(8 * site.head, 8 * site.head + 8)
        weight = torch.tensor(inplace.read(model, 1, "W_O")[own])
        return (z[..., own] @ weight).flatten(0, 1)
    value = cache[points(name, site)]
    value = value if value.ndim == 3 else value.flatten(2)
    if site.head is not None:
        value = value[..., 8 * site.head : 8 * site.head + 8]
    bias = locate(model, site).bias()
    return (value if bias is None else value - bias).flatten(0, 1)


def fitted_once(kind, shared, corpus):
    """Fits all sites of a block of a model, once for each model."""
    known = {}

    def get(backend, name, dtype=torch.float64):
        key = (backend, name, dtype)
        if key not in known:
            model = shared(backend, name, dtype)
            known[key] = kind.fit(model, corpus, sites=sites_of(model))
        return known[key]

    return get
