"""Arguments: integers and numbers of NumPy's and torch's are as good as Python's; paths may begin with `~`."""

import json
import os

import architectures
import numpy as np
import pytest
import torch

import tl_truncate as tlt
from tl_truncate.checks import natural, positive, probability, real, whole
from tl_truncate.corpora.passages import read_passages
from tl_truncate.weights.locate import locate

INTEGERS = [int, np.int64, np.int8, np.uint16, lambda n: torch.tensor(n), lambda n: np.array(n)]


@pytest.mark.parametrize("make", INTEGERS)
def test_integer_likes(make):
    for check in (positive, natural):
        found = check("n", make(3))
        assert found == 3
        assert type(found) is int
    assert type(probability("p", make(1))) is float


@pytest.mark.parametrize(
    "value",
    [True, np.bool_(True), torch.tensor(True), 3.0, np.float64(3), "3", None, [3], np.array([3, 4])],
)
def test_what_is_no_integer(value):
    assert whole(value) is None
    with pytest.raises(ValueError, match="n must be an integer from 1 up, got"):
        positive("n", value)


def test_numbers():
    assert real(np.float32(0.5)) == 0.5
    assert all(real(value) is None for value in (True, "1", None, 1j))


@pytest.mark.parametrize("make", INTEGERS[1:])
def test_they_are_accepted_everywhere(toy, drinks, make):
    site = tlt.Site(make(1), "W_out")
    assert site == tlt.Site(1, "W_out")
    assert str(tlt.Site(make(0), "W_Q", make(2))) == "blocks.0.attn.W_Q.2"
    assert tlt.find_sites(toy, "W_in", [make(0), make(2)]) == tlt.find_sites(toy, "W_in", [0, 2])
    rules = [make(3), tlt.Rank(make(3)), tlt.DropTop(make(2)), tlt.Band(make(1), make(4)),
             tlt.Components([make(1)]), tlt.LaserCompat(0.5, make(1))]  # fmt: skip
    plain = [
        3,
        tlt.Rank(3),
        tlt.DropTop(2),
        tlt.Band(1, 4),
        tlt.Components([1]),
        tlt.LaserCompat(0.5, 1),
    ]
    for one, other in zip(rules, plain, strict=True):
        cut = tlt.Cut(site, one)
        assert cut == tlt.Cut(site, other)
        assert json.dumps(cut.to_json()) == json.dumps(tlt.Cut(site, other).to_json())
    assert tlt.RandomSubspace(site, make(3), make(1)) == tlt.RandomSubspace(site, 3, 1)
    spec = tlt.spectrum(toy, site)
    assert spec.energy(make(3)) == spec.energy(3)
    assert tlt.GlobalRemoval(make(1), "own_path") == tlt.GlobalRemoval(1, "own_path")
    assert tlt.Task("t", [[make(4), 5]], [[make(6)]], [[make(7)]]) == tlt.Task(
        "t", [[4, 5]], [[6]], [[7]]
    )
    tokens = torch.tensor([[5, 9, 14]])
    one, other = (tlt.decompose_mlp(toy, tokens, layer, "own_path") for layer in (make(1), 1))
    assert torch.equal(one.global_, other.global_)


@pytest.mark.parametrize("make", [np.int64, lambda n: torch.tensor(n)])
def test_counts_and_seeds_are_plain_in_results(toy, drinks, make, tmp_path):
    cut = tlt.Cut("blocks.1.mlp.W_in", 3)
    counts = dict(batch_size=make(2), resamples=make(50), seed=make(1), progress=False)
    found = [
        tlt.evaluate(toy, drinks, cut, **counts),
        tlt.side_effects(toy, cut, ["the store in Paris"], max_tokens=make(8), **counts),
        tlt.part_attribution(toy, drinks, method="own_path", layers=[make(1)], **counts),
    ]
    for each in found:
        each.save(tmp_path / f"{type(each).__name__}.json")
        assert type(each).load(tmp_path / f"{type(each).__name__}.json").record == each.record
    history = tlt.dynamics(lambda step: toy, [make(0)], drinks, run_dir=tmp_path / "run", **counts)
    assert history.checkpoints == (0,)


def test_a_tasks_tokens_may_be_arrays():
    plain = tlt.Task("t", [[4, 5], [8, 9]], [[6], [6]], [[7], [7]])
    for make in (np.array, torch.tensor):
        assert tlt.Task("t", make([[4, 5], [8, 9]]), make([[6], [6]]), make([[7], [7]])) == plain


def test_a_weight_that_is_not_finite_is_named(drinks):
    model = architectures.with_tokenizer(architectures.bridge("gpt2"))
    locate(model, tlt.Site(1, "W_in")).weight().data[0, 0] = float("nan")
    for call in (
        lambda: tlt.spectrum(model, "blocks.1.mlp.W_in"),
        lambda: tlt.evaluate(model, drinks, tlt.Cut("blocks.1.mlp.W_in", 0.3), progress=False),
        lambda: tlt.attribute(model, drinks, sites=["blocks.1.mlp.W_in"], progress=False),
    ):
        with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.W_in: A weight must be finite"):
            call()


@pytest.mark.parametrize("step", ["abc", -1, 2.5, True, None])
def test_a_checkpoint_that_is_no_step(step):
    if step is None:
        return
    for name in ("pythia-70m", "nano-pythia", "EleutherAI/pythia-160m"):
        with pytest.raises(ValueError, match="checkpoint must be a training step, an integer from 0 up"):
            tlt.load_model(name, checkpoint=step)


def test_home_is_expanded_in_every_path(toy, drinks, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cut = tlt.Cut("blocks.1.mlp.W_in", 3)
    drinks.save("~/task.json")
    assert tlt.Task.load("~/task.json") == drinks
    tlt.Cuts(cut).save("~/cuts.json")
    assert tlt.Cuts.load("~/cuts.json") == (cut,)
    scores = tlt.evaluate(toy, drinks, progress=False)
    scores.save("~/scores.json")
    assert tlt.Scores.load("~/scores.json").record == scores.record
    scores.save_into("~/scores")
    tlt.sweep(toy, drinks, cuts=[cut], run_dir="~/run", progress=False)
    assert len(tlt.SweepResult.load("~/run").settings) == 1
    tlt.search(toy, drinks, cuts=[cut], texts=(), run_dir="~/search", progress=False)
    tlt.SearchResult.load("~/search")
    tlt.dynamics(lambda step: toy, [0], drinks, run_dir="~/dynamics", progress=False)
    tlt.Dynamics.load("~/dynamics")
    tokens = torch.randint(3, 40, (4, 9), generator=torch.Generator().manual_seed(0))
    tlt.TokenMeans.fit(toy, tokens, layers=[1], path="~/means/m.safetensors", progress=False)
    tlt.TokenMeans.load("~/means/m.safetensors")
    (tmp_path / "text.txt").write_text("the store\n")
    assert list(read_passages("~/text.txt")) == ["the store"]
    architectures.save_folder("neox-parallel", tmp_path / "model" / "step3")
    assert tlt.checkpoint_steps("~/model") == (3,)
    tlt.load_model("~/model", checkpoint=3)
    assert "~" not in os.listdir(tmp_path)
    assert not os.path.exists("~")
