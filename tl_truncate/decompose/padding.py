"""Rows without their padding, and values put back to where the rows' tokens were."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tl_truncate.corpora.corpus import Filled, Row, fill, unpadded


@dataclass(frozen=True)
class Unpadded:
    """Rows side by side, each from its first token on, and the way back.

    Attributes:
        batch: the rows.
        starts: `[batch]`, where each began.
        width: positions of the rows as they were given.
    """

    batch: Filled
    starts: Int64[Tensor, " batch"]
    width: int

    @classmethod
    def of(cls, batch: Filled, mask: Bool[Tensor, "batch pos"] | None) -> "Unpadded":
        """Rows that have been put together, with the mask that says where they were."""
        if mask is None:
            starts, width = torch.zeros(len(batch.rows), dtype=torch.int64), batch.tokens.shape[1]
        else:
            starts, width = mask.bool().int().argmax(1).to(torch.int64).cpu(), mask.shape[1]
        return cls(batch, starts, int(width))

    @classmethod
    def from_mask(
        cls, tokens: Int64[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
    ) -> "Unpadded":
        """The rows of a batch.

        Raises:
            ValueError: if a row is all padding, or there is padding between its tokens.

        Examples:
            >>> mask = torch.tensor([[False, True, True], [True, True, True]])
            >>> rows = Unpadded.from_mask(torch.tensor([[0, 5, 6], [7, 8, 9]]), mask)
            >>> rows.batch.tokens.tolist(), rows.put(rows.batch.tokens).tolist()
            ([[5, 6, 6], [7, 8, 9]], [[0, 5, 6], [7, 8, 9]])
        """
        rows = [Row(place, row) for place, row in enumerate(unpadded(tokens, mask))]
        return cls.of(fill(rows), mask)

    def put(self, value: Tensor) -> Tensor:
        """Values of the rows where the rows' tokens were, with zeros at padding."""
        real = self.batch.real.to(value.device)
        if bool(real.all()) and self.width == real.shape[1]:
            return value
        out = value.new_zeros(len(value), self.width, *value.shape[2:])
        rows, positions = real.nonzero(as_tuple=True)
        out[rows, positions + self.starts.to(value.device)[rows]] = value[rows, positions]
        return out
