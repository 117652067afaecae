"""Sweeps of one task beside different others, as one."""

from dataclasses import replace

import pandas as pd
import pytest
from samples import PAIRS, SEQUENCES

import tl_truncate as tlt
from tl_truncate.experiments.sweep.of_one_task import of_one_task

SITE = "blocks.1.mlp.W_out"


def swept(toy, tasks, keeps):
    return tlt.sweep(toy, tasks, sites=[SITE], keeps=keeps, prepend_bos=False, progress=False)


def test_as_one_sweep_of_the_task_alone(toy):
    found = of_one_task([swept(toy, PAIRS, [0.0, 0.3]), swept(toy, PAIRS, [0.3, 0.6])], "pairs")
    expected = swept(toy, PAIRS, [0.0, 0.3, 0.6])
    pd.testing.assert_frame_equal(found.frame, expected.frame, rtol=0, atol=1e-5)
    both = swept(toy, [PAIRS, SEQUENCES], [0.0, 0.3])
    alone = of_one_task([both], "sequences").frame
    own = both.frame[both.frame["task"] == "sequences"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, own, check_exact=True, check_dtype=False)


def test_what_has_not_the_task_is_refused(toy):
    with pytest.raises(ValueError, match="must be one of the sweep's, pairs, got 'sequences'"):
        of_one_task([swept(toy, PAIRS, [0.3])], "sequences")


def test_other_prompts_are_refused(toy):
    other = replace(
        PAIRS, prompts=PAIRS.prompts[1:], in_context=PAIRS.in_context[1:], global_=PAIRS.global_[1:]
    )
    sweeps = [swept(toy, task, [0.3]) for task in (PAIRS, other)]
    with pytest.raises(ValueError, match="same prompts"):
        of_one_task(sweeps, "pairs")
