"""A corpus that is read more than once: what it is has to be known before the passes over it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO

from tl_truncate.corpora.corpus import Corpus, plain_passage


@contextmanager
def rereadable(corpus: Corpus) -> Iterator[Corpus]:
    """Inside, a corpus can be read again and again, also one that streams by.

    Of an iterator the passages are written to a temporary file, since they may be more than memory
    holds; it is as long as its text, and gone afterwards. Any other corpus is given as it is.

    Raises:
        TypeError: if an iterator gives something that is no passage.

    Examples:
        >>> with rereadable(iter(["Paris", [3, 4]])) as passages:
        ...     list(passages), list(passages)
        (['Paris', [3, 4]], ['Paris', [3, 4]])
    """
    if not isinstance(corpus, Iterator):
        yield corpus
        return
    with TemporaryFile("w+", encoding="utf-8") as file:
        for place, passage in enumerate(corpus):
            file.write(json.dumps(plain_passage(passage, place)) + "\n")
        yield _Written(file)


class _Written:
    """The passages of a file, from the first each time; one reader at a time."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __iter__(self) -> Iterator[str | list[int]]:
        self._file.seek(0)
        yield from map(json.loads, self._file)
