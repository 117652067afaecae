"""The posterior predictions against a sum over everything that could have been drawn."""

import itertools

import numpy as np
import pytest

from tl_truncate.toys import BigramTable, RecallData, bayes_predictions, bigram_predictions


def chance_of_next(data: RecallData, triggers, targets, token: int) -> np.ndarray:
    """What follows a token when triggers and targets are known."""
    if token not in triggers:
        return data.table.conditional[token]
    found = np.zeros(len(data.table))
    found[data.noise_token] = data.alpha
    found[targets[triggers.index(token)]] += 1 - data.alpha
    return found


def brute_force(data: RecallData, tokens) -> np.ndarray:
    """The prediction after the last token: all ordered triggers and targets, weighted by the sequence."""
    size, count = len(data.table), data.n_triggers
    total, found = 0.0, np.zeros(size)
    drawn = itertools.permutations(range(size), count)
    for triggers in [tuple(data.fixed_triggers)] if data.triggers == "fixed" else drawn:
        prior, left = 1.0, 1.0
        if data.triggers == "random":
            for token in triggers:
                prior *= data.table.marginal[token] / left
                left -= data.table.marginal[token]
        for targets in itertools.product(range(size), repeat=count):
            weight = prior
            for one, other in itertools.pairwise(tokens):
                weight *= chance_of_next(data, triggers, targets, one)[other]
            total += weight
            found += weight * chance_of_next(data, triggers, targets, tokens[-1])
    return found / total


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
@pytest.mark.parametrize(("kind", "count"), [("fixed", 1), ("fixed", 2), ("random", 1), ("random", 2)])
def test_against_brute_force(alpha, kind, count):
    table = BigramTable.synthetic(4, seed=5, concentration=0.6)
    noise = table.most_frequent(4)[-1]
    data = RecallData(table, length=9, n_triggers=count, triggers=kind, alpha=alpha, noise_token=noise)
    batch = data.sample(4, seed=1)
    found = bayes_predictions(data, batch.inputs)
    for row, tokens in enumerate(batch.inputs.tolist()):
        for position in range(len(tokens)):
            expected = brute_force(data, tokens[: position + 1])
            assert found[row, position] == pytest.approx(expected, abs=1e-9)
    first = bigram_predictions(data, batch.inputs)[:, 0]
    assert first == pytest.approx(found[:, 0], abs=1e-12)


def test_nothing_predicts_better():
    data = RecallData(BigramTable.english(), length=64)
    batch = data.sample(400, seed=0)
    seen = batch.recalled
    losses = {}
    for name, predict in (("bayes", bayes_predictions), ("bigram", bigram_predictions)):
        chance = np.take_along_axis(predict(data, batch.inputs), batch.labels[..., None], -1)[..., 0]
        losses[name] = -np.log(chance[seen]).mean()
    # Of the sequences' entropy after a recalled trigger, ln 2 is the coin's.
    assert losses["bayes"] < losses["bigram"] - 1
    assert np.log(2) < losses["bayes"] < np.log(2) + 0.6
    chance = bayes_predictions(data, batch.inputs)[seen]
    assert (
        abs(chance[:, data.noise_token].mean() - (batch.labels[seen] == data.noise_token).mean()) < 0.02
    )


def test_a_target_once_seen_is_known():
    data = RecallData(BigramTable.english(), length=6)
    space, noise, target = 1, 2, 40
    tokens = np.array([[space, noise, space, target, space, noise]])
    found = bayes_predictions(data, tokens)[0]
    # One noise token seen: either that was the target (1) or noise (alpha for each other token).
    as_target = 1 / (1 + 62 * 0.5)
    assert found[2, noise] == pytest.approx(0.5 + 0.5 * as_target)
    assert found[4, noise] == pytest.approx(0.5)
    assert found[4, target] == pytest.approx(0.5)
    assert found[5] == pytest.approx(data.table.conditional[noise])


def test_too_many_sets_are_refused():
    data = RecallData(BigramTable.english(), length=4, n_triggers=4, triggers="random")
    with pytest.raises(ValueError, match="at most 10000, got 595665 for 4 of 63"):
        bayes_predictions(data, data.sample(1, seed=0).inputs)
