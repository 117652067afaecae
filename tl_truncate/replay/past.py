"""Keys and values of what a block has seen, handed to it as its cache.

A cache answers to the protocols of transformers (`update`, positions on the last axis but one) and of
TransformerLens 3 (`append`, positions on the second axis).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class KeysSeen(Exception):
    """No error: the way out of a block whose keys and values are known."""


@dataclass(frozen=True)
class Known:
    """Keys and values of one block, for the rows of a tall batch.

    Attributes:
        keys, values: `[tall, head, pos, d_head]` or `[tall, pos, head, d_head]`.
        axis: of the positions.
    """

    keys: Tensor
    values: Tensor
    axis: int


@dataclass(frozen=True)
class Behind:
    """What rows continue: keys and values of others.

    Attributes:
        known: of them.
        within: for each row, which of theirs it continues, the same in every copy.
        copies: how many there are.
    """

    known: Known
    within: Sequence[int]
    copies: int

    def joined(self, past: Tensor, new: Tensor) -> Tensor:
        """What each row continues with its own behind it."""
        axis, rows = self.known.axis, len(self.within)
        apart = past.view(self.copies, -1, *past.shape[1:])
        if apart.shape[1] > 1 and list(self.within) != list(range(apart.shape[1])):
            apart = apart[:, torch.tensor(self.within, device=past.device)]
        before = past.shape[axis]
        shape = list(new.shape)
        shape[axis] += before
        whole = new.new_empty(shape)
        # Written at once: one row of the past may stand in front of many.
        whole.view(self.copies, rows, *shape[1:]).narrow(axis + 1, 0, before).copy_(apart)
        whole.narrow(axis, before, new.shape[axis]).copy_(new)
        return whole


class Cache:
    """Puts what rows continue in front of their own keys and values, and keeps all of them.

    Args:
        behind: what the rows continue; None at their beginning.
        leaves: whether the block is left as soon as its keys and values are known.
    """

    def __init__(self, behind: Behind | None = None, *, leaves: bool = False) -> None:
        self._behind, self._leaves = behind, leaves
        self.known: Known | None = None

    @property
    def past_keys(self) -> Tensor:
        """Of which a block of TransformerLens asks how many there are."""
        return torch.empty(0, 0) if self._behind is None else self._behind.known.keys

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As transformers calls it."""
        return self._take(keys, values, keys.ndim - 2)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As TransformerLens calls it."""
        return self._take(keys, values, 1)

    def _take(self, keys: Tensor, values: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        if self._behind is not None:
            known = self._behind.known
            keys = self._behind.joined(known.keys, keys)
            values = self._behind.joined(known.values, values)
        self.known = Known(keys, values, axis)
        if self._leaves:
            raise KeysSeen
        return keys, values


class Full:
    """A cache that already has the keys and values of all positions, the newest included.

    Args:
        known: of all positions.
        positions: how many of them are the newest.
    """

    def __init__(self, known: Known, positions: int) -> None:
        self._known, self._positions = known, positions

    @property
    def past_keys(self) -> Tensor:
        """Of all positions but the newest."""
        keys = self._known.keys
        return keys.narrow(self._known.axis, 0, keys.shape[self._known.axis] - self._positions)

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As transformers calls it."""
        return self._known.keys, self._known.values

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As TransformerLens calls it."""
        return self._known.keys, self._known.values
