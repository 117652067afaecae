"""A search against brute force, on splits that are kept apart."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tl_truncate as tlt
from tl_truncate.experiments.search.judge import Split, split_task, split_tasks
from tl_truncate.experiments.sweep.places import Here
from tl_truncate.statistics import estimate_against_draws, estimate_over_splits, estimate_ratio

NAMES = ["Mary", "John", "Paris", "London", "Rome", "France", "Italy"]
KEEPS = [0.0, 0.2, 0.5]
SITES = ["blocks.0.mlp.W_out", "blocks.1.mlp.W_in", "blocks.2.mlp.W_out"]


def pairs_task(count: int = 36, name: str = "pairs") -> tlt.Task:
    pairs = list(itertools.permutations(NAMES, 2))[:count]
    prompts = [f"When {a} and {b} went to the store , {a} gave a drink to" for a, b in pairs]
    return tlt.Task(name, prompts, [f" {b}" for _, b in pairs], " the")


#: The machinery is tested on what is most sensitive: every gain of a difference counts, at any cost.
ANY_COST = dict(objective="logit_diff", max_perplexity_ratio=None)


def options(**changed):
    usual = dict(sites=SITES, keeps=KEEPS, texts=(), splits=1, draws=2, progress=False)
    return {**usual, **ANY_COST, **changed}


def gain(model, task, cuts, metric="logit_diff") -> float:
    return float(tlt.evaluate(model, task, cuts, progress=False).change(metric))


@pytest.fixture
def model(shared):
    return shared("bridge", "neox-parallel")


def test_laser_finds_what_brute_force_finds(model):
    task = pairs_task()
    found = tlt.search(model, task, method="laser", **options())
    validation = split_task(task, test_fraction=0.5, seed=0).validation
    gains = {
        (site, keep): gain(model, validation, tlt.Cut(site, keep)) for site in SITES for keep in KEEPS
    }
    best = max(gains, key=gains.get)
    assert found.cuts == (tlt.Cut(*best),)
    assert float(found.validation["pairs"].change("logit_diff")) == pytest.approx(gains[best], abs=1e-5)


def test_halving_agrees_with_brute_force_on_its_last_look(model):
    found = tlt.search(model, pairs_task(), **options())
    brute = tlt.search(model, pairs_task(), method="laser", **options())
    # A quarter of nine, rounded up, is few enough to go to the last look at once.
    assert found.looks[["prompts", "candidates"]].values.tolist() == [[8, 9], [18, 3]]
    assert found.cuts == brute.cuts


def test_compositions_are_scored_together(model):
    task = pairs_task()
    found = tlt.search(model, task, greedy=3, **options())
    split = split_task(task, test_fraction=0.5, seed=0)
    last = found.looks[found.looks["prompts"] == 18]["validation_change"].max()
    assert gain(model, split.validation, found.cuts) == pytest.approx(last, abs=1e-5)
    assert float(found.change()) == pytest.approx(gain(model, split.test, found.cuts), abs=1e-6)
    sites = [cut.site for cut in found.cuts]
    assert len(set(sites)) == len(sites) <= 3
    # Every step raised the objective.
    steps = [gain(model, split.validation, found.cuts[:count]) for count in range(1, len(sites) + 1)]
    assert steps == sorted(steps)


def test_compositions_cut_a_circuit_or_one_of_its_weights(model):
    """And never both, whatever gains most."""
    sites = ["blocks.1.attn.OV.2", "blocks.1.attn.W_V", "blocks.1.attn.W_O.2", "blocks.2.attn.OV.1"]
    for objective in ("logit_diff", "p_in_context"):
        found = tlt.search(
            model, pairs_task(12), greedy=3, null=False, **options(sites=sites, objective=objective)
        )
        assert {cut.site.layer for cut in found.cuts} <= {1, 2}
        assert len([cut for cut in found.cuts if cut.site.layer == 1]) <= 1


def test_laser_composes_from_the_last_layer_backwards(model):
    task = pairs_task()
    found = tlt.search(model, task, method="laser", greedy=3, **options())
    layers = [cut.site.layer for cut in found.cuts]
    assert layers == sorted(layers, reverse=True)
    validation = split_task(task, test_fraction=0.5, seed=0).validation
    chosen, value = [], 0.0
    for layer in (2, 1, 0):
        here = [tlt.Cut(site, keep) for site in SITES for keep in KEEPS]
        here = [cut for cut in here if cut.site.layer == layer]
        gains = [(gain(model, validation, [*chosen, cut]), place) for place, cut in enumerate(here)]
        best, place = max(gains, key=lambda pair: pair[0])
        if best > value:
            chosen, value = [*chosen, here[place]], best
    assert list(found.cuts) == chosen


def test_the_test_prompts_have_no_say(model, monkeypatch):
    """Turning the test prompts' answers round changes the report, and not the choice."""
    task = pairs_task()
    split = split_task(task, test_fraction=0.5, seed=0)
    turned = Split(
        split.validation, replace(split.test, in_context=[" the"] * 18, global_=split.test.in_context)
    )
    assert not set(split.test.prompts) & set(split.validation.prompts)
    assert len(split.test) + len(split.validation) == len(task)
    found = tlt.search(model, task, **options())
    assert set(found.validation["pairs"].frame["prompt"]) == set(split.validation.prompts)
    assert set(found.test["pairs"].frame["prompt"]) == set(split.test.prompts)
    change = found.test["pairs"].change("logit_diff")
    assert float(found.change()) == float(change)
    assert (found.change().low, found.change().high) == (change.low, change.high)
    optimism = float(found.validation["pairs"].change("logit_diff")) - float(change)
    assert found.optimism() == pytest.approx(optimism)
    assert found.survives == (change.low > 0)
    assert f"{found.optimism():+.3f}" in str(found)

    monkeypatch.setattr("tl_truncate.experiments.search.search.split_tasks", lambda *_, **__: [turned])
    other = tlt.search(model, task, **options())
    assert other.cuts == found.cuts
    assert float(other.change()) == pytest.approx(-float(found.change()), abs=1e-6)


