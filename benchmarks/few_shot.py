"""What shared beginnings of prompts save: `python benchmarks/few_shot.py [--layers 3 --prompts 32]`.

The same settings of a sweep with and without trees of tokens, in turns in one run, in seconds of a core;
the numbers of both are compared too. Questions of 12 to 20 tokens behind the same 200 to 1000 tokens of
demonstrations, on a random GPT-NeoX of Pythia-160m's shape and on the demo model; and `ioi` and
`factual_recall` as they are, and prompts that share nothing, on the demo model.

A setting costs what lies above its block, so a few layers spread evenly say what all of them do: the
ratio is that of the times of all settings, summed. Both sides begin with a baseline pass, which is
reported apart.

Goals: >= 6x behind demonstrations, >= 1.15x on `ioi` and `factual_recall`, >= .97x where nothing is
shared.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from clock import add_device, wait
from torch import nn

import tl_truncate as tlt
from tl_truncate.experiments.sweep.grid import make_grid
from tl_truncate.experiments.sweep.work.engine import Engine
from tl_truncate.experiments.sweep.work.memory import Plan, make_plan
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.tasks.encode import EncodedPrompt, EncodedTask, encode

sys.path.append(str(Path(__file__).parent))
from sweep import build as neox


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    model: nn.Module
    task: tlt.Task
    encoded: EncodedTask
    goal: float


def named(name: str, prompts: Sequence[EncodedPrompt]) -> tuple[tlt.Task, EncodedTask]:
    """A task of as many prompts, to collect their answers."""
    names = [f"prompt {index}" for index in range(len(prompts))]
    return tlt.Task(name, names, [" a"] * len(prompts), " b"), EncodedTask(tuple(prompts), False)


def few_shot(count: int, shared: int, vocabulary: int) -> tuple[tlt.Task, EncodedTask]:
    """Random questions of 12 to 20 tokens behind as many tokens of demonstrations."""
    draw = random.Random(0)
    tokens = lambda size: tuple(draw.randrange(vocabulary) for _ in range(size))  # noqa: E731
    front = tokens(shared)
    prompts = [
        EncodedPrompt(front + tokens(12 + index % 9), tokens(1), tokens(1)) for index in range(count)
    ]
    return named(f"{shared} shared", prompts)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """What is measured."""
    for which in options.models:
        model = (neox() if which == "neox" else tlt.load_model("demo")).to(options.device)
        for shared in options.shared:
            own = few_shot(options.prompts, shared, int(model.cfg.d_vocab) - 100)
            yield Case(f"{which}, {shared} shared tokens", model, *own, 6.0)
        if which == "demo":
            for name in options.tasks:
                task = getattr(tlt.tasks, name)(options.plain, tokenizer=model.tokenizer)
                yield Case(f"demo, {name}", model, task, encode(model, task), 1.15)
            own = few_shot(options.plain, 0, int(model.cfg.d_vocab) - 100)
            yield Case("demo, nothing shared", model, *own, 0.97)


def settings(case: Case, layers: int, keeps: Sequence[float]) -> list[SiteCut]:
    """Cuts of the MLPs of some layers, spread evenly."""
    depth = int(case.model.cfg.n_layers)
    chosen = np.unique(np.linspace(0, depth - 1, min(layers, depth)).round().astype(int)).tolist()
    sites = tlt.find_sites(case.model, ("W_in", "W_out"), chosen)
    for site in sites:
        tlt.spectrum(case.model, site)  # which both sides read from the cache
    return make_grid(case.model, sites, keeps, (), 0)


def run(case: Case, plan: Plan, grid: Sequence[SiteCut]) -> tuple[float, float, np.ndarray]:
    """Seconds before the first cut, seconds of the settings, and their log-probabilities."""
    device = str(case.model.cfg.device)
    # Of a core: other work on it does not count. A card works while the core waits, so there all counts.
    now = time.process_time if device == "cpu" else time.perf_counter
    wait(device)
    start = now()
    engine = Engine(case.model, [case.task], plan)
    wait(device)
    begun = now()
    found = [outcome for group in engine.run(grid) for _, outcome in group]
    wait(device)
    spent = now() - begun
    values = np.array([own[0].log_p_in_context + own[0].log_p_global for own in found])
    return begun - start, spent, values


def measure(case: Case, options: argparse.Namespace) -> None:
    """One row of the table."""
    grid = settings(case, options.layers, options.keeps)
    sites = list(dict.fromkeys(cut.site for cut in grid))
    sizes = dict(batch_size=64, tokens_in_flight=1024, max_memory=None, at_a_site=len(options.keeps))
    plan = make_plan(case.model, [case.encoded], sites, **sizes)
    times = {True: [0.0, 0.0], False: [0.0, 0.0]}
    gap = 0.0
    for _ in range(options.rounds):
        begun, spent, values = run(case, plan, grid)
        begun_alone, spent_alone, wanted = run(case, plan.alone(), grid)
        gap = max(gap, float(np.abs(values - wanted).max()))
        for shares, own in ((True, (begun, spent)), (False, (begun_alone, spent_alone))):
            times[shares] = [before + new for before, new in zip(times[shares], own, strict=True)]
    tokens = sum(batch.n_tokens for batch in plan.batches)
    print(
        f"| {case.name} | {len(grid)} | {tokens} -> {plan.n_tokens} | {times[False][1]:.1f} s | "
        f"{times[True][1]:.1f} s | **{times[False][1] / times[True][1]:.2f}x** (goal {case.goal}) | "
        f"{times[False][0]:.1f} -> {times[True][0]:.1f} s | {gap:.1e} |",
        flush=True,
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--layers", type=int, default=3, help="how many, spread evenly")
    parser.add_argument("--prompts", type=int, default=32, help="behind demonstrations")
    parser.add_argument("--plain", type=int, default=100, help="prompts without demonstrations")
    parser.add_argument("--shared", type=int, nargs="*", default=[200, 1000])
    parser.add_argument("--keeps", type=float, nargs="*", default=[0.01, 0.1, 0.5, 0.9])
    parser.add_argument("--models", nargs="*", default=["neox", "demo"], choices=["neox", "demo"])
    parser.add_argument("--tasks", nargs="*", default=["ioi", "factual_recall"])
    add_device(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print("| prompts | settings | tokens | unshared | shared | ratio | before the first cut | gap |")
    print("|---|---|---|---|---|---|---|---|")
    for case in cases(options):
        measure(case, options)


if __name__ == "__main__":
    main()
