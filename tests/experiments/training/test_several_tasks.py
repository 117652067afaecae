"""Several tasks over training at once, and cuts that share their passes: as each by itself."""

import json

import architectures
import inplace
import pandas as pd
import pytest
import torch
from samples import PAIRS, SEQUENCES

import tl_truncate as tlt
from tl_truncate.experiments.training.checkpoints import checkpoint as module
from tl_truncate.runs.folder import RunFolder

CUTS = {
    "top": tlt.Cut("blocks.1.mlp.W_in", 0.2),
    "same site": tlt.Cut("blocks.1.mlp.W_in", 0.5),
    "alias": tlt.Cut("blocks.1.mlp.W_in", 0.2),
    "low": tlt.RandomSubspace("blocks.0.mlp.W_out", 8),
    "two": [tlt.Cut("blocks.0.mlp.W_out", 4), tlt.Cut("blocks.2.mlp.W_in", 8)],
}
OPTIONS = dict(prepend_bos=False, progress=False)
TASKS = [PAIRS, SEQUENCES]


def load(step, name="neox-parallel", dtype=torch.float64):
    model = architectures.build("bridge", name, dtype)
    return architectures.with_tokenizer(architectures.randomise(model, step))


@pytest.mark.parametrize(
    "name", ["neox-parallel", "gpt2", "llama-grouped", "bloom-alibi", "mistral-window"]
)
def test_cuts_that_share_passes_are_evaluations(name):
    """Through the sweep's engine, on two tasks at once, against a full pass for each."""
    history = tlt.dynamics(lambda step: load(step, name), [0, 3], TASKS, CUTS, **OPTIONS)
    for step in (0, 3):
        model = load(step, name)
        for task in TASKS:
            for cut in ("uncut", *CUTS):
                expected = tlt.evaluate(model, task, CUTS.get(cut, ()), **OPTIONS)
                found = history.scores(step, cut, task=task.name)
                pd.testing.assert_frame_equal(found.frame, expected.frame, rtol=0, atol=1e-9)
                assert found.record == expected.record


def test_a_cut_is_the_edited_weight():
    history = tlt.dynamics(load, [1], TASKS, CUTS, **OPTIONS)
    model = load(1)
    with inplace.edited(model, ("blocks.1.mlp.W_in", inplace.top(0.2))):
        expected = tlt.evaluate(model, PAIRS, **OPTIONS)
    found = history.scores(1, "top", task=PAIRS.name)
    metrics = ["p_in_context", "p_global", "logit_diff"]
    pd.testing.assert_frame_equal(found.frame[metrics], expected.frame[metrics], rtol=0, atol=1e-9)


def test_blocks_below_cuts_run_for_all_of_them_together():
    """So many cuts of the last block call the first one no more often than two do."""

    def calls(cuts):
        model, seen = load(0), []
        model.blocks[0].register_forward_pre_hook(lambda *args: seen.append(1))
        tlt.dynamics(lambda step: model, [0], TASKS, cuts, **OPTIONS)
        return len(seen)

    many = {str(rank): tlt.Cut("blocks.2.mlp.W_in", rank) for rank in range(1, 20)}
    assert calls(many) == calls({name: many[name] for name in ("1", "2")})


def test_a_checkpoint_is_loaded_once_for_all_tasks(tmp_path):
    asked = []

    def load_and_note(step):
        asked.append(step)
        return load(step)

    history = tlt.dynamics(load_and_note, [0, 1], TASKS, CUTS, run_dir=tmp_path, **OPTIONS)
    assert asked == [0, 1]
    assert history.tasks == tuple(TASKS)
    frame = history.frame
    assert list(frame.columns[:3]) == ["task", "step", "cut"]
    for task in TASKS:
        alone = tlt.dynamics(load, [0, 1], task, CUTS, **OPTIONS)
        own = frame[frame["task"] == task.name].drop(columns="task").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, alone.frame, rtol=0, atol=1e-9)
        pd.testing.assert_frame_equal(history.of(task.name).frame, own, check_exact=True)
        assert str(alone).splitlines()[0] in str(history)
    pd.testing.assert_frame_equal(tlt.Dynamics.load(tmp_path).frame, frame, check_exact=True)


