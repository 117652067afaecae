"""Controls: the same rank, or the same norm, of a random part."""

from dataclasses import replace

import inplace
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from luck import examples

import tl_truncate as tlt
from tl_truncate.surgery.controls import controls_of

SITES = ("blocks.1.mlp.W_in", "blocks.1.mlp.W_out", "blocks.1.attn.W_Q", "blocks.1.attn.W_O.2")
quick = settings(
    max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def effective(model, cut) -> np.ndarray:
    """The weight that a cut leaves, from the edit's action on the rows of the weight."""
    _, layer, _, matrix, *head = str(cut.site).split(".")
    weight = inplace.read(model, int(layer), matrix)
    if head:
        part = slice(int(head[0]) * 8, int(head[0]) * 8 + 8)
        weight = weight[part] if matrix == "W_O" else weight[:, part]
    rows = torch.tensor(weight)
    return cut.edit(model).moved(rows.device, rows.dtype).apply(rows, None, None, cut.strength).numpy()


def original(model, site: str) -> np.ndarray:
    return effective(model, tlt.Cut(site, 1.0))


@quick
@given(site=st.sampled_from(SITES), rank=st.integers(0, 8), seed=st.integers(0, 99))
def test_random_subspace_has_the_rank_of_the_cut(shared, site, rank, seed):
    model = shared("bridge", "gpt2", torch.float64)
    left = effective(model, tlt.RandomSubspace(site, rank, seed))
    assert np.linalg.matrix_rank(left, tol=1e-9) == rank
    # It is a projection inside the row space: what is left is orthogonal to what is gone.
    gone = original(model, site) - left
    assert np.abs(left @ gone.T).max() < 1e-12
    assert np.abs(effective(model, tlt.RandomSubspace(site, rank, seed)) - left).max() == 0


@quick
@given(
    site=st.sampled_from(SITES),
    keep=st.sampled_from((0.0, 0.1, 0.5, 0.9, 1.0, tlt.DropTop(1), tlt.Energy(0.7))),
    seed=st.integers(0, 99),
)
def test_norm_matched_removes_the_norm_of_the_cut(shared, site, keep, seed):
    model = shared("bridge", "gpt2", torch.float64)
    whole = original(model, site)
    cut = np.linalg.norm(whole - effective(model, tlt.Cut(site, keep)))
    placebo = np.linalg.norm(whole - effective(model, tlt.NormMatched(site, keep, seed)))
    assert placebo == pytest.approx(cut, abs=1e-9)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("keep", [0.0, 0.3, 1.0, tlt.DropTop(2)])
def test_matched_to_a_cut_is_matched_to_its_keep(shared, site, keep):
    """Of a truncation the norm is known from the spectrum too, and the directions are the same."""
    model = shared("bridge", "gpt2", torch.float64)
    cut = tlt.Cut(site, keep, strength=0.5)
    found = effective(model, tlt.NormMatchedTo(cut, seed=4))
    expected = effective(model, tlt.NormMatched(site, keep, 4, strength=0.5))
    assert np.abs(found - expected).max() < 1e-9
    assert tlt.NormMatchedTo(cut, 4).equals_the_cut(model) == (keep in (0.0, 1.0))


def test_matched_to_a_cut_is_a_value(shared):
    cut = tlt.NormMatchedTo(tlt.GlobalRemoval(1, "own_path"), seed=2)
    assert type(cut).from_json(cut.to_json()).seed == 2
    assert cut.controls(0) == {}
    with pytest.raises(ValueError, match="must be a change of the weight alone to be matched, got Glo"):
        cut.edit(shared("bridge", "gpt2"))
    with pytest.raises(ValueError, match=r"must be its cut's, blocks\.1\.mlp\.W_out, got blocks\.0"):
        tlt.NormMatchedTo(tlt.Ablated("blocks.1.mlp.W_out"), site="blocks.0.mlp.W_in")


@pytest.mark.parametrize("kind", [tlt.RandomSubspace, tlt.NormMatched])
def test_seeds_and_sites_differ_and_repeat(shared, kind):
    model = shared("bridge", "gpt2", torch.float64)

    def left(site, seed):
        return effective(model, kind(site, 0.5, seed))

    first = left("blocks.1.mlp.W_out", 0)
    assert np.array_equal(first, left("blocks.1.mlp.W_out", 0))
    assert not np.allclose(first, left("blocks.1.mlp.W_out", 1))
    bases = [kind(f"blocks.{layer}.mlp.W_out", 0.5).edit(model).basis for layer in (0, 1)]
    vectors = [tlt.spectrum(model, f"blocks.{layer}.mlp.W_out").V for layer in (0, 1)]
    rotations = [(v.T @ basis)[:, 0] for v, basis in zip(vectors, bases, strict=True)]
    assert not torch.allclose(*rotations), "each site draws its own"


@pytest.mark.parametrize("kind", [tlt.RandomSubspace, tlt.NormMatched])
@pytest.mark.parametrize("site", SITES)
def test_a_draw_does_not_depend_on_the_signs_of_singular_vectors(shared, kind, site):
    """They differ between machines, as do the vectors of equal singular values."""
    spec = tlt.spectrum(shared("bridge", "gpt2", torch.float64), site)
    random = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (spec.max_rank,), generator=random) * 2.0 - 1
    other = replace(spec, U=spec.U * signs, V=spec.V * signs)
    control = kind(site, 0.5, 3)

    def removed(spectrum) -> torch.Tensor:
        edit = control._draw(spectrum)
        weights = torch.ones(edit.basis.shape[1]) if edit.weights is None else edit.weights
        return (edit.basis * weights) @ edit.basis.T

    assert torch.allclose(removed(spec), removed(other), atol=1e-12)
    if kind is tlt.RandomSubspace:
        order = torch.randperm(spec.max_rank, generator=random)
        turned = replace(spec, U=spec.U[:, order], S=spec.S[order], V=spec.V[:, order])
        assert torch.allclose(removed(spec), removed(turned), atol=1e-12)


