"""The figures of these pages, drawn anew from the models and settings that the pages name.

`python docs/figures.py [NAME ...]`, all of them without a name, in some twenty minutes on two cores.
Others are drawn where they are measured: the README's by `benchmarks/hero.py`, that of the rules by
`benchmarks/rules.py`, those of "Is it real?" by `benchmarks/is_it_real.py`.
"""

import argparse
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tl_truncate as tlt
from tl_truncate import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

#: Of the recall model's second MLP: one way of each kind, and what it is held against. Of LASER the half
#: of the spectrum, which was picked for no number.
WAYS = (
    "MLP dropped",
    "minus global, token_mean",
    "minus global, spectral",
    "direction G(1)",
    "16 most global at 1",
    "16 random (control)",
    "LASER W_in, rank 64 kept",
    "LASER W_out, rank 64 kept",
)


@cache
def demo() -> Any:
    """The demo model."""
    return tlt.load_model("demo")


def heatmap() -> "Figure":
    """Every MLP matrix of the demo model at every amount."""
    model = demo()
    sites = tlt.find_sites(model, ("W_in", "W_gate", "W_out"))
    task = tlt.tasks.ioi(n=60, seed=0, tokenizer=model.tokenizer)
    return plots.heatmap(tlt.sweep(model, task, sites=sites))


def shots() -> "Figure":
    """What docs/tasks.md's command sweeps."""
    model = demo()
    found = tlt.sweep(
        model,
        tlt.tasks.factual_recall(n=80, seed=0, tokenizer=model.tokenizer),
        sites=["blocks.27.mlp.W_in", "blocks.23.mlp.W_gate"],
        keeps=[0.01, 0.5],
        shots=[0, 1, 4, 16],
    )
    return plots.shots(found, metrics=("accuracy", "p_in_context", "p_global"))


def parts() -> "Figure":
    """Each layer's parts, with means of the manual."""
    model = demo()
    means = tlt.TokenMeans.fit(model, list(tlt.manual_texts(30_000)), max_tokens=256)
    task = tlt.tasks.ioi(n=100, seed=0, tokenizer=model.tokenizer)
    return plots.parts(tlt.part_attribution(model, task, means=means))


def spectrum_demo() -> "Figure":
    """A matrix of the demo model."""
    return plots.spectrum(tlt.spectrum(demo(), "blocks.28.mlp.W_out"))


def spectrum_nano() -> "Figure":
    """A matrix of the nano-Pythia that ships."""
    return plots.spectrum(tlt.spectrum(tlt.load_model("nano-pythia"), "blocks.3.mlp.W_in"))


def parts_over_training() -> "Figure":
    """Parts of the nano-Pythia that ships, with means of text that it was not trained on."""
    import torch

    from tl_truncate.toys.nano.nano import NanoConfig, training_tokens

    nano = tlt.Checkpoints("nano-pythia")
    task = tlt.tasks.ioi(60, seed=3, tokenizer=tlt.load_model("nano-pythia").tokenizer)
    corpus = torch.cat([training_tokens(NanoConfig(seed=11), 100_000 + batch) for batch in range(4)])
    parts = tlt.Parts(corpus[:, :64])
    return plots.parts_over_training(tlt.dynamics(nano, nano.steps, task, parts=parts))


def recall() -> "Figure":
    """The small recall model."""
    import recall_models

    return plots.recall(recall_models.small(0).stored())


def recall_parts() -> "Figure":
    """The separable recall model, eight ways."""
    import recall_laws
    import recall_models

    own = recall_laws.Separated(recall_models.separable("triggers", 0).stored())
    return plots.comparison(own.comparison, ways=WAYS)


def phases() -> "Figure":
    """Memories of all sizes."""
    return plots.phases(tlt.toys.memory_phases())


def gradients() -> "Figure":
    """First gradients and one step, as `tl-truncate toy gradients` measures them."""
    data = tlt.toys.RecallData(tlt.toys.BigramTable.english(), length=64)
    found = tlt.toys.gradient_noise(data, lengths=[64, 256], alphas=[0.5], n=4096, seed=0)
    return plots.gradient_noise(found, tlt.toys.one_step_margins(data, seed=0))


FIGURES: dict[str, Callable[[], "Figure"]] = {
    "heatmap": heatmap,
    "shots": shots,
    "parts": parts,
    "spectrum-demo": spectrum_demo,
    "spectrum-nano": spectrum_nano,
    "parts-over-training": parts_over_training,
    "recall": recall,
    "recall-parts": recall_parts,
    "phases": phases,
    "gradients": gradients,
}


def main() -> None:
    """Draws what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    given = parser.parse_args()
    unknown = set(given.names) - set(FIGURES)
    if unknown:
        parser.error(f"NAME must be one of {', '.join(FIGURES)}, got {', '.join(sorted(unknown))}")
    for name in given.names or FIGURES:
        plots.save(FIGURES[name](), given.out / f"{name}.png")
        print(given.out / f"{name}.png", flush=True)


if __name__ == "__main__":
    main()
