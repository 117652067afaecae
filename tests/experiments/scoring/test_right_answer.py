"""Tasks with right answers alone: their numbers, and that nothing of a global answer is there."""

import pytest
import torch

import tl_truncate as tlt
from tl_truncate.experiments.scoring.metrics import OF_BOTH, metrics_of
from tl_truncate.tasks.encode import encode

SITE = "blocks.1.mlp.W_out"


@pytest.fixture
def right(drinks) -> tlt.Task:
    """The same prompts as `drinks`, without its global answers."""
    return drinks.without_global()


def by_hand(model, task: tlt.Task) -> list[float]:
    """A softmax in float64 over one plain pass a prompt; answers of one token."""
    found = []
    for each in encode(model, task).prompts:
        with torch.no_grad():
            logits = model(torch.tensor([each.prompt]))[0, -1].double()
        found.append(float(logits.softmax(0)[each.in_context[0]]))
    return found


def test_scores_are_a_softmax_by_hand_and_those_beside_a_global_answer(toy, drinks, right):
    found = tlt.evaluate(toy, right, tlt.Cut(SITE, 0.3))
    both = tlt.evaluate(toy, drinks, tlt.Cut(SITE, 0.3))
    assert found.baseline.frame["p_in_context"].tolist() == pytest.approx(by_hand(toy, right), abs=1e-6)
    for metric in ("accuracy", "p_in_context", "rank"):
        assert found.frame[metric].tolist() == both.frame[metric].tolist()
        assert float(found.change(metric)) == float(both.change(metric))


def test_what_needs_a_global_answer_is_absent(toy, right):
    found = tlt.evaluate(toy, right, tlt.Cut(SITE, 0.3))
    assert found.metrics == metrics_of(right) == ("accuracy", "p_in_context", "rank")
    assert not {"global_", *OF_BOTH} & {*found.frame, *found.summary().index}
    assert not found.frame.isna().any(axis=None)
    assert not found.record.has_global
    assert "global" not in str(found)
    for metric in OF_BOTH:
        for asked in (found.estimate, found.change):
            with pytest.raises(ValueError, match=f"one of accuracy, p_in_context, rank, got '{metric}'"):
                asked(metric)


def test_a_sweep_has_the_scores_of_evaluate_and_reads_its_folder_back(toy, right, tmp_path):
    result = tlt.sweep(toy, right, sites=[SITE], keeps=[0.3], run_dir=tmp_path / "run")
    assert result.metrics == ("accuracy", "p_in_context")
    assert not [name for name in result.frame if "global" in name or "logit" in name]
    single = tlt.evaluate(toy, right, tlt.Cut(SITE, 0.3))
    row = result.frame.iloc[0]
    assert row["p_in_context"] == pytest.approx(float(single.p_in_context), abs=1e-6)
    assert row["p_in_context_change"] == pytest.approx(float(single.change("p_in_context")), abs=1e-6)
    again = tlt.SweepResult.load(tmp_path / "run")
    assert again.frame.equals(result.frame)
    assert again.tasks == (right,)
    assert not again.baseline.record.has_global


def test_of_several_tasks_the_metrics_are_those_that_all_have(toy, drinks, right):
    other = tlt.Task("right", right.prompts, right.in_context)
    result = tlt.sweep(toy, [drinks, other], sites=[SITE], keeps=[0.3])
    assert result.metrics == ("accuracy", "p_in_context")
    assert not result.frame["p_in_context"].isna().any()
    with pytest.raises(ValueError, match="one of accuracy, p_in_context, rank, got 'p_global'"):
        tlt.sweep(toy, [drinks, other], sites=[SITE], keeps=[0.3], metrics=["p_global"])
