"""Checkpoints of the hub: fetched ahead, said beforehand, deleted afterwards; from a hub of the test's own.

What stands in for the hub is `huggingface_hub.snapshot_download`, which lays files out as the real one does.
"""

import hashlib
import os
import shutil
import threading
from collections import namedtuple
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import architectures
import huggingface_hub
import pandas as pd
import pytest
from transformers import AutoModelForCausalLM

import tl_truncate as tlt
from tl_truncate.models import checkpoints as module
from tl_truncate.runs.codec import plain

NAME = "EleutherAI/pythia-14m"
STEPS = [0, 8, 16, 32]
CUT = {"cut": tlt.Cut("blocks.1.mlp.W_in", 0.2)}


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class Hub:
    """A repository with a revision for each step, and what was asked of it."""

    def __init__(self, remote: Path) -> None:
        self.remote, self.events, self.broken, self.wait = remote, [], {}, None

    def snapshot_download(self, name, *, revision, cache_dir, allow_patterns, ignore_patterns,
                          dry_run=False, force_download=False):  # fmt: skip
        assert name == NAME
        source = self.remote / revision
        files = [
            each
            for each in sorted(source.iterdir())
            if any(fnmatch(each.name, p) for p in allow_patterns)
        ]
        folder = (
            Path(cache_dir or huggingface_hub.constants.HF_HUB_CACHE) / "models--EleutherAI--pythia-14m"
        )
        commit = digest(revision.encode())
        here = folder / "snapshots" / commit
        if dry_run:
            return [
                SimpleNamespace(
                    filename=each.name,
                    file_size=each.stat().st_size,
                    will_download=force_download or not (here / each.name).exists(),
                )
                for each in files
            ]
        self.events.append(("fetch", revision))
        if self.wait is not None:
            assert self.wait.wait(10)
        for path in (folder / "blobs", here, (folder / "refs" / revision).parent):
            path.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / revision).write_text(commit)
        for each in files:
            problem = self.broken.get((revision, each.name))
            if isinstance(problem, Exception):
                raise problem
            content = each.read_bytes()
            blob = folder / "blobs" / digest(content)
            if problem is not None:
                content = content[:problem]
                self.broken.pop((revision, each.name))
            if force_download or not blob.exists():
                blob.write_bytes(content)
            if not (here / each.name).exists():
                (here / each.name).unlink(missing_ok=True)
                (here / each.name).symlink_to(os.path.relpath(blob, here))
        return str(here)


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """A repository as the hub has it: weights in two formats, a tokenizer that all revisions share."""
    root = tmp_path_factory.mktemp("remote")
    for step in STEPS:
        folder = architectures.save_folder("neox-parallel", root / f"step{step}")
        model = architectures.randomise(AutoModelForCausalLM.from_pretrained(folder), step)
        model.save_pretrained(folder)
        (folder / "pytorch_model.bin").write_bytes(b"twice the room")
        (folder / "README.md").write_text("a card")
    return root


@pytest.fixture
def hub(remote, monkeypatch):
    found = Hub(remote)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    return found


@pytest.fixture(scope="module")
def expected(remote, drinks_task):
    """The same from local folders, which nothing is fetched for."""
    return tlt.dynamics(tlt.Checkpoints(str(remote)), STEPS, drinks_task, CUT, progress=False)


def ask(run, drinks_task, **options):
    return tlt.dynamics(run, STEPS, drinks_task, CUT, **dict(progress=False) | options)


def cached(cache: Path) -> set[str]:
    """The revisions that a cache has anything of."""
    known = {digest(f"step{step}".encode()): f"step{step}" for step in STEPS}
    return {known.get(path.name, path.name) for path in cache.glob("*/snapshots/*")}


def test_the_numbers_are_those_of_local_folders(hub, drinks_task, expected, tmp_path):
    found = ask(tlt.Checkpoints(NAME, tmp_path), drinks_task)
    pd.testing.assert_frame_equal(found.frame, expected.frame, check_exact=True)
    assert found.scores(8).record.model == f"{NAME}@step8"
    assert cached(tmp_path) == {f"step{step}" for step in STEPS}
    assert not list(tmp_path.glob("*/snapshots/*/*.bin"))
    assert not list(tmp_path.glob("*/snapshots/*/*.md"))
    hub.events.clear()
    ask(tlt.Checkpoints(NAME, tmp_path), drinks_task)
    assert hub.events == []


