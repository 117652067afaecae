"""Two workers of Ray, with a thread each, against one process with a thread: `python benchmarks/ray.py`.

The sweep of the demo model's study, all 90 MLP sites x 7 keeps, on fewer prompts, each way in turn, with
all spectra in the cache before. What Ray and its workers take to start is told apart: it is paid once,
however long the run. The tables must be equal to the bit. The machine must have nothing else to do.
"""

import argparse
import os
import statistics
import sys
import time

# Where this file is found under the name of Ray.
sys.path.remove(os.path.dirname(os.path.realpath(__file__)))
# Before torch is loaded: a second thread of this process would take a worker's core.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import pandas as pd
import torch

import tl_truncate as tlt
from tl_truncate.runs.workers.pool import pool
from tl_truncate.weights.keep.defaults import KEEPS


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
        alone, shared = [], []
        for _ in range(options.rounds):
            begin = time.perf_counter()
            one = tlt.sweep(model, task, **asked)
            middle = time.perf_counter()
            several = tlt.sweep(options.model, task, on=workers, **asked)
            alone.append(middle - begin)
            shared.append(time.perf_counter() - middle)
            pd.testing.assert_frame_equal(one.frame, several.frame, check_exact=True)
            print(f"one process {alone[-1]:.1f} s, {options.workers} workers {shared[-1]:.1f} s")
    ratio = statistics.median(alone) / statistics.median(shared)
    print(
        f"{len(one.settings)} settings x {options.prompts} prompts: {ratio:.2f}x, all numbers the same; "
        f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
