"""Dynamics: each checkpoint as evaluate has it, one model at a time, stopped and resumed."""

import pickle
import re
import weakref

import architectures
import numpy as np
import pandas as pd
import pytest
import torch
from children import killed_often
from samples import PAIRS
from scipy import stats

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.experiments.scoring.estimates import estimate_drawn
from tl_truncate.experiments.training.steps import first_lasting
from tl_truncate.report.answers.training import dynamics_answer
from tl_truncate.report.kinds.training import _words
from tl_truncate.runs.folder import RunFolder
from tl_truncate.statistics import estimate_mean
from tl_truncate.surgery.controls import controls_of
from tl_truncate.toys.nano.nano import NanoConfig, training_tokens
from tl_truncate.toys.nano.tokenizer import vocabulary

CUTS = {
    "top": tlt.Cut("blocks.1.mlp.W_in", 0.2),
    "two": [tlt.Cut("blocks.0.mlp.W_out", 4), tlt.RandomSubspace("blocks.2.mlp.W_in", 8)],
}
OPTIONS = dict(prepend_bos=False, progress=False)


def load(step: int):
    model = architectures.bridge("neox-parallel")
    architectures.randomise(model, step)
    return model


@pytest.mark.parametrize("kind", ["bridge", "hooked"])
def test_every_checkpoint_is_an_evaluation(kind):
    if kind == "hooked" and architectures.HookedTransformer is None:
        pytest.skip("TransformerLens 4 has only the Bridge")

    def load(step):
        model = architectures.build(kind, "neox-parallel", torch.float64)
        return architectures.with_tokenizer(architectures.randomise(model, step))

    history = tlt.dynamics(load, [5, 0, 2], PAIRS, CUTS, **OPTIONS)
    assert history.checkpoints == (0, 2, 5)
    assert history.finished
    assert history.frame[["step", "cut"]].values.tolist() == [
        [step, name] for step in (0, 2, 5) for name in ("uncut", "top", "two")
    ]
    for step in (0, 2, 5):
        model = load(step)
        uncut = tlt.evaluate(model, PAIRS, **OPTIONS)
        for name, cuts in {"uncut": (), **CUTS}.items():
            expected = tlt.evaluate(model, PAIRS, cuts, baseline=uncut if cuts else None, **OPTIONS)
            found = history.scores(step, name)
            pd.testing.assert_frame_equal(found.frame, expected.frame, rtol=0, atol=1e-12)
            assert found.record == expected.record
            row = history.frame.set_index(["step", "cut"]).loc[(step, name)]
            for metric in ("accuracy", "p_in_context", "p_global", "logit_diff"):
                estimate = expected.estimate(metric)
                for ending, value in dict(zip(("", "_se", "_low", "_high"),
                                              (estimate, estimate.se, estimate.low, estimate.high),
                                              strict=True)).items():  # fmt: skip
                    assert row[f"{metric}{ending}"] == pytest.approx(float(value), abs=1e-12)
                if cuts:
                    change = expected.change(metric)
                    assert row[f"{metric}_change"] == pytest.approx(float(change), abs=1e-12)
                    assert row[f"{metric}_change_low"] == pytest.approx(change.low, abs=1e-12)


def test_cuts_without_a_name_are_made_together(drinks):
    history = tlt.dynamics(load, [1], drinks, CUTS["two"], **OPTIONS)
    assert history.names == ("uncut", "cut")
    assert len(history.scores(1, "cut").record.cuts) == 2
    assert tlt.dynamics(load, [1], drinks, **OPTIONS).names == ("uncut",)


def test_one_model_is_in_memory_at_a_time(drinks):
    alive: list[weakref.ref] = []

    def load_and_look(step):
        assert not [each for each in alive if each() is not None]
        model = load(step)
        model.__dict__["itself"] = model  # counting references does not free it
        alive.append(weakref.ref(model))
        return model

    tlt.dynamics(load_and_look, range(4), drinks, CUTS, **OPTIONS)
    assert len(alive) == 4


