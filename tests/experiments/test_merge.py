"""Runs that end in one result: shares of it are joined into that of one process."""

import json

import architectures
import pandas as pd
import pytest
from filelock import FileLock

import tl_truncate as tlt

EXACT = dict(check_exact=True)
TEXTS = [
    "the store in Paris",
    "Mary gave a drink to John",
    "the capital of France is Paris",
    "John",
    "When Mary and John went to the store",
    "the drink",
]


@pytest.fixture(scope="module")
def model(shared):
    return architectures.with_tokenizer(shared("bridge", "gpt2"))


def others():
    """A model of the same form with other weights."""
    return architectures.with_tokenizer(architectures.randomise(architectures.bridge("gpt2"), 5))


def read_otherwise():
    """A model of the same weights with another tokenizer, in which two words have changed places."""
    other = architectures.with_tokenizer(architectures.bridge("gpt2"))
    other.tokenizer = architectures.with_words_exchanged("ĠMary", "Ġstore")
    return other


class Attribute:
    def run(self, model, task, **options):
        return tlt.attribute(model, task, batch_size=2, progress=False, **options)

    def require_equal(self, found, whole):
        pd.testing.assert_frame_equal(found.frame, whole.frame, **EXACT)
        assert list(found.by_row) == list(whole.by_row)
        assert all(found.by_row[site].equal(own) for site, own in whole.by_row.items())
        assert all(found.spectra[site].S.equal(own.S) for site, own in whole.spectra.items())
        assert (found.metric, found.n_prompts) == (whole.metric, whole.n_prompts)
        site = next(iter(whole.by_row))
        assert found.effect(site, 0.5) == whole.effect(site, 0.5)

    def size(self, found):
        return len(found.by_row)


class SideEffects:
    def run(self, model, task, **options):
        cut = tlt.Cut("blocks.1.mlp.W_out", 0.3)
        return tlt.side_effects(model, cut, TEXTS, batch_size=2, progress=False, **options)

    def require_equal(self, found, whole):
        pd.testing.assert_frame_equal(found.frame, whole.frame, **EXACT)
        assert found.to_json() == whole.to_json()

    def size(self, found):
        return len(found.frame)


@pytest.fixture(params=[Attribute(), SideEffects()], ids=["attribute", "side effects"])
def of(request):
    return request.param


@pytest.mark.parametrize("count", [1, 2, 20])
def test_the_result_is_that_of_one_process(of, model, drinks, tmp_path, count):
    whole = of.run(model, drinks)
    parts = [of.run(model, drinks, run_dir=tmp_path, shard=(index, count)) for index in range(count)]
    assert sum(map(of.size, parts)) == of.size(whole)
    assert count == 1 or max(map(of.size, parts)) < of.size(whole)
    of.require_equal(tlt.merge(tmp_path), whole)
    of.require_equal(tlt.merge(tmp_path), whole)
    of.require_equal(of.run(model, drinks, run_dir=tmp_path), whole)


def test_what_is_there_is_not_made_again(of, model, drinks, tmp_path, monkeypatch):
    whole = of.run(model, drinks, run_dir=tmp_path / "one")
    part = of.run(model, drinks, run_dir=tmp_path / "two", shard=(1, 2))
    monkeypatch.setattr(model, "forward", None)
    of.require_equal(of.run(model, drinks, run_dir=tmp_path / "one"), whole)
    again = of.run(model, drinks, run_dir=tmp_path / "two", shard=(1, 2))
    pd.testing.assert_frame_equal(again.frame, part.frame, **EXACT)


@pytest.mark.parametrize("count", [1, 2, 20])
def test_what_was_merged_is_not_made_again(of, model, drinks, tmp_path, monkeypatch, count):
    for index in range(count):
        of.run(model, drinks, run_dir=tmp_path, shard=(index, count))
    merged = tlt.merge(tmp_path)
    before = (tmp_path / "settings.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", None)
        of.require_equal(of.run(model, drinks, run_dir=tmp_path), merged)
    with pytest.raises(ValueError, match="differs in: weights_hash"):
        of.run(others(), drinks, run_dir=tmp_path)
    assert (tmp_path / "settings.jsonl").read_bytes() == before
    of.require_equal(tlt.merge(tmp_path), merged)


def test_missing(of, model, drinks, tmp_path):
    of.run(model, drinks, run_dir=tmp_path, shard=(2, 3))
    with pytest.raises(ValueError, match=r"1/3 has not begun, 3/3 has not begun.*such as --shard 1/3"):
        tlt.merge(tmp_path)
    with pytest.raises(ValueError, match=r"must have no shards that are not merged .*Finish them and"):
        of.run(model, drinks, run_dir=tmp_path)


def test_refused(of, model, drinks, tmp_path):
    of.run(model, drinks, run_dir=tmp_path, shard=(1, 2))
    with pytest.raises(ValueError, match="2/2 differs from 1/2 in: weights_hash"):
        of.run(others(), drinks, run_dir=tmp_path, shard=(2, 2))
    with pytest.raises(ValueError, match="must have a run folder"):
        of.run(model, drinks, shard=(2, 2))
    with pytest.raises(ValueError, match="shard must be which one"):
        of.run(model, drinks, run_dir=tmp_path, shard=(3, 2))
    with (
        FileLock(tmp_path / "shards" / "1-of-2" / "run.lock"),
        pytest.raises(BlockingIOError, match=r"at work in .*1-of-2"),
    ):
        of.run(model, drinks, run_dir=tmp_path, shard=(1, 2))


def test_another_question(model, drinks, tmp_path):
    Attribute().run(model, drinks, run_dir=tmp_path, shard=(1, 2))
    with pytest.raises(ValueError, match="2/2 differs from 1/2 in: metric"):
        Attribute().run(model, drinks, run_dir=tmp_path, shard=(2, 2), metric="p_global")
    with pytest.raises(ValueError, match="must be of kind 'side_effects', got kind 'attribute'"):
        SideEffects().run(model, drinks, run_dir=tmp_path, shard=(2, 2))


def test_another_tokenizer(of, model, drinks, tmp_path):
    of.run(model, drinks, run_dir=tmp_path / "one")
    with pytest.raises(ValueError, match="differs in: tokens_hash"):
        of.run(read_otherwise(), drinks, run_dir=tmp_path / "one")
    of.run(model, drinks, run_dir=tmp_path / "two", shard=(1, 2))
    with pytest.raises(ValueError, match="2/2 differs from 1/2 in: tokens_hash"):
        of.run(read_otherwise(), drinks, run_dir=tmp_path / "two", shard=(2, 2))


def test_a_folder_of_an_earlier_version_goes_on(of, model, drinks, tmp_path):
    whole = of.run(model, drinks, run_dir=tmp_path / "one")
    of.run(model, drinks, run_dir=tmp_path / "two", shard=(1, 2))
    for path in (tmp_path / "one", tmp_path / "two" / "shards" / "1-of-2"):
        manifest = json.loads((path / "manifest.json").read_text())
        del manifest["tokens_hash"]
        (path / "manifest.json").write_text(json.dumps(manifest))
    of.require_equal(of.run(model, drinks, run_dir=tmp_path / "one"), whole)
    of.run(model, drinks, run_dir=tmp_path / "two", shard=(2, 2))
    of.require_equal(tlt.merge(tmp_path / "two"), whole)
