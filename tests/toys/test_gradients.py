"""First gradients against autograd, finite differences, and what can be counted in the tokens."""

import numpy as np
import pytest
import torch

from tl_truncate.toys import BigramTable, RecallData, gradient_noise, one_step_margins
from tl_truncate.toys.gradients import (
    coefficients,
    directions,
    empirical,
    measured_step,
    population,
    predicted_step,
    sequence_gradients,
    sequence_loss,
)

ENGLISH = RecallData(BigramTable.english(), length=64)
SMALL = RecallData(BigramTable.synthetic(7, seed=1), length=20, noise_token=3)


@pytest.mark.parametrize("data", [ENGLISH, SMALL], ids=["english", "synthetic"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_one_step_is_the_closed_form(data, alpha):
    data = (
        data.clean()
        if alpha == 0
        else RecallData(data.table, data.length, 1, alpha, "fixed", data.noise_token)
    )
    batch = data.sample(40, seed=2)
    size, trigger = len(data.table), data.fixed_triggers[0]
    found = measured_step(data, batch, learning_rate=0.7)
    expected = predicted_step(
        empirical(batch, size), trigger=trigger, noise_token=data.noise_token, learning_rate=0.7
    )
    assert torch.allclose(found.update, expected.update, atol=1e-9, rtol=0)
    assert found.margin == pytest.approx(expected.margin, abs=1e-9)
    assert torch.linalg.matrix_rank(found.update) <= 1


def test_the_population_step_by_autograd():
    """Labels as probabilities: the expected gradient itself."""
    size = len(ENGLISH.table)
    chance = torch.from_numpy(population(ENGLISH))
    weights = {
        name: torch.zeros(size, size, dtype=torch.float64) for name in ("feed_forward", "attention")
    }
    weights["feed_forward"].requires_grad_()
    trigger = torch.nn.functional.one_hot(torch.tensor([ENGLISH.fixed_triggers[0]]), size).double()
    loss = sequence_loss(weights, trigger, chance[None], torch.ones(1, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss, weights["feed_forward"])
    step = predicted_step(population(ENGLISH), trigger=1, noise_token=2, learning_rate=0.3)
    assert torch.allclose(-0.3 * gradient, step.update, atol=1e-9, rtol=0)
    # alpha - 1/V up to the share of targets that are the noise token themselves.
    share = 0.5 + 0.5 / size
    assert step.update[1, 2] == pytest.approx(0.3 * (share - 1 / size), abs=1e-12)
    assert step.margin == pytest.approx(0.3 * 0.5, abs=1e-12)


def test_sequence_gradients_by_finite_differences():
    batch = SMALL.sample(3, seed=0)
    size = len(SMALL.table)
    found = sequence_gradients(batch, size)
    generator = torch.Generator().manual_seed(0)
    for matrix in ("feed_forward", "attention"):
        direction = torch.randn(size, size, generator=generator, dtype=torch.float64)
        for row in range(3):
            inputs, labels = (
                torch.nn.functional.one_hot(torch.from_numpy(each[row].copy()), size).double()
                for each in (batch.inputs, batch.labels)
            )
            seen = torch.from_numpy(batch.recalled[row]).double()
            zero = {name: torch.zeros(size, size, dtype=torch.float64) for name in found}
            ahead, behind = (
                sequence_loss({**zero, matrix: sign * 1e-5 * direction}, inputs, labels, seen)
                for sign in (1, -1)
            )
            slope = -float(ahead - behind) / 2e-5
            assert float((found[matrix][row] * direction).sum()) == pytest.approx(slope, abs=1e-9)


def test_coefficients_can_be_counted_in_the_tokens():
    batch = ENGLISH.sample(20, seed=5)
    size, noise, trigger = 63, ENGLISH.noise_token, ENGLISH.fixed_triggers[0]
    found = coefficients(ENGLISH, batch)
    for row in range(20):
        tokens, labels = batch.inputs[row], batch.labels[row]
        feed_forward, copying, through_attention = [], [], []
        for position in np.flatnonzero(batch.recalled[row]):
            context = tokens[: position + 1]
            surprise = float(labels[position] == noise) - 1 / size
            feed_forward.append(surprise)
            through_attention.append(surprise * (context == trigger).mean())
            copying.append(((context == labels[position]).mean() - 1 / size) / np.sqrt(size))
        for key, values in {
            ("feed_forward", "noise"): feed_forward,
            ("attention", "copying"): copying,
            ("attention", "noise"): through_attention,
        }.items():
            assert found[key][row] == pytest.approx(np.mean(values) if values else 0.0, abs=1e-12)


def test_directions_have_norm_one():
    for direction in directions(9, trigger=1, noise_token=2).values():
        assert float(direction.norm()) == pytest.approx(1.0)


@pytest.mark.parametrize("length", [64, 128])
def test_the_feed_forward_noise_stands_out_at_every_batch_size(length):
    table = gradient_noise(ENGLISH, lengths=[length], n=1024, seed=0)
    snr = table.pivot(index="batch_size", columns=["matrix", "direction"], values="snr")
    assert snr.index.tolist() == [1, 4, 16, 64]
    assert (snr["feed_forward", "noise"] > snr["attention", "copying"]).all()
    single = table[table["batch_size"] == 1].set_index(["matrix", "direction"])
    gap = single.loc[("feed_forward", "noise")] - single.loc[("attention", "copying")]
    error = np.hypot(*single["snr_se"].iloc[:2])
    assert gap["snr"] > 5 * error
    # Independent sequences: the noise of a batch falls with the root of its size.
    for (_, _), part in table.groupby(["matrix", "direction"]):
        scaled = part["snr"] / np.sqrt(part["batch_size"])
        assert (abs(scaled / scaled.iloc[0] - 1) < 4 * part["snr_se"] / part["snr"]).all()


def test_margins_are_predicted():
    table = one_step_margins(ENGLISH, alphas=(0.2, 0.5, 0.8), n=200)
    assert table["measured"].to_numpy() == pytest.approx(table["predicted_batch"].to_numpy(), abs=1e-9)
    assert table["predicted"].tolist() == pytest.approx([0.2, 0.5, 0.8])
    assert table["measured"].to_numpy() == pytest.approx(table["predicted"].to_numpy(), abs=0.04)


def test_errors():
    with pytest.raises(
        ValueError, match="n must be at least 16 times the largest batch size 64, got 512"
    ):
        gradient_noise(ENGLISH, n=512)
    random = RecallData(ENGLISH.table, 32, triggers="random")
    with pytest.raises(ValueError, match="one fixed trigger, got 1 random ones"):
        gradient_noise(random)
    with pytest.raises(ValueError, match="one fixed trigger"):
        population(random)
