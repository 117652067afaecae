"""What a run is of, and what it may be gone on with: its weights are part of it, its batches are not."""

import errno
import json
import multiprocessing
import os
import resource
import signal
import time

import architectures
import numpy as np
import pandas as pd
import pytest
import torch
from children import in_a_child, kill

import tl_truncate as tlt
from tl_truncate.replay.layer import SiteReplay
from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.manifests import make_manifest
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site

SITES = ["blocks.1.mlp.W_in", "blocks.2.mlp.W_out"]
OPTIONS = dict(sites=SITES, keeps=[0.0, 0.3], prepend_bos=False, progress=False)
SEARCH = OPTIONS | dict(texts=(), objective="logit_diff", max_perplexity_ratio=None)
EXACT = dict(check_exact=True)


@pytest.fixture
def model():
    """One of the test's own, whose weights may be changed."""
    return architectures.with_tokenizer(architectures.bridge("gpt2"))


def edit(model, size=1e-4):
    """A change that is far too small to show in a baseline's log-probabilities."""
    locate(model, Site(1, "W_out")).weight().data[0, 0] += size


def counted(monkeypatch):
    """How often cuts are run."""
    calls, original = [], SiteReplay.logits

    def logits(self, *args):
        calls.append(1)
        return original(self, *args)

    monkeypatch.setattr(SiteReplay, "logits", logits)
    return calls


def forget(folder, path, name):
    """Takes a fact out of a JSON file, as a version wrote it that did not know of it."""
    data = json.loads((folder / path).read_text())
    data.pop(name)
    (folder / path).write_text(json.dumps(data))


