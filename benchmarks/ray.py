"""Two workers of Ray, with a thread each, against one process with a thread: `python benchmarks/ray.py`.

The sweep of the demo model's study, all 90 MLP sites x 7 keeps, on fewer prompts, each way in turn, with
all spectra in the cache before; and eight checkpoints of the nano-Pythia, which ships four. What Ray and
its workers take to start is told apart: it is paid once, however long the run. The tables must be equal
to the bit. The machine must have nothing else to do.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

# Where this file is found under the name of Ray.
sys.path.remove(os.path.dirname(os.path.realpath(__file__)))
# Before torch is loaded: a second thread of this process would take a worker's core.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import pandas as pd
import torch

import tl_truncate as tlt
from tl_truncate.experiments.training.checkpoints.places import given
from tl_truncate.runs.workers.pool import pool
from tl_truncate.weights.keep.defaults import KEEPS

#: Training steps of the nano-Pythia.
STEPS = (64, 512, 1024, 2000)


def nano(place: int) -> torch.nn.Module:
    """One of eight checkpoints."""
    return tlt.load_model("nano-pythia", checkpoint=STEPS[place % len(STEPS)], device="cpu")


def compare(
    told: str, rounds: int, one: Callable[[], pd.DataFrame], several: Callable[[], pd.DataFrame]
) -> None:
    """Runs both in turn, and prints the seconds of each and their ratio."""
    alone, shared = [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        frame = one()
        middle = time.perf_counter()
        other = several()
        alone.append(middle - begin)
        shared.append(time.perf_counter() - middle)
        pd.testing.assert_frame_equal(frame, other, check_exact=True)
        print(f"{told}: one process {alone[-1]:.1f} s, workers {shared[-1]:.1f} s")
    ratio = statistics.median(alone) / statistics.median(shared)
    print(
        f"{told}: {ratio:.2f}x, all numbers the same; load of the machine {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} cores"
    )


def main() -> None:
    """Prints the seconds of each way, their ratio, and how long the start took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = tlt.load_model(options.model, device="cpu")
    task = tlt.tasks.ioi(n=options.prompts, seed=0, tokenizer=model.tokenizer)
    sites = tlt.find_sites(model, ("W_in", "W_gate", "W_out"))
    for site in sites:
        tlt.spectrum(model, site)
    asked = dict(sites=sites, keeps=KEEPS, progress=False)
    start = time.perf_counter()
    with pool(tlt.Ray(workers=options.workers, address="local"), options.model) as workers:
        there = time.perf_counter()
        workers.wait()
        ready = time.perf_counter()
        print(
            f"To start: Ray {there - start:.1f} s, {options.workers} workers {ready - there:.1f} s more"
        )
        compare(
            f"{len(sites) * len(KEEPS)} settings x {options.prompts} prompts",
            options.rounds,
            lambda: tlt.sweep(model, task, **asked).frame,
            lambda: tlt.sweep(options.model, task, on=workers, **asked).frame,
        )
    task, cut = tlt.tasks.induction(400, d_vocab=100, length=30), tlt.Cut("blocks.3.mlp.W_out", 0.5)
    over = partial(tlt.dynamics, nano, range(8), task, cut, progress=False)
    with pool(tlt.Ray(workers=options.workers, address="local"), partial(given, nano)) as workers:
        workers.wait()
        told = "eight checkpoints"
        compare(told, options.rounds, lambda: over().frame, lambda: over(on=workers).frame)


if __name__ == "__main__":
    main()
