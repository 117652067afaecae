"""A bigram table: which token follows which, counted from a text or drawn from a seed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from tl_truncate.checks import positive


@dataclass(frozen=True, repr=False, eq=False)
class BigramTable:
    """The statistics of a language in which the last token is all that matters.

    Attributes:
        tokens: their texts.
        marginal: how often each one occurs, `[token]`.
        conditional: the probability of the next token, `[token, next]`; rows sum to one.
        source: where it came from.
    """

    tokens: tuple[str, ...]
    marginal: NDArray[np.float64]
    conditional: NDArray[np.float64]
    source: str

    def __post_init__(self) -> None:
        size = len(self.tokens)
        for name, value, shape in (
            ("marginal", self.marginal, (size,)),
            ("conditional", self.conditional, (size, size)),
        ):
            if value.shape != shape:
                raise ValueError(f"{name} must have shape {shape} for {size} tokens, got {value.shape}.")
            sums = value.sum(-1)
            if (value < 0).any() or not np.allclose(sums, 1.0, atol=1e-9):
                raise ValueError(f"{name} must be probabilities that sum to one, got sums {sums}.")

    @classmethod
    def from_counts(
        cls, tokens: Sequence[str], counts: Sequence[Sequence[int]], *, source: str
    ) -> "BigramTable":
        """A table from how often each pair was seen; a token that nothing followed is followed by any.

        Args:
            tokens: their texts.
            counts: `[token, next]`.
            source: where they came from.

        Raises:
            ValueError: if the counts are not a square of numbers from 0 up.
        """
        table = np.asarray(counts, dtype=np.float64)
        if table.shape != (len(tokens), len(tokens)) or (table < 0).any() or table.sum() == 0:
            raise ValueError(
                f"counts must be {len(tokens)} rows of as many numbers from 0 up, got shape "
                f"{table.shape}."
            )
        rows = table.sum(1, keepdims=True)
        conditional = np.where(rows > 0, table / np.maximum(rows, 1), 1 / len(tokens))
        return cls(tuple(tokens), table.sum(1) / table.sum(), conditional, source)

    @classmethod
    def from_text(cls, text: str, *, source: str = "a text") -> "BigramTable":
        """The character bigrams of a text, the characters in the order of their code points.

        Args:
            text: of two characters or more.
            source: what to call it.

        Raises:
            ValueError: if the text is shorter.

        Examples:
            >>> table = BigramTable.from_text("abaab")
            >>> table.tokens, table.conditional.tolist()
            (('a', 'b'), [[0.3333333333333333, 0.6666666666666666], [1.0, 0.0]])
        """
        if len(text) < 2:
            raise ValueError(f"A text must have two characters or more, got {text!r}.")
        tokens = sorted(set(text))
        codes = np.searchsorted([ord(token) for token in tokens], [ord(each) for each in text])
        counts = np.zeros((len(tokens), len(tokens)), dtype=np.int64)
        np.add.at(counts, (codes[:-1], codes[1:]), 1)
        return cls.from_counts(tokens, counts.tolist(), source=source)

    @classmethod
    def synthetic(cls, size: int = 64, *, seed: int = 0, concentration: float = 0.1) -> "BigramTable":
        """A random table: each row from a Dirichlet distribution, the marginal its stationary one.

        Args:
            size: number of tokens.
            seed: of the draw.
            concentration: small makes the next token predictable, large makes it uniform.

        Examples:
            >>> BigramTable.synthetic(5).conditional.shape
            (5, 5)
        """
        positive("size", size)
        generator = np.random.default_rng(seed)
        # The floor keeps the chain irreducible where a draw underflows.
        conditional = generator.dirichlet(np.full(size, concentration), size) + 1e-6
        conditional /= conditional.sum(1, keepdims=True)
        marginal = np.linalg.matrix_power(conditional, 4096)[0]
        tokens = tuple(f"<{index}>" for index in range(size))
        source = f"synthetic, {size} tokens, concentration {concentration}, seed {seed}"
        return cls(tokens, marginal / marginal.sum(), conditional, source)

    @classmethod
    def english(cls) -> "BigramTable":
        """The character bigrams of the King James Bible (1769, public domain), as they ship.

        Examples:
            >>> table = BigramTable.english()
            >>> table.tokens[table.most_frequent(1)[0]]
            ' '
        """
        text = resources.files("tl_truncate.toys.recall").joinpath("english.json").read_text("utf-8")
        data = json.loads(text)
        return cls.from_counts(data["tokens"], data["counts"], source=data["source"])

    def most_frequent(self, count: int) -> tuple[int, ...]:
        """The tokens that occur most often, the most frequent one first."""
        return tuple(int(token) for token in np.argsort(-self.marginal, kind="stable")[:count])

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"BigramTable({len(self)} tokens, {self.source})"

    @cached_property
    def sampler(self) -> "AliasSampler":
        """Draws next tokens, many at once."""
        return AliasSampler.of(self.conditional)


@dataclass(frozen=True, eq=False)
class AliasSampler:
    """Draws from each of several distributions in constant time.

    Source: Walker 1977; Vose 1991.

    Attributes:
        threshold: `[row, column]`, the share of a column that is its own.
        alias: `[row, column]`, what the rest of the column stands for.
    """

    threshold: NDArray[np.float64]
    alias: NDArray[np.int64]

    @classmethod
    def of(cls, probabilities: NDArray[np.float64]) -> "AliasSampler":
        """Tables for the rows of `[row, column]`."""
        rows, columns = probabilities.shape
        threshold = np.ones((rows, columns))
        alias = np.tile(np.arange(columns), (rows, 1))
        for row in range(rows):
            left = probabilities[row] * columns
            small = [column for column in range(columns) if left[column] < 1]
            large = [column for column in range(columns) if left[column] >= 1]
            while small and large:
                poor, rich = small.pop(), large.pop()
                threshold[row, poor], alias[row, poor] = left[poor], rich
                left[rich] -= 1 - left[poor]
                (small if left[rich] < 1 else large).append(rich)
        return cls(threshold, alias)

    def draw(self, rows: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """One column for each of `rows`, from numbers uniform in [0, 1)."""
        scaled = uniform * self.threshold.shape[1]
        column = scaled.astype(np.int64)
        own = scaled - column < self.threshold[rows, column]
        drawn: NDArray[np.int64] = np.where(own, column, self.alias[rows, column])
        return drawn
