"""What a plan says beforehand, and what the sweep then takes: `python benchmarks/plan.py`.

Random weights of Pythia's shapes in float32, as a Bridge, and the demo model. Each is planned from its
configuration, swept with a cache of its own, and planned again: so that a machine that others use at the
same time is measured before and behind. Goal: what is planned is within 25% of what is measured. What is
loaded is left out of both: seconds from the call of `sweep` to its end, its spectra included.

`--shapes 70m 1b demo`, `--n 16`, `--keeps 0.1 0.5` and `--sites 4` make it smaller or larger.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PretrainedConfig

import tl_truncate as tlt

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from architectures import word_tokenizer

#: Pythia's shapes by name: layers, d_model, heads, d_mlp.
SHAPES = {
    "70m": (6, 512, 8, 2048),
    "160m": (12, 768, 12, 3072),
    "410m": (24, 1024, 16, 4096),
    "1b": (16, 2048, 8, 8192),
}
LENGTH, GOAL = 16, 0.25


def config_of(shape: str) -> PretrainedConfig:
    """The configuration of a Pythia."""
    layers, d_model, heads, d_mlp = SHAPES[shape]
    return GPTNeoXConfig(
        num_hidden_layers=layers,
        hidden_size=d_model,
        num_attention_heads=heads,
        intermediate_size=d_mlp,
        vocab_size=50_304,
    )


def build(config: PretrainedConfig) -> nn.Module:
    """A model with random weights, as a Bridge."""
    from transformer_lens.model_bridge import TransformerBridge

    with torch.device("meta"):
        source = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    source = source.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in source.state_dict().items():
        norm = "norm" in name and name.endswith("weight")
        tensor.fill_(1.0) if norm else tensor.uniform_(-0.02, 0.02, generator=generator)
    with torch.device("cpu"):
        rotary = type(source.gpt_neox.rotary_emb)(config)
    source.gpt_neox.rotary_emb = rotary
    return TransformerBridge.boot_transformers(
        "shape", hf_model=source, tokenizer=word_tokenizer(), dtype=torch.float32
    )


def prompts(count: int) -> tlt.Task:
    """Random tokens."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 50_000, (count, LENGTH + 2), generator=generator).tolist()
    return tlt.Task(
        "random",
        [row[:LENGTH] for row in rows],
        [row[-1:] for row in rows],
        [row[-2:-1] for row in rows],
    )


def some(sites: list[tlt.Site], count: int) -> list[tlt.Site]:
    """Sites spread over the depth."""
    return [sites[place * (len(sites) - 1) // max(count - 1, 1)] for place in range(count)]


def measured(shape: str, options: argparse.Namespace) -> tuple[list[float], float, int]:
    """Seconds planned before and behind, seconds measured, and how many settings there were."""
    if shape == "demo":
        model, named = tlt.load_model("demo"), "demo"
        task = tlt.tasks.ioi(n=options.n)
        sites = some(tlt.find_sites(model, ("W_in", "W_gate", "W_out")), 3 * options.sites)
    else:
        named = config_of(shape)
        model, task = build(named), prompts(options.n)
        sites = some(tlt.find_sites(model), options.sites)
    asked = dict(sites=list(dict.fromkeys(sites)), keeps=options.keeps)

    def planned() -> float:
        # Of a configuration: the model that is there is not asked.
        found = tlt.plan(named, task, **asked)
        return found.seconds - found.steps[0].each

    with tempfile.TemporaryDirectory() as folder:
        os.environ["TL_TRUNCATE_CACHE"] = folder
        tlt.cache_clear()
        plans = [planned()]
        start = time.perf_counter()
        result = tlt.sweep(model, task, **asked, progress=False)
        taken = time.perf_counter() - start
        plans.append(planned())
    return plans, taken, len(result.settings)


def main() -> None:
    """Measures each shape and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=[*SHAPES, "demo"])
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--keeps", nargs="+", type=float, default=[0.1, 0.5])
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{options.threads} threads, load {load:.1f}; planned is the mean of before and behind")
    print(
        f"{'':<8}{'settings':>10}{'planned':>10}{'before':>9}{'behind':>9}{'measured':>10}{'ratio':>8}"
    )
    worst = 0.0
    for shape in options.shapes:
        plans, taken, settings = measured(shape, options)
        mean = statistics.mean(plans)
        worst = max(worst, abs(mean / taken - 1))
        row = "".join(f"{value:>9.1f}s" for value in (mean, *plans, taken))
        print(f"{shape:<8}{settings:>10}{row}{mean / taken:>8.2f}", flush=True)
    print(f"furthest from measured: {worst:.0%}, goal <= {GOAL:.0%}")


if __name__ == "__main__":
    main()
