"""How well a first-order screen ranks cuts, and what it costs: `python benchmarks/attribute.py`.

SmolLM2-135M on indirect objects, all 90 MLP sites. The exact changes of the logit difference come from
`sweep`. Goals: Spearman with the exact effect >= .9 over keeps .9 and .95 without layer 0; cost <= 3% of
an exact grid of 90 sites x 7 keeps. The spectra are computed before, for both.
"""

import argparse
import time

import torch
from scipy.stats import spearmanr

import tl_truncate as tlt

KEEPS = [0.75, 0.9, 0.95]
GRID = 7


def main() -> None:
    """Prints correlations by keep, for layer 0 and the others, and both costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--n", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = tlt.load_model("demo")
    task = tlt.tasks.ioi(n=options.n, seed=0, tokenizer=model.tokenizer)
    sites = tlt.find_sites(model, ("W_in", "W_gate", "W_out"))
    for site in sites:
        tlt.spectrum(model, site)

    start = time.perf_counter()
    screen = tlt.attribute(model, task, sites=sites, progress=False)
    screening = time.perf_counter() - start
    start = time.perf_counter()
    exact = tlt.sweep(model, task, sites=sites, keeps=KEEPS, progress=False)
    a_setting = (time.perf_counter() - start) / len(exact.settings)

    frame = exact.frame[["site", "layer", "keep", "logit_diff_change"]]
    frame = frame.merge(screen.predict(KEEPS)[["site", "keep", "predicted_change"]], on=["site", "keep"])
    print(f"Spearman of predicted and exact change, {options.n} prompts, {len(sites)} sites")
    for keeps in (*([keep] for keep in KEEPS), [0.9, 0.95]):
        part = frame[frame["keep"].isin(keeps)]
        rest, first = part[part["layer"] > 0], part[part["layer"] == 0]
        own = spearmanr(first["predicted_change"], first["logit_diff_change"]).statistic
        value = spearmanr(rest["predicted_change"], rest["logit_diff_change"]).statistic
        together = spearmanr(part["predicted_change"], part["logit_diff_change"]).statistic
        name = " and ".join(f"{keep:g}" for keep in keeps)
        print(
            f"  keep {name:<13} {value:.3f} without layer 0, {together:.3f} with it; layer 0 alone "
            f"{own:.2f} ({len(first)} settings)"
        )
    small = frame[frame["predicted_change"].abs() < 0.02]["logit_diff_change"].abs()
    print(f"  largest exact change where less than .02 is predicted: {small.max():.2f} nats")
    grid = a_setting * GRID * len(sites)
    print(
        f"cost: {screening:.1f} s for all components of all sites; {a_setting:.3f} s an exact setting, "
        f"so {grid:.0f} s for {len(sites)} sites x {GRID} keeps: {screening / grid:.1%} (goal <= 3%)"
    )


if __name__ == "__main__":
    main()
