"""Cuts of quantised linears: projections of what their own kernel has written."""

import inplace
import pytest
import quantised_models
import torch
from architectures import VOCAB
from quantised_models import KINDS, bridged, dequantised, hf_quantised, linears

import tl_truncate as tlt

CASES = [("llama", kind) for kind in KINDS] + [
    (name, kind) for name in ("neox", "gpt2") for kind in ("int8-outliers", "nf4-double")
]
LAYER = 1
TOKENS = torch.randint(3, VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def quantised(request):
    """A model, and the dequantised weights of one of its blocks as they were before any pass."""
    name, kind = request.param
    model = bridged(name, hf_quantised(name, kind))
    components = linears(model, LAYER)
    weights = {
        matrix: dequantised(component.original_component)
        for matrix, component in components.items()
        if type(component.original_component.weight) is not torch.nn.Parameter
    }
    return model, weights


def seen(model, point_in, point_out):
    """What a linear reads and writes in a pass."""
    kept = {}
    names = [point_in, point_out]
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS, names_filter=names)
    for name in names:
        kept[name] = cache[name].double().flatten(2).flatten(0, 1).numpy()
    return kept[point_in], kept[point_out]


def test_show(quantised):
    model, weights = quantised
    for matrix, weight in weights.items():
        component = linears(model, LAYER)[matrix]
        part = "attn" if matrix in ("W_Q", "W_K", "W_V", "W_O") else "mlp"
        at = f"blocks.{LAYER}.{part}.{component.name if False else dict(W_Q='q', W_K='k', W_V='v', W_O='o', W_in='in', W_gate='gate', W_out='out')[matrix]}"
        site = f"blocks.{LAYER}.{part}.{matrix}"
        x, y = seen(model, f"{at}.hook_in", f"{at}.hook_out")
        with tlt.truncated(model, tlt.Cut(site, 0.25)):
            xc, yc = seen(model, f"{at}.hook_in", f"{at}.hook_out")
        b = component.original_component.bias
        b = 0 if b is None else b.detach().double().numpy()
        W = weight.T.numpy()
        Wk = inplace.truncate(W, slice(0, int(min(W.shape) * 0.25)))
        import numpy as np
        u, s, vt = np.linalg.svd(W, full_matrices=False)
        V = vt[: int(min(W.shape) * 0.25)].T
        exact = b + (y - b) @ V @ V.T
        gap0 = np.linalg.norm(y - (x @ W + b), axis=1)
        gap1 = np.linalg.norm(yc - (x @ Wk + b), axis=1)
        print(site, "in same", abs(x - xc).max(), "proj", abs(yc - exact).max() / abs(y).max(), "kernel", gap0.max() / np.linalg.norm(y, axis=1).max(), "cut", (gap1 / gap0).max())
    print(tlt.weights_hash(model) if hasattr(tlt, 'weights_hash') else '')
