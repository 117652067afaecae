"""A share of a run's work, for one of several processes that need nothing of each other.

Shard i of n is made of the same call as the run, in any process on any machine, and works in a folder of
its own within the run's, `shards/3-of-8`: no two processes write to one file.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from tl_truncate.checks import whole
from tl_truncate.weights.files import as_path

#: The folder of all shards, within that of the run.
SHARDS = "shards"
_NAME = re.compile(r"(\d+)-of-(\d+)")
_ASKED = re.compile(r"\s*(\d+)\s*/\s*(\d+)\s*")


@dataclass(frozen=True, order=True)
class Shard:
    """One of `count` shares of a run.

    Attributes:
        count: how many there are.
        index: which one it is, from 1.

    Examples:
        >>> print(Shard(count=8, index=3), Shard(count=8, index=3).name)
        3/8 3-of-8
    """

    count: int
    index: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.index}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def as_shard(value: Any) -> Shard | None:
    """A shard as it is asked for: `(3, 8)`, or `3/8` on a command line; None is the whole run.

    0 stands for the last, so that jobs numbered from 0 to 7 and jobs numbered from 1 to 8 are all of 8.

    Raises:
        ValueError: if it is no share.

    Examples:
        >>> as_shard((3, 8)) == as_shard("3/8"), as_shard((0, 8)) == as_shard((8, 8))
        (True, True)
    """
    if value is None or isinstance(value, Shard):
        return value
    found = _ASKED.fullmatch(value) if isinstance(value, str) else None
    pair = tuple(map(int, found.groups())) if found else value
    numbers = [whole(each) for each in pair] if isinstance(pair, (tuple, list)) else []
    if len(numbers) == 2:
        index, count = numbers
        if index is not None and count is not None and count > 0 and 0 <= index <= count:
            return Shard(count, index or count)
    raise ValueError(
        "shard must be which one and of how many, from 1 to that, such as (3, 8), or 3/8 on a command "
        f"line; 0 stands for the last. Got {value!r}."
    )


def as_pair(shard: Shard | None) -> tuple[int, int] | None:
    """A shard as callers ask for it; `as_shard` is the inverse.

    Examples:
        >>> as_pair(Shard(count=8, index=3))
        (3, 8)
    """
    return None if shard is None else (shard.index, shard.count)


def require_folder(shard: Shard | None, run_dir: str | os.PathLike[str] | None) -> None:
    """That a shard has a folder to be joined in.

    Raises:
        ValueError: if it has none.
    """
    if shard is not None and run_dir is None:
        raise ValueError(
            f"A shard must have a run folder in which it is joined with the others, got {shard} without "
            "one. Give run_dir (--out on a command line), the same to all shards."
        )


def share(costs: Sequence[float], shard: Shard) -> range:
    """Which units are a shard's: a run of neighbours, each unit where its middle falls.

    Every unit is in exactly one shard, and a shard's cost differs from an n-th of all by at most the
    largest unit. What is next to each other often shares work, such as a factorisation.

    Args:
        costs: of each unit, in order.
        shard: whose units are asked for.

    Returns:
        Places in `costs`; none if there are more shards than units.

    Examples:
        >>> [list(share([4, 2, 1, 1], Shard(2, index))) for index in (1, 2)]
        [[0], [1, 2, 3]]
    """
    exact = [Fraction(cost) for cost in costs]
    total = sum(exact)
    if not total:
        exact, total = [Fraction(1)] * len(exact), Fraction(len(exact))
    places: list[int] = []
    before = Fraction(0)
    for cost in exact:
        middle = before + cost / 2
        places.append(min(int(middle * shard.count / total), shard.count - 1))
        before += cost
    own = [unit for unit, place in enumerate(places) if place == shard.index - 1]
    return range(own[0], own[-1] + 1) if own else range(0)


def every_nth(count: int, shard: Shard) -> range:
    """Which of equal pieces of work are a shard's, such as a run's checkpoints: every n-th.

    Examples:
        >>> list(every_nth(7, Shard(3, 1))), list(every_nth(7, Shard(3, 3)))
        ([0, 3, 6], [2, 5])
    """
    return range(shard.index - 1, count, shard.count)


def shard_folder(run_dir: str | os.PathLike[str], shard: Shard) -> Path:
    """Where a shard works."""
    return as_path(run_dir) / SHARDS / shard.name


def shards_in(run_dir: str | os.PathLike[str]) -> Iterator[tuple[Shard, Path]]:
    """All shards that a run folder has, in order, with their folders."""
    place = as_path(run_dir) / SHARDS
    found = []
    for path in place.iterdir() if place.is_dir() else ():
        named = _NAME.fullmatch(path.name)
        if named is not None and path.is_dir():
            found.append((Shard(int(named[2]), int(named[1])), path))
    yield from sorted(found)