class TestWeights:
    """Of other weights nothing is handed out and nothing mixed in."""

    @pytest.mark.parametrize("finished", [True, False])
    def test_a_sweep(self, model, drinks, tmp_path, finished):
        tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        if not finished:
            path = tmp_path / "settings.jsonl"
            os.truncate(path, path.stat().st_size - 3)
        before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
        edit(model)
        with pytest.raises(ValueError, match=r"differs in: weights_hash .*Use another folder"):
            tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before

    def test_a_search(self, model, drinks, tmp_path):
        tlt.search(model, drinks, run_dir=tmp_path, **SEARCH)
        edit(model)
        with pytest.raises(ValueError, match=r"differs in: weights_hash"):
            tlt.search(model, drinks, run_dir=tmp_path, **SEARCH)

    @pytest.mark.parametrize("name", ["sweep", "attribute", "search", "side_effects", "means"])
    def test_under_hooks_a_finished_folder_gives_no_numbers(self, model, drinks, tmp_path, name):
        """Nor does one that was finished under hooks without them."""
        one, two = ("blocks.1.hook_attn_out", "blocks.0.hook_mlp_out")
        options = dict(prepend_bos=False, progress=False, run_dir=tmp_path)
        ask = {
            "sweep": lambda: tlt.sweep(model, drinks, **OPTIONS | options),
            "attribute": lambda: tlt.attribute(model, drinks, sites=SITES, **options),
            "search": lambda: tlt.search(model, drinks, **SEARCH | options),
            "side_effects": lambda: tlt.side_effects(
                model, tlt.Cut(SITES[0], 0.1), ["Mary gave a drink to John"], **options
            ),
            "means": lambda: tlt.TokenMeans.fit(
                model, ["Mary gave a drink to John"] * 4, layers=[1], **options
            ),
        }[name]
        with model.hooks(fwd_hooks=[(one, lambda value, hook: 0.3 * value)]):
            ask()
        with pytest.raises(ValueError, match="differs in: hooks"):
            ask()
        with (
            model.hooks(fwd_hooks=[(two, lambda value, hook: 0.3 * value)]),
            pytest.raises(ValueError, match="differs in: hooks"),
        ):
            ask()

    @pytest.mark.parametrize("steps", [[0, 1], [0, 1, 2]])
    def test_dynamics_with_another_load(self, drinks, tmp_path, steps):
        def load(step, seed=0):
            found = architectures.bridge("gpt2")
            return architectures.with_tokenizer(architectures.randomise(found, seed + step))

        options = dict(prepend_bos=False, progress=False, run_dir=tmp_path)
        tlt.dynamics(load, [0, 1], drinks, **options)
        before = (tmp_path / "settings.jsonl").read_bytes()
        with pytest.raises(ValueError, match=r"load must give the weights .* at step 1 .*weights_hash"):
            tlt.dynamics(lambda step: load(step, 9), steps, drinks, **options)
        assert (tmp_path / "settings.jsonl").read_bytes() == before
        assert tlt.dynamics(load, steps, drinks, **options).finished

    def test_the_record_of_every_result_has_the_hash(self, model, drinks, tmp_path):
        cut = tlt.Cut(SITES[0], 0.3)
        scores = tlt.evaluate(model, drinks, cut, progress=False)
        found = {
            scores.record.weights_hash,
            scores.baseline.record.weights_hash,
            tlt.attribute(model, drinks, sites=SITES, progress=False).record.weights_hash,
            tlt.side_effects(model, cut, ["the store in Paris"], progress=False).record.weights_hash,
            tlt.part_attribution(model, drinks, method="own_path", progress=False).record.weights_hash,
            tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS).manifest["weights_hash"],
            tlt.SweepResult.load(tmp_path).baseline.record.weights_hash,
        }
        assert len(found) == 1
        assert len(found.pop()) == 32

    def test_a_folder_of_an_earlier_version_is_read_and_not_gone_on_with(self, model, drinks, tmp_path):
        whole = tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        forget(tmp_path, "manifest.json", "weights_hash")
        with pytest.raises(ValueError, match=r"must say which weights it is of .* can still be read"):
            tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        pd.testing.assert_frame_equal(tlt.SweepResult.load(tmp_path).frame, whole.frame, **EXACT)

    def test_dynamics_of_an_earlier_version(self, model, drinks, tmp_path):
        options = dict(run_dir=tmp_path, prepend_bos=False, progress=False)
        whole = tlt.dynamics(lambda step: model, [0], drinks, **options)
        path = tmp_path / "settings.jsonl"
        line = json.loads(path.read_text())
        del line["tasks"][drinks.name]["readings"]["uncut"]["record"]["weights_hash"]
        path.write_text(json.dumps(line) + "\n")
        with pytest.raises(ValueError, match=r"must say which weights it is of .* by Dynamics\.load"):
            tlt.dynamics(lambda step: model, [0, 1], drinks, **options)
        assert tlt.Dynamics.load(tmp_path).frame.equals(whole.frame)

    def test_a_search_of_an_earlier_version(self, model, drinks, tmp_path):
        options = dict(sites=SITES, keeps=[0.0, 0.3], texts=(), run_dir=tmp_path, progress=False)
        found = tlt.search(model, drinks, **options)
        (tmp_path / "manifest.json").unlink()
        with pytest.raises(ValueError, match=r"which weights it is of .* by SearchResult\.load"):
            tlt.search(model, drinks, **options)
        assert tlt.SearchResult.load(tmp_path).cuts == found.cuts


class TestBaselines:
    """Of another model, other weights, processing or precision they are refused."""

    CUT = tlt.Cut(SITES[0], 0.3)

    def test_other_weights(self, model, drinks):
        base = tlt.evaluate(model, drinks, progress=False)
        assert tlt.evaluate(model, drinks, self.CUT, baseline=base, progress=False).baseline is base
        edit(model)
        with pytest.raises(ValueError, match=r"must be of the same model .*differ in: weights_hash"):
            tlt.evaluate(model, drinks, self.CUT, baseline=base, progress=False)

    def test_another_precision(self, model, drinks):
        base = tlt.evaluate(model, drinks, progress=False)
        other = architectures.with_tokenizer(architectures.bridge("gpt2", torch.float64))
        with pytest.raises(ValueError, match=r"differ in: dtype float32, now float64"):
            tlt.evaluate(other, drinks, self.CUT, baseline=base, progress=False)

    def test_the_same_matrices_in_another_architecture(self, drinks):
        one, other = (
            architectures.with_tokenizer(architectures.bridge(f"neox-{kind}"))
            for kind in ("parallel", "sequential")
        )
        base = tlt.evaluate(one, drinks, progress=False)
        with pytest.raises(ValueError, match=r"differ in: weights_hash"):
            tlt.evaluate(other, drinks, self.CUT, baseline=base, progress=False)

    def test_one_that_was_saved_before_weights_were_noted(self, model, drinks, tmp_path):
        tlt.evaluate(model, drinks, progress=False).save(tmp_path / "base.json")
        data = json.loads((tmp_path / "base.json").read_text())
        del data["result"]["record"]["weights_hash"]
        (tmp_path / "base.json").write_text(json.dumps(data))
        base = tlt.Scores.load(tmp_path / "base.json")
        with pytest.raises(ValueError, match=r"differ in: weights_hash unknown, now"):
            tlt.evaluate(model, drinks, self.CUT, baseline=base, progress=False)


