"""Prompts that begin alike share their beginnings: the numbers are those of each prompt by itself."""

import warnings
from dataclasses import replace
from importlib.metadata import version

import inplace
import numpy as np
import pytest
import torch
from architectures import CASES, SPECIAL, WINDOWED, with_tokenizer

import tl_truncate as tlt
from tl_truncate.experiments.scoring.together import scored
from tl_truncate.experiments.sweep.grid import make_grid
from tl_truncate.experiments.sweep.work.engine import Engine
from tl_truncate.experiments.sweep.work.memory import make_plan
from tl_truncate.tasks.encode import encode

FRONT = "When Mary and John went to the store , John gave a drink to Mary . " + (
    "The capital of France is Paris . The capital of Italy is Rome ."
)
#: Whose blocks take no cache of keys, or that come with hooks of their own.
ALONE = {("bridge", "no-norm"), ("bridge", "gpt1")} | (
    {("bridge", "mpt-alibi"), ("bridge", "falcon-alibi")}
    if version("transformer-lens") < "4"
    else {("bridge", "opt-learnt")}
)


@pytest.fixture(scope="module")
def tasks():
    """Questions behind the same words, one of them the beginning of another and one asked twice; answers
    of several tokens; and one token alone."""
    ends = [
        "",
        " Mary gave a drink to",
        " Mary gave",
        " Mary gave a store to",
        " London is in",
        " Mary gave",
    ]
    names = [" Mary", " John", " Paris", " Rome", " Italy", " London"]
    questions = tlt.Task("questions", [FRONT + end for end in ends], names, " the")
    sequences = tlt.Task(
        "sequences",
        [FRONT + " John went to", FRONT, "Mary"],
        [" the store", " Mary and John", " gave a drink"],
        [" Rome", " the", " is in Paris"],
        scoring="sequence",
    )
    return [questions, sequences]


def engine_of(model, tasks, cuts, *, shares, **changes):
    encoded = [encode(model, task, prepend_bos=False) for task in tasks]
    sites = list(dict.fromkeys(cut.site for cut in cuts))
    sizes = dict(batch_size=64, tokens_in_flight=1024, max_memory=None, at_a_site=4)
    plan = replace(make_plan(model, encoded, sites, **sizes), **changes)
    assert plan.groves
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tlt.FullPassesWarning)
        return Engine(model, tasks, plan if shares else plan.alone())


def outcomes(engine, cuts):
    """Log-probabilities of all settings, by cut, and the baseline's."""
    found = {None: engine.baseline}
    found.update((cut, outcome) for group in engine.run(cuts) for cut, outcome in group)
    return {
        cut: np.concatenate([[*each.log_p_in_context, *each.log_p_global] for each in outcome])
        for cut, outcome in found.items()
    }


def gap(one, other):
    assert one.keys() == other.keys()
    return max(np.abs(one[cut] - other[cut]).max() for cut in one)


