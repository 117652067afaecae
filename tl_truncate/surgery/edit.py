"""What a cut does to a linear's output, as tensor functions that know nothing of models.

Row vectors, as in TransformerLens: `y = x W + b`, `W = U S V^T`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from tl_truncate.weights.linear import compute_dtype, where_float64_is


@dataclass(frozen=True)
class Edit(ABC):
    """A change of a weight `W -> W - strength * R`, applied to the linear's output."""

    @property
    @abstractmethod
    def needs_input(self) -> bool:
        """Whether the linear's input x is needed beside its output."""

    @property
    @abstractmethod
    def is_identity(self) -> bool:
        """Whether nothing is removed."""

    @property
    def enlarges(self) -> float:
        """How many times the rounding of an output may become by the edit; 1 for a projection."""
        return 1.0

    @property
    def is_of_weight(self) -> bool:
        """Whether it is one change of the weight, the same for every row and every token."""
        return True

    @property
    def is_of_any_weight(self) -> bool:
        """Whether `of_weight` edits what it is given, and not the stored weight whatever that is."""
        return True

    def of_weight(
        self, weight: Float[Tensor, "n_in n_out"], strength: float
    ) -> Float[Tensor, "n_in n_out"]:
        """The edited weight, `W - strength * R`: what the edit makes of the outputs of unit inputs."""
        if not self.needs_input:  # a square of unit inputs may be many times as large as the weight
            return self.apply(weight, None, None, strength)
        units = torch.eye(weight.shape[0], dtype=weight.dtype, device=weight.device)
        return self.apply(weight, None, units, strength)

    def watch(self) -> Iterator[RemovableHandle]:
        """Hooks that the edit needs elsewhere in the model; none by default."""
        return iter(())

    @abstractmethod
    def moved(self, device: torch.device, dtype: torch.dtype) -> "Edit":
        """The same edit with its tensors elsewhere."""

    @abstractmethod
    def kept(
        self, u: Float[Tensor, "*batch n_out"], x: Float[Tensor, "*batch n_in"] | None
    ) -> Float[Tensor, "*batch n_out"]:
        """What a full-strength edit leaves of `u = x W`."""

    def removed(self, u: Tensor, x: Tensor | None) -> Tensor:
        """`x R`, what a full-strength edit takes from `u = x W`."""
        return u - self.kept(u, x)

    def apply(self, y: Tensor, bias: Tensor | None, x: Tensor | None, strength: float) -> Tensor:
        """The linear's output had its weight been edited: `b + x (W - strength * R)`."""
        if self.is_identity:
            return y
        u = y if bias is None else y - bias
        if strength != 1.0:
            return y - strength * self.removed(u, x)
        kept = self.kept(u, x)
        return kept if bias is None else kept + bias


@dataclass(frozen=True)
class Projection(Edit):
    """An orthogonal projection of the output: onto a basis, or away from it.

    `kept(u) = u B B^T` if the basis spans what is kept, else `u - u B diag(w) B^T`. Whichever side has
    fewer directions costs less: `4 n_out rank` FLOPs a token.

    Source: closed form 1 of the documentation.

    Args:
        basis: `[n_out, rank]`, orthonormal columns inside the row space of the weight.
        keeps: whether the basis spans the kept (True) or the removed (False) directions.
        weights: `[rank]`, how much of each removed direction goes; 1 by default.

    Examples:
        >>> first = torch.eye(3)[:, :1]
        >>> Projection(first, keeps=True).kept(torch.ones(3), None).tolist()
        [1.0, 0.0, 0.0]
        >>> Projection(first, keeps=False).kept(torch.ones(3), None).tolist()
        [0.0, 1.0, 1.0]
    """

    basis: Float[Tensor, "n_out rank"]
    keeps: bool
    weights: Float[Tensor, " rank"] | None = None

    @property
    def needs_input(self) -> bool:
        """Never: the output is enough."""
        return False

    @property
    def is_identity(self) -> bool:
        """Whether there is nothing to project away."""
        return not self.keeps and self.basis.shape[1] == 0

    def moved(self, device: torch.device, dtype: torch.dtype) -> "Projection":
        """The same projection with its basis elsewhere."""
        weights = None if self.weights is None else self.weights.to(device, dtype)
        return Projection(self.basis.to(device, dtype).contiguous(), self.keeps, weights)

    def kept(self, u: Tensor, x: Tensor | None) -> Tensor:
        """The projected `u`."""
        return self._through(u) if self.keeps else u - self._through(u)

    def removed(self, u: Tensor, x: Tensor | None) -> Tensor:
        """`u` minus the projected `u`, by the cheaper route."""
        return u - self._through(u) if self.keeps else self._through(u)

    def apply(self, y: Tensor, bias: Tensor | None, x: Tensor | None, strength: float) -> Tensor:
        """The edited output, with the bias folded into the products: no pass over y but theirs.

        `b + (y - b) B B^T = (b - b B B^T) + (y B) B^T`, and likewise for what is removed.
        """
        if self.is_identity:
            return y
        if self.keeps and strength != 1.0:
            return super().apply(y, bias, x, strength)
        rows = y.reshape(-1, y.shape[-1])
        coefficients = rows @ self._readers
        if self.keeps:
            rest = y.new_zeros(y.shape[-1]) if bias is None else bias - self._through(bias)
            return torch.addmm(rest, coefficients, self.basis.T).view(y.shape)
        if bias is not None:
            coefficients = coefficients - bias @ self._readers
        if self.weights is not None:
            coefficients = coefficients * self.weights
        return torch.addmm(rows, coefficients, self.basis.T, alpha=-strength).view(y.shape)

    @property
    def _readers(self) -> Tensor:
        return self.basis

    def _through(self, u: Tensor) -> Tensor:
        coefficients = u @ self._readers
        if self.weights is not None:
            coefficients = coefficients * self.weights
        return coefficients @ self.basis.T


