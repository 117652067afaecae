"""Shards of a sweep: joined, their table is that of one process to the last bit."""

import json
import os
import random
import shutil
import time
import warnings
from dataclasses import replace

import architectures
import pandas as pd
import pytest
from children import in_a_child, kill
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

import tl_truncate as tlt
from tl_truncate.experiments.sweep import sweep as sweeping
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.work.prepare import prepare
from tl_truncate.experiments.sweep.work.units import units_of
from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.sharded import opening

OPTIONS = dict(
    keeps=[0.1, 0.5],
    controls=["random_subspace"],
    draws=2,
    tokens_in_flight=64,
    prepend_bos=False,
    progress=False,
)
EXACT = dict(check_exact=True)


@pytest.fixture(scope="module")
def model(shared):
    return architectures.with_tokenizer(shared("bridge", "gpt2"))


@pytest.fixture(scope="module")
def whole(model, drinks_task):
    return tlt.sweep(model, drinks_task, **OPTIONS)


def others():
    """A model of the same form with other weights."""
    return architectures.with_tokenizer(architectures.randomise(architectures.bridge("gpt2"), 5))


def run(model, task, folder, *shards, **options):
    return [tlt.sweep(model, task, run_dir=folder, shard=each, **OPTIONS | options) for each in shards]


def require_equal(found, whole):
    """Of the tables, and of every prompt under every setting."""
    pd.testing.assert_frame_equal(found.frame, whole.frame, **EXACT)
    pd.testing.assert_frame_equal(found.beside_controls, whole.beside_controls, **EXACT)
    assert found.settings == whole.settings
    for name, scores in whole.baselines.items():
        pd.testing.assert_frame_equal(found.baselines[name].frame, scores.frame, **EXACT)


@pytest.fixture(scope="module")
def plan(model, drinks_task):
    cuts = [tlt.Cut("blocks.0.mlp.W_in", 0.5)]
    return prepare(model, [drinks_task], cuts, SweepOptions()).plan


class TestUnits:
    @given(
        st.lists(
            st.tuples(st.integers(0, 2), st.sampled_from(["W_in", "W_out"]), st.integers(0, 20)),
            max_size=40,
            unique=True,
        ),
        st.integers(1, 7),
    )
    def test_every_cut_is_in_one_unit_of_one_site(self, model, plan, asked, copies):
        cuts = [tlt.Cut(tlt.Site(layer, matrix), keep) for layer, matrix, keep in asked]
        units = units_of(model, cuts, replace(plan, copies=copies))
        assert sorted(map(repr, (cut for unit in units for cut in unit.cuts))) == sorted(map(repr, cuts))
        assert all(len({cut.site for cut in unit.cuts}) == 1 for unit in units)
        assert all(len(unit.cuts) <= copies for unit in units)
        assert [unit.cuts[0].site.layer for unit in units] == sorted(
            unit.cuts[0].site.layer for unit in units
        )

    def test_they_are_run_in_this_order(self, model, drinks, tmp_path):
        """As one process writes its lines; cuts that read the tokens go by themselves, and first."""
        means = tlt.TokenMeans.fit(model, ["the store in Paris"] * 3, layers=[1], progress=False)
        means.save(tmp_path / "means.safetensors")
        cuts = [
            *(tlt.Cut(site, keep) for site in tlt.find_sites(model) for keep in (0.1, 0.2, 0.3)),
            tlt.GlobalRemoval("blocks.1.mlp.W_out", "token_mean", means=means),
        ]
        seen = []
        original = sweeping.prepare

        def prepares(*args):
            seen.append(original(*args))
            return seen[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweeping, "prepare", prepares)
            options = dict(prepend_bos=False, progress=False, tokens_in_flight=64)
            tlt.sweep(model, drinks, cuts=cuts, run_dir=tmp_path / "run", **options)
        lines = [line["cut"] for line in RunFolder(tmp_path / "run").lines()]
        assert lines == [cut.to_json() for unit in seen[0].units for cut in unit.cuts]
        assert seen[0].units[0].cuts == (cuts[-1],)

    def test_low_blocks_cost_more(self, model, plan):
        cuts = [tlt.Cut(tlt.Site(layer, "W_in"), 0.5) for layer in range(3)]
        low, middle, high = (unit.cost for unit in units_of(model, cuts, plan))
        assert (low, middle, high) == (3 * high, 2 * high, plan.n_tokens)


