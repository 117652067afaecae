"""The sweep of a study on a real model: `python benchmarks/smollm2.py [--out heatmap.png]`.

SmolLM2-135M, all 90 MLP sites x 7 keeps x 60 prompts of indirect objects, and beside it, on a sample of
settings before and after, a careful user's way: the weight edited in place from factors at hand, and a
full pass over all prompts in one batch, padded on the right, with all logits.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

import tl_truncate as tlt
from tl_truncate.weights.keep.defaults import KEEPS

SAMPLE = 12


@torch.no_grad()
def by_careful_user(
    model: torch.nn.Module, cut: tlt.Cut, spec: tlt.Spectrum, tokens: torch.Tensor, last: torch.Tensor
) -> torch.Tensor:
    """One setting: log-probabilities at the last token of each prompt."""
    wrapper = getattr(model.blocks[cut.site.layer].mlp, cut.site.matrix.removeprefix("W_"))
    weight = wrapper.original_component.weight
    before = weight.detach().clone()
    kept = len(spec.kept(cut.keep))
    weight.copy_(((spec.U[:, :kept] * spec.S[:kept]) @ spec.V[:, :kept].T).T)
    try:
        return model(tokens)[torch.arange(len(tokens)), last].log_softmax(-1)
    finally:
        weight.copy_(before)


def main() -> None:
    """Prints both times and their ratio, and the largest difference on the sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="where to draw the heatmap")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = tlt.load_model("demo")
    task = tlt.tasks.ioi(n=60, seed=0, tokenizer=model.tokenizer)
    sites = tlt.find_sites(model, ("W_in", "W_gate", "W_out"))
    spectra = {site: tlt.spectrum(model, site) for site in sites}
    ids = [model.tokenizer(prompt)["input_ids"] for prompt in task.prompts]
    longest = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    last = torch.tensor([len(row) - 1 for row in ids])
    sample = [
        tlt.Cut(sites[place * len(sites) // SAMPLE], KEEPS[place % len(KEEPS)])
        for place in range(SAMPLE)
    ]
    careful, found = [], {}

    def measure(cuts: list[tlt.Cut]) -> None:
        for cut in cuts:
            start = time.perf_counter()
            found[cut] = by_careful_user(model, cut, spectra[cut.site], tokens, last)
            careful.append(time.perf_counter() - start)

    measure(sample[: SAMPLE // 2])
    start = time.perf_counter()
    result = tlt.sweep(model, task, sites=sites, keeps=KEEPS)
    seconds = time.perf_counter() - start
    measure(sample[SAMPLE // 2 :])

    worst = 0.0
    names = torch.tensor([model.to_single_token(answer) for answer in task.in_context])
    for cut, log_probabilities in found.items():
        wanted = log_probabilities[torch.arange(len(names)), names]
        own = result.scores_of(cut).frame["p_in_context"].to_numpy()
        worst = max(worst, float((torch.tensor(own).log() - wanted.double()).abs().max()))
    one = statistics.mean(careful)
    count = len(result.settings)
    print(f"{options.threads} threads, {count} settings: {seconds:.0f} s, {seconds / count:.3f} s each")
    print(f"in place, a full pass: {one:.3f} s each ({len(careful)} settings), so {one * count:.0f} s")
    print(f"ratio {one * count / seconds:.2f}; largest difference of log p(name) {worst:.1e}")
    if options.out:
        from tl_truncate import plots

        plots.save(plots.heatmap(result), options.out)


if __name__ == "__main__":
    main()
