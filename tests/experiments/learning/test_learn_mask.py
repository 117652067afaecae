"""Learned masks: gradients against finite differences, cuts against masks, and a model whose answer is known."""

import itertools
from dataclasses import replace

import architectures
import inplace
import numpy as np
import pytest
import torch
from architectures import CASES, ROUNDS, with_tokenizer
from children import killed_often
from planted import PLANTED, SITE, planted
from samples import SEQUENCES

import tl_truncate as tlt
from tl_truncate.experiments.learning import learn_mask as module
from tl_truncate.experiments.learning.learner import allowance, minibatch
from tl_truncate.experiments.learning.mask import Layout, harden
from tl_truncate.experiments.learning.masked_model import MaskedModel, masked
from tl_truncate.experiments.search.judge import Split, split_task
from tl_truncate.surgery.controls import RotatedComponents
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.spoken import said_kind
from tl_truncate.tasks.encode import encode

NAMES = ["Mary", "John", "Paris", "London", "Rome"]


def pairs_task(count: int = 20) -> tlt.Task:
    pairs = list(itertools.permutations(NAMES, 2))[:count]
    prompts = [f"When {a} and {b} went to the store , {a} gave a drink to" for a, b in pairs]
    return tlt.Task("pairs", prompts, [f" {b}" for _, b in pairs], " the")


def options(**changed):
    own = dict(sites=["blocks.1.mlp.W_out", "blocks.2.mlp.W_in"], budget=6, steps=30, texts=(), draws=2)
    return {**own, "progress": False, **changed}


def learned(found) -> tuple:
    """All that must not depend on when and how often the learning was stopped."""
    looks = found.looks.drop(columns="seconds")
    return (
        found.cuts,
        looks.to_dict("list"),
        {site: each.tolist() for site, each in found.scores.items()},
    )


def same(one, other) -> bool:
    return repr(learned(one)) == repr(learned(other))


@pytest.fixture
def model(shared):
    return shared("bridge", "neox-parallel")


@pytest.fixture(scope="module")
def found(shared):
    return tlt.learn_mask(shared("bridge", "neox-parallel"), pairs_task(), **options())


class TestThePlantedModel:
    """Two components of one site matter, by construction."""

    @pytest.fixture(scope="class", params=sorted({kind for kind, _ in CASES}))
    def model(self, request):
        ids = architectures.word_tokenizer()
        answers = [ids(f" {name}")["input_ids"][0] for name in NAMES]
        return planted(request.param, answers, ids(" the")["input_ids"][0])

    def test_each_of_the_two_matters_and_no_other(self, model):
        screen = tlt.attribute(model, pairs_task(), sites=[SITE], progress=False).frame
        matters = screen["effect"].abs() > 1e-9
        assert tuple(screen["component"][matters]) == PLANTED
        assert (screen["effect"][matters] > 0).all()

    # On a probability the others have small effects too, through tokens that are no answer.
    @pytest.mark.parametrize(
        ("objective", "budget"), [("logit_diff", 2), ("logit_diff", 20), ("p_in_context", 2)]
    )
    def test_exactly_the_two_are_found(self, model, objective, budget):
        asked = options(sites=[SITE], budget=budget, objective=objective, price=1e-6)
        found = tlt.learn_mask(model, pairs_task(), **asked)
        assert found.cuts == (tlt.Cut(SITE, tlt.Without(PLANTED)),)
        assert found.verdict() == "survives"
        wanted = tlt.evaluate(
            model, split_task(pairs_task(), test_fraction=0.5, seed=0).test, found.cuts
        )
        assert float(found.change()) == pytest.approx(float(wanted.change(objective)), abs=1e-12)
        assert float(found.over_control("RandomComponents")) > 0

    def test_with_room_for_one_it_is_the_better_one(self, model):
        found = tlt.learn_mask(model, pairs_task(), **options(sites=[SITE], budget=1))
        validation = split_task(pairs_task(), test_fraction=0.5, seed=0).validation
        gains = {
            place: float(
                tlt.evaluate(model, validation, tlt.Cut(SITE, tlt.Without([place]))).change("logit_diff")
            )
            for place in PLANTED
        }
        assert found.cuts == (tlt.Cut(SITE, tlt.Without([max(gains, key=gains.get)])),)

    def test_a_price_that_neither_is_worth_leaves_both(self, model):
        found = tlt.learn_mask(model, pairs_task(), **options(sites=[SITE], price=1e6))
        assert found.cuts == ()
        assert "No mask of 32 components that was looked at raised logit_diff" in str(found)
        assert found.change() == 0.0

    def test_amplified_where_that_helps(self, model):
        """The answers turned round: what pushed the global answer pushes the in-context one."""
        task = pairs_task()
        turned = replace(task, in_context=task.global_, global_=task.in_context)
        asked = options(sites=[SITE], budget=8, strength=-1.0, price=1e-6)
        found = tlt.learn_mask(model, turned, **asked)
        assert found.cuts == (tlt.Cut(SITE, tlt.Without(PLANTED), strength=-1.0),)
        assert found.change() > 0
        assert tlt.learn_mask(model, turned, **{**asked, "strength": 1.0}).cuts == ()


