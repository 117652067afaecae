"""With `weights=True` whoever reads a weight sees the cut one, and nothing that is stored changes."""

import copy

import inplace
import numpy as np
import pytest
import torch
from architectures import CASES
from shared_models import hooks_left, weights_hash

import tl_truncate as tlt

#: A joint matrix, one head of each kind, both sides of the MLP.
SITES = (
    "blocks.0.mlp.W_in",
    "blocks.0.attn.W_Q",
    "blocks.1.attn.W_O.2",
    "blocks.1.mlp.W_out",
    "blocks.2.attn.W_V.1",
    "blocks.2.attn.W_O",
)
CUTS = [tlt.Cut(site, 0.4) for site in SITES]
EDITS = [(site, inplace.top(0.4)) for site in SITES]


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def each(request, shared):
    """Every architecture in float64, on every class that there is."""
    return shared(*request.param, torch.float64)


@pytest.fixture(params=[case for case in CASES if case[1] in ("gpt2", "llama-grouped")], ids="-".join)
def model(request, shared):
    """Of each class two, in float64."""
    return shared(*request.param, torch.float64)


def analyses(model, tokens) -> dict[str, torch.Tensor]:
    """What reads weights beside the model's own pass: properties, factored circuits, methods of a cache."""
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
        block = model.blocks[1]
        found = {f"cache {name}": cache[name] for name in cache.keys()}  # noqa: SIM118
        found |= {"logits": logits, "attribute": block.attn.W_O, "mlp": block.mlp.W_out}
        for name in ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out"):
            found[name] = getattr(model, name)
        found["OV"], found["QK"] = model.OV.AB, model.QK.AB
        found["results"] = cache.stack_head_results(3)
        found["neurons"] = cache.stack_neuron_results(3)
        found["decomposed"] = cache.get_full_resid_decomposition(expand_neurons=True)
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    return {name: value.detach().clone() for name, value in tensors.items()}


def test_every_reader_sees_the_edited_weights(each, tokens):
    before = weights_hash(each)
    with inplace.edited(each, *EDITS):
        edited = analyses(each, tokens)
    uncut = analyses(each, tokens)
    with tlt.truncated(each, CUTS, weights=True):
        state = {name: value.clone() for name, value in each.state_dict().items()}
        assert weights_hash(each) == before
        cut = analyses(each, tokens)
    assert inplace.difference(cut, edited) <= 1e-9
    assert inplace.difference(cut, uncut) > 1e-2
    assert inplace.difference(analyses(each, tokens), uncut) == 0
    assert weights_hash(each) == before
    assert hooks_left(each) == []
    stored = each.state_dict()
    assert all(torch.equal(stored[name], value) for name, value in state.items())


def test_the_sum_of_the_heads_is_what_the_attention_writes(model, tokens):
    """Where the plain context leaves the readers with the uncut weight."""
    cut = tlt.Cut("blocks.1.attn.W_O", 0.1)
    for weights in (True, False):
        with torch.no_grad(), tlt.truncated(model, cut, weights=weights):
            _, cache = model.run_with_cache(tokens)
            both = cache.stack_head_results(2) - 0
            heads = both[-model.cfg.n_heads :].sum(0)
            bias = model.blocks[1].attn.b_O
            gap = float((heads + bias - cache["blocks.1.hook_attn_out"]).abs().max())
        assert (gap < 1e-9) == weights


def test_contexts_nest_and_are_left_in_any_order(model, tokens):
    edits = [(SITES[2], inplace.top(0.4)), ("blocks.1.attn.W_O.1", inplace.top(0.4))]
    first = tlt.truncated(model, tlt.Cut(edits[0][0], 0.4), weights=True)
    second = tlt.truncated(model, tlt.Cut(edits[1][0], 0.4), weights=True)
    uncut = inplace.outputs(model, tokens)
    first.__enter__()
    second.__enter__()
    both = inplace.outputs(model, tokens)
    first.__exit__(None, None, None)
    one = inplace.outputs(model, tokens)
    second.__exit__(None, None, None)
    with inplace.edited(model, *edits):
        assert inplace.difference(both, inplace.outputs(model, tokens)) <= 1e-9
    with inplace.edited(model, edits[1]):
        assert inplace.difference(one, inplace.outputs(model, tokens)) <= 1e-9
    assert inplace.difference(uncut, inplace.outputs(model, tokens)) == 0


@pytest.mark.parametrize("weights", [True, False])
def test_two_cuts_of_one_site_are_one_call_or_two(model, tokens, weights):
    """Each is of the weight as it is stored, and the second is made of what the first left."""
    one, other = tlt.Cut(SITES[2], 6), tlt.RandomSubspace(SITES[2], 5, seed=1)
    spec = tlt.spectrum(model, SITES[2])
    with tlt.truncated(model, one, other, weights=weights):
        together = inplace.outputs(model, tokens)
    with tlt.truncated(model, one, weights=weights), tlt.truncated(model, other, weights=weights):
        nested = inplace.outputs(model, tokens)
    assert inplace.difference(together, nested) <= 1e-12
    basis = other.edit(model).basis.numpy()
    keeps = other.edit(model).keeps
    project = basis @ basis.T if keeps else np.eye(len(basis)) - basis @ basis.T
    kept = spec.V[:, :6].numpy() @ spec.V[:, :6].numpy().T
    with inplace.edited(model, (SITES[2], lambda matrix: matrix @ kept @ project)):
        assert inplace.difference(together, inplace.outputs(model, tokens)) <= 1e-9


