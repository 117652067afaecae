"""The truncation that is best on data, against the closed form through the inputs, other matrices of the
rank, an optimiser, LASER, and weights that were edited in place."""

import inplace
import numpy as np
import pytest
import torch
from architectures import CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from luck import examples
from sites_written import ROTARY, fitted_once, written

import tl_truncate as tlt
from tl_truncate.decompose.covariances.directions import directions_of
from tl_truncate.surgery.controls import controls_of
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site

SITE, WIDE = "blocks.1.mlp.W_out", "blocks.1.mlp.W_in"


@pytest.fixture(scope="module")
def corpus() -> torch.Tensor:
    return torch.randint(3, 90, (14, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def fitted(shared, corpus):
    """The moments of all sites of a block, fitted once for a model."""
    return fitted_once(tlt.OutputMoments, shared, corpus)


def by_hand(model, site, sums, positions, shape):
    """Moments of a site as if they had been fitted."""
    found = tlt.OutputMoments.fit(model, torch.tensor([[5, 6]]), sites=[site])
    record = {**found.record, "shapes": {str(site): list(shape)}}
    return tlt.OutputMoments({"outputs": {Site.parse(site): sums.cpu()}}, positions, record)


def tolerance(kind, name, dtype):
    if dtype == torch.float32:
        return 1e-4
    return 1e-6 if kind == "hooked" and name in ROTARY else 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_equals_in_place_editing(shared, fitted, tokens, corpus, kind, name, dtype):
    model, moments = shared(kind, name, dtype), fitted(kind, name, dtype)
    uncut = inplace.outputs(model, tokens)
    for site in moments.sites:
        rank = min(locate(model, site).shape)
        u = written(shared(kind, name, torch.float64), name, site, corpus).numpy()
        vectors = np.linalg.svd(u, full_matrices=False)[2]
        for options, kept in (
            (dict(keep=0.4), slice(0, int(0.4 * rank))),
            (dict(drop=3), slice(3, rank)),
        ):
            cut = tlt.OutputPCA(site, moments, **options)

            def change(matrix, kept=kept, vectors=vectors):
                return matrix @ vectors[kept].T @ vectors[kept]

            with inplace.edited(model, (str(site), change)):
                edited = inplace.outputs(model, tokens)
            limit = tolerance(kind, name, dtype)
            for weights in (False, True):
                with tlt.truncated(model, cut, weights=weights):
                    found = inplace.outputs(model, tokens)
                assert inplace.difference(found, edited) <= limit, (site, options)
            with torch.no_grad():
                hooked = model.run_with_hooks(tokens, fwd_hooks=tlt.truncation_hooks(model, cut))
            assert float((hooked - edited["logits"]).abs().max()) <= limit, site
            assert inplace.difference(found, uncut) > 1e-4, "the cut must do something"


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_bfloat16_is_as_close_as_editing(shared, fitted, tokens, kind, name):
    """Against float64, the cut model errs no more than twice what the edited bfloat16 model errs."""
    model, exact = shared(kind, name, torch.bfloat16), shared(kind, name, torch.float64)
    moments = fitted(kind, name)
    with torch.no_grad():
        for site in (SITE, WIDE, "blocks.1.attn.W_O.1"):
            cut = tlt.OutputPCA(site, moments, keep=0.4)
            basis = cut.edit(exact)
            assert basis.keeps
            project = (basis.basis @ basis.basis.T).numpy()
            with inplace.edited(exact, (site, lambda matrix, project=project: matrix @ project)):
                reference = exact(tokens)
            with inplace.edited(model, (site, lambda matrix, project=project: matrix @ project)):
                edited = model(tokens)
            with tlt.truncated(model, cut):
                found = model(tokens)
            own = (edited.double() - reference).abs().max()
            assert (found.double() - reference).abs().max() <= 2 * own, site


class TestTheBestOnTheData:
    """`E|xW - xV|^2` over all matrices V of a rank."""

    @pytest.fixture(params=[SITE, WIDE, "blocks.1.attn.W_Q", "blocks.1.attn.W_V.1"])
    def problem(self, request, shared, corpus, fitted):
        """Inputs from a cache, the weight, and the moments of its outputs."""
        site = request.param
        model, moments = shared("bridge", "gpt2", torch.float64), fitted("bridge", "gpt2")
        matrix = site.split(".")[3]
        point = {"W_out": "mlp.hook_post", "W_in": "mlp.in.hook_in"}.get(
            matrix, f"attn.{matrix[-1].lower()}.hook_in"
        )
        with torch.no_grad():
            _, cache = model.run_with_cache(corpus)
        x = cache[f"blocks.1.{point}"].flatten(0, 1)
        return model, moments, site, x, locate(model, Site.parse(site)).weight()

    def error(self, x, weight, other) -> float:
        return float((x @ weight - x @ other).square().sum(1).mean())

    def left(self, model, cut, weight):
        return cut.edit(model).moved(weight.device, weight.dtype).of_weight(weight, 1.0)

    def test_the_error_is_the_sum_of_what_is_dropped(self, problem):
        model, moments, site, x, weight = problem
        values = moments.eigenvalues(site)
        for k in (1, 3, 6):
            cut = tlt.OutputPCA(site, moments, keep=k)
            found = self.error(x, weight, self.left(model, cut, weight))
            assert found == pytest.approx(float(values[k:].sum()), rel=1e-9, abs=1e-12)
            rest = tlt.OutputPCA(site, moments, drop=k)
            found = self.error(x, weight, self.left(model, rest, weight))
            assert found == pytest.approx(float(values[:k].sum()), rel=1e-9)
            assert torch.linalg.matrix_rank(self.left(model, cut, weight)) == k
            assert cut.kept_rank(model) == k
            assert rest.kept_rank(model) == min(weight.shape) - k
            both = self.left(model, cut, weight) + self.left(model, rest, weight)
            torch.testing.assert_close(both, weight, rtol=0, atol=1e-10)

    def test_it_is_the_closed_form_through_the_covariance_of_the_inputs(self, problem):
        """`C^(-1/2) (C^(1/2) W)_k`, by an eigendecomposition of C and an SVD."""
        model, moments, site, x, weight = problem
        c = x.T @ x / len(x)
        values, vectors = torch.linalg.eigh(c)
        seen = values > 1e-12 * values[-1]
        root = vectors[:, seen] * values[seen].sqrt()
        back = vectors[:, seen] / values[seen].sqrt()
        u, s, vh = torch.linalg.svd(root.T @ weight, full_matrices=False)
        for k in (1, 3, 6):
            best = back @ ((u[:, :k] * s[:k]) @ vh[:k])
            left = self.left(model, tlt.OutputPCA(site, moments, keep=k), weight)
            torch.testing.assert_close(x @ left, x @ best, rtol=0, atol=1e-8)
            assert self.error(x, weight, best) == pytest.approx(self.error(x, weight, left), rel=1e-8)

    def test_no_other_matrix_of_the_rank_does_better(self, problem):
        model, moments, site, x, weight = problem
        random = torch.Generator().manual_seed(0)
        for k in (2, 5):
            best = self.error(x, weight, self.left(model, tlt.OutputPCA(site, moments, keep=k), weight))
            others = [tlt.Cut(site, k), *(tlt.RandomSubspace(site, k, seed) for seed in range(50))]
            for other in others:
                assert best <= self.error(x, weight, self.left(model, other, weight)) + 1e-12
            assert self.error(x, weight, self.left(model, others[0], weight)) > best * 1.01
            for _ in range(50):  # any matrices of the rank, near the best one too
                left = self.left(model, tlt.OutputPCA(site, moments, keep=k), weight)
                a, s, b = torch.linalg.svd(left)
                a = a[:, :k] * s[:k] + 1e-3 * torch.randn(len(a), k, generator=random, dtype=x.dtype)
                b = b[:k] + 1e-3 * torch.randn(k, b.shape[1], generator=random, dtype=x.dtype)
                assert best <= self.error(x, weight, a @ b) + 1e-12

    def test_an_optimiser_ends_there(self, problem):
        """Alternating least squares from a random start, over `x A B`."""
        model, moments, site, x, weight = problem
        k, y = 3, x @ weight
        b = torch.randn(k, weight.shape[1], generator=torch.Generator().manual_seed(1), dtype=x.dtype)
        for _ in range(1000):
            a = weight @ torch.linalg.pinv(b)
            b = torch.linalg.pinv(x @ a) @ y
        found = self.error(x, weight, a @ b)
        best = self.error(x, weight, self.left(model, tlt.OutputPCA(site, moments, keep=k), weight))
        assert best <= found + 1e-12
        assert found == pytest.approx(best, rel=1e-5)


@settings(max_examples=examples(25), deadline=None)
@given(
    n_in=st.integers(2, 12), n_out=st.integers(2, 12), keep=st.integers(0, 12), seed=st.integers(0, 99)
)
def test_white_inputs_give_laser(n_in, n_out, keep, seed):
    weight = torch.randn(n_in, n_out, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rank = min(n_in, n_out)
    kept = min(keep, rank)
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    found = directions_of(3.0 * weight.T @ weight, vh.T if n_in < n_out else None)
    torch.testing.assert_close(found.values, 3.0 * s.square(), rtol=1e-8, atol=1e-10)
    basis = found.vectors[:, :kept]
    laser = (u[:, :kept] * s[:kept]) @ vh[:kept]
    torch.testing.assert_close(weight @ basis @ basis.T, laser, rtol=0, atol=1e-6)


@pytest.mark.parametrize("site", [SITE, WIDE, "blocks.1.attn.W_K.2"])
def test_white_inputs_give_laser_in_a_model(shared, tokens, site):
    model = shared("bridge", "gpt2", torch.float64)
    weight = locate(model, Site.parse(site)).weight()
    moments = by_hand(model, site, 7.0 * weight.T @ weight, 7, weight.shape)
    for options, keep in (
        (dict(keep=0.4), 0.4),
        (dict(keep=tlt.Energy(0.7)), tlt.Energy(0.7)),
        (dict(drop=2), tlt.DropTop(2)),
        (dict(keep=tlt.Band(1, 4)), tlt.Band(1, 4)),
        (dict(keep=tlt.Components([0, 3])), tlt.Components([0, 3])),
        (dict(keep=tlt.Without([1])), tlt.Without([1])),
    ):
        with tlt.truncated(model, tlt.OutputPCA(site, moments, **options)):
            found = inplace.outputs(model, tokens)
        with tlt.truncated(model, tlt.Cut(site, keep)):
            laser = inplace.outputs(model, tokens)
        assert inplace.difference(found, laser) <= 1e-9, options


@settings(
    max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 99), shares=st.lists(st.floats(0.05, 0.95), min_size=1, max_size=3))
def test_energy_is_a_share_of_what_is_written(shared, seed, shares):
    model = shared("bridge", "gpt2", torch.float64)
    drawn = torch.randn(40, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moments = by_hand(model, SITE, drawn.T @ drawn, 40, (48, 32))
    values = moments.eigenvalues(SITE)
    for share in shares:
        k = tlt.OutputPCA(SITE, moments, keep=tlt.Energy(share)).kept_rank(model)
        assert float(values[:k].sum()) >= share * float(values.sum()) * (1 - 1e-12)
        assert float(values[: k - 1].sum()) < share * float(values.sum()) * (1 + 1e-12)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_all_kept_is_the_identity_and_none_kept_leaves_the_bias(shared, fitted, tokens, kind, name):
    model, moments = shared(kind, name, torch.float64), fitted(kind, name)
    uncut = model(tokens)
    for site in (SITE, WIDE, "blocks.1.attn.W_K", "blocks.1.attn.W_O.1"):
        for options in (dict(keep=1.0), dict(drop=0), dict(keep=tlt.Energy(1.0))):
            with tlt.truncated(model, tlt.OutputPCA(site, moments, **options)):
                assert torch.equal(model(tokens), uncut)
        with tlt.truncated(model, tlt.Ablated(site)):
            nothing = model(tokens)
        with tlt.truncated(model, tlt.OutputPCA(site, moments, keep=0)):
            assert torch.equal(model(tokens), nothing)
        for rule in (tlt.Energy(0.0), tlt.DropTop(min(moments.shape(site)))):
            with tlt.truncated(model, tlt.OutputPCA(site, moments, keep=rule)):
                torch.testing.assert_close(model(tokens), nothing, rtol=0, atol=1e-9)


def test_twice_is_once_strength_is_a_dose_and_cuts_nest(shared, fitted, tokens):
    model, moments = shared("bridge", "llama-grouped", torch.float64), fitted("bridge", "llama-grouped")
    a, b = tlt.OutputPCA(SITE, moments, keep=5), tlt.OutputPCA(WIDE, moments, drop=2)
    uncut = model(tokens)

    def run(*cuts):
        with torch.no_grad(), tlt.truncated(model, *cuts):
            return model(tokens)

    torch.testing.assert_close(run(a, a), run(a), rtol=0, atol=1e-10)
    torch.testing.assert_close(run(a, b), run(b, a), rtol=0, atol=1e-10)
    key = "blocks.1.hook_mlp_out"
    values = []
    for strength in (0.0, 0.5, 1.0, -1.0):
        with tlt.truncated(model, tlt.OutputPCA(SITE, moments, keep=5, strength=strength)):
            values.append(inplace.outputs(model, tokens)[key])
    zero, half, one, minus = values
    assert float((zero - inplace.outputs(model, tokens)[key]).abs().max()) <= 1e-12
    assert float((half - (zero + one) / 2).abs().max()) <= 1e-10
    assert float((minus - zero - (zero - one)).abs().max()) <= 1e-10
    assert torch.equal(model(tokens), uncut)


def test_the_gradient_is_that_of_the_edited_model(shared, fitted, tokens):
    model, moments = shared("bridge", "gpt2", torch.float64), fitted("bridge", "gpt2")
    cut = tlt.OutputPCA(SITE, moments, keep=5)
    basis = cut.edit(model).basis.numpy()

    def gradient():
        stream = []
        handle = model.blocks[0].hook_out.register_forward_hook(
            lambda module, args, value: (value.retain_grad(), stream.append(value))[0]
        )
        model(tokens)[:, -1].square().sum().backward()
        handle.remove()
        found = stream[0].grad
        model.zero_grad()
        return found

    with tlt.truncated(model, cut):
        found = gradient()
    with inplace.edited(model, (SITE, lambda matrix: matrix @ basis @ basis.T)):
        torch.testing.assert_close(found, gradient(), rtol=1e-9, atol=1e-12)


class TestAsACut:
    """A value like others: JSON, tables, controls, experiments."""

    def test_json(self, shared, fitted, tokens, tmp_path):
        model, moments = shared("bridge", "gpt2", torch.float64), fitted("bridge", "gpt2")
        moments.record.pop("path", None)
        cuts = tlt.Cuts(
            tlt.OutputPCA(SITE, moments, keep=0.25, strength=0.5),
            tlt.OutputPCA(WIDE, moments, drop=3),
            tlt.OutputPCA(SITE, moments, drop=3).controls(7)["NormMatched"],
        )
        cuts.save(tmp_path / "cuts.json")
        again = tlt.Cuts.load(tmp_path / "cuts.json")
        assert again == cuts
        assert [repr(cut) for cut in again] == [repr(cut) for cut in cuts]
        assert list(map(hash, again)) == list(map(hash, cuts))
        assert [cut.label for cut in again] == ["PCA 0.25", "PCA DropTop(k=3)", "PCA DropTop(k=3)"]
        with (
            pytest.raises(ValueError, match=r"The moments .* must have been saved to be used again"),
            tlt.truncated(model, again[0]),
        ):
            pass
        moments.save(tmp_path / "moments.safetensors")
        cuts.save(tmp_path / "cuts.json")
        again = tlt.Cuts.load(tmp_path / "cuts.json")
        for cut, other in zip(cuts, again, strict=True):
            with tlt.truncated(model, cut):
                logits = model(tokens)
            with tlt.truncated(model, other):
                assert torch.equal(model(tokens), logits)
        assert set(again[0].controls(0)) == {"RandomSubspace", "NormMatched"}
        tlt.OutputMoments.fit(model, tokens, sites=[SITE]).save(tmp_path / "moments.safetensors")
        with pytest.raises(ValueError, match="must be those that the cut was made with"):
            again[0].edit(model)

    @pytest.mark.parametrize("site", [SITE, WIDE, "blocks.1.attn.W_O.1"])
    @pytest.mark.parametrize("options", [dict(keep=0.4), dict(drop=3), dict(keep=tlt.Energy(0.8))])
    def test_controls_have_the_rank_and_the_norm(self, shared, fitted, site, options):
        model, moments = shared("bridge", "gpt2", torch.float64), fitted("bridge", "gpt2")
        cut = tlt.OutputPCA(site, moments, **options, strength=0.5)
        controls = cut.controls(seed=3)
        weight = locate(model, Site.parse(site)).weight()
        assert controls["RandomSubspace"].kept_rank(model) == cut.kept_rank(model)
        removed = [
            float(
                (
                    weight - each.edit(model).moved(weight.device, weight.dtype).of_weight(weight, 1.0)
                ).norm()
            )
            for each in (cut, controls["NormMatched"])
        ]
        assert removed[0] == pytest.approx(removed[1], rel=1e-9)
        assert {each.strength for each in controls.values()} == {0.5}
        drawn = controls_of(model, [cut], seed=3, draws=2)
        assert [each[0].seed for each in drawn["NormMatched"]] == [3, 4]
        assert drawn["NormMatched"][0][0].edit(model).basis.shape[0] == weight.shape[1]
        everything = tlt.OutputPCA(site, moments, keep=1.0)
        assert controls_of(model, [everything], seed=3) == {}
        assert controls_of(model, [tlt.OutputPCA(site, moments, keep=0)], seed=3) == {}

    def test_in_sweeps_searches_and_scores(self, toy, drinks, corpus, tmp_path):
        moments = tlt.OutputMoments.fit(toy, corpus, sites=[SITE, WIDE], path=tmp_path / "moments")
        cuts = [
            tlt.OutputPCA(SITE, moments, keep=0.5),
            tlt.OutputPCA(WIDE, moments, drop=2),
            tlt.OutputPCA(SITE, moments, keep=0.5).controls(0)["NormMatched"],
        ]
        result = tlt.sweep(toy, drinks, cuts=cuts, run_dir=tmp_path / "run", progress=False)
        assert result.frame["keep"].tolist() == ["PCA 0.5", "PCA DropTop(k=2)", "PCA 0.5"]
        assert result.frame["rank"].tolist()[:2] == [16, 30]
        for cut in cuts:
            scores = tlt.evaluate(toy, drinks, cut, progress=False)
            again = result.scores_of(cut)
            assert scores.frame["logit_diff"].tolist() == pytest.approx(
                again.frame["logit_diff"].tolist(), abs=1e-5
            )
        assert tlt.SweepResult.load(tmp_path / "run").frame.equals(result.frame)
        again = tlt.sweep(toy, drinks, cuts=cuts, run_dir=tmp_path / "run", progress=False)
        assert again.frame.equals(result.frame)
        found = tlt.search(toy, drinks, cuts=cuts[:2], texts=(), greedy=2, progress=False)
        assert set(found.cuts) <= set(cuts)

    def test_refusals(self, shared, fitted, corpus):
        model, moments = shared("bridge", "gpt2", torch.float64), fitted("bridge", "gpt2")
        few = tlt.OutputMoments.fit(model, corpus[:1, :4], sites=[SITE])
        cases = [
            (lambda: tlt.OutputPCA(SITE, moments), ValueError, "either keep or drop, got keep=None"),
            (lambda: tlt.OutputPCA(SITE, moments, 3, drop=3), ValueError, "either keep or drop, got"),
            (
                lambda: tlt.OutputPCA(SITE, None, 3),
                TypeError,
                "moments must be of the kind OutputMoments, got None. Fit it",
            ),
            (
                lambda: tlt.OutputPCA(SITE, moments, drop=-1),
                ValueError,
                "DropTop's k must be an integer",
            ),
            (lambda: tlt.OutputPCA(SITE, moments, 1.5), ValueError, "from 0 to 1, got 1.5"),
            (
                lambda: tlt.OutputPCA(SITE, moments, tlt.MarchenkoPastur()),
                ValueError,
                r"counts or weighs directions .*got MarchenkoPastur\(\), which judges the singular",
            ),
            (
                lambda: tlt.OutputPCA(SITE, moments, tlt.LaserCompat(0.1)),
                ValueError,
                "counts or weighs directions",
            ),
            (
                lambda: tlt.OutputPCA("blocks.0.mlp.W_in", moments, 3),
                ValueError,
                r"must be of blocks\.0\.mlp\.W_in, got moments of .*OutputMoments\.fit\(model, corpus, sit",
            ),
            (
                lambda: tlt.OutputPCA(SITE, moments, 40).edit(model),
                ValueError,
                "W_out: Rank's k must be at",
            ),
            (
                lambda: tlt.OutputPCA(SITE, moments, drop=40).edit(model),
                ValueError,
                "DropTop's k must be at",
            ),
            (
                lambda: tlt.OutputPCA(SITE, few, 5).edit(model),
                ValueError,
                r"which directions of blocks\.1\.mlp\.W_out are the first, but what it writes on the 4 "
                r"positions of the moments lies in 4 of 32, and 5 are to be kept\. Fit the moments on more",
            ),
            (
                lambda: tlt.OutputPCA(SITE, few, drop=6).edit(model),
                ValueError,
                "lies in 4 of 32, and 26",
            ),
        ]
        for call, error, wording in cases:
            with pytest.raises(error, match=wording):
                call()
        for options in (dict(keep=4), dict(keep=3), dict(drop=4), dict(drop=2)):  # these are known
            tlt.OutputPCA(SITE, few, **options).edit(model)

    def test_of_another_weight(self, shared, fitted, tokens):
        moments = fitted("bridge", "gpt2")
        model, cut = shared("bridge", "gpt2", torch.float64), tlt.OutputPCA(SITE, moments, 3)
        with (
            inplace.edited(model, (SITE, inplace.top(0.9))),
            pytest.raises(ValueError, match=r"The moments must be of the weight that .*W_out has now"),
            tlt.truncated(model, cut),
        ):
            pass
        with inplace.edited(model, ("blocks.0.mlp.W_in", inplace.top(0.9))), tlt.truncated(model, cut):
            model(tokens)
        with (
            inplace.edited(model, (SITE, inplace.top(0.9))),
            pytest.raises(ValueError, match="must be of the weight"),
        ):
            tlt.OutputPCA(SITE, moments, keep=1.0).edit(model)


def test_a_sites_kind_of_cut_is_named(shared, fitted):
    moments = fitted("bridge", "gpt2")
    cut = tlt.OutputPCA(SITE, moments, keep=0.1)
    assert repr(cut) == f"OutputPCA(site='{SITE}', keep=Fraction(rho=0.1))"
    assert "OutputPCA" in SiteCut._kinds
    assert not cut.is_drawn
    assert cut.controls(0)["NormMatched"].is_drawn
