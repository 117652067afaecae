"""Tasks in the words of the small tokenizer, and results that no model had to be asked for."""

import itertools
from dataclasses import replace

import numpy as np
import torch
from hypothesis import strategies as st

import tl_truncate as tlt
from tl_truncate.experiments.scoring.answers import Outcome
from tl_truncate.experiments.scoring.evaluate import score_frame
from tl_truncate.experiments.sweep.result import Setting
from tl_truncate.runs.record import Record
from tl_truncate.weights.site import MATRICES

#: Answers of several tokens, and of different lengths.
SEQUENCES = tlt.Task(
    "sequences",
    ["When Mary and John went to the store , John gave a drink to", "Mary gave a drink to"],
    [" Mary and Paris", " John"],
    [" the", " the store and a drink"],
    scoring="sequence",
)


def pairs(*names: str) -> tlt.Task:
    """A prompt for each two of some names."""
    both = list(itertools.permutations(names, 2))
    prompts = [f"When {a} and {b} went to the store , {a} gave a drink to" for a, b in both]
    return tlt.Task("pairs", prompts, [f" {b}" for _, b in both], " the")


#: Enough prompts for an interval.
PAIRS = pairs("Mary", "John", "Paris")


def all_sites(model) -> list[tlt.Site]:
    """Every matrix of a model, and two single heads."""
    return [*tlt.find_sites(model, MATRICES), tlt.Site(1, "W_O", 2), tlt.Site(0, "W_V", 1)]


KEEPS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9)


def large_sweep(
    *,
    layers: int = 30,
    prompts: int = 60,
    controls: bool = False,
    keeps: tuple[float, ...] = KEEPS,
    name: str = "ioi",
) -> tlt.SweepResult:
    """A sweep of every MLP matrix of a deep model at some ranks, with made-up scores."""
    random = np.random.default_rng(0)
    task = replace(tlt.tasks.ioi(n=prompts, seed=0), name=name)

    def outcome(shift: float) -> Outcome:
        scores = [tuple(map(float, random.normal(-1 + shift, 1, prompts))) for _ in range(2)]
        return Outcome(*scores, tuple(map(float, random.integers(0, 2, prompts))))

    matrices = ("W_in", "W_gate", "W_out")
    sites = [tlt.Site(layer, matrix) for layer in range(layers) for matrix in matrices]
    grid: list = [tlt.Cut(site, keep) for site in sites for keep in keeps]
    if controls:
        kinds = (tlt.RandomSubspace, tlt.NormMatched)
        grid += [kind(site, keep) for kind in kinds for site in sites for keep in keeps if keep]
    settings = [Setting(cut, round(576 * cut.label), (outcome(-0.1),)) for cut in grid]
    facts = dict(model="made up", model_class="none", n_layers=layers, dtype="float32", device="cpu")
    facts |= dict(weights="raw", prepend_bos=False, seed=0, cuts=(), versions={"tl-truncate": "0"})
    record = Record(**facts, task=task.name, task_hash=task.hash, n_prompts=prompts)
    base = tlt.Scores(score_frame(task, [15] * prompts, outcome(0.0)), record)
    metrics = ("accuracy", "p_in_context", "p_global", "logit_diff")
    return tlt.SweepResult((task,), {task.name: base}, tuple(settings), tuple(grid), metrics, facts)


@st.composite
def matrices(draw):
    """Of any shape and rank, with values that fall steeply or not at all."""
    rows, columns = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    rank = draw(st.integers(0, min(rows, columns)))
    decay = draw(st.sampled_from((0.0, 1.0, 4.0, 9.0)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    left, right = generator.normal(size=(rows, rank)), generator.normal(size=(rank, columns))
    return torch.tensor(left * np.exp(-decay * np.arange(rank))) @ torch.tensor(right)
