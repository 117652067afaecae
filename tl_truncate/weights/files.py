"""Files that are whole or not there: written under a temporary name beside the target, then renamed."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path to write to; it takes the target's place only if the writing succeeds.

    Args:
        target: the file to be written or replaced.

    Yields:
        A path in the same folder, which ends in `.part`.
    """
    path = Path(target)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
