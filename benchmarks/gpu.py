"""What holds on a GPU, and how fast: `make gpu`, or `python benchmarks/gpu.py [--device DEVICE]`.

`numbers`: on the device, cut models of every small architecture against models edited in place, and then
each kind of result (scores, sweep, screen, parts, fits, generation) against the same on the CPU, in
float64. `factors`: ways to the singular vectors of a matrix, their time and error. `shapes`: random
models of Pythia's shapes; what a cut costs a pass, what a setting of a sweep costs, and what it costs a
user who edits weights in place. `profile`: what a sweep waits for.
"""

import argparse
import cProfile
import io
import itertools
import logging
import pstats
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from clock import add_device, name_of, timed, wait
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import tl_truncate as tlt
from tl_truncate.experiments.sweep.work.engine import Engine
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import ATTENTION_MATRICES, MATRICES
from tl_truncate.weights.spectra.factors import factorise

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import architectures
import inplace

#: Pythia's shapes by name: layers, d_model, heads, d_mlp.
SHAPES = {
    "160m": (12, 768, 12, 3072),
    "410m": (24, 1024, 16, 4096),
    "1.4b": (24, 2048, 16, 8192),
    "2.8b": (32, 2560, 32, 10240),
    "6.9b": (32, 4096, 32, 16384),
}
#: What was measured, and how much of it, one after the other.
Findings = Iterator[tuple[str, float]]
PARTS = ("numbers", "factors", "shapes", "profile")
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


