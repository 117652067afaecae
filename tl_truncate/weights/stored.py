"""Where a matrix is kept, and in which layout."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from tl_truncate.weights.reading import stored_or_read


@dataclass(frozen=True)
class Stored:
    """A parameter of a module that holds a matrix `[n_in, n_out]`, of all heads, in a layout of its own.

    Attributes:
        module: that owns the parameter.
        name: of the parameter.
        to_matrix: from the stored layout to `[n_in, n_out]`.
        from_matrix: back.
    """

    module: nn.Module
    name: str
    to_matrix: Callable[[Tensor], Tensor]
    from_matrix: Callable[[Tensor], Tensor]

    def matrix(self) -> Tensor:
        """What is stored, `[n_in, n_out]`; a view where the layout allows it."""
        return self.to_matrix(stored_or_read(self.module, self.name))

    def as_read(self) -> Tensor:
        """What the module reads, which a cut at work may have changed, `[n_in, n_out]`."""
        return self.to_matrix(getattr(self.module, self.name))


def plain(module: nn.Module, name: str, *, transposed: bool) -> Stored:
    """A parameter of two dimensions."""

    def turn(tensor: Tensor) -> Tensor:
        return tensor.T if transposed else tensor

    return Stored(module, name, turn, turn)


def by_head(module: nn.Module, name: str, *, reads_heads: bool) -> Stored:
    """A parameter `[head, d_in, d_out]`, whose heads stand side by side, or below each other in W_O.

    Args:
        module: that owns the parameter.
        name: of the parameter.
        reads_heads: whether the matrix reads all heads (W_O), not writes them.
    """
    heads = getattr(module, name).shape[0]

    def below(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, tensor.shape[-1])

    def above(matrix: Tensor) -> Tensor:
        return matrix.reshape(heads, -1, matrix.shape[-1])

    def beside(tensor: Tensor) -> Tensor:
        return tensor.permute(1, 0, 2).reshape(tensor.shape[1], -1)

    def apart(matrix: Tensor) -> Tensor:
        return matrix.reshape(matrix.shape[0], heads, -1).permute(1, 0, 2)

    return Stored(module, name, below, above) if reads_heads else Stored(module, name, beside, apart)