class TestLater:
    """More tasks, cuts or checkpoints in the same folder: nothing is computed twice."""

    def test_a_task(self, tmp_path, monkeypatch):
        first = tlt.dynamics(load, [0, 1], PAIRS, CUTS, run_dir=tmp_path, **OPTIONS)
        asked, original = [], module.read_checkpoint

        def note(model, request):
            asked.append(
                [
                    (request.step, [task.name for task in work.tasks], [*work.cuts])
                    for work in request.works
                ]
            )
            return original(model, request)

        monkeypatch.setattr("tl_truncate.experiments.training.checkpoints.failing.read_checkpoint", note)
        found = tlt.dynamics(load, [0, 1, 2], TASKS, CUTS, run_dir=tmp_path, **OPTIONS)
        names = [*CUTS]
        assert asked == [
            [(0, ["sequences"], names)],
            [(1, ["sequences"], names)],
            [(2, ["pairs", "sequences"], names)],
        ]
        whole = tlt.dynamics(load, [0, 1, 2], TASKS, CUTS, **OPTIONS)
        pd.testing.assert_frame_equal(found.frame, whole.frame, rtol=0, atol=1e-9)
        kept = found.of("pairs").frame
        kept = kept[kept["step"] < 2].drop(columns=[name for name in kept if name.endswith("_q")])
        before = first.frame.drop(
            columns=[name for name in kept if name.endswith("_q")], errors="ignore"
        )
        pd.testing.assert_frame_equal(kept, before[kept.columns], check_exact=True)
        less = tlt.dynamics(load, [0], SEQUENCES, run_dir=tmp_path, **OPTIONS)
        assert less.tasks == (SEQUENCES,)
        assert [task.name for task in tlt.Dynamics.load(tmp_path).tasks] == ["pairs", "sequences"]

    def test_two_tasks_that_lack_different_things(self, tmp_path):
        some = {"top": CUTS["top"]}
        tlt.dynamics(load, [0], PAIRS, some, run_dir=tmp_path, **OPTIONS)
        tlt.dynamics(load, [0], SEQUENCES, run_dir=tmp_path, **OPTIONS)
        found = tlt.dynamics(load, [0], TASKS, CUTS, run_dir=tmp_path, **OPTIONS)
        whole = tlt.dynamics(load, [0], TASKS, CUTS, **OPTIONS)
        pd.testing.assert_frame_equal(found.frame, whole.frame, rtol=0, atol=1e-9)

    def test_another_task_of_the_same_name_is_refused(self, tmp_path):
        tlt.dynamics(load, [0], TASKS, run_dir=tmp_path, **OPTIONS)
        with pytest.raises(ValueError, match=r"differs in: tasks\.pairs.* task_hashes\.pairs"):
            tlt.dynamics(load, [0], PAIRS.subset([0, 1, 2]), run_dir=tmp_path, **OPTIONS)

    def test_a_folder_of_one_task_as_earlier_versions_wrote_it(self, tmp_path):
        whole = tlt.dynamics(load, [0, 1], PAIRS, CUTS, run_dir=tmp_path, **OPTIONS)
        path = tmp_path / "manifest.json"
        manifest = json.loads(path.read_text())
        hashes = manifest.pop("task_hashes")
        manifest |= dict(
            task=manifest.pop("tasks")["pairs"], task_name="pairs", task_hash=hashes["pairs"]
        )
        path.write_text(json.dumps(manifest))
        lines = [
            dict(step=line["step"], **line["tasks"]["pairs"]) for line in RunFolder(tmp_path).lines()
        ]
        (tmp_path / "settings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        pd.testing.assert_frame_equal(tlt.Dynamics.load(tmp_path).frame, whole.frame, check_exact=True)

        def other(step):
            return load(step + 1)

        with pytest.raises(ValueError, match="load must give the weights"):
            tlt.dynamics(other, [0, 1, 2], TASKS, CUTS, run_dir=tmp_path, **OPTIONS)
        # A call that is refused leaves no trace but the manifest as it is written today.
        renewed = json.loads(path.read_text())
        assert (renewed["checkpoints"], list(renewed["tasks"])) == ([0, 1], ["pairs"])
        found = tlt.dynamics(load, [0, 1], TASKS, CUTS, run_dir=tmp_path, **OPTIONS)
        assert [line["step"] for line in RunFolder(tmp_path).lines()[2:]] == [0, 1]
        pd.testing.assert_frame_equal(found.of("pairs").frame, whole.frame, check_exact=True)
        assert tlt.Dynamics.load(tmp_path).frame.equals(found.frame)


def test_of_several_tasks_one_is_named():
    history = tlt.dynamics(load, [0], TASKS, **OPTIONS)
    for ask in (
        lambda: history.task,
        lambda: history.readings,
        lambda: history.scores(0),
        lambda: history.first_step("p_global", 0.5),
    ):
        with pytest.raises(ValueError, match="must be named where there are several, pairs, sequences"):
            ask()
    with pytest.raises(ValueError, match="must be one of pairs, sequences, got 'ioi'"):
        history.of("ioi")
    assert history.first_step("p_global", -1.0, task="pairs") == 0
    with pytest.raises(ValueError, match="different names"):
        tlt.dynamics(load, [0], [PAIRS, PAIRS], **OPTIONS)
    with pytest.raises(TypeError, match="task must be a Task"):
        tlt.dynamics(load, [0], [PAIRS, "ioi"], **OPTIONS)


def test_weights_that_change_between_cuts_are_refused(tmp_path):
    tlt.dynamics(load, [0, 1], PAIRS, run_dir=tmp_path, **OPTIONS)

    def other_at_zero(step):
        return load(7 if step == 0 else step)

    with pytest.raises(ValueError, match=r"load must give the weights .* at step 0 .*weights_hash"):
        tlt.dynamics(other_at_zero, [0, 1], PAIRS, CUTS, run_dir=tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    "asked", [dict(task=SEQUENCES), dict(task=TASKS), dict(task=SEQUENCES, cuts={"top": CUTS["top"]})]
)
def test_a_task_that_is_added_later_is_asked_of_the_same_weights(tmp_path, asked):
    """Nothing is known of the new task at a finished step, but of the step's weights."""
    tlt.dynamics(load, [0, 1], PAIRS, run_dir=tmp_path, **OPTIONS)
    lines = RunFolder(tmp_path).lines()

    def other_at_zero(step):
        return load(7 if step == 0 else step)

    with pytest.raises(ValueError, match=r"at step 0 it gives others than for the task pairs before"):
        tlt.dynamics(other_at_zero, [0, 1], run_dir=tmp_path, **asked, **OPTIONS)
    assert RunFolder(tmp_path).lines() == lines
    assert tlt.dynamics(load, [0, 1], run_dir=tmp_path, **asked, **OPTIONS).finished
