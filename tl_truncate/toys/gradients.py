"""Why feed-forward layers learn the global association first: the noise in their first gradients.

A linear feed-forward matrix fed the current token and a linear value matrix fed the uniform average of
the context, both zero, write to the same logits:

    logits_t = x_t W_F + (1/t) sum_{s <= t} x_s W_V

in coordinates in which token and output embeddings are the unit vectors, so that the association
`u_y e_x^T` is the entry `[x, y]`. The gradient is looked at sequence by sequence along named directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tl_truncate.checks import positive
from tl_truncate.drawing import Drawn
from tl_truncate.toys.recall.data import RecallBatch, RecallData

Matrix = Literal["feed_forward", "attention"]
# Sequences whose gradients are held at once, and of those how many are computed at once.
_PART, _CHUNK = 256, 64
# Fewer batches make a standard deviation of little worth.
_LEAST_BATCHES = 16
Array = NDArray[np.float64]


def directions(
    d_vocab: int, *, trigger: int, noise_token: int
) -> dict[tuple[Matrix, str], Float[Tensor, "d_vocab d_vocab"]]:
    """The named association directions, each of norm one.

    `noise` is `u_noise e_trigger^T`; `copying` is `sum_y u_y e_y^T / sqrt(V)`.

    Args:
        d_vocab: number of tokens.
        trigger: index of the trigger.
        noise_token: index of the noise token.

    Returns:
        `[token, next]` for (feed_forward, noise), (attention, copying) and (attention, noise).
    """
    noise = torch.zeros(d_vocab, d_vocab, dtype=torch.float64)
    noise[trigger, noise_token] = 1.0
    copying = torch.eye(d_vocab, dtype=torch.float64) / d_vocab**0.5
    return {
        ("feed_forward", "noise"): noise,
        ("attention", "copying"): copying,
        ("attention", "noise"): noise,
    }


def sequence_loss(
    weights: dict[str, Tensor],
    inputs: Float[Tensor, "pos d_vocab"],
    labels: Float[Tensor, "pos d_vocab"],
    seen: Float[Tensor, " pos"],
) -> Tensor:
    """Mean cross-entropy of one sequence where a trigger has occurred before; 0 if nowhere.

    Args:
        weights: `feed_forward` and `attention`, each `[d_vocab, d_vocab]`.
        inputs: the tokens, one-hot.
        labels: the next tokens, one-hot or as probabilities.
        seen: 1 where the loss is taken.
    """
    counts = torch.arange(1, len(inputs) + 1, dtype=inputs.dtype)[:, None]
    average = inputs.cumsum(0) / counts
    logits = inputs @ weights["feed_forward"] + average @ weights["attention"]
    losses = -(labels * logits.log_softmax(-1)).sum(-1)
    return (losses * seen).sum() / seen.sum().clamp_min(1)


def sequence_gradients(
    batch: RecallBatch, d_vocab: int
) -> dict[Matrix, Float[Tensor, "sequence d_vocab d_vocab"]]:
    """Minus the gradient of each sequence's loss at zero, by `torch.func`, in float64."""
    inputs, labels = (
        torch.nn.functional.one_hot(torch.from_numpy(each.copy()), d_vocab).double()
        for each in (batch.inputs, batch.labels)
    )
    seen = torch.from_numpy(batch.recalled).double()
    zeros = {
        name: torch.zeros(d_vocab, d_vocab, dtype=torch.float64)
        for name in ("feed_forward", "attention")
    }
    each = torch.func.vmap(torch.func.grad(sequence_loss), in_dims=(None, 0, 0, 0), chunk_size=_CHUNK)
    return {name: -value for name, value in each(zeros, inputs, labels, seen).items()}


