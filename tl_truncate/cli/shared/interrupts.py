"""Ctrl-C in a command: what to type to go on."""

import shlex
from collections.abc import Sequence

from tl_truncate.runs.interrupts import FOLDER


def told(stop: KeyboardInterrupt, arguments: Sequence[str], *, can_resume: bool = True) -> str:
    """How a command that was stopped is gone on with, or that nothing of it was kept.

    Args:
        stop: the interrupt.
        arguments: that the command was given.
        can_resume: whether the command has --resume.

    Examples:
        >>> stop = KeyboardInterrupt()
        >>> print(told(stop, ["sites", "-m", "demo"], can_resume=False))
        Stopped. Nothing was kept.
        >>> print(told(stop, ["sweep", "--out", "my runs"]))
        Stopped. Nothing was kept yet, and --resume has nothing to go on with. Begin again with:
        tl-truncate sweep --out 'my runs'
        >>> print(told(stop, ["sweep", "--out", "my runs", "--resume"]))
        Stopped before anything new was kept. Go on with:
        tl-truncate sweep --out 'my runs' --resume
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
        return _nothing_kept(arguments, can_resume)
    given = [each for each in arguments if each not in ("--resume", "--no-resume")]
    # A shard goes on by the same command.
    sharded = any(each.split("=")[0] == "--shard" for each in given)
    command = shlex.join(["tl-truncate", *given, *([] if sharded else ["--resume"])])
    return f"Stopped. What is finished is in {folder}. Go on with:\n{command}"


def _nothing_kept(arguments: Sequence[str], can_resume: bool) -> str:
    if not can_resume:
        return "Stopped. Nothing was kept."
    if not any(each.split("=")[0] == "--out" for each in arguments):
        return "Stopped. Nothing was kept: give --out to keep what is finished, and --resume to go on."
    command = shlex.join(["tl-truncate", *arguments])
    if "--resume" in arguments:
        return f"Stopped before anything new was kept. Go on with:\n{command}"
    return (
        "Stopped. Nothing was kept yet, and --resume has nothing to go on with. Begin again with:\n"
        f"{command}"
    )
