"""Rows that share a past, batched: trees of tokens, and what is read off their leaves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tl_truncate.experiments.scoring.answers import Answer, Batch, batched, plan_batches
from tl_truncate.replay.together import Grown
from tl_truncate.replay.tree import CALL, Row, Tree, common, grow
from tl_truncate.tasks.encode import EncodedTask

# What of its tokens a tree must save: less is not worth trying whether the model takes it.
_SAVED = 0.07
# A tree has at most so many times the tokens of a batch beside its longest row.
_BATCHES = 4


@dataclass(frozen=True)
class Grove:
    """Rows whose common beginnings are computed once.

    Attributes:
        tree: of the rows.
        batches: one for each leaf of the tree.
    """

    tree: Tree
    batches: tuple[Batch, ...]

    @property
    def grown(self) -> Grown:
        """The tree with its answers' positions."""
        return Grown(self.tree, tuple(batch.positions for batch in self.batches))


def plan_groves(
    encoded: Sequence[EncodedTask], batch_size: int, max_tokens: int, *, copies: int = 1
) -> tuple[list[Grove], list[Batch]]:
    """The rows that answer all prompts of some tasks: those that share a beginning, and the others.

    Args:
        encoded: the tasks.
        batch_size: most rows in a batch.
        max_tokens: most tokens in a batch that has more than one row.
        copies: how many cuts share each call of a block.
    """
    asked: dict[Row, tuple[Answer, ...]] = {}
    for batch in plan_batches(encoded, batch_size, max_tokens):
        asked.update(zip(batch.rows, batch.answers, strict=True))
    least = max(len(answer.tokens) for answers in asked.values() for answer in answers)
    groves: list[Grove] = []
    # What is shorter than the positions that are read of a leaf cannot be one.
    apart = {row: answers for row, answers in asked.items() if len(row) < least}
    long = sorted(row for row in asked if row not in apart)
    for rows in _neighbours(long, _BATCHES * max_tokens):
        tree = grow(rows, least, most=max_tokens, most_rows=batch_size, call=CALL / copies)
        if tree.shares and tree.n_tokens <= (1 - _SAVED) * sum(map(len, rows)):
            batches = (_leaf(tree, leaf.rows, asked) for leaf in tree.leaves)
            groves.append(Grove(tree, tuple(batches)))
        else:
            apart.update((row, asked[row]) for row in rows)
    # In the order in which they were asked for, as if there were no others.
    left = {row: answers for row, answers in asked.items() if row in apart}
    return groves, batched(left, batch_size, max_tokens)


def _neighbours(rows: Sequence[Row], most: int) -> Iterator[tuple[Row, ...]]:
    """Rows in their order, in groups that have so many tokens beside the first row."""
    group: list[Row] = []
    size = 0
    for row in rows:
        new = len(row) - (common(group[-1], row) if group else len(row))
        if group and size + new > most:
            yield tuple(group)
            group, size, new = [], 0, 0
        group.append(row)
        size += new
    yield tuple(group)


def _leaf(tree: Tree, rows: Sequence[int], asked: dict[Row, tuple[Answer, ...]]) -> Batch:
    own = tuple(tree.rows[row] for row in rows)
    answers = tuple(asked[row] for row in own)
    return Batch(own, answers, max(len(each.tokens) for all_ in answers for each in all_))