def some_sites(model):
    """Of every kind: joint, single heads, also of W_O, whose projection has no hook point of its own."""
    found = [tlt.Site(0, "W_in"), tlt.Site(2, "W_out"), tlt.Site(1, "W_Q"), tlt.Site(2, "W_O")]
    found += [tlt.Site(1, "W_O", 2), tlt.Site(0, "W_V", 1)]
    return found


def vectors_of(model, sites):
    return {site: tlt.spectrum(model, site).V for site in sites}


@pytest.mark.parametrize("metric", ["logit_diff", "p_in_context"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_gradients_are_finite_differences(shared, drinks, kind, name, metric):
    model = with_tokenizer(shared(kind, name, torch.float64))
    vectors, encoded = vectors_of(model, some_sites(model)), encode(model, drinks, prepend_bos=False)
    generator = torch.Generator().manual_seed(0)
    # Small steps, since a ReLU has corners, but where the model rounds.
    size, allowed = (1e-4, 1e-2) if (kind, name) in ROUNDS else (1e-6, 1e-7)
    with masked(model, vectors, batch_size=32) as at_work:
        count = sum(each.shape[1] for each in vectors.values())
        strengths = torch.rand(count, generator=generator, dtype=torch.float64)
        at_work.set(strengths)
        value, gradient = at_work.gradient(drinks, encoded, metric)
        assert value == pytest.approx(at_work.mean(drinks, encoded, metric), abs=1e-9)
        places = [
            part.start + 1 for part in Layout({s: v.shape[1] for s, v in vectors.items()}).parts.values()
        ]
        directions = [torch.nn.functional.one_hot(torch.tensor(each), count).double() for each in places]
        directions.append(torch.randn(count, generator=generator, dtype=torch.float64))
        for direction in directions:
            ends = []
            for step in (size, -size):
                at_work.set(strengths + step * direction)
                ends.append(at_work.mean(drinks, encoded, metric))
            slope = (ends[0] - ends[1]) / (2 * size)
            assert float(gradient @ direction) == pytest.approx(slope, abs=allowed)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_strengths_of_zero_are_the_uncut_model_and_of_one_the_cuts(shared, tokens, drinks, kind, name):
    model = with_tokenizer(shared(kind, name, torch.float64))
    vectors = vectors_of(model, some_sites(model))
    layout = Layout({site: each.shape[1] for site, each in vectors.items()})
    chosen = torch.rand(layout.size, generator=torch.Generator().manual_seed(1)) < 0.3
    cuts = layout.cuts(chosen, tlt.Cut)
    assert len(cuts) == len(vectors)
    encoded = encode(model, drinks, prepend_bos=False)
    with torch.no_grad():
        uncut = model(tokens)
        with masked(model, vectors, batch_size=32) as at_work:
            hooked = [each for each in vectors if each.head is None or each.matrix != "W_O"]
            nothing = model(tokens)
            at_work.set(chosen.double())
            one = model(tokens)
            mean = at_work.mean(drinks, encoded, "logit_diff")
        with tlt.truncated(model, cuts):
            other = model(tokens)
        with masked(model, {site: vectors[site] for site in hooked}, batch_size=32):
            untouched = model(tokens)
    assert torch.equal(untouched, uncut)
    assert torch.allclose(nothing, uncut, atol=1e-12)
    assert torch.allclose(one, other, atol=1e-9)
    scores = tlt.evaluate(model, drinks, cuts, prepend_bos=False, progress=False)
    assert mean == pytest.approx(float(scores.logit_diff), abs=1e-9)


def test_the_first_step_is_the_screen(model):
    """From no mask, the straight-through gradient is what `attribute` predicts."""
    task, site = pairs_task(), "blocks.1.mlp.W_out"
    inner = split_task(
        split_task(task, test_fraction=0.5, seed=0).validation, test_fraction=0.25, seed=0
    )
    found = tlt.learn_mask(model, task, **options(sites=[site], steps=1, price=0.25))
    screen = tlt.attribute(model, inner.validation, sites=[site], progress=False).frame["effect"]
    assert found.frame["score"].to_numpy() == pytest.approx(screen.to_numpy() - 0.25, abs=1e-5)


class TestHowItLearns:
    def test_the_looks_are_scores_of_cuts(self, model, found):
        watched = split_task(
            split_task(pairs_task(), test_fraction=0.5, seed=0).validation, test_fraction=0.25, seed=0
        ).test
        scores = tlt.evaluate(model, watched, found.cuts, progress=False)
        row = found.looks.loc[found.best_step]
        assert row["change"] == pytest.approx(float(scores.change("logit_diff")), abs=1e-5)
        assert row["worth"] == pytest.approx(row["change"] - 0.001 * row["components"], abs=1e-9)
        assert row["worth"] == pytest.approx(found.looks["worth"].max(), abs=1e-5)
        assert row["components"] == found.frame["removed"].sum()

    def test_the_mask_grows_to_its_budget(self, found):
        counts = found.looks["components"]
        assert counts[0] == 0
        assert all(count <= allowance(6, step) for step, count in enumerate(counts))
        assert counts.max() == 6
        changes = (found.looks["entered"] - found.looks["left"]).cumsum()
        assert changes.tolist() == counts.tolist()

    def test_it_stops_early(self, model):
        found = tlt.learn_mask(model, pairs_task(), **options(steps=500, patience=3, budget=2))
        assert found.steps < 500
        assert found.steps - max(found.best_step, 25) == 3

    def test_the_test_prompts_have_no_say(self, model, found, monkeypatch):
        split, inner = module._divided(pairs_task(), 0.5, 0.25, 0)
        assert not set(split.test.prompts) & set(split.validation.prompts)
        assert set(inner.test.prompts) | set(inner.validation.prompts) == set(split.validation.prompts)
        assert not set(inner.test.prompts) & set(inner.validation.prompts)
        turned = Split(
            split.validation,
            replace(split.test, in_context=split.test.global_, global_=split.test.in_context),
        )
        monkeypatch.setattr(module, "_divided", lambda *_: (turned, inner))
        other = tlt.learn_mask(model, pairs_task(), **options())
        assert same(other, found)
        assert float(other.change()) == pytest.approx(-float(found.change()), abs=1e-5)

    def test_the_split_is_that_of_a_search(self, model, found):
        asked = dict(sites=["blocks.1.mlp.W_out"], keeps=[0.5], splits=1, draws=1, texts=())
        searched = tlt.search(model, pairs_task(), **asked, progress=False)
        assert searched.test["pairs"].frame["prompt"].equals(found.test["pairs"].frame["prompt"])

    def test_the_same_seed_is_the_same_result(self, model, found):
        assert same(tlt.learn_mask(model, pairs_task(), **options()), found)

    def test_another_seed_is_another_split(self, model, found):
        other = tlt.learn_mask(model, pairs_task(), **options(seed=1))
        assert set(other.test["pairs"].frame["prompt"]) != set(found.test["pairs"].frame["prompt"])

    def test_minibatches(self, model):
        twice = tlt.learn_mask(model, pairs_task(), **options(prompts_per_step=3))
        assert same(twice, tlt.learn_mask(model, pairs_task(), **options(prompts_per_step=3)))
        for start in range(0, 12, 4):
            epoch = itertools.chain(*(minibatch(8, 2, start + step, 0) for step in range(4)))
            assert sorted(epoch) == list(range(8))

    def test_passes_of_fewer_prompts_change_no_more_than_rounding(self, shared):
        model = shared("bridge", "neox-parallel", torch.float64)
        one, other = (
            tlt.learn_mask(model, pairs_task(), **options(batch_size=size)) for size in (1, 32)
        )
        assert one.cuts == other.cuts
        assert one.looks["watched"].to_numpy() == pytest.approx(other.looks["watched"].to_numpy())

    def test_no_budget_is_nothing(self, model, monkeypatch):
        monkeypatch.setattr(MaskedModel, "gradient", None)
        found = tlt.learn_mask(model, pairs_task(), **options(budget=0))
        assert found.cuts == ()
        assert found.change() == 0.0
        assert not found.frame["removed"].any()
        assert "Nothing was learned of 64 components: the budget was 0." in str(found)

    def test_answers_of_several_tokens(self, shared):
        task = tlt.Task(
            "long",
            [
                *SEQUENCES.prompts,
                *(f"{a} gave a drink to" for a in ("John", "Rome", "Paris", "Italy", "London")),
                *(f"The capital of {a} is" for a in ("France", "Italy", "London")),
            ],
            [*SEQUENCES.in_context, *[" Mary and Paris"] * 5, " Paris", " Rome", " France"],
            [*SEQUENCES.global_, *[" the"] * 5, " the store", " the", " a"],
            scoring="sequence",
        )
        model = shared("bridge", "gpt2", torch.float64)
        found = tlt.learn_mask(model, task, **options(steps=28, prepend_bos=False, watch_fraction=0.4))
        row = found.looks.loc[found.best_step]
        inner = split_task(
            split_task(task, test_fraction=0.5, seed=0).validation, test_fraction=0.4, seed=0
        )
        scores = tlt.evaluate(model, inner.test, found.cuts, prepend_bos=False, progress=False)
        assert row["watched"] == pytest.approx(float(scores.logit_diff), abs=1e-9)

    def test_inside_a_context(self, shared):
        model, outer = shared("bridge", "gpt2", torch.float64), tlt.Cut("blocks.0.mlp.W_in", 0.3)
        with tlt.truncated(model, outer):
            found = tlt.learn_mask(model, pairs_task(), **options(prepend_bos=False))
            uncut = tlt.evaluate(
                model, module._divided(pairs_task(), 0.5, 0.25, 0)[1].test, prepend_bos=False
            )
        assert found.looks["watched"][0] == pytest.approx(float(uncut.logit_diff), abs=1e-9)
        assert found.test["pairs"].record.cuts[0] == outer.to_json()

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_where_gradients_are_switched_off(self, model, found, mode):
        with mode():
            assert same(tlt.learn_mask(model, pairs_task(), **options()), found)

    def test_in_half_precision(self):
        model = architectures.bridge("gpt2", torch.bfloat16)
        found = tlt.learn_mask(model, pairs_task(), **options(steps=28))
        assert np.isfinite(found.looks["watched"]).all()
        assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())


class TestWhatItLeavesAlone:
    @pytest.mark.parametrize("ends", ["well", "badly"])
    def test_parameters(self, ends, monkeypatch):
        model = architectures.bridge("gpt2")
        asked = []
        for place, parameter in enumerate(model.parameters()):
            parameter.requires_grad_(place % 3 > 0)
            asked.append((parameter.requires_grad, parameter.detach().clone()))
        if ends == "badly":
            monkeypatch.setattr(MaskedModel, "mean", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                tlt.learn_mask(model, pairs_task(), **options())
        else:
            tlt.learn_mask(model, pairs_task(), **options())
        for parameter, (wanted, value) in zip(model.parameters(), asked, strict=True):
            assert parameter.requires_grad is wanted
            assert parameter.grad is None
            assert torch.equal(parameter, value)

    def test_blocks_below_the_lowest_site_are_not_gone_back_through(self, model, drinks):
        seen = {}
        handles = [
            block.register_forward_hook(
                lambda module, args, out, layer=layer: seen.update(
                    {layer: (out[0] if isinstance(out, tuple) else out).requires_grad}
                )
            )
            for layer, block in enumerate(model.blocks)
        ]
        with masked(model, vectors_of(model, [tlt.Site(1, "W_out")]), batch_size=8) as at_work:
            at_work.gradient(drinks, encode(model, drinks), "logit_diff")
        for handle in handles:
            handle.remove()
        assert seen == {0: False, 1: True, 2: True}

    def test_the_global_random_state(self, model):
        # Python's own is drawn from by the checks of types that the tests switch on.
        state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
        tlt.learn_mask(model, pairs_task(), **options(null=True, steps=3))
        assert torch.equal(state, torch.get_rng_state())
        assert np.array_equal(numpy_state, np.random.get_state()[1])


class TestControls:
    def test_random_masks_are_of_the_same_size_at_the_same_sites(self, model, found):
        drawn = found.controls["RandomComponents"]["pairs"]
        sizes = {str(cut.site): len(cut.keep.components) for cut in found.cuts}
        seen = []
        for scores in drawn.draws:
            cuts = [SiteCut.from_json(each) for each in scores.record.cuts]
            assert {str(cut.site): len(cut.keep.components) for cut in cuts} == sizes
            test = split_task(pairs_task(), test_fraction=0.5, seed=0).test
            again = tlt.evaluate(model, test, cuts, progress=False)
            assert again.frame["logit_diff"].equals(scores.frame["logit_diff"])
            seen.append(cuts)
        assert seen[0] != seen[1]
        assert {"RandomComponents", "RandomSubspace", "NormMatched"} == set(found.controls)

    def test_a_turned_basis(self, shared, tokens):
        """Its directions span what the components span; removing them is what NumPy says."""
        model, site = shared("bridge", "gpt2", torch.float64), "blocks.1.mlp.W_out"
        cut = RotatedComponents(site, tlt.Without([3, 7]), 2)
        spec = tlt.spectrum(model, site)
        basis = cut.basis(spec).double().numpy()
        assert np.allclose(basis.T @ basis, np.eye(32), atol=1e-9)
        v = spec.V.double().numpy()
        assert np.allclose(basis @ basis.T, v @ v.T, atol=1e-9)
        gone = basis[:, [3, 7]]
        with torch.no_grad():
            with tlt.truncated(model, cut):
                one = model(tokens)
            with inplace.edited(model, (site, lambda matrix: matrix - matrix @ gone @ gone.T)):
                other = model(tokens)
        assert torch.allclose(one, other, atol=1e-9)
        assert SiteCut.from_json(cut.to_json()) == cut
        assert not np.allclose(basis, RotatedComponents(site, 0, 3).basis(spec))

    def test_the_null_is_learned_alike(self, model, tmp_path):
        found = tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options(null=True))
        assert all(isinstance(cut, RotatedComponents) for cut in found.null.cuts)
        assert sum(len(cut.keep.components) for cut in found.null.cuts) <= 6
        test = split_task(pairs_task(), test_fraction=0.5, seed=0).test
        scores = tlt.evaluate(model, test, found.null.cuts, progress=False)
        assert float(found.null.change()) == pytest.approx(float(scores.change("logit_diff")), abs=1e-6)
        again = tlt.LearnedMask.load(tmp_path)
        assert float(again.over_null()) == float(found.over_null())
        assert str(again) == str(found)


class TestGoingOn:
    def test_after_an_interrupt(self, model, found, tmp_path, monkeypatch):
        original, calls = MaskedModel.gradient, []

        def gradient(self, *args):
            calls.append(1)
            if len(calls) == 9:
                raise KeyboardInterrupt
            return original(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(MaskedModel, "gradient", gradient)
            with pytest.raises(KeyboardInterrupt, match="the same call with the same folder goes on"):
                tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options())
        with pytest.raises(ValueError, match=r"must hold finished learning's mask\.safetensors"):
            tlt.LearnedMask.load(tmp_path)
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(MaskedModel, "gradient", lambda *args: (calls.append(1), original(*args))[1])
            resumed = tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options())
        assert len(calls) == 30 - 8
        assert same(resumed, found)
        assert same(tlt.LearnedMask.load(tmp_path), found)
        assert resumed.summary().equals(found.summary())

    def test_killed_again_and_again(self, model, found, tmp_path):
        def work():
            tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options())

        assert killed_often(work, times=4, first=0.3, later=0.15)
        assert same(tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options()), found)

    def test_for_more_steps(self, model, found, tmp_path):
        tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options(steps=7))
        more = tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options(null=True))
        assert same(more, found)
        assert more.null is not None

    def test_not_for_fewer_steps(self, model, tmp_path):
        tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options(steps=7))
        with pytest.raises(ValueError, match=r"steps must be at least 7, which .* has taken, got 6"):
            tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options(steps=6))

    @pytest.mark.parametrize(
        "changed",
        [
            dict(budget=5),
            dict(price=0.5),
            dict(sites=["blocks.1.mlp.W_out"]),
            dict(patience=3),
            dict(seed=1),
        ],
    )
    def test_of_something_else(self, model, tmp_path, changed):
        tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options(steps=1))
        with pytest.raises(ValueError, match=f"differs in: {next(iter(changed))}.*Use another folder"):
            tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options(steps=1, **changed))

    def test_of_other_weights(self, tmp_path):
        model = architectures.bridge("gpt2")
        tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options(steps=1))
        with torch.no_grad():
            inplace.parameter(model, 1, "W_out")[0][0, 0] += 1e-4
        with pytest.raises(ValueError, match="differs in: weights_hash"):
            tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options(steps=1))

    def test_a_file_of_other_components(self, model, tmp_path):
        tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options(steps=1))
        (tmp_path / "learned.safetensors").write_bytes((tmp_path / "mask.safetensors").read_bytes())
        with pytest.raises(ValueError, match="must hold what was learned of 64 components"):
            tlt.learn_mask(model, pairs_task(), run_dir=tmp_path, **options(steps=1))