class TestControlsOfSeveralCuts:
    """By kind and draw."""

    def test_each_draw_has_a_seed_of_its_own(self, toy):
        cuts = [tlt.Cut("blocks.1.mlp.W_in", 4), tlt.Cut("blocks.2.mlp.W_in", 0.5)]
        found = controls_of(toy, cuts, seed=5, draws=3)
        assert set(found) == {"RandomSubspace", "NormMatched"}
        assert [[cut.seed for cut in draw] for draw in found["RandomSubspace"]] == [
            [5, 5],
            [6, 6],
            [7, 7],
        ]

    @pytest.mark.parametrize("keep", [0.0, 1.0, 0, tlt.Energy(1.0)])
    def test_what_is_the_cut_itself_is_no_control(self, toy, keep):
        assert controls_of(toy, [tlt.Cut("blocks.1.mlp.W_in", keep)], seed=0) == {}
        assert controls_of(toy, [tlt.Ablated("blocks.1.mlp.W_in")], seed=0) == {}
        both = [tlt.Cut("blocks.1.mlp.W_in", keep), tlt.Cut("blocks.2.mlp.W_in", 4)]
        (placebo,) = controls_of(toy, both, seed=0)["RandomSubspace"]
        assert placebo == [both[0], tlt.RandomSubspace("blocks.2.mlp.W_in", 4, 0)]


def test_random_subspaces_are_unbiased(shared):
    """On average a random half of the row space keeps half of everything."""
    model = shared("bridge", "gpt2", torch.float64)
    whole = original(model, "blocks.1.mlp.W_out")
    mean = np.mean(
        [effective(model, tlt.RandomSubspace("blocks.1.mlp.W_out", 0.5, seed)) for seed in range(200)], 0
    )
    assert np.linalg.norm(mean - whole / 2) < 0.1 * np.linalg.norm(whole)