class TestJoined:
    @pytest.mark.parametrize("count", [1, 3, 5])
    def test_the_table_is_that_of_one_process(self, model, drinks, tmp_path, whole, count):
        parts = run(model, drinks, tmp_path, *((index, count) for index in range(count)))
        assert sum(len(part.settings) for part in parts) == len(whole.settings)
        assert all(part.finished for part in parts)
        require_equal(tlt.SweepResult.load(tmp_path), whole)
        require_equal(tlt.merge(tmp_path), whole)
        require_equal(tlt.SweepResult.load(tmp_path), whole)

    def test_more_shards_than_units(self, model, drinks, tmp_path):
        options = dict(sites=["blocks.1.mlp.W_out"], keeps=[0.1], controls=[])
        parts = run(model, drinks, tmp_path, *((index, 4) for index in range(4)), **options)
        assert sorted(len(part.settings) for part in parts) == [0, 0, 0, 1]
        assert all(len(part.frame) == len(part.settings) for part in parts)
        assert "shard 1/4: 0 of 0 settings" in str(parts[1])
        require_equal(tlt.merge(tmp_path), tlt.sweep(model, drinks, **OPTIONS | options))

    def test_shards_that_have_nothing_to_do_need_not_have_run(self, model, drinks, tmp_path):
        options = dict(sites=["blocks.1.mlp.W_out"], keeps=[0.1], controls=[])
        parts = run(model, drinks, tmp_path, (2, 4), (3, 4), **options)
        assert sum(len(part.settings) for part in parts) == 1
        assert tlt.merge(tmp_path).finished

    def test_a_shard_says_that_it_is_one(self, model, drinks, tmp_path, whole):
        (part,) = run(model, drinks, tmp_path, (2, 3))
        assert str(part).startswith(f"shard 2/3: {len(part.settings)} of {len(part.settings)} settings")
        assert 0 < len(part.settings) < len(whole.settings)
        places = [whole.grid.index(cut) for cut in part.grid]
        assert places == sorted(places)

    @pytest.mark.parametrize("kind", ["full passes", "inside of a cut"])
    def test_other_states_of_a_model(self, shared, drinks, tmp_path, kind):
        """A model whose blocks cannot be called again, and one that is cut already."""
        model = architectures.with_tokenizer(shared("bridge", "neox-parallel"))
        options = dict(keeps=[0.1, 0.5], prepend_bos=False, progress=False, tokens_in_flight=64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tlt.FullPassesWarning)
            at_work = {
                "full passes": model.hooks(fwd_hooks=[("hook_embed", lambda value, hook: value)]),
                "inside of a cut": tlt.truncated(model, tlt.Cut("blocks.1.attn.W_V", 3)),
            }
            with at_work[kind]:
                self._joined(model, drinks, tmp_path, options)

    @staticmethod
    def _joined(model, task, folder, options):
        expected = tlt.sweep(model, task, **options)
        for index in range(3):
            tlt.sweep(model, task, run_dir=folder, shard=(index, 3), **options)
        require_equal(tlt.merge(folder), expected)


def slowly(monkeypatch, seconds=0.03):
    """Each unit takes some time, so that a process is killed at work."""
    original = RunFolder.append

    def append(self, lines):
        time.sleep(seconds)
        original(self, lines)

    monkeypatch.setattr(RunFolder, "append", append)


def test_eight_processes_three_of_them_killed(model, drinks, tmp_path, whole, monkeypatch):
    slowly(monkeypatch)
    draw = random.Random(17)

    def start(index):
        return in_a_child(lambda: run(model, drinks, tmp_path, (index, 8)))

    children = {index: start(index) for index in range(1, 9)}
    killed = 0
    for index in draw.sample(sorted(children), 3):
        for _ in range(20):
            time.sleep(draw.uniform(0.0, 0.15))
            was_at_work = kill(children[index])
            killed += was_at_work
            children[index] = start(index)
            if was_at_work:
                break
    for child in children.values():
        assert os.waitpid(child, 0)[1] == 0
    assert killed == 3
    require_equal(tlt.SweepResult.load(tmp_path), whole)
    require_equal(tlt.merge(tmp_path), whole)
    lines = RunFolder(tmp_path).lines()
    assert len(lines) == len(whole.settings)


