"""Token means of a corpus whose batches several processes have run."""

import itertools
import json

import architectures
import pytest
import torch

import tl_truncate as tlt
from tl_truncate.decompose.fits import streaming
from tl_truncate.decompose.means.file import tensors_of

WORDS = ["Mary", "John", "the store", "gave a drink to", "Paris", "the capital of France is"]
TEXTS = [" ".join(each) for each in itertools.islice(itertools.permutations(WORDS, 3), 40)]
OPTIONS = dict(layers=[0, 2], batch_size=2, bigrams=True, held_out=0.2, progress=False)


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def model(shared, request):
    return architectures.with_tokenizer(shared("bridge", "gpt2", request.param))


def fit(model, **options):
    return tlt.TokenMeans.fit(model, TEXTS, **OPTIONS | options)


def in_order(means):
    """All sums, by what they are of: the groups' order is that in which they were first seen."""
    found = tensors_of(means.sums)
    for name in [name for name in found if name.endswith("/keys")]:
        order = found[name].argsort()
        for what in ("keys", "counts", "sums"):
            place = name.removesuffix("keys") + what
            found[place] = found[place][order]
    return found


@pytest.mark.parametrize("count", [1, 3, 21])
def test_counts_are_those_of_one_process_and_sums_to_the_rounding_of_float64(model, tmp_path, count):
    """Each batch is that of one process to the last bit; the sums are added in another order."""
    whole = fit(model)
    parts = [fit(model, run_dir=tmp_path, shard=(index, count)) for index in range(count)]
    found = tlt.merge(tmp_path)
    own, expected = in_order(found), in_order(whole)
    assert own.keys() == expected.keys()
    for name, tensor in expected.items():
        if name.endswith(("keys", "counts")):
            assert own[name].equal(tensor), name
        else:
            assert torch.allclose(own[name], tensor, rtol=1e-12, atol=1e-12), name
    seen = [sum(int(each.whole[site].tokens.counts.sum()) for site in each.sites) for each in parts]
    assert sum(seen) == sum(int(whole.whole[site].tokens.counts.sum()) for site in whole.sites)
    assert count == 1 or max(seen) < sum(seen)
    assert found.r2("blocks.2.mlp.W_out") == pytest.approx(whole.r2("blocks.2.mlp.W_out"), rel=1e-10)
    assert found.record["corpora"] == whole.record["corpora"]
    assert tlt.merge(tmp_path).hash == found.hash


def test_one_process_goes_on_with_what_was_merged(model, tmp_path):
    for index in range(2):
        fit(model, run_dir=tmp_path, shard=(index, 2))
    merged = tlt.merge(tmp_path)
    again = fit(model, path=tmp_path / "means.safetensors")
    assert again.hash == merged.hash


