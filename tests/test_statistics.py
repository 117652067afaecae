"""Intervals: coverage, pairing, and what an estimate is."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tl_truncate.statistics import Estimate, bootstrap_mean


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=50), st.integers(0, 5))
def test_mean_and_order(values, seed):
    found = bootstrap_mean(values, seed=seed)
    assert float(found) == pytest.approx(np.mean(values), abs=1e-9)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found.n == len(values)
    if len(values) > 1:
        assert found.se == pytest.approx(stats.sem(values), abs=1e-9)
    assert bootstrap_mean(values, seed=seed).low == found.low


def test_agrees_with_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=80)
    ours = bootstrap_mean(values, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_coverage_is_near_its_level():
    generator = np.random.default_rng(1)
    inside = 0
    for trial in range(300):
        found = bootstrap_mean(generator.normal(size=40), seed=trial, resamples=500)
        inside += found.low <= 0 <= found.high
    assert 0.90 <= inside / 300 <= 0.98


def test_an_estimate_is_a_number():
    value = Estimate(0.5, low=0.4, high=0.6, se=0.05, n=20)
    assert value * 2 == 1.0
    assert f"{value:.2f}" == "0.50"
    assert repr(value) == "Estimate(0.500 [0.400, 0.600], n=20)"
    assert value.excludes_zero
    assert not Estimate(0.1, low=-0.1, high=0.2, se=0.1, n=5).excludes_zero
    again = pickle.loads(pickle.dumps(value))
    assert (again, again.low, again.n) == (value, value.low, value.n)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="at least one number"):
        bootstrap_mean([])
