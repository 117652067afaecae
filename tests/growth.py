"""How much a process grows while something is done, beside what it had before."""

import ctypes
import gc
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


def growth(work: Callable[[], object]) -> int:
    """Bytes by which the resident memory of this process was larger at most than before.

    What the allocator holds free is given back first, so that nothing of it is used unseen. A little of
    the work is to be done before, so that its libraries are there.
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
