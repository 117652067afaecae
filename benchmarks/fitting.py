"""What fitting costs, against plain passes over the same rows in the same run.

Run: `python benchmarks/fitting.py` (`--words 500` for a quick look). The demo model, all MLP sites
(W_in, W_gate where there is one, W_out), some 30000 words of Python's manual in rows of up to 256
tokens. A plain pass is `model(tokens)` without gradients, with logits of all positions, over the batches
of the fit. Goals: OutputMoments at most 1.5x, CurvatureFactors at most 4x. Each kind runs in a process
of its own, so that its peak of memory is its own too.
"""

import argparse
import resource
import subprocess
import sys
import time

import torch

import tl_truncate as tlt
from tl_truncate.corpora.corpus import batches, read_rows

GOALS = {"OutputMoments": 1.5, "CurvatureFactors": 4.0}
BATCH = {"OutputMoments": 16, "CurvatureFactors": 4}
MATRICES = ("W_in", "W_gate", "W_out")


def plain(model, texts, max_tokens, batch_size):
    """Seconds of plain passes over all rows in the batches of a fit, and how many tokens they have."""
    rows = list(read_rows(model, texts, max_tokens=max_tokens))
    start = time.perf_counter()
    with torch.no_grad():
        for batch in batches(rows, batch_size):
            model(batch.tokens, return_type="logits")
    return time.perf_counter() - start, sum(len(row.tokens) for row in rows)


def peak():
    """The most memory that this process has had, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def measure(kind, args):
    """Plain passes before and after the fit, so that a drift of the machine is seen."""
    model = tlt.load_model(args.model)
    texts = list(tlt.manual_texts(args.words))
    sites = tlt.find_sites(model, MATRICES)
    size = args.batch_size or BATCH[kind]
    plain(model, texts[:1], args.max_tokens, size)  # warms up
    before, positions = plain(model, texts, args.max_tokens, size)
    base = peak()
    start = time.perf_counter()
    fitted = getattr(tlt, kind).fit(
        model, texts, sites=sites, max_tokens=args.max_tokens, batch_size=size, progress=False
    )
    took = time.perf_counter() - start
    most = peak()
    after, _ = plain(model, texts, args.max_tokens, size)
    ratio = 2 * took / (before + after)
    print(
        f"{kind}, {len(sites)} sites, {positions} tokens: {took:.1f} s, {ratio:.2f}x of plain passes "
        f"({before:.1f} and {after:.1f} s), goal <= {GOALS[kind]}x; sums {fitted.nbytes / 1e9:.2f} GB, "
        f"peak {most:.2f} GB (after plain passes alone {base:.2f} GB)",
        flush=True,
    )


def main():
    """One process for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--words", type=int, default=30_000)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--kind", choices=list(GOALS))
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.kind:
        measure(args.kind, args)
        return
    for kind in GOALS:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--kind", kind], check=True)


if __name__ == "__main__":
    main()
