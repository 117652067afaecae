"""Circuits of heads: products of two weights as one matrix, cut in the weight of the head's own."""

from contextlib import contextmanager

import inplace
import numpy as np
import pytest
import torch
from architectures import CASES, SPECIAL, WINDOWED, with_tokenizer
from shared_models import weights_hash
from states import gradients, parameter_gradients, switched

import tl_truncate as tlt
from tl_truncate.weights.locate import carrier, locate

#: Whose scores are products of two weights, plus terms of positions alone.
_APART = ("gpt2", "no-norm", "bloom-alibi", "mpt-alibi", "falcon-alibi", "opt-learnt", "gpt1")
_APART += ("gptneo-local",)
EVERY = [*CASES, *(("bridge", name) for name in SPECIAL), *WINDOWED]
BOTH = [("OV", *case) for case in EVERY] + [("QK", *case) for case in EVERY if case[1] in _APART]
ROTARY = [case for case in EVERY if case[1] not in _APART]
#: Of each class one, with its circuits; grouped values too.
FEW = [each for each in BOTH if each[2] in ("gpt2", "llama-grouped")]


def own_name(circuit: str, head: int = 3, layer: int = 1) -> str:
    return f"blocks.{layer}.attn.{circuit}.{head}"


def factors(model, site: str) -> tuple[np.ndarray, np.ndarray]:
    """The product's two matrices by the parameters, `[32, 8]` and `[8, 32]`."""
    _, layer, _, circuit, head = site.split(".")
    names = {"QK": ("W_Q", "W_K"), "OV": ("W_V", "W_O")}[circuit]
    found = []
    for name in names:
        whole = inplace.read(model, int(layer), name)
        whole = whole.T if name == "W_O" else whole
        heads = whole.shape[1] // 8
        place = int(head) * heads // 4
        found.append(whole[:, place * 8 : place * 8 + 8])
    return found[0], found[1].T


def left_of(product: np.ndarray, kept) -> np.ndarray:
    """The truncated product, by NumPy's decomposition of the whole matrix."""
    u, s, vh = np.linalg.svd(product)
    rows = np.arange(8)[kept]
    return (u[:, rows] * s[rows]) @ vh[rows]


@contextmanager
def edited(model, *sites: str, kept=slice(0, 3), strength: float = 1.0):
    """W_O or W_Q of the head, so that the product is the truncated one: by least squares."""
    edits, targets = [], {}
    for site in sites:
        _, layer, _, circuit, head = site.split(".")
        first, second = factors(model, site)
        product = first @ second
        wanted = product - strength * (product - left_of(product, kept))
        targets[site] = wanted
        if circuit == "OV":
            edits.append((f"blocks.{layer}.attn.W_O.{head}", lambda w, a=first, p=wanted: _solve(a, p)))
        else:
            change = lambda w, b=second, p=wanted: _solve(b.T, p.T).T  # noqa: E731
            edits.append((f"blocks.{layer}.attn.W_Q.{head}", change))
    with inplace.edited(model, *edits):
        for site in sites:
            first, second = factors(model, site)
            # To the rounding of what is stored: else the helper has solved for something else.
            rounding = torch.finfo(next(model.parameters()).dtype).eps
            assert np.abs(first @ second - targets[site]).max() < max(1e-12, rounding)
        yield model


def _solve(matrix, product):
    return np.linalg.lstsq(matrix, product, rcond=None)[0]


@pytest.mark.parametrize(("circuit", "kind", "name"), BOTH)
def test_the_spectrum_is_that_of_the_product(shared, circuit, kind, name):
    model = shared(kind, name, torch.float64)
    for head in (0, 3):
        site = own_name(circuit, head)
        first, second = factors(model, site)
        spec = tlt.spectrum(model, site)
        wanted = torch.linalg.svdvals(torch.tensor(first @ second))
        assert spec.S.shape == (8,)
        assert spec.shape == (32, 32)
        assert torch.allclose(spec.S, wanted[:8], rtol=1e-12, atol=1e-13)
        assert np.abs(spec.matrix().numpy() - first @ second).max() < 1e-13
        assert np.abs(spec.matrix(3).numpy() - left_of(first @ second, slice(0, 3))).max() < 1e-12
        for side in (spec.U, spec.V):
            assert torch.allclose(side.T @ side, torch.eye(8, dtype=side.dtype), atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("circuit", "kind", "name"), BOTH)
