"""States of a model that change what passes a hook point: the cut is right, or refused."""

import threading
from importlib.metadata import version

import inplace
import pytest
import torch
from architectures import CASES, SPECIAL, WINDOWED
from states import gradients, parameter_gradients, switched
from transformer_lens.model_bridge import TransformerBridge

import tl_truncate as tlt

BRIDGE, VERSION = TransformerBridge, version("transformer-lens")
#: Of every kind of block and of attention one: side by side and in a row, split and grouped.
STATES = [case for case in CASES if case[1] in ("neox-parallel", "gpt2", "llama-grouped")]
KINDS = ("W_Q", "W_V", "W_K.1", "W_O.2")


@pytest.fixture(params=STATES, ids=["-".join(case) for case in STATES])
def model(request, shared):
    """Whose attention computes results and inputs by head, in float64."""
    return shared(*request.param, torch.float64)


def close(first, second, limit=1e-9):
    return float((first - second).detach().abs().max()) <= limit


@pytest.mark.parametrize("by_result", [False, True], ids=["", "use_attn_result"])
@pytest.mark.parametrize(
    "sites",
    [
        ["blocks.1.attn.W_O.2"],
        ["blocks.1.attn.W_O"],
        ["blocks.0.attn.W_Q", "blocks.1.attn.W_K.1", "blocks.2.attn.W_V"],
        ["blocks.1.mlp.W_in", "blocks.1.mlp.W_out"],
    ],
    ids=["head", "joint", "qkv", "mlp"],
)
def test_the_gradient_at_every_hook_point_is_the_edited_models(model, tokens, sites, by_result):
    cuts = [tlt.Cut(site, 0.4) for site in sites]
    with switched(model, "use_attn_result", by_result):
        with inplace.edited(model, *[(site, inplace.top(0.4)) for site in sites]):
            edited = gradients(model, tokens)
        for weights in (False, True):
            with tlt.truncated(model, cuts, weights=weights):
                found = gradients(model, tokens)
            assert len(found) > 20
            assert inplace.difference(found, edited) <= 1e-9


@pytest.mark.parametrize(("kind", "name"), [*(("bridge", name) for name in SPECIAL), *WINDOWED])
def test_activations_and_gradients_of_further_architectures(kind, name, shared, tokens):
    model = shared(kind, name, torch.float64)
    sites = ("attn.W_V", "attn.W_O.2", "mlp.W_in")
    sites = [*(f"blocks.1.{site}" for site in sites), "blocks.2.mlp.W_out", "blocks.2.attn.W_Q.1"]
    with inplace.edited(model, *[(site, inplace.top(0.4)) for site in sites]):
        edited = {**inplace.outputs(model, tokens), **by_gradient(model, tokens)}
    for weights in (False, True):
        with tlt.truncated(model, [tlt.Cut(site, 0.4) for site in sites], weights=weights):
            found = {**inplace.outputs(model, tokens), **by_gradient(model, tokens)}
        assert len(found) > 100
        assert inplace.difference(found, edited) <= 1e-9


def by_gradient(model, tokens) -> dict[str, torch.Tensor]:
    return {f"gradient at {name}": value for name, value in gradients(model, tokens).items()}


def test_plain_hooks_of_a_head_refuse_what_backward_hooks_would_not_see(model, tokens):
    hooks = tlt.truncation_hooks(model, tlt.Cut("blocks.1.attn.W_O.2", 0.4))
    name = hooks[0][0]
    for seen, problem in ((name, tlt.CutNotApplied), ("blocks.0.hook_resid_pre", None)):
        point = model.hook_dict[seen]
        point.add_hook(lambda gradient, hook: None, dir="bwd")
        if problem is None:
            model.run_with_hooks(tokens, fwd_hooks=hooks)
        else:
            with pytest.raises(problem, match=r"Use tlt.truncated\(model, cut\)"):
                model.run_with_hooks(tokens, fwd_hooks=hooks)
        model.reset_hooks()


