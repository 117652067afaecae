"""How much a process grows while something is done, beside what it had before."""

import ctypes
import gc
import threading
from collections.abc import Callable
from pathlib import Path

_STATUS = Path("/proc/self/status")
_EVERY = 0.001


def can_be_measured() -> bool:
    """Whether the kernel says how much memory of a process is its own."""
    return _STATUS.exists() and "RssAnon" in _STATUS.read_text()


def growth(work: Callable[[], object]) -> int:
    """Bytes by which the memory that is this process' own was larger at most than before.

    Looked at every millisecond, at which a few megabytes can be written. Pages of files are left out: the
    kernel takes those of libraries back whenever it likes, and they return while the work is done. What
    the allocator holds free is given back first, so that nothing of it is used unseen. A little of the
    work is to be done before, so that its libraries are there.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = largest = _own()
    done = threading.Event()

    def watch() -> None:
        nonlocal largest
        while not done.wait(_EVERY):
            largest = max(largest, _own())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(largest, _own()) - before


def _own() -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024
