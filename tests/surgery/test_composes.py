"""With a cut active, everything that TransformerLens does sees the in-place edited model."""

from contextlib import suppress

import architectures
import inplace
import pytest
import torch
from architectures import CASES
from shared_models import hooks_left

import tl_truncate as tlt

SITE = "blocks.1.mlp.W_out"
CUT = tlt.Cut(SITE, 0.3)
EDIT = (SITE, inplace.top(0.3))


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def model(request, shared):
    """Every architecture in float64, on every class that there is."""
    return shared(*request.param, torch.float64)


def close(first: torch.Tensor, second: torch.Tensor, limit: float = 1e-9) -> bool:
    return float((first - second).detach().abs().max()) <= limit


def test_hooks_of_the_user_see_the_cut_value_in_any_order(model, tokens):
    """Also hooks that were there before, were put in front, or are permanent."""
    name = "blocks.1.hook_mlp_out"
    seen: dict[str, torch.Tensor] = {}

    def see(label):
        return lambda value, hook: seen.__setitem__(label, value.detach().clone())

    model.add_hook(name, see("before"))
    model.add_hook(name, see("permanent"), is_permanent=True)
    with tlt.truncated(model, CUT):
        model.add_hook(name, see("after"))
        point = model.hook_dict[name]
        point.add_hook(see("in front"), prepend=True)
        with model.hooks(fwd_hooks=[(name, see("nested"))]):
            model(tokens)
    model.reset_hooks(including_permanent=True)
    with inplace.edited(model, EDIT):
        expected = inplace.outputs(model, tokens)[name]
    assert set(seen) == {"before", "permanent", "after", "in front", "nested"}
    assert all(close(value, expected) for value in seen.values())


@pytest.mark.parametrize("cut_layer", [0, 1, 2])
def test_activation_patching_between_cut_and_uncut(model, tokens, cut_layer):
    site = f"blocks.{cut_layer}.mlp.W_in"
    other = tokens.flip(1)
    name = "blocks.1.hook_resid_post"
    with torch.no_grad():
        _, clean = model.run_with_cache(other)

        def patch(value, hook):
            value[:, 3] = clean[name][:, 3]
            return value

        def patched():
            return model.run_with_hooks(tokens, fwd_hooks=[(name, patch)])

        with tlt.truncated(model, tlt.Cut(site, 0.3)):
            cut = patched()
        with inplace.edited(model, (site, inplace.top(0.3))):
            edited = patched()
    assert close(cut, edited)


def test_patching_a_head_of_w_o_from_its_input(model, tokens):
    """A user's change of z, made after the cut was, reaches the cut head."""
    site = "blocks.1.attn.W_O.2"

    def scale(value, hook):
        return value * 1.7

    def run():
        return model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.attn.hook_z", scale)])

    with torch.no_grad():
        with tlt.truncated(model, tlt.Cut(site, 0.4)):
            cut = run()
        with inplace.edited(model, (site, inplace.top(0.4))):
            edited = run()
    assert close(cut, edited)


