"""Prompts that are asked once: the scores are those of `evaluate`, whatever was asked before."""

import pandas as pd
import pytest
import torch
from architectures import CASES

import tl_truncate as tlt
from tl_truncate.experiments.scoring import evaluate as scoring
from tl_truncate.experiments.search.asked import Asked
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.places import Here
from tl_truncate.surgery.cut import Cuts

CUTS = Cuts([tlt.Cut("blocks.1.mlp.W_in", 0.3), tlt.Cut("blocks.0.attn.W_O", 0.5)])
TASK = tlt.Task(
    name="numbers",
    prompts=[[1, 2, 3], [4, 5], [6, 7, 8, 9], [1, 2, 3], [1, 2, 3], [10, 11]],
    in_context=[[5], [6], [7], [5], [9], [3]],
    global_=[[1], [2], [3], [1], [1], [12]],
)


def rows_of(*parts):
    return [TASK.subset(part) for part in parts]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_scores_are_those_of_evaluate(shared, kind, name):
    """Parts that overlap, in another order, of equal prompts with other answers; cut before uncut."""
    model = shared(kind, name, torch.float64)
    asked = Asked(Here(model), SweepOptions(prepend_bos=False))
    for part in rows_of([3, 0, 4], [1, 2], [4, 5, 1, 0], range(6), [5]):
        for cuts in (CUTS, Cuts(), Cuts(CUTS[0])):
            found = asked.scores(part, cuts)
            alone = tlt.evaluate(model, part, cuts, prepend_bos=False, progress=False)
            assert found.record == alone.record
            pd.testing.assert_frame_equal(found.frame, alone.frame, rtol=0, atol=1e-9)
            assert (found.baseline is None) == (not cuts)
            if cuts:
                assert found.baseline.record == alone.baseline.record
                pd.testing.assert_frame_equal(
                    found.baseline.frame, alone.baseline.frame, rtol=0, atol=1e-9
                )


def test_each_prompt_is_asked_once(shared, monkeypatch):
    model, seen = shared("bridge", "gpt2", torch.float64), []
    original = scoring.Sheet.fill
    monkeypatch.setattr(
        scoring.Sheet,
        "fill",
        lambda sheet, batch, logits: seen.append(len(batch.rows)) or original(sheet, batch, logits),
    )
    asked = Asked(Here(model), SweepOptions(prepend_bos=False))
    for part in rows_of([0, 1, 2], [2, 1], [5, 0, 3]):
        asked.scores(part, CUTS)
    assert sum(seen) == 2 * 4  # uncut and cut; the fourth prompt is the first


def test_tasks_are_kept_apart(shared):
    model = shared("bridge", "gpt2", torch.float64)
    asked = Asked(Here(model), SweepOptions(prepend_bos=False))
    other = tlt.Task(
        name="other", prompts=TASK.prompts, in_context=TASK.in_context, global_=TASK.global_
    )
    assert asked.scores(TASK).record.task == "numbers"
    assert asked.scores(other).record.task == "other"