def test_a_spectrum_read_inside_is_of_the_cut_weight(model):
    with tlt.truncated(model, tlt.Cut("blocks.1.mlp.W_out", 5), weights=True):
        inside = tlt.spectrum(model, "blocks.1.mlp.W_out").S
        with tlt.truncated(model, tlt.Cut("blocks.1.mlp.W_out", tlt.DropTop(5)), weights=True):
            both = tlt.spectrum(model, "blocks.1.mlp.W_out").S
    outside = tlt.spectrum(model, "blocks.1.mlp.W_out").S
    assert torch.allclose(inside[:5], outside[:5], atol=1e-9)
    assert float(inside[5:].abs().max()) < 1e-7
    assert float(both.abs().max()) < 1e-7  # dropped and kept were chosen from what is stored
    with tlt.truncated(model, tlt.Cut("blocks.1.mlp.W_out", 5)):
        assert torch.equal(tlt.spectrum(model, "blocks.1.mlp.W_out").S, outside)


def test_left_by_an_exception_it_leaves_nothing(model, tokens):
    before, uncut = weights_hash(model), inplace.outputs(model, tokens)
    with pytest.raises(KeyError, match="mine"), tlt.truncated(model, CUTS, weights=True):
        model(tokens)
        raise KeyError("mine")
    assert weights_hash(model) == before
    assert inplace.difference(inplace.outputs(model, tokens), uncut) == 0
    assert type(model.blocks[1].mlp).__dict__.get("_readings") is None


def test_what_is_stored_may_change_inside(model, tokens):
    """The removed directions stay, and the rest follows, through `.data` too."""
    site = "blocks.1.mlp.W_out"
    parameter, _ = inplace.parameter(model, 1, "W_out")
    saved = parameter.detach().clone()
    project = tlt.Cut(site, 0.4).edit(model)
    basis = project.basis.numpy()
    kept = basis @ basis.T if project.keeps else np.eye(len(basis)) - basis @ basis.T
    try:
        with tlt.truncated(model, tlt.Cut(site, 0.4), weights=True):
            model(tokens)
            parameter.data[0, 0] += 0.5
            through_data = inplace.outputs(model, tokens)
            with torch.no_grad():
                parameter[0, 1] += 0.5
            in_place = inplace.outputs(model, tokens)
        with inplace.edited(model, (site, lambda matrix: matrix @ kept)):
            assert inplace.difference(in_place, inplace.outputs(model, tokens)) <= 1e-9
        with torch.no_grad():
            parameter[0, 1] = saved[0, 1]
        with inplace.edited(model, (site, lambda matrix: matrix @ kept)):
            assert inplace.difference(through_data, inplace.outputs(model, tokens)) <= 1e-9
    finally:
        with torch.no_grad():
            parameter.copy_(saved)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_other_precisions_it_is_the_edited_weight_rounded(shared, tokens, dtype):
    model = shared("bridge", "gpt2", dtype)
    with tlt.truncated(model, CUTS, weights=True):
        cut = {site: inplace_read(model, site) for site in SITES}
    with inplace.edited(model, *EDITS):
        for site, value in cut.items():
            edited = inplace_read(model, site)
            assert float((value - edited).abs().max()) <= 2 * torch.finfo(dtype).eps * float(
                edited.abs().max()
            )


def inplace_read(model, site: str) -> torch.Tensor:
    _, layer, part, matrix, *_ = site.split(".")
    return getattr(getattr(model.blocks[int(layer)], part), matrix).detach().double().clone()


def test_token_reading_cuts_are_refused(toy, tokens):
    means = tlt.TokenMeans.fit(toy, tokens, layers=[1], progress=False)
    removal = tlt.GlobalRemoval(1, means=means)
    refused = pytest.raises(ValueError, match=r"With weights=True .* depends on\s+the tokens: GlobalRem")
    with refused, tlt.truncated(toy, removal, weights=True):
        raise AssertionError("entered")
    assert hooks_left(toy) == []


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("site", ["blocks.1.mlp.W_in", "blocks.1.attn.W_O.1"])
def test_a_model_is_not_copied_while_it_is_cut(model, tokens, site, weights):
    with torch.no_grad():
        uncut = model(tokens)
        with tlt.truncated(model, tlt.Cut(site, 0.3), weights=weights):
            for module in (model, model.blocks[1]):
                with pytest.raises(RuntimeError, match=r"must be copied or pickled outside"):
                    copy.deepcopy(module)
        assert torch.equal(copy.deepcopy(model)(tokens), uncut)