def test_what_is_finished_is_not_computed_again(drinks, tmp_path):
    asked = []

    def fails_at_two(step):
        asked.append(step)
        if step == 2 and "again" not in asked:
            raise RuntimeError("out of memory")
        return load(step)

    with pytest.raises(RuntimeError, match="out of memory"):
        tlt.dynamics(fails_at_two, [0, 1, 2, 3], drinks, CUTS, run_dir=tmp_path / "run", **OPTIONS)
    part = tlt.Dynamics.load(tmp_path / "run")
    assert part.checkpoints == (0, 1)
    assert not part.finished
    assert "2 to go" in str(part)
    asked += ["again"]
    history = tlt.dynamics(fails_at_two, [0, 1, 2, 3], drinks, CUTS, run_dir=tmp_path / "run", **OPTIONS)
    # The last finished step is loaded again, to see that the weights are the same.
    assert asked == [0, 1, 2, "again", 1, 2, 3]
    whole = tlt.dynamics(load, [0, 1, 2, 3], drinks, CUTS, **OPTIONS)
    pd.testing.assert_frame_equal(history.frame, whole.frame, check_exact=True)
    pd.testing.assert_frame_equal(
        tlt.Dynamics.load(tmp_path / "run").frame, whole.frame, check_exact=True
    )


def test_killed_and_resumed(drinks, tmp_path):
    steps = list(range(6))
    whole = tlt.dynamics(load, steps, drinks, CUTS, **OPTIONS)
    kills = killed_often(
        lambda: tlt.dynamics(load, steps, drinks, CUTS, run_dir=tmp_path / "run", **OPTIONS),
        times=3,
        first=0.2,
        later=0.1,
    )
    assert kills >= 1
    history = tlt.dynamics(load, steps, drinks, CUTS, run_dir=tmp_path / "run", **OPTIONS)
    pd.testing.assert_frame_equal(history.frame, whole.frame, check_exact=True)
    lines = [line["step"] for line in RunFolder(tmp_path / "run").lines()]
    assert sorted(lines) == steps


def test_a_local_folder_of_steps(drinks, tmp_path):
    """A local folder laid out as Pythia's repositories are."""
    for step in (0, 16):
        architectures.save_folder("neox-parallel", tmp_path / "model" / f"step{step}")
    folder = str(tmp_path / "model")
    history = tlt.dynamics(
        lambda step: tlt.load_model(folder, checkpoint=step),
        tlt.checkpoint_steps(folder),
        drinks,
        progress=False,
    )
    assert history.checkpoints == (0, 16)
    model = tlt.load_model(folder, checkpoint=16)
    expected = tlt.evaluate(model, drinks, progress=False)
    pd.testing.assert_frame_equal(history.scores(16).frame, expected.frame, check_exact=True)


def test_first_steps(drinks):
    history = tlt.dynamics(load, [0, 1, 2], drinks, **OPTIONS)
    means = [float(history.scores(step).p_global) for step in (0, 1, 2)]
    assert history.first_step("p_global", -1.0) == 0
    assert history.first_step("p_global", 2.0) is None
    threshold = (means[0] + max(means)) / 2
    first = next((step for step, mean in enumerate(means) if mean > threshold), None)
    assert history.first_step("p_global", threshold, lasting=1) == first


class TestLastingSteps:
    """A step counts if the next ones agree, and has an interval over prompts."""

    def history(self, *means, n=30):
        random = np.random.default_rng(0)
        noise = random.normal(size=(len(means), n)) / 20
        values = noise - noise.mean(axis=1, keepdims=True) + np.array(means)[:, None]
        steps = [2**place for place in range(len(means))]
        found = [estimate_mean(each) for each in values]
        return lambda above, lasting=2: first_lasting(steps, found, above, lasting)

    def test_one_that_does_not_last_does_not_count(self):
        first = self.history(0.1, 0.5, 0.1, 0.4, 0.5, 0.6)
        assert first(0.3) == 8
        assert first(0.3, lasting=1) == 2
        assert first(0.55, lasting=3) == 32  # all that are left
        assert first(0.9) is None

    def test_the_interval(self):
        found = self.history(0.1, 0.29, 0.31, 0.31, 0.6)(0.3)
        assert (found, found.low, found.high) == (4, 2, 16)
        assert str(found) == "4 [2, 16]"
        assert pickle.loads(pickle.dumps(found)).high == 16
        few = self.history(0.1, 0.5, 0.6, n=4)(0.3)
        assert (few, few.low, few.high) == (2, None, None)


