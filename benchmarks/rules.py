"""Every way of choosing what to cut, on prompts that had no say: `python benchmarks/rules.py`.

The demo model's late MLPs; each family chooses among as many settings on half of the prompts, and beside
each stands what the same search finds among as many random cuts. Folders are gone on with: `--seeds` and
`--tasks` can be given a few at a time. Means, moments and factors are of Python's own manual.
"""

import argparse
from pathlib import Path

import pandas as pd

import tl_truncate as tlt
from tl_truncate.cli.shared.tasks import BUILT_IN, make_task
from tl_truncate.statistics import shown_in

OBJECTIVES = ("p_in_context", "logit_diff")


def fitted(model, words, layers, out):
    """Token means, moments and factors, from their files where there are any."""
    texts = list(tlt.manual_texts(words))
    sites = tlt.find_sites(model, ("W_in", "W_out"), layers)
    place = f"{words}-{'-'.join(map(str, layers))}.safetensors"
    common = dict(max_tokens=256)
    means = tlt.TokenMeans.fit(model, texts, layers=layers, path=out / f"means-{place}", **common)
    moments = tlt.OutputMoments.fit(model, texts, sites=sites, path=out / f"moments-{place}", **common)
    factors = tlt.CurvatureFactors.fit(
        model, texts, sites=sites, path=out / f"factors-{place}", batch_size=4, **common
    )
    return means, dict(moments=moments, factors=factors)


def table(found, objective):
    """What each family's chosen cut is worth, takes and costs."""
    frame, rows = found.frame, {}
    for family, row in frame.drop(index="uncut").iterrows():
        seconds = found.sizes[family].seconds
        rows[family] = {
            "settings": int(row["settings"]),
            f"change of {objective}": shown_in(row, f"{objective}_change", signed=True),
            "q": f"{row[f'{objective}_change_q']:.3f}",
            "null": shown_in(row, "null_change", signed=True) if "null_change" in row else "",
            "over null": shown_in(row, "over_null", signed=True) if "over_null" in row else "",
            "kept": f"{row['kept']:.3f}",
            "energy": f"{row['removed_share']:.3f}",
            "perplexity": f"{row.get('perplexity', float('nan')):.1f}",
            "KL": f"{row.get('kl', float('nan')):.3f}",
            "seconds": f"{seconds:.0f}",
            "cut": row["cut"],
        }
    return pd.DataFrame(rows).T


def main():
    """Fits, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tasks", nargs="+", default=list(BUILT_IN))
    parser.add_argument("--n", type=int, default=100, help="prompts of a task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--layers", type=int, nargs="+", default=[20, 22, 23, 26, 27, 28, 29])
    parser.add_argument("--settings", type=int, default=24, help="that each family chooses among")
    parser.add_argument("--words", type=int, default=30_000)
    parser.add_argument("--objective", choices=OBJECTIVES, default="p_in_context")
    parser.add_argument("--out", type=Path, default=Path("runs/rules"))
    args = parser.parse_args()
    model = tlt.load_model(args.model)
    args.out.mkdir(parents=True, exist_ok=True)
    means, more = fitted(model, args.words, args.layers, args.out)
    for name in args.tasks:
        for seed in args.seeds:
            task = make_task(name, args.n, seed, model)
            found = tlt.compare_chosen(
                model,
                task,
                means,
                layers=args.layers,
                ways=tlt.Ways.every(),
                settings=args.settings,
                null=True,
                objective=args.objective,
                run_dir=args.out / f"{name}-{args.n}-{seed}-{args.settings}-{args.objective}",
                seed=seed,
                progress=False,
                **more,
            )
            print(f"\n{name}, seed {seed}\n{table(found, args.objective).to_string()}", flush=True)


if __name__ == "__main__":
    main()
