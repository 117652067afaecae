"""A page of two runs compares what can be compared, and says in what the runs differ."""

import dataclasses
import itertools

import numpy as np
import pytest
import samples
from scipy import stats

import tl_truncate as tlt
from tl_truncate.experiments.scoring.answers import Outcome
from tl_truncate.experiments.scoring.evaluate import score_frame
from tl_truncate.experiments.sweep.names import setting_names
from tl_truncate.report.kinds.pair import differences, pair_page
from tl_truncate.report.pairs.pair import pair_of
from tl_truncate.report.pairs.sides import _of_sweep, control_of
from tl_truncate.runs.record import Record

NAMES = ("Mary", "John", "Paris", "Rome")
TASK = samples.pairs(*NAMES)
FIRST, SECOND = tlt.Cut("blocks.1.mlp.W_out", 0.5), tlt.Cut("blocks.0.mlp.W_in", 0.2)
NONE = [None, None]


@pytest.fixture(scope="module")
def model(shared):
    return shared("bridge", "gpt2")


def scored(model, *cuts, task=TASK):
    return tlt.evaluate(model, task, cuts, progress=False)


def page_of(one, other):
    page = pair_page(pair_of([one, other], NONE))
    return (
        page.answer.sentence,
        str(page.sections[0].before),
        {each.name: each for each in page.answer.numbers},
    )


class TestWhatWasCut:
    """Of what is no grid the one setting is what was cut, where that is the same on both sides."""

    def test_the_same(self, model):
        one, other = scored(model, FIRST, SECOND), scored(model, SECOND, FIRST)
        pair = pair_of([one, other], NONE)
        assert pair.settings == ("layer 1, W_out, 50% kept and layer 0, W_in, 20% kept",)
        assert pair.unlike == []
        sentence, summary, _ = page_of(one, other)
        assert f"answer, {pair.settings[0]}: the second run less the first run is" in sentence
        assert f"What is compared is {pair.settings[0]}." in summary

    def test_not_the_same(self, model):
        told = "cut: layer 1, W_out, 50% kept on one side, layer 0, W_in, 20% kept on the other"
        sentence, summary, _ = page_of(scored(model, FIRST), scored(model, SECOND))
        assert sentence.endswith(f"; {told}.")
        assert "each side's own cuts: the second run less" in sentence
        assert f"What else differs: {told}." in summary

    def test_inside_a_context(self, model):
        """Its cuts belong to both sides of a change, and are none of the call's."""
        with tlt.truncated(model, SECOND):
            one = scored(model, FIRST)
        pair = pair_of([one, scored(model, FIRST)], NONE)
        assert pair.settings == ("layer 1, W_out, 50% kept",)
        assert pair.unlike == [
            "cut all along: layer 0, W_in, 20% kept on one side, nothing on the other"
        ]

    def test_of_searches(self, model):
        options = dict(texts=(), max_perplexity_ratio=None, splits=1, draws=2, progress=False)
        one = tlt.search(model, TASK, sites=["blocks.1.mlp.W_out"], keeps=[0.3], **options)
        other = dataclasses.replace(one, cuts=(SECOND,))
        nothing = dataclasses.replace(one, cuts=())
        assert pair_of([one, one], NONE).unlike == []
        assert "cut: " in page_of(one, other)[0]
        assert "nothing on the other" in page_of(one, nothing)[0]
        assert pair_of([nothing, nothing], NONE).settings == ("nothing cut",)

    def test_uncut_models_have_none(self, model, shared):
        pair = pair_of([scored(model), scored(shared("bridge", "neox-parallel"))], NONE)
        assert pair.settings == ("the uncut model",)
        assert not any("cut" in told for told in pair.unlike)