def test_controls_leave_the_global_random_state_alone(shared, tokens):
    model = shared("bridge", "gpt2")
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for kind in (tlt.RandomSubspace, tlt.NormMatched):
        with tlt.truncated(model, kind("blocks.1.mlp.W_in", 0.5, 3)):
            model(tokens)
    with tlt.truncated(model, tlt.Cut("blocks.1.mlp.W_in", tlt.LaserCompat(0.2, seed=3))):
        model(tokens)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])


@pytest.mark.parametrize("site", SITES)
def test_strength_is_a_dose(shared, tokens, site):
    """1 removes, 0 is the identity, -1 doubles the part; the output moves along a line."""
    model = shared("bridge", "neox-parallel", torch.float64)
    for kind in (tlt.Cut, tlt.RandomSubspace, tlt.NormMatched):

        def run(strength, kind=kind):
            with torch.no_grad(), tlt.truncated(model, kind(site, 0.4, strength=strength)):
                return inplace.outputs(model, tokens)

        name = {"W_in": "mlp.in.hook_out", "W_out": "mlp.out.hook_out"}.get(
            site.split(".")[3], "attn.q.hook_out" if "W_Q" in site else "attn.o.hook_out"
        )
        key = f"blocks.1.{name}"
        zero, one, minus, half = (run(strength)[key] for strength in (0.0, 1.0, -1.0, 0.5))
        uncut = inplace.outputs(model, tokens)[key]
        assert torch.allclose(zero, uncut, atol=1e-12)
        assert torch.allclose(minus - uncut, uncut - one, atol=1e-9)
        assert torch.allclose(half, (uncut + one) / 2, atol=1e-9)


def test_ablated_equals_nothing_kept(shared, tokens):
    model = shared("bridge", "gpt2")
    with tlt.truncated(model, tlt.Ablated("blocks.1.attn.W_V")):
        ablated = model(tokens)
    with tlt.truncated(model, tlt.Cut("blocks.1.attn.W_V", 0)):
        assert torch.equal(model(tokens), ablated)


@pytest.mark.parametrize("rho", [0.1, 0.5])
@pytest.mark.parametrize(
    "site", ["blocks.1.mlp.W_in", "blocks.1.mlp.W_out", "blocks.1.attn.W_K", "blocks.1.attn.W_O"]
)
def test_laser_compat_is_the_published_sketch(shared, tokens, site, rho):
    """`torch.svd_lowrank(linear.weight, q=int(max_rank * rho), niter=2)`, edited in place."""
    model = shared("bridge", "llama-grouped", torch.float64)

    def sketch(matrix):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            rank = int(min(matrix.shape) * rho)
            u, s, v = torch.svd_lowrank(torch.tensor(matrix).T, q=rank, niter=2)
        return ((u * s) @ v.T).T.numpy()

    for per_head in (False, True):
        model.set_use_attn_result(per_head)
        with tlt.truncated(model, tlt.Cut(site, tlt.LaserCompat(rho, seed=7))):
            cut = inplace.outputs(model, tokens)
        with inplace.edited(model, (site, sketch)):
            edited = inplace.outputs(model, tokens)
        model.set_use_attn_result(False)
        assert inplace.difference(cut, edited) <= 1e-9


