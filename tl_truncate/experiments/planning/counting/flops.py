"""How much arithmetic a pass, a cut and a spectrum are: closed forms of the shapes alone.

A product of `[tokens, n_in]` and `[n_in, n_out]` is `2 tokens n_in n_out` FLOPs. Norms, activations and
softmax are left out: they are a matter of memory, not of arithmetic.

Source: derived in the documentation, "What a sweep has to compute".
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tl_truncate.weights.site import Matrix

Shape = tuple[int, int]

_QKV: tuple[Matrix, ...] = ("W_Q", "W_K", "W_V")
_MLP: tuple[Matrix, ...] = ("W_in", "W_gate", "W_out")
# Of the Gram matrix one triangle, in eight blocks of rows.
_TRIANGLE = 9 / 16
# n^3 of a symmetric eigenproblem with vectors, by the tridiagonal form (Golub and Van Loan, 8.3).
_EIGH = 9


def product(tokens: int, shape: Shape) -> int:
    """FLOPs of some rows times a matrix.

    Examples:
        >>> product(16, (768, 3072))
        75497472
    """
    return 2 * tokens * shape[0] * shape[1]


@dataclass(frozen=True)
class BlockShape:
    """The linears of a block, `[n_in, n_out]` by their names.

    Attributes:
        linears: of the block; those that it does not have are left out.
    """

    linears: Mapping[Matrix, Shape]

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.linears["W_Q"][0]

    @property
    def d_mlp(self) -> int:
        """Width of the MLP."""
        return self.linears["W_out"][0]

    @property
    def numbers(self) -> int:
        """How many weights the block has."""
        return sum(n_in * n_out for n_in, n_out in self.linears.values())

    def _of(self, names: tuple[Matrix, ...], tokens: int) -> int:
        return sum(product(tokens, self.linears[name]) for name in names if name in self.linears)

    def scores(self, rows: int, queries: int, keys: int) -> int:
        """FLOPs of attention itself, scores and mixing, in as many rows."""
        return 2 * rows * queries * keys * (self.linears["W_Q"][1] + self.linears["W_O"][0])

    def whole(self, rows: int, length: int) -> int:
        """FLOPs of the block at all positions of some rows."""
        own = self._of((*_QKV, "W_O", *_MLP), rows * length)
        return own + self.scores(rows, length, length)

    def ending(self, rows: int, length: int, positions: int) -> int:
        """FLOPs of the last block: queries, keys and values everywhere, all else at the answers."""
        everywhere, answers = self._of(_QKV, rows * length), rows * positions
        own = self._of((*_QKV, "W_O", *_MLP), answers)
        return everywhere + own + self.scores(rows, positions, length)

    def written(self, matrix: Matrix, tokens: int) -> int:
        """FLOPs from the cut output of an MLP's linear to what the MLP writes."""
        return 0 if matrix == "W_out" else product(tokens, self.linears["W_out"])


def factorising(shape: Shape) -> tuple[int, int]:
    """FLOPs of a spectrum in float64: the products, and the eigenproblem.

    The Gram matrix of the short side, its eigenvectors, and the other side's vectors.

    Examples:
        >>> factorising((512, 2048))
        (1677721600, 1207959552)
    """
    short, long = min(shape), max(shape)
    return int((2 * _TRIANGLE + 2) * long * short**2), _EIGH * short**3
