"""Intervals: what they cover, what they are for few prompts, and verdicts among many."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tl_truncate.statistics import (
    Estimate,
    clear,
    estimate_against_draws,
    estimate_apart,
    estimate_mean,
    estimate_over_draws,
    estimate_over_splits,
    estimate_ratio,
    estimate_share,
    estimate_share_change,
    estimate_shares_apart,
    mean_columns,
    q_values,
    share_change_columns,
    share_columns,
    shown,
)

SIZES = (5, 10, 25, 50)
TRIALS = 4000


def covered(found, truth: float) -> float:
    return float(np.mean((found.low <= truth) & (truth <= found.high)))


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=50))
def test_mean_and_order(values):
    found = estimate_mean(values)
    assert float(found) == pytest.approx(np.mean(values), abs=1e-9)
    assert found.n == len(values)
    if len(values) > 1:
        assert found.se == pytest.approx(stats.sem(values), abs=1e-9)
    if len(values) < 5:
        assert np.isnan([found.low, found.high, found.p]).all()
        assert not found.excludes_zero
    else:
        assert found.low <= found + 1e-12
        assert found <= found.high + 1e-12
        assert (found.p < 0.05) == found.excludes_zero
    turned = estimate_mean([-value for value in values])
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-9, nan_ok=True)


class TestCoverage:
    """By simulation: .93 or more of what is meant to be covered."""

    @pytest.mark.parametrize("n", SIZES)
    @pytest.mark.parametrize("name", ["normal", "lognormal", "lognormal, turned round", "exponential"])
    def test_a_mean(self, name, n):
        random = np.random.default_rng(n)
        draw = {
            "normal": lambda: (random.normal(size=(n, TRIALS)), 0.0),
            "lognormal": lambda: (random.lognormal(size=(n, TRIALS)), np.exp(0.5)),
            "lognormal, turned round": lambda: (-random.lognormal(size=(n, TRIALS)), -np.exp(0.5)),
            "exponential": lambda: (random.exponential(size=(n, TRIALS)), 1.0),
        }
        assert covered(mean_columns(draw[name]()[0]), draw[name]()[1]) >= 0.93

    @pytest.mark.parametrize("n", SIZES)
    def test_a_share(self, n):
        """On average over shares; at a single one Wilson's varies around its level, as every exact set of
        so few possible answers must.
        """
        random = np.random.default_rng(n)
        shares = random.uniform(0.02, 0.98, TRIALS)
        found = share_columns(random.random((n, TRIALS)) < shares)
        assert np.mean((found.low <= shares) & (shares <= found.high)) >= 0.93
        for share in (0.5, 0.96):
            hits = random.random((n, TRIALS)) < share
            assert covered(share_columns(hits), share) >= 0.91

    @pytest.mark.parametrize("n", SIZES)
    @pytest.mark.parametrize("gained", [0.02, 0.2, 0.4])
    @pytest.mark.parametrize("lost", [0.0, 0.02, 0.2])
    def test_a_paired_share(self, n, gained, lost):
        random = np.random.default_rng(n)
        chances = [gained, lost, 1 - gained - lost]
        changes = random.choice([1, -1, 0], size=(n, TRIALS), p=chances)
        assert covered(share_change_columns(changes), gained - lost) >= 0.93

    @pytest.mark.parametrize("n", SIZES)
    def test_verdicts_by_chance(self, n):
        """Without an effect one in twenty has one at most, for means and for paired shares."""
        random = np.random.default_rng(n)
        means = mean_columns(random.normal(size=(n, TRIALS)))
        assert np.mean(means.p < 0.05) <= 0.06
        changes = random.choice([1, -1, 0], size=(n, TRIALS), p=[0.2, 0.2, 0.6])
        assert np.mean(share_change_columns(changes).p < 0.05) <= 0.06

    def test_draws_and_prompts(self):
        """A cut that is one more draw of its control beats it in one of forty trials at most."""
        random = np.random.default_rng(0)
        wins, inside = 0, 0
        for _ in range(1000):
            prompts, draws = random.normal(size=30), random.normal(size=(17, 1)) / 2
            values = prompts + draws + random.normal(size=(17, 30)) / 2
            wins += estimate_against_draws(values[0], values[1:]).low > 0
            found = estimate_over_draws(values)
            inside += found.low <= 0 <= found.high
        assert wins / 1000 <= 0.025
        assert inside / 1000 >= 0.93


class TestShares:
    """Wilson's interval and Tango's."""

    @pytest.mark.parametrize("n", [5, 10, 37])
    def test_whole_hits_are_scipys(self, n):
        for k in range(n + 1):
            found = estimate_share([1] * k + [0] * (n - k))
            theirs = stats.binomtest(k, n).proportion_ci(method="wilson")
            assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)

    def test_all_correct_is_not_certain(self):
        assert estimate_share([1.0] * 20).low == pytest.approx(0.839, abs=1e-3)
        assert estimate_share([0.0] * 20).high == pytest.approx(0.161, abs=1e-3)
        found = estimate_share_change([0.0] * 20)
        assert found.low < 0 < found.high
        assert found.p == 1.0

    def test_fractions_lie_between(self):
        """A tie of two is worth one half."""
        few, half, many = (estimate_share([1, 1, 1, each, 0, 0]) for each in (0, 0.5, 1))
        assert few < half < many
        assert few.low < half.low < many.low
        assert few.high < half.high < many.high
        changes = [estimate_share_change([1, 1, 1, each, 0, 0]) for each in (0, 0.5, 1)]
        assert changes[0].low < changes[1].low < changes[2].low

    @pytest.mark.parametrize(("gained", "lost"), [(4, 0), (6, 1), (10, 0), (3, 7), (0, 5)])
    def test_the_ends_are_where_the_score_is(self, gained, lost):
        """Tango's equation, with the constrained estimate found by brute force."""
        n = 12
        found = estimate_share_change([1] * gained + [-1] * lost + [0] * (n - gained - lost))
        for end in (found.low, found.high):
            if abs(end) > 1 - 1e-9:
                continue
            grid = np.linspace(max(0, -end), (1 - end) / 2, 200_001)[1:-1]
            likely = np.zeros_like(grid)
            for count, share in (
                (gained, grid + end),
                (lost, grid),
                (n - gained - lost, 1 - 2 * grid - end),
            ):
                likely += count * np.log(np.maximum(share, 1e-300))
            q = grid[likely.argmax()]
            score = (gained - lost - n * end) / np.sqrt(n * (2 * q + end * (1 - end)))
            assert abs(score) == pytest.approx(1.96, abs=2e-3)

    def test_the_verdict_is_mcnemars(self):
        found = estimate_share_change([1] * 9 + [-1] * 2 + [0] * 30)
        assert found.p == pytest.approx(stats.chi2.sf((9 - 2) ** 2 / 11, 1))
        assert found.excludes_zero == (found.p < 0.05)

    def test_what_is_no_share_is_refused(self):
        with pytest.raises(ValueError, match="must count from 0 to 1"):
            estimate_share([0, 2])
        with pytest.raises(ValueError, match="must count from -1 to 1"):
            estimate_share_change([0, -2])


