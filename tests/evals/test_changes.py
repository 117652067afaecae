"""Paired changes of the harness' numbers: made of samples as the harness makes them, and intervals."""

import numpy as np
import pytest

import tl_truncate as tlt
from tl_truncate.evals.answered import Answered, Number, Sample
from tl_truncate.evals.changes import change, contributions, number_of, over_draws, way_of
from tl_truncate.evals.result import Benchmarks
from tl_truncate.runs.record import Record
from tl_truncate.statistics import estimate_mean, estimate_share_change

RNG = np.random.default_rng(0)
HITS = RNG.integers(0, 2, (2, 40, 1)).astype(float)
LOSSES = np.stack(
    [-RNG.gamma(3.0, 20.0, (2, 30)), np.broadcast_to(RNG.integers(5, 60, 30), (2, 30))], -1
)


def test_numbers_are_the_harness_own():
    metrics = pytest.importorskip("lm_eval.api.metrics")
    pairs = [tuple(row) for row in LOSSES[0]]
    assert number_of("mean", HITS[0]) == pytest.approx(metrics.mean(HITS[0, :, 0].tolist()), rel=1e-12)
    alone = LOSSES[0, :, :1] / 50
    assert number_of("perplexity", alone) == pytest.approx(
        metrics.perplexity(alone[:, 0].tolist()), rel=1e-12
    )
    assert number_of("weighted perplexity", LOSSES[0]) == pytest.approx(
        metrics.weighted_perplexity(pairs), rel=1e-12
    )
    assert number_of("bits", LOSSES[0]) == pytest.approx(metrics.bits_per_byte(pairs), rel=1e-12)


@pytest.mark.parametrize("way", ["mean", "perplexity", "weighted perplexity", "bits"])
def test_the_way_is_found_and_contributions_average_to_the_number(way):
    values = LOSSES if way in ("weighted perplexity", "bits") else LOSSES[:, :, :1] / 50
    numbers = [number_of(way, each) for each in values]
    assert way_of(values, numbers) == way
    assert way_of(values, [numbers[0], numbers[1] + 1e-6 * abs(numbers[1])]) is None
    for each, number in zip(values, numbers, strict=True):
        assert contributions(way, each).mean() == pytest.approx(number, rel=1e-12)
    found = change(way, *values)
    assert float(found) == pytest.approx(numbers[1] - numbers[0], abs=1e-12)
    assert found.low < float(found) < found.high


@pytest.mark.parametrize("way", ["perplexity", "weighted perplexity", "bits"])
def test_contributions_are_the_derivative_by_each_sample(way):
    """Jackknife: leaving a sample out moves the number by its contribution."""
    values = LOSSES[0] if way != "perplexity" else LOSSES[0, :, :1] / 50
    own = contributions(way, values)
    n = len(values)
    left_out = np.array([number_of(way, np.delete(values, i, 0)) for i in range(n)])
    whole = number_of(way, values)
    expected = (n - 1) * (whole - left_out)
    assert np.corrcoef(expected, own - whole)[0, 1] > 0.98
    assert (own - whole).std() == pytest.approx(expected.std(), rel=0.2)


def test_shares_have_a_shares_interval_and_means_a_means():
    one, other = HITS
    wanted = estimate_share_change((other - one)[:, 0])
    found = change("mean", one, other)
    assert (found.low, found.high, found.p) == (wanted.low, wanted.high, wanted.p)
    wanted = estimate_mean((other / 2 - one)[:, 0], within=(-1, 1))
    found = change("mean", one, other / 2)
    assert (found.low, found.high) == (wanted.low, wanted.high)


def test_pairing_is_what_makes_an_interval_short():
    base = RNG.normal(0, 10, (50, 1))
    found = change("mean", base, base + 0.1 + 0.01 * RNG.normal(size=(50, 1)))
    assert 0.09 < found.low < found.high < 0.11


def test_a_pair_that_is_no_sum_and_weight_has_no_interval():
    pairs = np.stack([HITS[0, :, 0], HITS[1, :, 0]], -1)  # gold and predicted, as f1 has them
    assert way_of([pairs, pairs[::-1]], [0.4, 0.5]) is None
    assert change(None, pairs, pairs) is None


def test_a_cut_beside_draws():
    draws = [HITS[0] * (RNG.random((40, 1)) < 0.9) for _ in range(5)]
    found = over_draws("mean", HITS[0], draws)
    assert found.low < float(found) < found.high
    assert over_draws(None, HITS[0], draws) is None