@pytest.mark.parametrize(
    ("kind", "name"),
    [*CASES, *(("bridge", name) for name in ("gemma2-post-norm", "phi-partial", *SPECIAL)), *WINDOWED],
)
def test_a_sweep_is_the_unshared_sweep(shared, precise, tasks, kind, name):
    model = with_tokenizer(shared(kind, name, torch.float64))
    names = ("attn.W_K", "attn.W_Q.1", "mlp.W_in", "mlp.W_out")
    sites = [f"blocks.{layer}.{name}" for layer in (0, 2) for name in names] + ["blocks.1.attn.W_O.2"]
    cuts = make_grid(model, sites, [0.1, 0.6], ["random_subspace"], 0, draws=1)
    engine = engine_of(model, tasks, cuts, shares=True)
    assert engine.shares == ((kind, name) not in ALONE)
    found = outcomes(engine, cuts)
    assert gap(found, outcomes(engine_of(model, tasks, cuts, shares=False), cuts)) < 1e-9


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case[1] != "no-norm"])
def test_a_sweep_is_in_place_editing(shared, tasks, kind, name):
    """Prompt by prompt, from the edited weights and a whole pass of each."""
    model = with_tokenizer(shared(kind, name, torch.float64))
    sites = ["blocks.0.mlp.W_out", "blocks.1.mlp.W_in", "blocks.1.attn.W_K", "blocks.2.attn.W_O.1"]
    kept = {tlt.Cut(site, keep): keep for site in sites for keep in (0.0, 0.3)}
    cuts = list(kept)
    found = outcomes(engine_of(model, tasks[:1], cuts, shares=True), cuts)
    prompts = encode(model, tasks[0], prepend_bos=False).prompts
    for cut, keep in kept.items():
        with inplace.edited(model, (str(cut.site), inplace.top(keep))), torch.no_grad():
            logits = [model(torch.tensor([each.prompt]))[0, -1].log_softmax(0) for each in prompts]
        wanted = [own[each.in_context[0]] for own, each in zip(logits, prompts, strict=True)]
        wanted += [own[each.global_[0]] for own, each in zip(logits, prompts, strict=True)]
        assert np.abs(found[cut] - np.array([float(each) for each in wanted])).max() < 1e-6


def test_inside_a_context_and_for_cuts_of_every_kind(shared, precise, tasks):
    model = shared("bridge", "llama-grouped", torch.float64)
    texts = [FRONT, "Mary gave a drink to John . Rome is in Italy ."]
    means = tlt.TokenMeans.fit(model, texts, layers=[1], progress=False)
    moments = tlt.OutputMoments.fit(model, texts, sites=["blocks.1.mlp.W_out"], progress=False)
    cuts = [
        tlt.OutputPCA("blocks.1.mlp.W_out", moments, keep=0.3),
        tlt.Clustered("blocks.1.mlp.W_in", groups=2, keep=0.3),
        tlt.Cut("blocks.1.attn.W_Q.1", 0.4),
        tlt.Cut("blocks.1.attn.OV.2", 0.4),
        tlt.Cut("blocks.2.mlp.W_gate", 0.3, strength=-0.5),
        tlt.GlobalRemoval("blocks.1.mlp.W_out", means=means),
        tlt.Ablated("blocks.0.mlp.W_out"),
    ]
    with tlt.truncated(model, tlt.Cut("blocks.0.attn.W_V", 0.5), tlt.Cut("blocks.2.mlp.W_out", 0.7)):
        engine = engine_of(model, tasks, cuts, shares=True)
        assert engine.shares
        found = outcomes(engine, cuts)
        assert gap(found, outcomes(engine_of(model, tasks, cuts, shares=False), cuts)) < 1e-9


@pytest.mark.parametrize("remembers", ["blocks", "block", "nothing"])
def test_an_engine_runs_whatever_it_is_given_and_the_bits_are_those_of_one_run(toy, tasks, remembers):
    sites = tlt.find_sites(toy, ("W_in", "W_out", "W_V"))
    cuts = [tlt.Cut(site, keep) for site in sites for keep in (0.1, 0.2, 0.5)]
    whole = outcomes(engine_of(toy, tasks, cuts, shares=True), cuts)
    engine = engine_of(toy, tasks, cuts, shares=True, remembers=remembers)
    order = [*cuts[6:9], *cuts[:3], *cuts[-3:], *cuts[3:6], *cuts[9:]]
    for cut in order:
        found = [each for group in engine.run(cuts, lambda own, cut=cut: own != cut) for each in group]
        assert [own for own, _ in found] == [cut]
        assert np.array_equal(outcomes_of(found[0]), whole[cut])


def outcomes_of(found):
    return np.concatenate([[*each.log_p_in_context, *each.log_p_global] for each in found[1]])