def test_draws_of_a_control_share_a_row():
    site = "blocks.1.mlp.W_in"
    draws = {
        name: tlt.RandomSubspace(site, 4, seed)
        for seed, name in enumerate(("random", "random #2", "random #3"))
    }
    history = tlt.dynamics(load, [0], PAIRS, {"cut": tlt.Cut(site, 4), **draws}, **OPTIONS)
    assert history.names == ("uncut", "cut", "random")
    row = history.frame.set_index("cut").loc["random"]
    changes = [float(history.scores(0, name).change("p_global")) for name in draws]
    assert row["draws"] == 3
    assert row["p_global_change"] == pytest.approx(np.mean(changes))
    assert row["p_global_change_spread"] == pytest.approx(np.std(changes, ddof=1))
    assert row["p_global_change_low"] < row["p_global_change"] < row["p_global_change_high"]


@pytest.mark.parametrize(
    "second",
    [
        tlt.Cut("blocks.2.mlp.W_in", 4),
        tlt.RandomSubspace("blocks.1.mlp.W_in", 5, 1),
        tlt.RandomSubspace("blocks.1.mlp.W_in", 4, 1, strength=0.5),
        tlt.RandomSubspace("blocks.1.mlp.W_in", 4, 0),
    ],
    ids=["another cut", "another keep", "another strength", "the same seed"],
)
def test_a_name_alone_does_not_make_a_draw(second, tmp_path):
    cuts = {"own": tlt.RandomSubspace("blocks.1.mlp.W_in", 4, 0), "own #2": second}
    made = tlt.dynamics(load, [0], PAIRS, cuts, run_dir=tmp_path, **OPTIONS)
    for history in (made, tlt.Dynamics.load(tmp_path)):
        assert history.names == ("uncut", "own", "own #2")
        rows = history.frame.set_index("cut")
        for name, cut in cuts.items():
            expected = tlt.evaluate(load(0), PAIRS, cut, **OPTIONS).change("p_global")
            assert rows.loc[name, "draws"] == 1
            assert rows.loc[name, "p_global_change"] == pytest.approx(float(expected), abs=1e-6)


def test_q_is_among_all_steps():
    history = tlt.dynamics(load, [0, 1, 2], PAIRS, {"cut": tlt.Cut("blocks.1.mlp.W_in", 4)}, **OPTIONS)
    cuts = history.frame[history.frame["cut"] == "cut"]
    p = [history.scores(step, "cut").change("p_global").p for step in (0, 1, 2)]
    assert cuts["p_global_change_q"].to_numpy() == pytest.approx(stats.false_discovery_control(p))