def test_equals_in_place_editing(shared, tokens, circuit, kind, name, dtype):
    model, site = shared(kind, name, dtype), own_name(circuit)
    uncut = inplace.outputs(model, tokens)
    with edited(model, site):
        wanted = {**inplace.outputs(model, tokens), **by_gradient(model, tokens)}
    cut = tlt.Cut(site, 3)
    # HookedTransformer computes rotary embeddings, and RMSNorm, in float32 whatever the model's dtype.
    single = kind == "hooked" and name in ("neox-parallel", "neox-sequential", "llama-grouped")
    limit = 1e-4 if dtype == torch.float32 else 1e-6 if single else 1e-9
    for weights in (False, True):
        with tlt.truncated(model, cut, weights=weights):
            found = {**inplace.outputs(model, tokens), **by_gradient(model, tokens)}
        assert inplace.difference(found, wanted) <= limit
    assert inplace.difference(uncut, {name: wanted[name] for name in uncut}) > 1e-3
    with torch.no_grad():
        hooked = model.run_with_hooks(tokens, fwd_hooks=tlt.truncation_hooks(model, cut))
    assert float((hooked - wanted["logits"]).abs().max()) <= limit


def by_gradient(model, tokens) -> dict[str, torch.Tensor]:
    return {f"gradient at {name}": value for name, value in gradients(model, tokens).items()}


@pytest.mark.parametrize(("circuit", "kind", "name"), FEW)
def test_any_rule_any_strength_and_two_heads(shared, tokens, circuit, kind, name):
    model = shared(kind, name, torch.float64)
    sites = (own_name(circuit, 2), own_name(circuit, 3), own_name(circuit, 0, 2))
    for rule, kept in ((tlt.DropTop(2), slice(2, None)), (tlt.Band(1, 5), slice(1, 5)), (0.0, slice(0))):
        for strength in (1.0, 0.5, -1.0):
            with edited(model, *sites, kept=kept, strength=strength):
                wanted = inplace.outputs(model, tokens)
            for weights in (False, True):
                cuts = [tlt.Cut(site, rule, strength=strength) for site in sites]
                with tlt.truncated(model, cuts, weights=weights):
                    assert inplace.difference(inplace.outputs(model, tokens), wanted) <= 1e-9


@pytest.mark.parametrize(("circuit", "kind", "name"), FEW)
def test_all_kept_is_the_identity_and_twice_is_once(shared, tokens, circuit, kind, name):
    model, site = shared(kind, name, torch.float64), own_name(circuit)
    uncut = model(tokens)
    for keep in (1.0, 8, tlt.Energy(1.0)):
        with tlt.truncated(model, tlt.Cut(site, keep)):
            assert torch.equal(model(tokens), uncut)
    before = weights_hash(model)
    with tlt.truncated(model, tlt.Cut(site, 3)):
        once = model(tokens)
        with tlt.truncated(model, tlt.Cut(site, 3)):
            twice = model(tokens)
    with tlt.truncated(model, tlt.Cut(site, tlt.Energy(0.0))):
        nothing = model(tokens)
    with tlt.truncated(model, tlt.Ablated(site)):
        assert float((nothing - model(tokens)).detach().abs().max()) <= 1e-12
    assert float((once - twice).detach().abs().max()) <= 1e-9
    assert float((once - uncut).detach().abs().max()) > 1e-3
    assert weights_hash(model) == before


