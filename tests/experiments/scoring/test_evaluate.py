"""Scores against one plain pass a prompt, alone and in company, cut and uncut."""

import inplace
import numpy as np
import pytest
import torch
from architectures import CASES, with_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from luck import examples

import tl_truncate as tlt
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
