"""What an interrupt (Ctrl-C) leaves behind: a sentence on how to go on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

#: An attribute of an interrupt: the folder that the work goes on in.
FOLDER = "run_folder"


@contextmanager
def says_how_to_go_on(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Lets an interrupt say where the work that it stopped goes on.

    The sentence is the exception's message, as a note would be, which Python 3.10 has not. Of folders
    within each other the outermost is named, since that is what the call was given.

    Args:
        folder: that finished work is in.

    Examples:
        >>> try:
        ...     with says_how_to_go_on("runs/ioi"):
        ...         raise KeyboardInterrupt
        ... except KeyboardInterrupt as stop:
        ...     print(stop)
        Stopped. What is finished is in runs/ioi: the same call with the same folder goes on from there.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        setattr(stop, FOLDER, str(folder))
        stop.args = (
            f"Stopped. What is finished is in {folder}: the same call with the same folder goes on from "
            "there.",
        )
        raise
