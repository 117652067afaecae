"""Spectra against NumPy, for every shape, rank and dtype; and what they say of themselves."""

import architectures
import inplace
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import matrices
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, LlamaForCausalLM

import tl_truncate as tlt
from tl_truncate.weights.spectra.factors import factorise

dtypes = st.sampled_from((torch.float64, torch.float32, torch.bfloat16, torch.float16))
EPS = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}


@settings(deadline=None)
@given(matrices(), dtypes)
def test_factors_of_any_matrix(matrix, dtype):
    weight = matrix.to(dtype)
    factors = factorise(weight)
    exact = weight.double()
    limit = EPS[dtype] * max(1.0, float(exact.norm()))
    assert factors.U.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    u, s, v = (tensor.double() for tensor in (factors.U, factors.S, factors.V))
    assert float(((u * s) @ v.T - exact).norm()) <= limit
    identity = torch.eye(len(s), dtype=torch.float64)
    assert float((u.T @ u - identity).abs().max()) <= EPS[dtype]
    assert float((v.T @ v - identity).abs().max()) <= EPS[dtype]
    assert bool((s[:-1] >= s[1:]).all())
    numpy = np.linalg.svd(exact.numpy(), compute_uv=False)
    assert np.abs(s.numpy() - numpy).max() <= limit


def test_the_gram_method_is_used_where_it_is_safe_and_only_there():
    generator = torch.Generator().manual_seed(0)
    usual = torch.randn(64, 256, generator=generator)
    assert factorise(usual).method == "gram"
    centred = usual - usual.mean(1, keepdim=True)
    centred = centred.T - centred.T.mean(1, keepdim=True)
    assert factorise(centred.double().T).method == "svd", "a zero singular value is not safe"
    assert factorise(torch.zeros(3, 5)).method == "svd"
    steep = torch.diag(torch.logspace(0, -6, 20, dtype=torch.float64))
    assert factorise(steep).method == "svd"


def test_truncation_error_of_the_gram_method_is_that_of_the_full_svd():
    """Output error of a rank-k cut, relative to the output, at a realistic size and decay."""
    generator = torch.Generator().manual_seed(0)
    q1 = torch.linalg.qr(torch.randn(256, 256, generator=generator, dtype=torch.float64)).Q
    q2 = torch.linalg.qr(torch.randn(1024, 256, generator=generator, dtype=torch.float64)).Q
    values = torch.linspace(10, 0.1, 256, dtype=torch.float64)
    weight = ((q1 * values) @ q2.T).float()
    factors = factorise(weight)
    assert factors.method == "gram"
    x = torch.randn(50, 256, generator=generator, dtype=torch.float64)
    exact = torch.tensor(inplace.truncate(weight.double().numpy(), slice(0, 26)))
    v = factors.V[:, :26].double()
    error = (x @ weight.double() @ v @ v.T - x @ exact).norm() / (x @ exact).norm()
    assert float(error) < 1e-6
    own = torch.linalg.svd(weight.double(), full_matrices=False)
    subspace = own.Vh[:26].T
    assert float((v @ v.T - subspace @ subspace.T).norm()) < 1e-6


def test_spectrum_of_a_model(shared):
    model = shared("bridge", "neox-parallel")
    for name in ("blocks.0.mlp.W_in", "blocks.2.attn.W_V.3", "blocks.1.attn.W_O"):
        spec = tlt.spectrum(model, name)
        assert str(spec.site) == name
        assert spec.shape == (spec.U.shape[0], spec.V.shape[0])
        assert spec.max_rank == len(spec.S) == min(spec.shape)
        assert name in str(spec)
        whole = spec.matrix()
        assert torch.allclose(spec.matrix(5) + spec.matrix(tlt.DropTop(5)), whole, atol=1e-5)
        expected = inplace.truncate(whole.double().numpy(), slice(0, 5))
        assert np.abs(spec.matrix(5).double().numpy() - expected).max() < 1e-5
        assert spec.energy(1.0) == pytest.approx(1.0)
        assert spec.energy(5) == pytest.approx(float((spec.S[:5] ** 2).sum() / (spec.S**2).sum()))


