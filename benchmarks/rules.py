"""Every way of choosing what to cut, on prompts that had no say: `python benchmarks/rules.py`.

Each family has as many settings, and its null as many random cuts of the same sites and ranks. All are
scored on all prompts once. Then, for each seed of the split, the family's best setting on one half is
reported on the other half, and so is the null's best: what the same choice finds by chance. Changes are
pooled over the splits, each prompt counted once. Masks are learned anew for
each split, or for some.

The demo model's late MLPs on nine tasks; means, moments and factors are of Python's own manual. With
`--recall tests/data/recall/triggers-* tests/data/recall/everywhere-*` the second MLP of trained recall
models, whose answer is known. Folders are gone on with, so tasks can be given a few at a time; `--docs
FOLDER` writes the figure.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import tl_truncate as tlt
from tl_truncate.cli.shared.tasks import BUILT_IN, make_task
from tl_truncate.corpora.texts import sample_texts
from tl_truncate.decompose.covariances.removed import removed_share
from tl_truncate.experiments.comparison.families import LEARNED, as_many, last_token, learnable_sites
from tl_truncate.experiments.scoring.estimates import estimate_changes
from tl_truncate.experiments.search.judge import split_task
from tl_truncate.experiments.search.placebos import placebos_of
from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.statistics import q_values, shown
from tl_truncate.surgery.cut import Cuts
from tl_truncate.toys import RecallRun

METRICS = ("p_in_context", "logit_diff")


@dataclass(frozen=True)
class Subject:
    """A model with what was fitted on it, and a task of it.

    Attributes:
        name: of the task.
        model: that is cut.
        layers: to choose from.
        fitted: token means, moments and factors.
        task: prompts and answers.
        texts: running text.
    """

    name: str
    model: Any
    layers: tuple[int, ...]
    fitted: dict[str, Any]
    task: tlt.Task
    texts: tuple[str, ...]


@dataclass
class Found:
    """Of one family: changes by prompt under what each split chose, where the prompt had no say.

    Attributes:
        settings: to choose from.
        seconds: that scoring them, or learning, took.
        changes: by metric, `[split, prompt]`, NaN where the prompt was chosen on.
        null: likewise under what the null chose; all NaN without one.
        cuts: that each split chose.
    """

    settings: int
    seconds: float
    changes: dict[str, list[np.ndarray]] = field(default_factory=lambda: {each: [] for each in METRICS})
    null: dict[str, list[np.ndarray]] = field(default_factory=lambda: {each: [] for each in METRICS})
    cuts: list[Cuts] = field(default_factory=list)


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
    fitted = fit(model, texts, layers, place, max_tokens=256, progress=False)
    for name in args.tasks:
        task = make_task(name, args.n, args.prompts_seed, model)
        yield Subject(name, model, layers, fitted, task, tuple(sample_texts()[: args.texts]))


def of_recall(args) -> Iterator[Subject]:
    """Trained recall models, fitted on noisy sequences and asked for clean ones."""
    for folder in args.recall:
        run = RecallRun.load(folder)
        corpus = torch.from_numpy(run.config.data.sample(512, seed=(5, 5)).inputs.copy())
        fitted = fit(run.model, corpus, (1,), progress=False)
        task = run.task(args.n, seed=args.prompts_seed)
        yield Subject(folder.name, run.model, (1,), fitted, task, ())


def families_of(subject: Subject, settings: int) -> dict[str, list[Any]]:
    """As many cuts of each."""
    token = last_token(subject.model, subject.task)
    more = {name: subject.fitted[name] for name in ("moments", "factors")}
    every = tlt.Ways.every()
    found = every.families(subject.model, subject.fitted["means"], subject.layers, token, **more)
    return as_many(found, settings, 0)


def sides(subject: Subject, seed: int) -> np.ndarray:
    """Which prompts report, by place; equal prompts are on one side."""
    tests = set(split_task(subject.task, test_fraction=0.5, seed=seed).test.prompts)
    return np.array([prompt in tests for prompt in subject.task.prompts])


def changes_of(result: tlt.SweepResult, cut: Any) -> dict[str, np.ndarray]:
    """By metric, of each prompt."""
    scores = result.scores_of(cut)
    return {each: (scores.frame[each] - scores.baseline.frame[each]).to_numpy() for each in METRICS}


def chosen(
    table: Sequence[dict[str, np.ndarray]], tests: np.ndarray, objective: str
) -> tuple[int | None, dict[str, np.ndarray]]:
    """What is best where it is not reported, and its changes where it is; nothing if nothing helps."""
    gains = [float(row[objective][~tests].mean()) for row in table]
    best = int(np.argmax(gains)) if gains and max(gains) > 0 else None
    own = {each: np.zeros(len(tests)) for each in METRICS} if best is None else table[best]
    return best, {each: np.where(tests, own[each], np.nan) for each in METRICS}


def folder_of(subject: Subject, name: str, args) -> Path:
    """Where a family's run is kept."""
    place = f"{subject.name}-{len(subject.task)}-{args.prompts_seed}-{args.settings}"
    return args.out / place / name.replace(" ", "-")


