"""What a decomposition costs, against one plain forward pass with a cache, as ratios from one run.

Run: `python benchmarks/decompose.py` (two minutes on two cores). Goals: token_mean at most 1.1 (after
fitting), context_ablation 2.2, own_path 3.
"""

import argparse
import statistics
import time

import torch

import tl_truncate as tlt
from tl_truncate.corpora.texts import manual_texts


def main():
    """Times every method at one layer and at all layers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    model = tlt.load_model(args.model)
    last = len(model.blocks) - 1
    texts = list(manual_texts(3000))
    start = time.perf_counter()
    means = tlt.TokenMeans.fit(model, texts, max_tokens=256, shares=False, progress=False)
    fitted = time.perf_counter() - start
    rows = [model.tokenizer(text)["input_ids"] for text in manual_texts(12_000)]
    rows = [row[: args.length] for row in rows if len(row) >= args.length][: args.prompts]
    tokens = torch.tensor(rows)
    print(
        f"{args.model}: {len(rows)} prompts x {args.length} tokens; fitting on 3000 words took "
        f"{fitted:.0f} s"
    )
    for method in ("token_mean", "context_ablation", "own_path", "spectral"):
        options = dict(method=method, means=means if method == "token_mean" else None)
        tlt.decompose_layers(model, tokens, **options)  # spectra and checks, once
        for name, layers in (("last layer", [last]), ("all layers", None)):
            plain, own = [], []
            for _ in range(args.repeats):  # one after the other, so that both see the same machine
                start = time.perf_counter()
                with torch.no_grad():
                    model.run_with_cache(tokens)
                plain.append(time.perf_counter() - start)
                start = time.perf_counter()
                tlt.decompose_layers(model, tokens, layers, **options)
                own.append(time.perf_counter() - start)
            ratio = statistics.median(own) / statistics.median(plain)
            print(f"{method:17} {name:11} {ratio:.2f}x of {statistics.median(plain):.2f} s", flush=True)


if __name__ == "__main__":
    main()
