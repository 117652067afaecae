"""How far exported cuts are from the weights edited in place: `python benchmarks/export.py [--memory]`.

For each architecture and kind of site the largest difference of logits between plain transformers with
what was exported, and plain transformers with the weight edited by NumPy: the adapter at work, the
adapter merged, and the checkpoint; in float64, float32 and bfloat16. With `--memory` how much writing a
checkpoint of a folder adds to the peak of a fresh process (`resource`), beside how much loading that
folder adds. The tests assert the limits.
"""

import argparse
import copy
import logging
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch

import tl_truncate as tlt

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import architectures
import inplace
import published

_HEADS = ("W_Q", "W_K", "W_V", "W_O")
_FORMS = ("adapter", "merged", "checkpoint")


def sites(name: str) -> dict[str, list[str]]:
    """The kinds of sites of an architecture's middle layer."""
    present = published.matrices(name)
    return {
        "attention": [f"blocks.1.attn.{each}" for each in present if each in _HEADS],
        "one head": [f"blocks.1.attn.{each}.1" for each in _HEADS],
        "MLP": [f"blocks.1.mlp.{each}" for each in present if each not in _HEADS],
    }


def differences(name: str, dtype: torch.dtype, site: str, tokens: torch.Tensor) -> dict[str, float]:
    """Largest differences of logits to the edited weight, by form, and the effect of the cut."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def logits(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model(tokens).logits.double()

    cut = tlt.Cut(site, tlt.DropTop(3))
    with tempfile.TemporaryDirectory() as root:
        architectures.hf_model(name).to(dtype).save_pretrained(f"{root}/base")
        architectures._fresh_tokenizer().save_pretrained(f"{root}/base")
        model = tlt.load_model(f"{root}/base", dtype=dtype)
        tlt.export_adapter(model, cut, f"{root}/adapter")
        tlt.export_checkpoint(model, cut, f"{root}/checkpoint")
        hf = AutoModelForCausalLM.from_pretrained(f"{root}/base", dtype=dtype)
        edited = copy.deepcopy(hf)
        published.edit(edited, name, site, lambda matrix: inplace.truncate(matrix, slice(3, None)))
        expected, uncut = logits(edited), logits(hf)
        adapted = PeftModel.from_pretrained(hf, f"{root}/adapter")
        found = {"adapter": logits(adapted)}
        found["merged"] = logits(adapted.merge_and_unload())
        found["checkpoint"] = logits(
            AutoModelForCausalLM.from_pretrained(f"{root}/checkpoint", dtype=dtype)
        )
    worst = {form: float((found[form] - expected).abs().max()) for form in _FORMS}
    return {**worst, "effect": float((uncut - expected).abs().max())}


def table() -> None:
    """One row for each architecture, kind of site and precision; then the largest over architectures."""
    tokens = torch.randint(3, architectures.VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))
    largest: dict[tuple[str, str], list[dict[str, float]]] = {}
    _head("precision", "architecture", "site")
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        precision = str(dtype).removeprefix("torch.")
        for name in published.LAYOUTS:
            for kind, own in sites(name).items():
                rows = [differences(name, dtype, site, tokens) for site in own]
                largest.setdefault((precision, kind), []).extend(rows)
                _row(rows, precision, name, kind)
    print(f"\nOver the {len(published.LAYOUTS)} architectures:\n")
    _head("precision", "site")
    for (precision, kind), rows in largest.items():
        _row(rows, precision, kind)


def _head(*columns: str) -> None:
    columns = (*columns, "adapter", "merged", "checkpoint", "least effect of a cut")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")


def _row(rows: list[dict[str, float]], *names: str) -> None:
    worst = [f"{max(row[form] for row in rows):.1e}" for form in _FORMS]
    effect = f"{min(row['effect'] for row in rows):.2f}"
    print(f"| {' | '.join([*names, *worst, effect])} |", flush=True)


def _make(folder: str) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(vocab_size=512, hidden_size=1024, num_hidden_layers=24,
                           num_attention_heads=8, intermediate_size=4096,
                           max_position_embeddings=64)  # fmt: skip
    GPTNeoXForCausalLM(config).half().save_pretrained(folder, max_shard_size="60MB")


def _measure(how: str, folder: str) -> None:
    """In a process of its own: what one call adds to the peak."""
    import transformer_lens.model_bridge  # noqa: F401 -- what is imported is none of it
    from transformers import AutoModelForCausalLM

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = peak()
    if how == "exported":
        tlt.export_checkpoint(folder, tlt.Cut("blocks.3.mlp.W_out", 0.1), f"{folder}-cut")
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
        sum(float(parameter.sum()) for parameter in model.parameters())
    print(f"{how}: {peak() - before:.0f} MB")


def memory() -> None:
    """Of a GPT-NeoX with the shape of Pythia-410M's blocks, in files of 60 MB."""
    with tempfile.TemporaryDirectory() as root:
        subprocess.run([sys.executable, __file__, "--make", f"{root}/base"], check=True)
        sizes = [path.stat().st_size for path in Path(root, "base").glob("*.safetensors")]
        print(f"{sum(sizes) / 2**20:.0f} MB in files of up to {max(sizes) / 2**20:.0f} MB")
        for how in ("exported", "loaded"):
            subprocess.run(
                [sys.executable, __file__, "--measure", how, f"{root}/base"],
                check=True,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "TL_TRUNCATE_CACHE": "off"},
            )


def main() -> None:
    """Prints the table, or the memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true", help="memory in place of the table")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if options.make:
        _make(options.make)
    elif options.measure:
        _measure(*options.measure)
    elif options.memory:
        memory()
    else:
        table()


if __name__ == "__main__":
    main()
