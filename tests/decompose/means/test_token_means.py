"""Token means against a plain two-pass computation, and everything that streaming must not change."""

import warnings

import architectures
import inplace
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from luck import examples

import tl_truncate as tlt
from tl_truncate.decompose.means.groups import Groups
from tl_truncate.decompose.means.sums import usable
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site

SITE = "blocks.1.mlp.W_out"


@pytest.fixture(scope="module")
def corpus() -> torch.Tensor:
    """Few distinct tokens, so that most are seen often."""
    return torch.randint(3, 15, (30, 12), generator=torch.Generator().manual_seed(1))


def outputs(model, tokens, name="blocks.1.hook_mlp_out"):
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=name)
    return cache[name].double()


def two_passes(model, tokens, kappa):
    """mu, m(v), n_v and G(v), the plain way."""
    written, current = outputs(model, tokens)[:, 1:].flatten(0, 1), tokens[:, 1:].flatten()
    mean = written.mean(0)
    found = {}
    for token in current.unique().tolist():
        own = written[current == token]
        found[token] = mean + len(own) / (len(own) + kappa) * (own.mean(0) - mean)
    return mean, found


@pytest.mark.parametrize(("kind", "name"), architectures.CASES)
@pytest.mark.parametrize("kappa", [0.0, 2.0])
def test_the_means_are_those_of_two_passes(shared, corpus, kind, name, kappa):
    model = shared(kind, name, torch.float64)
    means = tlt.TokenMeans.fit(model, corpus, layers=[1], kappa=kappa, batch_size=7)
    mean, expected = two_passes(model, corpus, kappa)
    torch.testing.assert_close(means.corpus_mean(SITE), mean, rtol=1e-9, atol=1e-12)
    for token, value in expected.items():
        found = means.of_tokens(SITE, torch.tensor(token))
        torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-12)
    unseen = means.of_tokens(SITE, torch.tensor([90]))
    torch.testing.assert_close(unseen[0], mean, rtol=1e-9, atol=1e-12)
    assert means.counts(SITE, torch.tensor([90, int(corpus[0, 1])])).tolist() == [
        0,
        int((corpus[:, 1:] == corpus[0, 1]).sum()),
    ]


def test_the_second_moments_give_the_shares(shared, corpus):
    model = shared("bridge", "gpt2", torch.float64)
    sites = [SITE, "blocks.1.mlp.W_in", "blocks.2.attn.W_V"]
    means = tlt.TokenMeans.fit(model, corpus, sites=sites)
    assert [str(site) for site in means.sites] == sorted(sites)
    names = ["blocks.1.hook_mlp_out", "blocks.1.mlp.hook_pre", "blocks.2.attn.hook_v"]
    for site, name in zip(sites, names, strict=True):
        bias = locate(model, Site.parse(site)).bias()
        vectors = tlt.spectrum(model, site).V
        current = corpus[:, 1:].flatten()
        written = outputs(model, corpus, name).flatten(2)[:, 1:].flatten(0, 1)
        part = means.of_tokens(site, current)
        for token, chosen in ((None, slice(None)), (5, current == 5)):
            above = ((part[chosen] - bias) @ vectors).square().mean(0)
            below = ((written[chosen] - bias) @ vectors).square().mean(0)
            shares = tlt.component_shares(model, site, means, token)
            torch.testing.assert_close(shares.values, above / below, rtol=1e-8, atol=1e-12)
            torch.testing.assert_close(shares.energy, below, rtol=1e-8, atol=1e-12)


