"""Work in a forked process, which can be killed."""

import os
import signal
import time
from collections.abc import Callable

import torch


def in_a_child(work) -> int:
    """Runs something in a forked process, so that it can be killed; its number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def kill(child: int) -> bool:
    """Kills a process with SIGKILL; whether it was still at work."""
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def killed_often(work: Callable[[], object], *, times: int, first: float, later: float) -> int:
    """Starts some work again and again and kills it, a little later each time; how often it was killed.

    Ends early once the work has finished.
    """
    kills = 0
    for attempt in range(40):
        child = in_a_child(work)
        time.sleep(first + later * attempt)
        was_at_work = kill(child)
        kills += was_at_work
        if kills == times or not was_at_work:
            break
    return kills