@pytest.mark.parametrize(("circuit", "kind", "name"), FEW)
def test_readers_of_weights_see_the_truncated_product(shared, circuit, kind, name):
    model, site = shared(kind, name, torch.float64), own_name(circuit)
    first, second = factors(model, site)
    wanted = left_of(first @ second, slice(0, 3))
    with torch.no_grad(), tlt.truncated(model, tlt.Cut(site, 3), weights=True):
        read = {"OV": lambda: model.OV, "QK": lambda: model.QK}[circuit]().AB[1, 3]
        inside = tlt.spectrum(model, site).S
    assert np.abs(read.numpy() - wanted).max() < 1e-12
    outside = tlt.spectrum(model, site).S
    assert torch.allclose(inside[:3], outside[:3], atol=1e-12)
    assert float(inside[3:].max()) < 1e-12


@pytest.mark.parametrize("weights", [False, True], ids=["", "weights"])
@pytest.mark.parametrize(("circuit", "kind", "name"), FEW)
def test_gradients_of_parameters(shared, tokens, circuit, kind, name, weights):
    """Of all but the edited factor they are the edited model's; of it, with the directions held fixed."""
    model, site = shared(kind, name, torch.float64), own_name(circuit)
    matrix = {"OV": "W_O", "QK": "W_Q"}[circuit]
    own, _ = inplace.parameter(model, 1, matrix)
    part = (slice(24, 32), slice(None)) if matrix == "W_O" else (slice(None), slice(24, 32))
    weight = inplace.read(model, 1, matrix)[part].copy()
    with edited(model, site):
        wanted = parameter_gradients(model, tokens)
        cut = inplace.read(model, 1, matrix)[part].copy()
    # W' = W M, with M on the side of the output: the gradient of W is that of W' times M^T.
    through = np.linalg.pinv(weight) @ cut
    with tlt.truncated(model, tlt.Cut(site, 3), weights=weights):
        found = parameter_gradients(model, tokens)
    names = dict(model.named_parameters())
    same = [each for each in found if names[each] is not own]
    gap = inplace.difference({n: found[n] for n in same}, {n: wanted[n] for n in same})
    assert len(same) > 10
    assert gap <= 1e-9
    (place,) = [each for each in found if names[each] is own]
    saved = own.detach().clone()
    try:
        seen = {}
        for label, values in (("found", found), ("wanted", wanted)):
            with torch.no_grad():
                own.copy_(values[place])
            seen[label] = inplace.read(model, 1, matrix).copy()
    finally:
        with torch.no_grad():
            own.copy_(saved)
    seen["wanted"][part] = seen["wanted"][part] @ through.T
    assert np.abs(seen["found"] - seen["wanted"]).max() <= 1e-9


@pytest.mark.parametrize(("circuit", "kind", "name"), FEW)
def test_in_half_precision_it_is_as_close_as_editing(shared, tokens, circuit, kind, name):
    site = own_name(circuit)
    model, exact = shared(kind, name, torch.bfloat16), shared(kind, name, torch.float64)
    with torch.no_grad():
        with edited(exact, site):
            reference = exact(tokens)
        with edited(model, site):
            own = (model(tokens).double() - reference).abs().max()
        with tlt.truncated(model, tlt.Cut(site, 3)):
            cut = model(tokens)
    assert cut.dtype == torch.bfloat16
    assert (cut.double() - reference).abs().max() <= 2 * own
    if circuit == "QK":
        with pytest.raises(ValueError, match=r"must be in float32 or better for plain hooks and sweeps"):
            tlt.truncation_hooks(model, tlt.Cut(site, 3))


@pytest.mark.parametrize("state", ["use_attn_result", "use_split_qkv_input", "use_attn_in"])
@pytest.mark.parametrize(("circuit", "kind", "name"), FEW)
def test_states_of_the_attention(shared, tokens, circuit, kind, name, state):
    model, site = shared(kind, name, torch.float64), own_name(circuit)
    if state == "use_attn_in" and name == "llama-grouped":
        pytest.skip("TransformerLens has it not with grouped queries")
    with switched(model, state):
        with edited(model, site):
            wanted = inplace.outputs(model, tokens)
        with tlt.truncated(model, tlt.Cut(site, 3)):
            assert inplace.difference(inplace.outputs(model, tokens), wanted) <= 1e-9


