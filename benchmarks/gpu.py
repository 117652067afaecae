"""What holds on a GPU, and how fast: `make gpu`, or `python benchmarks/gpu.py [--device DEVICE]`.

First the numbers: on the device, cut models of every small architecture against models edited in place,
and then each kind of result (scores, sweep, screen, parts, fits, generation) against the same on the
CPU, in float64. Then the times, in turns in one run: what a cut costs a pass, what a setting of a sweep
costs a user who edits weights in place, and what a decomposition costs here and there.
"""

import argparse
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import tl_truncate as tlt
from tl_truncate.weights.site import ATTENTION_MATRICES, MATRICES

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import architectures
import inplace

#: Pythia's shapes by name: layers, d_model, heads, d_mlp.
SHAPES = {"160m": (12, 768, 12, 3072), "410m": (24, 1024, 16, 4096)}
KEEPS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 0.9)
TEXTS = ["When Mary and John went to the store , John gave a drink to", "John and Mary went to the"]


def small(device: str, dtype: torch.dtype, kind: str, name: str) -> torch.nn.Module:
    """A small random model of an architecture on a device."""
    return architectures.with_tokenizer(architectures.build(kind, name, dtype)).to(device)


def against_edited(device: str, dtype: torch.dtype) -> str:
    """The largest difference between cut and edited, over architectures, sites and activations."""
    worst = (0.0, "")
    tokens = torch.randint(3, architectures.VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))
    for kind, name in architectures.CASES:
        model = small(device, dtype, kind, name)
        heads = [tlt.Site(1, matrix, 1) for matrix in ATTENTION_MATRICES]
        for site in [*tlt.find_sites(model, MATRICES, [1]), *heads]:
            with tlt.truncated(model, tlt.Cut(site, 0.4)):
                cut = inplace.outputs(model, tokens.to(device))
            with inplace.edited(model, (str(site), inplace.top(0.4))):
                edited = inplace.outputs(model, tokens.to(device))
            worst = max(worst, (inplace.difference(cut, edited), f"{name} {site}"))
    return f"{worst[0]:.1e} ({worst[1]})"


def results(device: str) -> dict[str, torch.Tensor]:
    """One number or more of each kind of result, of one model on a device, in float64."""
    model = small(device, torch.float64, "bridge", "neox-parallel")
    task = tlt.Task("pairs", TEXTS, [" Mary", " store"], " the")
    site, heads = tlt.Site(1, "W_out"), tlt.Site(1, "W_O", 1)
    means = tlt.TokenMeans.fit(model, TEXTS, layers=[1])
    sites = [site, heads]
    columns = ["accuracy", "p_in_context", "p_global", "logit_diff"]
    sweep = tlt.sweep(model, task, sites=sites, keeps=[0.0, 0.25, 0.5], progress=False)
    scores = tlt.evaluate(model, task, cuts=[tlt.Cut(site, 0.25)])
    tokens = model.to_tokens(TEXTS[1], prepend_bos=False)
    parts = tlt.decompose_mlp(model, tokens, layer=1, method="token_mean", means=means)
    targeted = tlt.Cut(site, tlt.component_shares(model, site, means).without_most_global(4))
    with (
        torch.no_grad(),
        tlt.truncated(model, tlt.GlobalDirection(site, means, int(tokens[0, 1])), targeted),
    ):
        directed = model(tokens)
    with torch.no_grad(), tlt.without_global(model, layers=[1], method="context_ablation"):
        removed = model(tokens)
    with tlt.truncated(model, tlt.Cut(site, 0.25), weights=True):
        written = model.generate(tokens, max_new_tokens=4, do_sample=False, verbose=False)
    moments = tlt.OutputMoments.fit(model, TEXTS, sites=[site])
    with torch.no_grad(), tlt.truncated(model, tlt.OutputPCA(site, moments, keep=0.25)):
        reduced = model(tokens)
    numbers = {
        "evaluate": torch.tensor(scores.frame[columns[1:]].to_numpy(float)),
        "sweep": torch.tensor(sweep.frame[columns].to_numpy(float)),
        "attribute": torch.tensor(
            [float(tlt.attribute(model, task, sites=sites).effect(each, 0.25)) for each in sites],
            dtype=torch.float64,
        ),
        "parts by token means": torch.cat([parts.global_, parts.in_context]),
        "targeted cut and direction": directed,
        "without the global part": removed,
        "generation under a cut": written,
        "principal outputs": reduced,
    }
    return {name: value.detach().double().cpu() for name, value in numbers.items()}


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds of one call, what it left in the device's queue included."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def shaped(shape: str, device: str, dtype: torch.dtype) -> torch.nn.Module:
    """A random Pythia of a published shape."""
    layers, d_model, heads, d_mlp = SHAPES[shape]
    config = GPTNeoXConfig(
        num_hidden_layers=layers, hidden_size=d_model, num_attention_heads=heads, intermediate_size=d_mlp
    )
    source = GPTNeoXForCausalLM(config).to(device=device, dtype=dtype).eval()
    model = TransformerBridge.boot_transformers(
        f"pythia-{shape}-shape", hf_model=source, tokenizer=architectures.word_tokenizer()
    ).to(device)
    model.cfg.dtype = dtype
    return model


