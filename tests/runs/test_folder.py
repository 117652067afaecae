"""A run that is stopped in every way it can be stopped, and goes on."""

import json
import os
import random
import time

import pandas as pd
import pytest
import torch
from children import in_a_child, kill

import tl_truncate as tlt
from tl_truncate.replay.layer import SiteReplay
from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.manifests import make_manifest

OPTIONS = dict(keeps=[0.0, 0.1, 0.3, 0.5, 0.9], tokens_in_flight=32, prepend_bos=False, progress=False)


def keys(folder) -> list[str]:
    return [json.dumps(line["cut"], sort_keys=True) for line in RunFolder(folder).lines()]


def written(folder) -> int:
    """How many settings a folder has, also while one is being written."""
    path = folder / "settings.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_ten_times_it_ends_with_the_same_table(toy, drinks, tmp_path, monkeypatch):
    whole = tlt.sweep(toy, drinks, run_dir=tmp_path / "whole", **OPTIONS)
    folder, moments = tmp_path / "killed", random.Random(0)
    original = SiteReplay.logits

    def slowly(self, *args):
        time.sleep(0.03)
        return original(self, *args)

    monkeypatch.setattr(SiteReplay, "logits", slowly)
    kills, progress = 0, [0]
    for number in range(40):
        child = in_a_child(lambda: tlt.sweep(toy, drinks, run_dir=folder, **OPTIONS))
        # Every other time as soon as something new is finished, however slow the machine is.
        patience = time.monotonic() + 60
        while number % 2 and written(folder) == progress[-1] and time.monotonic() < patience:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        kills += kill(child)
        progress.append(written(folder))
        if kills == 10:
            break
    assert kills == 10
    assert 0 < progress[-1] < len(whole.grid)
    before = keys(folder)
    resumed = tlt.sweep(toy, drinks, run_dir=folder, **OPTIONS)
    assert keys(folder)[: len(before)] == before
    assert sorted(keys(folder)) == sorted(set(keys(folder))) == sorted(keys(tmp_path / "whole"))
    pd.testing.assert_frame_equal(resumed.frame, whole.frame, check_exact=True)
    pd.testing.assert_frame_equal(tlt.SweepResult.load(folder).frame, whole.frame, check_exact=True)
    assert resumed.baseline.frame.equals(whole.baseline.frame)


@pytest.mark.parametrize("cut_off", [1, 7, 150, 4000])
def test_a_torn_last_line_is_computed_again_and_nothing_else(toy, drinks, tmp_path, cut_off):
    whole = tlt.sweep(toy, drinks, run_dir=tmp_path / "run", **OPTIONS)
    path = tmp_path / "run" / "settings.jsonl"
    os.truncate(path, path.stat().st_size - cut_off)
    left = keys(tmp_path / "run")
    assert 0 < len(left) < len(whole.grid)
    torn = tlt.SweepResult.load(tmp_path / "run")  # reading drops the torn line too
    assert len(torn.settings) == len(left)
    assert "unfinished" in str(torn)
    resumed = tlt.sweep(toy, drinks, run_dir=tmp_path / "run", **OPTIONS)
    assert keys(tmp_path / "run")[: len(left)] == left
    assert len(keys(tmp_path / "run")) == len(whole.grid)
    pd.testing.assert_frame_equal(resumed.frame, whole.frame, check_exact=True)