@pytest.mark.parametrize("control", [tlt.RandomSubspace, tlt.NormMatched])
@pytest.mark.parametrize(("circuit", "kind", "name"), FEW)
def test_controls_are_of_the_product(shared, circuit, kind, name, control):
    """As much of it is left, or gone, as of a cut; read off the weights as they are with the control."""
    model, site = shared(kind, name, torch.float64), own_name(circuit)

    def product(cut):
        with torch.no_grad(), tlt.truncated(model, cut, weights=True):
            return {"OV": lambda: model.OV, "QK": lambda: model.QK}[circuit]().AB[1, 3].numpy().copy()

    whole, cut = product(tlt.Cut(site, 1.0)), product(tlt.Cut(site, 3))
    drawn = [product(control(site, 3, seed)) for seed in (0, 1)]
    for each in drawn:
        if control is tlt.RandomSubspace:
            assert np.linalg.matrix_rank(each, tol=1e-9) == 3
            gone = whole - each
            assert min(np.abs(each @ gone.T).max(), np.abs(each.T @ gone).max()) < 1e-12
        else:
            assert np.linalg.norm(whole - each) == pytest.approx(np.linalg.norm(whole - cut), rel=1e-9)
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3


@pytest.mark.parametrize(("circuit", "kind", "name"), FEW)
def test_sweeps_and_screens(shared, drinks, circuit, kind, name):
    model, site = shared(kind, name, torch.float64), own_name(circuit)
    options = dict(prepend_bos=False, progress=False)
    with_tokenizer(model)
    controls = ["random_subspace"]
    keeps = [0.0, 3, 7]
    table = tlt.sweep(model, drinks, sites=[site], keeps=keeps, controls=controls, draws=2, **options)
    rows = table.frame[table.frame["kind"] == "Cut"].set_index("rank")["logit_diff"]
    for rank in (0, 3, 7):
        own = tlt.evaluate(model, drinks, tlt.Cut(site, rank), **options)
        assert float(rows[rank]) == pytest.approx(float(own.logit_diff), abs=1e-6)
    screen = tlt.attribute(model, drinks, sites=[site], **options)
    baseline = float(tlt.evaluate(model, drinks, **options).logit_diff)
    small = 1e-3
    for component in (0, 5):
        cut = tlt.Cut(site, tlt.Without([component]), strength=small)
        change = float(tlt.evaluate(model, drinks, cut, **options).logit_diff) - baseline
        predicted = float(screen.effect(site, tlt.Without([component])))
        assert predicted == pytest.approx(change / small, rel=2e-2, abs=1e-5)


class TestTogether:
    """The spectrum of a product depends on two weights."""

    @pytest.mark.parametrize(("circuit", "kind", "name"), FEW)
    def test_a_cut_of_a_factor_is_refused(self, shared, circuit, kind, name):
        model, site = shared(kind, name, torch.float64), own_name(circuit)
        group = 1 if name == "llama-grouped" else 3
        names = {"OV": ("W_V", "W_O"), "QK": ("W_Q", "W_K")}[circuit]
        heads = {"W_V": group, "W_O": 3, "W_Q": 3, "W_K": group}
        others = [f"blocks.1.attn.{each}" for each in names]
        others += [f"blocks.1.attn.{each}.{heads[each]}" for each in names]
        for other in others:
            pair = tlt.Cut(site, 3), tlt.Cut(other, 3)
            for first, second in (pair, pair[::-1]):
                with (
                    pytest.raises(ValueError, match=r"one of the two weights whose product it is"),
                    tlt.truncated(model, first),
                    tlt.truncated(model, second),
                ):
                    raise AssertionError("entered")
            with tlt.truncated(model, pair[1]), pytest.raises(ValueError, match="must not overlap"):
                tlt.sweep(model, tlt.Task("t", ["a"], [" b"], " c"), sites=[site], keeps=[3])

    def test_other_heads_and_the_other_circuit_are_not(self, shared, tokens):
        model = shared("bridge", "gpt2", torch.float64)
        sites = (own_name("OV"), own_name("QK"), own_name("OV", 1))
        free = [("blocks.1.attn.W_V.2", inplace.top(0.4)), ("blocks.1.attn.W_K.1", inplace.top(0.4))]
        with edited(model, *sites), inplace.edited(model, *free):
            wanted = inplace.outputs(model, tokens)
        cuts = [*(tlt.Cut(site, 3) for site in sites), *(tlt.Cut(site, 0.4) for site, _ in free)]
        with tlt.truncated(model, cuts):
            assert inplace.difference(inplace.outputs(model, tokens), wanted) <= 1e-9

    def test_parts_follow_a_cut_circuit(self, shared, tokens):
        """The closed form of a layer's own path reads W_O and W_V."""
        model, site = shared("bridge", "gpt2", torch.float64), own_name("OV", 3, 0)
        with edited(model, site):
            wanted = tlt.decompose_mlp(model, tokens, 1, "own_path").global_
        for weights in (False, True):
            with tlt.truncated(model, tlt.Cut(site, 3), weights=weights):
                found = tlt.decompose_mlp(model, tokens, 1, "own_path").global_
            assert float((found - wanted).abs().max()) <= 1e-9


