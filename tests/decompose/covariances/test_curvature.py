"""Factors of the curvature against autograd token by token, and the cut by them against NumPy, a case by hand,
rotations, and weights that were edited in place."""

import inplace
import numpy as np
import pytest
import torch
from architectures import CASES, SPECIAL
from hypothesis import given, settings
from hypothesis import strategies as st
from luck import examples
from sites_written import ROTARY, fitted_once, points, sites_of, written

import tl_truncate as tlt
from tl_truncate.corpora.corpus import Row
from tl_truncate.decompose.covariances.directions import directions_of
from tl_truncate.decompose.covariances.gradients import drawn_labels, token_at
from tl_truncate.decompose.covariances.masked import heaviest, masked
from tl_truncate.surgery.controls import controls_of
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import MATRICES, Site

SITE, WIDE, HEAD = "blocks.1.mlp.W_out", "blocks.1.mlp.W_in", "blocks.1.attn.W_O.1"
HOOKED = [case for case in CASES if case[0] == "hooked"][:1]


@pytest.fixture(scope="module")
def corpus() -> torch.Tensor:
    return torch.randint(3, 90, (12, 8), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def fitted(shared, corpus):
    """The factors of all sites of a block, fitted once for a model."""
    return fitted_once(tlt.CurvatureFactors, shared, corpus)


def tolerance(kind, name, dtype=torch.float64):
    if dtype == torch.float32:
        return 1e-4
    return 1e-6 if kind == "hooked" and name in ROTARY else 1e-9


def read_by(model, name, site, row) -> torch.Tensor:
    """What a site reads on a row, `[pos, n_in]`: from a cache, or from what it writes where W is invertible."""
    with torch.no_grad():
        _, cache = model.run_with_cache(row[None])
    if site.matrix == "W_out":
        return cache["blocks.1.mlp.hook_post"][0]
    if site.matrix == "W_O":
        z = cache["blocks.1.attn.hook_z"][0].reshape(len(row), -1)
        return z if site.head is None else z[:, 8 * site.head : 8 * site.head + 8]
    whole = Site(1, "W_in" if not site.is_attention else "W_Q")
    weight = torch.tensor(inplace.read(model, 1, whole.matrix))
    return written(model, name, whole, row[None]) @ torch.linalg.pinv(weight)


def gradient_at(model, name, site, row, labels) -> torch.Tensor:
    """The gradient of each token's loss by itself at a site's output, summed up, `[pos, n_out]`."""
    nudge = {}

    def add(value, hook):
        nudge["at"] = torch.zeros_like(value, requires_grad=True)
        return value + nudge["at"]

    total = 0.0
    for place, label in enumerate(labels):
        logits = model.run_with_hooks(row[None], fwd_hooks=[(points(name, site), add)])
        loss = -logits[0, place].log_softmax(-1)[label]
        total = total + torch.autograd.grad(loss, nudge["at"])[0]
    flat = total if total.ndim == 3 else total.flatten(2)
    if site.head is not None and site.matrix != "W_O":
        flat = flat[..., 8 * site.head : 8 * site.head + 8]
    return flat[0]


@pytest.mark.parametrize("labels", ["data", "model"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_factors_are_those_of_autograd_token_by_token(shared, kind, name, labels):
    model = shared(kind, name, torch.float64)
    rows = [
        torch.randint(3, 90, (length,), generator=torch.Generator().manual_seed(length))
        for length in (4, 3, 2)
    ]
    sites = sites_of(model)
    given_rows = [row.tolist() for row in rows]
    factors = tlt.CurvatureFactors.fit(
        model, given_rows, sites=sites, labels=labels, seed=5, batch_size=2
    )
    assert factors.positions == 3 + 2 + 1
    told = []
    for place, row in enumerate(rows):
        with torch.no_grad():
            said = model(row[None]).softmax(-1)
        drawn = drawn_labels(said, [Row(place, tuple(row.tolist()))], 5)[0, :-1]
        told.append(drawn.tolist() if labels == "model" else row[1:].tolist())
    for site in sites:
        a, g = 0.0, 0.0
        for row, own in zip(rows, told, strict=True):
            x = read_by(model, name, site, row)[:-1]
            slope = gradient_at(model, name, site, row, own)[:-1]
            a, g = a + x.T @ x / 6, g + slope.T @ slope / 6
        limit = dict(rtol=1e-7, atol=1e-10) if (kind, name) not in _LOOSE else dict(rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            factors.inputs(site), a, **limit, msg=lambda told, s=site: f"A of {s}: {told}"
        )
        torch.testing.assert_close(
            factors.gradients(site), g, **limit, msg=lambda told, s=site: f"G of {s}: {told}"
        )


# Transformers' Llama takes its softmax in float32, and so its gradient, whatever the model's dtype.
_LOOSE = [*(("hooked", name) for name in ROTARY), ("bridge", "llama-grouped")]


@pytest.mark.parametrize("name", ["llama-grouped", "gpt2", *SPECIAL])
def test_inputs_and_gradients_make_the_gradient_of_the_weight(shared, name):
    """`sum_t x_t^T g_t = dL/dW`: that both are of the same positions, and of the summed loss."""
    from tl_truncate.corpora.corpus import fill
    from tl_truncate.decompose.covariances.gradients import inputs_and_gradients

    model = shared("bridge", name, torch.float64)
    rows = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(5))
    batch = fill([Row(0, tuple(rows[0].tolist())), Row(1, tuple(rows[1, :5].tolist()))])
    sites = tlt.find_sites(model, MATRICES, [1])
    seen = inputs_and_gradients(model, batch, [locate(model, site) for site in sites], "data", 0)
    loss = 0.0
    for row in batch.rows:
        tokens = torch.tensor(row.tokens)
        said = model(tokens[None])[0].log_softmax(-1)
        loss = loss - said[torch.arange(len(tokens) - 1), tokens[1:]].sum()
    loss.backward()
    for site in sites:
        x, g = seen[site]
        stored, layout = inplace.parameter(model, 1, site.matrix)
        expected = stored.grad.T if layout == "out,in" else stored.grad
        # Transformers' MPT takes its softmax in float32, whatever the model's dtype.
        limit = dict(rtol=1e-4, atol=1e-6) if name == "mpt-alibi" else dict(rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(x.T @ g, expected, **limit)
    model.zero_grad()


class TestTwoThatReadTheSame:
    """W_in and W_gate read one value, which is summed once; each sum is what it would be alone."""

    SITES = (WIDE, "blocks.1.mlp.W_gate", SITE)

    @pytest.mark.parametrize("kind", ["hooked", "bridge"])
    def test_beside_each_other_and_alone(self, shared, corpus, kind):
        if (kind, "llama-grouped") not in CASES:
            pytest.skip("no such model of this version")
        model = shared(kind, "llama-grouped", torch.float64)
        both = tlt.CurvatureFactors.fit(model, corpus, sites=self.SITES)
        for site in self.SITES:
            alone = tlt.CurvatureFactors.fit(model, corpus, sites=[site])
            assert torch.equal(both.inputs(site), alone.inputs(site))
            assert torch.equal(both.gradients(site), alone.gradients(site))

    def test_one_that_read_something_else_before(self, shared, corpus, tmp_path):
        """A fit that was stopped inside of what changes the input of one of them."""
        model, path = shared("bridge", "llama-grouped", torch.float64), tmp_path / "fit.safetensors"
        rows = [row.tolist() for row in corpus for _ in range(3)]

        class Stopping(list):
            def __iter__(self):
                for index, row in enumerate(super().__iter__()):
                    if index == 20:
                        raise KeyboardInterrupt
                    yield row

        def doubled(value, hook):
            return 2 * value

        options = dict(sites=self.SITES, batch_size=1, labels="data")
        hook = (locate(model, Site.parse(self.SITES[1])).input.name, doubled)
        with model.hooks(fwd_hooks=[hook]), pytest.raises(KeyboardInterrupt):
            tlt.CurvatureFactors.fit(model, Stopping(rows), path=path, **options)
        half = tlt.CurvatureFactors.load(path)
        whole = tlt.CurvatureFactors.fit(model, rows, path=path, **options)
        rest = tlt.CurvatureFactors.fit(model, rows[half.record["corpora"][0]["rows"] :], **options)
        assert not torch.allclose(half.inputs(WIDE), half.inputs(self.SITES[1]))
        for site in self.SITES:
            expected = half.positions * half.inputs(site) + rest.positions * rest.inputs(site)
            close = dict(rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(whole.inputs(site), expected / whole.positions, **close)


class TestLabels:
    """Tokens drawn from the model's own prediction."""

    def test_they_follow_the_prediction(self):
        logits = torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        said = logits.softmax(-1)
        drawn = [int(drawn_labels(said, [Row(0, (index,))], 0)[0, 0]) for index in range(4000)]
        found = torch.tensor(drawn).bincount(minlength=6) / 4000
        assert float((found - said[0, 0]).abs().max()) < 4 * 0.5 / 4000**0.5

    @given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 10**6))
    @settings(max_examples=examples(30), deadline=None)
    def test_blocks_of_tokens_find_what_all_tokens_would(self, vocabulary, width, seed):
        chance = np.random.default_rng(seed)
        said = chance.dirichlet(np.ones(vocabulary), (1, 50)) * (
            chance.random((1, 50, vocabulary)) < 0.6
        )
        said[..., int(chance.integers(vocabulary))] += 0.1
        level = chance.random((1, 50))
        found = token_at(torch.tensor(said), torch.tensor(level), width)
        upto = said.cumsum(-1)
        wanted = (upto <= level[..., None] * upto[..., -1:]).sum(-1)
        assert found.tolist() == wanted.tolist()
        assert (np.take_along_axis(said, found.numpy()[..., None], -1) > 0).all()

    def test_what_is_impossible_is_not_drawn(self):
        said = torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
        assert {int(drawn_labels(said, [Row(0, (i,))], 1)) for i in range(200)} == {2}

    def test_each_row_has_its_own_and_the_seed_matters(self, shared, corpus):
        model = shared("bridge", "gpt2", torch.float64)
        state = torch.get_rng_state()
        fits = [tlt.CurvatureFactors.fit(model, corpus, sites=[SITE], seed=seed) for seed in (0, 0, 1)]
        assert torch.equal(state, torch.get_rng_state())
        assert fits[0].hash == fits[1].hash
        assert fits[0].gradients(SITE).allclose(fits[2].gradients(SITE)) is False
        torch.testing.assert_close(fits[0].inputs(SITE), fits[2].inputs(SITE))
        with pytest.raises(ValueError, match="must agree in options"):
            fits[0].merge(fits[2])

    def test_their_mean_is_the_fisher_matrix(self, shared):
        """`G = sum_s E_{y~p_s} d log p_s(y) d log p_s(y)^T`, by every token of the vocabulary."""
        model, row = shared("bridge", "no-norm", torch.float64), torch.tensor([5, 9, 20])
        site, exact = Site.parse("blocks.2.mlp.W_out"), 0.0
        nudge = torch.zeros(1, 3, 32, dtype=torch.float64, requires_grad=True)
        hooks = [("blocks.2.hook_mlp_out", lambda value, hook: value + nudge)]
        logits = model.run_with_hooks(row[None], fwd_hooks=hooks)[0].log_softmax(-1)
        for place in (0, 1):
            for token in range(97):
                (slope,) = torch.autograd.grad(logits[place, token], nudge, retain_graph=True)
                weight = float(logits[place, token].exp())
                exact = exact + weight * slope[0, :2].T @ slope[0, :2] / 2
        drawn = [
            tlt.CurvatureFactors.fit(model, row[None], sites=[site], seed=seed).gradients(site)
            for seed in range(150)
        ]
        traces = torch.stack([each.trace() for each in drawn])
        error = traces.std() / len(drawn) ** 0.5
        assert abs(float(traces.mean() - exact.trace())) < 4 * float(error)
        mean = torch.stack(drawn).mean(0)
        assert float((mean - exact).norm() / exact.norm()) < 0.35


class TestByHand:
    """What is kept."""

    def test_a_diagonal_case(self):
        """Masses 12, 4, 3, 1 of 20."""
        a, g, weight = (
            torch.tensor([4.0, 1.0]),
            torch.tensor([3.0, 1.0]),
            torch.arange(1.0, 5.0).view(2, 2),
        )
        cases = {
            0.0: [[0, 0], [0, 0]],
            0.5: [[1, 0], [0, 0]],
            0.6: [[1, 0], [0, 0]],
            0.61: [[1, 2], [0, 0]],
            0.9: [[1, 2], [3, 0]],
            0.99: [[1, 2], [3, 4]],
            1.0: [[1, 2], [3, 4]],
        }
        for mass, expected in cases.items():
            kept = heaviest(a, g, mass).float()
            assert masked(weight, torch.eye(2), kept, torch.eye(2)).tolist() == expected, mass

    def test_equal_ones_stay_together_and_what_has_no_mass_goes(self):
        a, g = torch.tensor([2.0, 2.0, 0.0]), torch.tensor([1.0, 1.0])
        assert heaviest(a, g, 0.3).tolist() == [[True, True], [True, True], [False, False]]
        assert heaviest(a, g, 0.999999).sum() == 4
        assert heaviest(a, g, 1.0).all()
        with pytest.raises(ValueError, match="There must be curvature to keep a share of it"):
            heaviest(torch.zeros(2), g, 0.5)

    @settings(max_examples=examples(30), deadline=None)
    @given(
        n_in=st.integers(1, 7), n_out=st.integers(1, 7), mass=st.floats(0, 1), seed=st.integers(0, 99)
    )
    def test_rotations_of_either_side_with_the_data_change_nothing(self, n_in, n_out, mass, seed):
        random = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=random, dtype=torch.float64)

        x, g, weight = normal(20, n_in), normal(20, n_out), normal(n_in, n_out)
        left, right = torch.linalg.qr(normal(n_in, n_in)).Q, torch.linalg.qr(normal(n_out, n_out)).Q

        def kept(x, g, weight):
            a, b = directions_of(x.T @ x), directions_of(g.T @ g)
            mask = heaviest(a.values, b.values, mass).to(weight.dtype)
            return masked(weight, a.vectors, mask, b.vectors)

        straight = kept(x, g, weight)
        turned = kept(x @ left, g @ right, left.T @ weight @ right)
        torch.testing.assert_close(left @ turned @ right.T, straight, rtol=0, atol=1e-8)
        # It is a projection in the space of matrices: what goes is orthogonal to what stays.
        assert float((straight * (weight - straight)).sum()) == pytest.approx(0, abs=1e-9)

    def test_the_fewest_entries_that_reach_the_mass(self):
        random = torch.Generator().manual_seed(3)
        a, g = torch.rand(9, generator=random), torch.rand(7, generator=random)
        products = (a[:, None] * g).double()
        for mass in (0.1, 0.5, 0.9):
            kept = heaviest(a.double(), g.double(), mass)
            assert float(products[kept].sum()) >= mass * float(products.sum())
            assert float(products[kept].sum() - products[kept].min()) < mass * float(products.sum())
            assert float(products[kept].min()) > float(products[~kept].max())


def by_numpy(factors, site, matrix, mass) -> np.ndarray:
    """The published edit: pairs of eigenvalues by their product, until the mass is reached."""
    a, left = np.linalg.eigh(factors.inputs(site).numpy())
    g, right = np.linalg.eigh(factors.gradients(site).numpy())
    pairs = sorted(((x * y, i, j) for i, x in enumerate(a) for j, y in enumerate(g)), reverse=True)
    wanted, sum_, result = mass * a.sum() * g.sum(), 0.0, np.zeros_like(matrix)
    coefficients = left.T @ matrix @ right
    for product, i, j in pairs:
        if sum_ >= wanted:
            break
        sum_ += product
        result += coefficients[i, j] * np.outer(left[:, i], right[:, j])
    return result


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_equals_in_place_editing(shared, fitted, tokens, kind, name, dtype):
    model, factors = shared(kind, name, dtype), fitted(kind, name, dtype)
    uncut = inplace.outputs(model, tokens)
    limit = tolerance(kind, name, dtype)
    for site in factors.sites:
        cut = tlt.Curvature(site, factors, mass=0.9)

        def change(matrix, site=site):
            return by_numpy(factors, site, matrix, 0.9)

        with inplace.edited(model, (str(site), change)):
            edited = inplace.outputs(model, tokens)
        for weights in (False, True):
            with tlt.truncated(model, cut, weights=weights):
                found = inplace.outputs(model, tokens)
            assert inplace.difference(found, edited) <= limit, site
        if locate(model, site).input is None:
            with pytest.raises(ValueError, match=r"must have a hook point for .* to be plain hooks"):
                tlt.truncation_hooks(model, cut)
        else:
            with torch.no_grad():
                hooked = model.run_with_hooks(tokens, fwd_hooks=tlt.truncation_hooks(model, cut))
            assert float((hooked - edited["logits"]).abs().max()) <= limit, site
        assert inplace.difference(found, uncut) > 1e-4, "the cut must do something"


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_bfloat16_is_as_close_as_editing(shared, fitted, tokens, kind, name):
    """Against float64, the cut model errs no more than twice what the edited bfloat16 model errs."""
    model, exact = shared(kind, name, torch.bfloat16), shared(kind, name, torch.float64)
    factors = fitted(kind, name)
    with torch.no_grad():
        for site in (SITE, WIDE, "blocks.1.attn.W_V"):
            edit = (site, lambda matrix, site=site: by_numpy(factors, site, matrix, 0.9))
            with inplace.edited(exact, edit):
                reference = exact(tokens)
            with inplace.edited(model, edit):
                edited = model(tokens)
            with tlt.truncated(model, tlt.Curvature(site, factors, 0.9)):
                found = model(tokens)
            own = (edited.double() - reference).abs().max()
            assert (found.double() - reference).abs().max() <= 2 * own, site


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_all_of_the_mass_is_the_identity_and_none_leaves_the_bias(shared, fitted, tokens, kind, name):
    model, factors = shared(kind, name, torch.float64), fitted(kind, name)
    uncut = model(tokens)
    for site in (SITE, WIDE, HEAD):
        with tlt.truncated(model, tlt.Curvature(site, factors, 1.0)):
            assert torch.equal(model(tokens), uncut)
        with tlt.truncated(model, tlt.Ablated(site)):
            nothing = model(tokens)
        with tlt.truncated(model, tlt.Curvature(site, factors, 0.0)):
            assert torch.equal(model(tokens), nothing)
        assert tlt.Curvature(site, factors, 0.0).kept_rank(model) == 0
        assert tlt.Curvature(site, factors, 1.0).kept_rank(model) == min(factors.shape(site))


class TestBesideOthers:
    """Doses, nesting, and what must not be silently undone."""

    def test_twice_is_once_and_strength_is_a_dose(self, shared, fitted, tokens):
        model, factors = shared("bridge", "gpt2", torch.float64), fitted("bridge", "gpt2")
        weight = locate(model, Site.parse(SITE)).weight()
        edit = tlt.Curvature(SITE, factors, 0.8).edit(model).moved(weight.device, weight.dtype)
        once = edit.of_weight(weight, 1.0)
        torch.testing.assert_close(edit.of_weight(once, 1.0), once, rtol=0, atol=1e-12)
        torch.testing.assert_close(edit.of_weight(weight, 0.5), (weight + once) / 2, rtol=0, atol=1e-12)
        for strength in (0.0, 0.5, -1.0):
            with tlt.truncated(model, tlt.Curvature(SITE, factors, 0.8, strength=strength)):
                found = model(tokens)
            change = (SITE, lambda matrix, s=strength: matrix - s * (matrix - once.numpy()))
            with inplace.edited(model, change):
                torch.testing.assert_close(found, model(tokens), rtol=0, atol=1e-10)

    def test_in_the_weight_it_edits_what_another_cut_left(self, shared, fitted, tokens):
        model, factors = shared("bridge", "gpt2", torch.float64), fitted("bridge", "gpt2")
        first, second = tlt.Cut(SITE, 8), tlt.Curvature(SITE, factors, 0.8)

        def both(matrix):
            return by_numpy(factors, SITE, inplace.truncate(matrix, slice(0, 8)), 0.8)

        with inplace.edited(model, (SITE, both)):
            edited = model(tokens)
        with tlt.truncated(model, first, weights=True), tlt.truncated(model, second, weights=True):
            torch.testing.assert_close(model(tokens), edited, rtol=0, atol=1e-10)
        with tlt.truncated(model, first, second, weights=True):
            torch.testing.assert_close(model(tokens), edited, rtol=0, atol=1e-10)
        basis = tlt.spectrum(model, SITE).V[:, :8].numpy()
        other = (SITE, lambda matrix: by_numpy(factors, SITE, matrix, 0.8) @ basis @ basis.T)
        with inplace.edited(model, other):
            edited = model(tokens)
        with tlt.truncated(model, second, first):
            torch.testing.assert_close(model(tokens), edited, rtol=0, atol=1e-10)
        hooked = model.run_with_hooks(tokens, fwd_hooks=tlt.truncation_hooks(model, [second, first]))
        torch.testing.assert_close(hooked, edited, rtol=0, atol=1e-10)

    def test_behind_another_cut_at_the_output_it_is_refused(self, shared, fitted):
        model, factors = shared("bridge", "gpt2", torch.float64), fitted("bridge", "gpt2")
        first, second = tlt.Cut(SITE, 8), tlt.Curvature(SITE, factors, 0.8)
        with pytest.raises(
            ValueError, match=r"must be the first one of blocks\.1\.mlp\.W_out, since it"
        ):
            tlt.truncation_hooks(model, [first, second])
        with tlt.truncated(model, first):
            with pytest.raises(ValueError, match="order in which they are entered"):
                tlt.truncated(model, second).__enter__()
            with pytest.raises(ValueError, match="must be the first one"):
                tlt.truncation_hooks(model, [second])

    def test_other_sites_are_cut_beside_it(self, shared, fitted, tokens):
        model, factors = (
            shared("bridge", "llama-grouped", torch.float64),
            fitted("bridge", "llama-grouped"),
        )
        cuts = [tlt.Curvature(SITE, factors, 0.8), tlt.Curvature("blocks.1.mlp.W_gate", factors, 0.8)]
        cuts.append(tlt.Cut("blocks.2.mlp.W_in", 0.5))
        edits = [(str(cut.site), lambda m, s=cut.site: by_numpy(factors, s, m, 0.8)) for cut in cuts[:2]]
        edits.append(("blocks.2.mlp.W_in", inplace.top(0.5)))
        with inplace.edited(model, *edits):
            edited = inplace.outputs(model, tokens)
        for order in (cuts, cuts[::-1]):
            with tlt.truncated(model, order[0]), tlt.truncated(model, order[1:]):
                assert inplace.difference(inplace.outputs(model, tokens), edited) <= 1e-9

    def test_the_gradient_is_that_of_the_edited_model_and_of_what_is_kept(self, shared, fitted, tokens):
        model, factors = shared("bridge", "gpt2", torch.float64), fitted("bridge", "gpt2")
        stored, _ = inplace.parameter(model, 1, "W_out")
        other, _ = inplace.parameter(model, 0, "W_in")

        def gradients():
            model.zero_grad()
            model(tokens)[:, -1].square().sum().backward()
            found = stored.grad.clone(), other.grad.clone()
            model.zero_grad()
            return found

        found = []
        for weights in (False, True):
            with tlt.truncated(model, tlt.Curvature(SITE, factors, 0.8), weights=weights):
                found.append(gradients())
        with inplace.edited(model, (SITE, lambda matrix: by_numpy(factors, SITE, matrix, 0.8))):
            own, below = gradients()
        expected = torch.tensor(by_numpy(factors, SITE, own.numpy(), 0.8))
        for weight, lower in found:
            torch.testing.assert_close(lower, below, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(weight, expected, rtol=1e-9, atol=1e-12)


class TestAsACut:
    """A value like others: JSON, tables, controls, experiments."""

    def test_json(self, shared, fitted, tokens, tmp_path):
        model, factors = shared("bridge", "gpt2", torch.float64), fitted("bridge", "gpt2")
        factors.record.pop("path", None)
        cut = tlt.Curvature(SITE, factors, 0.9, strength=0.5)
        cuts = tlt.Cuts(cut, *cut.controls(7).values())
        cuts.save(tmp_path / "cuts.json")
        again = tlt.Cuts.load(tmp_path / "cuts.json")
        assert again == cuts
        assert [repr(each) for each in again] == [repr(each) for each in cuts]
        assert [each.label for each in again] == ["curvature 0.9"] * 3
        with pytest.raises(ValueError, match=r"The factors .* must have been saved to be used again"):
            again[0].edit(model)
        factors.save(tmp_path / "factors.safetensors")
        cuts.save(tmp_path / "cuts.json")
        for one, other in zip(cuts, tlt.Cuts.load(tmp_path / "cuts.json"), strict=True):
            with tlt.truncated(model, one):
                logits = model(tokens)
            with tlt.truncated(model, other):
                assert torch.equal(model(tokens), logits)

    @pytest.mark.parametrize("site", [SITE, WIDE, HEAD])
    def test_controls_keep_as_many_entries_and_the_norm(self, shared, fitted, site):
        model, factors = shared("bridge", "gpt2", torch.float64), fitted("bridge", "gpt2")
        cut = tlt.Curvature(site, factors, 0.7, strength=0.5)
        controls = cut.controls(3)
        entries, norm = controls["RandomEntries"], controls["NormMatched"]
        assert int(entries.kept(model).sum()) == int(cut.kept(model).sum())
        assert not torch.equal(entries.kept(model), cut.kept(model))
        other = tlt.RandomEntries(site, factors, 0.7, seed=4)
        assert not torch.equal(entries.kept(model), other.kept(model))
        assert torch.equal(entries.kept(model), tlt.RandomEntries(site, factors, 0.7, 3).kept(model))
        weight = locate(model, Site.parse(site)).weight()
        edits = [each.edit(model).moved(weight.device, weight.dtype) for each in (cut, norm)]
        gone = [float((weight - edit.of_weight(weight, 1.0)).norm()) for edit in edits]
        assert gone[0] == pytest.approx(gone[1], rel=1e-9)
        assert {each.strength for each in controls.values()} == {0.5}
        assert set(controls_of(model, [cut], seed=0, draws=2)) == {"RandomEntries", "NormMatched"}
        for mass in (0.0, 1.0):
            assert controls_of(model, [tlt.Curvature(site, factors, mass)], seed=0) == {}

    @pytest.mark.parametrize(("kind", "name"), [("bridge", "gpt2"), *HOOKED])
    def test_in_sweeps_searches_and_scores(self, shared, drinks, corpus, tmp_path, kind, name):
        """Also where the input has no hook point, so that it takes whole passes."""
        from architectures import with_tokenizer

        model = with_tokenizer(shared(kind, name))
        factors = tlt.CurvatureFactors.fit(model, corpus, sites=[SITE, WIDE], path=tmp_path / "factors")
        cuts = [tlt.Curvature(SITE, factors, 0.8), tlt.Curvature(WIDE, factors, 0.8)]
        cuts += [cuts[1].controls(0)["RandomEntries"], cuts[1].controls(0)["NormMatched"]]
        result = tlt.sweep(model, drinks, cuts=cuts, run_dir=tmp_path / "run", progress=False)
        assert result.frame["keep"].tolist() == ["curvature 0.8"] * 4
        for cut in cuts:
            scores = tlt.evaluate(model, drinks, cut, progress=False)
            again = result.scores_of(cut)
            assert scores.frame["logit_diff"].tolist() == pytest.approx(
                again.frame["logit_diff"].tolist(), abs=1e-4
            )
            assert abs(float(again.change("logit_diff"))) > 1e-6
        again = tlt.sweep(model, drinks, cuts=cuts, run_dir=tmp_path / "run", progress=False)
        assert again.frame.equals(result.frame)
        found = tlt.search(model, drinks, cuts=cuts[:2], texts=(), greedy=2, progress=False)
        assert set(found.cuts) <= set(cuts)

    def test_refusals(self, shared, fitted, corpus):
        model, factors = shared("bridge", "gpt2", torch.float64), fitted("bridge", "gpt2")
        cases = [
            (
                lambda: tlt.Curvature(SITE, factors, 1.5),
                ValueError,
                "kept mass must be a number from 0 to 1",
            ),
            (
                lambda: tlt.Curvature(SITE, None, 0.5),
                TypeError,
                "factors must be of the kind CurvatureF",
            ),
            (
                lambda: tlt.Curvature("blocks.0.mlp.W_in", factors, 0.5),
                ValueError,
                r"The factors must be of blocks\.0\.mlp\.W_in, got factors of",
            ),
            (
                lambda: tlt.CurvatureFactors.fit(model, corpus, sites=[SITE], labels="gold"),
                ValueError,
                "labels must be one of model, data, got 'gold'",
            ),
            (
                lambda: tlt.CurvatureFactors.fit(model, corpus, sites=[SITE], seed=-1),
                ValueError,
                "seed must be an integer from 0 up",
            ),
            (
                lambda: tlt.CurvatureFactors.fit(model, [[5], [6]], sites=[SITE]),
                ValueError,
                "at least one row of two tokens, got none",
            ),
        ]
        for call, error, wording in cases:
            with pytest.raises(error, match=wording):
                call()
        with (
            inplace.edited(model, (SITE, inplace.top(0.9))),
            pytest.raises(ValueError, match=r"The factors must be of the weight that .*W_out has now"),
        ):
            tlt.Curvature(SITE, factors, 0.5).edit(model)

    def test_directions_that_were_not_seen_have_no_mass(self, shared, corpus):
        """With fewer positions than the input is wide, what the corpus did not show goes, but at mass 1."""
        model = shared("bridge", "gpt2", torch.float64)
        factors = tlt.CurvatureFactors.fit(model, corpus[:1, :5], sites=[SITE])
        kept = tlt.Curvature(SITE, factors, 0.9999999).kept(model)
        assert bool(kept[:4].any())
        assert not bool(kept[4:].any())
        assert bool(tlt.Curvature(SITE, factors, 1.0).kept(model).all())