def test_an_interrupt_keeps_what_was_computed(toy, drinks, tmp_path, monkeypatch):
    whole = tlt.sweep(toy, drinks, **OPTIONS)
    original, calls = SiteReplay.logits, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(SiteReplay, "logits", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tlt.sweep(toy, drinks, run_dir=tmp_path, **OPTIONS)
    left = len(keys(tmp_path))
    assert 0 < left < len(whole.grid)
    resumed = tlt.sweep(toy, drinks, run_dir=tmp_path, **OPTIONS)
    pd.testing.assert_frame_equal(resumed.frame, whole.frame, check_exact=True)


def test_a_finished_run_is_read_and_not_computed(toy, drinks, tmp_path):
    whole = tlt.sweep(toy, drinks, run_dir=tmp_path, **OPTIONS)
    passes = []
    handle = toy.blocks[0].register_forward_pre_hook(lambda *args: passes.append(1))
    again = tlt.sweep(toy, drinks, run_dir=tmp_path, **OPTIONS)
    handle.remove()
    assert passes == []
    pd.testing.assert_frame_equal(again.frame, whole.frame, check_exact=True)


def test_the_folder_says_what_it_came_from(toy, drinks, tmp_path):
    tlt.sweep(toy, drinks, run_dir=tmp_path, seed=3, **OPTIONS)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["task_hashes"] == {"drinks": drinks.hash}
    assert manifest["weights"] == "raw"
    assert manifest["seed"] == 3
    assert manifest["prepend_bos"] is False
    assert {"torch", "transformer-lens", "tl-truncate"} <= set(manifest["versions"])
    assert len(manifest["grid"]) == 6 * 5
    assert {path.name for path in tmp_path.iterdir()} == {
        "manifest.json",
        "baseline.json",
        "settings.jsonl",
    }
    loaded = tlt.SweepResult.load(tmp_path)
    assert loaded.baseline.record.seed == 3
    assert loaded.tasks == (drinks,)


def test_another_run_is_refused_and_the_difference_named(toy, shared, drinks, tmp_path):
    tlt.sweep(toy, drinks, run_dir=tmp_path, **OPTIONS)
    before = (tmp_path / "settings.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"differs in: prepend_bos \(false in the folder, true now"):
        tlt.sweep(toy, drinks, run_dir=tmp_path, **{**OPTIONS, "prepend_bos": True})
    with pytest.raises(ValueError, match=r"differs in: .*task_hashes.drinks"):
        tlt.sweep(toy, drinks.subset([1, 0, 2, 3]), run_dir=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match=r"differs in: seed \(0 in the folder, 1 now\)"):
        tlt.sweep(toy, drinks, run_dir=tmp_path, seed=1, **OPTIONS)
    with pytest.raises(ValueError, match=r"must be new without resume"):
        tlt.sweep(toy, drinks, run_dir=tmp_path, resume=False, **OPTIONS)
    assert (tmp_path / "settings.jsonl").read_bytes() == before


def test_other_weights_under_the_same_name_are_refused(toy, drinks, tmp_path):
    tlt.sweep(toy, drinks, run_dir=tmp_path, **OPTIONS)
    path = tmp_path / "settings.jsonl"
    os.truncate(path, path.stat().st_size - 10)
    weight = toy.blocks[1].mlp.out.original_component.weight
    with torch.no_grad():
        kept = weight.clone()
        weight.mul_(0.5)
    try:
        with pytest.raises(ValueError, match=r"differs in: weights_hash"):
            tlt.sweep(toy, drinks, run_dir=tmp_path, **OPTIONS)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_other_folders_are_refused(toy, drinks, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="must be new, empty, or hold a run"):
        tlt.sweep(toy, drinks, run_dir=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match=r"must hold manifest\.json"):
        tlt.SweepResult.load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_line_in_the_middle_is_named(toy, drinks, tmp_path):
    tlt.sweep(toy, drinks, run_dir=tmp_path, **OPTIONS)
    path = tmp_path / "settings.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], "{damaged\n", *lines[4:]]))
    with pytest.raises(ValueError, match=r"Line 4 of .* damaged"):
        tlt.SweepResult.load(tmp_path)


def test_what_a_crash_left_of_a_file_is_no_content(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json.0a1b2c3d.part").write_text('{"ki')
    folder = RunFolder(tmp_path / "run")
    folder.open({"kind": "test"}, resume=True)
    assert folder.manifest() == {"kind": "test"}


def test_a_manifest_that_does_not_say_its_format_is_of_the_first(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.open(make_manifest("test", steps=3), resume=False)
    path = tmp_path / "run" / "manifest.json"
    data = json.loads(path.read_text())
    assert data.pop("format") == 1
    path.write_text(json.dumps(data))
    folder.open(make_manifest("test", steps=3), resume=True)
    with pytest.raises(ValueError, match=r"differs in: steps \(3 in the folder, 4 now\)"):
        folder.open(make_manifest("test", steps=4), resume=True)


def test_a_later_format_is_not_gone_on_with(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.open(make_manifest("test") | dict(format=2), resume=False)
    with pytest.raises(ValueError, match="must be of format 1 or earlier, got 2"):
        folder.open(make_manifest("test"), resume=True)