class TestSeveralCutsOfOneSite:
    """Each has a random subspace of its own rank, and none knows of the others."""

    SITE = "blocks.1.mlp.W_out"

    def spaces(self, model, keeps, **options):
        """For each draw the projections of its controls, found from what they leave of the weight."""
        inverse = np.linalg.pinv(inplace.read(model, 1, "W_out"))
        cuts = [tlt.Cut(self.SITE, keep) for keep in keeps]
        drawn = controls_of(model, cuts, **options)["RandomSubspace"]
        return drawn, [[inverse @ effective(model, each) for each in draw] for draw in drawn]

    @pytest.mark.parametrize("keeps", [(8, 24), (8, 16), (8, 19), (8, 8), (tlt.DropTop(4), 20)])
    def test_they_meet_as_independent_subspaces_do(self, shared, keeps):
        model = shared("bridge", "gpt2", torch.float64)
        ranks = [28 if isinstance(keep, tlt.DropTop) else keep for keep in keeps]
        _, spaces = self.spaces(model, keeps, seed=5, draws=30)
        for pair in spaces:
            assert [np.linalg.matrix_rank(each, tol=1e-9) for each in pair] == ranks
            # One after the other: as many directions as any two subspaces of these ranks have together.
            both = np.linalg.matrix_rank(pair[0] @ pair[1], tol=1e-9)
            assert both == min(ranks)
        shared_part = [float(np.trace(one @ other)) for one, other in spaces]
        random, by_hand = np.random.default_rng(1), []
        for _ in range(300):
            one, other = (np.linalg.qr(random.normal(size=(32, rank)))[0] for rank in ranks)
            by_hand.append(float(np.square(one.T @ other).sum()))
        assert np.mean(by_hand) == pytest.approx(ranks[0] * ranks[1] / 32, rel=0.05)
        error = np.std(by_hand) / np.sqrt(len(shared_part))
        assert abs(np.mean(shared_part) - np.mean(by_hand)) < 4 * error
        assert 0.4 < np.std(shared_part) / np.std(by_hand) < 2

    def test_the_model_has_one_after_the_other(self, shared, tokens):
        model = shared("bridge", "gpt2", torch.float64)
        drawn, spaces = self.spaces(model, (8, 24), seed=0, draws=2)
        for cuts, (first, second) in zip(drawn, spaces, strict=True):
            with tlt.truncated(model, cuts):
                found = inplace.outputs(model, tokens)
            with inplace.edited(model, (self.SITE, lambda w, p=first @ second: w @ p)):
                expected = inplace.outputs(model, tokens)
            assert inplace.difference(found, expected) < 1e-9
            with tlt.truncated(model, tlt.Ablated(self.SITE)):
                ablated = inplace.outputs(model, tokens)
            assert inplace.difference(found, ablated) > 1e-3

    def test_seeds(self, shared):
        """The first of a site has the seed that was asked for, and all are the same in any call."""
        model = shared("bridge", "gpt2", torch.float64)
        cuts = [
            tlt.Cut(self.SITE, 8),
            tlt.Cut("blocks.0.mlp.W_in", 8),
            tlt.Cut(self.SITE, 24),
            tlt.Clustered(self.SITE, 4, 2),
            tlt.Cut("blocks.1.attn.W_O.2", 4),
        ]
        few, many = (controls_of(model, cuts, seed=3, draws=draws) for draws in (2, 16))
        for kind in ("RandomSubspace", "NormMatched"):
            assert many[kind][:2] == few[kind]
            for place, drawn in enumerate(many[kind]):
                for number in (0, 1, 4):
                    assert drawn[number] == cuts[number].controls(3 + place)[kind]
            seeds = [cut.seed for drawn in many[kind] for cut in drawn if str(cut.site) == self.SITE]
            assert len(set(seeds)) == 3 * 16
        alone = controls_of(model, cuts[:2], seed=3, draws=16)
        assert [drawn[:2] for drawn in many["NormMatched"]] == alone["NormMatched"]

    def test_exchanged_tokens(self, toy, tokens):
        means = tlt.TokenMeans.fit(toy, tokens, layers=[1])
        cuts = [tlt.GlobalRemoval(1, means=means, only=only) for only in (("token",), ("corpus_mean",))]
        first, second = controls_of(toy, cuts, seed=3)["ExchangedTokens"][0]
        assert first.split.exchange == 3
        assert second.split.exchange != 3
