"""What work takes beside the model, against what was stated: `python benchmarks/memory.py`.

Each model, random and of GPT-NeoX's architecture, has a process of its own for each work: behind
another one the heap is in pieces. The work is done on two prompts first, so that its libraries are
loaded. What is measured is by how much the memory of its own is larger at most from then on, after what
the allocator held free was given back. Allowed is what the refusal of less says to be the least, and
some times of that. Spectra are read from disk or computed.
Goal: within 15% of what was allowed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "tests"))

#: By name: layers, d_model, heads, d_mlp, vocabulary.
SHAPES = {
    "14m": (6, 128, 4, 512, 50_304),
    "70m": (6, 512, 8, 2048, 50_304),
    "160m": (12, 768, 12, 3072, 50_304),
    "410m": (24, 1024, 16, 4096, 50_304),
}
WORKS = ("sweep", "evaluate", "attribute")


def shaped(name: str) -> nn.Module:
    """A random model of a published shape, in float32."""
    import architectures
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    layers, d_model, heads, d_mlp, vocabulary = SHAPES[name]
    config = GPTNeoXConfig(
        num_hidden_layers=layers,
        hidden_size=d_model,
        num_attention_heads=heads,
        intermediate_size=d_mlp,
        vocab_size=vocabulary,
    )
    source = GPTNeoXForCausalLM(config).eval().requires_grad_(False)
    return TransformerBridge.boot_transformers(
        f"pythia-{name}-shape", hf_model=source, tokenizer=architectures.word_tokenizer()
    )


def texts(count: int, length: int) -> list[str]:
    """Different prompts of so many words."""
    import architectures

    words = [word for word in architectures._TEXT if word.isalpha()]
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(0, len(words), (count, length), generator=generator).tolist()
    return [" ".join(words[place] for place in row) for row in places]


def work_of(name: str, model: nn.Module, count: int, length: int) -> Callable[[int | None], object]:
    """The work that is measured, on so many prompts of so many words, by what it is allowed."""
    import tl_truncate as tlt

    task = tlt.Task("random", texts(count, length), [" Mary"] * count, " the")
    layers = len(model.blocks)
    sites = [f"blocks.{layer}.mlp.{each}" for layer in (1, layers // 2) for each in ("W_in", "W_out")]
    cuts = [tlt.Cut(site, 0.5) for site in sites]
    asked = dict(progress=False, prepend_bos=False, batch_size=512)
    works = {
        "sweep": lambda allowed: tlt.sweep(
            model, task, sites=sites, keeps=[0.0, 0.01, 0.1, 0.5, 0.9], max_memory=allowed, **asked
        ),
        "evaluate": lambda allowed: tlt.evaluate(model, task, cuts, max_memory=allowed, **asked),
        "attribute": lambda allowed: tlt.attribute(
            model, task, sites=sites, max_memory=allowed, **asked
        ),
    }
    return works[name]


def least(work: Callable[[int | None], object]) -> int:
    """The least that is needed, as the refusal of less says."""
    try:
        work(1)
    except ValueError as refused:
        return int(re.search(r"at least (\d+)", str(refused))[1])
    raise AssertionError("One byte was enough.")


def main() -> None:
    """Prints a table: a process for each model and work, and a row for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=["14m", "70m", "160m"], choices=SHAPES)
    parser.add_argument("--works", nargs="*", default=WORKS, choices=WORKS)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--times", type=float, nargs="*", default=[1, 3], help="of the least")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options)
        return
    print("| work | model | spectra | allowed, MB | used, MB | used / allowed |")
    print("|---" * 6 + "|", flush=True)
    for shape in options.shapes:
        for work in options.works:
            own = ["--works", work, "--child", shape]
            subprocess.run([sys.executable, *sys.argv, *own], check=True)


def child(shape: str, options: argparse.Namespace) -> None:
    """The rows of one model."""
    from tl_truncate.weights.spectra import cache

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = shaped(shape)
    for name in options.works:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TL_TRUNCATE_CACHE"] = folder
            cache._memory.clear()  # or what another work has read would not be written here
            work_of(name, model, 2, options.length)(None)
            work = work_of(name, model, options.prompts, options.length)
            for times in options.times:
                for stored in (True, False):
                    row(name, shape, work, times, stored)


def row(name: str, shape: str, work: Callable, times: float, stored: bool) -> None:
    """One line of the table."""
    from growth import growth

    from tl_truncate.weights.spectra import cache

    cache._memory.clear()
    if not stored:
        cache.cache_clear()
    allowed = int(times * least(work))
    cache._memory.clear()
    used = growth(lambda: work(allowed))
    sizes = (f"{size / 2**20:.0f}" for size in (allowed, used))
    line = (name, shape, "on disk" if stored else "computed", *sizes, f"{used / allowed:.2f}")
    print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