def of_grid(subject: Subject, family: str, cuts: list[Any], args) -> Found:
    """A family whose settings can be listed."""
    placebos = placebos_of(subject.model, cuts, 0)
    start = time.perf_counter()
    options = dict(sites=[], keeps=[], metrics=METRICS, progress=False)
    place = folder_of(subject, family, args)
    result = tlt.sweep(subject.model, subject.task, cuts=cuts, run_dir=place, **options)
    found = Found(len(cuts), time.perf_counter() - start)
    beside = folder_of(subject, f"{family} null", args)
    nulls = placebos and tlt.sweep(subject.model, subject.task, cuts=placebos, run_dir=beside, **options)
    own = [changes_of(result, cut) for cut in cuts]
    random = [changes_of(nulls, cut) for cut in placebos]
    for seed in args.seeds:
        tests = sides(subject, seed)
        best, changes = chosen(own, tests, args.objective)
        _, by_chance = chosen(random, tests, args.objective)
        found.cuts.append(Cuts() if best is None else Cuts(cuts[best]))
        for each in METRICS:
            found.changes[each].append(changes[each])
            found.null[each].append(by_chance[each] if random else np.full(len(tests), np.nan))
    return found


def of_mask(subject: Subject, args) -> Found:
    """Learned, for each of some splits anew, in as many steps as others have settings."""
    found = Found(args.settings, 0.0)
    for seed in args.seeds[: args.masks]:
        start = time.perf_counter()
        mask = tlt.learn_mask(
            subject.model,
            subject.task,
            sites=learnable_sites(subject.model, subject.layers),
            objective=args.objective,
            steps=args.settings,
            null=True,
            draws=1,
            texts=(),
            run_dir=folder_of(subject, f"{LEARNED} {seed} {args.objective}", args),
            seed=seed,
            progress=False,
        )
        found.seconds += (time.perf_counter() - start) / len(args.seeds[: args.masks])
        found.cuts.append(mask.cuts)
        for each in METRICS:
            found.changes[each].append(on_all(subject, mask, each))
            found.null[each].append(on_all(subject, mask.null, each))
    return found


def on_all(subject: Subject, result: tlt.SearchResult, metric: str) -> np.ndarray:
    """A search's changes by prompt of the whole task, NaN where it chose."""
    (scores,) = result.test.values()
    base = scores if scores.baseline is None else scores.baseline
    by_prompt = dict(
        zip(map(repr, scores.frame["prompt"]), scores.frame[metric] - base.frame[metric], strict=True)
    )
    return np.array([by_prompt.get(repr(prompt), np.nan) for prompt in shown_prompts(subject)])


def shown_prompts(subject: Subject) -> list[str]:
    """The task's prompts as tables of scores have them."""
    frame = tlt.evaluate(subject.model, subject.task, progress=False).frame
    return list(frame["prompt"])