def test_controls_stand_beside(model):
    found = tlt.search(model, pairs_task(), **options(keeps=[0.2, 0.5]))
    assert set(found.controls) == {"RandomSubspace", "NormMatched"}
    test = split_task(pairs_task(), test_fraction=0.5, seed=0).test
    draws = [[tlt.RandomSubspace(cut.site, cut.keep, seed) for cut in found.cuts] for seed in (0, 1)]
    scores = [tlt.evaluate(model, test, draw, progress=False) for draw in draws]
    changes = [float(each.change("logit_diff")) for each in scores]
    row = found.summary().loc["pairs"]
    assert row["RandomSubspace"] == pytest.approx(sum(changes) / 2, abs=1e-6)
    assert row["RandomSubspace_spread"] == pytest.approx(abs(changes[0] - changes[1]) / 2**0.5, abs=1e-6)
    over = found.over_control("RandomSubspace")
    assert float(over) == pytest.approx(float(found.change()) - sum(changes) / 2, abs=1e-6)
    wanted = estimate_against_draws(
        found.test["pairs"].frame["logit_diff"], [each.frame["logit_diff"] for each in scores]
    )
    assert (over.low, over.high) == pytest.approx((wanted.low, wanted.high), abs=1e-5)
    with pytest.raises(ValueError, match="control must be one of RandomSubspace, NormMatched"):
        found.over_control("nothing")


def test_a_control_that_is_the_cut_is_not_shown(model):
    found = tlt.search(model, pairs_task(), **options(keeps=[0.0]))
    assert found.cuts
    assert found.controls == {}


