"""The nano-Pythia, trained and asked: `python benchmarks/nano_pythia.py --seeds 0 1 2 --out runs/nano`.

For each seed: the training (six minutes on one core; a folder that holds it is not trained again), the
steps at which the global and the in-context answer are learnt, and one cut, chosen on half of the
prompts at the last checkpoint and reported on the other half at every checkpoint, beside a random
subspace of the same rank. `--ship FOLDER` writes the checkpoints that the package has, from the first
seed.
"""

import argparse
from pathlib import Path

import tl_truncate as tlt
from tl_truncate.experiments.search.judge import split_task
from tl_truncate.plots import dynamics as draw
from tl_truncate.plots import save
from tl_truncate.statistics import shown_in
from tl_truncate.surgery.controls import DRAWS
from tl_truncate.toys.nano.nano import NanoConfig, nano_pythia, ship

LEARNT = 0.3


def main() -> None:
    """One paragraph and one figure for each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/nano"))
    parser.add_argument("--ship", type=Path)
    options = parser.parse_args()
    for seed in options.seeds:
        run = nano_pythia(options.out / f"seed{seed}", NanoConfig(seed=seed), resume=True)
        if options.ship and seed == options.seeds[0]:
            ship(run, options.ship)
        model = run.load()
        task = tlt.tasks.ioi(options.n, seed=0, tokenizer=model.tokenizer)
        sites = tlt.find_sites(model, ("W_in", "W_out"))
        found = tlt.search(model, task, sites=sites, max_perplexity_ratio=None, texts=(), progress=False)
        test = split_task(task, test_fraction=0.5, seed=0).test
        cuts = {
            "cut": found.cuts,
            **{
                f"random{f' #{seed + 1}' if seed else ''}": [
                    tlt.RandomSubspace(cut.site, cut.keep, seed) for cut in found.cuts
                ]
                for seed in range(DRAWS)
            },
        }
        name = f"nano-pythia, seed {seed}"
        history = tlt.dynamics(run.load, run.checkpoints, test, cuts, name=name, progress=False)
        print(f"\nseed {seed}: {found.cuts}\n{history}")
        for metric in ("p_global", "p_in_context"):
            print(f"  {metric} > {LEARNT} first at step {history.first_step(metric, LEARNT)}")
        last = run.checkpoints[-1]
        rows = history.frame[history.frame["step"] == last].set_index("cut")
        for name in history.names[1:]:
            change = shown_in(rows.loc[name], "p_in_context_change", signed=True)
            print(f"  held out, step {last}, {name}: p_in_context changes by {change}", flush=True)
        save(draw(history), options.out / f"dynamics-seed{seed}.png")


if __name__ == "__main__":
    main()
