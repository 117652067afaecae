"""Where a benchmark runs, and a clock that waits for what is still in a card's queue."""

import argparse
import time
from collections.abc import Callable

import torch


def add_device(parser: argparse.ArgumentParser, default: str = "cpu") -> None:
    """The option `--device`, which all benchmarks with models share."""
    parser.add_argument("--device", default=default, help="cpu, or a card: cuda")


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call, what it left in the device's queue included."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def name_of(device: str) -> str:
    """What the figures were taken on."""
    card = torch.device(device).type == "cuda"
    return torch.cuda.get_device_name() if card else f"CPU, {torch.get_num_threads()} threads"