def of_passes(model: torch.nn.Module, device: str, repeats: int) -> dict[str, float]:
    """What a pass over 64 prompts of 16 tokens costs under cuts, as ratios of medians."""
    tokens = torch.randint(0, 50_000, (64, 16), device=device)
    sites = tlt.find_sites(model)
    alternatives = {
        "one MLP site at 10%": [tlt.Cut(sites[0], 0.1)],
        "all MLP sites at 10%": [tlt.Cut(site, 0.1) for site in sites],
    }

    def one(cuts: list[tlt.Cut]) -> float:
        with torch.no_grad(), tlt.truncated(model, cuts):
            model(tokens)  # the first pass under new cuts allocates
            return timed(lambda: model(tokens), device)

    times: dict[str, list[float]] = {name: [] for name in ["plain", *alternatives]}
    for _ in range(repeats):
        for name in times:
            times[name].append(one(alternatives.get(name, [])))
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {"plain pass, milliseconds": 1000 * medians["plain"]} | {
        name: medians[name] / medians["plain"] for name in alternatives
    }


def of_sweeps(model: torch.nn.Module, device: str, rows: int) -> dict[str, float]:
    """A sweep of all MLP sites against a user who edits them in place, both with spectra at hand."""
    ids = torch.randint(3, architectures.VOCAB, (rows, 16), generator=torch.Generator().manual_seed(0))
    words = architectures.word_tokenizer().convert_ids_to_tokens
    texts = [" ".join(words(row)) for row in ids.tolist()]
    task = tlt.Task("random", texts, [" Mary"] * len(texts), " the")
    sites = tlt.find_sites(model)
    for site in sites:
        tlt.spectrum(model, site)
    tokens = ids.to(device)

    def by_hand(site: tlt.Site, keep: float) -> None:
        spectrum = tlt.spectrum(model, site)
        rank = max(1, int(keep * len(spectrum.S)))
        value = (spectrum.U[:, :rank] * spectrum.S[:rank]) @ spectrum.V[:, :rank].T
        stored, _ = inplace.parameter(model, site.layer, site.matrix)
        before = stored.detach().clone()
        with torch.no_grad():
            stored.copy_(value.T)
            for batch in tokens.split(64):
                model(batch)[:, -1].log_softmax(-1).cpu()
            stored.copy_(before)

    every = [(site, keep) for site in sites for keep in KEEPS]
    hand = statistics.median(
        timed(lambda s=site, k=keep: by_hand(s, k), device) for site, keep in every[::7]
    )
    whole = timed(lambda: tlt.sweep(model, task, sites=sites, keeps=KEEPS, progress=False), device)
    return {
        f"sweep of {rows} prompts, milliseconds a setting": 1000 * whole / len(every),
        f"by hand over sweep, {rows} prompts": hand * len(every) / whole,
    }


def of_spectra(device: str, d_model: int, d_mlp: int) -> dict[str, float]:
    """Seconds for the thin SVD of one MLP weight in float64, on the device and on the CPU."""
    weight = torch.randn(d_mlp, d_model, dtype=torch.float64)
    here = weight.to(device)
    torch.linalg.svd(here, full_matrices=False)
    return {
        "decomposition, CPU over device": timed(
            lambda: torch.linalg.svd(weight, full_matrices=False), device
        )
        / timed(lambda: torch.linalg.svd(here, full_matrices=False), device)
    }


def main() -> None:
    """Prints both tables, and keeps them if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--prompts", nargs="*", type=int, default=[64])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    device = options.device
    lines = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    name = torch.cuda.get_device_name() if device != "cpu" else "CPU"
    say(f"{name}, torch {torch.__version__}\n\n| numbers | largest difference |\n|---|---|")
    for dtype in (torch.float64, torch.float32):
        say(f"| cut against edited in place, {dtype} | {against_edited(device, dtype)} |")
    here, there = results(device), results("cpu")
    for what, value in here.items():
        say(f"| {what}, device against CPU | {float((value - there[what]).abs().max()):.1e} |")
    say("\n| times | " + " | ".join(options.shapes) + " |\n|---|" + "---|" * len(options.shapes))
    for dtype in (torch.float32, torch.bfloat16):
        columns = []
        for shape in options.shapes:
            model = shaped(shape, device, dtype)
            columns.append(of_passes(model, device, options.repeats))
            for rows in options.prompts:
                columns[-1].update(of_sweeps(model, device, rows))
        for index, what in enumerate(columns[0]):
            cells = " | ".join(f"{list(each.values())[index]:.3g}" for each in columns)
            say(f"| {str(dtype).removeprefix('torch.')}: {what} | {cells} |")
    spectra = [of_spectra(device, *SHAPES[shape][1::2]) for shape in options.shapes]
    for what in spectra[0]:
        say(f"| {what} | " + " | ".join(f"{each[what]:.3g}" for each in spectra) + " |")
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