def test_the_null_is_the_same_search_among_random_subspaces(model, tmp_path):
    task = pairs_task()
    given = options(keeps=[0.2, 0.5], null=True, draws=1)
    found = tlt.search(model, task, run_dir=tmp_path, **given)
    placebos = [tlt.RandomSubspace(site, keep, 0) for site in SITES for keep in (0.2, 0.5)]
    alone = tlt.search(model, task, **options(sites=None, cuts=placebos, draws=1))
    assert found.null.cuts == alone.cuts
    assert all(isinstance(cut, tlt.RandomSubspace) for cut in found.null.cuts)
    assert found.null.change() == pytest.approx(float(alone.change()), abs=1e-6)
    assert found.null.looks["candidates"].tolist() == found.looks["candidates"].tolist()
    apart = found.test["pairs"].frame["logit_diff"] - found.null.test["pairs"].frame["logit_diff"]
    assert float(found.over_null()) == pytest.approx(apart.mean())
    assert found.summary()["null"].iloc[0] == pytest.approx(float(found.null.change()))
    assert "the same search among random subspaces chose" in str(found)
    again = tlt.SearchResult.load(tmp_path)
    assert again.null.cuts == found.null.cuts
    assert str(again) == str(found)
    with pytest.raises(ValueError, match="null=True"):
        alone.over_null()


def test_the_optimism_is_over_several_splits(model, tmp_path):
    task = pairs_task()
    found = tlt.search(model, task, run_dir=tmp_path, **options(splits=5, draws=1))
    values = []
    for again in range(5):
        split = split_task(task, test_fraction=0.5, seed=0, again=again)
        gains = {
            cut: gain(model, split.validation, cut)
            for cut in (tlt.Cut(site, keep) for site in SITES for keep in KEEPS)
        }
        # Halving looks at few prompts first; whatever it chose, its changes are those of the prompts.
        own = [found.validation["pairs"].change("logit_diff"), found.change()]
        pair = tuple(map(float, own)) if again == 0 else found.repeats["pairs"][again - 1]
        near = [cut for cut, value in gains.items() if value == pytest.approx(pair[0], abs=1e-5)]
        assert any(gain(model, split.test, cut) == pytest.approx(pair[1], abs=1e-5) for cut in near)
        values.append(pair[0] - pair[1])
    wanted = estimate_over_splits(values, test_fraction=0.5)
    assert found.optimism() == pytest.approx(float(wanted))
    assert (found.optimism().low, found.optimism().high) == pytest.approx((wanted.low, wanted.high))
    assert "over 5 splits" in str(found)
    assert str(tlt.SearchResult.load(tmp_path)) == str(found)


class TestEqualPrompts:
    """They never stand on both sides, also of several tasks."""

    @pytest.mark.parametrize("again", range(6))
    def test_within_a_task(self, again):
        once = pairs_task(10)
        task = once.subset([place % 10 for place in range(30)])
        split = split_task(task, test_fraction=0.5, seed=1, again=again)
        assert not set(split.test.prompts) & set(split.validation.prompts)
        assert len(split.test) + len(split.validation) == 30
        assert 12 <= len(split.test) <= 15

    def test_across_tasks(self):
        first, second = pairs_task(20, "first"), pairs_task(30, "second")
        one, other = split_tasks([first, second], test_fraction=0.5, seed=0)
        tests = set(one.test.prompts) | set(other.test.prompts)
        assert not tests & (set(one.validation.prompts) | set(other.validation.prompts))

    def test_one_prompt_many_times_is_refused(self):
        with pytest.raises(ValueError, match="got 1 different ones of 6"):
            split_task(pairs_task(1).subset([0] * 6), test_fraction=0.5, seed=0)


def test_too_few_test_prompts_give_no_verdict(model):
    found = tlt.search(model, pairs_task(8), **options())
    assert found.verdict() == "no verdict: too few prompts"
    assert not found.survives
    assert "[n < 5]" in str(found)


def test_a_search_of_the_second_format_comes_back(model, tmp_path):
    """A control had one draw, beside its baseline; there were no further splits and no null."""
    found = tlt.search(model, pairs_task(), run_dir=tmp_path, **options(draws=1))
    data = json.loads((tmp_path / "search.json").read_text())
    for by_task in data["scores"]["controls"].values():
        for task, draws in by_task.items():
            by_task[task] = {**draws[0], "baseline": data["scores"]["test"][task]["baseline"]}
    del data["repeats"]
    data["format"] = 2
    (tmp_path / "search.json").write_text(json.dumps(data))
    again = tlt.SearchResult.load(tmp_path)
    assert str(again) == str(found)
    assert again.changes.equals(found.changes)