class TestTheResult:
    def test_it_comes_back_as_itself(self, model, found, tmp_path):
        found.save(tmp_path / "a.safetensors")
        again = tlt.LearnedMask.load(tmp_path / "a.safetensors")
        assert same(again, found)
        assert str(again) == str(found)
        assert again.frame.equals(found.frame)
        assert again.changes.equals(found.changes)
        assert repr(again.to_json()) == repr(found.to_json())

    def test_what_it_says(self, found):
        assert f"of 64 components of 2 sites (budget 6), learned in {found.steps} steps" in str(found)
        assert f"the mask of step {found.best_step} was worth most on" in str(found)
        assert found.steps_per_second > 0
        assert list(found.history.columns) == [
            *("step", "components", "entered", "left", "watched", "change", "worth", "fit", "seconds")
        ]
        mine = found.history
        mine["worth"] = 0
        assert found.history["worth"].max() > 0

    def test_its_cuts_are_cuts(self, model, found, tmp_path):
        found.cuts.save(tmp_path / "cuts.json")
        assert tlt.Cuts.load(tmp_path / "cuts.json") == found.cuts
        swept = tlt.sweep(model, pairs_task(), cuts=list(found.cuts), progress=False)
        assert len(swept.settings) == len(found.cuts)

    def test_the_cost(self, model):
        texts = ["the store in Paris is in France", "When Mary went to London , John went to Rome ."]
        found = tlt.learn_mask(model, pairs_task(), **options(texts=texts))
        alone = tlt.side_effects(model, found.cuts, texts, progress=False)
        assert found.cost.frame.equals(alone.frame)


