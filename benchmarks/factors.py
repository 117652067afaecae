"""What exact factors cost: `python benchmarks/factors.py [--threads 2] [--shape 2048 8192]`.

The alternative is `torch.linalg.svd` in float32, as LASER studies compute their truncations. Goals at
2048 x 8192 (an MLP matrix of Pythia-1B): at least 3x faster, from the disk cache at least 20x.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable

import torch

from tl_truncate.weights.spectra import cache
from tl_truncate.weights.spectra.factors import factorise


def timed(run: Callable[[], object]) -> tuple[float, object]:
    """Seconds and result of one call."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def main() -> None:
    """Measures all alternatives in one run, and their error against a float64 SVD if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shape", type=int, nargs=2, default=(2048, 8192))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.linalg.svd(torch.randn(64, 64))  # loads the libraries
    weight = torch.randn(*options.shape, generator=torch.Generator().manual_seed(0))

    def from_disk() -> object:
        cache._memory.clear()
        return cache.cached_factors(weight)

    with tempfile.TemporaryDirectory() as folder:
        os.environ["TL_TRUNCATE_CACHE"] = folder
        from_disk()  # fills the cache
        rounds = [
            (
                timed(lambda: torch.linalg.svd(weight, full_matrices=False)),
                timed(lambda: factorise(weight)),
                timed(from_disk),
            )
            for _ in range(options.repeats)
        ]
    names = ("torch.linalg.svd, float32", "factorise (exact)", "cached_factors, from disk")
    goals = ("", "goal >= 3x", "goal >= 20x")
    best = [min(each[index][0] for each in rounds) for index in range(3)]
    print(
        f"{options.shape[0]} x {options.shape[1]}, {options.threads} threads, best of {options.repeats}"
    )
    for name, value, goal in zip(names, best, goals, strict=True):
        print(f"  {name:<28}{value:9.3f} s  {best[0] / value:7.1f}x faster  {goal}")
    vh = rounds[0][0][1][2]
    exact = weight.double()
    half = len(vh) // 2
    ours = rounds[0][1][1]
    for name, v in (("torch.linalg.svd, float32", vh.T), ("factorise (exact)", ours.V)):
        v = v[:, :half].double()
        whole = exact @ v @ v.T
        best_rank = (ours.U[:, :half].double() * ours.S[:half].double()) @ ours.V[:, :half].double().T
        error = float((whole - best_rank).norm() / best_rank.norm())
        print(f"  {name:<28} relative distance to the rank-{half} truncation {error:.1e}")


if __name__ == "__main__":
    main()