def test_controls_of_searches(model):
    """The difference of a control is that of its means on both sides, over draws and prompts."""
    options = dict(texts=(), max_perplexity_ratio=None, splits=1, draws=3, progress=False)
    one, other = (
        tlt.search(model, TASK, cuts=[FIRST], objective="logit_diff", seed=seed, **options)
        for seed in (0, 1)
    )
    if not one.cuts or not other.cuts:
        pytest.skip("the cut does not help on these prompts")
    apart = {}
    for kind in one.controls:
        means = [
            np.mean([scores.frame["logit_diff"] - found.test["pairs"].baseline.frame["logit_diff"]
                     for scores in found.controls[kind]["pairs"].draws])
            for found in (one, other)
        ]  # fmt: skip
        apart[kind] = means[1] - means[0]
    number = page_of(one, other)[2]["difference of its control"]
    assert float(number.value) == pytest.approx(max(apart.values(), key=abs), abs=5e-4)


class TestTheModels:
    @pytest.mark.filterwarnings("ignore:Each cut takes a pass through the whole model")
    @pytest.mark.parametrize("make", ["scores", "sweep", "search"])
    def test_hooks(self, model, make):
        site, point = "blocks.1.mlp.W_out", "blocks.0.hook_mlp_out"

        def run():
            if make == "scores":
                return scored(model, FIRST)
            grid = dict(sites=[site], keeps=[0.5], progress=False)
            if make == "sweep":
                return tlt.sweep(model, TASK, **grid)
            return tlt.search(
                model, TASK, **grid, texts=(), max_perplexity_ratio=None, splits=1, draws=1
            )

        plain = run()
        with model.hooks(fwd_hooks=[(point, lambda value, hook: value * 1.5)]):
            (name,) = tlt.evaluate(model, TASK, progress=False).record.hooks
            hooked = run()
        assert f"hooks at {name} on one side, no hooks on the other" in page_of(hooked, plain)[0]
        assert f"no hooks on one side, hooks at {name} on the other" in page_of(plain, hooked)[0]
        told = f"hooks at {name} on both sides, and no record says whether they do the same"
        assert told in page_of(hooked, hooked)[0]
        assert "hooks" not in page_of(plain, plain)[0]

    def test_hooks_of_torch(self, model):
        plain = scored(model, FIRST)
        layer = model.blocks[0].mlp
        handle = layer.register_forward_hook(lambda module, inputs, output: output * 1.5)
        try:
            hooked = scored(model, FIRST)
        finally:
            handle.remove()
        (place,) = hooked.record.acting
        told = f"hooks of PyTorch's that change what passes at {place} on one side"
        assert told in page_of(hooked, plain)[0]

    def test_edited_weights_of_one_name(self, model):
        one = scored(model, FIRST)
        record = dataclasses.replace(one.baseline.record, weights_hash="another")
        other = dataclasses.replace(one, baseline=dataclasses.replace(one.baseline, record=record))
        assert "the weights are not the same, though the models have one name" in page_of(one, other)[0]
        record = dataclasses.replace(record, model_class="HookedTransformer")
        other = dataclasses.replace(one, baseline=dataclasses.replace(one.baseline, record=record))
        assert "class: TransformerBridge and HookedTransformer" in page_of(one, other)[0]