def pooled(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Each prompt once: the mean over the splits in which it had no say."""
    values = np.stack(parts)
    seen = ~np.isnan(values).all(0)
    return np.nanmean(values[:, seen], 0)


def costs(subject: Subject, cuts: Cuts, args) -> tuple[float, float, float]:
    """Change of the loss on running text in nats, perplexity and KL; from a file where there is one."""
    if not subject.texts:
        return (float("nan"),) * 3
    if not cuts:
        return 0.0, float("nan"), 0.0
    key = hashlib.blake2b(" ".join(map(setting_key, cuts)).encode(), digest_size=8).hexdigest()
    path = args.out / "costs" / f"{len(subject.texts)}-{key}.json"
    if not path.exists():
        tlt.side_effects(subject.model, cuts, subject.texts, progress=False).save(path)
    effects = tlt.SideEffects.load(path)
    return float(effects.loss_change), float(effects.perplexity), float(effects.kl)


def row(subject: Subject, found: Found, args) -> dict[str, Any]:
    """One line of the table."""
    told: dict[str, Any] = {}
    for metric in METRICS:
        change = estimate_changes(metric, pooled(found.changes[metric]))
        told |= {metric: change, f"{metric}_p": change.p}
    own, null = found.changes[args.objective], found.null[args.objective]
    if not np.isnan(null).all():
        over = estimate_changes(args.objective, pooled([a - b for a, b in zip(own, null, strict=True)]))
        told |= dict(null=float(np.mean(pooled(null))), over=over, over_p=over.p)
    paid = pd.DataFrame([costs(subject, cuts, args) for cuts in found.cuts]).mean()  # of what there is
    moments, factors = subject.fitted["moments"], subject.fitted["factors"]
    shares = [
        removed_share(subject.model, cuts, moments, factors) if cuts else 0.0 for cuts in found.cuts
    ]
    kept = [kept_share(subject.model, cuts) for cuts in found.cuts]
    told |= dict(loss=paid[0], perplexity=paid[1], kl=paid[2], energy=np.mean(shares))
    told |= dict(settings=found.settings, seconds=found.seconds, kept=np.mean(kept))
    return told | dict(cuts="; ".join(", ".join(map(repr, cuts)) or "none" for cuts in found.cuts))


def kept_share(model: Any, cuts: Cuts) -> float:
    """Of the full rank of the sites that are cut; NaN where it depends on the tokens."""
    if any(cut.reads_tokens for cut in cuts):
        return float("nan")
    ranks = [min(tlt.spectrum(model, cut.site).shape) for cut in cuts]
    left = [min(cut.kept_rank(model), rank) for cut, rank in zip(cuts, ranks, strict=True)]
    return sum(left) / sum(ranks) if cuts else 1.0


def table(subject: Subject, args) -> pd.DataFrame:
    """Families down."""
    rows = {}
    for family, cuts in families_of(subject, args.settings).items():
        rows[family] = row(subject, of_grid(subject, family, cuts, args), args)
    rows[LEARNED] = row(subject, of_mask(subject, args), args)
    frame = pd.DataFrame(rows).T
    for name in (*METRICS, "over"):
        frame[f"{name}_q"] = q_values(frame[f"{name}_p"].astype(float))
    return frame


def cell(value: Any, q: float) -> str:
    """A change with its interval, starred where it is clear among families."""
    if not isinstance(value, tlt.Estimate):
        return "–"
    return shown(float(value), value.low, value.high, signed=True) + ("*" if q < 0.05 else "")


def told_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A task's table as it is printed."""
    found = {}
    for family, each in frame.iterrows():
        cells = {f"change of {name}": cell(each[name], each[f"{name}_q"]) for name in METRICS}
        cells |= {"null": f"{each['null']:+.3f}" if pd.notna(each["null"]) else "–"}
        cells |= {"over null": cell(each["over"], each["over_q"])}
        numbers = dict(
            kept=".3f", energy=".3f", loss=".3f", perplexity=".1f", kl=".3f", settings="d", seconds=".0f"
        )
        cells |= {name: format(each[name], digits) for name, digits in numbers.items()}
        found[family] = cells
    return pd.DataFrame(found).T


def summary(tables: dict[str, pd.DataFrame], objective: str) -> str:
    """Families down, tasks across; a star: the change is clear; a plus: it is above its null's."""
    cells = {
        name: pd.Series(
            {
                family: cell(each[objective], each[f"{objective}_q"])
                + ("+" if each["over_q"] < 0.05 and float(each["over"]) > 0 else "")
                for family, each in frame.iterrows()
            }
        )
        for name, frame in tables.items()
    }
    return markdown(pd.DataFrame(cells).reindex(families(tables)).fillna("–"))


def families(tables: dict[str, pd.DataFrame]) -> list[str]:
    """Of all tasks; one that ends in a token which the means have not seen has no direction."""
    return list(max(tables.values(), key=len).index)


def means(tables: dict[str, pd.DataFrame], objective: str) -> str:
    """Families' means over tasks, and on how many they are clear."""
    found = {}
    for family in families(tables):
        have = {name: frame.loc[family] for name, frame in tables.items() if family in frame.index}
        own = pd.DataFrame(have).T
        numbers = own[[*METRICS, "null", "loss", "kl", "kept", "energy", "seconds"]].astype(float).mean()
        helps = (own[f"{objective}_q"] < 0.05) & (own[objective].astype(float) > 0)
        hurts = (own[f"{objective}_q"] < 0.05) & (own[objective].astype(float) < 0)
        over = (own["over_q"] < 0.05) & (own["over"].astype(float) > 0)
        found[family] = numbers.round(3).to_dict() | {
            "tasks": len(own),
            "helps": int(helps.sum()),
            "hurts": int(hurts.sum()),
            "above null": int(over.sum()),
        }
    return markdown(pd.DataFrame(found).T)


def markdown(frame: pd.DataFrame) -> str:
    """A table for the documentation."""
    rows = [["family", *frame.columns], ["---"] * (1 + len(frame.columns))]
    rows += [[name, *each] for name, each in zip(frame.index, frame.to_numpy(), strict=True)]
    return "\n".join("| " + " | ".join(map(str, each)) + " |" for each in rows)


def picture(tables: dict[str, pd.DataFrame], objective: str, path: Path) -> None:
    """Families down, tasks across; crosses are nulls; the last panel has the KL on running text."""
    from matplotlib.figure import Figure

    names = families(tables)
    width, height = 1.6 + 1.25 * (len(tables) + 1), 0.26 * len(names) + 1.2
    figure = Figure(figsize=(width, height), layout="constrained", dpi=130)
    *axes, cost = figure.subplots(1, len(tables) + 1, sharey=True)
    for axis, (name, frame) in zip(axes, tables.items(), strict=True):
        places = np.array([names.index(family) for family in frame.index])
        values = frame[objective].astype(float)
        ends = np.array(
            [
                [value - each.low, each.high - value]
                for value, each in zip(values, frame[objective], strict=True)
            ]
        )
        axis.errorbar(
            values, places, xerr=ends.T.clip(0), fmt="o", color="#0072B2", markersize=3, elinewidth=0.9
        )
        axis.plot(frame["null"].astype(float), places, "x", color="0.55", markersize=4)
        axis.set_title(name.replace("_", "\n"), fontsize=7)
        cost.plot(frame["kl"].astype(float), places, ".", color="#009E73", markersize=4)
    cost.set_title("KL on text,\nnats", fontsize=7)
    for axis in (*axes, cost):
        axis.axvline(0, color="black", linewidth=0.8)
        axis.tick_params(labelsize=6)
        axis.grid(axis="x", linewidth=0.3)
    axes[0].set_yticks(range(len(names)), names, fontsize=7)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.savefig(path)


def main() -> None:
    """Fits, scores, chooses, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tasks", nargs="+", default=list(BUILT_IN))
    parser.add_argument("--recall", nargs="+", type=Path, help="run folders of train_recall, instead")
    parser.add_argument("--n", type=int, default=60, help="prompts of a task")
    parser.add_argument("--prompts-seed", type=int, default=11)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the splits")
    parser.add_argument("--masks", type=int, default=3, help="splits for which a mask is learned")
    parser.add_argument("--layers", type=int, nargs="+", default=[20, 22, 23, 26, 27, 28, 29])
    parser.add_argument("--settings", type=int, default=12, help="that each family chooses among")
    parser.add_argument("--texts", type=int, default=24, help="passages of running text for the cost")
    parser.add_argument("--words", type=int, default=30_000)
    parser.add_argument("--objective", choices=METRICS, default="p_in_context")
    parser.add_argument("--out", type=Path, default=Path("runs/rules"))
    parser.add_argument("--docs", type=Path, help="where rules.png is written")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tables = {}
    for subject in of_recall(args) if args.recall else of_language(args):
        tables[subject.name] = table(subject, args)
        frame = told_of(tables[subject.name])
        print(f"\n{subject.name}\n{frame.to_string()}", flush=True)
        print("\n".join(tables[subject.name]["cuts"]), flush=True)
    print(f"\n{summary(tables, args.objective)}\n\n{means(tables, args.objective)}")
    if args.docs is not None:
        picture(tables, args.objective, args.docs / "rules.png")


if __name__ == "__main__":
    main()
