"""How far a cut model is from the in-place edited one: `python benchmarks/exactness.py [--real]`.

For each class, architecture and dtype: the largest difference over the logits and every cached
activation, relative to the activation's size, over all matrices and single heads of one layer at 40% of
their rank. With `--real`, differences of log-probability on SmolLM2: cut against edited, and edited
against float64, which is the rounding that no method in float32 escapes. The tests assert the limits.
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path

import torch

import tl_truncate as tlt
from tl_truncate.weights.site import ATTENTION_MATRICES, MATRICES

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import architectures
import inplace


def small() -> None:
    """Every small architecture in float64 and float32."""
    tokens = torch.randint(3, architectures.VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float64, torch.float32):
        for kind, name in architectures.CASES:
            model = architectures.build(kind, name, dtype)
            worst = {}
            for site in [
                *tlt.find_sites(model, MATRICES, [1]),
                *(tlt.Site(1, matrix, 1) for matrix in ATTENTION_MATRICES),
            ]:
                with tlt.truncated(model, tlt.Cut(site, 0.4)):
                    cut = inplace.outputs(model, tokens)
                with inplace.edited(model, (str(site), inplace.top(0.4))):
                    edited = inplace.outputs(model, tokens)
                worst[str(site)] = inplace.difference(cut, edited)
            where = max(worst, key=worst.__getitem__)
            print(f"{dtype!s:<14} {kind:<7} {name:<16} {worst[where]:.1e}  at {where}", flush=True)


def real() -> None:
    """SmolLM2 at 10% of one matrix, on an IOI prompt."""
    model, exact = tlt.load_model("demo"), tlt.load_model("demo", dtype="float64")
    text = "When Mary and John went to the store, John gave a drink to"
    tokens = model.to_tokens(text, prepend_bos=False)

    def gap(first: torch.Tensor, second: torch.Tensor) -> float:
        pair = (first.double().log_softmax(-1), second.double().log_softmax(-1))
        return float((pair[0] - pair[1]).abs().max())

    print(
        "SmolLM2, log-probability: cut to edited in float32, edited to float64, cut to edited in float64"
    )
    for layer in (0, 7, 14, 28):
        for matrix in MATRICES:
            site, change = str(tlt.Site(layer, matrix)), inplace.top(0.1)
            results = []
            for each in (model, exact):
                with torch.no_grad(), tlt.truncated(each, tlt.Cut(site, 0.1)):
                    results.append(each(tokens))
                with torch.no_grad(), inplace.edited(each, (site, change)):
                    results.append(each(tokens))
            cut, edited, cut_exact, edited_exact = results
            print(
                f"  {site:<22} {gap(cut, edited):.1e}  {gap(edited, edited_exact):.1e}  "
                f"{gap(cut_exact, edited_exact):.1e}",
                flush=True,
            )


def main() -> None:
    """Prints one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", action="store_true", help="the demo model too (three minutes)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    small()
    if options.real:
        real()


if __name__ == "__main__":
    main()