class TestWhatMayDiffer:
    """What changes no finished number goes on where the run stood."""

    def test_more_keeps_sites_metrics_and_resamples(self, model, drinks, tmp_path, monkeypatch):
        tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        more = OPTIONS | dict(
            sites=[*SITES, "blocks.0.mlp.W_in"],
            keeps=[0.0, 0.2, 0.3],
            metrics=["accuracy"],
            resamples=50,
        )
        whole = tlt.sweep(model, drinks, **more)
        before = (tmp_path / "settings.jsonl").read_text()
        found = tlt.sweep(model, drinks, run_dir=tmp_path, **more)
        after = (tmp_path / "settings.jsonl").read_text()
        assert after.startswith(before)
        assert after.count("\n") == 9
        pd.testing.assert_frame_equal(found.frame, whole.frame, rtol=0, atol=1e-6)
        pd.testing.assert_frame_equal(tlt.SweepResult.load(tmp_path).frame, found.frame, **EXACT)
        calls = counted(monkeypatch)
        less = tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        assert calls == []
        assert len(less.settings) == len(less.grid) == 4
        assert len(tlt.SweepResult.load(tmp_path).grid) == 9  # nothing is forgotten

    @pytest.mark.parametrize(
        "change", [dict(batch_size=1), dict(tokens_in_flight=8), dict(max_memory=2**30)]
    )
    def test_batches_and_memory_and_the_record_says_so(
        self, model, drinks, tmp_path, change, monkeypatch
    ):
        tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        path = tmp_path / "settings.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:-1]))
        found = tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS, **change)
        assert found.finished
        assert path.read_text().startswith("".join(lines[:-1]))
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        assert found.manifest == manifest
        resumed = manifest.get("resumed", [])
        assert bool(resumed) == ("max_memory" not in change)  # so much memory changes no batch
        for each in resumed:
            assert each["after"] == 3
            assert {"batches", "cuts_in_a_pass"} & each.keys()

    def test_versions_are_noted_and_not_compared(self, model, drinks, tmp_path):
        tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        path = tmp_path / "manifest.json"
        data = json.loads(path.read_text())
        now, data["versions"]["numpy"] = data["versions"]["numpy"], "1.26.0"
        path.write_text(json.dumps(data))
        for _ in range(2):
            tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
            manifest = json.loads(path.read_text())
            assert manifest["versions"]["numpy"] == "1.26.0"
            assert [each["versions"]["numpy"] for each in manifest["resumed"]] == [now]

    def test_another_name_of_the_same_weights(self, model, drinks, tmp_path):
        from tl_truncate.weights.identity.provenance import note_source

        tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        note_source(model, "moved/elsewhere")
        assert tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS).finished

    @pytest.mark.parametrize("change", [dict(prepend_bos=True), dict(seed=1)])
    def test_what_changes_a_number_is_refused(self, model, drinks, tmp_path, change):
        tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        with pytest.raises(ValueError, match=f"differs in: {next(iter(change))}"):
            tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS | change)
        other = tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        assert other.finished

    def test_cuts_around_belong_to_a_run(self, model, drinks, tmp_path):
        tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        with (
            tlt.truncated(model, tlt.Cut("blocks.0.mlp.W_in", 0.3)),
            pytest.raises(ValueError, match="differs in: cuts"),
        ):
            tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)

    def test_more_checkpoints_cuts_and_parts_of_dynamics(self, drinks, tmp_path):
        def load(step):
            found = architectures.bridge("gpt2")
            return architectures.with_tokenizer(architectures.randomise(found, step))

        # The last block is cut first: where it is not, its uncut pass is run at the answers alone, which
        # rounds otherwise.
        one, two = ({"one": tlt.Cut(SITES[1], 0.3)}, {"two": tlt.Cut(SITES[0], 4)})
        options = dict(prepend_bos=False, progress=False)
        tlt.dynamics(load, [0, 1], drinks, one, run_dir=tmp_path, **options)
        found = tlt.dynamics(load, [0, 1, 2], drinks, {**one, **two}, run_dir=tmp_path, **options)
        whole = tlt.dynamics(load, [0, 1, 2], drinks, {**one, **two}, **options)
        pd.testing.assert_frame_equal(found.frame, whole.frame, **EXACT)
        pd.testing.assert_frame_equal(tlt.Dynamics.load(tmp_path).frame, whole.frame, **EXACT)
        lines = RunFolder(tmp_path).lines()
        assert [(each["step"], sorted(each["tasks"][drinks.name]["readings"])) for each in lines] == [
            (0, ["one", "uncut"]),
            (1, ["one", "uncut"]),
            (0, ["two", "uncut"]),
            (1, ["two", "uncut"]),
            (2, ["one", "two", "uncut"]),
        ]
        less = tlt.dynamics(load, [1], drinks, run_dir=tmp_path, **options)
        assert less.frame[["step", "cut"]].values.tolist() == [[1, "uncut"]]
        with pytest.raises(ValueError, match=r"differs in: cuts\.one"):
            tlt.dynamics(load, [0], drinks, {"one": tlt.Cut(SITES[1], 0.2)}, run_dir=tmp_path, **options)

    def test_one_more_keep_of_a_search(self, model, drinks, tmp_path, monkeypatch):
        options = dict(sites=SITES, texts=(), greedy=2, prepend_bos=False, progress=False)
        tlt.search(model, drinks, keeps=[0.0, 0.3], run_dir=tmp_path, **options)
        whole = tlt.search(model, drinks, keeps=[0.0, 0.2, 0.3], **options)
        found = tlt.search(model, drinks, keeps=[0.0, 0.2, 0.3], run_dir=tmp_path, **options)
        assert found.cuts == whole.cuts
        assert found.summary().equals(whole.summary())