def coefficients(data: RecallData, batch: RecallBatch) -> dict[tuple[Matrix, str], Array]:
    """The gradients' coefficients along the named directions, `[sequence]` each."""
    size = len(data.table)
    gradients = sequence_gradients(batch, size)
    named = directions(size, trigger=data.fixed_triggers[0], noise_token=data.noise_token)
    return {
        key: torch.einsum("nxy,xy->n", gradients[key[0]], direction).numpy()
        for key, direction in named.items()
    }


def _sampled_coefficients(data: RecallData, n: int, seed: int) -> dict[tuple[Matrix, str], Array]:
    """The coefficients of n sequences, a part at a time so that few gradients are held at once."""
    parts = [
        coefficients(data, data.sample(min(_PART, n - start), seed=(seed, data.length, start)))
        for start in range(0, n, _PART)
    ]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def gradient_noise(
    data: RecallData,
    *,
    batch_sizes: Sequence[int] = (1, 4, 16, 64),
    lengths: Sequence[int] | None = None,
    alphas: Sequence[float] | None = None,
    n: int = 1024,
    seed: int = 0,
    resamples: int = 200,
) -> pd.DataFrame:
    """Signal-to-noise of the first gradient along each direction.

    `SNR = mean / std` over gradients of `batch_size` sequences; n sequences are divided into batches,
    and the standard error is a bootstrap over sequences.

    Args:
        data: the distribution, with fixed triggers.
        batch_sizes: each at most a sixteenth of n.
        lengths: of the sequences; by default that of the data.
        alphas: noise probabilities; by default that of the data.
        n: sequences for each length and alpha.
        seed: of the sequences.
        resamples: of the bootstrap.

    Returns:
        A row for each (length, alpha, matrix, direction, batch_size): mean, std, snr, snr_se.

    Raises:
        ValueError: if the triggers are random, or a batch size is too large for n.

    Source: derived in docs/theory.md, section 8; the question is that of Chen, Bruna and Bietti 2024
        (arXiv 2406.03068).
    """
    _check_fixed(data)
    largest = max(positive("batch_size", size) for size in batch_sizes)
    if largest * _LEAST_BATCHES > positive("n", n):
        raise ValueError(
            f"n must be at least {_LEAST_BATCHES} times the largest batch size {largest}, got {n}."
        )
    rows: list[dict[str, Any]] = []
    for length in [data.length] if lengths is None else lengths:
        for alpha in [data.alpha] if alphas is None else alphas:
            here = replace(data, length=length, alpha=alpha)
            found = _sampled_coefficients(here, n, seed)
            for (matrix, direction), values in found.items():
                named = dict(length=length, alpha=alpha, matrix=matrix, direction=direction)
                rows += [
                    {**named, "batch_size": size, **_ratio(values, size, seed, resamples)}
                    for size in batch_sizes
                ]
    return pd.DataFrame(rows)


def _ratio(values: Array, size: int, seed: int, resamples: int) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    mean, std = _moments(values, size)
    drawn = [
        np.divide(*_moments(values[generator.integers(0, len(values), len(values))], size))
        for _ in range(resamples)
    ]
    return dict(mean=mean, std=std, snr=mean / std, snr_se=float(np.std(drawn, ddof=1)))