class TestFamilies:
    """A q is among all changes by cuts, or by one kind of control; a cut knows its controls."""

    @pytest.fixture(scope="class")
    def cuts(self):
        one, two = tlt.Cut("blocks.1.mlp.W_in", 4), tlt.Cut("blocks.0.mlp.W_out", 4)
        nothing = tlt.Ablated("blocks.2.mlp.W_in")
        both = controls_of(load(0), [two, nothing], seed=0, draws=2)["RandomSubspace"]
        grouped = tlt.Clustered("blocks.1.mlp.W_out", 4, 0.25)
        assert both[0][1] == nothing
        return {
            "one": one,
            "random one": one.controls(0)["RandomSubspace"],
            "norm one": one.controls(0)["NormMatched"],
            "two": [two, nothing],
            "random two": both[0],
            "random two #2": both[1],
            "groups": grouped,
            "random groups": grouped.controls(3)["RandomSubspace"],
            "norm groups": grouped.controls(3)["NormMatched"],
            "nobody's": tlt.RandomSubspace("blocks.2.mlp.W_out", 3),
        }

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return tmp_path_factory.mktemp("families")

    @pytest.fixture(scope="class")
    def history(self, cuts, folder):
        return tlt.dynamics(load, [0, 1, 2], PAIRS, cuts, run_dir=folder, **OPTIONS)

    FAMILIES = (
        ("one", "two", "groups"),
        ("random one", "random two", "random groups", "nobody's"),
        ("norm one", "norm groups"),
    )

    def test_q_is_within_cuts_and_within_a_kind_of_control(self, history, folder):
        for each in (history, tlt.Dynamics.load(folder)):
            frame = each.frame.set_index(["cut", "step"])
            assert frame.loc["uncut", "logit_diff_change_q"].isna().all()
            for family in self.FAMILIES:
                p = {}
                for name in family:
                    for step in (0, 1, 2):
                        scores = [each.scores(step, name)]
                        if name == "random two":
                            scores += [each.scores(step, "random two #2")]
                        own = np.array(
                            [
                                one.frame["logit_diff"] - one.baseline.frame["logit_diff"]
                                for one in scores
                            ]
                        )
                        found = estimate_drawn("logit_diff", own, changes=True)
                        p[name, step] = found.p if len(own) > 1 else scores[0].change("logit_diff").p
                expected = stats.false_discovery_control(list(p.values()))
                assert frame.loc[list(p), "logit_diff_change_q"].to_numpy() == pytest.approx(expected)

    def test_each_cut_knows_its_own(self, history, folder):
        for each in (history, tlt.Dynamics.load(folder)):
            told = each.histories["pairs"]
            assert told.controls_of("one") == ["random one", "norm one"]
            assert told.controls_of("two") == ["random two"]
            assert told.controls_of("groups") == ["random groups", "norm groups"]
            assert told.controls_of("random one") == told.controls_of("uncut") == []
            kinds = {name: told.kinds[name] for name in each.names if name != "uncut"}
            assert [name for name, kind in kinds.items() if kind == "cut"] == ["one", "two", "groups"]

    def test_the_page_says_what_a_q_is_among(self, history):
        answer = dynamics_answer(history)
        (q,) = (each for each in answer.numbers if each.name == "q")
        assert q.note == "among 9 changes by 3 cuts"
        assert "among 9 changes by 3 cuts" in answer.sentence
        words = " ".join(_words(history))
        assert "among 12 changes by 4 random subspace controls" in words
        assert "among 6 changes by 2 norm-matched controls" in words
        assert "checkpoints, q" not in words

    @pytest.mark.parametrize(
        ("name", "controls"), [("two", ["random two"]), ("groups", ["norm groups"])]
    )
    def test_the_page_finds_controls(self, cuts, name, controls):
        """Of which one is the cut itself, and which are drawn in groups."""
        named = {each: cuts[each] for each in (name, *controls)}
        answer = dynamics_answer(tlt.dynamics(load, [2], PAIRS, named, **OPTIONS))
        (control,) = (each for each in answer.numbers if each.name == "its control")
        own = cuts[controls[0]]
        change = tlt.evaluate(load(2), PAIRS, own, **OPTIONS).change("p_in_context")
        assert control.value == f"{float(change):+.3f}"
        assert control.note == f"{controls[0]}, 1 draw"

    def test_of_a_fit_that_was_not_saved(self):
        """Whoever has just asked has it still."""
        model, site = load(1), "blocks.1.mlp.W_out"
        corpus = np.random.default_rng(0).integers(3, 90, (14, 9))
        moments = tlt.OutputMoments.fit(model, torch.tensor(corpus), sites=[site])
        cut = tlt.OutputPCA(site, moments, keep=0.1)
        named = {"pca": cut, "its random one": cut.controls(4)["RandomSubspace"]}
        history = tlt.dynamics(lambda step: model, [0], PAIRS, named, **OPTIONS)
        (control,) = (each for each in dynamics_answer(history).numbers if each.name == "its control")
        assert control.note == "its random one, 1 draw"
        pickle.loads(pickle.dumps(history))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(checkpoints=[]), ValueError, "checkpoints must be training steps"),
        (dict(checkpoints=[0, -1]), ValueError, "got -1"),
        (dict(checkpoints=3), ValueError, "got 3"),
        (dict(checkpoints=[True]), ValueError, "got True"),
        (dict(load=3), TypeError, "load must be a function from a training step"),
        (dict(cuts={"uncut": tlt.Cut("blocks.0.mlp.W_in", 1)}), ValueError, "not be 'uncut'"),
        (dict(cuts={"none": []}), ValueError, "at least one cut"),
        (dict(cuts=["blocks.0.mlp.W_in"]), TypeError, "A cut must be a Cut"),
        (dict(task="ioi"), TypeError, "task must be a Task"),
        (dict(batch_size=0), ValueError, "batch_size must be an integer from 1 up"),
    ],
)
def test_bad_arguments_fail_before_a_model_is_loaded(drinks, arguments, error, message):
    def never(step):
        raise AssertionError("a model was loaded")

    with pytest.raises(error, match=message):
        tlt.dynamics(**{**dict(load=never, checkpoints=[0], task=drinks), **arguments})