def test_harden():
    scores = torch.tensor([0.5, 0.5, -1.0, 0.0, 2.0])
    assert harden(scores, 2).tolist() == [True, False, False, False, True]
    assert harden(scores, 5).tolist() == [True, True, False, False, True]
    assert harden(scores, 0).sum() == 0


@pytest.mark.parametrize(
    ("changed", "wording"),
    [
        (dict(objective="accuracy"), r"objective must be one of logit_diff, p_in_context.*no gradient"),
        (
            dict(objective="p_global"),
            "objective must be one of logit_diff, p_in_context, got 'p_global'",
        ),
        (dict(budget=-1), "budget must be an integer from 0 up"),
        (dict(budget=65), "budget must be at most 64, all components of the 2 sites, got 65"),
        (dict(price=-0.1), "price must be a finite number from 0 up"),
        (dict(price=float("nan")), "price must be a finite number from 0 up"),
        (dict(strength=0), "strength must be a finite number other than 0"),
        (dict(strength=float("inf")), "strength must be a finite number other than 0"),
        (dict(steps=0), "steps must be an integer from 1 up"),
        (dict(patience=0), "patience must be an integer from 1 up"),
        (dict(prompts_per_step=0), "prompts_per_step must be an integer from 1 up"),
        (dict(draws=0), "draws must be an integer from 1 up"),
        (dict(seed=-1), "seed must be an integer from 0 up"),
        (dict(test_fraction=1.0), "test_fraction must be a number between 0 and 1"),
        (dict(watch_fraction=0), "watch_fraction must be a number between 0 and 1"),
        (dict(sites=[]), "sites must be one or more, each once"),
        (dict(sites=["blocks.1.mlp.W_in"] * 2), "sites must be one or more, each once"),
        (dict(sites=["blocks.7.mlp.W_in"]), r"layer of blocks\.7\.mlp\.W_in must be in 0\.\.2"),
        (dict(sites=["blocks.1.mlp.W_gate"]), r"must have blocks\.1\.mlp\.W_gate"),
        (dict(sites=["blocks.1.attn.W_O", "blocks.1.attn.W_O.1"]), "must not overlap"),
        (dict(max_memory=1), "max_memory must be at least"),
    ],
)
def test_bad_input(model, monkeypatch, changed, wording):
    monkeypatch.setattr(MaskedModel, "mean", None)
    with pytest.raises(ValueError, match=wording):
        tlt.learn_mask(model, pairs_task(), **options(**changed))