class TestAnotherTokenizer:
    """The same weights read the same prompts as other tokens."""

    @pytest.fixture
    def other(self):
        other = architectures.with_tokenizer(architectures.bridge("gpt2"))
        other.tokenizer = architectures.with_words_exchanged("ĠMary", "Ġstore")
        return other

    @pytest.mark.parametrize(("run", "options"), [(tlt.sweep, OPTIONS), (tlt.search, SEARCH)])
    def test_it_is_refused(self, model, other, drinks, tmp_path, run, options):
        run(model, drinks, run_dir=tmp_path, **options)
        with pytest.raises(ValueError, match=r"differs in: tokens_hash\.drinks"):
            run(other, drinks, run_dir=tmp_path, **options)

    @pytest.mark.parametrize(("run", "options"), [(tlt.sweep, OPTIONS), (tlt.search, SEARCH)])
    def test_a_folder_of_an_earlier_version_goes_on(self, model, drinks, tmp_path, run, options):
        run(model, drinks, run_dir=tmp_path, **options)
        path = tmp_path / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["tokens_hash"]
        path.write_text(json.dumps(manifest))
        assert run(model, drinks, run_dir=tmp_path, **options)


class TestFolders:
    """Each is of one kind and one method."""

    def test_a_search_has_a_manifest(self, model, drinks, tmp_path):
        tlt.search(model, drinks, run_dir=tmp_path, **SEARCH)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        assert manifest["kind"] == "search"
        assert manifest["method"] == "halving"
        assert manifest["task_hashes"] == {"drinks": drinks.hash}
        assert len(manifest["grid"]) == 4

    @pytest.mark.parametrize(
        "change",
        [dict(method="laser"), dict(objective="p_in_context"), dict(seed=1), dict(test_fraction=0.51)],
    )
    def test_another_search_is_refused(self, model, drinks, tmp_path, change):
        tlt.search(model, drinks, run_dir=tmp_path, **SEARCH)
        before = (tmp_path / "search.json").read_bytes()
        with pytest.raises(ValueError, match=f"differs in: {next(iter(change))}"):
            tlt.search(model, drinks, run_dir=tmp_path, **SEARCH | change)
        assert (tmp_path / "search.json").read_bytes() == before

    def test_other_kinds_are_refused(self, model, drinks, tmp_path):
        tlt.search(model, drinks, run_dir=tmp_path / "search", **SEARCH)
        with pytest.raises(ValueError, match=r'differs in: kind \("search" in the folder, "sweep" now'):
            tlt.sweep(model, drinks, run_dir=tmp_path / "search", **OPTIONS)
        tlt.sweep(model, drinks, run_dir=tmp_path / "sweep", **OPTIONS)
        with pytest.raises(ValueError, match=r'differs in: kind \("sweep" in the folder, "search" now'):
            tlt.search(model, drinks, run_dir=tmp_path / "sweep", **SEARCH)