class TestTheAnswers:
    """Prompts are the same by what they ask and what is right; other right answers have no difference."""

    def test_without_global_ones(self, model):
        one, other = scored(model, FIRST), scored(model, SECOND, task=TASK.without_global())
        pair = pair_of([one, other], NONE)
        assert pair.is_paired
        sentence, _, numbers = page_of(one, other)
        assert "paired on the same 12 prompts of pairs" in sentence
        assert "one side has global answers, the other has none" in sentence
        assert "not the same (" not in sentence
        by_hand = other.change("p_in_context") - one.change("p_in_context")
        assert float(numbers["difference"].value) == pytest.approx(by_hand, abs=5e-4)
        assert set(pair.metrics) == {"accuracy", "p_in_context", "rank"}

    def test_with_other_global_ones(self, model):
        other = scored(model, SECOND, task=dataclasses.replace(TASK, global_=[" store"] * 12))
        pair = pair_of([scored(model, FIRST), other], NONE)
        assert pair.is_paired
        assert "the global answers are not the same, so that their metrics are left away" in pair.unlike
        assert not {"p_global", "logit_diff"} & set(pair.metrics)
        alone = dict(sites=["blocks.1.mlp.W_out"], keeps=[0.5], metrics=["logit_diff"], progress=False)
        runs = [tlt.sweep(model, task, **alone)
                for task in (TASK, dataclasses.replace(TASK, global_=[" store"] * 12))]  # fmt: skip
        with pytest.raises(ValueError, match="got logit_diff with different global answers"):
            pair_of(runs, NONE)

    def test_with_other_right_ones(self, model):
        swapped = dataclasses.replace(TASK, in_context=[" drink"] * 12)
        with pytest.raises(
            ValueError, match="the same right answer, got ' John' and ' drink' for 'When"
        ):
            pair_of([scored(model, FIRST), scored(model, FIRST, task=swapped)], NONE)

    def test_in_another_order(self, model):
        order = list(range(12))[::-1]
        one, other = scored(model, FIRST), scored(model, SECOND)
        turned = scored(model, SECOND, task=TASK.subset(order))
        values = [pair_of([one, each], NONE).difference("each side's own cuts", "logit_diff")
                  for each in (other, turned)]  # fmt: skip
        assert pair_of([one, turned], NONE).is_paired
        assert [float(each) for each in values] == pytest.approx([float(values[0])] * 2, abs=1e-6)
        assert values[1].se == pytest.approx(values[0].se, rel=1e-4)

    def test_of_some_of_the_prompts(self, model):
        one, other = scored(model, FIRST), scored(model, FIRST, task=TASK.subset(range(7)))
        assert not pair_of([one, other], NONE).is_paired
        assert "the prompts are not the same (12 and 7 of pairs, 7 in both)" in page_of(one, other)[0]


def made(hits, uncut=None, names=None):
    """Scores whose accuracy is what is given, prompt by prompt."""
    names = names or ["Mary", "John", "Paris", "Rome", "London", "France"]
    both = list(itertools.permutations(names, 2))[: len(hits)]
    prompts = [f"{a} gave a drink to {b} and {b} gave it to" for a, b in both]
    task = tlt.Task("pairs", prompts, [f" {a}" for a, _ in both])

    def frame(values):
        logs = tuple(np.log(0.2 + 0.5 * np.asarray(values, float)))
        outcome = Outcome(logs, None, tuple(1.0 - np.asarray(values, float)), tuple(map(float, values)))
        return score_frame(task, [9] * len(task), outcome)

    facts = dict(model="made", task="pairs", task_hash=task.hash, n_prompts=len(task), has_global=False)
    if uncut is None:
        return tlt.Scores(frame(hits), Record(**facts))
    cuts = (FIRST.to_json(),)
    return tlt.Scores(frame(hits), Record(**facts, cuts=cuts), tlt.Scores(frame(uncut), Record(**facts)))


OTHERS = ["store", "drink", "capital", "the", "and", "in"]


def wilson(hits):
    found = stats.binomtest(int(sum(hits)), len(hits)).proportion_ci(method="wilson")
    return np.mean(hits), found.low, found.high