def test_held_out_r2_is_that_of_a_fit_on_the_others(shared, corpus):
    model = shared("bridge", "gpt2", torch.float64)
    means = tlt.TokenMeans.fit(model, corpus, layers=[1], held_out=0.2)
    held = torch.tensor([(i + 1) * 2 // 10 > i * 2 // 10 for i in range(len(corpus))])
    alone = tlt.TokenMeans.fit(model, corpus[~held], layers=[1], held_out=0.0)
    written = outputs(model, corpus[held])[:, 1:]
    part = alone.of_tokens(SITE, corpus[held][:, 1:])
    residual = (written - part).square().sum()
    spread = (written - alone.corpus_mean(SITE)).square().sum()
    assert means.r2(SITE) == pytest.approx(float(1 - residual / spread), abs=1e-9)
    assert alone.r2(SITE) != alone.r2(SITE)  # nothing was held out
    assert "r2" in means.summary()


def test_batches_padding_and_company_do_not_matter(shared, corpus):
    model = shared("bridge", "neox-parallel", torch.float64)
    rows = [row[: 4 + index % 9].tolist() for index, row in enumerate(corpus)]
    one = tlt.TokenMeans.fit(model, rows, layers=[1], batch_size=1)
    many = tlt.TokenMeans.fit(model, rows, layers=[1], batch_size=16)
    padded = torch.zeros(len(rows), 14, dtype=torch.int64)
    mask = torch.zeros(len(rows), 14, dtype=torch.bool)
    for index, row in enumerate(rows):
        start = index % 2  # some padding in front, some behind
        padded[index, start : start + len(row)] = torch.tensor(row)
        mask[index, start : start + len(row)] = True
    masked = tlt.TokenMeans.fit(model, padded, layers=[1], mask=mask)
    seen = torch.arange(3, 15)
    for other in (many, masked):
        torch.testing.assert_close(
            other.of_tokens(SITE, seen), one.of_tokens(SITE, seen), atol=1e-12, rtol=0
        )
        assert other.counts(SITE, seen).tolist() == one.counts(SITE, seen).tolist()


def test_two_halves_merge_into_the_whole(shared, corpus):
    model = shared("bridge", "gpt2", torch.float64)
    options = dict(layers=[0, 1], bigrams=True, held_out=0.2)
    halves = [tlt.TokenMeans.fit(model, part, **options) for part in (corpus[:10], corpus[10:])]
    whole, both = tlt.TokenMeans.fit(model, corpus, **options), halves[0].merge(halves[1])
    torch.testing.assert_close(both.global_part(SITE, corpus), whole.global_part(SITE, corpus))
    assert both.r2(SITE) == pytest.approx(whole.r2(SITE), abs=1e-9)
    assert len(both.record["corpora"]) == 2
    with pytest.raises(ValueError, match="kappa"):
        halves[0].merge(tlt.TokenMeans.fit(model, corpus, layers=[0, 1], kappa=1))


def test_all_heads_and_one_of_them(shared, corpus):
    model = shared("bridge", "gpt2", torch.float64)
    sites = ["blocks.1.attn.W_Q.1", "blocks.1.attn.W_Q"]
    means = tlt.TokenMeans.fit(model, corpus, sites=sites)
    assert [str(site) for site in means.sites] == sites[::-1]
    torch.testing.assert_close(means.corpus_mean(sites[0]), means.corpus_mean(sites[1])[8:16])


def test_what_a_fit_cannot_be_of(shared, corpus, tmp_path):
    model, path = shared("bridge", "gpt2", torch.float64), tmp_path / "means.safetensors"
    halves = [tlt.TokenMeans.fit(model, part, layers=[1]) for part in (corpus[:10], corpus[10:])]
    halves[0].merge(halves[1]).save(path)
    with pytest.raises(
        ValueError, match=r"of one corpus to be gone on with.*merged of 2.*TokenMeans\.m"
    ):
        tlt.TokenMeans.fit(model, corpus, layers=[1], path=path)
    training = architectures.bridge("gpt2")
    training.train()
    with pytest.raises(ValueError, match="must be in evaluation mode"):
        tlt.TokenMeans.fit(training, corpus, layers=[1])


def test_bigrams_shrink_towards_the_token(shared, corpus):
    model = shared("bridge", "gpt2", torch.float64)
    means = tlt.TokenMeans.fit(model, corpus, layers=[1], bigrams=True, kappa=3.0)
    written = outputs(model, corpus)
    before, now = corpus[0, 4:6].tolist()
    at = (corpus[:, 1:] == now) & (corpus[:, :-1] == before)
    own = written[:, 1:][at]
    token = means.of_tokens(SITE, torch.tensor(now))
    expected = token + len(own) / (len(own) + 3.0) * (own.mean(0) - token)
    torch.testing.assert_close(means.global_part(SITE, corpus)[0, 5], expected, rtol=1e-9, atol=1e-12)
    terms = means.terms(SITE, torch.tensor([[90, now]]))  # a pair that was never seen
    assert float(terms["bigram"].abs().max()) == 0


def test_position_0_and_sinks_do_not_count():
    output = torch.ones(2, 5, 4)
    output[0, 0] = 500.0
    output[1, 3] = 61.0
    output[1, 4] = 59.0
    real = torch.ones(2, 5, dtype=torch.bool)
    real[0, 4] = False
    expected = [[False, True, True, True, False], [False, True, True, False, True]]
    assert usable(real, output).tolist() == expected


class TestOnDisk:
    """Whole files, resumed fits, and nothing lost."""

    def test_what_is_saved_is_what_is_read(self, shared, corpus, tmp_path):
        model = shared("bridge", "gpt2", torch.float64)
        means = tlt.TokenMeans.fit(model, corpus, layers=[0, 1], bigrams=True)
        means.save(tmp_path / "sub" / "means.safetensors")
        again = tlt.TokenMeans.load(tmp_path / "sub" / "means.safetensors")
        assert again.hash == means.hash
        assert again.record["weights"] == "raw"
        assert torch.equal(again.global_part(SITE, corpus), means.global_part(SITE, corpus))
        assert str(again) == str(means)
        other = tmp_path / "other.safetensors"
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, other)
        with pytest.raises(ValueError, match=r"written by TokenMeans\.save"):
            tlt.TokenMeans.load(other)

    def test_an_interrupted_fit_goes_on(self, shared, corpus, tmp_path):
        model = shared("bridge", "gpt2", torch.float64)
        rows = [row.tolist() for row in corpus for _ in range(3)]
        path = tmp_path / "means.safetensors"
        whole = tlt.TokenMeans.fit(model, rows, layers=[1], batch_size=1)

        class Stopping(list):
            def __iter__(self):
                for index, row in enumerate(super().__iter__()):
                    if index == 50:
                        raise KeyboardInterrupt
                    yield row

        with pytest.raises(KeyboardInterrupt):
            tlt.TokenMeans.fit(model, Stopping(rows), layers=[1], batch_size=1, path=path)
        assert tlt.TokenMeans.load(path).record["corpora"][0]["rows"] == 48
        calls = []
        handle = model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
        again = tlt.TokenMeans.fit(model, rows, layers=[1], batch_size=1, path=path)
        handle.remove()
        assert len(calls) == len(rows) - 48
        assert again.hash == whole.hash
        assert tlt.TokenMeans.fit(model, rows, layers=[1], batch_size=1, path=path).hash == whole.hash
        with pytest.raises(ValueError, match="begin with the 90 rows"):
            tlt.TokenMeans.fit(model, rows[::-1], layers=[1], batch_size=1, path=path)
        with pytest.raises(ValueError, match="same options"):
            tlt.TokenMeans.fit(model, rows, layers=[1], kappa=1, path=path)


class TestWhatTheyAreOf:
    """Sums go on, are added and are used on the weights that they are of, and on no others."""

    @pytest.fixture
    def other(self):
        """A model of another seed, as the same name says it."""
        model = architectures.bridge("gpt2", torch.float64)
        return architectures.randomise(model, seed=1)

    def test_a_file_of_another_model_is_refused(self, shared, other, corpus, tmp_path):
        model, path = shared("bridge", "gpt2", torch.float64), tmp_path / "means.safetensors"
        first = tlt.TokenMeans.fit(model, corpus, layers=[1], path=path, progress=False)
        for changed in (
            other,
            shared("bridge", "gpt2", torch.float32),
            shared("bridge", "neox-parallel"),
        ):
            with pytest.raises(
                ValueError, match=r"must be of the same \w+ to be gone on with.*Use another"
            ):
                tlt.TokenMeans.fit(changed, corpus, layers=[1], path=path, progress=False)
        with pytest.raises(ValueError, match="same options"):
            tlt.TokenMeans.fit(model, corpus, layers=[0], path=path, progress=False)
        assert (
            tlt.TokenMeans.fit(model, corpus, layers=[1], path=path, progress=False).hash == first.hash
        )

    def test_weights_edited_in_place_are_other_weights(self, other, corpus, tmp_path):
        path = tmp_path / "means.safetensors"
        tlt.TokenMeans.fit(other, corpus[:20], layers=[2], path=path, progress=False)
        with (
            inplace.edited(other, ("blocks.0.attn.W_V", inplace.top(0.9))),
            pytest.raises(ValueError, match="same weights_hash"),
        ):
            tlt.TokenMeans.fit(other, corpus, layers=[2], path=path, progress=False)
        tlt.TokenMeans.fit(other, corpus, layers=[2], path=path, progress=False)

    def test_a_file_that_does_not_say_of_what_it_is(self, shared, corpus, tmp_path):
        """Of an earlier version: it can be used, but not be gone on with."""
        model, path = shared("bridge", "gpt2", torch.float64), tmp_path / "means.safetensors"
        means = tlt.TokenMeans.fit(model, corpus, layers=[1], progress=False)
        old = {
            name: means.record[name]
            for name in means.record
            if name not in ("weights_hash", "site_keys")
        }
        tlt.TokenMeans(means.kappa, means.sums, old).save(path)
        assert tlt.decompose_mlp(model, corpus, 1, means=tlt.TokenMeans.load(path)).layer == 1
        with pytest.raises(ValueError, match="weights_hash"):
            tlt.TokenMeans.fit(model, corpus, layers=[1], path=path, progress=False)

    def test_sums_of_other_weights_are_not_added(self, shared, other, corpus):
        model = shared("bridge", "gpt2", torch.float64)
        one, two = (
            tlt.TokenMeans.fit(each, corpus, layers=[1], progress=False) for each in (model, other)
        )
        with pytest.raises(ValueError, match="must agree in weights_hash"):
            one.merge(two)

    def test_on_another_weight_they_warn_and_components_are_refused(self, shared, other, corpus):
        model = shared("bridge", "gpt2", torch.float64)
        means = tlt.TokenMeans.fit(model, corpus, layers=[1], progress=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error", tlt.OtherWeightsWarning)
            tlt.decompose_mlp(model, corpus, 1, means=means)
            tlt.decompose_mlp(shared("bridge", "gpt2"), corpus, 1, means=means)  # in another precision
        with pytest.warns(tlt.OtherWeightsWarning, match="another weight than this model has there"):
            tlt.decompose_mlp(other, corpus, 1, means=means)
        with pytest.warns(tlt.OtherWeightsWarning), tlt.without_global(other, 1, means=means):
            pass
        with pytest.raises(ValueError, match="whose components they were measured along"):
            tlt.component_shares(other, SITE, means)

    def test_of_raw_weights_on_processed_ones(self, corpus):
        model = architectures.bridge("gpt2")
        means = tlt.TokenMeans.fit(model, corpus, layers=[1], progress=False)
        direction = tlt.GlobalDirection(SITE, means, int(corpus[0, 1]))
        model.enable_compatibility_mode(disable_warnings=True)
        assert not tlt.processing(model).is_raw
        calls = [
            lambda: tlt.decompose_mlp(model, corpus, 1, means=means),
            lambda: tlt.without_global(model, 1, means=means).__enter__(),
            lambda: tlt.component_shares(model, SITE, means),
            lambda: tlt.truncated(model, direction).__enter__(),
            lambda: tlt.truncated(model, SiteCut.from_json(direction.to_json())).__enter__(),
        ]
        for call in calls:
            with pytest.raises(ValueError, match=r"processed as this model's.*weights that are: raw"):
                call()
        again = tlt.TokenMeans.fit(model, corpus, layers=[1], progress=False)
        assert tlt.decompose_mlp(model, corpus, 1, means=again).layer == 1

    def test_of_another_width(self, shared, corpus):
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge import TransformerBridge

        sizes = dict(d_model=16, d_head=4, n_heads=4, n_layers=3, n_ctx=64, d_vocab=97, d_mlp=24)
        config = TransformerBridgeConfig(**sizes, act_fn="relu", normalization_type=None)
        narrow = architectures.randomise(TransformerBridge.boot_native(config))
        means = tlt.TokenMeans.fit(narrow, corpus, layers=[1], progress=False)
        model = shared("bridge", "no-norm")
        for call in (
            lambda: tlt.decompose_mlp(model, corpus, 1, means=means),
            lambda: tlt.without_global(model, 1, means=means).__enter__(),
            lambda: tlt.component_shares(model, SITE, means),
            lambda: tlt.truncated(model, tlt.GlobalDirection(SITE, means, 5)).__enter__(),
        ):
            with pytest.raises(
                ValueError, match=r"must have the width of blocks\.1\.mlp\.W_out.*32, got 16"
            ):
                call()


class TestCorpora:
    """Texts, files, iterators, rows of datasets."""

    TEXTS = ("Mary gave a drink to John", "The capital of France is Paris .", "a store in Rome")

    def test_all_kinds_say_the_same(self, toy, tmp_path):
        file = tmp_path / "text.txt"
        file.write_text("Mary gave a\ndrink to John\n\n\n" + "\n\n".join(self.TEXTS[1:]))
        bos = toy.tokenizer.bos_token_id
        ids = [[bos, *toy.tokenizer(text, add_special_tokens=False)["input_ids"]] for text in self.TEXTS]
        expected = tlt.TokenMeans.fit(toy, ids, layers=[1])
        for corpus in (
            list(self.TEXTS),
            iter(self.TEXTS),
            file,
            ({"text": text} for text in self.TEXTS),
            [{"input_ids": row} for row in ids],
        ):
            found = tlt.TokenMeans.fit(toy, corpus, layers=[1], prepend_bos=True)
            everything = torch.arange(97)
            torch.testing.assert_close(
                found.of_tokens(SITE, everything), expected.of_tokens(SITE, everything)
            )

    def test_long_passages_go_on_in_further_rows(self, toy):
        words = " ".join(["drink"] * 200)
        means = tlt.TokenMeans.fit(toy, [words], layers=[1], max_tokens=21, prepend_bos=True)
        assert means.summary().loc[SITE, "positions"] == 200
        assert means.record["corpora"][0]["rows"] == 10

    @pytest.mark.parametrize(
        ("corpus", "options", "error", "wording"),
        [
            ("one text", {}, TypeError, r"got one text: 'one text'\. Write \[text\]"),
            (7, {}, TypeError, "got int"),
            ([3.5], {}, TypeError, r"A passage must be a text.*got 3\.5 at 0"),
            ([[1, 200]], {}, ValueError, "from 0 to 96 for this model, got 200 in passage 0"),
            (torch.zeros(3), {}, ValueError, r"shape \[batch, pos\]"),
            (torch.ones(2, 3).long(), dict(mask=torch.zeros(2, 3)), ValueError, "none in row 0"),
            (torch.ones(1, 3).long(), dict(mask=torch.tensor([[1, 0, 1]])), ValueError, "some inside 0"),
            ([], {}, ValueError, "at least one row of two tokens"),
            ([[5]], {}, ValueError, "at least one row of two tokens"),
            (
                [[5, 6]],
                dict(kappa=-1),
                ValueError,
                "kappa must be a number of positions from 0 up, got -1",
            ),
            ([[5, 6]], dict(held_out=0.9), ValueError, r"held_out must be a share from 0 to 0\.5"),
            ([[5, 6]], dict(sites=["blocks.9.mlp.W_in"]), ValueError, "blocks.9.mlp.W_in"),
            ([[5, 6]], dict(layers=[7]), ValueError, r"0\.\.2"),
            ([[5, 6]], dict(max_tokens=1), ValueError, "max_tokens"),
        ],
    )
    def test_bad_input(self, toy, corpus, options, error, wording):
        with pytest.raises(error, match=wording):
            tlt.TokenMeans.fit(toy, corpus, **{"layers": [1], **options})


@settings(max_examples=examples(30))
@given(
    keys=st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=30),
    width=st.integers(1, 4),
    pieces=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_groups_are_plain_sums(keys, width, pieces, seed):
    values = torch.randn(len(keys), width, generator=torch.Generator().manual_seed(seed))
    groups = Groups(width)
    for part in torch.arange(len(keys)).chunk(pieces):
        groups.add(torch.tensor(keys)[part], values[part])
    assert sorted(groups.keys.tolist()) == sorted(set(keys))
    for key, count, total in zip(groups.keys.tolist(), groups.counts, groups.sums, strict=True):
        own = torch.tensor([each == key for each in keys])
        assert int(count) == int(own.sum())
        torch.testing.assert_close(total, values[own].double().sum(0))