def test_too_few_prompts(model):
    with pytest.raises(ValueError, match="two prompts to choose on and two to report on"):
        tlt.learn_mask(model, pairs_task(3), **options())
    with pytest.raises(ValueError, match="two prompts to take gradients from and two to watch"):
        tlt.learn_mask(model, pairs_task(6), **options())


def test_no_task_and_no_model(model):
    with pytest.raises(TypeError, match="task must be a Task"):
        tlt.learn_mask(model, [pairs_task()], **options())
    with pytest.raises(TypeError, match="must be a TransformerLens model"):
        tlt.learn_mask(torch.nn.Linear(2, 2), pairs_task(), **options())


def test_a_model_in_training_mode_is_refused():
    model = architectures.bridge("gpt2").train()
    with pytest.raises(ValueError, match="must be in evaluation mode"):
        tlt.learn_mask(model, pairs_task(), **options())


def test_logits_that_are_not_finite_are_refused():
    model = architectures.bridge("gpt2")
    with torch.no_grad():
        model.ln_final.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="The logits must be finite"):
        tlt.learn_mask(model, pairs_task(), **options())
    assert all(parameter.requires_grad for parameter in model.parameters())


class TestItsPage:
    def test_from_a_folder_and_a_file(self, model, found, tmp_path):
        tlt.learn_mask(model, pairs_task(), run_dir=tmp_path / "run", **options())
        found.save(tmp_path / "a.safetensors")
        for place in (tmp_path / "run", tmp_path / "a.safetensors"):
            text = tlt.write_report(place, tmp_path / "report.html").read_text()
            assert "a mask learned on" in text
            assert f"learned in {found.steps} steps" in text
            assert said_kind("RandomComponents") in text
            assert "what the mask is worth on the watched prompts" in text

    def test_of_learning_that_has_not_ended(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr(MaskedModel, "gradient", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tlt.learn_mask(model, pairs_task(), run_dir=tmp_path / "run", **options())
        with pytest.raises(ValueError, match="must hold finished learning's"):
            tlt.write_report(tmp_path / "run", tmp_path / "report.html")
