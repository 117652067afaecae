"""Noisy in-context recall from scratch, three seeds: `python benchmarks/recall.py`.

For each seed the time, the steps at which noise and recall are learnt, and the last row of the history:
in full, and with the second MLP dropped. `--preset official` is the published size and wants a GPU.
"""

import argparse
import time

import torch

from tl_truncate.toys import RecallConfig, train_recall


def main() -> None:
    """One paragraph for each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--preset", choices=("small", "official"), default="small")
    parser.add_argument("--loss", choices=("triggers", "everywhere"), default="triggers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for seed in options.seeds:
        config = getattr(RecallConfig, options.preset)(seed=seed, loss=options.loss)
        start = time.perf_counter()
        run = train_recall(config, device=options.device, progress=False)
        print(f"{run}\n  {time.perf_counter() - start:.0f} s, {options.threads} threads", flush=True)


if __name__ == "__main__":
    main()