class TestOnePassLess:
    def block_tokens(self, model, work):
        """How many tokens the blocks are called on, in blocks."""
        seen, handles = [], []
        for block in model.blocks:

            def note(module, args, kwargs):
                if "forward" not in module.__dict__:  # nothing stands in for the block
                    value = args[0] if args else kwargs["hidden_states"]
                    seen.append(value.shape[0] * value.shape[1])

            handles.append(block.register_forward_pre_hook(note, with_kwargs=True))
        try:
            work()
        finally:
            for handle in handles:
                handle.remove()
        return sum(seen) / len(model.blocks)

    def plan(self, model, task):
        sites = tlt.find_sites(model)
        sizes = dict(batch_size=64, tokens_in_flight=1024, max_memory=None)
        return make_plan(model, [encode(model, task, prepend_bos=False)], sites, **sizes)

    @pytest.mark.parametrize("kind", ["ioi", "drawn"])
    def test_before_the_first_cut_there_is_hardly_more_than_one_pass(self, toy, kind):
        """The trial included, for eighteen prompts, shared or not."""
        words = [" Mary", " John", " Paris", " Rome", " London", " Italy"]
        front = "When Mary and John went to the store ," if kind == "ioi" else ""
        prompts = [
            f"{front}{one} and{two} gave a drink to the capital of{one} in{two}".strip()
            for one in words[:6]
            for two in words[:4]
            if one != two
        ][:18]
        task = tlt.Task("some", prompts, [" Mary"] * 18, " the")
        plan = self.plan(toy, task)
        tokens = sum(batch.n_tokens for batch in plan.batches)
        spent = self.block_tokens(toy, lambda: Engine(toy, [task], plan))
        assert spent <= 1.3 * tokens

    def test_what_is_kept_is_not_computed_again(self, toy, tasks):
        cuts = [tlt.Cut(f"blocks.{layer}.mlp.W_out", 0.5) for layer in range(3)]
        engine = engine_of(toy, tasks, cuts, shares=True)
        calls = self.block_tokens(toy, lambda: list(engine.run(cuts[2:])))
        # One cut of the last block is made where its row is tried, and not behind it.
        assert calls <= max(len(row) for batch in engine._plan.batches for row in batch.rows)

    def test_states_of_all_blocks_are_kept_as_far_as_memory_goes(self, toy, tasks):
        sites = tlt.find_sites(toy)
        encoded = [encode(toy, each, prepend_bos=False) for each in tasks]
        sizes = dict(batch_size=64, tokens_in_flight=64)
        free = make_plan(toy, encoded, sites, max_memory=None, **sizes)
        assert free.remembers == "blocks"
        less = make_plan(toy, encoded, sites, max_memory=free.memory.total - 1, **sizes)
        assert less.remembers == "block"
        assert less.memory.states < free.memory.states


class TestWhereItIsNotTheSame:
    def test_a_climb_that_differs_is_noticed_and_batches_go_by_themselves(self, toy, tasks, monkeypatch):
        """A trial that says yes to anything is not the last word: a whole pass is at hand."""
        from tl_truncate.replay import past
        from tl_truncate.replay.upwards import Replayer

        cuts = [tlt.Cut("blocks.1.mlp.W_in", 0.5)]
        wanted = outcomes(engine_of(toy, tasks, cuts, shares=False), cuts)
        original = past.Behind.joined
        monkeypatch.setattr(past.Behind, "joined", lambda self, *keys: 1.1 * original(self, *keys))
        monkeypatch.setattr(Replayer, "tries", lambda self, *args: True)
        engine = engine_of(toy, tasks, cuts, shares=True)
        assert engine.replays
        assert not engine.shares
        assert gap(outcomes(engine, cuts), wanted) == 0

    def test_a_model_that_does_not_run_without_its_blocks_is_recorded(self, toy, tasks, monkeypatch):
        from tl_truncate.experiments.scoring.together import courses
        from tl_truncate.replay import together, upwards

        cuts = [tlt.Cut("blocks.1.mlp.W_in", 0.5)]
        wanted = outcomes(engine_of(toy, tasks, cuts, shares=False), cuts)
        for module in (courses, together, upwards):
            monkeypatch.setattr(module, "enter", lambda *args: None)
        engine = engine_of(toy, tasks, cuts, shares=True)
        assert engine.replays
        assert not engine.shares
        assert gap(outcomes(engine, cuts), wanted) == 0


