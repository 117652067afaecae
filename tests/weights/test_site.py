"""Sites: names, and what a model has."""

import inplace
import numpy as np
import pytest
from architectures import CASES
from hypothesis import given
from hypothesis import strategies as st

import tl_truncate as tlt
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import ATTENTION_MATRICES, CIRCUITS, MATRICES

layers = st.integers(0, 200)


@given(layers, st.sampled_from(MATRICES), st.none() | st.integers(0, 64))
def test_names_round_trip(layer, matrix, head):
    site = tlt.Site(layer, matrix, head if matrix in ATTENTION_MATRICES else None)
    assert tlt.Site.parse(str(site)) == site
    assert tlt.Site.parse(site) is site
    assert hash(tlt.Site.parse(str(site))) == hash(site)


@given(layers, st.sampled_from(CIRCUITS), st.integers(0, 64))
def test_names_of_circuits_round_trip(layer, circuit, head):
    site = tlt.Site(layer, circuit, head)
    assert str(site) == f"blocks.{layer}.attn.{circuit}.{head}"
    assert tlt.Site.parse(str(site)) == site
    assert site.is_circuit
    assert site.is_attention


@given(st.text(max_size=30))
def test_other_text_is_refused_or_a_site(text):
    try:
        site = tlt.Site.parse(text)
    except ValueError as problem:
        assert "must" in str(problem) or "belongs" in str(problem)
    else:
        assert tlt.Site.parse(str(site)) == site


def test_sites_sort_by_layer():
    names = ["blocks.2.mlp.W_in", "blocks.0.mlp.W_out", "blocks.10.mlp.W_in"]
    assert [site.layer for site in sorted(map(tlt.Site.parse, names))] == [0, 2, 10]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_matrix_is_found_with_its_content(shared, kind, name):
    model = shared(kind, name)
    expected = [m for m in MATRICES if m != "W_gate" or "llama" in name]
    assert [s.matrix for s in tlt.find_sites(model, MATRICES, [1])] == expected
    assert len(tlt.find_sites(model)) == 6
    for site in tlt.find_sites(model, MATRICES, [2]):
        found = locate(model, site).weight().double().numpy()
        assert np.array_equal(found, inplace.read(model, 2, site.matrix))
        if site.is_attention:
            heads = locate(model, site).n_heads
            parts = [locate(model, tlt.Site(2, site.matrix, head)).weight() for head in range(heads)]
            whole = np.concatenate(parts, axis=0 if site.matrix == "W_O" else 1)
            assert np.array_equal(whole, found)


@pytest.mark.parametrize("kind", [kind for kind, name in CASES if name == "llama-grouped"])
def test_grouped_query_attention_has_its_own_number_of_heads(shared, kind):
    model = shared(kind, "llama-grouped")
    shapes = {m: locate(model, tlt.Site(0, m)).weight().shape for m in ATTENTION_MATRICES}
    assert shapes["W_Q"] == (32, 32)
    assert shapes["W_K"] == shapes["W_V"] == (32, 16)
    assert shapes["W_O"] == (32, 32)


def test_sites_have_an_order_whether_they_name_a_head_or_not():
    names = ["blocks.0.attn.W_Q", "blocks.0.attn.W_Q.0", "blocks.0.attn.W_Q.1", "blocks.0.mlp.W_in"]
    names.append("blocks.1.attn.W_K")
    sites = [tlt.Site.parse(name) for name in names]
    assert sorted({*sites}) == sites
    assert max(sites) == sites[-1]
    assert sites[0] <= sites[0] < sites[1]