def test_a_cut_in_the_weight_after_one_at_the_output_is_refused(toy):
    one, other = tlt.Cut("blocks.1.mlp.W_out", 0.5), tlt.RandomSubspace("blocks.1.mlp.W_out", 0.5)
    refused = pytest.raises(ValueError, match="made in the order in which they are")
    with tlt.truncated(toy, one), refused, tlt.truncated(toy, other, weights=True):
        raise AssertionError("entered")


class TestWhatChoosesACutInside:
    """Everything that leads to a cut goes by the stored weight, as the cut itself does."""

    SITE = "blocks.1.mlp.W_out"

    def test_a_sweep_is_an_evaluation(self, toy, drinks):
        with tlt.truncated(toy, tlt.Cut(self.SITE, tlt.DropTop(4)), weights=True):
            table = tlt.sweep(toy, drinks, sites=[self.SITE], keeps=[8], progress=False).frame
            scores = tlt.evaluate(toy, drinks, tlt.Cut(self.SITE, 8), progress=False)
        assert float(table["logit_diff"][0]) == pytest.approx(float(scores.logit_diff), abs=1e-4)

    def test_shares_are_along_the_components_that_cuts_name(self, toy, tokens):
        around = tlt.Cut(self.SITE, tlt.DropTop(4))
        outside = tlt.TokenMeans.fit(toy, tokens, layers=[1], progress=False)
        with tlt.truncated(toy, around, weights=True):
            inside = tlt.TokenMeans.fit(toy, tokens, layers=[1], progress=False)
            found = [tlt.component_shares(toy, self.SITE, means).values for means in (inside, outside)]
        for values, gone in (
            (found[0], range(4)),  # what the cut has taken writes nothing, of which no share is known
            (found[1], ()),
            (tlt.component_shares(toy, self.SITE, inside).values, range(4)),
        ):
            assert values.isnan().nonzero()[:, 0].tolist() == list(gone)
            assert float(values.nan_to_num(nan=0.0).max()) < 1.5

    @pytest.mark.parametrize("weights", [True, False])
    def test_an_attribution_sees_the_cut_head(self, toy, drinks, weights):
        head = "blocks.1.attn.W_O.2"
        with tlt.truncated(toy, tlt.Cut(head, 3), weights=weights):
            found = tlt.attribute(toy, drinks, sites=[head], progress=False)
        assert float(found.effect(head, 3)) == pytest.approx(0, abs=1e-5)


def test_rows_that_change_places_are_seen(model, tokens):
    parameter, _ = inplace.parameter(model, 1, "W_out")
    saved = parameter.detach().clone()
    try:
        with torch.no_grad(), tlt.truncated(model, tlt.Cut("blocks.1.mlp.W_out", 0.4), weights=True):
            model(tokens)
            parameter.data.copy_(saved.flip(0))
            through_data = model(tokens)
            parameter.mul_(1.0)
            assert torch.equal(through_data, model(tokens))
    finally:
        parameter.data.copy_(saved)


@pytest.mark.parametrize("site", ["blocks.0.attn.W_O.1", "blocks.1.mlp.W_out"])
@pytest.mark.parametrize("method", ["token_mean", "own_path", "context_ablation", "spectral"])
def test_parts_inside_are_the_edited_models(model, tokens, site, method):
    """Their closed forms read weights too, and would cut twice what reads as cut already."""

    def parts():
        means = tlt.TokenMeans.fit(model, tokens, layers=[1], progress=False)
        own = means if method == "token_mean" else None
        found = {"global": tlt.decompose_mlp(model, tokens, 1, method, means=own).global_}
        with torch.no_grad(), tlt.without_global(model, [1], method, means=own):
            return {**found, "logits": model(tokens)}

    with inplace.edited(model, (site, inplace.top(0.4))):
        edited = parts()
    for weights in (True, False):
        with tlt.truncated(model, tlt.Cut(site, 0.4), weights=weights):
            assert inplace.difference(parts(), edited) <= 1e-9


def test_a_replacement_does_not_undo_a_cut_before_it(model, tokens):
    """A sketch on the side of the inputs stands for a matrix made of the stored weight."""
    first, sketch = tlt.Cut("blocks.1.mlp.W_out", 4), tlt.Cut("blocks.1.mlp.W_out", tlt.LaserCompat(0.5))
    wording = r"must be the first one of blocks\.1\.mlp\.W_out, since it would undo those before it"
    with pytest.raises(ValueError, match=wording):
        tlt.truncation_hooks(model, [first, sketch])
    with pytest.raises(ValueError, match=wording), tlt.truncated(model, first, sketch, weights=True):
        pass
    with (
        tlt.truncated(model, first, weights=True),
        pytest.raises(ValueError, match=wording),
        tlt.truncated(model, sketch, weights=True),
    ):
        pass
    with tlt.truncated(model, sketch), tlt.truncated(model, first):
        context = model(tokens)
    with tlt.truncated(model, sketch, first, weights=True):
        torch.testing.assert_close(model(tokens), context, rtol=0, atol=1e-9)
    assert hooks_left(model) == []