def test_ratios_are_of_whole_units():
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        weights = random.integers(20, 200, 12)
        sums = weights * (2 + random.normal(size=12))
        found = estimate_ratio(sums, weights)
        assert float(found) == pytest.approx(sums.sum() / weights.sum())
        inside += found.low <= 2 <= found.high
    assert inside / 1000 >= 0.93


@pytest.mark.parametrize("size", [1e-140, 1e-110, 1e-5, 1e110, 1e140])
def test_an_interval_goes_with_the_values(size):
    values = np.array([1.0, 2.0, 3.0, 2.0, 9.0, 2.0])
    one, other = estimate_mean(values), estimate_mean(values * size)
    assert other.p == pytest.approx(one.p, rel=1e-9)
    wanted = [float(one) * size, one.low * size, one.high * size]
    assert [float(other), other.low, other.high] == pytest.approx(wanted, rel=1e-9)


def test_a_mean_that_is_not_finite_is_not_called_few():
    assert "n < 5" not in str(estimate_mean([1.0, 2.0, np.inf, 3.0, 4.0]))
    assert str(estimate_mean([1.0, np.nan, 2.0, 3.0, 4.0])) == "nan"


def test_bounds_are_kept():
    found = estimate_mean([0.99, 1.0, 0.98, 1.0, 0.7], within=(0.0, 1.0))
    assert found.high == 1.0
    assert found.low < 0.9


def test_one_draw_gives_no_verdict():
    assert np.isnan(estimate_against_draws([0.5] * 9, [[0.1] * 9]).p)
    assert not np.isnan(estimate_over_draws([[0.1, 0.2, 0.1, 0.4, 0.2]]).low)


def test_splits():
    found = estimate_over_splits([0.1, 0.3, 0.2, 0.2, 0.2], test_fraction=0.5)
    assert float(found) == pytest.approx(0.2)
    assert found.se == pytest.approx(np.std([0.1, 0.3, 0.2, 0.2, 0.2], ddof=1) * np.sqrt(1.2))
    assert np.isnan(estimate_over_splits([0.1, 0.2], test_fraction=0.5).low)


