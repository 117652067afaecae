"""Keep rules against brute force, tables of constants, and planted signals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

import tl_truncate as tlt
from tl_truncate.weights.keep import Keep, as_keep
from tl_truncate.weights.keep.noise import marchenko_pastur_median

spectra = st.lists(st.floats(0, 100), min_size=1, max_size=30).map(
    lambda values: torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
)


def kept(rule, values, shape=None) -> list[int]:
    n = len(values)
    return rule.indices(values, shape or (n, n + 3)).tolist()


@given(spectra, st.floats(0, 1))
def test_fraction_is_lasers_floor(values, rho):
    assert kept(tlt.Fraction(rho), values) == list(range(int(len(values) * rho)))


@given(spectra, st.data())
def test_rank_drop_top_and_band_are_slices(values, data):
    n = len(values)
    i = data.draw(st.integers(0, n))
    j = data.draw(st.integers(i, n))
    assert kept(tlt.Rank(j), values) == list(range(j))
    assert kept(tlt.DropTop(i), values) == list(range(i, n))
    assert kept(tlt.Band(i, j), values) == list(range(i, j))
    assert sorted(kept(tlt.Rank(i), values) + kept(tlt.DropTop(i), values)) == list(range(n))


@given(spectra, st.floats(0.001, 0.999))
def test_energy_is_the_fewest_that_reach_it(values, energy):
    count = len(kept(tlt.Energy(energy), values))
    squares = values.square().numpy()
    total = squares.cumsum()[-1]
    assert squares[:count].sum() >= energy * total * (1 - 1e-12)
    if count > 1:
        assert squares[: count - 1].sum() < energy * total * (1 + 1e-12)


@given(spectra)
def test_energy_at_its_ends(values):
    assert kept(tlt.Energy(0.0), values) == []
    assert kept(tlt.Energy(1.0), values) == list(range(len(values)))


@given(spectra, st.data())
def test_components_are_a_sorted_set(values, data):
    chosen = data.draw(st.lists(st.integers(0, len(values) - 1)))
    assert kept(tlt.Components(chosen), values) == sorted(set(chosen))
    assert tlt.Components(torch.tensor(chosen)) == tlt.Components(chosen)
    assert tlt.Components(np.array(chosen, dtype=int)) == tlt.Components(chosen)


@pytest.mark.parametrize("beta", [1.0, 0.75, 0.5, 0.25, 0.05])
def test_marchenko_pastur_median_against_quadrature(beta):
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2
    median = marchenko_pastur_median(beta)

    def density(x):
        return math.sqrt(max(0.0, (high - x) * (x - low))) / (2 * math.pi * beta * x)

    below, _ = integrate.quad(density, low, median, limit=200)
    assert below == pytest.approx(0.5, abs=2e-6)


def test_published_constants():
    """Gavish and Donoho 2014, table IV: omega(beta) = lambda(beta) / sqrt(mu_beta)."""
    for beta, omega in ((0.05, 1.5194), (0.25, 1.8371), (0.5, 2.1711), (1.0, 2.8582)):
        shape = (int(1000 * beta), 1000)
        ones = torch.ones(shape[0], dtype=torch.float64)
        just_below, just_above = ones.clone(), ones.clone()
        just_below[0], just_above[0] = omega - 1e-3, omega + 1e-3
        assert len(tlt.OptimalThreshold().indices(just_below, shape)) == 0
        assert len(tlt.OptimalThreshold().indices(just_above, shape)) == 1


@pytest.mark.parametrize("rule", [tlt.MarchenkoPastur(), tlt.OptimalThreshold()])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("shape", [(200, 800), (800, 200), (400, 400)])
def test_a_planted_signal_is_found_in_noise_of_any_scale(rule, scale, shape):
    generator = np.random.default_rng(0)
    noise = generator.normal(size=shape)
    signal = sum(
        4 * math.sqrt(max(shape)) * np.outer(*(_unit(generator, size) for size in shape))
        for _ in range(5)
    )
    values = torch.tensor(np.linalg.svd(scale * (noise + signal), compute_uv=False))
    pure = torch.tensor(np.linalg.svd(scale * noise, compute_uv=False))
    assert kept(rule, values, shape) == list(range(5))
    assert kept(rule, pure, shape) == []


def _unit(generator, size):
    vector = generator.normal(size=size)
    return vector / np.linalg.norm(vector)


@given(st.integers(0, 10))
def test_numbers(k):
    assert as_keep(k) == as_keep(np.int64(k)) == tlt.Rank(k)
    assert as_keep(k / 10) == as_keep(np.float64(k / 10)) == tlt.Fraction(k / 10)


def test_every_rule_is_stored_by_its_name():
    for rule in (tlt.Rank(3), tlt.Components((1, 2)), tlt.MarchenkoPastur(), tlt.LaserCompat(0.1, 4)):
        assert Keep.from_json(rule.to_json()) == rule
