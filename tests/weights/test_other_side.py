"""The side of a spectrum that is not kept, against NumPy: also where singular values are tiny or zero."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import matrices

import tl_truncate as tlt
from tl_truncate.weights.spectra import cache
from tl_truncate.weights.spectra.factors import factorise, factorise_product
from tl_truncate.weights.spectra.other_side import left_side

# What the whole spectrum is right to, in the precision that its vectors are kept in.
EPS = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}


def require_whole(u, s, v, exact, dtype) -> None:
    """Orthonormal sides whose product is the matrix."""
    u, s, v = (each.double() for each in (u, s, v))
    identity = torch.eye(len(s), dtype=torch.float64)
    assert float((u.T @ u - identity).abs().max()) <= EPS[dtype]
    assert float((v.T @ v - identity).abs().max()) <= EPS[dtype]
    assert float(((u * s) @ v.T - exact).norm()) <= EPS[dtype] * max(1.0, float(exact.norm()))


@settings(deadline=None)
@given(matrices(), st.sampled_from((torch.float64, torch.float32, torch.bfloat16, torch.float16)))
def test_of_any_matrix(matrix, dtype):
    weight = matrix.to(dtype)
    factors = factorise(weight)
    require_whole(left_side([weight], factors.V), factors.S, factors.V, weight.double(), dtype)
    assert left_side([weight], factors.V).dtype == factors.V.dtype


def test_it_is_that_of_numpy_where_dividing_by_a_tiny_value_is_not():
    """Seven orders of magnitude between the values, and vectors that are kept in float32."""
    random = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(40, 24, generator=random, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(30, 24, generator=random, dtype=torch.float64)).Q
    values = torch.logspace(0, -7, 24, dtype=torch.float64)
    weight = (left * values) @ right.T
    kept = right.float()
    found = left_side([weight], kept).double()
    divided = (weight @ kept.double()) / values
    assert float((found - left).abs().max()) < 1e-6
    assert float((divided - left).abs().max()) > 1e-2


@pytest.mark.parametrize("rank", [8, 5])
def test_of_a_product_it_stays_in_what_the_left_matrix_spans(rank):
    """Also the vectors of singular values that are zero."""
    random = torch.Generator().manual_seed(rank)
    first = torch.randn(30, 8, generator=random, dtype=torch.float64)
    second = torch.randn(8, rank, generator=random, dtype=torch.float64)
    second = second @ torch.randn(rank, 20, generator=random, dtype=torch.float64)
    factors = factorise_product(first, second)
    found = left_side([first, second], factors.V)
    require_whole(found, factors.S, factors.V, first @ second, torch.float64)
    span = torch.linalg.qr(first).Q
    assert float((span @ (span.T @ found) - found).abs().max()) < 1e-13


@pytest.mark.parametrize("site", ["blocks.1.mlp.W_in", "blocks.1.mlp.W_out", "blocks.1.attn.QK.1"])
def test_a_spectrum_has_the_same_bits_whether_it_was_computed_or_read(
    shared, tmp_path, monkeypatch, site
):
    monkeypatch.setenv("TL_TRUNCATE_CACHE", str(tmp_path))
    model = shared("bridge", "gpt2")
    cache._memory.clear()
    first = tlt.spectrum(model, site)
    cache._memory.clear()
    again = tlt.spectrum(model, site)
    cache._memory.clear()
    for one, other in zip((first.U, first.S, first.V), (again.U, again.S, again.V), strict=True):
        assert torch.equal(one, other)
    require_whole(first.U, first.S, first.V, first.matrix().double(), torch.float32)
