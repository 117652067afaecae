"""Ctrl-C in a command: what to type to go on."""

import shlex
from collections.abc import Sequence

from tl_truncate.runs.interrupts import FOLDER


def told(stop: KeyboardInterrupt, arguments: Sequence[str]) -> str | None:
    """How a command that was stopped is gone on with, or None if nothing of it is kept.

    Args:
        stop: the interrupt.
        arguments: that the command was given.

    Examples:
        >>> stop = KeyboardInterrupt()
        >>> told(stop, ["sweep", "--out", "my runs"]) is None
        True
        >>> stop.run_folder = "my runs/run"
        >>> print(told(stop, ["sweep", "--out", "my runs"]))
        Stopped. What is finished is in my runs/run. Go on with:
        tl-truncate sweep --out 'my runs' --resume
        >>> print(told(stop, ["sweep", "--out", "runs", "--shard", "3/8"]))
        Stopped. What is finished is in my runs/run. Go on with:
        tl-truncate sweep --out runs --shard 3/8
    """
    folder = getattr(stop, FOLDER, None)
    if folder is None:
        return None
    given = [each for each in arguments if each not in ("--resume", "--no-resume")]
    # A shard goes on by the same command.
    sharded = any(each.split("=")[0] == "--shard" for each in given)
    command = shlex.join(["tl-truncate", *given, *([] if sharded else ["--resume"])])
    return f"Stopped. What is finished is in {folder}. Go on with:\n{command}"