def test_the_next_is_fetched_while_this_one_is_scored(hub, drinks_task, tmp_path, monkeypatch):
    from tl_truncate.experiments.training.checkpoints import failing

    hub.wait, original = threading.Event(), failing.read_checkpoint
    hub.wait.set()

    def read(model, request):
        if request.step != STEPS[-1]:
            # The next one's download is under way, and waits until this one has been scored.
            following = f"step{STEPS[STEPS.index(request.step) + 1]}"
            while ("fetch", following) not in hub.events:
                pass
        hub.events.append(("read", request.step))
        line = original(model, request)
        hub.wait.set()
        return line

    loaded = tlt.load_model

    def load(*args, **options):
        hub.wait.clear()
        return loaded(*args, **options)

    monkeypatch.setattr(module, "load_model", load)
    monkeypatch.setattr(failing, "read_checkpoint", read)
    ask(tlt.Checkpoints(NAME, tmp_path), drinks_task)
    assert hub.events == [
        ("fetch", "step0"),
        ("fetch", "step8"), ("read", 0),
        ("fetch", "step16"), ("read", 8),
        ("fetch", "step32"), ("read", 16),
        ("read", 32),
    ]  # fmt: skip


class TestDeleteAfter:
    """Only what this run has downloaded goes again."""

    def test_two_at_a_time_and_none_in_the_end(self, hub, drinks_task, expected, tmp_path, monkeypatch):
        seen, loaded = [], module.load_model

        def load(*args, **options):
            seen.append(cached(tmp_path))
            return loaded(*args, **options)

        monkeypatch.setattr(module, "load_model", load)
        found = ask(tlt.Checkpoints(NAME, tmp_path, delete_after=True), drinks_task)
        pd.testing.assert_frame_equal(found.frame, expected.frame, check_exact=True)
        assert seen == [{f"step{step}"} for step in STEPS]  # and the next one comes while it is scored
        assert cached(tmp_path) == set()
        assert not list(tmp_path.glob("*/blobs/*"))
        assert not list(tmp_path.glob("*/refs/*"))

    def test_what_was_there_before_stays(self, hub, drinks_task, expected, tmp_path):
        tlt.Checkpoints(NAME, tmp_path)(8)
        there = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        found = ask(tlt.Checkpoints(NAME, tmp_path, delete_after=True), drinks_task)
        pd.testing.assert_frame_equal(found.frame, expected.frame, check_exact=True)
        # Its tokenizer too, which the others shared with it.
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == there

    def test_what_was_there_in_part_stays(self, hub, drinks_task, tmp_path):
        tlt.Checkpoints(NAME, tmp_path)(8)
        weights = next(tmp_path.glob("*/snapshots/*/model.safetensors"))
        weights.resolve().unlink()
        weights.unlink()
        ask(tlt.Checkpoints(NAME, tmp_path, delete_after=True), drinks_task)
        assert cached(tmp_path) == {"step8"}

    def test_what_another_name_stands_for_stays(self, hub, drinks_task, tmp_path):
        run = tlt.Checkpoints(NAME, tmp_path, delete_after=True)
        with run.in_turn([0]) as at:
            at(0)
            refs = next(tmp_path.glob("*/refs"))
            (refs / "main").write_text((refs / "step0").read_text())
        assert cached(tmp_path) == {"step0"}

    def test_after_an_interrupt(self, hub, drinks_task, tmp_path, monkeypatch):
        from tl_truncate.experiments.training.checkpoints import failing

        def stop(model, request):
            raise KeyboardInterrupt

        monkeypatch.setattr(failing, "read_checkpoint", stop)
        run = tlt.Checkpoints(NAME, tmp_path, delete_after=True)
        with pytest.raises(KeyboardInterrupt):
            ask(run, drinks_task)
        for future in run._begun.values():
            future.result()
        assert cached(tmp_path) <= {"step0", "step8"}

    def test_a_local_folder_is_never_deleted(self, remote, tmp_path):
        for name in (str(remote), "nano-pythia"):
            for options in (dict(delete_after=True), dict(cache_dir=tmp_path)):
                with pytest.raises(
                    ValueError, match=r"must go with a model of the hub, got .* this machine"
                ):
                    tlt.Checkpoints(name, **options)
            with pytest.raises(ValueError, match="cache_dir must go with a model of the hub"):
                tlt.load_model(name, checkpoint=8, cache_dir=tmp_path)


