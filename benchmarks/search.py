"""What a search finds on each task, and whether it survives: `python benchmarks/search.py`.

SmolLM2-135M, all 90 MLP sites x 7 keeps, successive halving, chosen on half of the prompts and reported
on the other half with a paired 95% interval, beside random subspaces of the same ranks and the
cost in perplexity on running text. About two minutes a task and cut.
"""

import argparse
import time
from pathlib import Path

import torch

import tl_truncate as tlt
from tl_truncate.cli.shared.tasks import BUILT_IN, make_task


def main() -> None:
    """One line for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument("--greedy", type=int, default=1)
    parser.add_argument("--splits", type=int, default=1, help="5 give the optimism an interval")
    parser.add_argument("--null", action="store_true", help="the same search among random subspaces")
    parser.add_argument("--objective", default="logit_diff")
    parser.add_argument("--max-perplexity-ratio", type=float, help="none by default")
    parser.add_argument("--tasks", nargs="*", default=BUILT_IN)
    parser.add_argument(
        "--out", type=Path, help="a folder for each search's run; given again, it goes on"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = tlt.load_model("demo")
    sites = tlt.find_sites(model, ("W_in", "W_gate", "W_out"))
    for name in options.tasks:
        start = time.perf_counter()
        found = tlt.search(
            model,
            make_task(name, options.n, options.seed, model),
            sites=sites,
            greedy=options.greedy,
            objective=options.objective,
            max_perplexity_ratio=options.max_perplexity_ratio,
            splits=options.splits,
            null=options.null,
            run_dir=options.out / name if options.out else None,
            progress=False,
        )
        print(f"\n{name} ({time.perf_counter() - start:.0f} s)\n{found}", flush=True)


if __name__ == "__main__":
    main()
