"""Noisy in-context recall: bigram text in which a trigger is followed by this sequence's own target.

In every sequence each trigger gets a target. After the trigger comes the target with probability
`1 - alpha` and the noise token, the same in all sequences, with probability `alpha`; everything else is
bigram text. The target can only be read from the context; the noise token is corpus statistics.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tl_truncate.checks import as_integers, positive, probability
from tl_truncate.toys.recall.bigrams import BigramTable

Triggers = Literal["fixed", "random"]


@dataclass(frozen=True, eq=False)
class RecallBatch:
    """Sequences of noisy in-context recall.

    Attributes:
        tokens: `[sequence, pos + 1]`; the last column is only ever predicted.
        occurrence: `[sequence, pos]`, 0 where the token is no trigger, else how often it has occurred,
            this time included.
        triggers: `[sequence, trigger]`.
        targets: `[sequence, trigger]`.
    """

    tokens: NDArray[np.int64]
    occurrence: NDArray[np.int64]
    triggers: NDArray[np.int64]
    targets: NDArray[np.int64]

    @property
    def inputs(self) -> NDArray[np.int64]:
        """`[sequence, pos]`."""
        return self.tokens[:, :-1]

    @property
    def labels(self) -> NDArray[np.int64]:
        """`[sequence, pos]`, the next tokens."""
        return self.tokens[:, 1:]

    @property
    def recalled(self) -> NDArray[np.bool_]:
        """`[sequence, pos]`, where a trigger stands that has occurred before."""
        seen: NDArray[np.bool_] = self.occurrence >= 2
        return seen

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class RecallData:
    """The distribution of noisy in-context recall.

    Args:
        table: the bigrams.
        length: positions of a sequence.
        n_triggers: K.
        alpha: probability of the noise token after a trigger.
        triggers: `fixed`, the K most frequent tokens, or `random`, drawn for each sequence from the
            marginal without replacement.
        noise_token: index of the noise token.

    Raises:
        ValueError: if an argument does not fit.

    Source: Chen, Bruna and Bietti 2024 (arXiv 2406.03068), and the data generator of their code.

    Examples:
        >>> data = RecallData(BigramTable.english(), length=32)
        >>> data.sample(4, seed=0).tokens.shape
        (4, 33)
    """

    table: BigramTable
    length: int = 256
    n_triggers: int = 1
    alpha: float = 0.5
    triggers: Triggers = "fixed"
    noise_token: int = 2

    def __post_init__(self) -> None:
        size = len(self.table)
        as_integers(self, "length", "n_triggers")
        if self.n_triggers >= size:
            raise ValueError(f"n_triggers must be less than the {size} tokens, got {self.n_triggers}.")
        probability("alpha", self.alpha)
        if self.triggers not in get_args(Triggers):
            raise ValueError(f"triggers must be 'fixed' or 'random', got {self.triggers!r}.")
        if self.noise_token not in range(size):
            raise ValueError(f"noise_token must be from 0 to {size - 1}, got {self.noise_token!r}.")
        if self.triggers == "fixed" and self.noise_token in self.fixed_triggers:
            raise ValueError(
                f"noise_token must not be a trigger, got {self.noise_token}, of {self.fixed_triggers}."
            )

    @property
    def fixed_triggers(self) -> tuple[int, ...]:
        """The K most frequent tokens."""
        return self.table.most_frequent(self.n_triggers)

    def clean(self) -> "RecallData":
        """The same without noise, to evaluate on."""
        return replace(self, alpha=0.0)

    def sample(self, n: int, *, seed: int | tuple[int, ...]) -> RecallBatch:
        """Draws sequences, all at once.

        Args:
            n: how many.
            seed: of the draw; the same seed gives the same sequences.

        Returns:
            The sequences with their triggers, targets and counts.
        """
        generator = np.random.default_rng(seed)
        triggers = self._draw_triggers(generator, positive("n", n))
        targets = generator.integers(0, len(self.table), triggers.shape)
        # What follows a trigger in a row, or -1: the bigram table is asked then.
        follower = np.full((n, len(self.table)), -1)
        np.put_along_axis(follower, triggers, targets, axis=1)
        rows = np.arange(n)
        tokens = np.empty((self.length + 1, n), dtype=np.int64)
        tokens[0] = generator.choice(len(self.table), n, p=self.table.marginal)
        uniform = generator.random((self.length, n))
        noisy = generator.random((self.length, n)) < self.alpha
        for position in range(self.length):
            token = tokens[position]
            answer = follower[rows, token]
            drawn = self.table.sampler.draw(token, uniform[position])
            recalled = np.where(noisy[position], self.noise_token, answer)
            tokens[position + 1] = np.where(answer >= 0, recalled, drawn)
        sequences = np.ascontiguousarray(tokens.T)
        return RecallBatch(sequences, count_triggers(sequences[:, :-1], triggers), triggers, targets)

    def _draw_triggers(self, generator: np.random.Generator, n: int) -> NDArray[np.int64]:
        if self.triggers == "fixed":
            return np.tile(np.array(self.fixed_triggers), (n, 1))
        # The K smallest of exponential clocks with these rates: draws without replacement.
        with np.errstate(divide="ignore"):
            clocks = generator.exponential(size=(n, len(self.table))) / self.table.marginal
        return np.argsort(clocks, axis=1)[:, : self.n_triggers]


def count_triggers(inputs: NDArray[np.int64], triggers: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often the trigger at a position has occurred up to it; 0 where there is none.

    Args:
        inputs: `[sequence, pos]`.
        triggers: `[sequence, trigger]`.
    """
    counts = np.zeros(inputs.shape, dtype=np.int64)
    for trigger in triggers.T:
        here = inputs == trigger[:, None]
        counts += here * here.cumsum(axis=1)
    return counts
