"""A checkpoint that cannot be read: tried twice, then noted and passed over.

What counts is a list: files that are not there, not whole or of another model, and logits that are not
finite. Nothing else is a checkpoint's fault. Arguments that do not fit, other weights than before, a
machine without memory or room on the disk, and an interrupt stop the run.
"""

import errno
import gc
from collections.abc import Callable, Mapping, Sequence
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError

from tl_truncate.experiments.scoring.answers import NotFinite
from tl_truncate.experiments.training.checkpoints.checkpoint import Request, read_checkpoint
from tl_truncate.experiments.training.kept import names_of
from tl_truncate.experiments.training.reading import FAILED, WANTED
from tl_truncate.models.load import IncompleteWeights

#: What loading may raise about the files of one checkpoint.
UNREADABLE = (OSError, SafetensorError, UnpicklingError, EOFError, IncompleteWeights)
# About the machine: the next checkpoint would fare no better.
_OF_THE_MACHINE = tuple(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENFILE", "ENOMEM")
    if hasattr(errno, name)
)


class BadCheckpointWarning(UserWarning):
    """A checkpoint could not be read and was passed over."""


def read_or_note(load: Callable[[int], Any], request: Request) -> dict[str, Any]:
    """The line about one checkpoint; if it cannot be read the second time either, a line that says why.

    Args:
        load: gives the model of a step.
        request: what to say about it.
    """
    line = _tried(load, request)
    if FAILED in line:
        gc.collect()
        line = _tried(load, request)
    return line


def _tried(load: Callable[[int], Any], request: Request) -> dict[str, Any]:
    try:
        model = load(request.step)
    except UNREADABLE as problem:
        if _is_of_the_machine(problem):
            raise
        return _failed(request, problem)
    try:
        return read_checkpoint(model, request)
    except NotFinite as problem:
        return _failed(request, problem)


def _failed(request: Request, problem: BaseException) -> dict[str, Any]:
    """With the text alone: the exception holds the model by its frames."""
    told = " ".join(str(problem).split())
    wanted = [
        name
        for work in request.works
        for name in names_of([request.step], [task.name for task in work.tasks], work.wanted)
    ]
    return {"step": request.step, FAILED: f"{type(problem).__name__}: {told}", WANTED: wanted}


def _is_of_the_machine(problem: BaseException) -> bool:
    """Whether it, or what it was raised from, is an error of the disk, the memory or the process."""
    found: BaseException | None = problem
    while found is not None:
        if isinstance(found, OSError) and found.errno in _OF_THE_MACHINE:
            return True
        found = found.__cause__ or found.__context__
    return False


def require_some(lines: Sequence[Mapping[str, Any]]) -> None:
    """That not every checkpoint is bad.

    Raises:
        ValueError: if they all are.
    """
    if lines and all(FAILED in line for line in lines):
        first, steps = lines[0], {line["step"] for line in lines}
        raise ValueError(
            f"At least one checkpoint must be readable, but all {len(steps)} that were tried failed "
            f"twice. Step {first['step']}: {first[FAILED]}"
        )
