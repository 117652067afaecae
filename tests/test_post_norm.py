"""Architectures beside the main ones: the Bridge's hook point lies at the linear itself, so cuts are exact.

In front of a post-norm, in sight of a window, with ALiBi, learnt positions and norms of queries.
"""

import architectures
import inplace
import pytest
import torch

import tl_truncate as tlt
from tl_truncate.weights.site import MATRICES


@pytest.mark.parametrize(
    "name", ["gemma2-post-norm", "mistral-window", "gptneo-local", *architectures.SPECIAL]
)
def test_the_bridge_is_exact(shared, tokens, name):
    model = shared("bridge", name)
    uncut = inplace.outputs(model, tokens)["logits"]
    for site in tlt.find_sites(model, MATRICES, [1]):
        with tlt.truncated(model, tlt.Cut(site, 0.4)):
            cut = inplace.outputs(model, tokens)
        with inplace.edited(model, (str(site), inplace.top(0.4))):
            edited = inplace.outputs(model, tokens)
        assert inplace.difference(cut, edited) <= 1e-4, site
        assert not torch.allclose(cut["logits"], uncut, atol=1e-4)
