"""Rows that begin alike on their way up together, where a model's blocks take that.

Nothing is believed of a block. How the model calls it on every batch is seen, in passes that compute no
block, and has to be what the calls for the longest row say, position by position. And two rows that
share a beginning, as long as they are, in two copies, have to get the logits of their whole passes.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tl_truncate.replay.calls import BlockCall, last_logits, layout_of
from tl_truncate.replay.passed import Passed, passed_together, starts
from tl_truncate.replay.recording import Entered, Recording, enter
from tl_truncate.replay.tree import Row, Tree, common
from tl_truncate.replay.upwards import Replayer, Streams


@dataclass(frozen=True)
class Grown:
    """A tree of rows, and where logits are wanted.

    Attributes:
        tree: of the rows.
        positions: for each leaf, at how many of its last positions.
    """

    tree: Tree
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Stream:
    """A tree's rows before block 0.

    Attributes:
        passed: their way.
        start: what enters block 0 of each segment.
    """

    passed: Passed
    start: Streams


class Together:
    """Lets rows go up together.

    Args:
        replayer: of the model.
        seen: a pass of one row that is at least as long as all others.
        most: tokens that are embedded at once.
    """

    def __init__(self, replayer: Replayer, seen: Recording, most: int) -> None:
        self._replayer, self._model = replayer, replayer.model
        self._seen, self._most = seen, most

    def streams(self, grown: Sequence[Grown]) -> list[Stream] | None:
        """The trees before block 0; None if the blocks do not take it."""
        if not self._learn():
            return None
        found: list[Stream] = []
        for each in grown:
            stream = self._entered(each)
            if stream is None:
                return None
            found.append(stream)
        return found if self._agrees(grown) else None

    def _learn(self) -> bool:
        """What goes with the rows of a call, from one row and from two."""
        tokens = self._seen.tokens
        one, two = (
            enter(self._model, rows, self._seen.returns)
            for rows in (tokens, torch.cat([tokens, tokens.flip(1)]))
        )
        if one is None or two is None or not _all_same(one.calls, self._seen.calls):
            return False
        pairs = zip(one.calls, two.calls, strict=True)
        layouts = [layout for pair in pairs if (layout := layout_of(*pair)) is not None]
        self._replayer.layouts = layouts
        return len(layouts) == len(one.calls)

    def _entered(self, grown: Grown) -> Stream | None:
        passed = passed_together(grown.tree, grown.positions, self._seen.calls)
        if passed is None:
            return None
        needed = sorted({row for segment in grown.tree.segments for row in segment.rows})
        others = [row for row in range(len(grown.tree.rows)) if row not in set(needed)]
        streams: dict[int, Tensor] = {}
        for row, own in self._embedded(grown.tree.rows, needed):
            streams[row] = own
        alike = partial(_enters_as_shared, grown.tree, streams)
        if len(streams) < len(needed) or not all(map(alike, streams, streams.values())):
            return None
        embedded = [alike(row, own) for row, own in self._embedded(grown.tree.rows, others)]
        if len(embedded) < len(others) or not all(embedded):
            return None
        return Stream(passed, starts(grown.tree, streams))

    def _embedded(self, rows: Sequence[Row], which: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """What enters block 0 of some rows; ends before a batch whose blocks are called otherwise."""
        for own in self._batches(rows, which):
            tokens = torch.tensor([rows[row] for row in own])
            entered = enter(self._model, tokens, self._seen.returns)
            if entered is None or not self._called_as_seen(entered):
                return
            yield from zip(own, entered.start, strict=True)

    def _batches(self, rows: Sequence[Row], which: Sequence[int]) -> Iterator[list[int]]:
        by_length: dict[int, list[int]] = defaultdict(list)
        for row in which:
            by_length[len(rows[row])].append(row)
        for length, own in by_length.items():
            size = max(1, self._most // length)
            yield from (own[start : start + size] for start in range(0, len(own), size))

    def _called_as_seen(self, entered: Entered) -> bool:
        """Whether a batch's calls are those of the longest row, up to the batch's length."""
        rows, length = entered.tokens.shape
        layouts = self._replayer.layouts
        compared = set()
        for call, one, layout in zip(entered.calls, self._seen.calls, layouts, strict=True):
            # Most blocks are called with the same tensors, which need to be compared once.
            pair = _identities(call), _identities(one)
            if pair in compared:
                continue
            compared.add(pair)
            part = one.part(0, length)
            if part is None or not call.same(part.tiled(rows, layout)):
                return False
        return True

    def _agrees(self, grown: Sequence[Grown]) -> bool:
        """Whether two rows of a tree get the logits of their whole passes."""
        tried = max(grown, key=lambda each: (each.tree.shares, max(map(len, each.tree.rows))))
        first, second = _pair(tried.tree, tuple(self._seen.tokens[0].tolist()))
        tree = tried.tree.only([first] if first == second else [first, second])
        wanted_at = dict(_positions_of_rows(tried))
        rows = [first, second]
        positions = [wanted_at[rows[leaf.rows[0]]] for leaf in tree.leaves]
        stream = self._entered(Grown(tree, tuple(positions)))
        if stream is None:
            return False
        wanted = tuple(
            torch.cat([self._logits(tree.rows[row], each) for row in leaf.rows])
            for leaf, each in zip(tree.leaves, positions, strict=True)
        )
        return self._replayer.tries(stream.start, stream.passed, wanted)

    def _logits(self, row: Row, positions: int) -> Tensor:
        if row == tuple(self._seen.tokens[0].tolist()) and positions <= self._seen.positions:
            return self._seen.logits[:, -positions:]
        return last_logits(self._model, torch.tensor([row]), positions)


def _enters_as_shared(tree: Tree, streams: Mapping[int, Tensor], row: int, own: Tensor) -> bool:
    """Whether a row enters block 0 with the values of those whose segments stand for it."""
    return all(
        owner == row or _same_but_for_rounding(own[start:end], streams[owner][start:end])
        for owner, start, end in tree.owners(row)
    )


def _same_but_for_rounding(one: Tensor, other: Tensor) -> bool:
    gap = (one - other).abs().max()
    return bool(gap <= 16 * torch.finfo(one.dtype).eps * other.abs().max())


def _positions_of_rows(grown: Grown) -> Iterator[tuple[int, int]]:
    for leaf, positions in zip(grown.tree.leaves, grown.positions, strict=True):
        yield from ((row, positions) for row in leaf.rows)


def _pair(tree: Tree, seen: Row) -> tuple[int, int]:
    """The longest row, and the one that shares most with it; of those one of another length."""
    rows = tree.rows
    first = max(range(len(rows)), key=lambda row: (len(rows[row]), rows[row] == seen))
    depths = {0, *(segment.end for segment in tree.segments if not segment.is_leaf)}

    def worth(row: int) -> tuple[int, bool, int]:
        shared = common(rows[first], rows[row])
        deepest = max(depth for depth in depths if depth <= shared)
        return deepest, len(rows[row]) != len(rows[first]), -len(rows[row])

    others = [row for row in range(len(rows)) if row != first]
    return first, max(others, key=worth, default=first)


def _all_same(calls: Sequence[BlockCall], others: Sequence[BlockCall]) -> bool:
    return all(one.same(other) for one, other in zip(calls, others, strict=True))


def _identities(call: BlockCall) -> tuple[tuple[str, int], ...]:
    return tuple((name, id(value)) for name, value in call.arguments.items())
