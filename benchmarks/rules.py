"""Every way of choosing what to cut, on prompts that had no say: `python benchmarks/rules.py`.

Each family chooses among as many settings on half of the prompts, and beside each stands what the same
search finds among as many random cuts of the same sites and ranks. The demo model's late MLPs on nine
tasks, with fresh prompts and another split for each seed; means, moments and factors are of Python's own
manual. With `--recall tests/data/recall/triggers-* tests/data/recall/everywhere-*` the second MLP of
trained recall models, whose answer is known. Folders are gone on with, so `--seeds` and `--tasks` can be
given a few at a time; `--docs FOLDER` writes the figure.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.cli.shared.tasks import BUILT_IN, make_task
from tl_truncate.experiments.scoring.estimates import estimate_changes
from tl_truncate.statistics import q_values, shown, shown_in
from tl_truncate.toys import RecallRun

OBJECTIVES = ("p_in_context", "logit_diff")
#: Also shown, whatever the objective.
BESIDE = ("p_in_context", "logit_diff")


@dataclass(frozen=True)
class Subject:
    """A model with what was fitted on it, and a task of it.

    Attributes:
        name: of the task.
        model: that is cut.
        layers: to choose from.
        fitted: token means, moments and factors.
        task: by its seed.
        texts: running text; None for the sample that ships.
    """

    name: str
    model: Any
    layers: tuple[int, ...]
    fitted: dict[str, Any]
    task: Callable[[int], tlt.Task]
    texts: tuple[str, ...] | None = None


def fit(model, rows, layers, place=None, **common):
    """Token means, moments and factors, from their files where there are any."""
    sites = tlt.find_sites(model, ("W_in", "W_out"), layers)

    def path(kind):
        return None if place is None else place.with_name(f"{kind}-{place.name}")

    means = tlt.TokenMeans.fit(model, rows, layers=layers, path=path("means"), **common)
    moments = tlt.OutputMoments.fit(model, rows, sites=sites, path=path("moments"), **common)
    factors = tlt.CurvatureFactors.fit(
        model, rows, sites=sites, path=path("factors"), batch_size=4, **common
    )
    return dict(means=means, moments=moments, factors=factors)


def of_language(args) -> Iterator[Subject]:
    """The demo model, or another."""
    model, layers = tlt.load_model(args.model), tuple(args.layers)
    texts = list(tlt.manual_texts(args.words))
    place = args.out / f"{args.words}-{'-'.join(map(str, layers))}.safetensors"
    fitted = fit(model, texts, layers, place, max_tokens=256)
    for name in args.tasks:
        yield Subject(
            name, model, layers, fitted, lambda seed, name=name: make_task(name, args.n, seed, model)
        )


def of_recall(args) -> Iterator[Subject]:
    """Trained recall models, fitted on noisy sequences and asked for clean ones."""
    for folder in args.recall:
        run = RecallRun.load(folder)
        corpus = torch.from_numpy(run.config.data.sample(512, seed=(5, 5)).inputs.copy())
        fitted = fit(run.model, corpus, (1,), progress=False)
        yield Subject(
            folder.name, run.model, (1,), fitted, lambda seed, run=run: run.task(args.n, seed=seed), ()
        )


def compare(subject: Subject, seed: int, args) -> tlt.ChosenComparison:
    """Each family's best cut."""
    run = f"{subject.name}-{args.n}-{seed}-{args.settings}-{args.objective}"
    return tlt.compare_chosen(
        subject.model,
        subject.task(seed),
        layers=subject.layers,
        ways=tlt.Ways.every(),
        settings=args.settings,
        null=True,
        objective=args.objective,
        texts=subject.texts,
        run_dir=args.out / run,
        seed=seed,
        progress=False,
        **subject.fitted,
    )


def table(found: tlt.ChosenComparison, objective: str) -> pd.DataFrame:
    """What each family's chosen cut is worth, takes and costs."""
    rows = {}
    for family, row in found.frame.drop(index="uncut").iterrows():
        changes = {f"change of {each}": told(row, f"{each}_change") for each in BESIDE}
        rows[family] = changes | {
            "q": f"{row[f'{objective}_change_q']:.3f}",
            "null": told(row, "null_change"),
            "over null": told(row, "over_null"),
            "kept": f"{row['kept']:.3f}",
            "energy": f"{row['removed_share']:.3f}",
            "perplexity": f"{row.get('perplexity', float('nan')):.1f}",
            "KL": f"{row.get('kl', float('nan')):.3f}",
            "settings": int(row["settings"]),
            "seconds": f"{found.sizes[family].seconds:.0f}",
            "cut": row["cut"],
        }
    return pd.DataFrame(rows).T


