"""Scores against one plain pass a prompt, alone and in company, cut and uncut."""

import inplace
import numpy as np
import pytest
import torch
from architectures import CASES, with_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from luck import examples
from samples import PAIRS

import tl_truncate as tlt
from tl_truncate.experiments.scoring.answers import Answer, Batch, Outcome, read_answers
from tl_truncate.tasks.encode import encode


def by_hand(model, task: tlt.Task, prepend_bos: bool | None = None) -> list[dict]:
    """One pass for each prompt and answer, all positions unembedded, probabilities from a softmax."""
    rows = []
    for each in encode(model, task, prepend_bos=prepend_bos).prompts:
        row = {}
        for kind, answer in (("in_context", each.in_context), ("global", each.global_)):
            tokens = torch.tensor([each.prompt + answer])
            with torch.no_grad():
                logits = model(tokens)[0].double()
            probability, ranks = 1.0, []
            for place, token in enumerate(answer):
                position = logits[len(each.prompt) - 1 + place]
                probability *= float(position.softmax(0)[token])
                ranks.append(int((position > position[token]).sum()))
            row[f"p_{kind}"] = probability
            if kind == "in_context":
                row["rank"], row["accuracy"] = max(ranks), float(max(ranks) == 0)
        row["logit_diff"] = np.log(row["p_in_context"]) - np.log(row["p_global"])
        rows.append(row)
    return rows


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case != ("bridge", "no-norm")])
def test_scores_by_hand(shared, drinks, kind, name):
    model = with_tokenizer(shared(kind, name))
    site = "blocks.2.mlp.W_out"
    scores = tlt.evaluate(model, drinks, tlt.Cut(site, 0.2), prepend_bos=False)
    with inplace.edited(model, (site, inplace.top(0.2))):
        edited = by_hand(model, drinks, prepend_bos=False)
    uncut = by_hand(model, drinks, prepend_bos=False)
    for found, expected in ((scores, edited), (scores.baseline, uncut)):
        for metric in ("accuracy", "p_in_context", "p_global", "logit_diff", "rank"):
            values = [row[metric] for row in expected]
            assert found.frame[metric].tolist() == pytest.approx(values, abs=1e-5), metric
            assert float(found.estimate(metric)) == pytest.approx(np.mean(values), abs=1e-5)
            assert float(getattr(found, metric)) == float(found.estimate(metric))
    change = np.mean([a["p_global"] - b["p_global"] for a, b in zip(edited, uncut, strict=True)])
    assert float(scores.change("p_global")) == pytest.approx(change, abs=1e-6)


def test_sequences_by_hand(toy):
    task = tlt.Task(
        "long",
        ["When Mary and John went to the store , John gave a drink to", "Mary gave a drink to"],
        [" Mary and Paris", " John"],
        [" the", " the store and a drink"],
        scoring="sequence",
    )
    scores = tlt.evaluate(toy, task)
    expected = by_hand(toy, task)
    for metric in ("accuracy", "p_in_context", "p_global", "logit_diff", "rank"):
        values = [row[metric] for row in expected]
        assert scores.frame[metric].tolist() == pytest.approx(values, rel=1e-4, abs=1e-7), metric


@settings(
    max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(range(4)), size=st.integers(1, 5), side=st.sampled_from(("left", "right")))
def test_a_prompts_score_does_not_depend_on_its_company(shared, drinks, order, size, side):
    """Order, batch size, batch composition and the tokenizer's padding side change nothing."""
    model = shared("bridge", "neox-parallel")
    cut = tlt.Cut("blocks.1.mlp.W_in", 0.3)
    reference = tlt.evaluate(model, drinks, cut).frame
    before = model.tokenizer.padding_side
    model.tokenizer.padding_side = side
    try:
        shuffled = tlt.evaluate(model, drinks.subset(order), cut, batch_size=size).frame
        alone = tlt.evaluate(model, drinks.subset([order[0]]), cut).frame
    finally:
        model.tokenizer.padding_side = before
    for metric in ("p_in_context", "p_global", "logit_diff"):
        assert shuffled[metric].tolist() == pytest.approx(
            [reference[metric][i] for i in order], rel=1e-5
        )
        assert alone[metric][0] == pytest.approx(reference[metric][order[0]], rel=1e-5)


def test_only_answer_positions_are_unembedded(toy, drinks):
    seen = []
    handle = toy.unembed.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    tlt.evaluate(toy, drinks)
    handle.remove()
    assert seen
    assert all(shape[1] == 1 for shape in seen)


