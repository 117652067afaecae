"""Where a matrix is kept, and in which layout."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tl_truncate.weights.holding.offloaded import is_kept_elsewhere, real_of
from tl_truncate.weights.holding.quantised import Quantised, quantised
from tl_truncate.weights.reading import stored_or_read

# What holds its numbers itself, and can be read as it is.
_PLAIN = (Tensor, nn.Parameter)


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
        """What is stored, `[n_in, n_out]`; of a plain weight a view where the layout allows it."""
        if self.quantised is not None:
            return self.to_matrix(self.quantised.weight())
        return self.to_matrix(real_of(self.module, self.name, stored_or_read(self.module, self.name)))

    def as_read(self) -> Tensor:
        """What the module reads, which a cut at work may have changed, `[n_in, n_out]`."""
        if self.quantised is not None:
            return self.matrix()
        return self.to_matrix(real_of(self.module, self.name, getattr(self.module, self.name)))

    @property
    def raw(self) -> Tensor:
        """What the module holds under the name, without looking into it: perhaps no numbers."""
        held = self.module._parameters.get(self.name)
        found: Tensor = getattr(self.module, self.name) if held is None else held
        return found

    @property
    def quantised(self) -> Quantised | None:
        """What the parameter stands for, where it is quantised."""
        return quantised(self.module, self.name)

    @property
    def is_plain(self) -> bool:
        """Whether it is neither quantised nor kept elsewhere between passes."""
        return self.quantised is None and not self.raw.is_meta

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix, `(n_in, n_out)`; nothing is read."""
        held = self.quantised
        stored = self.raw.shape if held is None else held.shape
        n_in, n_out = self.to_matrix(torch.empty(stored, device="meta")).shape
        return n_in, n_out

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrix; nothing is read."""
        held = self.quantised
        return self.raw.dtype if held is None else held.dtype

    def problem(self) -> str | None:
        """Why there are no numbers to factor, or None; nothing is read.

        It ends a sentence that begins with "The weight of ... must".
        """
        held, raw = self.quantised, self.raw
        if held is not None:
            return None if held.problem is None else f"be readable, but {held.problem}."
        if type(raw) not in _PLAIN:
            kind = f"{type(raw).__module__}.{type(raw).__name__}"
            return (
                f"be a plain tensor, or one that bitsandbytes or torchao has quantised, got a {kind}. "
                "Load the model with plain weights."
            )
        if raw.is_meta and not is_kept_elsewhere(self.module, self.name):
            return (
                "hold data, got a tensor on the meta device. Load the model's weights (not only its "
                "configuration) before cutting. What accelerate offloads is read where its hooks keep "
                "it, but no hook of this module has it."
            )
        if not raw.is_floating_point() or raw.element_size() < 2:
            return (
                f"be in floating point of 16 bits or more, got {raw.dtype}. Load the model without this "
                "quantisation, or quantised by bitsandbytes or torchao."
            )
        return None


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