@pytest.mark.parametrize("combine", ["mean", "worst"])
def test_one_composition_for_several_tasks(model, combine):
    first = pairs_task(20, "first")
    second = tlt.Task("second", first.prompts, [" a"] * 20, " to")
    found = tlt.search(model, [first, second], method="laser", combine=combine, **options())
    splits = [each.validation for each in split_tasks([first, second], test_fraction=0.5, seed=0)]
    gains = {}
    for site, keep in itertools.product(SITES, KEEPS):
        changes = [gain(model, each, tlt.Cut(site, keep)) for each in splits]
        gains[tlt.Cut(site, keep)] = min(changes) if combine == "worst" else sum(changes) / 2
    best = max(gains, key=gains.get)
    assert found.cuts == ((best,) if gains[best] > 0 else ())
    assert set(found.summary().index) == {"first", "second"}
    with pytest.raises(ValueError, match="must be one of first, second, got None"):
        found.change()


def test_nothing_is_claimed_where_nothing_helps(model):
    found = tlt.search(model, pairs_task(), **options(keeps=[1.0]))
    assert found.cuts == ()
    assert not found.survives
    assert float(found.change()) == 0.0
    assert found.optimism() == 0.0
    assert found.cost is None
    assert "No cut of 3 settings raised logit_diff" in str(found)


def test_a_budget_limits_the_first_look(model):
    whole = tlt.search(model, pairs_task(), **options())
    some = tlt.search(model, pairs_task(), budget=2, **options())
    assert some.looks["candidates"][0] < whole.looks["candidates"][0] == 9
    again = tlt.search(model, pairs_task(), budget=2, **options())
    assert some.cuts == again.cuts