def answered(variant, hits, **other):
    samples = tuple(
        Sample("t", "none", place, (str(place),), {"acc": (float(hit),)}, "q", "a", "b")
        for place, hit in enumerate(np.ravel(hits))
    )
    number = Number("t", "none", "acc", float(np.mean(hits)), True, 0)
    return Answered("t", variant, (number,), samples, **other)


MANIFEST = dict(model="m", tasks={"t": "1"}, variants={"uncut": [], "cut": [{}]}, cuts=[{}], lm_eval="0")


class TestBenchmarks:
    def test_a_number_that_samples_do_not_make_has_no_interval(self):
        sides = [answered("uncut", HITS[0, :, 0]), answered("cut", HITS[1, :, 0])]
        row = Benchmarks(tuple(sides), MANIFEST).frame.iloc[0]
        assert row["change_low"] < row["change"] < row["change_high"]
        other = Number("t", "none", "acc", 0.123, True, 0)
        sides[1] = Answered("t", "cut", (other,), sides[1].samples)
        row = Benchmarks(tuple(sides), MANIFEST).frame.iloc[0]
        assert row["cut"] == 0.123
        assert np.isnan(row["change_low"])
        assert np.isnan(row["q"])
        assert "[no interval]" in str(Benchmarks(tuple(sides), MANIFEST))

    def test_other_samples_are_refused(self):
        with pytest.raises(
            ValueError, match="must be asked the same samples of t, got 40 for 'uncut' and 39"
        ):
            print(Benchmarks((answered("uncut", HITS[0]), answered("cut", HITS[1, 1:])), MANIFEST).frame)
        first, second = answered("uncut", [1, 0, 1]), answered("cut", [1, 0, 1])
        swapped = Answered("t", "cut", second.numbers, second.samples[::-1])
        with pytest.raises(ValueError, match="sample 0 of t is another one for 'cut' than for 'uncut'"):
            print(Benchmarks((first, swapped), MANIFEST).frame)

    def test_q_is_over_all_rows(self):
        sides = []
        for variant, hits in (("uncut", np.zeros(40)), ("cut", np.ones(40))):
            one = answered(variant, hits)
            more = [Number("t", "none", f"m{i}", float(HITS[0].mean()), None, 0) for i in range(3)]
            samples = tuple(
                Sample(
                    **{**vars(each), "values": each.values | {f"m{i}": (float(hit),) for i in range(3)}}
                )
                for each, hit in zip(one.samples, HITS[0, :, 0], strict=True)
            )
            sides.append(Answered("t", variant, (*one.numbers, *more), samples))
        q = Benchmarks(tuple(sides), MANIFEST).frame["q"]
        alone = change("mean", np.zeros((40, 1)), np.ones((40, 1))).p
        assert q[0] == pytest.approx(4 * alone)
        assert q[1] == 1

    def test_its_tables_are_the_readers_own(self):
        found = Benchmarks((answered("uncut", HITS[0]), answered("cut", HITS[1])), MANIFEST)
        mine = found.frame
        mine["cut"] = 0
        assert found.frame["cut"][0] == HITS[1].mean()
        assert found.finished
        assert not Benchmarks(found.answered, {**MANIFEST, "tasks": {"t": "1", "u": "2"}}).finished


def test_a_fall_is_more_than_that_of_its_control():
    """Of a number that falls, the verdict in words is on how far it falls."""
    from tl_truncate.report.answers.benchmarks import benchmarks_answer
    from tl_truncate.report.kinds.benchmarks import benchmarks_page

    rng = np.random.default_rng(0)
    uncut = (rng.random(200) < 0.9).astype(float)
    cut = uncut * (rng.random(200) < 0.4)
    names = ["RandomSubspace", *(f"RandomSubspace #{place}" for place in range(2, 9))]
    drawn = {name: uncut * (rng.random(200) < 0.99) for name in names}
    made = tlt.Cut("blocks.1.mlp.W_out", 0.5).to_json()
    manifest = dict(
        Record(model="m").to_json(),
        tasks={"t": "1"},
        variants={"uncut": [], "cut": [made], **{name: [made] for name in names}},
        cuts=[made],
        lm_eval="0",
    )
    every = {"uncut": uncut, "cut": cut, **drawn}
    found = Benchmarks(tuple(answered(name, hits) for name, hits in every.items()), manifest)
    (row,) = (row for _, row in found.controls.iterrows())
    assert row["change"] == pytest.approx((cut - uncut).mean())
    assert row["verdict"] == "less"
    told = benchmarks_answer(found).sentence
    assert "lowers" in told
    assert "and more than its control (random subspace)" in told
    page = " ".join(str(each.before) for each in benchmarks_page(found).sections)
    assert "the cut does more" in page
