"""Two first-order screens against exact effects, and their cost: `python benchmarks/screening.py`.

SmolLM2-135M on indirect objects. `attribute` predicts a cut by the sum of `-S_i dm/dS_i` over what it
removes, `singular_value_gradients` ranks by the sum of `-dm/dS_i`: the same pass there and back, without
the values' sizes. The exact changes of the logit difference come from `sweep`. Of sites Spearman is
between their scores and the best change of any keep. Spectra are computed before.
"""

import argparse
import time

import torch
from scipy.stats import spearmanr

import tl_truncate as tlt
from tl_truncate.experiments.scoring.answers import plan_batches
from tl_truncate.tasks.encode import encode

KEEPS = [0.5, 0.75, 0.9, 0.95, 0.99]


def main() -> None:
    """Prints costs, and correlations by keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--n", type=int, default=60, help="prompts")
    parser.add_argument("--layers", type=int, nargs="*", help="all by default")
    parser.add_argument("--matrices", nargs="*", default=["W_in", "W_gate", "W_out"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = tlt.load_model("demo")
    task = tlt.tasks.ioi(n=options.n, seed=0, tokenizer=model.tokenizer)
    sites = tlt.find_sites(model, options.matrices, options.layers)
    for site in sites:
        tlt.spectrum(model, site)
    passes = len(plan_batches([encode(model, task)], 32, apart=True))

    start = time.perf_counter()
    screen = tlt.attribute(model, task, sites=sites, progress=False)
    predicting = time.perf_counter() - start
    start = time.perf_counter()
    gradients = tlt.singular_value_gradients(model, task, sites=sites, progress=False)
    values = time.perf_counter() - start
    start = time.perf_counter()
    exact = tlt.sweep(model, task, sites=sites, keeps=KEEPS, progress=False).frame
    exactly = time.perf_counter() - start

    print(f"{options.n} prompts, {len(sites)} sites, {options.threads} threads")
    print(f"  attribute                 {predicting:6.1f} s, {passes} passes there and back")
    print(f"  singular_value_gradients  {values:6.1f} s, {passes} passes there and back")
    print(f"  sweep, {len(KEEPS)} keeps            {exactly:6.1f} s, {len(exact)} settings")
    exact["predicted"] = [
        float(screen.effect(*each)) for each in zip(exact["site"], exact["keep"], strict=True)
    ]
    exact["shrinking"] = [
        gradients.shrinking(*each) for each in zip(exact["site"], exact["keep"], strict=True)
    ]
    for title, rows in (("all layers", exact), ("without layer 0", exact[exact["layer"] > 0])):
        print(f"Spearman with the exact change of the logit difference, {title}")
        for keep, part in [*rows.groupby("keep"), ("all", rows)]:
            one, other = (
                spearmanr(part[column], part["logit_diff_change"]).statistic
                for column in ("predicted", "shrinking")
            )
            print(
                f"  keep {keep!s:<5} attribute {one:+.2f}, singular values {other:+.2f} "
                f"({len(part)} cuts)"
            )
    best = exact.groupby("site")["logit_diff_change"].max()
    sites_ = gradients.sites.set_index("site").loc[best.index]
    predicted = exact.groupby("site")["predicted"].max()
    scores = {name: sites_[name] for name in ("score", "share", "norm")} | {
        "attribute's best": predicted
    }
    told = ", ".join(f"{name} {spearmanr(each, best).statistic:+.2f}" for name, each in scores.items())
    print(f"Spearman of a site's score with the best exact change at it: {told}")


if __name__ == "__main__":
    main()
