"""Laws 1 to 4: a truncated model is the in-place edited one, and the model itself stays as it was."""

import contextlib

import inplace
import pytest
import torch
from architectures import CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from luck import examples
from shared_models import hooks_left, weights_hash

import tl_truncate as tlt
from tl_truncate.weights.site import ATTENTION_MATRICES, MATRICES

# HookedTransformer computes rotary embeddings in float32 whatever the model's dtype.
_ROTARY = ("neox-parallel", "neox-sequential", "llama-grouped")


def tolerance(kind: str, name: str, dtype: torch.dtype) -> float:
    if dtype == torch.float32:
        return 1e-4
    return 1e-6 if kind == "hooked" and name in _ROTARY else 1e-9


def sites_of(model, layer: int = 1) -> list[tlt.Site]:
    heads = [tlt.Site(layer, matrix, 1) for matrix in ATTENTION_MATRICES]
    return tlt.find_sites(model, MATRICES, [layer]) + heads


@contextlib.contextmanager
def per_head_results(model, on: bool):
    if on:
        model.set_use_attn_result(True)
    try:
        yield
    finally:
        if on:
            model.set_use_attn_result(False)


@pytest.mark.parametrize("per_head", [False, True], ids=["", "attn_result"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_equals_in_place_editing(shared, tokens, kind, name, dtype, per_head):
    if per_head and (kind, name) == ("bridge", "no-norm"):
        pytest.skip("TransformerLens computes no per-head results for its native model")
    model = shared(kind, name, dtype)
    with per_head_results(model, per_head):
        uncut = inplace.outputs(model, tokens)
        for site in sites_of(model):
            with tlt.truncated(model, tlt.Cut(site, 0.4)):
                cut = inplace.outputs(model, tokens)
            with inplace.edited(model, (str(site), inplace.top(0.4))):
                edited = inplace.outputs(model, tokens)
            hooks = tlt.truncation_hooks(model, [tlt.Cut(site, 0.4)])
            with torch.no_grad():
                hooked = model.run_with_hooks(tokens, fwd_hooks=hooks)
            limit = tolerance(kind, name, dtype)
            assert inplace.difference(cut, edited) <= limit, site
            assert float((hooked - edited["logits"]).abs().max()) <= limit, site
            assert inplace.difference(cut, uncut) > 1e-3, f"{site}: the cut must do something"


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_bfloat16_is_as_close_as_editing(shared, tokens, kind, name):
    """Against float64, the cut model errs no more than twice what the edited bfloat16 model errs."""
    model, exact = shared(kind, name, torch.bfloat16), shared(kind, name, torch.float64)
    with torch.no_grad():
        for site in sites_of(model):
            with inplace.edited(exact, (str(site), inplace.top(0.4))):
                reference = exact(tokens)
            with inplace.edited(model, (str(site), inplace.top(0.4))):
                edited = model(tokens)
            with tlt.truncated(model, tlt.Cut(site, 0.4)):
                cut = model(tokens)
            assert cut.dtype == edited.dtype
            own = (edited.double() - reference).abs().max()
            assert (cut.double() - reference).abs().max() <= 2 * own, site


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_everything_at_once(shared, tokens, kind, name):
    """All matrices of all layers cut together, each by its own rule."""
    model = shared(kind, name, torch.float64)
    rules = [tlt.Rank(5), tlt.DropTop(2), tlt.Band(1, 9), tlt.Energy(0.6), 0.0, 0.7]
    kept = [slice(0, 5), slice(2, None), slice(1, 9)]
    cuts, edits = [], []
    for index, site in enumerate(tlt.find_sites(model, MATRICES)):
        rule = rules[index % len(rules)]
        cuts.append(tlt.Cut(site, rule))
        if index % len(rules) < 3:
            part = kept[index % len(rules)]
            edits.append((str(site), lambda matrix, part=part: inplace.truncate(matrix, part)))
        elif isinstance(rule, tlt.Energy):
            edits.append((str(site), _energy))
        else:
            edits.append((str(site), inplace.top(rule)))
    with tlt.truncated(model, *cuts):
        cut = inplace.outputs(model, tokens)
    with inplace.edited(model, *edits):
        edited = inplace.outputs(model, tokens)
    assert inplace.difference(cut, edited) <= tolerance(kind, name, torch.float64)


def _energy(matrix):
    squares = [float(value) ** 2 for value in sorted(inplace.np.linalg.svd(matrix)[1], reverse=True)]
    count, total = 0, 0.0
    while total < 0.6 * sum(squares):
        total += squares[count]
        count += 1
    return inplace.truncate(matrix, slice(0, count))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_weights_and_hooks_are_untouched(shared, tokens, kind, name):
    model = shared(kind, name)
    before, uncut = weights_hash(model), model(tokens)
    fired = []
    model.add_hook("blocks.1.hook_mlp_out", lambda value, hook: fired.append(1))
    with tlt.truncated(model, [tlt.Cut(site, 0.3) for site in tlt.find_sites(model, MATRICES)]):
        model(tokens)
        assert weights_hash(model) == before
    with pytest.raises(KeyError, match="mine"), tlt.truncated(model, tlt.Ablated("blocks.1.mlp.W_out")):
        model(tokens)
        raise KeyError("mine")
    assert len(fired) == 2
    after = model(tokens)
    assert len(fired) == 3, "the user's hook is still there"
    model.reset_hooks()
    assert hooks_left(model) == []
    assert weights_hash(model) == before
    assert torch.equal(after, uncut)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_all_kept_is_the_identity_and_none_kept_leaves_the_bias(shared, tokens, kind, name):
    model = shared(kind, name, torch.float64)
    uncut = model(tokens)
    for site in sites_of(model):
        with tlt.truncated(model, tlt.Cut(site, 1.0)):
            assert torch.equal(model(tokens), uncut)
    for matrix, part, bias in (
        ("W_out", "hook_mlp_out", "mlp.b_out"),
        ("W_O", "hook_attn_out", "attn.b_O"),
    ):
        site = f"blocks.1.{'mlp' if matrix == 'W_out' else 'attn'}.{matrix}"
        with tlt.truncated(model, tlt.Cut(site, 0.0)):
            value = inplace.outputs(model, tokens)[f"blocks.1.{part}"]
        wrapper = model.blocks[1]
        for step in bias.split("."):
            wrapper = getattr(wrapper, step, None)
        expected = torch.zeros(()) if wrapper is None else wrapper
        assert torch.equal(value, expected.expand_as(value).to(value.dtype))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_twice_is_once_and_sites_commute(shared, tokens, kind, name):
    model = shared(kind, name, torch.float64)
    limit = tolerance(kind, name, torch.float64)
    joint, heads = (
        sites_of(model)[: -len(ATTENTION_MATRICES)],
        sites_of(model)[-len(ATTENTION_MATRICES) :],
    )
    for sites in (joint, heads):
        for first, second in zip(sites, [*sites[1:], sites[0]], strict=True):
            a, b = tlt.Cut(first, 0.4), tlt.Cut(second, tlt.DropTop(3))
            with tlt.truncated(model, a):
                once = model(tokens)
                with tlt.truncated(model, a):
                    twice = model(tokens)
                with tlt.truncated(model, b):
                    one_way = model(tokens)
            with tlt.truncated(model, b), tlt.truncated(model, a):
                other_way = model(tokens)
            with tlt.truncated(model, a, a):
                again = model(tokens)
            hooked = model.run_with_hooks(tokens, fwd_hooks=tlt.truncation_hooks(model, [a, a]))
            for same in (twice, again, hooked):
                assert float((once - same).detach().abs().max()) <= limit, first
            assert float((one_way - other_way).detach().abs().max()) <= limit, (first, second)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_two_rules_on_one_head_of_the_output_matrix(shared, tokens, kind, name):
    """Its sum with the other heads is all that is seen, so the second cut has to follow the first."""
    model, site = shared(kind, name, torch.float64), "blocks.1.attn.W_O.2"
    rules = [tlt.Cut(site, tlt.Rank(6), strength=0.7), tlt.Cut(site, tlt.DropTop(2))]

    def change(weight):
        first = weight - 0.7 * (weight - inplace.truncate(weight, slice(0, 6)))
        subspace = inplace.np.linalg.svd(weight, full_matrices=False)[2][2:]
        return first @ subspace.T @ subspace

    with torch.no_grad():
        with tlt.truncated(model, rules[0]), tlt.truncated(model, rules[1]):
            cut = model(tokens)
        with inplace.edited(model, (site, change)):
            edited = model(tokens)
    assert float((cut - edited).abs().max()) <= tolerance(kind, name, torch.float64)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_kept_and_removed_make_the_whole(shared, tokens, kind, name):
    """At the linear's own output: kept(y) + removed(y) = y + b."""
    model = shared(kind, name, torch.float64)
    for matrix in tlt.find_sites(model, ("W_in", "W_out"), [1]):
        point = {"W_in": "mlp.hook_pre", "W_out": "hook_mlp_out"}[matrix.matrix]
        if "llama" in name and matrix.matrix == "W_in":
            point = "mlp.hook_pre_linear"
        key = f"blocks.1.{point}"
        values = []
        for keep in (1.0, 0.0, tlt.Rank(7), tlt.DropTop(7)):
            with tlt.truncated(model, tlt.Cut(matrix, keep)):
                values.append(inplace.outputs(model, tokens)[key])
        whole, bias, kept, removed = values
        assert float((kept + removed - whole - bias).abs().max()) <= 1e-9


@settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    case=st.sampled_from(CASES),
    matrix=st.sampled_from(("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out")),
    layer=st.integers(0, 2),
    kept=st.sets(st.integers(0, 15)),
    strength=st.floats(-1, 2),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9)),
)
def test_any_components_any_strength_any_shape(shared, case, matrix, layer, kept, strength, shape):
    """W - strength * (W - W_K), for every set of components, strength and shape of the input."""
    model = shared(*case, torch.float64)
    part = "attn" if matrix in ATTENTION_MATRICES else "mlp"
    name = f"blocks.{layer}.{part}.{matrix}"
    tokens = torch.randint(3, 90, shape, generator=torch.Generator().manual_seed(layer))
    with tlt.truncated(model, tlt.Cut(name, tlt.Components(kept), strength=strength)):
        cut = model(tokens)

    def change(weight):
        return weight - strength * (weight - inplace.truncate(weight, sorted(kept)))

    with inplace.edited(model, (name, change)):
        edited = model(tokens)
    size = max(1.0, float(edited.detach().abs().max()))
    assert float((cut - edited).detach().abs().max()) / size <= tolerance(*case, torch.float64)