class TestEvaluate:
    @pytest.mark.parametrize("cut", [None, "blocks.1.attn.W_K", "blocks.0.mlp.W_in"])
    @pytest.mark.parametrize(("kind", "name"), CASES)
    def test_the_scores_are_those_of_whole_passes(self, shared, precise, kind, name, cut, monkeypatch):
        model = with_tokenizer(shared(kind, name, torch.float64))
        names = [" Mary", " John", " Paris", " Rome", " London"]
        prompts = [f"{FRONT}{one} gave{two}" for one in names for two in names if one != two]
        task = tlt.Task("many", prompts, [" Mary"] * len(prompts), " the")
        cuts = [] if cut is None else [tlt.Cut(cut, 0.3)]
        options = dict(prepend_bos=False, progress=False)
        calls = []
        original = scored.together
        monkeypatch.setattr(scored, "together", lambda *args: calls.append(1) or original(*args))
        found = tlt.evaluate(model, task, cuts, **options).frame
        assert calls
        monkeypatch.setattr(scored, "_WORTH", 0.0)
        whole = tlt.evaluate(model, task, cuts, **options).frame
        columns = ["p_in_context", "p_global", "logit_diff", "rank"]
        assert np.abs(found[columns] - whole[columns]).to_numpy().max() < 1e-9

    def test_where_little_is_shared_rows_go_by_themselves(self, toy, drinks, monkeypatch):
        monkeypatch.setattr(scored, "together", None)
        assert len(tlt.evaluate(toy, drinks, progress=False).frame) == len(drinks)

    def test_a_cut_that_reads_tokens_takes_whole_passes(self, toy, monkeypatch):
        means = tlt.TokenMeans.fit(toy, [FRONT], layers=[1], progress=False)
        words = sorted({word for word in FRONT.split() if word not in ",."})
        task = tlt.Task("t", [f"{FRONT} {word}" for word in words], [" Mary"] * len(words), " the")
        monkeypatch.setattr(scored, "together", None)
        cut = tlt.GlobalRemoval("blocks.1.mlp.W_out", means=means)
        uncut = tlt.evaluate(toy, task.subset([0]), progress=False)
        assert tlt.evaluate(toy, task.subset([0]), cut, baseline=uncut, progress=False).record.cuts
        with pytest.raises(TypeError, match="not callable"):
            tlt.evaluate(toy, task, progress=False)
        with tlt.truncated(toy, cut):
            tlt.evaluate(toy, task, progress=False)


@pytest.mark.parametrize("name", ["gpt2", "llama-grouped"])
def test_a_prompt_shorter_than_the_longest_answer(shared, name):
    """It can be no leaf of a tree whose answers are read at more positions than it has."""
    model = shared("bridge", name, torch.float64)
    front = tuple(range(3, 43))
    prompts = [(*front, 50 + end, 60 + end) for end in range(12)] + [(7,)]
    answers = dict(in_context=[(20, 21, 22)] * 12 + [(5,)], global_=[(50,)] * 13, scoring="sequence")
    task = tlt.Task("short", prompts, **answers)
    found = tlt.evaluate(model, task, progress=False).frame
    result = tlt.sweep(model, task, sites=["blocks.1.mlp.W_in"], keeps=[0.5], progress=False)
    for place in range(len(task)):
        alone = tlt.evaluate(model, task.subset([place]), progress=False).frame
        for frame in (found, result.baseline.frame):
            assert (
                abs(frame["logit_diff"][place] - alone["logit_diff"][0]) < 1e-6
            )  # norms round to float32