def _moments(values: Array, size: int) -> tuple[float, float]:
    batches = values[: len(values) // size * size].reshape(-1, size).mean(1)
    return float(batches.mean()), float(batches.std(ddof=1))


@dataclass(frozen=True, eq=False)
class OneStep(Drawn):
    """The feed-forward matrix after one step of gradient descent from zero.

    Attributes:
        update: `[d_vocab, d_vocab]`, of the trigger's row alone.
        margin: logit of the noise token less the largest other one, on the trigger.
    """

    update: Float[Tensor, "d_vocab d_vocab"]
    margin: float


def predicted_step(
    probabilities: Array, *, trigger: int, noise_token: int, learning_rate: float
) -> OneStep:
    """The closed form: `Delta W_F = eta sum_y (p(y|q) - 1/V) u_y e_q^T`.

    Args:
        probabilities: `p(y|q)`, of what follows the trigger, `[d_vocab]`.
        trigger: q.
        noise_token: whose margin is taken.
        learning_rate: eta.

    Examples:
        >>> step = predicted_step(np.array([0.25, 0.75]), trigger=0, noise_token=1, learning_rate=1.0)
        >>> step.update.tolist(), step.margin
        ([[-0.25, 0.25], [0.0, 0.0]], 0.5)
    """
    size = len(probabilities)
    update = torch.zeros(size, size, dtype=torch.float64)
    update[trigger] = learning_rate * (torch.from_numpy(probabilities) - 1 / size)
    return _step(update, trigger, noise_token)


def population(data: RecallData) -> Array:
    """`p(y|q)` of the data: `alpha` on the noise token, `(1 - alpha) / V` on every token.

    Raises:
        ValueError: if the triggers are random.
    """
    _check_fixed(data)
    found = np.full(len(data.table), (1 - data.alpha) / len(data.table))
    found[data.noise_token] += data.alpha
    return found


def empirical(batch: RecallBatch, d_vocab: int) -> Array:
    """`p(y|q)` as a batch has it: each sequence's mean over recalled triggers, then the batch's.

    A sequence without a recalled trigger has no gradient, as if its next tokens were uniform.
    """
    counts = batch.recalled.sum(1)
    labels = (np.eye(d_vocab)[batch.labels] * batch.recalled[..., None]).sum(1)
    shares = np.where(counts[:, None] > 0, labels / np.maximum(counts, 1)[:, None], 1 / d_vocab)
    found: Array = shares.mean(0)
    return found


def measured_step(data: RecallData, batch: RecallBatch, *, learning_rate: float) -> OneStep:
    """The step that autograd takes on a batch, with uniform predictions before it."""
    _check_fixed(data)
    size = len(data.table)
    weights = {
        name: torch.zeros(size, size, dtype=torch.float64, requires_grad=name == "feed_forward")
        for name in ("feed_forward", "attention")
    }
    inputs, labels = (
        torch.nn.functional.one_hot(torch.from_numpy(each.copy()), size).double()
        for each in (batch.inputs, batch.labels)
    )
    seen = torch.from_numpy(batch.recalled).double()
    losses = [sequence_loss(weights, *row) for row in zip(inputs, labels, seen, strict=True)]
    (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), weights["feed_forward"])
    return _step(-learning_rate * gradient, data.fixed_triggers[0], data.noise_token)


def _step(update: Tensor, trigger: int, noise_token: int) -> OneStep:
    logits = update[trigger].clone()
    noise = float(logits[noise_token])
    logits[noise_token] = -torch.inf
    return OneStep(update, noise - float(logits.max()))


def one_step_margins(
    data: RecallData,
    *,
    alphas: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    n: int = 256,
    learning_rate: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """The margin after one step, predicted from the population and from the batch, and measured.

    Args:
        data: the distribution, with one fixed trigger.
        alphas: noise probabilities.
        n: sequences of the step.
        learning_rate: of the step.
        seed: of the sequences.

    Returns:
        A row for each alpha: predicted (population), predicted_batch, measured.
    """
    rows = []
    for alpha in alphas:
        here = replace(data, alpha=alpha)
        batch = here.sample(n, seed=seed)
        chances = {"predicted": population(here), "predicted_batch": empirical(batch, len(data.table))}
        margins = {
            name: predicted_step(
                chance,
                trigger=data.fixed_triggers[0],
                noise_token=data.noise_token,
                learning_rate=learning_rate,
            ).margin
            for name, chance in chances.items()
        }
        measured = measured_step(here, batch, learning_rate=learning_rate).margin
        rows.append({"alpha": alpha, **margins, "measured": measured})
    return pd.DataFrame(rows)


def _check_fixed(data: RecallData) -> None:
    if data.triggers != "fixed" or data.n_triggers != 1:
        raise ValueError(
            f"The data must have one fixed trigger, got {data.n_triggers} {data.triggers} ones."
        )
