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
from tl_truncate.weights.keep.noise import Bulk, fit_bulk, marchenko_pastur_median

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


SHAPES = [(200, 400), (400, 200), (100, 125), (60, 120), (64, 256), (30, 600), (128, 128)]


def _noise(shape, seed, scale=1.0):
    values = np.linalg.svd(np.random.default_rng(seed).normal(size=shape), compute_uv=False)
    return torch.tensor(scale * values)


@pytest.mark.parametrize("shape", SHAPES)
def test_of_noise_about_nothing_is_outside_the_bulk(shape):
    """On average fewer than .7 values of a matrix, never more than 3, over 40 of them."""
    counts, sigmas = [], []
    for seed in range(40):
        values = _noise(shape, seed, scale=0.02)
        counts.append(len(kept(tlt.OutsideBulk(), values, shape)))
        sigmas.append(fit_bulk(values, shape).sigma / 0.02)
    assert np.mean(counts) < 0.7
    assert max(counts) <= 3
    assert np.mean(sigmas) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("large", "small"), [(5, 0), (0, 5), (5, 5), (40, 0), (0, 40), (30, 20)])
@pytest.mark.parametrize("shape", [(200, 400), (400, 200), (100, 400)])
def test_planted_directions_are_found_at_either_end(shape, large, small):
    """A fifth of the spectrum, and two fifths, on one side or on both: all of them, and hardly a value of
    the noise.
    """
    for seed in range(10):
        random, values = np.random.default_rng(seed), _noise(shape, seed)
        order = random.permutation(len(values))
        bulk = Bulk(1.0, shape)
        values[order[:large]] = bulk.upper * torch.tensor(1.5 + random.random(large))
        values[order[large : large + small]] = bulk.lower * torch.tensor(
            0.3 + 0.4 * random.random(small)
        )
        values = values.sort(descending=True).values
        planted = [*range(large), *range(len(values) - small, len(values))]
        found = kept(tlt.OutsideBulk(), values, shape)
        assert set(planted) <= set(found)
        assert len(found) - len(planted) <= 5
        assert fit_bulk(values, shape).sigma == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("shape", [(200, 800), (800, 200)])
def test_directions_planted_in_a_matrix(shape):
    """Five added outer products, and five directions nearly taken away, of a real matrix of noise."""
    random = np.random.default_rng(1)
    matrix = random.normal(size=shape)
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    chosen = random.choice(len(s), 5, replace=False)
    matrix = matrix - 0.9 * (u[:, chosen] * s[chosen]) @ vh[chosen]
    for _ in range(5):
        left, right = (_unit(random, size) for size in shape)
        matrix = matrix + 4 * math.sqrt(max(shape)) * np.outer(left, right)
    values = torch.tensor(np.linalg.svd(matrix, compute_uv=False))
    assert kept(tlt.OutsideBulk(), values, shape) == [*range(5), *range(195, 200)]
    assert kept(tlt.MarchenkoPastur(), values, shape) == list(range(5))


def test_a_square_matrix_has_no_lower_edge():
    values = _noise((100, 100), 0)
    values[-1] = 1e-4 * values[0]
    assert fit_bulk(values, (100, 100)).lower == 0
    assert kept(tlt.OutsideBulk(), values, (100, 100)) == kept(tlt.MarchenkoPastur(), values, (100, 100))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_value_of_zero_is_no_small_direction(dtype):
    """Such as the mean over outputs of a centred matrix: computed as rounding, and nothing to keep."""
    matrix = np.random.default_rng(0).normal(size=(100, 400))
    matrix = (matrix - matrix.mean(axis=0, keepdims=True)).astype(str(dtype).removeprefix("torch."))
    values = torch.tensor(np.linalg.svd(matrix, compute_uv=False))
    assert 0 < float(values[-1]) < 1e-3
    assert kept(tlt.OutsideBulk(), values, (100, 400)) == []
    zeros = torch.zeros(100, dtype=dtype)
    assert kept(tlt.OutsideBulk(), zeros, (100, 400)) == []


@pytest.mark.parametrize("shape", [(100, 400), (300, 400), (200, 200)])
def test_the_density_of_the_bulk(shape):
    """It integrates to one, and its median is that of the law and of noise."""
    bulk = Bulk(0.7, shape)
    s = torch.linspace(bulk.lower, bulk.upper, 200_001, dtype=torch.float64)[1:]
    mass = (bulk.density(s) * float(s[1] - s[0])).cumsum(0)
    assert float(mass[-1]) == pytest.approx(1, abs=1e-4)
    median = float(s[int((mass < 0.5).sum())])
    law = 0.7 * math.sqrt(max(shape) * marchenko_pastur_median(min(shape) / max(shape)))
    assert median == pytest.approx(law, rel=1e-3)
    assert median == pytest.approx(float(_noise(shape, 0, 0.7).quantile(0.5)), rel=0.05)
    outside = torch.tensor([0.5 * bulk.lower, 1.5 * bulk.upper])
    assert bulk.density(outside).tolist() == [0, 0]


@given(spectra)
def test_outside_the_bulk_is_a_set_of_any_spectrum(values):
    found = kept(tlt.OutsideBulk(), values)
    assert found == sorted(set(found))
    scaled = kept(tlt.OutsideBulk(), values * 4)
    assert scaled == found, "the units of the weight mean nothing"


@pytest.mark.parametrize("rule", [tlt.MarchenkoPastur(), tlt.OptimalThreshold(), tlt.OutsideBulk()])
def test_a_product_of_lower_rank_is_no_matrix_of_noise(rule):
    with pytest.raises(ValueError, match=r"a product of smaller.*this one is 32 x 32 with 8"):
        rule.indices(torch.ones(8), (32, 32))


def _unit(generator, size):
    vector = generator.normal(size=size)
    return vector / np.linalg.norm(vector)


@given(st.integers(0, 10))
def test_numbers(k):
    assert as_keep(k) == as_keep(np.int64(k)) == tlt.Rank(k)
    assert as_keep(k / 10) == as_keep(np.float64(k / 10)) == tlt.Fraction(k / 10)


def test_every_rule_is_stored_by_its_name():
    rules = (tlt.Rank(3), tlt.Components((1, 2)), tlt.MarchenkoPastur(), tlt.LaserCompat(0.1, 4))
    for rule in (*rules, tlt.OutsideBulk()):
        assert Keep.from_json(rule.to_json()) == rule