class TestMissing:
    def test_a_shard_that_has_not_begun_and_one_that_is_unfinished(self, model, drinks, tmp_path, whole):
        run(model, drinks, tmp_path, (1, 4), (3, 4))
        path = tmp_path / "shards" / "3-of-4" / "settings.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-4]))
        told = (
            rf"All shards must be finished to be merged. In .* 2/4 has not begun, 3/4 has 4 of "
            rf"{len(lines)} to do, 4/4 has not begun\. Make the same call again for each, with the same "
            r"folder and its shard, such as --shard 2/4; what it has finished is kept"
        )
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=told):
            tlt.merge(tmp_path)
        assert sorted(tmp_path.rglob("*")) == before
        with pytest.warns(tlt.UnfinishedShardsWarning, match=r"2/4 has not begun, 3/4 has 4 of"):
            found = tlt.SweepResult.load(tmp_path)
        assert not found.finished
        run(model, drinks, tmp_path, (2, 4), (3, 4), (4, 4))
        require_equal(tlt.merge(tmp_path), whole)

    @pytest.mark.parametrize("place", ["nothing", "a file"])
    def test_no_shards(self, tmp_path, place):
        if place == "a file":
            (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ValueError, match=r"must hold shards of one of sweep.*, got kind None in"):
            tlt.merge(tmp_path)

    def test_nothing_scored_yet(self, model, drinks, tmp_path):
        run(model, drinks, tmp_path, (1, 2))
        for name in ("baseline.json", "settings.jsonl"):
            (tmp_path / "shards" / "1-of-2" / name).unlink()
        with pytest.raises(ValueError, match="must have begun to score"):
            tlt.SweepResult.load(tmp_path)


class TestRefused:
    """A shard of another run, at its start and where shards are joined."""

    @pytest.fixture
    def begun(self, model, drinks, tmp_path):
        run(model, drinks, tmp_path, (1, 3))
        return tmp_path

    def test_other_weights(self, begun, drinks):
        other = others()
        with pytest.raises(
            ValueError, match=r"2/3 differs from 1/3 in: weights_hash .* in 1/3, .* in 2/3"
        ):
            run(other, drinks, begun, (2, 3))

    def test_other_prompts(self, model, begun, drinks):
        with pytest.raises(ValueError, match=r"2/3 differs from 1/3 in: .*task_hashes\.drinks"):
            run(model, drinks.subset([0, 1]), begun, (2, 3))

    def test_another_grid(self, model, begun, drinks):
        with pytest.raises(ValueError, match=r"2/3 differs from 1/3 in: grid .*Use another folder"):
            run(model, drinks, begun, (2, 3), keeps=[0.1])

    def test_other_sizes_of_batches(self, model, begun, drinks):
        with pytest.raises(ValueError, match=r"2/3 differs from 1/3 in: .*cuts_in_a_pass"):
            run(model, drinks, begun, (2, 3), tokens_in_flight=256)

    def test_another_number(self, model, begun, drinks):
        told = (
            r"of one number until they are merged, got shards of 3 and of 4: 1/3, 2/4\. Go on with one"
        )
        with pytest.raises(ValueError, match=told):
            run(model, drinks, begun, (2, 4))

    def test_nothing_was_written(self, model, begun, drinks):
        before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match="differs from"):
            run(model, drinks, begun, (2, 3), keeps=[0.1])
        assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == before

    def test_when_joined(self, begun, drinks, tmp_path_factory):
        """Two that were copied together."""
        other = others()
        place = tmp_path_factory.mktemp("other")
        run(other, drinks, place, (2, 3))
        shutil.copytree(place / "shards" / "2-of-3", begun / "shards" / "2-of-3")
        for read in (tlt.merge, tlt.SweepResult.load):
            with pytest.raises(ValueError, match=r"2/3 differs from 1/3 in: weights_hash .*Delete the"):
                read(begun)

    def test_without_a_folder(self, model, drinks):
        with pytest.raises(
            ValueError, match=r"must have a run folder .* got 1/2 without one\. Give run_dir"
        ):
            tlt.sweep(model, drinks, shard=(1, 2), **OPTIONS)

    @pytest.mark.parametrize("shard", [(4, 3), "three", 3])
    def test_no_shard(self, model, drinks, tmp_path, shard):
        with pytest.raises(ValueError, match="shard must be which one and of how many"):
            run(model, drinks, tmp_path, shard)

    def test_a_folder_with_other_content(self, model, drinks, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ValueError, match=r"must be new, empty, or hold a run"):
            run(model, drinks, tmp_path, (1, 3))
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_resume(self, model, begun, drinks):
        run(model, drinks, begun, (2, 3), resume=False)
        for shard in ((1, 3), (2, 3), None):
            with pytest.raises(ValueError, match="must be new without resume"):
                run(model, drinks, begun, shard, resume=False)
        run(model, drinks, begun, (3, 3))
        tlt.merge(begun)
        with pytest.raises(ValueError, match="must be new without resume"):
            run(model, drinks, begun, (1, 3), resume=False)


