"""What a setting of a sweep costs: `python benchmarks/sweep.py [--threads 2] [--device cuda]`.

GPT-NeoX shape with 12 layers and d_model 768, float32, as a TransformerBridge; all 24 MLP sites, eight
keeps. The alternatives, in turns in one run:

B   a careful user: the weight edited in place from a cached SVD, a full pass, all logits
A   LASER's way: a copy of the model, `torch.svd_lowrank`, the weight replaced, a full pass, all logits
A1  the same with one prompt at a time

A setting of B or A is the same work at any layer, so they are measured on every few settings of the
sweep, in between; medians over the rounds are compared. Goals: 64 prompts of 16 tokens
>= 3.0x B, >= 4x A, >= 6x A1; 8 prompts >= 4.5x B.
"""

import argparse
import copy
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from clock import add_device, name_of, timed, wait
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import tl_truncate as tlt
from tl_truncate.experiments.scoring.answers import Sheet, plan_batches
from tl_truncate.experiments.sweep.grid import make_grid
from tl_truncate.experiments.sweep.work.engine import Engine
from tl_truncate.experiments.sweep.work.memory import make_plan
from tl_truncate.tasks.encode import EncodedPrompt, EncodedTask

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from architectures import word_tokenizer

LAYERS, D, D_MLP, VOCABULARY, LENGTH = 12, 768, 3072, 50_304, 16
KEEPS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 0.9)


def build() -> torch.nn.Module:
    """A random GPT-NeoX of Pythia-160m's shape."""
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=D,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        intermediate_size=D_MLP,
    )
    source = GPTNeoXForCausalLM(config).eval()
    return TransformerBridge.boot_transformers(
        "pythia-160m-shape", hf_model=source, tokenizer=word_tokenizer()
    )