class TestAccuracy:
    """A share of few prompts is uncertain also where all of them say the same."""

    def test_uncut_models_on_the_same_prompts(self):
        pair = pair_of([made([1] * 5), made([0] * 5)], NONE)
        found = pair.difference("the uncut model", "accuracy")
        assert (float(found), found.low) == (-1.0, -1.0)
        # McNemar's, without a correction: five lost, none gained.
        assert found.p == pytest.approx(2 * stats.norm.sf(5 / 5**0.5))
        assert -0.15 < found.high < -0.1
        nothing = pair_of([made([1] * 5)] * 2, NONE).difference("the uncut model", "accuracy")
        assert nothing.low < -0.3
        assert nothing.high > 0.3
        assert nothing.p == 1

    def test_uncut_models_on_other_prompts(self):
        """Newcombe's interval of two independent shares, by Wilson's of each."""
        for one, other in (([1] * 10, [0] * 12), ([1] * 10, [1] * 12), ([1, 0] * 5, [1] * 11 + [0])):
            pair = pair_of([made(one), made(other, names=OTHERS)], NONE)
            assert not pair.is_paired
            found = pair.difference("the uncut model", "accuracy")
            (a, a_low, a_high), (b, b_low, b_high) = wilson(other), wilson(one)
            assert float(found) == pytest.approx(a - b)
            low = a - b - np.hypot(a - a_low, b_high - b)
            high = a - b + np.hypot(a_high - a, b - b_low)
            assert found.low <= low + 1e-9
            assert found.high >= high - 1e-9
            assert found.low < found.high
            assert (found.p < 0.05) == found.excludes_zero

    @pytest.mark.parametrize("paired", [True, False])
    def test_changes(self, paired):
        """All gain in one run, none in the other: clear, and not certain."""
        names = None if paired else OTHERS
        one, other = made([0] * 6, uncut=[0] * 6), made([1] * 6, uncut=[0] * 6, names=names)
        pair = pair_of([one, other], NONE)
        assert pair.is_paired == paired
        found = pair.difference("layer 1, W_out, 50% kept", "accuracy")
        assert float(found) == 1.0
        assert 0 < found.p < 0.05
        assert 0 < found.low < 0.7
        assert differences(pair, "accuracy")[0].q == pytest.approx(found.p)
        same = pair_of([one, made([0] * 6, uncut=[0] * 6, names=names)], NONE)
        still = same.difference("layer 1, W_out, 50% kept", "accuracy")
        assert still.low < -0.3
        assert still.high > 0.3

    def test_of_many_it_is_the_means(self):
        """Where prompts differ enough the interval of the mean is there too: both are covered."""
        random = np.random.default_rng(0)
        hits = [list(map(int, random.integers(0, 2, 30))) for _ in range(4)]
        pair = pair_of([made(hits[0], uncut=hits[1]), made(hits[2], uncut=hits[3])], NONE)
        apart = np.subtract(hits[2], hits[3]) - np.subtract(hits[0], hits[1])
        found = pair.difference("layer 1, W_out, 50% kept", "accuracy")
        assert float(found) == pytest.approx(apart.mean())
        reach = stats.t.ppf(0.975, 29) * apart.std(ddof=1) / 30**0.5
        assert found.low <= apart.mean() - reach
        assert found.high >= apart.mean() + reach
        assert (found.p < 0.05) == found.excludes_zero


def test_cuts_that_look_alike_have_their_own_controls(model):
    """Two groupings of one weight differ in their seed alone; each of two tasks has rows of its own."""
    cuts = [tlt.Clustered(FIRST.site, keep=0.5, groups=2, seed=seed) for seed in (0, 1)]
    drawn = [[cut.controls(seed)["NormMatched"] for seed in (0, 1)] for cut in cuts]
    grid = [cut for own, placebos in zip(cuts, drawn, strict=True) for cut in (own, *placebos)]
    tasks = [TASK, dataclasses.replace(samples.pairs("John", "Mary", "Rome", "Paris"), name="again")]
    result = tlt.sweep(model, tasks, cuts=grid, progress=False)
    for task in tasks:
        side = _of_sweep(result, task.name, "one", setting_names([cuts]))
        for name, cut in side.cuts.items():
            own = drawn[cuts.index(cut)]
            wanted = np.mean(
                [tlt.evaluate(model, task, each, progress=False).change("p_in_context") for each in own]
            )
            assert control_of(side, name, "p_in_context") == {
                "NormMatched": pytest.approx(wanted, abs=1e-6)
            }
