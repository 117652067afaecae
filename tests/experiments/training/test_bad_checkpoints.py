"""A checkpoint that cannot be read: tried again, noted, passed over, and never taken for data."""

import errno
import json
import warnings

import architectures
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from samples import PAIRS

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.experiments.training.steps import first_lasting
from tl_truncate.models.load import IncompleteWeights
from tl_truncate.runs.folder import RunFolder
from tl_truncate.statistics import estimate_mean

CUT = {"cut": tlt.Cut("blocks.1.mlp.W_in", 0.2)}
OPTIONS = dict(prepend_bos=False, progress=False)
STEPS = [0, 1, 2, 3]


def load(step):
    return architectures.randomise(architectures.bridge("neox-parallel"), step)


class Failing:
    """Fails at some steps, so often as it is told."""

    def __init__(self, problem, *steps, times=99):
        self.problem, self.left, self.asked = problem, dict.fromkeys(steps, times), []

    def __call__(self, step):
        self.asked.append(step)
        if self.left.get(step, 0):
            self.left[step] -= 1
            raise self.problem
        return load(step)


@pytest.mark.parametrize(
    "problem",
    [
        OSError("not in the cache"),
        FileNotFoundError("no such file"),
        SafetensorError("header too large"),
        IncompleteWeights("All weights must be in its files"),
        EOFError("Ran out of input"),
    ],
)
def test_it_is_tried_twice_noted_and_tried_again_by_the_next_call(problem, tmp_path):
    failing = Failing(problem, 2)
    with pytest.warns(tlt.BadCheckpointWarning, match=f"Step 2 could not be read twice .*{problem}"):
        found = tlt.dynamics(failing, STEPS, PAIRS, CUT, run_dir=tmp_path, **OPTIONS)
    assert failing.asked == [0, 1, 2, 2, 3]
    assert found.failed == {2: f"{type(problem).__name__}: {problem}"}
    assert not found.finished
    assert found.missing == (2,)
    assert found.checkpoints == (0, 1, 3)
    assert tlt.Dynamics.load(tmp_path).failed == found.failed
    with pytest.warns(tlt.BadCheckpointWarning):
        tlt.dynamics(failing, STEPS, PAIRS, CUT, run_dir=tmp_path, **OPTIONS)
    assert failing.asked[5:] == [3, 2, 2]  # the last finished one shows that the weights are the same
    whole = tlt.dynamics(load, STEPS, PAIRS, CUT, run_dir=tmp_path, **OPTIONS)
    assert whole.finished
    assert whole.failed == {}
    fresh = tlt.dynamics(load, STEPS, PAIRS, CUT, **OPTIONS)
    pd.testing.assert_frame_equal(whole.frame, fresh.frame, check_exact=True)


def test_what_fails_once_is_as_if_it_had_not(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", tlt.BadCheckpointWarning)
        found = tlt.dynamics(Failing(OSError("busy"), 1, 3, times=1), STEPS, PAIRS, CUT, **OPTIONS)
    fresh = tlt.dynamics(load, STEPS, PAIRS, CUT, **OPTIONS)
    pd.testing.assert_frame_equal(found.frame, fresh.frame, check_exact=True)


def test_logits_that_are_not_finite(tmp_path):
    def some_are_not(step):
        model = load(step)
        if step == 1:
            model.blocks[0].mlp.W_out.data[0, 0] = torch.nan
        return model

    with pytest.warns(tlt.BadCheckpointWarning, match="Step 1 .*NotFinite: The logits must be finite"):
        found = tlt.dynamics(some_are_not, STEPS, PAIRS, CUT, run_dir=tmp_path, **OPTIONS)
    assert found.checkpoints == (0, 2, 3)


@pytest.mark.parametrize(
    "problem",
    [
        ValueError("The checkpoints must be among 0, 1"),
        TypeError("an argument"),
        KeyError("step2"),
        RuntimeError("CUDA out of memory"),
        MemoryError("no room"),
        KeyboardInterrupt(),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EMFILE, "Too many open files"),
    ],
)
def test_what_is_no_checkpoints_fault_stops_the_run(problem, tmp_path):
    failing = Failing(problem, 2)
    with pytest.raises(type(problem)):
        tlt.dynamics(failing, STEPS, PAIRS, CUT, run_dir=tmp_path, **OPTIONS)
    assert failing.asked == [0, 1, 2]
    assert len(RunFolder(tmp_path).lines()) == 2


def test_a_full_disk_stops_the_run_also_where_another_error_tells_of_it():
    def full(step):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as problem:
            raise OSError("the model could not be loaded") from problem

    with pytest.raises(OSError, match="could not be loaded"):
        tlt.dynamics(full, STEPS, PAIRS, **OPTIONS)


def test_other_weights_are_no_bad_checkpoint(tmp_path):
    tlt.dynamics(load, STEPS, PAIRS, run_dir=tmp_path, **OPTIONS)

    def other_at_one(step):
        return load(9 if step == 1 else step)

    with pytest.raises(ValueError, match=r"load must give the weights .* at step 1 .*weights_hash"):
        tlt.dynamics(other_at_one, STEPS, PAIRS, CUT, run_dir=tmp_path, **OPTIONS)


