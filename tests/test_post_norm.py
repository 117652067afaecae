"""A post-norm architecture: the Bridge's hook point lies at the linear itself, so the cut is exact."""

import architectures
import inplace
import torch

import tl_truncate as tlt
from tl_truncate.weights.site import MATRICES


def test_the_bridge_is_exact_in_front_of_a_post_norm(tokens):
    model = architectures.bridge("gemma2-post-norm")
    uncut = inplace.outputs(model, tokens)["logits"]
    for site in tlt.find_sites(model, MATRICES, [1]):
        with tlt.truncated(model, tlt.Cut(site, 0.4)):
            cut = inplace.outputs(model, tokens)
        with inplace.edited(model, (str(site), inplace.top(0.4))):
            edited = inplace.outputs(model, tokens)
        assert inplace.difference(cut, edited) <= 1e-4, site
        assert not torch.allclose(cut["logits"], uncut, atol=1e-4)