@pytest.mark.parametrize("cached", [True, False], ids=["kv_cache", "no_cache"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_generation(shared, kind, name, cached, tokens):
    model = shared(kind, name)
    sites = ("blocks.0.mlp.W_in", "blocks.1.attn.W_V", "blocks.2.attn.W_O.1")
    cuts = [tlt.Cut(site, 0.3) for site in sites]
    options = dict(max_new_tokens=8, do_sample=False, use_past_kv_cache=cached, verbose=False)
    options |= dict(return_type="tokens", stop_at_eos=False)
    uncut = model.generate(tokens, **options)
    with tlt.truncated(model, cuts):
        cut = model.generate(tokens, **options)
    with inplace.edited(model, *[(site, inplace.top(0.3)) for site in sites]):
        edited = model.generate(tokens, **options)
    assert torch.equal(cut, edited)
    assert cut.shape == (2, tokens.shape[1] + 8)
    if name != "no-norm":  # a large unembedding bias always wins there
        assert not torch.equal(cut, uncut)


def test_gradient_through_the_cut_against_finite_differences(model, tokens):
    """The derivative of a logit along a direction of the residual stream below the cut."""
    # RMSNorm in transformers and rotary embeddings in HookedTransformer are computed in float32
    # whatever the dtype, which a small step feels.
    single = model.cfg.normalization_type == "RMS" or getattr(model.cfg, "rotary_dim", None)
    size, limit = (1e-2, 1e-3) if single else (1e-4, 1e-6)
    name = "blocks.0.hook_resid_post"
    direction = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def logit(shift: torch.Tensor) -> torch.Tensor:
        hook = (name, lambda value, hook: value + shift * direction)
        return model.run_with_hooks(tokens, fwd_hooks=[hook])[0, -1, 5]

    sites = ("blocks.1.attn.W_Q", "blocks.1.attn.W_O.1", "blocks.1.mlp.W_in", "blocks.2.mlp.W_out")
    cuts = [tlt.Cut(site, 0.4) for site in sites]
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    with tlt.truncated(model, cuts):
        (slope,) = torch.autograd.grad(logit(shift), shift)
        with torch.no_grad():
            step = torch.tensor(size, dtype=torch.float64)
            difference = (logit(step) - logit(-step)) / (2 * step)
    with inplace.edited(model, *[(site, inplace.top(0.4)) for site in sites]):
        (edited,) = torch.autograd.grad(logit(shift), shift)
    assert abs(float(slope - edited)) <= 1e-9
    assert abs(float(slope.detach() - difference)) <= limit * max(1.0, abs(float(difference)))


def test_backward_hooks_see_the_edited_gradients(model, tokens):
    name = "blocks.1.hook_mlp_out"

    def gradient():
        seen = []
        model.zero_grad()
        with model.hooks(bwd_hooks=[(name, lambda grad, hook: seen.append(grad.detach().clone()))]):
            model(tokens)[0, -1, 5].backward()
        model.zero_grad()
        return seen[0]

    with tlt.truncated(model, CUT, tlt.Cut("blocks.2.mlp.W_in", 0.3)):
        cut = gradient()
    with inplace.edited(model, EDIT, ("blocks.2.mlp.W_in", inplace.top(0.3))):
        edited = gradient()
    assert close(cut, edited)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_padding(shared, tokens, kind, name, side):
    model = shared(kind, name)
    mask = torch.ones_like(tokens)
    mask[0, slice(0, 3) if side == "left" else slice(-3, None)] = 0
    with torch.no_grad():
        with tlt.truncated(model, CUT, tlt.Cut("blocks.2.attn.W_K", 0.3)):
            cut = model(tokens, attention_mask=mask)
        with inplace.edited(model, EDIT, ("blocks.2.attn.W_K", inplace.top(0.3))):
            edited = model(tokens, attention_mask=mask)
    kept = mask.bool()
    assert close(cut[kept], edited[kept], 1e-4)


def test_two_nested_contexts_and_a_cut_entered_twice(model, tokens):
    second = "blocks.2.attn.W_V"
    with torch.no_grad():
        with tlt.truncated(model, CUT), tlt.truncated(model, tlt.Cut(second, 0.3), CUT):
            cut = model(tokens)
        with inplace.edited(model, EDIT, (second, inplace.top(0.3))):
            edited = model(tokens)
    assert close(cut, edited)


def test_two_rules_on_one_site_keep_what_both_keep(model, tokens):
    with torch.no_grad():
        with tlt.truncated(model, tlt.Cut(SITE, tlt.Rank(9)), tlt.Cut(SITE, tlt.DropTop(4))):
            cut = model(tokens)
        with inplace.edited(model, (SITE, lambda matrix: inplace.truncate(matrix, slice(4, 9)))):
            edited = model(tokens)
    assert close(cut, edited)


def test_the_cut_survives_reset_hooks(model, tokens):
    with torch.no_grad(), inplace.edited(model, EDIT):
        edited = model(tokens)
    with torch.no_grad(), tlt.truncated(model, CUT):
        model.reset_hooks(including_permanent=True)
        assert close(model(tokens), edited)
        model.run_with_hooks(tokens, fwd_hooks=[], reset_hooks_end=True)
        assert close(model(tokens), edited)
    assert hooks_left(model) == []


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_cut_survives_a_change_of_dtype(kind, name, tokens):
    """`.to(...)` inside: biases are read anew and bases follow the activation."""
    import architectures

    model = architectures.build(kind, name)
    cuts = [CUT, tlt.Cut("blocks.0.attn.W_O.1", 0.4), tlt.Cut("blocks.2.mlp.W_in", 0.2)]
    with torch.no_grad(), tlt.truncated(model, cuts):
        single = model(tokens)
        model.to(torch.float64)
        double = model(tokens)
        model.to(torch.float32)
        again = model(tokens)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert close(single, double.float(), 1e-4)
    assert close(single, again, 1e-5)


def test_run_with_cache_options(model, tokens):
    with torch.no_grad(), inplace.edited(model, EDIT):
        edited = model(tokens)
        _, edited_cache = model.run_with_cache(tokens, names_filter="blocks.2.hook_resid_pre")
    with torch.no_grad(), tlt.truncated(model, CUT):
        logits, cache = model.run_with_cache(tokens, names_filter="blocks.2.hook_resid_pre")
    assert close(logits, edited)
    name = "blocks.2.hook_resid_pre"
    assert close(cache[name], edited_cache[name])


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_stopped_pass_is_fine_and_right(model, tokens, stop):
    with torch.no_grad():
        with inplace.edited(model, EDIT):
            edited = model(tokens, stop_at_layer=stop)
        with tlt.truncated(model, CUT):
            cut = model(tokens, stop_at_layer=stop)
    assert close(cut, edited)


def test_no_pass_is_fine(model):
    with tlt.truncated(model, CUT):
        pass


def test_a_whole_pass_that_misses_a_cut_raises_on_leaving(toy, tokens):
    """A hook point that a replaced module no longer calls."""
    mlp = toy.blocks[1].mlp.original_component
    original = mlp.forward
    try:
        mlp.forward = lambda hidden: torch.zeros_like(hidden)
        with (
            pytest.raises(tlt.CutNotApplied, match=r"did not reach Cut\(site='blocks\.1\.mlp\.W_in'"),
            tlt.truncated(toy, tlt.Cut("blocks.1.mlp.W_in", 0.3)),
        ):
            toy(tokens)
        with (
            pytest.raises(KeyError, match="first"),
            tlt.truncated(toy, tlt.Cut("blocks.1.mlp.W_in", 0.3)),
        ):
            toy(tokens)
            raise KeyError("first")
    finally:
        mlp.forward = original
    assert hooks_left(toy) == []


@pytest.mark.parametrize("stopped", [False, True])
def test_a_pass_inside_of_a_pass(model, tokens, stopped):
    """From a hook in the very block that is cut, as often as it likes, also one that an exception ends."""
    seen = []

    class Enough(Exception):
        """Ends the inner pass."""

    def stop(value, hook):
        if stopped:
            raise Enough

    def begin(value, hook):
        if not seen:
            for _ in range(2):
                seen.append(None)
                with model.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", stop)]), suppress(Enough):
                    seen[-1] = model(tokens)

    def run():
        seen.clear()
        with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.1.hook_attn_out", begin)]):
            return model(tokens), *seen

    sites = [
        f"blocks.1.{name}" for name in ("mlp.W_in", "mlp.W_out", "attn.W_O.2", "attn.W_V.1", "attn.W_Q")
    ]
    with inplace.edited(model, *[(site, inplace.top(0.4)) for site in sites]):
        edited = run()
    with tlt.truncated(model, [tlt.Cut(site, 0.4) for site in sites]):
        cut = run()
    assert [value is None for value in cut] == [False, stopped, stopped]
    assert all(
        close(value, other) for value, other in zip(cut, edited, strict=True) if value is not None
    )


def test_under_no_grad_and_inference_mode(model, tokens):
    with torch.no_grad(), inplace.edited(model, EDIT):
        edited = model(tokens)
    with torch.inference_mode(), tlt.truncated(model, CUT):
        assert close(model(tokens).clone(), edited)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_under_autocast_the_cut_is_as_close_as_editing(shared, kind, name, tokens):
    model, site = shared(kind, name), "blocks.1.mlp.W_in"
    with torch.no_grad(), inplace.edited(model, (site, inplace.top(0.3))):
        reference = model(tokens)
        with torch.autocast(architectures.DEVICE.type, dtype=torch.bfloat16):
            edited = model(tokens)
    cut = tlt.Cut(site, 0.3)
    with (
        torch.no_grad(),
        torch.autocast(architectures.DEVICE.type, dtype=torch.bfloat16),
        tlt.truncated(model, cut),
    ):
        result = model(tokens)
    own = float((edited.float() - reference).abs().max())
    assert float((result.float() - reference).abs().max()) <= 2 * own


def test_an_exception_in_a_users_hook_leaves_nothing_behind(model, tokens):
    """Also where the input of a head was being waited for."""

    def fail(value, hook):
        raise KeyError("mine")

    for name in ("blocks.1.attn.hook_z", "blocks.1.hook_attn_out"):
        with (
            pytest.raises(KeyError, match="mine"),
            tlt.truncated(model, tlt.Cut("blocks.1.attn.W_O.2", 0.4)),
        ):
            model.run_with_hooks(tokens, fwd_hooks=[(name, fail)])
        model.reset_hooks()
        assert hooks_left(model) == []
