"""Rows that begin alike as a tree: what they share is there once, in a few rectangular pieces.

In a causal model a position's values depend on the tokens up to it alone. So rows with the same first
tokens share all that happens there, and what differs behind it reads the shared keys and values.

Source: derived in the documentation, "What a sweep has to compute".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

Row = tuple[int, ...]

#: What one more call of a block costs, in tokens: 3 ms of hook points and small products on the demo
#: model with one thread.
CALL = 32.0
# What a row pays for each token of its past, whose keys and values are put in front of its own.
_PAST = 0.01
# Depths among which the best are looked for.
_CANDIDATES = 64


@dataclass(frozen=True)
class Segment:
    """The same positions of some rows, computed in one call of each block.

    Attributes:
        rows: for each of its rows, one row of the tree that has these tokens.
        start, end: the positions.
        parent: the segment in front of it, by its place in the tree; None at the beginning of the rows.
        within: for each row, which row of the parent it continues.
        is_leaf: whether its rows end here; else others go on from them.
    """

    rows: tuple[int, ...]
    start: int
    end: int
    parent: int | None
    within: tuple[int, ...]
    is_leaf: bool

    @property
    def n_tokens(self) -> int:
        """How many tokens it has."""
        return len(self.rows) * (self.end - self.start)


@dataclass(frozen=True)
class Tree:
    """Rows in segments, each behind the one that it continues.

    Attributes:
        rows: of tokens, none of them twice.
        segments: of them.
    """

    rows: tuple[Row, ...]
    segments: tuple[Segment, ...]

    @property
    def leaves(self) -> tuple[Segment, ...]:
        """The segments in which rows end."""
        return tuple(segment for segment in self.segments if segment.is_leaf)

    @property
    def shares(self) -> bool:
        """Whether anything is computed once for several rows."""
        return len(self.leaves) < len(self.segments)

    @property
    def n_tokens(self) -> int:
        """How many tokens are computed."""
        return sum(segment.n_tokens for segment in self.segments)

    def owners(self, row: int) -> Iterator[tuple[int, int, int]]:
        """Whose tokens stand for a row: for each of its segments a row of the tree, start and end.

        Examples:
            >>> list(grow([(1, 2, 3, 4) * 10 + (end,) for end in range(9)]).owners(8))
            [(8, 40, 41), (0, 0, 40)]
        """
        leaf = next(each for each in self.leaves if row in each.rows)
        segment, at = leaf, leaf.rows.index(row)
        yield row, segment.start, segment.end
        while segment.parent is not None:
            at, segment = segment.within[at], self.segments[segment.parent]
            yield segment.rows[at], segment.start, segment.end

    def only(self, rows: Sequence[int]) -> "Tree":
        """The tree of some of the rows, cut at the same depths."""
        places = {row: place for place, row in enumerate(rows)}
        kept: list[Segment] = []
        found: dict[int, tuple[int, dict[int, int]]] = {}
        wanted = [set[int]() for _ in self.segments]
        for index in reversed(range(len(self.segments))):
            segment = self.segments[index]
            if segment.is_leaf:
                wanted[index] = {at for at, row in enumerate(segment.rows) if row in places}
            if segment.parent is not None:
                wanted[segment.parent] |= {segment.within[at] for at in wanted[index]}
        # Whose tokens they are may have been said of a row that is left out.
        owners = _owners(self, places)
        for index, segment in enumerate(self.segments):
            own = sorted(wanted[index])
            if not own:
                continue
            parent, among = (None, {}) if segment.parent is None else found[segment.parent]
            found[index] = (len(kept), {at: place for place, at in enumerate(own)})
            within = tuple(among[segment.within[at]] for at in own) if among else ()
            rows_of = tuple(owners[index][at] for at in own)
            kept.append(Segment(rows_of, segment.start, segment.end, parent, within, segment.is_leaf))
        return Tree(tuple(self.rows[row] for row in rows), tuple(kept))


def _owners(tree: Tree, places: dict[int, int]) -> list[dict[int, int]]:
    """For each segment and row in it, one of the chosen rows that goes through it."""
    owners: list[dict[int, int]] = [{} for _ in tree.segments]
    for index in reversed(range(len(tree.segments))):
        segment = tree.segments[index]
        if segment.is_leaf:
            own = ((at, places[row]) for at, row in enumerate(segment.rows) if row in places)
            owners[index].update(own)
        if segment.parent is not None:
            for at, row in owners[index].items():
                owners[segment.parent][segment.within[at]] = row
    return owners


def flat(rows: Sequence[Row]) -> Tree:
    """Rows of equal length as a tree of one leaf: nothing is shared."""
    whole = Segment(tuple(range(len(rows))), 0, len(rows[0]), None, (), True)
    return Tree(tuple(rows), (whole,))


def grow(
    rows: Sequence[Row],
    least: int = 1,
    *,
    most: int | None = None,
    most_rows: int | None = None,
    call: float = CALL,
) -> Tree:
    """The tree of some rows, cut at the depths at which least is computed.

    Args:
        rows: of tokens, none of them twice.
        least: tokens that a leaf must have, those at which answers are read.
        most: tokens of a leaf that has more than one row.
        most_rows: of a leaf.
        call: what one more call of a block costs, in tokens; less where several copies share it.

    Returns:
        At each depth one segment of all distinct beginnings that go on, and one for the rows of each
        length that end before the next depth. A tree without depths has a leaf for each length.

    Examples:
        >>> tree = grow([(1, 2, 3, 4) * 10 + (end,) for end in range(9)])
        >>> [(len(each.rows), each.start, each.end) for each in tree.segments]
        [(1, 0, 40), (9, 40, 41)]
    """
    order = sorted(range(len(rows)), key=rows.__getitem__)
    ordered = [rows[row] for row in order]
    lengths = np.array([len(row) for row in ordered])
    alike = np.array([0, *map(common, ordered, ordered[1:])])
    depths = _depths(lengths, alike, least, call)
    segments: list[Segment] = []
    parent: int | None = None
    within = np.zeros(len(rows), dtype=np.int64)
    for start, end in zip((0, *depths), (*depths, None), strict=True):
        here = lengths >= start + least
        going_on = np.zeros_like(here) if end is None else lengths >= end + least
        for length in np.unique(lengths[here & ~going_on]):
            own = np.flatnonzero(here & (lengths == length))
            size = len(own) if most is None else max(1, most // (int(length) - start))
            for part in _parts(own, size if most_rows is None else min(size, most_rows)):
                segments.append(_segment(order, part, (start, int(length)), parent, within, True))
        if end is not None:
            first, place = _beginnings(alike, going_on, end)
            segments.append(_segment(order, first, (start, end), parent, within, False))
            parent, within = len(segments) - 1, place
    return Tree(tuple(rows), tuple(segments))


def _segment(
    order: Sequence[int],
    which: Int64[np.ndarray, " own"],
    positions: tuple[int, int],
    parent: int | None,
    within: Int64[np.ndarray, " rows"],
    is_leaf: bool,
) -> Segment:
    continued = () if parent is None else tuple(within[which].tolist())
    return Segment(tuple(order[row] for row in which), *positions, parent, continued, is_leaf)


def _parts(which: Int64[np.ndarray, " own"], size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(which), size):
        yield which[start : start + size]


def common(one: Row, other: Row) -> int:
    """How many first tokens two rows share.

    Examples:
        >>> common((1, 2, 3), (1, 2, 4, 5))
        2
    """
    size = min(len(one), len(other))
    differing = np.flatnonzero(np.array(one[:size]) != np.array(other[:size]))
    return int(differing[0]) if len(differing) else size


def _beginnings(
    alike: Int64[np.ndarray, " rows"], going_on: Bool[np.ndarray, " rows"], depth: int
) -> tuple[Int64[np.ndarray, " beginnings"], Int64[np.ndarray, " rows"]]:
    """The first row with each beginning of a length, and which beginning each row has."""
    # Two rows begin alike if all neighbours between them do; rows that are too short count as well.
    breaks = np.cumsum(alike < depth)
    which = np.flatnonzero(going_on)
    _, first, inverse = np.unique(breaks[which], return_index=True, return_inverse=True)
    place = np.zeros(len(alike), dtype=np.int64)
    place[which] = inverse
    return which[first], place


def _depths(
    lengths: Int64[np.ndarray, " rows"], alike: Int64[np.ndarray, " rows"], least: int, call: float
) -> tuple[int, ...]:
    """The depths at which the tree is cut: a shortest path over what each piece costs."""
    shared = np.minimum(alike[1:], np.minimum(lengths[1:], lengths[:-1]) - least)
    found, counts = np.unique(shared[shared > 0], return_counts=True)
    # So many that each stands for as many of the rows.
    reached = np.cumsum(counts) * _CANDIDATES // counts.sum() if len(counts) else counts
    depths = [0, *found[np.unique(reached, return_index=True)[1]].tolist()]
    beginnings = [len(_beginnings(alike, lengths >= depth + least, depth)[0]) for depth in depths]
    best: dict[int, tuple[float, tuple[int, ...]]] = {}
    for place in reversed(range(len(depths))):
        start = depths[place]
        ways = [(_ending(lengths, start, None, least, call), ())]
        for next_ in range(place + 1, len(depths)):
            end, rows = depths[next_], beginnings[next_]
            cost = _ending(lengths, start, end, least, call)
            cost += rows * (end - start + _PAST * start) + call
            above, way = best[next_]
            ways.append((cost + above, (end, *way)))
        best[place] = min(ways)
    return best[0][1]


def _ending(
    lengths: Int64[np.ndarray, " rows"], start: int, end: int | None, least: int, call: float
) -> float:
    """What the rows cost that begin a leaf at a depth."""
    own = lengths >= start + least
    own = own if end is None else own & (lengths < end + least)
    ending = lengths[own]
    tokens = float((ending - start).sum()) + _PAST * start * len(ending)
    return tokens + call * len(np.unique(ending))