def test_an_interrupted_search_goes_on(model, tmp_path, monkeypatch):
    from tl_truncate.replay.layer import SiteReplay

    whole = tlt.search(model, pairs_task(), greedy=2, **options())
    original, calls = SiteReplay.logits, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(SiteReplay, "logits", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tlt.search(model, pairs_task(), greedy=2, run_dir=tmp_path, **options())
    looks = sorted(path.name for path in tmp_path.iterdir())
    assert looks[0] == "00-cut-1-on-8"
    assert not (tmp_path / "search.json").exists()
    before = (tmp_path / looks[0] / "settings.jsonl").read_bytes()
    resumed = tlt.search(model, pairs_task(), greedy=2, run_dir=tmp_path, **options())
    assert (tmp_path / looks[0] / "settings.jsonl").read_bytes().startswith(before)
    assert resumed.cuts == whole.cuts
    assert resumed.summary().equals(whole.summary())
    stored = json.loads((tmp_path / "search.json").read_text())
    assert stored["cuts"] == [cut.to_json() for cut in whole.cuts]
    assert stored["records"]["pairs"]["task_hash"] == resumed.test["pairs"].record.task_hash


def test_a_search_comes_back_from_its_folder(model, tmp_path):
    texts = ["the store in Paris", "Mary gave a drink to John"]
    found = tlt.search(model, pairs_task(), run_dir=tmp_path, **{**options(), "texts": texts})
    again = tlt.SearchResult.load(tmp_path)
    assert again.cuts == found.cuts
    assert again.summary().equals(found.summary())
    assert str(again) == str(found)
    assert again.test["pairs"].frame.equals(found.test["pairs"].frame)
    assert again.validation["pairs"].baseline.frame.equals(found.validation["pairs"].baseline.frame)
    assert again.cost.frame.equals(found.cost.frame)
    assert again.looks.equals(found.looks)
    assert again.settings == json.loads(json.dumps(found.settings))


def test_a_search_of_the_first_format_comes_back(model, tmp_path):
    """Baselines lay beside the scores, and passages beside their record."""
    texts = ["the store in Paris", "Mary gave a drink to John"]
    found = tlt.search(model, pairs_task(), run_dir=tmp_path, **options(draws=1, texts=texts))
    data = json.loads((tmp_path / "search.json").read_text())
    scores = data.pop("scores")
    del data["format"], data["kind"]

    def apart(each):
        base = each.pop("baseline")
        base.pop("baseline")
        return [each, base]

    data["control_scores"] = {
        kind: {task: draws[0] for task, draws in by_task.items()}
        for kind, by_task in scores["controls"].items()
    }
    data["scores"] = {
        split: {task: apart(each) for task, each in scores[split].items()}
        for split in ("validation", "test")
    }
    data["passages"] = scores["cost"]["frame"]
    (tmp_path / "search.json").write_text(json.dumps(data))
    again = tlt.SearchResult.load(tmp_path)
    assert str(again) == str(found)
    assert again.changes.equals(found.changes)
    assert again.cost.frame.equals(found.cost.frame)


class TestWhatCountsAsAGain:
    """More than what passes of other shapes differ by, in the metric's own size."""

    def judge(self, model, objective, uncut):
        from tl_truncate.experiments.search.judge import Judge
        from tl_truncate.experiments.sweep.options import SweepOptions

        found = Judge(Here(model), [pairs_task()], objective, "mean", None, SweepOptions())
        found._uncut[8] = (uncut,)
        return found

    def candidate(self, value):
        from tl_truncate.experiments.search.judge import Candidate
        from tl_truncate.surgery.cut import Cuts

        return Candidate(Cuts(), (value,), value)

    @pytest.mark.parametrize(
        ("objective", "uncut", "value", "gain"),
        [
            ("logit_diff", -3.0, 1e-7, False),
            ("logit_diff", -3.0, 1e-3, True),
            ("p_in_context", 0.5, 1e-7, False),
            ("p_in_context", 7.7e-7, 1.4e-7, True),
            ("p_in_context", 7.7e-7, 1e-12, False),
            ("accuracy", 0.5, 1 / 300, True),
            ("accuracy", 0.5, 0.0, False),
        ],
    )
    def test_one(self, model, objective, uncut, value, gain):
        assert self.judge(model, objective, uncut).improves(self.candidate(value), None) is gain


def test_a_search_that_has_not_ended_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"must hold a finished search's search\.json"):
        tlt.SearchResult.load(tmp_path)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(ValueError, match="must be JSON, but it is damaged"):
        tlt.SearchResult.load(tmp_path)
    (tmp_path / "search.json").write_text("{}")
    with pytest.raises(ValueError, match="must hold the scores of every prompt"):
        tlt.SearchResult.load(tmp_path)


def test_bad_input(model):
    with pytest.raises(ValueError, match="objective must be one of p_in_context, logit_diff"):
        tlt.search(model, pairs_task(), objective="rank")
    with pytest.raises(ValueError, match="combine must be one of mean, worst"):
        tlt.search(model, pairs_task(), combine="max")
    with pytest.raises(ValueError, match="method must be one of halving, laser"):
        tlt.search(model, pairs_task(), method="grid")
    with pytest.raises(ValueError, match="greedy must be an integer from 1 up"):
        tlt.search(model, pairs_task(), greedy=0)
    with pytest.raises(ValueError, match="splits must be an integer from 1 up"):
        tlt.search(model, pairs_task(), splits=0)
    with pytest.raises(ValueError, match="draws must be an integer from 1 up"):
        tlt.search(model, pairs_task(), draws=0)
    with pytest.raises(ValueError, match="null=True must have cuts with a random counterpart"):
        removal = tlt.GlobalRemoval(1, "own_path")
        tlt.search(model, pairs_task(), cuts=[removal], null=True)
    with pytest.raises(ValueError, match="budget must be a positive number"):
        tlt.search(model, pairs_task(), budget=0)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        tlt.search(model, pairs_task(), test_fraction=1.5)
    with pytest.raises(ValueError, match="at least two prompts to choose on and two to report on"):
        tlt.search(model, pairs_task(3))


def test_the_cost_on_running_text(model):
    texts = ["the store in Paris is in France", "When Mary went to London , John went to Rome ."]
    found = tlt.search(model, pairs_task(), **options(texts=texts))
    alone = tlt.side_effects(model, found.cuts, texts, progress=False)
    assert found.cost.frame.equals(alone.frame)
    assert "perplexity" in str(found)