class TestRefused:
    """Where the numbers would be those of something else."""

    @pytest.mark.parametrize(("kind", "name"), ROTARY)
    def test_rotary_positions(self, shared, kind, name):
        model = shared(kind, name)
        for call in (
            lambda: tlt.spectrum(model, own_name("QK")),
            lambda: tlt.find_sites(model, "QK"),
            lambda: tlt.truncation_hooks(model, tlt.Cut(own_name("QK"), 3)),
            lambda: tlt.attribute(model, tlt.Task("t", ["a"], [" b"], " c"), sites=[own_name("QK")]),
        ):
            with pytest.raises(
                ValueError, match=r"QK\.\d must be one matrix .* positions are of the kind"
            ):
                call()

    def test_positions_of_a_kind_that_is_not_told(self, shared, monkeypatch):
        """A Bridge says `standard` where it knows nothing, and its table of positions is not there."""
        model = shared("bridge", "bloom-alibi")
        monkeypatch.setattr(model.cfg, "positional_embedding_type", "standard")
        with pytest.raises(ValueError, match="positions are of the kind 'standard, without a table'"):
            tlt.spectrum(model, own_name("QK"))

    def test_norms_gates_and_clips_between_the_two(self, shared):
        model = shared("bridge", "gpt2")
        attention = model.blocks[1].attn
        for name, circuits in (("q_norm", ("QK",)), ("v_norm", ("OV",)), ("sub_norm", ("QK", "OV"))):
            attention.add_module(name, torch.nn.LayerNorm(8))
            try:
                for circuit in ("QK", "OV"):
                    if circuit in circuits:
                        with pytest.raises(ValueError, match=f"a norm, {name}, stands between"):
                            tlt.spectrum(model, own_name(circuit))
                    else:
                        tlt.spectrum(model, own_name(circuit))
            finally:
                delattr(attention, name)
        attention.add_module("gate_proj", torch.nn.Linear(32, 32))
        try:
            with pytest.raises(ValueError, match="a gate, gate_proj, stands between"):
                tlt.spectrum(model, own_name("OV"))
            tlt.spectrum(model, own_name("QK"))
        finally:
            delattr(attention, "gate_proj")
        inner = attention.original_component
        inner.clip_qkv = 8.0
        try:
            with pytest.raises(ValueError, match="are clipped between its two weights"):
                tlt.spectrum(model, own_name("OV"))
        finally:
            del inner.clip_qkv

    def test_what_needs_one_weight(self, toy, tokens):
        site = own_name("OV")
        needs_one = pytest.raises(
            ValueError, match=r"must be one weight here, but .*OV\.3 is the product"
        )
        with needs_one:
            locate(toy, tlt.Site.parse(site))
        with needs_one:
            tlt.TokenMeans.fit(toy, tokens, sites=[site], progress=False)
        with needs_one:
            tlt.Clustered(site, 2, 0.5).edit(toy)

    @pytest.mark.parametrize("rule", [tlt.MarchenkoPastur(), tlt.OptimalThreshold(), tlt.OutsideBulk()])
    def test_rules_of_noise(self, toy, drinks, rule):
        refused = pytest.raises(
            ValueError, match=r"a product of smaller.*matrices never is.*32 x 32 with 8"
        )
        with refused, tlt.truncated(toy, tlt.Cut(own_name("OV"), rule)):
            raise AssertionError("entered")
        with refused:
            tlt.sweep(toy, drinks, sites=[own_name("OV")], keeps=[rule])

    def test_sketches(self, toy, drinks):
        refused = pytest.raises(ValueError, match="LaserCompat sketches one weight")
        with refused, tlt.truncated(toy, tlt.Cut(own_name("OV"), tlt.LaserCompat(0.3))):
            raise AssertionError("entered")
        with refused:
            tlt.sweep(toy, drinks, sites=[own_name("OV")], keeps=[tlt.LaserCompat(0.3)])

    def test_names(self, toy):
        for text, problem in (
            ("blocks.1.attn.OV", "A circuit must be that of one head"),
            ("blocks.1.mlp.OV.1", "OV belongs to attn"),
        ):
            with pytest.raises(ValueError, match=problem):
                tlt.Site.parse(text)
        with pytest.raises(ValueError, match=r"head of .*W_O.9 must be in 0\.\.3"):
            tlt.spectrum(toy, "blocks.1.attn.OV.9")

    def test_queries_in_nearly_a_smaller_space(self, shared, tokens):
        """A random oblique projection would be noise in float32; that of the spectrum is not."""
        site = own_name("QK")
        for dtype in (torch.float32, torch.float64):
            model = shared("bridge", "gpt2", dtype)

            def thin(matrix):
                u, _, vh = np.linalg.svd(matrix, full_matrices=False)
                return (u * np.geomspace(1, 1e-6, 8)) @ vh

            with inplace.edited(model, ("blocks.1.attn.W_Q.3", thin)):
                if dtype == torch.float32:
                    for seed in range(3):
                        with pytest.raises(ValueError, match="far enough from a smaller space"):
                            tlt.truncation_hooks(model, tlt.RandomSubspace(site, 3, seed))
                with edited(model, site):
                    wanted = inplace.outputs(model, tokens)
                with tlt.truncated(model, tlt.Cut(site, 3)):
                    limit = 1e-7 if dtype == torch.float64 else 1e-4
                    assert inplace.difference(inplace.outputs(model, tokens), wanted) <= limit


