"""Trees of tokens: every row is there once, behind its own beginning, and no cut could be cheaper."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from luck import examples

from tl_truncate.replay import tree as trees
from tl_truncate.replay.tree import CALL, Tree, common, flat, grow

rows_of_few_tokens = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple), min_size=1, max_size=9, unique=True
)


def spelt(tree: Tree) -> list[tuple[int, ...]]:
    """Each row of a tree, put together from its segments."""
    found = {}
    for index, segment in enumerate(tree.segments):
        if segment.is_leaf:
            for at, row in enumerate(segment.rows):
                assert row not in found
                found[row] = along(tree, index, at)
    return [found[row] for row in range(len(tree.rows))]


def along(tree: Tree, index: int, at: int) -> tuple[int, ...]:
    segment = tree.segments[index]
    assert segment.start < segment.end
    own = tree.rows[segment.rows[at]][segment.start : segment.end]
    if segment.parent is None:
        assert segment.start == 0
        return own
    parent = tree.segments[segment.parent]
    assert segment.parent < index
    assert not parent.is_leaf
    assert parent.end == segment.start
    return along(tree, segment.parent, segment.within[at]) + own


@settings(max_examples=examples(100))
@given(rows=rows_of_few_tokens, call=st.sampled_from((0.0, 1.0, 5.0)), data=st.data())
def test_every_row_is_its_segments(rows, call, data):
    least = data.draw(st.integers(1, min(map(len, rows))))
    most = data.draw(st.sampled_from((None, 1, 4)))
    tree = grow(rows, least, most=most, call=call)
    assert spelt(tree) == rows
    for leaf in tree.leaves:
        assert leaf.end - leaf.start >= least
        assert most is None or len(leaf.rows) == 1 or leaf.n_tokens <= most
    chosen = data.draw(st.permutations(range(len(rows))))[: data.draw(st.integers(1, len(rows)))]
    part = tree.only(chosen)
    assert spelt(part) == [rows[row] for row in chosen]
    depths = {(segment.start, segment.end) for segment in tree.segments if not segment.is_leaf}
    assert {(each.start, each.end) for each in part.segments if not each.is_leaf} <= depths


@settings(max_examples=examples(60))
@given(rows=rows_of_few_tokens, call=st.sampled_from((0.0, 0.5, 2.0, 6.0)), data=st.data())
def test_no_depths_cost_less(rows, call, data):
    """Against all sets of depths, each tried by counting what is computed."""
    least = data.draw(st.integers(1, min(map(len, rows))))
    longest = max(map(len, rows)) - least
    tree = grow(rows, least, call=call)
    own = [segment.end for segment in tree.segments if not segment.is_leaf]
    every = itertools.chain.from_iterable(
        itertools.combinations(range(1, longest + 1), count) for count in range(longest + 1)
    )
    best = min(counted(rows, least, depths, call) for depths in every)
    assert counted(rows, least, tuple(own), call) == pytest.approx(best)


def counted(rows, least, depths, call) -> float:
    """Tokens and calls of rows that are cut at some depths."""
    cost, pieces = 0.0, set()
    for row in rows:
        before = 0
        for depth in depths:
            if len(row) < depth + least:
                break
            pieces.add((before, depth, row[:depth]))
            before = depth
        pieces.add((before, len(row), row, "leaf"))
    for start, end, *_ in pieces:
        cost += end - start + trees._PAST * start
    return cost + call * len({(start, end, len(rest)) for start, end, *rest in pieces})


def test_what_a_tree_saves():
    shared = tuple(range(200))
    tree = grow([(*shared, 1000 + place, *range(place)) for place in range(6)])
    assert next((len(each.rows), each.start, each.end) for each in tree.segments) == (1, 0, 200)
    assert tree.shares
    assert tree.n_tokens == 200 + sum(range(1, 7))
    assert not flat([(1, 2), (1, 3)]).shares
    few = [(1, 2, 3), (1, 2, 4)]
    assert not grow(few).shares  # a call costs more than two tokens
    assert grow(few, call=0.0).n_tokens == 4
    assert CALL > 4


@given(one=st.lists(st.integers(0, 2)).map(tuple), other=st.lists(st.integers(0, 2)).map(tuple))
def test_a_common_beginning(one, other):
    alike = [a == b for a, b in zip(one, other, strict=False)]
    assert common(one, other) == (alike.index(False) if False in alike else len(alike))


def test_many_depths_are_chosen_from_in_time():
    generator = np.random.default_rng(0)
    front = tuple(generator.integers(0, 9, 900).tolist())
    rows = {(*front[:depth], 9, depth) for depth in generator.integers(1, 900, 300).tolist()}
    tree = grow(sorted(rows))
    assert spelt(tree) == sorted(rows)
    assert tree.n_tokens < sum(map(len, rows)) / 3