class TestSideEffects:
    """Against one plain pass of the edited model, in float64."""

    texts = ("the store in Paris is in France", "When Mary went to London , John went to Rome .")

    @pytest.mark.parametrize("bos", [True, False])
    def test_by_hand(self, shared, bos):
        import inplace

        model = shared("bridge", "gpt2", torch.float64)
        site = "blocks.1.mlp.W_in"
        found = tlt.side_effects(model, tlt.Cut(site, 0.2), self.texts, prepend_bos=bos, progress=False)
        total, losses = 0, torch.zeros(2, dtype=torch.float64)
        for place, text in enumerate(self.texts):
            tokens = model.to_tokens(text, prepend_bos=bos)
            with torch.no_grad():
                uncut = model(tokens)[0, :-1].log_softmax(-1)
                with inplace.edited(model, (site, inplace.top(0.2))):
                    cut = model(tokens)[0, :-1].log_softmax(-1)
            wanted = tokens[0, 1:]
            row = found.frame.loc[place]
            picked = [each.gather(-1, wanted[:, None]) for each in (cut, uncut)]
            assert row["loss"] == pytest.approx(-float(picked[0].mean()), abs=1e-9)
            assert row["uncut_loss"] == pytest.approx(-float(picked[1].mean()), abs=1e-9)
            kl = torch.nn.functional.kl_div(cut, uncut, reduction="batchmean", log_target=True)
            assert row["kl"] == pytest.approx(float(kl), abs=1e-9)
            same = (cut.argmax(-1) == uncut.argmax(-1)).double().mean()
            assert row["agreement"] == pytest.approx(float(same))
            assert row["tokens"] == len(wanted)
            total += len(wanted)
            losses += -torch.stack([each.sum() for each in picked])
        cut_loss, uncut_loss = (losses / total).tolist()
        assert found.perplexity == pytest.approx(torch.tensor(cut_loss).exp().item(), rel=1e-6)
        assert found.uncut_perplexity == pytest.approx(torch.tensor(uncut_loss).exp().item(), rel=1e-6)
        assert float(found.loss_change) == pytest.approx(cut_loss - uncut_loss, abs=1e-9)
        assert found.record.prepend_bos is bos

    def test_the_perplexity_has_an_interval_over_passages(self, toy):
        texts = [f"the store in {name} is in France , said {name}" for name in NAMES]
        found = tlt.side_effects(toy, tlt.Cut("blocks.1.mlp.W_in", 0.2), texts, progress=False)
        frame = found.frame
        loss = estimate_ratio(frame["loss"] * frame["tokens"], frame["tokens"])
        for value in (found.perplexity.low, found.perplexity.high):
            assert value in np.exp((loss.low, loss.high))
        assert found.perplexity.low <= found.perplexity <= found.perplexity.high
        assert found.perplexity.n == len(texts)
        assert f"perplexity {found.uncut_perplexity:.2f} [" in str(found)
        assert found.to_json()["summary"]["perplexity_low"] == found.perplexity.low
        same = tlt.side_effects(toy, tlt.Cut("blocks.1.mlp.W_in", 1.0), texts, progress=False)
        assert float(same.agreement) == 1.0
        assert same.agreement.low < 0.7

    def test_the_shipped_sample_is_used_by_default(self, toy):
        found = tlt.side_effects(toy, tlt.Cut("blocks.1.mlp.W_in", 0.2), max_tokens=16, progress=False)
        assert len(found.frame) >= 20
        assert found.frame["tokens"].max() == 15
        assert found.to_json()["summary"]["passages"] == len(found.frame)

    def test_bad_input(self, toy):
        cut = tlt.Cut("blocks.1.mlp.W_in", 0.2)
        with pytest.raises(TypeError, match="texts must be a list of passages"):
            tlt.side_effects(toy, cut, "the store")
        with pytest.raises(ValueError, match="at least one text of two tokens"):
            tlt.side_effects(toy, cut, ["the"], prepend_bos=False)
