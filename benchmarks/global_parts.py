"""The real model without the global part of its MLPs' outputs: chosen on half of the prompts, reported
on the other half.

Run: `python benchmarks/global_parts.py` (two cores: the fit some five minutes, IOI some ten more; with
`--task` for each further task). Means are fitted on Python's own manual, which holds no task prompt.
"""

import argparse
from pathlib import Path

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.cli.shared.tasks import make_task
from tl_truncate.corpora.texts import manual_texts
from tl_truncate.experiments.search.judge import split_task


def by_attribution(model, task, means, seed):
    """The layer whose global part pushes the global answer most, chosen on one half; the other half's
    scores without that part, without the MLP, and LASER-cut."""
    split = split_task(task, test_fraction=0.5, seed=seed)
    layer = tlt.part_attribution(model, split.validation, means=means, seed=seed).largest()[0]
    print(f"\n{task.name}: block {layer} has the global part that pushes the global answer most")
    ways = tlt.Ways(keeps=(0.5, 0.1, 0.01), ks=(8, 64), methods=("token_mean",))
    found = tlt.compare(model, split.test, layer, means, ways=ways, seed=seed, progress=False)
    print(found)
    for name in ("minus global, token_mean", "minus token part", "MLP dropped"):
        for metric in ("p_in_context", "p_global"):
            print(f"  {name}: change of {metric} {found.scores(name).change(metric)}")
    for name, cut in found.cuts.items():
        if name == "minus global, token_mean" or name.startswith("direction"):
            _controls(model, split.test, name, cut, found.baseline)


def _controls(model, task, name, cut, uncut):
    """Three draws of what a removal or a direction is to be compared with."""
    for draw in range(3):
        for kind, control in cut.controls(draw).items():
            scores = tlt.evaluate(model, task, control, baseline=uncut, progress=False)
            changes = [f"{metric} {scores.change(metric)}" for metric in ("p_in_context", "p_global")]
            print(f"  {name}, {kind} {draw}: change of {', '.join(changes)}")


def main():
    """Fits, chooses, reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--task", action="append")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--words", type=int, default=30_000)
    parser.add_argument("--layers", type=int, nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/global-parts"))
    args = parser.parse_args()
    model = tlt.load_model(args.model)
    texts = list(manual_texts(args.words))
    args.out.mkdir(parents=True, exist_ok=True)
    means = tlt.TokenMeans.fit(
        model,
        texts,
        max_tokens=256,
        path=args.out / f"means-{args.words}.safetensors",
    )
    print(means)
    for name in args.task or ["ioi"]:
        task = make_task(name, args.n, args.seed, model)
        uncut = tlt.evaluate(model, task, progress=False)
        print(f"\n{uncut}", flush=True)
        attribution = tlt.part_attribution(model, task, means=means, seed=args.seed)
        plots.save(plots.parts(attribution), args.out / f"{name}-parts.png")
        if name in ("ioi", "facts"):
            by_attribution(model, task, means, args.seed)
        found = tlt.compare_chosen(
            model,
            task,
            means,
            layers=args.layers,
            run_dir=args.out / f"{name}-{args.n}-{args.seed}",
            seed=args.seed,
        )
        print(f"\n{found}", flush=True)


if __name__ == "__main__":
    main()