def shaped(shape: str, device: str, dtype: torch.dtype) -> torch.nn.Module:
    """A random Pythia of a published shape, drawn on the device: 6.9B numbers take no time there."""
    layers, d_model, heads, d_mlp = SHAPES[shape]
    config = GPTNeoXConfig(
        num_hidden_layers=layers,
        hidden_size=d_model,
        num_attention_heads=heads,
        intermediate_size=d_mlp,
        dtype=dtype,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            source = GPTNeoXForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    model = TransformerBridge.boot_transformers(
        f"pythia-{shape}-shape", hf_model=source, tokenizer=architectures.word_tokenizer()
    ).to(device)
    model.cfg.dtype, model.cfg.device = dtype, device
    return model


def of_passes(model: torch.nn.Module, device: str, rows: int, repeats: int) -> Findings:
    """What a pass over prompts of 16 tokens costs under cuts, as ratios of medians.

    The sites are the lowest, the middle and the highest block's, since all factors of a large model
    would take the time of everything else together.
    """
    tokens = torch.randint(0, 50_000, (rows, 16), device=device)
    sites = chosen(model)
    alternatives = {
        "one MLP site at 10%, of a pass": [tlt.Cut(sites[0], 0.1)],
        "six MLP sites at 10%, of a pass": [tlt.Cut(site, 0.1) for site in sites],
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
    yield "plain pass, ms", 1000 * medians["plain"]
    yield from ((name, medians[name] / medians["plain"]) for name in alternatives)


def chosen(model: torch.nn.Module) -> list[tlt.Site]:
    """W_in and W_out of the lowest, the middle and the highest block."""
    last = model.cfg.n_layers - 1
    return tlt.find_sites(model, layers=[0, last // 2, last])


def of_sweeps(model: torch.nn.Module, device: str, rows: int, in_flight: Sequence[int]) -> Findings:
    """A sweep of six MLP sites against a user who edits them in place, both with spectra at hand.

    What a sweep does before its first cut (it hashes the weights, and runs the uncut model) takes as
    long for one setting as for a thousand, so a setting is timed from there; the whole is told too.
    """
    texts = sentences(rows)
    task = tlt.Task("random", texts, [" Mary"] * len(texts), " the")
    sites = chosen(model)
    tokens = architectures.word_tokenizer()(texts, return_tensors="pt")["input_ids"].to(device)
    sides = {}
    for site in sites:
        v = tlt.spectrum(model, site).V.to(device)
        sides[site] = (locate(model, site).weight().detach().to(v.dtype) @ v, v)

    def by_hand(site: tlt.Site, keep: float) -> None:
        left, v = sides[site]
        rank = max(1, int(keep * v.shape[1]))
        stored, _ = inplace.parameter(model, site.layer, site.matrix)
        before = stored.detach().clone()
        with torch.no_grad():
            stored.copy_((left[:, :rank] @ v[:, :rank].T).T)
            for batch in tokens.split(64):
                model(batch)[:, -1].log_softmax(-1).cpu()
            stored.copy_(before)

    every = [(site, keep) for site in sites for keep in KEEPS]
    by_hand(*every[0])
    hand = statistics.median(
        timed(lambda s=site, k=keep: by_hand(s, k), device) for site, keep in every[::5]
    )
    yield f"by hand, {rows} prompts, ms a setting", 1000 * hand
    for many in in_flight:
        options = dict(prepend_bos=False, progress=False, tokens_in_flight=many)
        work = partial(tlt.sweep, model, task, sites=sites, keeps=KEEPS, **options)
        fixed, cut = parted(work, device)
        name = f"sweep, {rows} prompts, {many} tokens in flight"
        yield f"{name}: before the first cut, ms", 1000 * fixed
        yield f"{name}: ms a setting from there", 1000 * cut / len(every)
        yield f"{name}: ms a setting, all of it", 1000 * (fixed + cut) / len(every)
        yield f"by hand over sweep from the first cut, {rows} prompts, {many}", hand * len(every) / cut
        yield f"by hand over all of it, {rows} prompts, {many}", hand * len(every) / (fixed + cut)


def sentences(count: int, length: int = 16) -> list[str]:
    """Texts of random words, each of which is one token."""
    vocabulary = sorted(architectures.word_tokenizer().get_vocab())
    words = [word.removeprefix("Ġ") for word in vocabulary if word.startswith("Ġ")]
    drawn = torch.randint(len(words), (count, length), generator=torch.Generator().manual_seed(0))
    return [" ".join(words[index] for index in row) for row in drawn.tolist()]


def parted(work: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds of a sweep before its first cut, and from there on."""
    begun: list[float] = []
    run = Engine.run

    def noted(self: Engine, *args: Any, **kwargs: Any) -> Any:
        wait(device)
        begun.append(time.perf_counter())
        return run(self, *args, **kwargs)

    wait(device)
    start = time.perf_counter()
    with mock.patch.object(Engine, "run", noted):
        work()
    wait(device)
    return begun[0] - start, time.perf_counter() - begun[0]


def of_factors(model: torch.nn.Module, device: str) -> Findings:
    """Seconds for the factors of one MLP weight, and its part that is the Gram matrix' eigenvectors."""
    weight = locate(model, tlt.Site(0, "W_out")).weight().detach()
    matrix = weight.double()
    gram = matrix.T @ matrix
    factorise(weight)
    here = timed(lambda: torch.linalg.eigh(gram), device)
    there = timed(lambda: [each.to(device) for each in torch.linalg.eigh(gram.cpu())], device)
    yield "factors of W_out, s", timed(lambda: factorise(weight), device)
    yield "Gram matrix alone, s", timed(lambda: matrix.T @ matrix, device)
    yield "its eigh, s", here
    yield "its eigh on the CPU and back, s", there


def of_routes(device: str, sizes: Sequence[tuple[int, int]]) -> Iterator[str]:
    """Routes to the factors of a float32 matrix: seconds, and the error of its half-rank truncation.

    The error is that of the projected weight against the CPU's truncation in float64.
    """
    yield "| route | " + " | ".join(f"{n} x {m}" for n, m in sizes) + " |"
    yield "|---|" + "---|" * len(sizes)
    rows: dict[str, list[str]] = {}
    for shape in sizes:
        weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        exact, half = weight.double(), min(shape) // 2
        vectors = torch.linalg.eigh(exact.T @ exact).eigenvectors
        wanted = exact @ vectors[:, -half:] @ vectors[:, -half:].T
        here = weight.to(device)
        for name, route in ROUTES.items():
            found = route(here)
            cell = f"{min(timed(lambda route=route: route(here), device) for _ in range(3)):.3f} s"
            v = found[:, -half:].double().cpu()
            error = float((exact @ v @ v.T - wanted).norm() / wanted.norm())
            rows.setdefault(name, []).append(f"{cell}, {error:.0e}")
    for name, cells in rows.items():
        yield f"| {name} | " + " | ".join(cells) + " |"


def _by_slices(weight: torch.Tensor, bits: int = 6, slices: int = 8) -> torch.Tensor:
    """The Gram matrix by products of small whole numbers, which tensor cores add exactly."""
    scale = torch.exp2(torch.ceil(torch.log2(weight.abs().amax(0).double())))
    rest, parts = weight.double() / scale, []
    for _ in range(slices):
        rest = rest * 2**bits
        whole = rest.round()
        parts.append(whole.to(torch.int8))
        rest = rest - whole
    gram = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64, device=weight.device)
    for total in reversed(range(slices)):
        for first in range(total + 1):
            product = torch._int_mm(parts[first].T.contiguous(), parts[total - first])
            gram += product.double() * 2.0 ** (-bits * (total + 2))
    return gram * scale[:, None] * scale


def _eigenvectors(gram: torch.Tensor) -> torch.Tensor:
    return torch.linalg.eigh(gram).eigenvectors


#: Right singular vectors, ascending, by different ways to the Gram matrix; and without one.
ROUTES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "float64 Gram, eigh on the device": lambda w: _eigenvectors(w.double().T @ w.double()),
    "float64 Gram, eigh on the CPU": lambda w: _eigenvectors((w.double().T @ w.double()).cpu()).to(
        w.device
    ),
    "Gram of whole numbers": lambda w: _eigenvectors(_by_slices(w)),
    "float32 Gram": lambda w: _eigenvectors((w.T @ w).double()),
    "svd, float32": lambda w: torch.linalg.svd(w, full_matrices=False).Vh.T.flip(1),
    "factorise (what is used)": lambda w: factorise(w).V.flip(1),
}


def where_time_goes(model: torch.nn.Module, device: str) -> str:
    """What torch and Python do in a sweep of one low and one high site, call by call."""
    task = tlt.Task("drink", [TEXTS[0]] * 64, [" Mary"] * 64, " the")
    sites = [chosen(model)[1], chosen(model)[-1]]
    work = lambda: tlt.sweep(model, task, sites=sites, keeps=KEEPS, progress=False)  # noqa: E731
    work()
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if torch.device(device).type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        work()
    calls = profile.key_averages().table(
        sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=40
    )
    python, text = cProfile.Profile(), io.StringIO()
    python.runcall(work)
    pstats.Stats(python, stream=text).sort_stats("tottime").print_stats(25)
    return calls + text.getvalue()


def main() -> None:
    """Prints the tables of the parts that are asked for, and keeps them if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_device(parser, "cuda")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--prompts", nargs="*", type=int, default=[64])
    parser.add_argument("--in-flight", nargs="*", type=int, default=[1024, 8192, 32768])
    parser.add_argument("--sizes", nargs="*", default=["3072x768", "8192x2048", "16384x4096"])
    parser.add_argument("--budget", type=float, default=240, help="seconds; what is over is left out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    device, lines = options.device, []
    end = time.perf_counter() + options.budget

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)
        if options.out:
            options.out.write_text("\n".join(lines) + "\n")

    say(f"{name_of(device)}, torch {torch.__version__}\n")
    if "numbers" in options.parts:
        say("| numbers | largest difference |\n|---|---|")
        for dtype in (torch.float64, torch.float32):
            say(f"| cut against edited in place, {dtype} | {against_edited(device, dtype)} |")
        here, there = results(device), results("cpu")
        for what, value in here.items():
            say(f"| {what}, device against CPU | {float((value - there[what]).abs().max()):.1e} |")
        say("")
    if "factors" in options.parts:
        for line in of_routes(device, [tuple(map(int, size.split("x"))) for size in options.sizes]):
            say(line)
        say("")
    if "shapes" in options.parts:
        for shape in options.shapes:
            for kind in options.dtypes:
                if time.perf_counter() > end:
                    say(f"{shape}, {kind}: left out, {options.budget:.0f} s are over")
                elif SHAPES[shape][1] < 4096 or kind == "bfloat16":
                    of_shape(shape, device, getattr(torch, kind), options, say, end)
    if "profile" in options.parts:
        say(where_time_goes(shaped(options.shapes[0], device, torch.float32), device))


def of_shape(
    shape: str,
    device: str,
    dtype: torch.dtype,
    options: argparse.Namespace,
    say: Callable[[str], None],
    end: float,
) -> None:
    """All times of one model, a line each, as they come; what would begin after the end is left out."""
    begun = time.perf_counter()
    model = shaped(shape, device, dtype)
    title = f"{shape}, {str(dtype).removeprefix('torch.')}"
    say(f"| {title} | |\n|---|---|\n| built in, s | {time.perf_counter() - begun:.3g} |")
    parts = [lambda: of_factors(model, device)]
    for rows in options.prompts:
        parts.append(lambda rows=rows: of_passes(model, device, rows, options.repeats))
        parts.append(lambda rows=rows: of_sweeps(model, device, rows, options.in_flight))
    for what, value in itertools.chain.from_iterable(part() for part in parts):
        say(f"| {what} | {value:.3g} |")
        if time.perf_counter() > end:
            say(f"| the rest, left out: {options.budget:.0f} s are over | |")
            break
    if torch.device(device).type == "cuda":
        say(f"| most memory, GB | {torch.cuda.max_memory_allocated() / 1e9:.3g} |")
        torch.cuda.reset_peak_memory_stats()
    say(f"| all of this, s | {time.perf_counter() - begun:.3g} |\n")


if __name__ == "__main__":
    main()
