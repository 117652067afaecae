"""The generator's statistics against its table, its bookkeeping against a loop."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tl_truncate.toys import BigramTable, RecallData
from tl_truncate.toys.recall.bayes import trigger_sets
from tl_truncate.toys.recall.bigrams import AliasSampler

ENGLISH = BigramTable.english()


def goodness(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """The p-value of counts, cells with small expectations pooled."""
    expected = counts.sum() * probabilities
    assert counts[probabilities == 0].sum() == 0
    large = expected >= 5
    seen = np.append(counts[large], counts[~large].sum())
    wanted = np.append(expected[large], expected[~large].sum())
    if wanted[-1] < 5:
        seen, wanted = seen[:-1], wanted[:-1]
        wanted = wanted * seen.sum() / wanted.sum()
    return stats.chisquare(seen, wanted).pvalue if len(seen) > 1 else 1.0


@pytest.mark.parametrize(
    "table", [ENGLISH, BigramTable.synthetic(20, seed=3)], ids=["english", "synthetic"]
)
def test_bigrams_follow_the_table(table):
    data = RecallData(table, length=64, n_triggers=2, noise_token=table.most_frequent(len(table))[-1])
    batch = data.sample(20_000, seed=0)
    trigger = (batch.inputs[:, :, None] == batch.triggers[:, None, :]).any(-1)
    counts = np.zeros((len(table), len(table)))
    np.add.at(counts, (batch.inputs[~trigger], batch.labels[~trigger]), 1)
    values = [
        goodness(row, table.conditional[token]) for token, row in enumerate(counts) if row.sum() > 50
    ]
    assert len(values) >= 15
    # All rows together: their p-values are uniform, and the smallest is no outlier among so many.
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert min(values) > 1e-3 / len(values)
    assert goodness(np.bincount(batch.tokens[:, 0], minlength=len(table)), table.marginal) > 1e-3


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 1.0])
def test_after_a_trigger_comes_noise_with_probability_alpha(alpha):
    data = RecallData(ENGLISH, length=64, alpha=alpha)
    batch = data.sample(4000, seed=1)
    after = batch.labels[batch.occurrence >= 1]
    target = np.broadcast_to(batch.targets, batch.labels.shape)[batch.occurrence >= 1]
    assert set(after[after != target]) <= {data.noise_token}
    noise = int((after == data.noise_token)[target != data.noise_token].sum())
    total = int((target != data.noise_token).sum())
    assert stats.binomtest(noise, total, alpha).pvalue > 1e-3
    assert goodness(np.bincount(batch.targets.ravel(), minlength=63), np.full(63, 1 / 63)) > 1e-3


def test_random_triggers_are_drawn_without_replacement():
    data = RecallData(BigramTable.synthetic(5, seed=1), length=2, n_triggers=2, triggers="random")
    batch = data.sample(20_000, seed=0)
    sets, prior = trigger_sets(data)
    assert prior.sum() == pytest.approx(1.0, abs=1e-12)
    seen = Counter(map(tuple, np.sort(batch.triggers, axis=1).tolist()))
    counts = np.array([seen[tuple(np.flatnonzero(row))] for row in sets])
    assert goodness(counts, prior) > 1e-3


@given(
    size=st.integers(3, 12),
    length=st.integers(1, 30),
    triggers=st.integers(1, 2),
    kind=st.sampled_from(["fixed", "random"]),
    seed=st.integers(0, 1000),
)
def test_occurrences_are_counted(size, length, triggers, kind, seed):
    table = BigramTable.synthetic(size, seed=seed)
    noise = table.most_frequent(size)[-1]
    data = RecallData(table, length=length, n_triggers=triggers, triggers=kind, noise_token=noise)
    batch = data.sample(3, seed=seed)
    assert batch.inputs.shape == batch.labels.shape == batch.occurrence.shape == (3, length)
    assert batch.triggers.shape == batch.targets.shape == (3, triggers)
    for tokens, chosen, found, recalled in zip(
        batch.inputs, batch.triggers, batch.occurrence, batch.recalled, strict=True
    ):
        seen: Counter[int] = Counter()
        for position, token in enumerate(tokens):
            seen[token] += 1
            expected = seen[token] if token in chosen else 0
            assert found[position] == expected
            assert recalled[position] == (expected >= 2)


@given(size=st.integers(1, 30), seed=st.integers(0, 10_000), sharp=st.sampled_from([0.01, 0.3, 5.0]))
def test_alias_tables_are_exact(size, seed, sharp):
    rows = np.random.default_rng(seed).dirichlet(np.full(size, sharp), 3)
    sampler = AliasSampler.of(rows)
    implied = sampler.threshold / size
    for row in range(3):
        np.add.at(implied[row], sampler.alias[row], (1 - sampler.threshold[row]) / size)
    assert np.abs(implied - rows).max() < 1e-12


def test_the_seed_decides_and_nothing_else():
    data = RecallData(ENGLISH, length=32)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again, other = (data.sample(8, seed=seed) for seed in (3, 3, 4))
    assert (first.tokens == again.tokens).all()
    assert (first.targets == again.targets).all()
    assert (first.tokens != other.tokens).any()
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])


def test_tables():
    text = "the cat and the hat."
    table = BigramTable.from_text(text)
    assert table.tokens == tuple(sorted(set(text)))
    place = {token: index for index, token in enumerate(table.tokens)}
    pairs = Counter(itertools.pairwise(text))
    before = Counter(text[:-1])
    for (one, other), count in pairs.items():
        assert table.conditional[place[one], place[other]] == pytest.approx(count / before[one])
    # Nothing follows the full stop, so anything may.
    assert table.conditional[place["."]] == pytest.approx(1 / len(table))
    assert table.marginal[place["t"]] == pytest.approx(before["t"] / (len(text) - 1))
    synthetic = BigramTable.synthetic(12, seed=2)
    assert synthetic.marginal @ synthetic.conditional == pytest.approx(synthetic.marginal, abs=1e-12)
    assert ENGLISH.tokens[ENGLISH.most_frequent(1)[0]] == " "
    assert ENGLISH.tokens[2] == "!"
    assert "King James" in ENGLISH.source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(length=0), "length must be an integer from 1 up, got 0"),
        (dict(alpha=1.5), "alpha must be a probability from 0 to 1, got 1.5"),
        (dict(n_triggers=63), "n_triggers must be less than the 63 tokens, got 63"),
        (dict(triggers="some"), "triggers must be 'fixed' or 'random', got 'some'"),
        (dict(noise_token=63), "noise_token must be from 0 to 62, got 63"),
        (dict(noise_token=1), "noise_token must not be a trigger, got 1"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        RecallData(ENGLISH, **changes)


def test_bad_tables():
    with pytest.raises(ValueError, match="two characters or more"):
        BigramTable.from_text("a")
    with pytest.raises(ValueError, match="counts must be 2 rows"):
        BigramTable.from_counts("ab", [[1, 2]], source="test")
    with pytest.raises(ValueError, match="must be probabilities that sum to one"):
        BigramTable(("a", "b"), np.array([0.5, 0.6]), np.full((2, 2), 0.5), "test")
