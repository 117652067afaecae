"""The README's picture and its numbers: `python benchmarks/hero.py --out docs/hero.png`.

Layer 23's W_gate of the demo model, half of its spectrum kept, was found on prompts of seed 0. Here it
is held against prompts of another seed: the paired change of p(name), beside random subspaces of its
rank, random ones of its norm, and no W_gate at all. The bars are of the
prompt where cut and control change p(name) most nearly as they do on average.
"""

import argparse
from pathlib import Path

import tl_truncate as tlt
from tl_truncate.cli.showcase import FOUND, FOUND_ON, fresh_prompts, make_showcase


def main() -> None:
    """Prints each change with its interval and the cost on running text, and draws them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--site", default=str(FOUND.site))
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--out", type=Path, help="where to draw the picture")
    options = parser.parse_args()
    model = tlt.load_model(options.model)
    task = fresh_prompts(model, n=options.n, seed=options.seed)
    cut = tlt.Cut(options.site, options.keep)
    found = make_showcase(model, task, cut, draws=options.draws)
    print(f"prompts of seed {options.seed}, {options.n - len(task)} left out that seed {FOUND_ON} drew")
    print(found)
    print(tlt.side_effects(model, cut))
    if options.out:
        tlt.plots.save(found.draw(), options.out)


if __name__ == "__main__":
    main()
