"""Models whose weights accelerate keeps elsewhere: everything is as in the same model with its weights at hand."""

import copy
import warnings

import architectures
import inplace
import pytest
import torch
from accelerate import cpu_offload, disk_offload

import tl_truncate as tlt
from tl_truncate.weights.identity.content import weights_hash

# Before TransformerLens 4 a Bridge cannot be made around an offloaded model; some can be offloaded after.
NEW = architectures.HookedTransformer is None
BRIDGED = ("neox-parallel", "gpt2", "llama-grouped") if NEW else ("llama-grouped",)
CASES = [("bridge", name) for name in BRIDGED]
CASES += [("hooked", name) for name in ("gpt2", "neox-parallel", "llama-grouped") if not NEW]
HOWS = ("cpu", "disk")


def offloaded(kind, name, how, folder):
    """A model of the architectures, with its weights on the host or on disk."""

    def keep(model):
        if how == "cpu":
            return cpu_offload(model, execution_device="cpu")
        return disk_offload(model, folder, execution_device="cpu")

    if kind == "hooked":
        return architectures.with_tokenizer(keep(architectures.hooked(name)))
    if not NEW:
        model = architectures.bridge(name)
        keep(model.original_model)
        return model
    from transformer_lens.model_bridge import TransformerBridge

    hf = keep(copy.deepcopy(architectures.hf_model(name)))
    return TransformerBridge.boot_transformers(
        name, hf_model=hf, tokenizer=architectures.word_tokenizer()
    )


@pytest.fixture(scope="module", params=[(*case, how) for case in CASES for how in HOWS], ids="-".join)
def pair(request, shared, tmp_path_factory):
    """The same model twice: with its weights at hand, and kept elsewhere."""
    kind, name, how = request.param
    near = architectures.with_tokenizer(shared(kind, name))
    far = offloaded(kind, name, how, tmp_path_factory.mktemp("weights"))
    elsewhere = {place for place, parameter in far.named_parameters() if parameter.is_meta}
    assert len(elsewhere) > 10
    yield near, far
    # No pass, whether it was gone through or not, has left a weight in memory.
    assert {place for place, parameter in far.named_parameters() if parameter.is_meta} == elsewhere


SITES = ("mlp.W_in", "mlp.W_out", "attn.W_Q", "attn.W_O", "attn.W_V.1", "attn.W_O.1", "attn.OV.2")


def test_spectra_are_of_the_real_weights(pair):
    near, far = pair
    for name in SITES:
        one, other = (tlt.spectrum(model, f"blocks.1.{name}") for model in (near, far))
        assert torch.equal(one.S, other.S)
        assert torch.equal(one.V, other.V)


@pytest.mark.parametrize("name", SITES)
def test_cuts_equal_in_place_editing(pair, tokens, name):
    near, far = pair
    cut = tlt.Cut(f"blocks.1.{name}", 0.25)
    with tlt.truncated(far, cut):
        found = inplace.outputs(far, tokens)
    if "OV" in name:
        with tlt.truncated(near, cut):
            wanted = inplace.outputs(near, tokens)
    else:
        with inplace.edited(near, (f"blocks.1.{name}", inplace.top(0.25))):
            wanted = inplace.outputs(near, tokens)
    assert inplace.difference(found, wanted) < 1e-5
    hooks = tlt.truncation_hooks(far, cut)
    with torch.no_grad():
        by_hooks = far.run_with_hooks(tokens, fwd_hooks=hooks)
    torch.testing.assert_close(by_hooks, wanted["logits"], atol=1e-5, rtol=1e-5)


def test_readers_of_a_cut_weight_see_it(pair, tokens):
    near, far = pair
    cut = tlt.Cut("blocks.1.attn.W_O", 0.25)
    read = []
    for model in (near, far):
        with tlt.truncated(model, cut, weights=True), torch.no_grad():
            read.append((model.blocks[1].attn.W_O.detach().clone(), model(tokens)))
    (one, logits), (other, found) = read
    assert torch.equal(one, other)
    torch.testing.assert_close(found, logits, atol=1e-6, rtol=1e-6)


def test_the_hash_is_of_the_content(pair):
    near, far = pair
    assert weights_hash(far) == weights_hash(near)


def test_scores_sweeps_and_predictions(pair, drinks):
    near, far = pair
    sites = ["blocks.1.mlp.W_in", "blocks.1.mlp.W_out", "blocks.2.attn.W_V", "blocks.0.attn.W_O.1"]
    cut = tlt.Cut(sites[1], 0.25)
    one, other = (tlt.evaluate(model, drinks, cuts=[cut]) for model in (near, far))
    assert (one.frame.logit_diff - other.frame.logit_diff).abs().max() < 1e-5
    assert other.record.weights_hash == one.record.weights_hash
    with warnings.catch_warnings():
        warnings.simplefilter("error", tlt.FullPassesWarning)
        one, other = (
            tlt.sweep(model, drinks, sites=sites, keeps=[0.0, 0.25, 0.5]) for model in (near, far)
        )
    assert (one.frame.logit_diff - other.frame.logit_diff).abs().max() < 1e-5
    one, other = (tlt.attribute(model, drinks, sites=sites) for model in (near, far))
    assert (one.frame.effect - other.frame.effect).abs().max() < 1e-5


def test_parts_of_an_mlp(pair, tokens):
    near, far = pair
    means = [tlt.TokenMeans.fit(model, tokens, layers=[1]) for model in (near, far)]
    for method in ("token_mean", "context_ablation", "own_path", "spectral"):
        options = [dict(means=each) if method == "token_mean" else {} for each in means]
        options = [dict(keep=0.25) if method == "spectral" else each for each in options]
        one, other = (
            tlt.decompose_mlp(model, tokens, layer=1, method=method, **each)
            for model, each in zip((near, far), options, strict=True)
        )
        torch.testing.assert_close(other.global_, one.global_, atol=1e-5, rtol=1e-5)
        said = [each.logits([5, 6]).global_ for each in (one, other)]
        torch.testing.assert_close(*said, atol=1e-5, rtol=1e-5)


def test_what_directions_write(pair):
    one, other = (tlt.spectrum(model, "blocks.1.mlp.W_out").tokens(model, 3) for model in pair)
    assert (one.logit - other.logit).abs().max() < 1e-6
    assert one.token_id.tolist() == other.token_id.tolist()
