"""What the disk cache keeps of spectra: `python benchmarks/stored_spectra.py [--real]`.

- the error of a cut whose vectors are kept in some precision, in log-probability, against the weight
  edited in place, on a small GPT-NeoX in float64; with `--real` on the demo model too
- bytes and time that a cut takes from disk, by how many components it reads, at 2048 x 8192
- the folder's size, with one side and with both: for the demo model measured with `--real`, for Pythia's
  largest computed from its shape
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

import tl_truncate as tlt
from tl_truncate.surgery.edit import Projection
from tl_truncate.surgery.stack import Stacked, stacked_cut
from tl_truncate.weights.locate import locate
from tl_truncate.weights.spectra import cache
from tl_truncate.weights.spectra.factors import factorise
from tl_truncate.weights.spectra.spectrum import shared_spectrum

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import architectures
import inplace

PRECISIONS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
MATRICES = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out")


@torch.no_grad()
def precision(model: torch.nn.Module, tokens: torch.Tensor, sites: list[str], told: str) -> None:
    """The largest error over the sites at 10% of their rank, by the precision of the vectors."""
    worst = dict.fromkeys(PRECISIONS, 0.0)
    effect = 0.0
    uncut = model(tokens).log_softmax(-1)
    for site in sites:
        vectors = factorise(locate(model, tlt.Site.parse(site)).weight().double()).V
        kept = vectors[:, : vectors.shape[1] // 10]
        with inplace.edited(model, (site, inplace.top(0.1))):
            exact = model(tokens).log_softmax(-1)
        effect = max(effect, float((exact - uncut).abs().max()))
        for dtype in PRECISIONS:
            edit = Projection(kept.to(dtype).double(), keeps=True)
            with tlt.truncated(model, stacked_cut(tlt.Site.parse(site), Stacked((edit,), (1.0,)))):
                found = model(tokens).log_softmax(-1)
            worst[dtype] = max(worst[dtype], float((found - exact).abs().max()))
    print(
        f"{told}: {len(sites)} sites at 10%, arithmetic in float64; the cuts change up to {effect:.1g}"
    )
    for dtype, error in worst.items():
        print(f"  vectors kept in {dtype!s:<15} largest error of a log-probability {error:.0e}")


def bands(shape: tuple[int, int], repeats: int) -> None:
    """Bytes and seconds of a cut's edit, with nothing in memory."""
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    rank = min(shape)
    cache.cached_vectors(weight)
    print(f"{shape[0]} x {shape[1]} from disk, best of {repeats}")
    for keep in (0.01, 0.1, 0.5, 1.0):
        best, size = float("inf"), 0
        for _ in range(repeats):
            cache._memory.clear()
            found = cache.cached_vectors(weight)  # the content of the weight is read, to have its key
            start = time.perf_counter()
            found.rows(slice(0, int(keep * rank)))
            best, size = min(best, time.perf_counter() - start), found.vectors.nbytes
        print(f"  keep={keep:<5} {size / 2**20:7.2f} MB  {best * 1e3:8.2f} ms")


def sizes(told: str, layers: int, shapes: dict[str, tuple[int, int]], item: int = 4) -> None:
    """The folder's size, from the shapes of one layer."""
    for kinds, chosen in (("W_in and W_out", ("W_in", "W_out")), ("all matrices", tuple(shapes))):
        own = [shapes[matrix] for matrix in chosen]
        both = layers * sum((n_in + n_out + 1) * min(n_in, n_out) for n_in, n_out in own) * item
        one = layers * sum((n_out + 1) * min(n_in, n_out) for n_in, n_out in own) * item
        print(f"{told}, {kinds}: both sides {both / 1e9:.2f} GB, as kept {one / 1e9:.2f} GB")


def measured(model: torch.nn.Module) -> None:
    """The folder of the demo model, all matrices."""
    for site in tlt.find_sites(model, MATRICES):
        shared_spectrum(model, site)
    print(f"demo model, all matrices, measured: {tlt.cache_info()}")


def main() -> None:
    """Prints all three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TL_TRUNCATE_CACHE"] = folder
        small = architectures.build("bridge", "neox-parallel", torch.float64)
        drawn = torch.Generator().manual_seed(0)
        tokens = torch.randint(3, architectures.VOCAB, (4, 9), generator=drawn)
        sites = [str(site) for site in tlt.find_sites(small, MATRICES)]
        precision(small, tokens, sites, "small GPT-NeoX")
        for shape in ((2048, 8192), (8192, 2048)):
            bands(shape, options.repeats)
        d = 5120
        square = dict.fromkeys(("W_Q", "W_K", "W_V", "W_O"), (d, d))
        sizes("Pythia-12B's shape", 36, square | {"W_in": (d, 4 * d), "W_out": (4 * d, d)})
        if options.real:
            model = tlt.load_model("demo", dtype="float64")
            text = "When Mary and John went to the store, John gave a drink to"
            sites = [str(tlt.Site(layer, matrix)) for layer in (0, 14, 28) for matrix in MATRICES]
            precision(model, model.to_tokens(text, prepend_bos=False), sites, "demo model")
            model = tlt.load_model("demo")
            shapes = {matrix: locate(model, tlt.Site(0, matrix)).shape for matrix in MATRICES}
            sizes("demo model", len(model.blocks), shapes)
            tlt.cache_clear()
            measured(model)


if __name__ == "__main__":
    main()