@pytest.mark.parametrize("weights", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("site", ["attn.W_Q", "attn.W_V.1", "attn.W_O.1", "mlp.W_in", "mlp.W_out"])
def test_gradients_of_parameters(model, tokens, site, weights):
    """Of all but the cut weight they are the edited model's; of it, with the directions held fixed."""
    site = f"blocks.1.{site}"
    matrix, head = site.split(".")[3], site.split(".")[4:]
    cut = tlt.Cut(site, 0.4)
    basis, keeps = cut.edit(model).basis, cut.edit(model).keeps
    project = basis @ basis.T if keeps else torch.eye(len(basis), dtype=basis.dtype) - basis @ basis.T
    own, _ = inplace.parameter(model, 1, matrix)
    with inplace.edited(model, (site, inplace.top(0.4))):
        edited = parameter_gradients(model, tokens)
        wanted = wanted_gradient(model, own, matrix, head, project, tokens)
    with tlt.truncated(model, cut, weights=weights):
        found = parameter_gradients(model, tokens)
    names = [name for name, each in model.named_parameters() if each is own]
    same = {name: value for name, value in found.items() if name not in names}
    assert len(same) > 10
    assert inplace.difference(same, {name: edited[name] for name in same}) <= 1e-9
    assert close(found[names[0]], wanted)


def wanted_gradient(model, own, matrix, head, project, tokens):
    """The edited model's gradient of the matrix, projected on the side on which the cut projects."""
    model.zero_grad()
    logits = model(tokens)
    (logits[0, -1, 5] - logits[1, -2].square().mean()).backward()
    saved, gradient = own.detach().clone(), own.grad.detach().clone()
    model.zero_grad()
    with torch.no_grad():
        own.copy_(gradient)
        value = torch.from_numpy(inplace.read(model, 1, matrix).copy())
        part = slice(int(head[0]) * 8, (int(head[0]) + 1) * 8) if head else slice(None)
        where = (part, slice(None)) if matrix == "W_O" else (slice(None), part)
        value[where] = value[where] @ project
        inplace.write(model, 1, matrix, value.numpy())
        wanted = own.detach().clone()
        own.copy_(saved)
    return wanted


@pytest.mark.parametrize("weights", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("site", ["attn.W_O.1", "mlp.W_out", "attn.W_K"])
def test_finite_differences_of_the_cut_weight(model, tokens, site, weights):
    """In the same context, along a direction of the stored weight."""
    if model.cfg.normalization_type == "RMS" or getattr(model.cfg, "rotary_dim", None):
        pytest.skip("rotary embeddings and RMSNorm are computed in float32, whatever the dtype")
    site = f"blocks.1.{site}"
    own, _ = inplace.parameter(model, 1, site.split(".")[3])
    direction = torch.randn(own.shape, generator=torch.Generator().manual_seed(3), dtype=own.dtype)
    saved = own.detach().clone()

    def value(step):
        own.data.copy_(saved + step * direction)
        with torch.no_grad():
            return float(model(tokens)[0, -1, 5])

    with tlt.truncated(model, tlt.Cut(site, 0.4), weights=weights):
        model.zero_grad()
        model(tokens)[0, -1, 5].backward()
        slope = float((own.grad * direction).sum())
        try:
            difference = (value(1e-4) - value(-1e-4)) / 2e-4
        finally:
            own.data.copy_(saved)
    model.zero_grad()
    assert slope == pytest.approx(difference, rel=1e-4, abs=1e-6)


class TestPathPatching:
    """Each head reads an input of its own."""

    @pytest.mark.parametrize("state", ["use_split_qkv_input", "use_attn_in"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_with_one_heads_input_patched(self, model, tokens, state, kind):
        site = f"blocks.1.attn.{kind}"
        points = {
            "use_split_qkv_input": [f"hook_{each}_input" for each in "qkv"],
            "use_attn_in": ["hook_attn_in"],
        }

        def patch(value, hook):
            value = value.clone()
            value[:, :, 1] = value[:, :, 1].flip(1)
            return value

        if state == "use_attn_in" and hasattr(model.blocks[0].attn, "_W_K"):
            pytest.skip("TransformerLens has it not with grouped queries")
        with switched(model, state):
            names = [name for name in model.hook_dict if name.startswith("blocks.1.")]
            hooks = [(name, patch) for name in names if name.split(".")[-1] in points[state]]
            run = lambda: model.run_with_hooks(tokens, fwd_hooks=hooks)  # noqa: E731
            with torch.no_grad():
                plain = run()
                for weights in (False, True):
                    with tlt.truncated(model, tlt.Cut(site, 0.4), weights=weights):
                        cut = run()
                    with inplace.edited(model, (site, inplace.top(0.4))):
                        edited = run()
                    assert close(cut, edited)
                assert not close(plain, edited, 1e-4)

    def test_switched_on_inside_or_after_the_hooks_were_made(self, model, tokens):
        cut = tlt.Cut("blocks.1.attn.W_Q", 0.4)
        hooks = tlt.truncation_hooks(model, cut)
        refused = pytest.raises(tlt.CutNotApplied, match="one input, each")
        with refused, tlt.truncated(model, cut), switched(model, "use_split_qkv_input"):
            model(tokens)
        with switched(model, "use_split_qkv_input"), refused:
            model.run_with_hooks(tokens, fwd_hooks=hooks)
        model.reset_hooks()


@pytest.mark.parametrize("kind", ["W_V", "W_V.1", "W_K", "W_K.0", "W_Q.1"])
def test_ungrouped_heads(model, tokens, kind):
    site = f"blocks.1.attn.{kind}"
    hooks = tlt.truncation_hooks(model, tlt.Cut(site, 0.4))
    with torch.no_grad(), inplace.edited(model, (site, inplace.top(0.4))):
        edited = model(tokens)
    with torch.no_grad(), switched(model, "ungroup_grouped_query_attention"):
        with tlt.truncated(model, tlt.Cut(site, 0.4)):
            assert close(model(tokens), edited)
        try:
            assert close(model.run_with_hooks(tokens, fwd_hooks=hooks), edited)
        except tlt.CutNotApplied:
            assert kind != "W_Q.1"
            model.reset_hooks()


@pytest.mark.parametrize("site", ["blocks.1.attn.W_O", "blocks.1.attn.W_O.2"])
@pytest.mark.parametrize("first", [False, True])
def test_results_by_head_switched_after_the_hooks_were_made(model, tokens, site, first):
    edit = (site, inplace.top(0.4))
    with torch.no_grad(), inplace.edited(model, edit):
        edited = model(tokens)
    with torch.no_grad(), switched(model, "use_attn_result", first):
        hooks = tlt.truncation_hooks(model, tlt.Cut(site, 0.4))
        assert close(model.run_with_hooks(tokens, fwd_hooks=hooks), edited)
        with switched(model, "use_attn_result", not first):
            # A hook at a point that is switched off is refused by TransformerLens itself.
            with pytest.raises((tlt.CutNotApplied, ValueError, AssertionError), match="use_attn_result"):
                model.run_with_hooks(tokens, fwd_hooks=hooks)
            model.reset_hooks()
        with tlt.truncated(model, tlt.Cut(site, 0.4)):
            for value in (not first, first):
                model.set_use_attn_result(value)
                assert close(model(tokens), edited)


def test_contexts_of_one_head_left_out_of_order(model, tokens):
    site = "blocks.1.attn.W_O.2"
    uncut = model(tokens).detach()
    first, second = (tlt.truncated(model, tlt.Cut(site, keep)) for keep in (0.6, 0.3))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with inplace.edited(model, (site, inplace.top(0.3))):
        edited = model(tokens)
    assert close(model(tokens), edited)
    second.__exit__(None, None, None)
    assert torch.equal(model(tokens), uncut)


def test_hooks_of_one_head_made_apart(model, tokens):
    site = "blocks.1.attn.W_O.2"
    hooks = [tlt.truncation_hooks(model, tlt.Cut(site, keep)) for keep in (0.6, 0.3)]
    with inplace.edited(model, (site, inplace.top(0.3))):
        edited = model(tokens)
    for order in (hooks, hooks[::-1]):
        found = model.run_with_hooks(tokens, fwd_hooks=[each for own in order for each in own])
        assert close(found, edited)


@pytest.mark.parametrize("site", ["attn.W_O", "attn.W_O.1", "mlp.W_out", "mlp.W_in", "attn.W_V"])
def test_a_part_of_the_model_called_by_itself(model, tokens, site):
    """An MLP or a block is cut as in the whole model."""
    site, block = f"blocks.1.{site}", model.blocks[1]
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x.to(tokens.device)
    if "mlp" not in site:
        if hasattr(block, "hook_in"):
            pytest.skip("a Bridge's attention asks for positions and masks")
        call = lambda: block.attn(x, x, x)  # noqa: E731
    else:
        call = lambda: block.mlp(x)  # noqa: E731
    with torch.no_grad():
        with tlt.truncated(model, tlt.Cut(site, 0.3)):
            cut = call()
        with inplace.edited(model, (site, inplace.top(0.3))):
            edited = call()
    assert close(cut, edited)


@pytest.mark.parametrize(("start", "stop"), [(None, 1), (2, None), (1, 2), (2, 3), (None, None)])
def test_part_of_the_layers(model, tokens, start, stop):
    """A pass that never reaches the cut's block raises nothing, in any order of such passes."""
    site = "blocks.1.mlp.W_in"
    if start is not None and isinstance(model, BRIDGE) and VERSION < "4":
        pytest.skip("the Bridge of TransformerLens 3 starts at the embedding")
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
        entry = tokens if start is None else cache[f"blocks.{start}.hook_resid_pre"]

        def run():
            return model(entry, start_at_layer=start, stop_at_layer=stop)

        with tlt.truncated(model, tlt.Cut(site, 0.3)):
            model(tokens, stop_at_layer=1)
            cut = run()
        with inplace.edited(model, (site, inplace.top(0.3))):
            assert close(cut, run())


def test_threads_keep_their_inputs_apart(model, tokens):
    site = "blocks.1.attn.W_O.2"
    rows = [tokens.roll(place, 1) for place in range(6)]
    hooks = tlt.truncation_hooks(model, tlt.Cut(site, 0.3))
    with torch.no_grad(), inplace.edited(model, (site, inplace.top(0.3))):
        edited = [model(each) for each in rows]
    found: dict[int, list[torch.Tensor]] = {}

    def run(place):
        with torch.no_grad():
            found[place] = [model(rows[place]) for _ in range(15)]

    def together():
        threads = [threading.Thread(target=run, args=(place,)) for place in range(len(rows))]
        [thread.start() for thread in threads], [thread.join() for thread in threads]
        for place, values in found.items():
            assert all(close(value, edited[place]) for value in values)

    with tlt.truncated(model, tlt.Cut(site, 0.3)):
        together()
    with model.hooks(fwd_hooks=hooks):
        together()


@pytest.mark.parametrize("weights", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("site", ["blocks.1.attn.W_O.2", "blocks.1.mlp.W_out", "blocks.1.attn.W_Q"])
def test_a_gradient_after_a_pass_under_inference_mode(model, tokens, site, weights):
    with torch.inference_mode(), tlt.truncated(model, tlt.Cut(site, 0.3), weights=weights):
        model(tokens)
        with torch.inference_mode(False):
            found = gradients(model, tokens)
    with inplace.edited(model, (site, inplace.top(0.3))):
        assert inplace.difference(found, gradients(model, tokens)) <= 1e-9


def test_compiled_models(model, tokens):
    """Compiled code would ignore cuts that came later, in the weight or at the output, or keep them."""
    sites = ("blocks.1.attn.W_O.2", "blocks.1.mlp.W_out")
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        uncut = model(tokens)
        # First called inside of the contexts, then, which is what compiles it, before them.
        for _ in ("inside", "before"):
            found = []
            for site in sites:
                with tlt.truncated(model, tlt.Cut(site, 0.3)):
                    found.append(compiled(tokens))
            for site, cut in zip(sites, found, strict=True):
                with inplace.edited(model, (site, inplace.top(0.3))):
                    assert close(cut, model(tokens))
            assert close(compiled(tokens), uncut)
    torch.compiler.reset()


def test_the_users_stance_on_compiling_comes_back(toy):
    """In whatever order contexts are left."""
    seen = []

    @torch.compile(backend=lambda graph, inputs: seen.append("compiled") or graph.forward)
    def double(x):
        return 2 * x

    first, second = (tlt.truncated(toy, tlt.Cut(f"blocks.{layer}.mlp.W_in", 0.3)) for layer in (0, 1))
    try:
        torch.compiler.set_stance("force_eager")
        first.__enter__(), second.__enter__()
        first.__exit__(None, None, None), second.__exit__(None, None, None)
        double(torch.ones(2))
        assert seen == []
    finally:
        torch.compiler.set_stance("default")
        torch.compiler.reset()
    double(torch.ones(2))
    assert seen == ["compiled"]
    torch.compiler.reset()