def hold(path, held, done):
    with RunFolder(path).held():
        held.set()
        done.wait(60)


class TestOneProcessAtATime:
    """The second is told so at once; a lock of a process that was killed holds nobody up."""

    def test_the_second_says_so(self, model, drinks, tmp_path):
        tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        context = multiprocessing.get_context("fork")
        held, done = context.Event(), context.Event()
        other = context.Process(target=hold, args=(tmp_path, held, done))
        other.start()
        try:
            assert held.wait(60)
            for call in (
                lambda: tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS),
                lambda: tlt.search(model, drinks, sites=SITES, run_dir=tmp_path, progress=False),
                lambda: tlt.dynamics(lambda step: model, [0], drinks, run_dir=tmp_path),
                lambda: tlt.toys.train_recall(run_dir=tmp_path),
                lambda: tlt.toys.nano_pythia(tmp_path),
            ):
                with pytest.raises(
                    BlockingIOError, match=r"One process at a time .* another is at work"
                ):
                    call()
        finally:
            done.set()
            other.join()
        assert tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS).finished

    def test_a_killed_one_holds_nothing(self, tmp_path):
        context = multiprocessing.get_context("fork")
        held = context.Event()
        child = in_a_child(lambda: hold(tmp_path / "run", held, context.Event()))
        assert held.wait(60)
        assert kill(child)
        folder = RunFolder(tmp_path / "run")
        with folder.held():
            folder.open(make_manifest("test"), resume=False)
        assert [each.name for each in folder.path.iterdir()] == ["manifest.json"]

    def test_it_is_let_go_after_an_error(self, tmp_path):
        folder = RunFolder(tmp_path / "run")
        with pytest.raises(KeyError), folder.held():
            raise KeyError
        with folder.held():
            pass

    def test_a_run_that_cannot_be_written_to_is_still_read(self, tmp_path, monkeypatch):
        folder = RunFolder(tmp_path / "run")
        folder.open(make_manifest("test"), resume=False)

        def denied(self, *args, **options):
            raise PermissionError(errno.EACCES, "denied")

        monkeypatch.setattr("filelock.FileLock.acquire", denied)
        with folder.held():
            folder.open(make_manifest("test"), resume=True)
        with pytest.raises(PermissionError), RunFolder(tmp_path / "new").held():
            pass

    def test_a_disk_without_locks_is_said_and_stops_nothing(self, tmp_path, monkeypatch):
        def none(self, *args, **options):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("filelock.FileLock.acquire", none)
        folder = RunFolder(tmp_path / "run")
        with pytest.warns(UserWarning, match=r"has no locks .* one process at a time"), folder.held():
            folder.open(make_manifest("test"), resume=False)
        assert folder.exists()


def test_a_search_that_is_killed_ends_as_if_it_had_not_been(model, drinks, tmp_path, monkeypatch):
    options = SEARCH | dict(greedy=2)
    whole = tlt.search(model, drinks, **options)
    original = SiteReplay.logits

    def slowly(self, *args):
        time.sleep(0.1)
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(SiteReplay, "logits", slowly)
        for seen in (1, 2):
            child = in_a_child(lambda: tlt.search(model, drinks, run_dir=tmp_path, **options))
            patience = time.monotonic() + 120
            while len(list(tmp_path.glob("*/settings.jsonl"))) < seen and time.monotonic() < patience:
                time.sleep(0.005)
            kill(child)
    found = tlt.search(model, drinks, run_dir=tmp_path, **options)
    assert found.cuts == whole.cuts
    assert found.summary().equals(whole.summary())


