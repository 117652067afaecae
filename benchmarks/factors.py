"""What exact factors cost: `python benchmarks/factors.py [--threads 2] [--device cuda]`.

The alternative is `torch.linalg.svd` in float32, as LASER studies compute their truncations. Goals at
2048 x 8192 (an MLP matrix of Pythia-1B): at least 3x faster, from the disk cache at least 20x.
"""

import argparse
import os
import tempfile

import torch
from clock import add_device, name_of, timed

from tl_truncate.weights.spectra import cache
from tl_truncate.weights.spectra.factors import factorise


def main() -> None:
    """Measures all alternatives in one run, and their error against a float64 SVD if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shape", type=int, nargs=2, default=(2048, 8192))
    parser.add_argument("--repeats", type=int, default=3)
    add_device(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = options.device
    torch.linalg.svd(torch.randn(64, 64, device=device))  # loads the libraries
    factorise(torch.randn(64, 64, device=device))
    weight = torch.randn(*options.shape, generator=torch.Generator().manual_seed(0)).to(device)

    def from_disk() -> object:
        cache._memory.clear()
        return cache.cached_vectors(weight).rows(slice(None))

    with tempfile.TemporaryDirectory() as folder:
        os.environ["TL_TRUNCATE_CACHE"] = folder
        from_disk()  # fills the cache
        rounds = [
            (
                timed(lambda: torch.linalg.svd(weight, full_matrices=False), device),
                timed(lambda: factorise(weight), device),
                timed(from_disk, device),
            )
            for _ in range(options.repeats)
        ]
    names = ("torch.linalg.svd, float32", "factorise (exact)", "cached_vectors, from disk")
    goals = ("", "goal >= 3x", "goal >= 20x")
    best = [min(each[index] for each in rounds) for index in range(3)]
    print(f"{options.shape[0]} x {options.shape[1]}, {name_of(device)}, best of {options.repeats}")
    for name, value, goal in zip(names, best, goals, strict=True):
        print(f"  {name:<28}{value:9.3f} s  {best[0] / value:7.1f}x faster  {goal}")
    vh = torch.linalg.svd(weight, full_matrices=False)[2]
    exact = weight.double()
    half = len(vh) // 2
    ours = factorise(weight)
    for name, v in (("torch.linalg.svd, float32", vh.T), ("factorise (exact)", ours.V)):
        v = v[:, :half].double()
        whole = exact @ v @ v.T
        best_rank = (ours.U[:, :half].double() * ours.S[:half].double()) @ ours.V[:, :half].double().T
        error = float((whole - best_rank).norm() / best_rank.norm())
        print(f"  {name:<28} relative distance to the rank-{half} truncation {error:.1e}")


if __name__ == "__main__":
    main()