class TestAtWork:
    def test_two_processes_with_one_shard(self, model, drinks, tmp_path):
        run(model, drinks, tmp_path, (1, 2))
        with FileLock(tmp_path / "shards" / "1-of-2" / "run.lock"):
            with pytest.raises(BlockingIOError, match=r"another is at work in .*1-of-2"):
                run(model, drinks, tmp_path, (1, 2))
            run(model, drinks, tmp_path, (2, 2))

    def test_one_process_beside_a_shard(self, model, drinks, tmp_path):
        run(model, drinks, tmp_path, (1, 2))
        with (
            FileLock(tmp_path / "shards" / "1-of-2" / "run.lock"),
            pytest.raises(BlockingIOError, match=r"another is at work in .*1-of-2"),
        ):
            run(model, drinks, tmp_path, None)

    def test_a_shard_beside_one_process(self, model, drinks, tmp_path, monkeypatch):
        monkeypatch.setattr(opening, "MOMENT", 0.1)
        with FileLock(tmp_path / "run.lock"), pytest.raises(BlockingIOError, match="at work"):
            run(model, drinks, tmp_path, (1, 2))

    def test_an_interrupt_names_the_folder_of_the_call(self, model, drinks, tmp_path, monkeypatch):
        def stop(self, lines):
            raise KeyboardInterrupt

        monkeypatch.setattr(RunFolder, "append", stop)
        with pytest.raises(KeyboardInterrupt) as caught:
            run(model, drinks, tmp_path, (1, 2))
        assert f"What is finished is in {tmp_path}: the same call" in str(caught.value)


def count_settings(monkeypatch):
    """Which settings are written."""
    written, original = [], RunFolder.append

    def append(self, lines):
        written.extend(json.dumps(line["cut"]) for line in lines)
        original(self, lines)

    monkeypatch.setattr(RunFolder, "append", append)
    return written