class TestMany:
    """Among many settings without an effect there is a clear one in one study of twenty."""

    def test_q_is_scipys_and_passes_over_what_has_no_verdict(self):
        p = np.array([0.001, 0.2, np.nan, 0.04])
        assert q_values(p)[[0, 1, 3]] == pytest.approx(stats.false_discovery_control(p[[0, 1, 3]]))
        assert np.isnan(q_values(p)[2])
        assert np.isnan(q_values([np.nan])).all()
        assert not clear(float("nan"))

    def test_nothing_is_found_where_nothing_is(self):
        random = np.random.default_rng(0)
        found = [q_values(mean_columns(random.normal(size=(30, 100))).p).min() for _ in range(400)]
        assert np.mean(np.array(found) < 0.05) <= 0.07


def test_an_estimate_is_a_number():
    value = Estimate(0.5, low=0.4, high=0.6, se=0.05, n=20, p=0.01)
    assert value * 2 == 1.0
    assert f"{value:.2f}" == "0.50"
    assert repr(value) == "Estimate(0.500 [0.400, 0.600], n=20)"
    assert value.excludes_zero
    assert not Estimate(0.1, low=-0.1, high=0.2, se=0.1, n=5).excludes_zero
    again = pickle.loads(pickle.dumps(value))
    assert (again, again.low, again.n, again.p) == (value, value.low, value.n, value.p)
    assert shown(0.5, np.nan, np.nan) == "0.500 [n < 5]"


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="at least one number"):
        estimate_mean([])


class TestApart:
    """The difference of two samples that have nothing in common."""

    def test_it_is_welchs_stretched(self):
        """Of samples without a skew the interval is Welch's, longer by the room for few values."""
        one, other = np.array([1.0, 2.0, 3.0, 2.0, 2.0]), np.array([1.0, 1.0, 2.0, 0.0, 1.0])
        found = estimate_apart(one, other)
        usual = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
        assert found == pytest.approx(1.0)
        assert (found.low - 1, found.high - 1) == pytest.approx(
            (1.8 * (usual.low - 1), 1.8 * (usual.high - 1))
        )

    def test_p_agrees_with_the_interval(self):
        random = np.random.default_rng(0)
        for shift in np.linspace(-2, 2, 41):
            found = estimate_apart(random.normal(shift, 1, 9), random.normal(0, 2, 14))
            assert (found.p < 0.05) == found.excludes_zero

    @pytest.mark.parametrize("draw", ["normal", "lognormal"])
    def test_it_covers(self, draw):
        random = np.random.default_rng(1)
        sample = getattr(random, draw)
        inside = []
        for _ in range(600):
            found = estimate_apart(sample(0, 1, 8), sample(0, 1, 15))
            inside.append(found.low <= 0 <= found.high)
        assert np.mean(inside) >= 0.93

    def test_too_few_have_none(self):
        assert str(estimate_apart([1.0] * 4, [0.0] * 9)) == "1.000 [n < 5]"
        assert str(estimate_apart([1.0], [0.0] * 9)) == "1.000 [n < 5]"
        assert estimate_apart([1.0] * 5, [1.0] * 5).p == 1.0


class TestSharesApart:
    """The difference of two independent shares."""

    @staticmethod
    def of(hits, n, others, m):
        return estimate_shares_apart(
            estimate_share([1] * hits + [0] * (n - hits)),
            estimate_share([1] * others + [0] * (m - others)),
        )

    @pytest.mark.parametrize(
        ("counts", "low", "high"),
        [
            ((56, 70, 48, 80), 0.0524, 0.3339),
            ((9, 10, 3, 10), 0.1705, 0.8090),
            ((10, 10, 0, 20), 0.6791, 1.0),
            ((10, 10, 0, 10), 0.6075, 1.0),
        ],
    )
    def test_it_is_newcombes(self, counts, low, high):
        """The examples of his table II, method 10."""
        found = self.of(*counts)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)

    def test_p_agrees_with_the_interval(self):
        for hits in range(13):
            found = self.of(hits, 12, 6, 12)
            assert (found.p < 0.05) == found.excludes_zero
            assert found.p == pytest.approx(self.of(12 - hits, 12, 6, 12).p)
        assert self.of(6, 12, 6, 12).p == 1.0

    def test_too_few_have_none(self):
        assert str(self.of(4, 4, 0, 9)) == "1.000 [n < 5]"
        assert np.isnan(self.of(4, 4, 0, 9).p)