def test_other_errors(drinks, tmp_path):
    history = tlt.dynamics(load, [0], drinks, run_dir=tmp_path / "run", **OPTIONS)
    with pytest.raises(ValueError, match=r"The step must be one of 0 and the name one of uncut, got 1"):
        history.scores(1)
    with pytest.raises(ValueError, match="metric must be one of"):
        history.first_step("loss", 0.5)
    with pytest.raises(ValueError, match=r"differs in: seed \(0 in the folder, 1 now"):
        tlt.dynamics(load, [0, 1], drinks, seed=1, run_dir=tmp_path / "run", **OPTIONS)
    with pytest.raises(ValueError, match="must be new without resume"):
        tlt.dynamics(load, [0], drinks, run_dir=tmp_path / "run", resume=False, **OPTIONS)
    with pytest.raises(ValueError, match=r"must hold manifest\.json"):
        tlt.Dynamics.load(tmp_path)


class TestParts:
    """Decompositions over training."""

    def test_each_checkpoint_has_its_own_means(self, toy, drinks, tmp_path):
        rows = torch.randint(3, 60, (20, 10), generator=torch.Generator().manual_seed(2))
        parts = tlt.Parts(rows, layers=[0, 2])
        options = dict(parts=parts, progress=False)
        history = tlt.dynamics(lambda step: toy, [0, 5], drinks, run_dir=tmp_path / "run", **options)
        means = tlt.TokenMeans.fit(toy, rows, layers=[0, 2], progress=False)
        alone = tlt.part_attribution(toy, drinks, means=means, progress=False)
        assert history.parts[5].frame.equals(history.parts[0].frame)
        assert history.parts[5].logits == pytest.approx(alone.logits, abs=1e-6)
        table = history.parts_frame
        assert table[["step", "layer"]].drop_duplicates().values.tolist() == [
            [0, 0],
            [0, 2],
            [5, 0],
            [5, 2],
        ]
        assert tlt.Dynamics.load(tmp_path / "run").parts_frame.equals(table)
        figure = plots.parts_over_training(history)
        assert [axis.get_title() for axis in figure.axes] == ["MLP of block 0", "MLP of block 2"]
        with pytest.raises(ValueError, match="corpus"):
            tlt.dynamics(
                lambda step: toy, [0, 5], drinks, parts=tlt.Parts(rows[:9]), run_dir=tmp_path / "run"
            )

    def test_on_the_nano_pythia_the_global_part_comes_first(self):
        steps = [64, 512, 1024, 2000]
        task = tlt.tasks.ioi(60, seed=3, tokenizer=tlt.load_model("nano-pythia").tokenizer)
        config = NanoConfig(seed=11)
        corpus = torch.cat([training_tokens(config, 100_000 + batch) for batch in range(4)])

        def load(step):
            return tlt.load_model("nano-pythia", checkpoint=step)

        history = tlt.dynamics(load, steps, task, parts=tlt.Parts(corpus[:, :64]), progress=False)
        first, last = history.parts[64].logits.mean(0), history.parts[2000].logits.mean(0)
        print(
            history.parts_frame.pivot_table(
                index=["layer", "step"], columns=["part", "answer"], values="logits"
            ).round(2)
        )
        # [layer, part, answer]: at first every layer's global part says " the", and no in-context part
        # says anything.
        assert (first[:, 0, 1] > 0.5).all()
        assert abs(first[:, 1]).max() < 0.2
        # In the end in-context parts say the name, and the last one takes " the" back.
        assert last[1:, 1, 0].max() > 1.5
        assert last[-1, 1, 1] < -2

    def test_the_nano_pythias_global_part_is_its_bigram_table(self):
        """Counted on other sentences of its grammar."""
        config = NanoConfig(seed=11)
        seen = torch.cat([training_tokens(config, 200_000 + batch) for batch in range(40)])
        size = len(vocabulary())
        counts = torch.zeros(size, size)
        ones = torch.ones(seen[:, 1:].numel())
        counts.index_put_((seen[:, :-1].flatten(), seen[:, 1:].flatten()), ones, accumulate=True)
        table = (counts / counts.sum(1, keepdim=True).clamp_min(1)).clamp_min(1e-3).log().double()
        table = table - table.mean(-1, keepdim=True)
        corpus = torch.cat([training_tokens(config, 100_000 + batch) for batch in range(4)])[:, :64]
        model = tlt.load_model("nano-pythia", checkpoint=64)
        means = tlt.TokenMeans.fit(model, corpus, progress=False)
        for layer, parts in tlt.decompose_layers(model, corpus[:20], means=means).items():
            rows = corpus[:20][parts.valid]
            often = counts.sum(1)[rows] > 200
            said = parts.logits(range(size))
            cosine = [
                float(
                    torch.cosine_similarity(each[parts.valid][often], table[rows][often], dim=-1).mean()
                )
                for each in (said.global_, said.in_context)
            ]
            print(f"block {layer}: cosine global {cosine[0]:.2f}, in-context {cosine[1]:.2f}")
            assert cosine[0] > 0.6, (layer, cosine)
            assert layer == 0 or cosine[1] < 0.35, (layer, cosine)

    def test_refusals(self, toy, drinks):
        with pytest.raises(ValueError, match="corpus must be texts or rows of tokens"):
            tlt.Parts()
        with pytest.raises(ValueError, match="method must be one of"):
            tlt.Parts(["a"], method="guess")
        with pytest.raises(ValueError, match="must have been asked for parts"):
            _ = tlt.dynamics(lambda step: toy, [0], drinks, progress=False).parts_frame


def test_room_for_parts_is_asked_for_before_anything_is_scored(drinks, monkeypatch):
    from tl_truncate.experiments.training.checkpoints import checkpoint as module

    def load(step):
        return architectures.with_tokenizer(architectures.bridge("gpt2"))

    def evaluate(*args, **options):
        raise AssertionError("the parts' room must be asked for first")

    with pytest.raises(ValueError, match="max_memory must be at least") as refused:
        tlt.evaluate(load(0), drinks, max_memory=1, progress=False)
    enough = int(re.search(r"at least (\d+)", str(refused.value))[1])
    monkeypatch.setattr(module, "evaluate", evaluate)
    parts = tlt.Parts(["Mary gave a drink to John " * 6] * 3)  # longer than the prompts
    with pytest.raises(ValueError, match="max_memory must be at least"):
        tlt.dynamics(load, [0], drinks, parts=parts, max_memory=enough, progress=False)