def test_if_all_fail_that_is_an_error(tmp_path):
    failing = Failing(OSError("the hub could not be reached"), *STEPS)
    message = (
        "At least one checkpoint must be readable, but all 4 that were tried failed twice. Step 0: OSE"
    )
    with pytest.warns(tlt.BadCheckpointWarning), pytest.raises(ValueError, match=message):
        tlt.dynamics(failing, STEPS, PAIRS, CUT, run_dir=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match="must hold dynamics with a finished checkpoint"):
        tlt.Dynamics.load(tmp_path)
    assert tlt.dynamics(load, STEPS, PAIRS, CUT, run_dir=tmp_path, **OPTIONS).finished


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_damaged_files(drinks, tmp_path, file):
    for step in (0, 8, 16):
        architectures.save_folder("neox-parallel", tmp_path / "model" / f"step{step}")
    damaged = tmp_path / "model" / "step8" / file
    damaged.write_bytes(damaged.read_bytes()[:-20])
    folder = str(tmp_path / "model")

    def at(step):
        return tlt.load_model(folder, checkpoint=step)

    with pytest.warns(tlt.BadCheckpointWarning, match="Step 8 .* could not be loaded"):
        found = tlt.dynamics(at, tlt.checkpoint_steps(folder), drinks, progress=False)
    assert found.checkpoints == (0, 16)
    with pytest.raises(ValueError, match="must hold step7"):
        tlt.dynamics(at, [0, 7], drinks, progress=False)


class TestGaps:
    """What is missing is no data: in tables, figures, and what is said of all of training."""

    @pytest.fixture(scope="class")
    def history(self):
        with pytest.warns(tlt.BadCheckpointWarning):
            return tlt.dynamics(Failing(OSError("gone"), 0, 2), STEPS, PAIRS, CUT, **OPTIONS)

    def test_the_table(self, history):
        frame = history.frame
        assert frame["step"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert frame.columns.equals(tlt.dynamics(load, [1], PAIRS, CUT, **OPTIONS).frame.columns)
        gaps = frame[frame["step"].isin([0, 2])].drop(columns=["step", "cut", "draws"])
        assert gaps.isna().all(axis=None)
        there = frame[frame["step"].isin([1, 3])].reset_index(drop=True)
        alone = tlt.dynamics(load, [1, 3], PAIRS, CUT, **OPTIONS).frame
        pd.testing.assert_frame_equal(there, alone, check_exact=True)

    def test_the_figure(self, history):
        axis = plots.dynamics(history).axes[0]
        lines = {line.get_label(): line for line in axis.lines}
        assert np.isnan(lines["probability of the global answer"].get_ydata()).tolist() == [1, 0, 1, 0]
        assert list(lines["missing"].get_xdata()) == [0, 2]

    def test_first_steps(self, history):
        found = history.first_step("p_global", -1.0)
        assert (found, found.low, found.missing) == (1, 0, (0, 2))
        assert str(found).endswith("(missing: steps 0, 2)")
        with pytest.warns(tlt.MissingStepsWarning, match="but steps 0, 2 of those that were asked for"):
            assert history.first_step("p_global", 2.0) is None

    def test_the_words(self, history):
        assert "missing: steps 0, 2, which could not be read (OSError: gone)" in str(history)
        with pytest.raises(ValueError, match="Step 2 failed: OSError: gone"):
            history.scores(2)

    def test_parts(self):
        parts = tlt.Parts(method="own_path")
        with pytest.warns(tlt.BadCheckpointWarning):
            found = tlt.dynamics(Failing(OSError("gone"), 2), STEPS, PAIRS, parts=parts, **OPTIONS)
        table = found.parts_frame
        assert table[table["logits"].isna()]["step"].unique().tolist() == [2]
        axis = plots.parts_over_training(found).axes[0]
        assert list(next(line for line in axis.lines if line.get_label() == "missing").get_xdata()) == [
            2
        ]

    def test_anything_may_have_been_at_a_step_that_is_missing(self):
        def means(*values):
            noise = np.random.default_rng(0).normal(size=30) / 20
            noise -= noise.mean()
            return [None if each is None else estimate_mean(noise + each) for each in values]

        steps = [1, 2, 4, 8, 16]
        found = first_lasting(steps, means(0.1, None, 0.5, 0.6, 0.6), 0.3, 2)
        assert (found, found.low, found.high) == (4, 2, 4)
        found = first_lasting(steps, means(0.1, 0.5, None, 0.6, 0.6), 0.3, 2)
        assert (found, found.low, found.high) == (2, 2, 8)
        found = first_lasting(steps, means(0.1, 0.1, 0.5, 0.6, None), 0.3, 2)
        assert (found, found.low, found.high) == (4, 4, 4)


def test_a_step_that_is_not_finished_is_a_gap_too(tmp_path):
    tlt.dynamics(load, [0, 3], PAIRS, CUT, run_dir=tmp_path, **OPTIONS)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "checkpoints": STEPS}))
    found = tlt.Dynamics.load(tmp_path)
    assert found.missing == (1, 2)
    assert found.failed == {}
    assert found.frame["p_global"].isna().tolist() == [
        False,
        False,
        True,
        True,
        True,
        True,
        False,
        False,
    ]
    assert "(2 to go" in str(found)