@pytest.mark.parametrize("count", [1, 3])
def test_what_was_merged_is_not_made_again(model, tmp_path, monkeypatch, count):
    for index in range(count):
        fit(model, run_dir=tmp_path, shard=(index, count))
    merged = tlt.merge(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", None)
        assert fit(model, run_dir=tmp_path).hash == merged.hash
    with pytest.raises(ValueError, match="It differs in: tokens_hash"):
        tlt.TokenMeans.fit(model, TEXTS[1:], run_dir=tmp_path, **OPTIONS)
    assert tlt.merge(tmp_path).hash == merged.hash


def test_an_interrupted_shard_goes_on(model, tmp_path, monkeypatch):
    whole = fit(model, run_dir=tmp_path / "whole", shard=(2, 3))
    original, calls = streaming.Stream._is_own, []

    def stops(self, place):
        calls.append(place)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return original(self, place)

    monkeypatch.setattr(streaming.Stream, "_is_own", stops)
    with pytest.raises(KeyboardInterrupt):
        fit(model, run_dir=tmp_path / "stopped", shard=(2, 3))
    found = fit(model, run_dir=tmp_path / "stopped", shard=(2, 3))
    assert 10 < len(calls) < 40
    assert found.hash == whole.hash


def test_a_corpus_that_can_be_read_once(model, tmp_path):
    whole = fit(model)
    options = dict(OPTIONS, run_dir=tmp_path)
    for _ in range(2):
        assert tlt.TokenMeans.fit(model, iter(TEXTS), **options).hash == whole.hash
    with pytest.raises(ValueError, match="tokens_hash"):
        tlt.TokenMeans.fit(model, iter(TEXTS[1:]), **options)
    with pytest.raises(TypeError, match="A passage must be a text, token numbers"):
        tlt.TokenMeans.fit(model, iter([None]), **options)


def test_a_corpus_that_is_shuffled_anew(model, tmp_path):
    class Shuffled:
        times = 0

        def __iter__(self):
            self.times += 1
            return iter(TEXTS[self.times :] + TEXTS[: self.times])

    with pytest.raises(ValueError, match="must give the same each time it is read"):
        tlt.TokenMeans.fit(model, Shuffled(), run_dir=tmp_path, **OPTIONS)


def without_tokens(*folders):
    """As an earlier version wrote them."""
    for folder in folders:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["tokens_hash"]
        path.write_text(json.dumps(manifest))


def test_a_folder_of_an_earlier_version_goes_on(model, tmp_path):
    fit(model, run_dir=tmp_path, shard=(1, 2))
    without_tokens(tmp_path / "shards" / "1-of-2")
    fit(model, run_dir=tmp_path, shard=(2, 2))
    assert tlt.merge(tmp_path).record["corpora"] == fit(model).record["corpora"]


class TestRefused:
    @pytest.mark.parametrize("texts", [TEXTS[:-1], [*TEXTS, "Paris is"], TEXTS[::-1]])
    def test_a_folder_of_another_corpus(self, model, tmp_path, texts):
        fit(model, run_dir=tmp_path)
        with pytest.raises(ValueError, match=r"It differs in: tokens_hash .* Use another folder"):
            tlt.TokenMeans.fit(model, texts, run_dir=tmp_path, **OPTIONS)
        without_tokens(tmp_path)
        with pytest.raises(ValueError, match="must be of the same rows of tokens as the corpus"):
            tlt.TokenMeans.fit(model, texts, run_dir=tmp_path, **OPTIONS)

    def test_another_mask(self, model, tmp_path):
        tokens = torch.arange(3, 43).reshape(4, 10)
        mask = torch.ones(4, 10)
        mask[:, 5:] = 0
        tlt.TokenMeans.fit(model, tokens, run_dir=tmp_path, **OPTIONS)
        with pytest.raises(ValueError, match="It differs in: tokens_hash"):
            tlt.TokenMeans.fit(model, tokens, mask=mask, run_dir=tmp_path, **OPTIONS)

    def test_a_shard_of_another_corpus(self, model, tmp_path):
        fit(model, run_dir=tmp_path, shard=(1, 2))
        with pytest.raises(ValueError, match="It differs in: tokens_hash"):
            tlt.TokenMeans.fit(model, TEXTS[:-1], run_dir=tmp_path, shard=(1, 2), **OPTIONS)
        with pytest.raises(ValueError, match="2/2 differs from 1/2 in: tokens_hash"):
            tlt.TokenMeans.fit(model, TEXTS[:-1], run_dir=tmp_path, shard=(2, 2), **OPTIONS)

    def test_another_corpus_in_a_shard_of_an_earlier_version(self, model, tmp_path):
        fit(model, run_dir=tmp_path, shard=(1, 2))
        without_tokens(tmp_path / "shards" / "1-of-2")
        tlt.TokenMeans.fit(model, TEXTS[:-1], run_dir=tmp_path, shard=(2, 2), **OPTIONS)
        with pytest.raises(
            ValueError, match=r"must be of the same corpus, but 2/2 and 1/2 differ in .*hash"
        ):
            tlt.merge(tmp_path)

    def test_other_options(self, model, tmp_path):
        fit(model, run_dir=tmp_path, shard=(1, 2))
        for options in (dict(batch_size=3), dict(held_out=0.1), dict(layers=[0])):
            with pytest.raises(ValueError, match="2/2 differs from 1/2 in: "):
                fit(model, run_dir=tmp_path, shard=(2, 2), **options)

    def test_a_file_of_another_share(self, model, tmp_path):
        fit(model, run_dir=tmp_path, shard=(1, 2))
        path = tmp_path / "shards" / "1-of-2" / "means.safetensors"
        with pytest.raises(
            ValueError, match=r"must be of the same share of the corpus .*got 1/2 there and"
        ):
            fit(model, path=path)

    def test_missing(self, model, tmp_path):
        fit(model, run_dir=tmp_path, shard=(1, 2))
        with pytest.raises(ValueError, match="2/2 has not begun"):
            tlt.merge(tmp_path)

    def test_two_places_or_none(self, model, tmp_path):
        with pytest.raises(ValueError, match="There must be a path or a run_dir, got both"):
            fit(model, run_dir=tmp_path, path=tmp_path / "means.safetensors")
        with pytest.raises(ValueError, match="A shard must have a run folder"):
            fit(model, shard=(1, 2))
