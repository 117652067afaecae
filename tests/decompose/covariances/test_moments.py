"""Second moments and factors against plain sums over a cache, and everything that streaming must not change."""

import architectures
import inplace
import pytest
import torch
from architectures import CASES
from sites_written import sites_of, written

import tl_truncate as tlt
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site

SITE = "blocks.1.mlp.W_out"


@pytest.fixture(scope="module")
def corpus() -> torch.Tensor:
    """More positions than any of the matrices is wide."""
    return torch.randint(3, 90, (14, 9), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_moments_are_plain_sums(shared, corpus, kind, name):
    model = shared(kind, name, torch.float64)
    sites = sites_of(model)
    moments = tlt.OutputMoments.fit(model, corpus, sites=sites, batch_size=3, progress=False)
    assert moments.positions == corpus.numel()
    for site in sites:
        u = written(model, name, site, corpus)
        expected = u.T @ u / len(u)
        torch.testing.assert_close(moments.of(site), expected, rtol=1e-9, atol=1e-11)
        assert moments.shape(site) == locate(model, site).shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_lower_precision_they_are_nearly_the_same(shared, corpus, dtype):
    exact, model = (shared("bridge", "llama-grouped", each) for each in (torch.float64, dtype))
    for site in sites_of(model):
        one, other = (tlt.OutputMoments.fit(each, corpus, sites=[site]) for each in (exact, model))
        assert other.of(site).dtype == torch.float64
        error = (one.of(site) - other.of(site)).norm() / one.of(site).norm()
        assert error < (1e-5 if dtype == torch.float32 else 0.05), site


def rows_of(corpus) -> list[list[int]]:
    return [row[: 2 + index % 8].tolist() for index, row in enumerate(corpus)]


def padded(rows):
    """Rows side by side, some padding in front, some behind, and the mask."""
    tokens = torch.zeros(len(rows), 11, dtype=torch.int64)
    mask = torch.zeros(len(rows), 11, dtype=torch.bool)
    for index, row in enumerate(rows):
        start = index % 2
        tokens[index, start : start + len(row)] = torch.tensor(row)
        mask[index, start : start + len(row)] = True
    return tokens, mask


def same(one, other) -> None:
    assert one.positions == other.positions
    for role, by_site in one.sums.items():
        for site, matrix in by_site.items():
            torch.testing.assert_close(matrix, other.sums[role][site], rtol=1e-9, atol=1e-11)


KINDS = [tlt.OutputMoments, tlt.CurvatureFactors]
SITES = ["blocks.1.mlp.W_in", SITE, "blocks.2.attn.W_O.1"]


@pytest.mark.parametrize("kind", KINDS)
class TestStreaming:
    """What reading in one way or another must not change."""

    def test_batches_padding_and_company_do_not_matter(self, shared, corpus, kind):
        model, rows = shared("bridge", "neox-parallel", torch.float64), rows_of(corpus)
        one = kind.fit(model, rows, sites=SITES, batch_size=1)
        same(one, kind.fit(model, rows, sites=SITES, batch_size=16))
        tokens, mask = padded(rows)
        same(one, kind.fit(model, tokens, sites=SITES, mask=mask))
        lengths = [len(row) for row in rows]
        assert one.positions == sum(lengths) - (len(rows) if kind is tlt.CurvatureFactors else 0)

    def test_two_halves_merge_into_the_whole(self, shared, corpus, kind, tmp_path):
        model = shared("bridge", "gpt2", torch.float64)
        # Numbers of rows are drawn by the passage, which begins anew in each corpus.
        options = dict(sites=SITES, **(dict(labels="data") if kind is tlt.CurvatureFactors else {}))
        halves = [kind.fit(model, part, **options) for part in (corpus[:5], corpus[5:])]
        halves[0].save(tmp_path / "half")
        both = halves[0].merge(halves[1])
        same(both, kind.fit(model, corpus, **options))
        assert len(both.record["corpora"]) == 2
        assert "path" not in both.record
        both.save(tmp_path / "both")
        with pytest.raises(ValueError, match=r"must be of one corpus to be gone on with, but.*of 2"):
            kind.fit(model, corpus, path=tmp_path / "both", **options)
        with pytest.raises(ValueError, match=rf"{kind.told.capitalize()} must agree in sites"):
            both.merge(kind.fit(model, corpus, sites=[SITE]))
        with pytest.raises(ValueError, match="must agree in options"):
            both.merge(kind.fit(model, corpus, **{**options, "max_tokens": 5}))

    def test_on_disk(self, shared, corpus, kind, tmp_path):
        model, path = shared("bridge", "gpt2", torch.float64), tmp_path / "sub" / "fit.safetensors"
        fitted = kind.fit(model, corpus, sites=SITES)
        fitted.save(path)
        again = kind.load(path)
        assert (again.hash, again, hash(again)) == (fitted.hash, fitted, hash(fitted))
        assert str(again) == str(fitted)
        assert again.record["weights"] == "raw"
        assert again.record["corpora"][0]["rows"] == len(corpus)
        other = KINDS[1 - KINDS.index(kind)]
        with pytest.raises(ValueError, match=rf"written by {other.__name__}\.save"):
            other.load(path)
        assert fitted != other.fit(model, corpus, sites=SITES)

    @pytest.mark.parametrize("inside", [False, True], ids=["between windows", "inside of one"])
    def test_an_interrupted_fit_goes_on(self, shared, corpus, kind, tmp_path, inside, monkeypatch):
        model, path = shared("bridge", "gpt2", torch.float64), tmp_path / "fit.safetensors"
        rows = [row.tolist() for row in corpus for _ in range(3)]
        options = dict(sites=SITES, batch_size=1)
        whole = kind.fit(model, rows, **options)
        passes = []

        def count(*_):
            passes.append(1)
            if inside and not path.exists() and len(passes) == 21:
                raise KeyboardInterrupt

        class Stopping(list):
            def __iter__(self):
                for index, row in enumerate(super().__iter__()):
                    if index == 20 and not inside:
                        raise KeyboardInterrupt
                    yield row

        handle = model.blocks[0].register_forward_pre_hook(count)
        with pytest.raises(KeyboardInterrupt):
            kind.fit(model, Stopping(rows), path=path, **options)
        half = kind.load(path)
        done = 20 if inside else 16
        assert half.record["corpora"][0]["rows"] == 16
        assert half.record["corpora"][0]["batches"] == done - 16
        passes.clear()
        again = kind.fit(model, rows, path=path, **options)
        handle.remove()
        assert len(passes) == len(rows) - done
        same(again, whole)
        assert kind.fit(model, rows, path=path, **options).hash == again.hash
        with pytest.raises(ValueError, match=rf"begin with the 42 rows.*{kind.__name__}\.merge"):
            kind.fit(model, rows[::-1], path=path, **options)
        with pytest.raises(ValueError, match="same options"):
            kind.fit(model, rows, path=path, **{**options, "max_tokens": 5})

    def test_of_other_weights(self, shared, corpus, kind, tmp_path):
        model = shared("bridge", "gpt2", torch.float64)
        other = architectures.randomise(architectures.bridge("gpt2", torch.float64), seed=1)
        path = tmp_path / "fit.safetensors"
        fitted = kind.fit(model, corpus, sites=SITES, path=path)
        with pytest.raises(ValueError, match="same weights_hash to be gone on with"):
            kind.fit(other, corpus, sites=SITES, path=path)
        with pytest.raises(ValueError, match="must agree in weights_hash"):
            fitted.merge(kind.fit(other, corpus, sites=SITES))
        with pytest.raises(ValueError, match=rf"The {kind.told} must be of the weight that {SITE} has"):
            fitted.require_of(other, SITE)
        assert fitted.require_of(shared("bridge", "gpt2"), SITE) == Site.parse(SITE)  # another precision
        with pytest.raises(ValueError, match=rf"The {kind.told} must be of blocks.0.mlp.W_in, got"):
            fitted.require_of(model, "blocks.0.mlp.W_in")

    def test_of_processed_weights(self, corpus, kind):
        model = architectures.bridge("gpt2")
        fitted = kind.fit(model, corpus, sites=SITES)
        model.enable_compatibility_mode(disable_warnings=True)
        with pytest.raises(ValueError, match=rf"The {kind.told} must be of weights.*processed as this"):
            fitted.require_of(model, SITE)

    @pytest.mark.parametrize(
        ("corpus", "options", "error", "wording"),
        [
            ("one text", {}, TypeError, r"got one text: 'one text'\. Write \[text\]"),
            ([[1, 200]], {}, ValueError, "from 0 to 96 for this model, got 200 in passage 0"),
            ([], {}, ValueError, "The corpus must have at least one"),
            ([[5, 6]], dict(sites=[]), ValueError, "There must be at least one site, got none"),
            ([[5, 6]], dict(sites=["blocks.9.mlp.W_in"]), ValueError, "blocks.9.mlp.W_in"),
            ([[5, 6]], dict(max_tokens=1), ValueError, "max_tokens"),
            ([[5, 6]], dict(batch_size=0), ValueError, "batch_size must be an integer from 1 up, got 0"),
        ],
    )
    def test_bad_input(self, toy, kind, corpus, options, error, wording):
        with pytest.raises(error, match=wording):
            kind.fit(toy, corpus, **{"sites": [SITE], **options})

    def test_nothing_is_left_behind(self, shared, corpus, kind):
        """Nor a graph, nor a gradient; also inside of inference mode, and with a corpus of one text."""
        model = shared("bridge", "gpt2")
        kind.fit(model, ["Mary gave a drink to John"], sites=SITES)
        with torch.inference_mode():
            one = kind.fit(model, corpus, sites=SITES)
        same(one, kind.fit(model, corpus, sites=SITES))
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(matrix.requires_grad for matrix in one.sums[one.of_outputs].values())

    def test_active_dropout_is_refused(self, corpus, kind):
        model = architectures.bridge("gpt2")
        model.train()
        with pytest.raises(ValueError, match=r"must be in evaluation mode, got.*Call model\.eval"):
            kind.fit(model, corpus, sites=SITES)

    def test_what_is_not_finite_is_refused(self, shared, corpus, kind):
        model = shared("bridge", "gpt2")

        def break_it(value, hook):
            return value.index_fill(1, torch.tensor([3]), float("inf"))

        with (
            model.hooks([("blocks.1.mlp.hook_post", break_it)]),
            pytest.raises(ValueError, match=r"What blocks\.1\.mlp\.W_out .* must be finite, got NaN"),
        ):
            kind.fit(model, corpus, sites=[SITE])

    def test_inputs_by_head_are_refused(self, corpus, kind):
        model = architectures.bridge("gpt2")
        model.set_use_split_qkv_input(True)
        with pytest.raises(
            ValueError, match=r"W_Q must read one input and write one output, but use_sp"
        ):
            kind.fit(model, corpus, sites=["blocks.1.attn.W_Q"])


def test_moments_beside_cuts_are_those_of_the_cut_model(shared, corpus):
    """Whether a cut of the site itself is made at its output or in the weight."""
    model = shared("bridge", "llama-grouped", torch.float64)
    for site in ("blocks.1.mlp.W_in", SITE, "blocks.1.attn.W_O.1"):
        cut = tlt.Cut(site, 4)
        place = Site.parse(site)
        with inplace.edited(model, (site, lambda matrix: inplace.truncate(matrix, slice(0, 4)))):
            u = written(model, "llama-grouped", place, corpus)
        for weights in (False, True):
            with tlt.truncated(model, cut, weights=weights):
                if place.head is not None:
                    with pytest.raises(ValueError, match="must be visible by itself"):
                        tlt.OutputMoments.fit(model, corpus, sites=[site])
                    continue
                moments = tlt.OutputMoments.fit(model, corpus, sites=[site])
            torch.testing.assert_close(moments.of(site), u.T @ u / len(u), rtol=1e-9, atol=1e-11)
            assert moments.record["options"]["cuts"][0]["kind"] == "Cut"


def test_position_0_counts(shared, corpus):
    model = shared("bridge", "gpt2", torch.float64)
    u = written(model, "gpt2", Site.parse(SITE), corpus).view(*corpus.shape, -1)[:, 1:].flatten(0, 1)
    moments = tlt.OutputMoments.fit(model, corpus, sites=[SITE])
    assert float((moments.of(SITE) - u.T @ u / len(u)).norm()) > 1e-3


def test_the_memory_is_that_of_the_documentation(shared, corpus):
    model = shared("bridge", "gpt2")
    moments = tlt.OutputMoments.fit(model, corpus, sites=["blocks.1.mlp.W_in", SITE])
    assert moments.nbytes == 8 * (48**2 + 32**2)
    factors = tlt.CurvatureFactors.fit(model, corpus, sites=["blocks.1.mlp.W_in", SITE])
    assert factors.nbytes == 2 * 8 * (48**2 + 32**2)


class TestOneHeadBesideWhatChangesIt:
    """What one head of W_O writes is not seen by itself: it is the stored weight's, or refused."""

    @pytest.mark.parametrize("cut", ["blocks.1.attn.OV.1", "blocks.1.attn.OV.2", "blocks.1.attn.W_O.1"])
    @pytest.mark.parametrize("weights", [False, True])
    def test_inside_a_cut(self, shared, cut, weights):
        """A cut of a circuit is made in one of its weights."""
        model = shared("bridge", "gpt2", torch.float64)
        rows = torch.randint(0, 60, (6, 9), generator=torch.Generator().manual_seed(0))
        sites = ["blocks.1.attn.W_O.1"]
        with (
            tlt.truncated(model, tlt.Cut(cut, 2), weights=weights),
            pytest.raises(ValueError, match=r"visible by itself.*a cut of W_O or a hook is at work"),
        ):
            tlt.OutputMoments.fit(model, rows, sites=sites, progress=False)

    def test_under_plain_hooks(self, shared):
        model = shared("bridge", "gpt2", torch.float64)
        rows = torch.randint(0, 60, (6, 9), generator=torch.Generator().manual_seed(0))
        hooks = tlt.truncation_hooks(model, tlt.Cut("blocks.1.attn.W_O.1", 2))
        with model.hooks(fwd_hooks=hooks), pytest.raises(ValueError, match="visible by itself"):
            tlt.OutputMoments.fit(model, rows, sites=["blocks.1.attn.W_O.1"], progress=False)
