"""Memory and seconds on models of Pythia's larger shapes: `python benchmarks/large.py`.

Random weights, in half precision, quantised, and kept on disk. Each model is made in a process of its
own, whose peak is that of this model alone, and goes through the same steps: the spectra of four sites,
a pass with a cut, an evaluation with that cut, and a sweep of all four sites. Seconds are those of a
core. Peaks are of the whole process, Python and torch included; the first column says how much that is
without a model.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "tests"))

#: Pythia's shapes by name: layers, d_model, heads, d_mlp.
SHAPES = {"70m": (6, 512, 8, 2048), "410m": (24, 1024, 16, 4096), "1b": (16, 2048, 8, 8192)}
KINDS = ("bfloat16", "float16", "int8", "nf4", "bfloat16 on disk")
KEEPS = (0.0, 0.1, 0.5)
STEPS = ("model", "spectra", "cut", "evaluation", "sweep")
NAMES = ("Mary", "John")
PLACES = ("store", "capital", "country", "drink")


def peak() -> float:
    """Most gigabytes that this process has had at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def quantise(model: nn.Module, kind: str) -> None:
    """Replaces its linears one by one, but for those that TransformerLens splits or unembeds with."""
    import bitsandbytes as bnb

    for path, linear in [*model.named_modules()]:
        if not isinstance(linear, nn.Linear) or path.endswith(
            ("query_key_value", "embed_out", "lm_head")
        ):
            continue
        options = dict(bias=linear.bias is not None)
        if kind == "int8":
            new = bnb.nn.Linear8bitLt(*linear.weight.T.shape, has_fp16_weights=False, **options)
        else:
            new = bnb.nn.Linear4bit(
                *linear.weight.T.shape, quant_type="nf4", compute_dtype=torch.bfloat16, **options
            )
        new.load_state_dict(linear.state_dict())
        new.bias.data = linear.bias.data
        model.set_submodule(path, new.to("cpu").requires_grad_(False))


def shaped(shape: str, kind: str, folder: str) -> nn.Module:
    """A random Pythia of a published shape, with its weights held in a way."""
    import architectures
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    layers, d_model, heads, d_mlp = SHAPES[shape]
    config = GPTNeoXConfig(
        num_hidden_layers=layers, hidden_size=d_model, num_attention_heads=heads, intermediate_size=d_mlp
    )
    dtype = torch.float16 if kind == "float16" else torch.bfloat16
    torch.set_default_dtype(dtype)
    source = GPTNeoXForCausalLM(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    if kind in ("int8", "nf4"):
        quantise(source, kind)
    if "disk" in kind:
        from accelerate import disk_offload

        disk_offload(source, folder, execution_device="cpu")
    model = TransformerBridge.boot_transformers(
        f"pythia-{shape}-shape", hf_model=source, tokenizer=architectures.word_tokenizer()
    )
    model.cfg.dtype = dtype
    return model


def steps(shape: str, kind: str, folder: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is measured, one after the other."""
    import tl_truncate as tlt

    made: list[nn.Module] = []
    middle, last = SHAPES[shape][0] // 2, SHAPES[shape][0] - 2
    sites = [f"blocks.{middle}.mlp.W_in", f"blocks.{last}.mlp.W_out", f"blocks.{last}.mlp.W_in"]
    sites = [*sites, f"blocks.{middle}.attn.W_O"]
    pairs = [(one, place) for one in range(2) for place in PLACES]
    prompts = [
        f"When {NAMES[one]} and {NAMES[1 - one]} went to the {place} , {NAMES[one]} gave a drink to"
        for one, place in pairs
    ]
    answers = [f" {NAMES[1 - one]}" for one, _ in pairs]
    task = tlt.Task("drinks", prompts, answers, " the")
    cut = tlt.Cut(sites[1], 0.1)

    def one_pass() -> None:
        with torch.no_grad(), tlt.truncated(made[0], cut):
            made[0](made[0].to_tokens(prompts, prepend_bos=False))

    yield "model", lambda: made.append(shaped(shape, kind, folder))
    yield "spectra", lambda: [tlt.spectrum(made[0], site) for site in sites]
    yield "cut", one_pass
    yield "evaluation", lambda: tlt.evaluate(made[0], task, cuts=[cut])
    yield "sweep", lambda: tlt.sweep(made[0], task, sites=sites, keeps=KEEPS, progress=False)


def child(shape: str, kind: str) -> None:
    """One model's measurements, as JSON on the last line."""
    import architectures  # noqa: F401 -- what is loaded before any model
    import transformer_lens  # noqa: F401

    import tl_truncate as tlt

    found = {"empty": (0.0, peak())}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        os.environ["TL_TRUNCATE_CACHE"] = f"{folder}/cache"
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", tlt.FullPassesWarning)
        for name, work in steps(shape, kind, folder):
            start = time.process_time()
            work()
            found[name] = (time.process_time() - start, peak())
    print(json.dumps(found))


def main() -> None:
    """Prints a table: a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=["410m", "1b"], choices=SHAPES)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    print(
        "| weights | without a model, GB | " + " | ".join(f"{step}: s, peak GB" for step in STEPS) + " |"
    )
    print("|---" * (len(STEPS) + 2) + "|")
    for shape in options.shapes:
        for kind in options.kinds:
            done = subprocess.run(
                [sys.executable, __file__, "--child", shape, kind],
                capture_output=True,
                text=True,
                check=True,
            )
            found = json.loads(done.stdout.strip().splitlines()[-1])
            whole = " (full passes)" * ("FullPassesWarning" in done.stderr)
            cells = [f"{found[step][0]:.1f}, {found[step][1]:.1f}" for step in STEPS]
            print(
                f"| {shape} {kind}{whole} | {found['empty'][1]:.1f} | {' | '.join(cells)} |", flush=True
            )


if __name__ == "__main__":
    main()