class TestErrors:
    """What goes wrong in the thread is raised at that checkpoint, and goes no further."""

    def test_one_that_the_hub_does_not_have(self, hub, drinks_task, tmp_path):
        hub.broken["step16", "model.safetensors"] = OSError("503 Server Error")
        run = tlt.Checkpoints(NAME, tmp_path, delete_after=True)
        with pytest.warns(
            tlt.BadCheckpointWarning, match="Step 16 could not be read twice .*503 Server"
        ):
            found = ask(run, drinks_task)
        assert found.checkpoints == (0, 8, 32)
        assert hub.events.count(("fetch", "step16")) == 2
        assert cached(tmp_path) == set()

    def test_a_network_that_is_down_is_an_os_error(self, hub, tmp_path):
        network = huggingface_hub.errors.HfHubHTTPError.__mro__[1]
        hub.broken["step0", "model.safetensors"] = network("connection reset")
        with pytest.raises(OSError, match=f"{NAME} at step0 could not be fetched: connection reset"):
            tlt.Checkpoints(NAME, tmp_path)(0)

    def test_what_was_downloaded_in_part_is_downloaded_again(self, hub, drinks_task, expected, tmp_path):
        hub.broken["step16", "model.safetensors"] = 900  # bytes of it, and no word
        found = ask(tlt.Checkpoints(NAME, tmp_path), drinks_task)
        pd.testing.assert_frame_equal(found.frame, expected.frame, check_exact=True)
        assert hub.events.count(("fetch", "step16")) == 2

    def test_a_step_that_does_not_exist_is_an_argument(self, hub, drinks_task, tmp_path):
        with pytest.raises(ValueError, match="must be among"):
            tlt.dynamics(tlt.Checkpoints(NAME, tmp_path), [0, 7], drinks_task, progress=False)


class TestWhatIsSaid:
    """Before the first download."""

    def test_the_size(self, hub, remote, drinks_task, tmp_path, capsys, monkeypatch):
        said = []
        monkeypatch.setattr("sys.stderr.write", lambda text: said.append((text, list(hub.events))))
        ask(tlt.Checkpoints(NAME, tmp_path), drinks_task, progress=True)
        text, events = next(each for each in said if "to be downloaded" in each[0])
        assert events == []
        size = sum((remote / "step0" / name).stat().st_size for name in os.listdir(remote / "step0")
                   if name.endswith((".json", ".safetensors")))  # fmt: skip
        assert (
            f"4 of 4 checkpoints are to be downloaded, {size / 1e6:.1f} MB each (as the hub says), "
            in text
        )
        assert f"{4 * size / 1e6:.1f} MB in all, all are kept" in text
        assert tlt.Checkpoints(NAME, tmp_path).told(STEPS) is None
        shutil.rmtree(tmp_path)
        told = tlt.Checkpoints(NAME, tmp_path, delete_after=True).told(STEPS)
        assert f"of which {2 * size / 1e6:.1f} MB at a time are kept" in told

    def test_by_the_configuration_where_the_hub_does_not_say(self, hub, tmp_path):
        run = tlt.Checkpoints(NAME, tmp_path)
        run(0)
        weights = (hub.remote / "step0" / "model.safetensors").stat().st_size
        assert run.repository.bytes_by_configuration() == pytest.approx(weights, rel=0.1)
        hub.remote = tmp_path / "nowhere"
        told = run.told(STEPS)
        assert "3 of 4 checkpoints are to be downloaded" in told
        assert "each (by the model's configuration, since the hub does not say)" in told
        assert "not known" in tlt.Checkpoints(NAME, tmp_path / "other").told(STEPS)

    def test_room(self, hub, drinks_task, tmp_path, monkeypatch):
        usage = namedtuple("usage", "free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(300_000))
        with pytest.raises(
            OSError, match=r"There must be room for 4 checkpoints .* but 0\.3 MB are free"
        ):
            ask(tlt.Checkpoints(NAME, tmp_path), drinks_task)
        assert hub.events == []
        assert "at a time" in tlt.Checkpoints(NAME, tmp_path, delete_after=True).told(STEPS)


def test_a_folder_of_a_function_goes_on_with_checkpoints(hub, remote, drinks_task, expected, tmp_path):
    def local(step):
        return tlt.load_model(str(remote), checkpoint=step)

    run_dir = tmp_path / "run"
    tlt.dynamics(local, STEPS[:2], drinks_task, CUT, run_dir=run_dir, progress=False)
    found = ask(tlt.Checkpoints(NAME, tmp_path / "hub"), drinks_task, run_dir=run_dir)
    pd.testing.assert_frame_equal(found.frame, expected.frame, check_exact=True)


def test_load_model_from_another_cache(hub, remote, tmp_path):
    model = tlt.load_model(NAME, checkpoint=8, cache_dir=tmp_path)
    assert cached(tmp_path) == {"step8"}
    record = tlt.evaluate(model, tlt.tasks.induction(3, d_vocab=90), progress=False).record
    local = tlt.load_model(str(remote), checkpoint=8)
    alike = tlt.evaluate(local, tlt.tasks.induction(3, d_vocab=90), progress=False).record
    assert plain(record) | dict(model="") == plain(alike) | dict(model="")