def prompts(count: int) -> tuple[tlt.Task, EncodedTask]:
    """Random prompts of equal length, and a task of the same size to collect their answers."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 50_000, (count, LENGTH + 2), generator=generator).tolist()
    rows = [EncodedPrompt(tuple(row[:LENGTH]), (row[-1],), (row[-2],)) for row in tokens]
    names = [f"prompt {index}" for index in range(count)]
    return tlt.Task("random", names, [" a"] * count, " b"), EncodedTask(tuple(rows), False)


@contextmanager
def weight_in_place(model: torch.nn.Module, site: tlt.Site, value: torch.Tensor) -> Iterator[None]:
    """Replaces a weight `[n_in, n_out]` and puts the old one back."""
    mlp = model.blocks[site.layer].mlp
    weight = getattr(mlp, {"W_in": "in", "W_out": "out"}[site.matrix]).original_component.weight
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.copy_(value.T)
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)


@torch.no_grad()
def full_pass(model: torch.nn.Module, task: tlt.Task, batches: list) -> None:
    """A whole pass with all logits, and the answers read off."""
    sheet = Sheet([task])
    for batch in batches:
        sheet.fill(batch, model(batch.tokens.to(_device(model)))[:, -1:])
    sheet.outcomes()


def _on(device: str, spectrum: tlt.Spectrum) -> tlt.Spectrum:
    """A spectrum where the model is, as a careful user has it."""
    moved = {side: getattr(spectrum, side).to(device) for side in ("U", "S", "V")}
    return dataclasses.replace(spectrum, **moved)


def _device(model: torch.nn.Module) -> str:
    return str(model.cfg.device)


def by_careful_user(model, cut, task, batches, spec) -> None:
    """B: one setting, with the factors at hand."""
    kept = len(spec.kept(cut.keep))
    value = (spec.U[:, :kept] * spec.S[:kept]) @ spec.V[:, :kept].T
    with weight_in_place(model, cut.site, value):
        full_pass(model, task, batches)


def by_copy(model, cut, task, batches) -> None:
    """A: one setting."""
    edited = copy.deepcopy(model)
    mlp = edited.blocks[cut.site.layer].mlp
    weight = getattr(mlp, {"W_in": "in", "W_out": "out"}[cut.site.matrix]).original_component.weight
    rank = cut.keep.count(min(weight.shape))
    u, s, v = torch.svd_lowrank(weight.detach(), q=rank)
    with torch.no_grad():
        weight.copy_((u * s) @ v.T)
    full_pass(edited, task, batches)


def floor(count: int, site: tlt.Site) -> float:
    """FLOPs of one setting of the exact sweep, without the projection; for B see `careful_flops`."""
    tokens, block = count * LENGTH, 24 * D * D
    above = LAYERS - 1 - site.layer
    # The last block: keys and values everywhere, queries, output and MLP at the answers.
    last = tokens * 4 * D * D + count * 20 * D * D if above else 0
    own = 0 if site.matrix == "W_out" else (tokens if above else count) * 2 * D * D_MLP
    return max(above - 1, 0) * tokens * block + last + own + count * 2 * D * VOCABULARY


def careful_flops(count: int) -> float:
    """FLOPs of B: all blocks and the unembedding at all positions."""
    return count * LENGTH * (LAYERS * 24 * D * D + 2 * D * VOCABULARY)


def measure(model: torch.nn.Module, count: int, every: dict[str, int], rounds: int) -> None:
    """Prints the ratios of one size of task: medians over the rounds, which a busy machine needs."""
    task, encoded = prompts(count)
    grid = make_grid(model, None, KEEPS, (), 0)
    sites = list(dict.fromkeys(cut.site for cut in grid))
    plan = make_plan(model, [encoded], sites, batch_size=64, tokens_in_flight=1024, max_memory=None)
    batches, single = plan_batches([encoded], 64), plan_batches([encoded], 1)
    # All factors are computed before; B has them in memory, the sweep finds them in its cache.
    spectra = {site: _on(_device(model), tlt.spectrum(model, site)) for site in sites}
    others: dict[str, Callable[[tlt.Cut], None]] = {
        "B  in place": lambda cut: by_careful_user(model, cut, task, batches, spectra[cut.site]),
        "A  copies": lambda cut: by_copy(model, cut, task, batches),
        "A1 one by one": lambda cut: by_copy(model, cut, task, single),
    }
    full_pass(model, task, batches)  # warms up
    measured: dict[str, list[float]] = {name: [] for name in every}
    spent: dict[tlt.Site, list[float]] = {site: [] for site in sites}
    for round_ in range(rounds):
        start, settings = time.perf_counter(), 0
        by_site = dict.fromkeys(sites, 0.0)
        for found in Engine(model, [task], plan).run(grid):
            wait(_device(model))
            by_site[found[0][0].site] += (time.perf_counter() - start) / len(KEEPS)
            for cut, _ in found:
                settings += 1
                for name, step in every.items():
                    if settings % step == 0 and (round_ == 0 or name.startswith("B")):
                        measured[name].append(
                            timed(lambda name=name, cut=cut: others[name](cut), _device(model))
                        )
            start = time.perf_counter()
        for site, value in by_site.items():
            spent[site].append(value)
    site_medians = [statistics.median(values) for values in spent.values()]
    report(count, statistics.mean(site_medians), measured, plan.memory)
    b = statistics.median(measured["B  in place"])
    bound = careful_flops(count) / statistics.mean(floor(count, site) for site in sites)
    reached = b / statistics.mean(site_medians) / bound
    print(f"  FLOP floor over B {bound:.2f}x; the sweep reaches {reached:.0%} of it")
    each = statistics.mean(b / value for value in site_medians)
    print(
        f"  (the ratios above are of mean times; the mean of the sites' own ratios to B is {each:.2f}x)"
    )


def report(count: int, own: float, measured: dict[str, list[float]], memory: object) -> None:
    """One line for each alternative."""
    goals = {"B  in place": 3.0 if count >= 64 else 4.5, "A  copies": 4.0, "A1 one by one": 6.0}
    print(f"{count} prompts x {LENGTH} tokens; {memory}")
    print(f"  sweep           {own:9.4f} s a setting, the uncut pass included")
    for name, values in measured.items():
        value = statistics.median(values)
        print(f"  {name:<16}{value:9.4f} s  {value / own:6.2f}x  goal >= {goals[name]}")


def main() -> None:
    """Measures both sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    add_device(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = build().to(options.device)
    print(f"{name_of(options.device)}, {options.rounds} rounds")
    measure(model, 64, {"B  in place": 7, "A  copies": 25, "A1 one by one": 49}, options.rounds)
    measure(model, 8, {"B  in place": 5}, options.rounds)


if __name__ == "__main__":
    main()