def test_a_float64_model_has_a_float64_spectrum(shared):
    assert (
        tlt.spectrum(shared("bridge", "gpt2", torch.float64), "blocks.0.mlp.W_in").V.dtype
        == torch.float64
    )
    assert (
        tlt.spectrum(shared("bridge", "gpt2", torch.bfloat16), "blocks.0.mlp.W_in").V.dtype
        == torch.float32
    )


def test_gap_is_measured_at_the_cut():
    weight = torch.diag(torch.tensor([4.0, 3.0, 2.9999, 1.0], dtype=torch.float64))
    factors = factorise(weight)
    spec = tlt.Spectrum(tlt.Site(0, "W_in"), factors.U, factors.S, factors.V, "svd", 0.0)
    assert spec.gap(1) == pytest.approx(0.25)
    assert spec.gap(2) == pytest.approx(0.0001 / 4)
    assert spec.gap(tlt.Band(1, 3)) == pytest.approx(0.25)
    assert spec.gap(tlt.Components([0, 2])) == pytest.approx(0.0001 / 4)
    assert spec.gap(0) == spec.gap(1.0) == float("inf")


@pytest.mark.parametrize("name", ["gpt2", "llama-grouped"])
def test_tokens_against_the_unembedding(shared, name):
    model = shared("bridge", name)
    site = "blocks.2.mlp.W_out"
    spec = tlt.spectrum(model, site)
    table = spec.tokens(model, 3, components=[4])
    norm = model.ln_final.weight.detach().numpy()
    logits = (spec.V[:, 4].numpy() * norm) @ model.W_U.detach().numpy()
    top = table[table["sign"] == 1]["token_id"].tolist()
    bottom = table[table["sign"] == -1]["token_id"].tolist()
    assert top == np.argsort(-logits)[:3].tolist()
    assert bottom == np.argsort(logits)[:3].tolist()
    assert table["logit"].iloc[0] == pytest.approx(logits.max(), rel=1e-5)
    assert table["token"].iloc[0] == model.tokenizer.decode([top[0]])
    assert len(spec.tokens(model, 2)) == 10 * 2 * 2


def test_reading_a_spectrum_leaves_no_trace(shared):
    model = shared("bridge", "gpt2")
    state = torch.get_rng_state()
    tlt.spectrum(model, "blocks.1.mlp.W_in")
    assert torch.equal(state, torch.get_rng_state())


def test_a_spectrum_is_ones_own(toy):
    """Writing into it changes no later cut, and no later spectrum."""
    site = "blocks.1.mlp.W_out"
    before = tlt.spectrum(toy, site)
    edit = tlt.Cut(site, 5).edit(toy)
    wanted = [each.clone() for each in (before.U, before.S, before.V, edit.basis)]
    for tensor in (before.U, before.S, before.V):
        tensor.zero_()
    after = tlt.spectrum(toy, site)
    for value, own in zip(
        wanted, (after.U, after.S, after.V, tlt.Cut(site, 5).edit(toy).basis), strict=True
    ):
        assert torch.equal(value, own)


def test_what_is_given_is_no_part_of_the_cache():
    """Also of one component, whose transpose lies in memory as it is."""
    config = LlamaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    config.update(dict(num_key_value_heads=4, intermediate_size=1, max_position_embeddings=64))
    inner = architectures.randomise(LlamaForCausalLM(config))
    tokenizer = architectures.word_tokenizer()
    model = TransformerBridge.boot_transformers("llama", hf_model=inner, tokenizer=tokenizer)
    for site in ("blocks.0.mlp.W_in", "blocks.0.mlp.W_out"):
        for side in ("U", "S", "V"):
            getattr(tlt.spectrum(model, site), side).zero_()
            assert getattr(tlt.spectrum(model, site), side).norm() > 0
