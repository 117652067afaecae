"""The memory's closed form against flow, descent, autograd and the ratios on paper."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from luck import examples

import tl_truncate as tlt
from tl_truncate.toys import AssociativeMemory, memory_phases

CASES = [(2, 0.5), (3, 0.5), (5, 0.3), (8, 0.7), (16, 0.05), (64, 0.5)]


@pytest.mark.parametrize(("n", "alpha"), CASES)
@pytest.mark.parametrize("time", [0.0, 0.1, 3.0, 100.0, 3000.0])
def test_closed_form_is_the_flow(n, alpha, time):
    memory = AssociativeMemory(n, alpha)
    assert memory.logits(time) == pytest.approx(memory.gradient_flow(time), abs=1e-6)
    a, q = memory.coefficients(time)
    values = np.linalg.svd(memory.gradient_flow(time))[1]
    expected = sorted([a] * (n - 1) + [abs(q) * math.sqrt(n + 1)], reverse=True)
    assert values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("n", "alpha"), CASES)
def test_closed_form_is_descent_in_small_steps(n, alpha):
    memory = AssociativeMemory(n, alpha)
    assert memory.gradient_descent(5000, 0.004) == pytest.approx(memory.logits(20.0), abs=1e-3)


@pytest.mark.parametrize("kind", ["orthonormal", "gaussian"])
def test_descent_is_what_autograd_does_to_w(kind):
    """Gradient descent on W itself, with embeddings, against the reduced form."""
    memory = AssociativeMemory(4, 0.4, d=12, embeddings=kind, samples=50, seed=3)
    inputs, outputs = map(torch.from_numpy, memory.vectors)
    joint = torch.from_numpy(memory.joint)
    weight = torch.zeros(12, 12, dtype=torch.float64, requires_grad=True)
    for _ in range(40):
        logits = outputs.T @ weight @ inputs
        loss = -(joint * logits.log_softmax(0)).sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        weight = (weight - 0.5 * gradient).detach().requires_grad_()
    assert memory.gradient_descent(40, 0.5) == pytest.approx(
        logits_of(weight, inputs, outputs), abs=1e-10
    )


def logits_of(weight, inputs, outputs):
    return (outputs.T @ weight @ inputs).detach().numpy()


@pytest.mark.parametrize("kind", ["orthonormal", "gaussian"])
def test_weight_and_components_are_those_of_w(kind):
    memory = AssociativeMemory(5, 0.5, d=9, embeddings=kind, seed=1)
    inputs, outputs = memory.vectors
    weight = memory.weight(30.0)
    assert outputs.T @ weight @ inputs == pytest.approx(memory.logits(30.0), abs=1e-8)
    left, values, right = np.linalg.svd(weight)
    assert memory.spectrum(30.0).values == pytest.approx(values[:5], abs=1e-8)
    top = values[0] * np.outer(left[:, 0], right[0])
    assert memory.truncated_logits(30.0, 1) == pytest.approx(outputs.T @ top @ inputs, abs=1e-8)


def test_ratios_on_paper():
    for n, alpha in [(2, 0.5), (64, 0.5), (64, 0.2), (10, 0.8)]:
        association, noise = AssociativeMemory(n, alpha).singular_values(1e-9)
        expected = (alpha - 1 / (n + 1)) * math.sqrt(n + 1) / (1 - alpha)
        assert noise / association == pytest.approx(expected, abs=1e-6)
    for n in (2, 3, 7, 64):
        memory = AssociativeMemory(n, 0.5)
        for time in (1e-6, 1.0, 50.0, 1e4, 1e7):
            association, noise = memory.singular_values(time)
            assert noise / association == pytest.approx((n - 1) / math.sqrt(n + 1), abs=1e-9)
    assert [round((n - 1) / math.sqrt(n + 1), 2) for n in (2, 3, 64)] == [0.58, 1.0, 7.81]


@pytest.mark.parametrize("alpha", [0.2, 0.7])
def test_late_the_noise_follows_the_associations(alpha):
    n = 6
    memory = AssociativeMemory(n, alpha)
    a, q = memory.coefficients(1e6)
    assert q == pytest.approx((a * (n - 1) + n * math.log(alpha / (1 - alpha))) / (n + 1), abs=1e-3)


def test_small_memories_are_denoised_by_keeping_the_top():
    memory = AssociativeMemory(n=2, alpha=0.5)
    assert memory.predict(1e5)[0] == pytest.approx(0.5, abs=1e-3)
    assert memory.predict(1e5, keep=1)[0] > 0.98
    assert memory.predict(1e5, keep=tlt.DropTop(1))[1] > 0.98
    assert memory.spectrum(1e5).labels == ("association", "noise")


def test_large_memories_are_denoised_by_dropping_the_top():
    memory = AssociativeMemory(n=64, alpha=0.5)
    assert memory.predict(1e5, keep=tlt.DropTop(1))[0] > 0.98
    assert memory.predict(1e5, keep=1)[1] > 0.98
    spectrum = memory.spectrum(1e5)
    assert spectrum.labels == ("noise", *["association"] * 63)
    assert spectrum.noise_share[0] == pytest.approx(1.0, abs=1e-9)
    assert spectrum.noise_share[1:] == pytest.approx(0.0, abs=1e-9)


def test_samples_and_gaussian_embeddings_do_the_same_less_cleanly():
    sampled = AssociativeMemory(16, 0.5, samples=2000, seed=0)
    assert sampled.joint.sum() == pytest.approx(1.0)
    assert sampled.spectrum(300.0).labels[0] == "noise"
    gaussian = AssociativeMemory(16, 0.5, d=64, embeddings="gaussian", seed=0)
    for memory in (sampled, gaussian):
        full, dropped = memory.predict(1000.0), memory.predict(1000.0, tlt.DropTop(1))
        assert dropped[0] > full[0] + 0.3
        assert dropped[1] < 0.1
    association, noise = gaussian.singular_values(1000.0)
    assert noise > association > 0


@settings(max_examples=examples(25))
@given(
    n=st.integers(2, 20),
    alpha=st.floats(0.05, 0.95),
    time=st.floats(0.01, 1e4),
    kept=st.integers(0, 20),
)
def test_predictions_are_probabilities_and_everything_kept_is_no_cut(n, alpha, time, kept):
    memory = AssociativeMemory(n, alpha)
    for keep in (None, n, tlt.Energy(1.0), min(kept, n)):
        correct, noise = memory.predict(time, keep)
        assert 0 <= correct <= 1
        assert 0 <= noise <= 1
        assert correct + noise <= 1 + 1e-12
    assert memory.predict(time, n) == pytest.approx(memory.predict(time), abs=1e-9)
    assert memory.truncated_logits(time, 0) == pytest.approx(0.0)


def test_phases_tell_which_end_holds_the_noise():
    table = memory_phases(ns=(2, 8, 32), alphas=(0.2, 0.5), times=(1.0, 1e5))
    late = table[table["time"] == 1e5]
    top = late["ratio"] > 1
    assert top.tolist() == [False, False, True, True, True, True]
    assert (late.loc[top, "drop_top"] > late.loc[top, "drop_bottom"]).all()
    assert (late.loc[~top, "drop_bottom"] > late.loc[~top, "drop_top"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(n=1, alpha=0.5), "n must be an integer from 2 up, got 1"),
        (dict(n=4, alpha=2.0), "alpha must be a probability"),
        (dict(n=4, alpha=0.5, d=4), "d must be at least n \\+ 1 = 5 for orthonormal"),
        (dict(n=4, alpha=0.5, embeddings="random"), "embeddings must be 'orthonormal' or 'gaussian'"),
        (dict(n=4, alpha=0.5, samples=0), "samples must be an integer from 1 up"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AssociativeMemory(**arguments)


def test_bad_times():
    with pytest.raises(ValueError, match="time must be a number from 0 up, got -1"):
        AssociativeMemory(3, 0.5).logits(-1)
    with pytest.raises(ValueError, match="a and q must have orthonormal embeddings"):
        AssociativeMemory(3, 0.5, embeddings="gaussian").coefficients(1.0)
