"""A linear associative memory with a shared noise token, solved.

Inputs `z` are uniform; the output is `y = z` with probability `1 - alpha` and the noise token otherwise.
The logits are `U^T W E` and W follows the gradient flow of the cross-entropy from zero.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from tl_truncate.checks import positive, probability
from tl_truncate.drawing import Drawn
from tl_truncate.weights.keep import Keep, as_keep

Embeddings = Literal["orthonormal", "gaussian"]
Label = Literal["association", "noise"]
Array = NDArray[np.float64]
_TOLERANCE: dict[str, Any] = dict(method="DOP853", rtol=1e-11, atol=1e-12)


@dataclass(frozen=True)
class MemorySpectrum(Drawn):
    """The singular components of the memory, largest first.

    Attributes:
        values: singular values, `[rank]`.
        noise_share: how much of a component is the noise association, from 0 to 1, `[rank]`.
        labels: `noise` where that is more than half.
    """

    values: Array
    noise_share: Array
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class AssociativeMemory:
    """A linear memory of `n` associations and one noise token, at any time of its training.

    With orthonormal embeddings and exact statistics the logit matrix stays in a two-dimensional family,
    `M = a [I - J/n; 0] + q [-1/n ... -1/n; 1] 1^T`, whose singular values are `a` (n - 1 times, the
    associations) and `q sqrt(n + 1)` (once, the noise). For alpha = 1/2 the time is
    `t = 2 n (2 (e^a - 1) + (n - 1) a) / (n + 1)`, which Lambert's W inverts; for other alpha two
    ordinary differential equations are left. With gaussian embeddings or finite samples the whole
    matrix is integrated.

    Args:
        n: number of inputs.
        alpha: probability of the noise token.
        d: width of the embeddings; by default n + 1 if orthonormal, which is the least.
        embeddings: `orthonormal`, or `gaussian` with variance 1/d.
        samples: trains on so many draws of the data; None on its exact statistics.
        seed: of embeddings and samples.

    Raises:
        ValueError: if an argument does not fit.

    Source: derived in docs/theory.md, section 7; after the associative memory of Chen, Bruna and Bietti
    2024 (arXiv 2406.03068).

    Examples:
        >>> memory = AssociativeMemory(n=64, alpha=0.5)
        >>> association, noise = memory.singular_values(1e5)
        >>> round(noise / association, 3)
        7.814
    """

    n: int
    alpha: float
    d: int | None = None
    embeddings: Embeddings = "orthonormal"
    samples: int | None = field(default=None, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if positive("n", self.n) < 2:
            raise ValueError(f"n must be an integer from 2 up, got {self.n}.")
        probability("alpha", self.alpha)
        if self.embeddings not in get_args(Embeddings):
            raise ValueError(f"embeddings must be 'orthonormal' or 'gaussian', got {self.embeddings!r}.")
        if self.samples is not None:
            positive("samples", self.samples)
        if self.d is not None and positive("d", self.d) <= self.n and self.embeddings == "orthonormal":
            raise ValueError(
                f"d must be at least n + 1 = {self.n + 1} for orthonormal embeddings, got {self.d}. "
                "Use embeddings='gaussian'."
            )

    @property
    def is_symmetric(self) -> bool:
        """Whether the two-dimensional family holds."""
        return self.embeddings == "orthonormal" and self.samples is None

    @cached_property
    def joint(self) -> Array:
        """The statistics that are trained on, `[n + 1, n]`: probability of each (output, input)."""
        exact = np.vstack([(1 - self.alpha) * np.eye(self.n), np.full((1, self.n), self.alpha)]) / self.n
        if self.samples is None:
            return exact
        generator = np.random.default_rng((self.seed, 1))
        counts = generator.multinomial(self.samples, exact.ravel() / exact.sum())
        return counts.reshape(exact.shape) / self.samples

    @cached_property
    def vectors(self) -> tuple[Array, Array]:
        """Input embeddings `[d, n]` and output embeddings `[d, n + 1]`."""
        width = self.n + 1 if self.d is None else self.d
        generator = np.random.default_rng((self.seed, 0))
        drawn = [generator.normal(size=(width, count)) for count in (self.n, self.n + 1)]
        if self.embeddings == "gaussian":
            return drawn[0] / math.sqrt(width), drawn[1] / math.sqrt(width)
        return np.linalg.qr(drawn[0])[0], np.linalg.qr(drawn[1])[0]

    # The two-dimensional family ------------------------------------------------------------------

    def coefficients(self, time: float) -> tuple[float, float]:
        """`a` and `q` at a time.

        Raises:
            ValueError: if the memory is not symmetric, or the time is negative.
        """
        _check_time(time)
        if not self.is_symmetric:
            raise ValueError(
                "a and q must have orthonormal embeddings and exact statistics, got "
                f"embeddings={self.embeddings!r}, samples={self.samples}. Use logits(time)."
            )
        return _coefficients(self.n, self.alpha, time)

    def singular_values(self, time: float) -> tuple[float, float]:
        """Singular values of the associations and of the noise.

        For a memory that is not symmetric, the mean over the components with either label (NaN if
        there is none).
        """
        if self.is_symmetric:
            a, q = self.coefficients(time)
            return a, abs(q) * math.sqrt(self.n + 1)
        spectrum = self.spectrum(time)
        groups = [
            spectrum.values[[label == wanted for label in spectrum.labels]] for wanted in get_args(Label)
        ]
        association, noise = (float(group.mean()) if len(group) else math.nan for group in groups)
        return association, noise

    # Any embeddings and statistics ---------------------------------------------------------------

    def logits(self, time: float) -> Array:
        """`U^T W E` at a time, `[n + 1, n]`; a column for each input, the last row is the noise."""
        if not self.is_symmetric:
            return self.gradient_flow(time)
        return self._family(*self.coefficients(time))

    def _family(self, a: float, q: float) -> Array:
        associations = np.vstack([np.eye(self.n) - 1 / self.n, np.zeros((1, self.n))])
        noise = np.append(np.full(self.n, -1 / self.n), 1.0)
        return a * associations + q * np.outer(noise, np.ones(self.n))

    def gradient_flow(self, time: float) -> Array:
        """The logits from the gradient flow of the whole matrix, without any symmetry."""
        _check_time(time)
        from scipy.integrate import solve_ivp

        def velocity(_: float, state: Array) -> Array:
            return self._residual(self._logits_of(state.reshape(self.joint.shape))).ravel()

        solution = solve_ivp(velocity, (0.0, time), np.zeros(self.joint.size), **_TOLERANCE)
        return self._logits_of(solution.y[:, -1].reshape(self.joint.shape))

    def gradient_descent(self, steps: int, learning_rate: float) -> Array:
        """The logits after steps of gradient descent; its time is `steps * learning_rate`."""
        positive("steps", steps)
        memory = np.zeros_like(self.joint)
        for _ in range(steps):
            memory += learning_rate * self._residual(self._logits_of(memory))
        return self._logits_of(memory)

    def _logits_of(self, memory: Array) -> Array:
        """Logits of `W = U A E^T`, the form that gradients from zero keep; A is `[n + 1, n]`."""
        if self.embeddings == "orthonormal":
            return memory
        inputs, outputs = self.vectors
        found: Array = (outputs.T @ outputs) @ memory @ (inputs.T @ inputs)
        return found

    def _residual(self, logits: Array) -> Array:
        """Minus the gradient by A: the data's statistics less the model's."""
        found: Array = self.joint - _softmax(logits) * self.joint.sum(0)
        return found

    def weight(self, time: float) -> Array:
        """W at a time, `[d, d]`, so that the logits are `U^T W E`."""
        inputs, outputs = self.vectors
        return np.linalg.pinv(outputs.T) @ self.logits(time) @ np.linalg.pinv(inputs)

    # Truncation ----------------------------------------------------------------------------------

    def spectrum(self, time: float) -> MemorySpectrum:
        """The components of W with their labels.

        A component's noise share is the squared cosine of its left vector with the noise direction
        `[-1/n ... -1/n; 1]` and of its right vector with `1`, both among inputs and outputs.
        """
        left, values, right = self._components(time)
        direction = np.append(np.full(self.n, -1 / self.n), 1.0)
        share = _cosine(left.T, direction) ** 2 * _cosine(right, np.ones(self.n)) ** 2
        labels: tuple[Label, ...] = tuple("noise" if each > 0.5 else "association" for each in share)
        return MemorySpectrum(values, share, labels)

    def _components(self, time: float) -> tuple[Array, Array, Array]:
        """Left vectors among outputs `[n + 1, rank]`, singular values, right vectors among inputs."""
        if self.embeddings == "orthonormal":
            left, values, right = np.linalg.svd(self.logits(time), full_matrices=False)
            return left, values, right
        inputs, outputs = self.vectors
        left, values, right = np.linalg.svd(self.weight(time))
        rank = min(self.n, len(values))
        return outputs.T @ left[:, :rank], values[:rank], right[:rank] @ inputs

    def truncated_logits(self, time: float, keep: Keep | int | float) -> Array:
        """The logits of W with the components that a rule keeps.

        Where the rule parts components with equal singular values, as any two associations have, the
        truncation is ill-posed, and the one that LAPACK happens to give is taken.
        """
        left, values, right = self._components(time)
        width = len(left) if self.d is None else self.d
        kept = as_keep(keep).indices(torch.from_numpy(values.copy()), (width, width)).numpy()
        found: Array = (left[:, kept] * values[kept]) @ right[kept]
        return found

    def predict(self, time: float, keep: Keep | int | float | None = None) -> tuple[float, float]:
        """Mean probability of the correct output and of the noise, in full or truncated.

        Args:
            time: of training, in units of the gradient flow.
            keep: as for `Cut`.

        Returns:
            `(p_correct, p_noise)`.

        Examples:
            >>> p_correct, p_noise = AssociativeMemory(n=2, alpha=0.5).predict(1e5, keep=1)
            >>> p_correct > 0.98
            True
        """
        logits = self.logits(time) if keep is None else self.truncated_logits(time, keep)
        probability = _softmax(logits)
        return float(np.diagonal(probability).mean()), float(probability[-1].mean())


@lru_cache(maxsize=4096)
def _coefficients(n: int, alpha: float, time: float) -> tuple[float, float]:
    if alpha == 0.5:
        a = _association_at_half(n, time)
        return a, a * (n - 1) / (n + 1)
    from scipy.integrate import solve_ivp

    def velocity(_: float, state: Array) -> tuple[float, float]:
        a, q = state
        logits = np.array([a * (1 - 1 / n) - q / n, -a / n - q / n, q])
        weights = np.exp(logits - logits.max()) * np.array([1, n - 1, 1])
        correct, others, noise = weights / weights.sum()
        return (1 - alpha - correct + others / (n - 1)) / n, (alpha - noise) / n

    a, q = solve_ivp(velocity, (0.0, time), [0.0, 0.0], **_TOLERANCE).y[:, -1]
    return float(a), float(q)


def _association_at_half(n: int, time: float) -> float:
    """Solves `2 (e^a - 1) + (n - 1) a = (n + 1) t / (2 n)`."""
    from scipy.special import lambertw

    right = (n + 1) * time / (2 * n) + 2
    # e^a + c a = b has a = b/c - W(e^(b/c) / c); where e^(b/c) overflows, Newton starts at log b.
    c, b = (n - 1) / 2, right / 2
    a = b / c - float(lambertw(math.exp(b / c) / c).real) if b / c < 500 else math.log(b)
    for _ in range(50):
        step = (math.exp(a) + c * a - b) / (math.exp(a) + c)
        a -= step
        if abs(step) <= 1e-15 * max(1.0, abs(a)):
            break
    return a


def _softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(0))
    found: Array = weights / weights.sum(0)
    return found


def _cosine(rows: Array, direction: Array) -> Array:
    found: Array = rows @ direction / (np.linalg.norm(rows, axis=1) * np.linalg.norm(direction) + 1e-300)
    return found


def _check_time(time: float) -> None:
    if not time >= 0 or not math.isfinite(time):
        raise ValueError(f"time must be a number from 0 up, got {time!r}.")
