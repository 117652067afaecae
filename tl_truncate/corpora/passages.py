"""Passages of running text: an empty line ends one."""

import os
from collections.abc import Iterable, Iterator

from tl_truncate.weights.files import as_path


def read_passages(path: str | os.PathLike[str]) -> Iterator[str]:
    """The passages of a text file, which are divided by empty lines; read as they are asked for.

    The lines of a passage become one, with a space where a line ended.

    Args:
        path: of a UTF-8 file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not UTF-8, or there is no passage in it.
    """
    file, found = as_path(path), False
    if not file.is_file():
        raise FileNotFoundError(f"A corpus must be a text file that exists, got {str(path)!r}.")
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for passage in passages_of(lines):
                found = True
                yield passage
    except UnicodeDecodeError as problem:
        raise ValueError(
            f"A corpus must be a text file in UTF-8, got other bytes in {str(path)!r} "
            f"({problem.reason}). Save it as UTF-8."
        ) from None
    if not found:
        raise ValueError(f"A corpus must have at least one passage, got none in {str(path)!r}.")


def passages_of(lines: Iterable[str]) -> Iterator[str]:
    """Lines put together to passages; an empty line ends one.

    Examples:
        >>> list(passages_of(["The king walked", "home.", "", "", "It rained."]))
        ['The king walked home.', 'It rained.']
    """
    own: list[str] = []
    for line in lines:
        if line.strip():
            own.append(line.strip())
        elif own:
            yield " ".join(own)
            own = []
    if own:
        yield " ".join(own)