def told(row: pd.Series, name: str) -> str:
    """A change with its interval, if there is one."""
    return shown_in(row, name, signed=True) if pd.notna(row.get(name)) else ""


def pooled(comparisons: list[tlt.ChosenComparison], objective: str) -> pd.DataFrame:
    """Over the seeds of one task, whose prompts differ: changes, and those over the null."""
    changes, over = defaultdict(list), defaultdict(list)
    for found in comparisons:
        for family, result in found.found.items():
            scores = result.test[found.task]
            own = scores.frame[objective]
            base = own if scores.baseline is None else scores.baseline.frame[objective]
            changes[family].append(own - base)
            if result.null is not None:
                over[family].append(own - result.null.test[found.task].frame[objective])
    rows = {}
    for family, parts in changes.items():
        change = estimate_changes(objective, np.concatenate(parts))
        rows[family] = dict(change=float(change), low=change.low, high=change.high, p=change.p)
        if over[family]:
            more = estimate_changes(objective, np.concatenate(over[family]))
            rows[family] |= dict(over=float(more), over_low=more.low, over_high=more.high, over_p=more.p)
    frame = pd.DataFrame(rows).T
    return frame.assign(q=q_values(frame["p"]), over_q=q_values(frame["over_p"]))


def summary(by_task: dict[str, list[tlt.ChosenComparison]], objective: str) -> str:
    """Families down, tasks across: the pooled change; a star where it is clear (q < .05), another where
    it is clear of the null's.
    """
    cells = {}
    for name, comparisons in by_task.items():
        frame = pooled(comparisons, objective)
        stars = np.where(frame["q"] < 0.05, "*", "") + np.where(
            (frame["over_q"] < 0.05) & (frame["over"] > 0), "+", ""
        )
        cells[name] = [
            f"{shown(*row, signed=True)}{star}"
            for row, star in zip(frame[["change", "low", "high"]].to_numpy(), stars, strict=True)
        ]
        families = frame.index
    return markdown(pd.DataFrame(cells, index=families))


def markdown(frame: pd.DataFrame) -> str:
    """A table for the documentation."""
    rows = [["family", *frame.columns], ["---"] * (1 + len(frame.columns))]
    rows += [[name, *row] for name, row in zip(frame.index, frame.to_numpy(), strict=True)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def costs(by_task: dict[str, list[tlt.ChosenComparison]]) -> str:
    """Families' means over tasks and seeds of what the chosen cuts take and cost."""
    columns = ["kept", "removed_share", "loss_change", "kl"]
    frames, seconds = [], defaultdict(list)
    for found in (each for comparisons in by_task.values() for each in comparisons):
        frames.append(found.frame.drop(index="uncut").reindex(columns=columns))
        for family, size in found.sizes.items():
            seconds[family].append(size.seconds)
    means = pd.concat(frames).groupby(level=0, sort=False).mean()
    means["seconds"] = pd.Series({family: np.mean(each) for family, each in seconds.items()})
    return markdown(means.round(3))


def main() -> None:
    """Fits, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tasks", nargs="+", default=list(BUILT_IN))
    parser.add_argument("--recall", nargs="+", type=Path, help="run folders of train_recall, instead")
    parser.add_argument("--n", type=int, default=100, help="prompts of a task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--layers", type=int, nargs="+", default=[20, 22, 23, 26, 27, 28, 29])
    parser.add_argument("--settings", type=int, default=24, help="that each family chooses among")
    parser.add_argument("--words", type=int, default=30_000)
    parser.add_argument("--objective", choices=OBJECTIVES, default="p_in_context")
    parser.add_argument("--out", type=Path, default=Path("runs/rules"))
    parser.add_argument("--docs", type=Path, help="where rules.png and rules.html are written")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    by_task: dict[str, list[tlt.ChosenComparison]] = {}
    for subject in of_recall(args) if args.recall else of_language(args):
        for seed in args.seeds:
            found = compare(subject, seed, args)
            by_task.setdefault(subject.name, []).append(found)
            print(
                f"\n{subject.name}, seed {seed}\n{table(found, args.objective).to_string()}", flush=True
            )
    print(f"\nAll seeds together\n{summary(by_task, args.objective)}\n\n{costs(by_task)}")
    if args.docs is not None:
        first = [comparisons[0] for comparisons in by_task.values()]
        plots.families(first).savefig(args.docs / "rules.png")
        tlt.write_report(first, args.docs / "rules.html")


if __name__ == "__main__":
    main()