class TestTroubleWithTheDisk:
    """Nothing that was finished is lost, and nothing half is left."""

    LINES = tuple(dict(step=step, text="x" * 50) for step in range(3))

    @pytest.fixture
    def folder(self, tmp_path):
        found = RunFolder(tmp_path / "run")
        found.open(make_manifest("test"), resume=False)
        found.append(self.LINES)
        return found

    def test_short_writes(self, folder, monkeypatch):
        write = os.write
        monkeypatch.setattr(os, "write", lambda handle, data: write(handle, bytes(data)[:7]))
        folder.append(self.LINES)
        assert folder.lines() == [*self.LINES, *self.LINES]

    def test_a_file_that_may_not_grow(self, folder):
        """The system's own short write: it takes what there is room for, and then refuses."""

        def grow():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            size = (folder.path / "settings.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
            with pytest.raises(OSError, match="File too large: what was finished before is kept"):
                folder.append(self.LINES)

        _, status = os.waitpid(in_a_child(grow), 0)
        assert status == 0
        assert (folder.path / "settings.jsonl").read_bytes().endswith(b"\n")
        folder.append(self.LINES)
        assert folder.lines() == [*self.LINES, *self.LINES]

    @pytest.mark.parametrize("fails", ["write", "fsync"])
    def test_a_full_disk(self, folder, monkeypatch, fails):
        original, calls = getattr(os, fails), []

        def full(handle, *data):
            calls.append(1)
            if fails == "fsync" or len(calls) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(handle, bytes(data[0])[:60])

        with monkeypatch.context() as patch:
            patch.setattr(os, fails, full)
            with pytest.raises(
                OSError, match="No space left on device: what was finished before is kept"
            ):
                folder.append(self.LINES)
        assert folder.lines() == list(self.LINES)
        folder.append(self.LINES)
        assert folder.lines() == [*self.LINES, *self.LINES]

    def test_a_sweep_on_a_full_disk_goes_on(self, model, drinks, tmp_path, monkeypatch):
        whole = tlt.sweep(model, drinks, **OPTIONS)
        original, calls = RunFolder.append, []

        def full(self, lines):
            calls.append(1)
            if len(calls) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            original(self, lines)

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "append", full)
            with pytest.raises(OSError, match="No space left"):
                tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        assert 0 < len(RunFolder(tmp_path).lines()) < 4
        found = tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        pd.testing.assert_frame_equal(found.frame, whole.frame, **EXACT)

    def test_what_dead_writers_left_is_swept_up(self, folder):
        (folder.path / "manifest.json.0a1b2c3d.part").write_text("{")
        (folder.path / "mine.part").write_text("kept")
        folder.open(make_manifest("test"), resume=True)
        assert sorted(each.name for each in folder.path.iterdir()) == [
            "manifest.json",
            "mine.part",
            "settings.jsonl",
        ]

    def test_a_damaged_baseline_is_named(self, model, drinks, tmp_path):
        tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        (tmp_path / "baseline.json").write_text("[{")
        with pytest.raises(
            ValueError, match=r"baseline\.json must be JSON, but it is damaged.* Delete it"
        ):
            tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        (tmp_path / "baseline.json").unlink()
        assert tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS).finished

    def test_a_setting_of_fewer_prompts_is_not_believed(self, model, drinks, tmp_path):
        tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        path = tmp_path / "settings.jsonl"
        lines = path.read_text().splitlines()
        line = json.loads(lines[1])
        for column in line["outcomes"][0].values():
            column.pop()
        path.write_text("\n".join([lines[0], json.dumps(line), *lines[2:]]) + "\n")
        with pytest.raises(
            ValueError, match=r"must have an outcome for each of \[4\] prompts, got \[3\]"
        ):
            tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)