@dataclass(frozen=True)
class Oblique(Projection):
    """A projection of the output along directions that are not orthogonal to what stays.

    `kept(u) = u A B^T` if they span what is kept, else `u - u A diag(w) B^T`, with `B^T A = 1`. It is
    the orthogonal projection of the linear's *input* side, as it looks from the output: for orthonormal
    columns C in the column space of W, `C C^T W = W (W^+ C) (W^T C)^T`.

    Args:
        basis: `[n_out, rank]`, B, in which each direction is written; not orthonormal.
        keeps: as for `Projection`.
        weights: as for `Projection`.
        readers: `[n_out, rank]`, A, which measures each direction.

    Examples:
        >>> weight = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
        >>> kept = oblique(weight, Projection(torch.eye(2)[:, :1], keeps=True)).kept(weight, None)
        >>> bool(torch.allclose(kept, torch.tensor([[2.0, 1.0], [0.0, 0.0]]), atol=1e-6))
        True
    """

    readers: Float[Tensor, "n_out rank"] = field(kw_only=True)

    @property
    def enlarges(self) -> float:
        """The largest singular value of the projection."""
        if not self.basis.shape[1]:
            return 1.0
        weights = 1.0 if self.weights is None else self.weights
        (_, first), (_, second) = (
            torch.linalg.qr(each.double()) for each in (self.readers * weights, self.basis)
        )
        return max(1.0, float(torch.linalg.matrix_norm(first @ second.T, 2)))

    def moved(self, device: torch.device, dtype: torch.dtype) -> "Oblique":
        """The same projection elsewhere."""
        plain = super().moved(device, dtype)
        readers = self.readers.to(device, dtype).contiguous()
        return Oblique(plain.basis, plain.keeps, plain.weights, readers=readers)

    @property
    def _readers(self) -> Tensor:
        return self.readers


def oblique(weight: Float[Tensor, "n_in n_out"], projection: Projection) -> Oblique:
    """What a projection of a weight's input side does to its output: `W -> P W` as `u -> u M`.

    Args:
        weight: W.
        projection: of `[n_in]`, inside of the column space of W.
    """
    precise = where_float64_is(weight.detach()).double()
    basis = projection.basis.to(precise)
    readers, writers = torch.linalg.pinv(precise) @ basis, precise.T @ basis
    dtype, weights = projection.basis.dtype, projection.weights
    if weights is not None:  # a spectrum may lie elsewhere than its weight
        weights = weights.to(precise.device)
    return Oblique(writers.to(dtype), projection.keeps, weights, readers=readers.to(dtype))


@dataclass(frozen=True)
class Replacement(Edit):
    """A low-rank matrix in place of the weight: `kept = (x left) right^T`.

    For approximations that are no projection of the output, so that the input is needed.

    Args:
        left: `[n_in, rank]`.
        right: `[n_out, rank]`.
    """

    left: Float[Tensor, "n_in rank"]
    right: Float[Tensor, "n_out rank"]

    @property
    def needs_input(self) -> bool:
        """Always."""
        return True

    @property
    def is_identity(self) -> bool:
        """Never known without looking."""
        return False

    @property
    def is_of_any_weight(self) -> bool:
        """Never: the matrix stands for that of the stored weight."""
        return False

    def moved(self, device: torch.device, dtype: torch.dtype) -> "Replacement":
        """The same replacement elsewhere."""
        return Replacement(self.left.to(device, dtype), self.right.to(device, dtype))

    def kept(self, u: Tensor, x: Tensor | None) -> Tensor:
        """The output of the low-rank matrix."""
        if x is None:
            raise ValueError("A replacement of a weight needs the linear's input, got none.")
        return (x @ self.left) @ self.right.T


def project_components(vectors: Float[Tensor, "n_out rank"], kept: Tensor) -> Projection:
    """The truncation to the kept components, on the smaller of the kept and the removed side.

    Args:
        vectors: `[n_out, rank]`, right singular vectors V.
        kept: indices of the kept components.

    Examples:
        >>> project_components(torch.eye(4), torch.tensor([0])).keeps
        True
    """
    side, keeps = smaller_side(kept, vectors.shape[1])
    return Projection(vectors[:, side], keeps)


def smaller_side(kept: Int64[Tensor, " kept"], rank: int) -> tuple[Int64[Tensor, " side"], bool]:
    """The kept components or the removed ones, whichever are fewer, and whether they are the kept.

    Examples:
        >>> side, keeps = smaller_side(torch.tensor([0, 1, 2]), 4)
        >>> side.tolist(), keeps
        ([3], False)
    """
    inside = torch.zeros(rank, dtype=torch.bool)
    inside[kept] = True
    keeps = keeps_smaller(len(kept), rank)
    return (inside if keeps else ~inside).nonzero()[:, 0], keeps


def keeps_smaller(kept: int, rank: int) -> bool:
    """Whether a projection onto what is kept costs no more than one away from what is removed."""
    return kept <= rank - kept


def in_compute_precision(tensor: Tensor) -> Tensor:
    """float32 for half precision, so that sums are not rounded to 8 bits; else unchanged."""
    return tensor.to(compute_dtype(tensor.dtype))
