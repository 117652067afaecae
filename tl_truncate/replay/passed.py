"""How the rows of a tree go through the blocks: each segment's size, past and calls."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tl_truncate.replay.calls import BlockCall, Layout
from tl_truncate.replay.recording import Entered
from tl_truncate.replay.tree import Segment, Tree, flat


@dataclass(frozen=True)
class Part:
    """One segment's way.

    Attributes:
        segment: of the tree.
        positions: at how many of its last positions logits are wanted; 0 where rows go on.
        calls: of each block.
        called_rows: for how many rows the calls are: for one, or for all of them.
    """

    segment: Segment
    positions: int
    calls: tuple[BlockCall, ...]
    called_rows: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.segment.rows)

    def call(self, layer: int, copies: int, layouts: Sequence[Layout]) -> BlockCall:
        """A block's call for a tall batch of so many copies of the rows."""
        return self.calls[layer].tiled(copies * self.rows // self.called_rows, layouts[layer])


@dataclass(frozen=True)
class Passed:
    """How the rows of a tree went through the model.

    Attributes:
        tree: of the rows.
        parts: one for each of its segments.
    """

    tree: Tree
    parts: tuple[Part, ...]

    def first_row(self, layouts: Sequence[Layout]) -> "Passed":
        """The way of the first leaf's first row, alone."""
        path = self.first_path
        parts = []
        for place, (index, _) in enumerate(path):
            part = self.parts[index]
            segment = part.segment
            parent, within = (place - 1, (0,)) if place else (None, ())
            own = Segment((0,), segment.start, segment.end, parent, within, segment.is_leaf)
            pairs = zip(part.calls, layouts, strict=True)
            calls = tuple(call.first_row(part.called_rows, layout) for call, layout in pairs)
            parts.append(Part(own, part.positions, calls, 1))
        index, at = path[-1]
        row = self.tree.rows[self.parts[index].segment.rows[at]]
        return Passed(Tree((row,), tuple(part.segment for part in parts)), tuple(parts))

    @property
    def first_path(self) -> list[tuple[int, int]]:
        """The segments that the first leaf's first row goes through, and its row in each of them."""
        index = next(place for place, part in enumerate(self.parts) if part.segment.is_leaf)
        path, at = [(index, 0)], 0
        while (parent := self.parts[index].segment.parent) is not None:
            at, index = self.parts[index].segment.within[at], parent
            path.append((index, at))
        return path[::-1]


def passed_alone(seen: Entered, positions: int) -> Passed:
    """The way of a batch whose own calls are known, with nothing shared."""
    rows = tuple(map(tuple, seen.tokens.tolist()))
    tree = flat(rows)
    return Passed(tree, (Part(tree.segments[0], positions, seen.calls, len(rows)),))


def passed_together(tree: Tree, positions: Sequence[int], one: Sequence[BlockCall]) -> Passed | None:
    """The way of a tree's rows, from the calls for one row that is at least as long as all of them.

    Args:
        tree: of the rows.
        positions: for each leaf, at how many last positions logits are wanted.
        one: of each block.

    Returns:
        The way; None if it is not known of an argument what in it belongs to which position.
    """
    wanted, parts = iter(positions), []
    for segment in tree.segments:
        found = [call.part(segment.start, segment.end) for call in one]
        calls = tuple(call for call in found if call is not None)
        if len(calls) < len(found):
            return None
        parts.append(Part(segment, next(wanted) if segment.is_leaf else 0, calls, 1))
    return Passed(tree, tuple(parts))


def starts(tree: Tree, entered: dict[int, Tensor]) -> tuple[Tensor, ...]:
    """What enters block 0 of each segment, from what enters it of each row `[pos, d_model]`."""
    return tuple(
        torch.stack([entered[row][segment.start : segment.end] for row in segment.rows])
        for segment in tree.segments
    )
