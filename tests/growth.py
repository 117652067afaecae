"""How much a process grows while something is done, beside what it had before."""

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def can_be_measured() -> bool:
    """Whether the kernel forgets the largest size of a process when it is told to."""
    try:
        _REFERENCES.write_text("5")
    except OSError:
        return False
    return _STATUS.exists()


def in_a_fork(before: Callable[[], object], work: Callable[[], object], result: Path) -> int:
    """`growth` in a process of its own, which finds the libraries and the model as they are here.

    Args:
        before: a little of the work, since a forked process counts the pages of its libraries as its own
            when it first touches them.
        work: is done by one thread.
        result: a file to be written.

    Raises:
        RuntimeError: if the work failed.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            before()
            result.write_text(str(growth(work)))
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError("The work failed in the process that was to be measured.")
    return int(result.read_text())


def growth(work: Callable[[], object]) -> int:
    """Bytes by which the resident memory of this process was larger at most than before.

    What the allocator holds free is given back first, so that nothing of it is used unseen.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _REFERENCES.write_text("5")
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