class TestMerged:
    """It is an ordinary run folder."""

    def test_again_and_again(self, model, drinks, tmp_path, whole):
        run(model, drinks, tmp_path, (1, 2), (2, 2))
        tlt.merge(tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        require_equal(tlt.merge(tmp_path), whole)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    def test_without_its_shards(self, model, drinks, tmp_path, whole):
        run(model, drinks, tmp_path, (1, 2), (2, 2))
        tlt.merge(tmp_path)
        shutil.rmtree(tmp_path / "shards")
        require_equal(tlt.SweepResult.load(tmp_path), whole)
        require_equal(tlt.merge(tmp_path), whole)

    def test_one_process_goes_on_with_more_keeps(self, model, drinks, tmp_path, monkeypatch, whole):
        more = dict(keeps=[*OPTIONS["keeps"], 0.8])
        run(model, drinks, tmp_path, (1, 2), (2, 2))
        tlt.merge(tmp_path)
        written = count_settings(monkeypatch)
        (found,) = run(model, drinks, tmp_path, None, **more)
        assert len(written) == len(found.settings) - len(whole.settings)
        require_equal(found, tlt.SweepResult.load(tmp_path))
        pd.testing.assert_frame_equal(found.frame[found.frame["keep"] != 0.8].reset_index(drop=True)[
            ["site", "keep", "p_in_context"]], whole.frame[["site", "keep", "p_in_context"]], rtol=1e-5)  # fmt: skip

    def test_shards_go_on_and_are_joined_again(self, model, drinks, tmp_path, monkeypatch):
        run(model, drinks, tmp_path, (1, 2), (2, 2))
        first = tlt.merge(tmp_path)
        written = count_settings(monkeypatch)
        more = dict(keeps=[*OPTIONS["keeps"], 0.8])
        run(model, drinks, tmp_path, (1, 3), **more)
        with pytest.raises(ValueError, match=r"2/3 has not begun, 3/3 has not begun"):
            tlt.merge(tmp_path)
        run(model, drinks, tmp_path, (2, 3), (3, 3), **more)
        found = tlt.merge(tmp_path)
        assert found.finished
        assert len(written) == len(set(written)) == len(found.settings) - len(first.settings)

    def test_one_process_takes_over_what_shards_have_finished(
        self, model, drinks, tmp_path, monkeypatch, whole
    ):
        parts = run(model, drinks, tmp_path, (2, 3))
        written = count_settings(monkeypatch)
        (found,) = run(model, drinks, tmp_path, None)
        assert len(written) == len(whole.settings) - len(parts[0].settings)
        require_equal(found, whole)
        require_equal(tlt.merge(tmp_path), whole)

    def test_shards_go_on_with_what_one_process_has_begun(
        self, model, drinks, tmp_path, monkeypatch, whole
    ):
        run(model, drinks, tmp_path, None)
        path = tmp_path / "settings.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:10]))
        written = count_settings(monkeypatch)
        parts = run(model, drinks, tmp_path, (1, 3), (2, 3), (3, 3))
        assert len(written) == len(lines) - 10
        assert sum(len(part.settings) for part in parts) == len(lines)
        require_equal(tlt.merge(tmp_path), whole)

    def test_one_process_of_another_run(self, shared, model, drinks, tmp_path):
        run(model, drinks, tmp_path, (1, 2))
        other = others()
        with pytest.raises(ValueError, match="differs in: weights_hash"):
            run(other, drinks, tmp_path, None)

    def test_a_crash_while_merging_loses_nothing(self, model, drinks, tmp_path, monkeypatch, whole):
        run(model, drinks, tmp_path, (1, 2), (2, 2))
        for place in range(3):
            calls = []

            def replace(one, other, place=place, calls=calls, original=os.replace):
                calls.append(other)
                if len(calls) > place:
                    raise OSError("no room")
                original(one, other)

            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", replace)
                with pytest.raises(OSError, match="no room"):
                    tlt.merge(tmp_path)
            require_equal(tlt.SweepResult.load(tmp_path), whole)
        require_equal(tlt.merge(tmp_path), whole)

    def test_circumstances_of_a_shard_are_kept(self, model, drinks, tmp_path):
        run(model, drinks, tmp_path, (1, 2), (2, 2))
        path = tmp_path / "shards" / "2-of-2" / "manifest.json"
        manifest = json.loads(path.read_text())
        path.write_text(
            json.dumps(manifest | {"device": "cuda:0", "resumed": [{"after": 3, "device": "cpu"}]})
        )
        found = tlt.merge(tmp_path).manifest
        assert found["device"] == "cpu"
        assert {"shard": "2/2", "after": 3, "device": "cpu"} in found["resumed"]
        assert any(each.get("device") == "cuda:0" for each in found["resumed"])
        assert tlt.merge(tmp_path).manifest == found


class TestPages:
    def test_a_report_reads_shards(self, model, drinks, tmp_path, whole):
        pytest.importorskip("plotly")
        run(model, drinks, tmp_path / "run", (1, 2), (2, 2))
        page = tlt.write_report(tmp_path, tmp_path / "page.html")
        assert "layer 1, W_out" in page.read_text("utf-8")