def test_sites_are_listed_when_asked_for(toy):
    assert not any(site.is_circuit for site in tlt.find_sites(toy))
    names = [str(site) for site in tlt.find_sites(toy, ("OV", "QK"), [2])]
    assert names == [f"blocks.2.attn.{circuit}.{head}" for circuit in ("OV", "QK") for head in range(4)]
    assert carrier(toy, tlt.Site.parse(names[0])).site == tlt.Site(2, "W_O", 0)
    assert len(tlt.spectrum(toy, names[0]).tokens(toy, 2)) == 32


def test_cuts_are_stored_by_name(tmp_path):
    cuts = tlt.Cuts([tlt.Cut(own_name("OV"), 3), tlt.RandomSubspace(own_name("QK"), 0.5, 2)])
    cuts.save(tmp_path / "cuts.json")
    assert tlt.Cuts.load(tmp_path / "cuts.json") == cuts


def test_a_rank_deficient_circuit_loses_nothing_else(shared, tokens):
    """W_V of lower rank leaves singular values of zero, whose directions are still those of W_O."""
    model, site = shared("bridge", "gpt2", torch.float64), own_name("OV")
    with inplace.edited(model, ("blocks.1.attn.W_V.3", lambda w: inplace.truncate(w, slice(0, 5)))):
        spec = tlt.spectrum(model, site)
        assert float(spec.S[5:].max()) < 1e-12
        weight = inplace.read(model, 1, "W_O")[24:32]
        outside = weight - weight @ spec.V.numpy() @ spec.V.numpy().T
        assert np.abs(outside).max() < 1e-12