def test_the_record_says_what_was_done(toy, drinks):
    cut = tlt.Cut("blocks.1.mlp.W_in", 0.3)
    scores = tlt.evaluate(toy, drinks, [cut], prepend_bos=True, seed=5)
    record = scores.record
    assert record.prepend_bos is True
    assert record.task_hash == drinks.hash
    assert record.cuts == (cut.to_json(),)
    assert scores.baseline.record.cuts == ()
    assert (record.seed, record.n_prompts, record.dtype, record.weights) == (5, 4, "float32", "raw")
    assert record.versions["torch"].startswith(torch.__version__.split("+")[0])
    assert set(record.versions) >= {"python", "transformer-lens", "transformers", "tl-truncate"}
    data = scores.to_json()
    assert data["record"]["cuts"][0]["site"] == "blocks.1.mlp.W_in"
    assert [row["metric"] for row in data["summary"]][:2] == ["accuracy", "p_in_context"]
    assert "change" in str(scores)
    assert "with BOS" in str(scores)


def test_inside_a_context_its_cuts_belong_to_both_sides_and_to_the_record(toy, drinks):
    outer, inner = tlt.Cut("blocks.1.mlp.W_in", 0.3), tlt.Cut("blocks.2.mlp.W_in", 0.3)
    together = tlt.evaluate(toy, drinks, [outer, inner])
    with tlt.truncated(toy, outer):
        scores = tlt.evaluate(toy, drinks, inner)
        reused = tlt.evaluate(toy, drinks, inner, baseline=scores.baseline)
    assert scores.frame.equals(together.frame)
    assert scores.record == together.record
    assert scores.baseline.record.cuts == (outer.to_json(),)
    assert reused.frame.equals(scores.frame)
    with pytest.raises(ValueError, match="must be of the uncut model"):
        tlt.evaluate(toy, drinks, inner, baseline=scores.baseline)


def test_a_baseline_saves_a_pass_and_must_fit(toy, drinks):
    base = tlt.evaluate(toy, drinks)
    passes = []
    handle = toy.register_forward_hook(lambda *args: passes.append(1))
    cut = tlt.evaluate(toy, drinks, tlt.Cut("blocks.1.mlp.W_in", 0.3), baseline=base)
    handle.remove()
    assert len(passes) == len({len(each.prompt) for each in encode(toy, drinks).prompts})
    assert cut.baseline is base


def test_the_same_seed_gives_the_same_result_and_the_global_state_is_left_alone(toy, drinks):
    state = torch.get_rng_state()
    cut = tlt.RandomSubspace("blocks.1.mlp.W_in", 0.3, seed=2)
    first, second = (tlt.evaluate(toy, drinks, cut, seed=1) for _ in range(2))
    assert first.summary().equals(second.summary())
    assert first.frame.equals(second.frame)
    assert torch.equal(state, torch.get_rng_state())


def test_hooked_transformer_needs_no_eval_but_dropout_is_refused(toy, drinks):
    toy.train()
    try:
        with pytest.raises(ValueError, match=r"must be in evaluation mode.*model\.eval\(\)"):
            tlt.evaluate(toy, drinks)
    finally:
        toy.eval()


def reading(logits, *answers):
    """What rows of logits, `[row][position][token]`, say to an answer each."""
    rows = tuple((0, 0) for _ in logits)
    asked = tuple((Answer(0, row, "in_context", answer),) for row, answer in enumerate(answers))
    return read_answers(Batch(rows, asked, len(logits[0])), torch.tensor(logits))


class TestTies:
    """A tie is worth its share, as if it were broken by lot."""

    def test_by_hand(self):
        found = reading(
            [
                [[0.0, 1.0, 2.0, 1.0]],
                [[2.0, 1.0, 2.0, 1.0]],
                [[2.0, 2.0, 2.0, 1.0]],
                [[3.0, 2.0, 2.0, 2.0]],
            ],
            *[(2,)] * 4,
        )
        assert [each.credit for each in found] == [1, 1 / 2, 1 / 3, 0]
        assert [each.rank for each in found] == [0, 0.5, 1, 2]

    def test_sequences_count_their_worst_rank_and_all_their_shares(self):
        (found,) = reading([[[2.0, 2.0, 0.0], [1.0, 1.0, 1.0]]], (0, 2))
        assert (found.rank, found.credit) == (1, pytest.approx(1 / 6))

    @settings(max_examples=examples(40))
    @given(seed=st.integers(0, 999), levels=st.integers(1, 4))
    def test_the_mean_over_all_orders(self, seed, levels):
        """Every way in which ties may be broken, written out."""
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randint(levels, (1, 1, 6), generator=generator).float()
        ranks = []
        for seed_of_lot in range(300):
            lot = torch.Generator().manual_seed(seed_of_lot)
            broken = logits[0, 0] + 0.5 * torch.rand(6, generator=lot)
            ranks.append(int((broken > broken[3]).sum()))
        (found,) = reading(logits.tolist(), (3,))
        assert found.rank == pytest.approx(np.mean(ranks), abs=0.5)
        assert found.credit == pytest.approx(np.mean(np.array(ranks) == 0), abs=0.12)

    def test_in_a_task(self, shared, drinks):
        """With an unembedding of nothing all tokens are tied."""
        model = shared("bridge", "gpt2", torch.bfloat16)
        handle = model.unembed.hook_out.register_forward_hook(lambda module, args, value: 0 * value)
        try:
            found = tlt.evaluate(model, drinks)
            swept = tlt.sweep(model, drinks, sites=["blocks.1.mlp.W_in"], keeps=[0.2], progress=False)
        finally:
            handle.remove()
        for frame in (found.frame, swept.baseline.frame, swept.scores("blocks.1.mlp.W_in", 0.2).frame):
            assert frame["accuracy"].tolist() == [1 / 97] * 4
            assert frame["rank"].tolist() == [48] * 4

    def test_outcomes_of_versions_without_ties_are_read_as_they_were(self):
        assert Outcome((0.0, 0.0), (0.0, 0.0), (0.0, 2.0)).metrics()["accuracy"].tolist() == [1, 0]