class TestAFieldMoreOrLess:
    """What another version has written still loads."""

    def test_a_sweep(self, model, drinks, tmp_path):
        whole = tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        for name in ("manifest.json", "baseline.json"):
            data = json.loads((tmp_path / name).read_text())
            if name == "manifest.json":
                data["later"] = data["tasks"][0]["later"] = 1
                del data["resamples"], data["metrics"], data["versions"]
            else:
                data[0]["later"] = data[0]["record"]["later"] = data[0]["outcome"]["later"] = 1
                del data[0]["record"]["versions"], data[0]["record"]["weights_hash"]
            (tmp_path / name).write_text(json.dumps(data))
        lines = [json.loads(line) for line in (tmp_path / "settings.jsonl").read_text().splitlines()]
        (tmp_path / "settings.jsonl").write_text(
            "".join(json.dumps({**line, "later": 1}) + "\n" for line in lines)
        )
        again = tlt.SweepResult.load(tmp_path)
        pd.testing.assert_frame_equal(again.frame, whole.frame, **EXACT)
        assert again.baseline.record.weights_hash == "unknown"

    def test_dynamics(self, model, drinks, tmp_path):
        whole = tlt.dynamics(lambda step: model, [0], drinks, run_dir=tmp_path, progress=False)
        path = tmp_path / "manifest.json"
        data = json.loads(path.read_text())
        data["later"] = data["tasks"][drinks.name]["later"] = 1
        del data["resamples"]
        path.write_text(json.dumps(data))
        assert tlt.Dynamics.load(tmp_path).frame.equals(whole.frame)


class TestInterrupts:
    """Ctrl-C says how to go on, and what follows is what would have been."""

    def interrupted(self, monkeypatch, at=2):
        original, calls = SiteReplay.logits, []

        def logits(self, *args):
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
            return original(self, *args)

        monkeypatch.setattr(SiteReplay, "logits", logits)

    def test_a_sweep(self, model, drinks, tmp_path, monkeypatch):
        whole = tlt.sweep(model, drinks, **OPTIONS)
        with monkeypatch.context() as patch:
            self.interrupted(patch)
            with pytest.raises(
                KeyboardInterrupt, match=r"Stopped. .* the same call with the same folder"
            ):
                tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        found = tlt.sweep(model, drinks, run_dir=tmp_path, **OPTIONS)
        pd.testing.assert_frame_equal(found.frame, whole.frame, **EXACT)

    def test_a_search_names_its_own_folder(self, model, drinks, tmp_path, monkeypatch):
        options = dict(sites=SITES, keeps=[0.0, 0.3], texts=(), prepend_bos=False, progress=False)
        whole = tlt.search(model, drinks, **options)
        with monkeypatch.context() as patch:
            self.interrupted(patch)
            with pytest.raises(KeyboardInterrupt) as stop:
                tlt.search(model, drinks, run_dir=tmp_path / "mine", **options)
        assert f"in {tmp_path / 'mine'}:" in str(stop.value)
        found = tlt.search(model, drinks, run_dir=tmp_path / "mine", **options)
        assert found.summary().equals(whole.summary())

    def test_dynamics(self, model, drinks, tmp_path):
        def load(step):
            if step == 1:
                raise KeyboardInterrupt
            return model

        options = dict(run_dir=tmp_path, progress=False)
        with pytest.raises(KeyboardInterrupt, match="goes on from there"):
            tlt.dynamics(load, [0, 1], drinks, **options)
        assert tlt.dynamics(lambda step: model, [0, 1], drinks, **options).finished

    def test_without_a_folder_nothing_is_promised(self, model, drinks, monkeypatch):
        self.interrupted(monkeypatch)
        with pytest.raises(KeyboardInterrupt) as stop:
            tlt.sweep(model, drinks, **OPTIONS)
        assert str(stop.value) == ""


def test_numbers_of_numpys_are_written_as_pythons(model, drinks, tmp_path):
    options = OPTIONS | dict(keeps=[np.int64(3), np.float32(0.5)], sites=[Site(np.int64(1), "W_in")])
    counts = dict(batch_size=np.int32(2), resamples=np.int64(50), seed=np.int64(0))
    found = tlt.sweep(model, drinks, run_dir=tmp_path, **options, **counts)
    again = tlt.SweepResult.load(tmp_path)
    assert again.grid == found.grid
    assert again.baseline.record.seed == 0