class TestLogitsThatAreNotFinite:
    """They are never a score: the error names the cuts and the prompt."""

    CUT = tlt.Cut("blocks.1.mlp.W_in", 0.3)

    @pytest.fixture
    def broken(self, toy):
        """Calls something with a model that says something bad to one token."""

        def get(call, value):
            def spoil(module, args, logits):
                return torch.where(torch.arange(97) == 5, value, logits)

            handle = toy.unembed.hook_out.register_forward_hook(spoil)
            try:
                return call(toy)
            finally:
                handle.remove()

        return get

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize(
        "call",
        [
            lambda model, task, cut: tlt.evaluate(model, task, cut),
            lambda model, task, cut: tlt.sweep(model, task, sites=[cut.site], keeps=[cut.keep]),
            lambda model, task, cut: tlt.attribute(model, task, sites=[cut.site]),
            lambda model, task, cut: tlt.side_effects(model, cut, list(task.prompts)),
        ],
        ids=["evaluate", "sweep", "attribute", "side_effects"],
    )
    def test_is_an_error(self, broken, drinks, call, value):
        with pytest.raises(ValueError, match=r"logits must be finite.*(John gave|Mary gave|capital)"):
            broken(lambda model: call(model, drinks, self.CUT), value)

    def test_the_cut_is_named(self, toy, drinks):
        """The uncut model is finite, and so are the cuts before: a weight that was made too large."""

        class _Overflowing(tlt.Cut):
            def edit(self, model):
                from tl_truncate.surgery.edit import Replacement

                return Replacement(torch.full((32, 1), float("inf")), torch.ones(48, 1))

        good, bad = tlt.Cut("blocks.0.mlp.W_in", 0.5), _Overflowing("blocks.1.mlp.W_in", 3)
        for call in (
            lambda: tlt.evaluate(toy, drinks, [good, bad]),
            lambda: tlt.sweep(toy, drinks, cuts=[good, bad], progress=False),
            lambda: tlt.side_effects(toy, [good, bad], list(drinks.prompts)),
        ):
            with pytest.raises(
                ValueError, match=r"must be finite.*_Overflowing\(site='blocks.1.mlp.W_in'"
            ):
                call()

    def test_tokens_that_are_never_said_are_no_matter(self, broken, drinks):
        """A vocabulary that is filled up with impossible tokens has scores as any other."""
        never = float("-inf")
        scores = broken(lambda model: tlt.evaluate(model, drinks, self.CUT), never)
        assert np.isfinite(scores.frame[["p_in_context", "p_global", "logit_diff"]].to_numpy()).all()
        cost = broken(lambda model: tlt.side_effects(model, self.CUT, list(drinks.prompts)), never)
        assert np.isfinite(cost.frame[["loss", "kl"]].to_numpy()).all()


def test_a_baseline_under_other_hooks_is_refused(shared):
    model = shared("bridge", "neox-parallel")
    options = dict(prepend_bos=False, progress=False)
    cut, nothing = tlt.Cut("blocks.1.mlp.W_out", 0.5), lambda value, hook: value * 0
    plain = tlt.evaluate(model, PAIRS, **options)
    assert "hooks" not in plain.record.to_json()
    with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", nothing)]):
        hooked = tlt.evaluate(model, PAIRS, **options)
        expected = tlt.evaluate(model, PAIRS, cut, **options).change("p_in_context")
        found = tlt.evaluate(model, PAIRS, cut, baseline=hooked, **options).change("p_in_context")
        assert float(found) == float(expected)
        with pytest.raises(ValueError, match=r"hooks at none, now there are hooks at blocks.0"):
            tlt.evaluate(model, PAIRS, cut, baseline=plain, **options)
    with pytest.raises(ValueError, match=r"hooks at blocks.0.*now there are hooks at none"):
        tlt.evaluate(model, PAIRS, cut, baseline=hooked, **options)
