"""Cuts of quantised linears: projections of what their own kernel has written."""

import warnings

import inplace
import numpy as np
import pytest
import torch
from architectures import VOCAB
from quantised_models import KINDS, bridged, content, dequantised, hf_quantised, linears, replaced

import tl_truncate as tlt
from tl_truncate.weights.holding.gradients import gradients_through_quantised
from tl_truncate.weights.identity.content import weights_hash

CASES = [("llama", kind) for kind in KINDS] + [
    (name, kind) for name in ("neox", "gpt2") for kind in ("int8-outliers", "nf4-double")
]
LAYER, KEPT = 1, 0.25
TOKENS = torch.randint(3, VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))
# Of float32, in the size of what a linear writes.
ROUNDING = 1e-6


class Case:
    """A model, with what was seen of one of its blocks before any pass."""

    def __init__(self, name, kind):
        self.kind = kind
        self.model = bridged(name, hf_quantised(name, kind))
        components = linears(self.model, LAYER)
        self.linears = {
            matrix: component
            for matrix, component in components.items()
            if type(component.original_component.weight) is not torch.nn.Parameter
        }
        self.weights = {
            matrix: dequantised(component.original_component)
            for matrix, component in self.linears.items()
        }
        self.hash = weights_hash(self.model)
        self.spectra = {matrix: tlt.spectrum(self.model, self.site(matrix)) for matrix in self.linears}
        with torch.no_grad():
            self.logits = self.model(TOKENS)

    def site(self, matrix):
        return f"blocks.{LAYER}.{'attn' if matrix[-1] in 'QKVO' else 'mlp'}.{matrix}"

    def seen(self, matrix):
        """What a linear reads and writes in a pass, `[token, width]` in float64, and its bias."""
        component, kept = self.linears[matrix], {}
        for name, point in (("x", component.hook_in), ("y", component.hook_out)):
            kept[name] = point.register_forward_hook(
                lambda module, args, value, name=name: kept.update({f"{name} value": value})
            )
        with torch.no_grad():
            self.model(TOKENS)
        kept["x"].remove()
        kept["y"].remove()
        bias = component.original_component.bias
        x, y = (kept[f"{name} value"].double().flatten(0, 1) for name in "xy")
        bias = torch.zeros(1) if bias is None else bias.detach().double()
        return x.flatten(1).numpy(), y.flatten(1).numpy(), bias.numpy()


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    """One quantised model, whose bytes are the same in the end."""
    found = Case(*request.param)
    before = {matrix: content(each.original_component) for matrix, each in found.linears.items()}
    yield found
    assert before == {matrix: content(each.original_component) for matrix, each in found.linears.items()}
    assert weights_hash(found.model) == found.hash


def test_spectra_are_of_the_dequantised_weight_before_and_after_passes(case):
    for matrix, weight in case.weights.items():
        found = tlt.spectrum(case.model, case.site(matrix))
        wanted = np.linalg.svd(weight, compute_uv=False)
        assert np.abs(found.S.numpy() - wanted).max() < ROUNDING * wanted[0]
        assert np.abs(found.matrix().double().numpy() - weight).max() < ROUNDING * wanted[0]
        assert torch.equal(found.S, case.spectra[matrix].S)
        assert torch.equal(found.V, case.spectra[matrix].V)


def test_the_dequantised_weight_is_what_the_kernel_multiplies_by(case):
    for matrix, weight in case.weights.items():
        linear = case.linears[matrix].original_component
        with torch.no_grad():
            rows = linear(torch.eye(weight.shape[0])) - (0 if linear.bias is None else linear.bias)
        # One weight, rounded to eight bits at most, and the bias beside it.
        assert np.abs(rows.double().numpy() - weight).max() < 2**-7 * (np.abs(weight).max() + 1)


def test_a_cut_is_the_projection_of_what_the_kernel_has_written(case):
    for matrix, weight in case.weights.items():
        x, y, bias = case.seen(matrix)
        with tlt.truncated(case.model, tlt.Cut(case.site(matrix), KEPT)):
            same, cut, _ = case.seen(matrix)
        assert np.array_equal(same, x)
        kept = np.linalg.svd(weight, full_matrices=False)[2][: int(KEPT * min(weight.shape))]
        exact = bias + (y - bias) @ kept.T @ kept
        assert np.abs(cut - exact).max() < ROUNDING * np.abs(y).max()
        # So it is never further from the truncated weight's output than the kernel is from the weight's.
        kernel = np.linalg.norm(y - (x @ weight + bias), axis=1)
        truncated = inplace.truncate(weight, slice(0, len(kept)))
        gap = np.linalg.norm(cut - (x @ truncated + bias), axis=1)
        assert (gap <= kernel + ROUNDING * np.linalg.norm(y, axis=1)).all()


SITES = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out", "W_Q.1", "W_V.1", "W_O.1", "OV.1")
HEAD = slice(16, 32)  # the second one


def truncated_weight(case, name):
    """The whole dequantised matrix with a cut made in it, and whose it is."""
    matrix, _, head = name.partition(".")
    own = "W_O" if matrix == "OV" else matrix
    weight = case.weights[own].copy()
    if not head:
        return own, inplace.top(KEPT)(weight)
    part = HEAD if own == "W_O" else (slice(None), HEAD)
    change = inplace.top(KEPT)
    if matrix == "OV":
        values = case.model.blocks[LAYER].attn.v.original_component.weight
        values = case.weights["W_V"] if "W_V" in case.weights else values.detach().double().numpy().T
        group = values[:, : 16 if values.shape[1] == 32 else None]  # the first of two groups, or all
        group = group if values.shape[1] == 32 else values[:, HEAD]

        def change(rows):
            writes = np.linalg.svd(group @ rows)[2][: int(KEPT * 16)]
            return rows @ writes.T @ writes

    weight[part] = change(weight[part])
    return own, weight


@pytest.mark.parametrize("name", SITES)
def test_logits_are_those_of_a_plain_linear_of_the_truncated_weight(case, name):
    if {"OV": "W_O"}.get(name[:2], name.split(".")[0]) not in case.linears:
        pytest.skip("the model has no such linear, or a plain one")
    own, edited = truncated_weight(case, name)
    component = case.linears[own]
    cut = tlt.Cut(case.site(name.split(".")[0]) + name[name.find(".") :] * ("." in name), KEPT)
    with torch.no_grad():
        with replaced(component, case.weights[own]):
            plain = case.model(TOKENS)
        with replaced(component, edited):
            wanted = case.model(TOKENS)
        with tlt.truncated(case.model, cut):
            found = case.model(TOKENS)
        by_hooks = case.model.run_with_hooks(TOKENS, fwd_hooks=tlt.truncation_hooks(case.model, cut))
    rounding = (case.logits - plain).norm()
    assert (found - wanted).norm() < 1.5 * rounding
    assert (wanted - plain).norm() > 5 * rounding
    assert torch.equal(by_hooks, found)


def test_a_low_rank_matrix_in_place_of_the_weight(case):
    cut = tlt.Cut(case.site("W_out"), tlt.LaserCompat(0.9))
    left, right = (each.double().numpy() for each in cut.keep.factors(tensor(case.weights["W_out"])))
    with tlt.truncated(case.model, cut):
        x, y, bias = case.seen("W_out")
    assert np.abs(y - (bias + x @ left @ right.T)).max() < 2 * ROUNDING * np.abs(y).max()


def tensor(weight):
    return torch.tensor(weight).float()


def test_gradients_go_through_as_of_the_dequantised_weight(case):
    for matrix, weight in case.weights.items():
        linear = case.linears[matrix].original_component
        x = torch.randn(5, weight.shape[0], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            value = linear(x)
        x.requires_grad_()
        with gradients_through_quantised(case.model):
            again = linear(x)
            (found,) = torch.autograd.grad(again.square().sum(), x)
        assert torch.equal(again.detach(), value)
        wanted = 2 * value.double().numpy() @ weight.T
        assert np.abs(found.double().numpy() - wanted).max() < ROUNDING * np.abs(wanted).max()
        assert "forward" not in vars(linear)


@pytest.fixture(scope="module")
def plain(case):
    """The same model with every quantised linear dequantised, by the package's own numbers."""
    name = {"llama": "llama", "gpt_neox": "neox", "gpt2": "gpt2"}[
        case.model.original_model.config.model_type
    ]
    model = bridged(name, hf_quantised(name, case.kind))
    for layer in range(3):
        for component in linears(model, layer).values():
            own = component.original_component
            if type(own.weight) is torch.nn.Parameter:
                continue
            weight = dequantised(own)
            linear = torch.nn.Linear(*weight.shape, bias=own.bias is not None)
            linear.weight.data = tensor(weight.T.copy())
            linear.bias = own.bias
            component.set_original_component(linear)
    return model


def test_predictions_are_those_of_the_dequantised_model(case, plain, drinks_task):
    sites = [case.site(matrix) for matrix in case.linears]
    one, other = (tlt.attribute(model, drinks_task, sites=sites) for model in (plain, case.model))
    difference = (one.frame.effect - other.frame.effect).to_numpy()
    # By as much as the uncut models differ, in the size of what is predicted.
    assert np.linalg.norm(difference) < 0.05 * np.linalg.norm(one.frame.effect)
    assert one.record.weights_hash != other.record.weights_hash


def test_sweeps_equal_single_evaluations(case, drinks_task):
    sites, keeps = [case.site(matrix) for matrix in ("W_out", "W_in", "W_O")], [0.0, KEPT]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", tlt.FullPassesWarning)
        swept = tlt.sweep(case.model, drinks_task, sites=sites, keeps=keeps)
    reasons = [str(each.message) for each in caught if each.category is tlt.FullPassesWarning]
    assert not reasons or "outliers" in case.kind
    assert all("(its kernels round: bitsandbytes int8 (threshold 1.5))" in each for each in reasons)
    # LLM.int8() takes its outlier columns from all rows of a batch, so that its own scores depend on it.
    one, other = (tlt.evaluate(case.model, drinks_task, batch_size=size) for size in (1, 4))
    own = np.abs(one.frame.logit_diff - other.frame.logit_diff).max()
    assert own < (0.05 if "outliers" in case.kind else 1e-5)
    for row in swept.frame.itertuples():
        scores = tlt.evaluate(case.model, drinks_task, cuts=[tlt.Cut(row.site, row.keep)])
        assert abs(scores.frame.logit_diff.mean() - row.logit_diff) <= own + 1e-5
    assert swept.frame.logit_diff.std() > 0.1


def test_other_scales_are_other_weights(case):
    linear = case.linears["W_out"].original_component
    if case.kind == "torchao":
        scales = linear.weight.scale
    elif case.kind.startswith("int8"):
        scales = linear.state.SCB
    else:
        scales = linear.weight.quant_state.absmax
    kept, codes = scales.clone(), linear.weight.data if case.kind != "torchao" else linear.weight.qdata
    before = codes.clone()
    try:
        scales[0] *= 2
        assert torch.equal(codes, before)
        assert weights_hash(case.model) != case.hash
        assert not torch.equal(tlt.spectrum(case.model, case.site("W_out")).S, case.spectra["W_out"].S)
    finally:
        scales.copy_(kept)


class TestRefused:
    def test_readers_of_the_weight(self, case):
        cut = tlt.Cut(case.site("W_out"), KEPT)
        with (
            pytest.raises(ValueError, match=r"must be a plain one, but that of .*W_out is quantised \("),
            tlt.truncated(case.model, cut, weights=True),
        ):
            pass

    def test_what_is_linear_only_without_the_kernels_rounding(self, case, drinks_task):
        if case.kind == "torchao":
            pytest.skip("its kernel has the rounding of float32")
        with pytest.raises(
            ValueError, match=r"linear along frozen patterns.*load quantised weights as plain"
        ):
            tlt.decompose_mlp(case.model, TOKENS, layer=LAYER, method="own_path")

    def test_backward_hooks_that_would_see_a_part(self, case):
        cut = tlt.Cut(case.site("W_O") + ".1", KEPT)
        point = case.linears["W_O"].hook_in
        point.add_hook(lambda grad, hook: None, dir="bwd")
        try:
            with (
                pytest.raises(
                    tlt.CutNotApplied, match=r"but a cut of the quantised .*W_O\.1 leads a part"
                ),
                tlt.truncated(case.model, cut),
                gradients_through_quantised(case.model),
            ):
                case.model(TOKENS)
        finally:
            point.remove_hooks("bwd")


def test_searches_and_masks(case):
    """They run, and leave nothing behind; what they are made of is compared above."""
    if (case.kind, "W_gate" in case.linears) not in (("nf4-double", True), ("int8-outliers", True)):
        pytest.skip("one of each is enough")
    prompts = [
        f"{one} gave a drink to"
        for one in ("Mary", "John", "the", "a", "Paris", "London", "Rome", "The")
    ]
    task = tlt.Task("drinks", prompts, [" John"] * len(prompts), " the")
    options = dict(sites=[case.site("W_out")], draws=1, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tlt.FullPassesWarning)
        found = tlt.search(case.model, task, keeps=[KEPT, 0.5], **options)
        learnt = tlt.learn_mask(case.model, task, budget=8, steps=3, watch_fraction=0.5, **options)
    assert len(found.cuts) <= 1
    assert learnt.history.step.tolist() == [0, 1, 2, 3]


def test_parts_are_of_what_the_kernel_writes(case):
    means = tlt.TokenMeans.fit(case.model, TOKENS, layers=[LAYER])
    for method, options in (("token_mean", dict(means=means)), ("context_ablation", {})):
        parts = tlt.decompose_mlp(case.model, TOKENS, layer=LAYER, method=method, **options)
        whole = case.seen("W_out")[1]
        total = (parts.global_ + parts.in_context).double().flatten(0, 1).numpy()
        assert np.abs(total - whole).max() < ROUNDING * np.abs(whole).max()


@pytest.mark.parametrize("kind", ["int8-outliers", "nf4", "nf4-double"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision(kind, dtype):
    """Biases change their precision in the first pass, and the weights stay the same model's."""
    model = bridged("llama", hf_quantised("llama", kind, dtype))
    before = weights_hash(model)
    component = linears(model, LAYER)["W_out"]
    weight, kept = dequantised(component.original_component), int(KEPT * 64)
    with torch.no_grad():
        model(TOKENS)
    assert weights_hash(model) == before
    outputs = []
    handle = component.hook_out.register_forward_hook(lambda module, args, value: outputs.append(value))
    with torch.no_grad():
        model(TOKENS)
        with tlt.truncated(model, tlt.Cut(f"blocks.{LAYER}.mlp.W_out", KEPT)):
            model(TOKENS)
    handle.remove()
    assert outputs[0].dtype == dtype
    uncut, cut = (value.double().flatten(0, 1).numpy() for value in outputs)
    bias = component.original_component.bias.detach().double().numpy()
    rows = np.linalg.svd(weight, full_matrices=False)[2][:kept]
    exact = bias + (uncut - bias) @ rows.T @ rows
    # The cut value is rounded once, to the precision of the model.
    assert np.abs(cut - exact).max() <= torch.finfo(dtype).eps * np.abs(exact).max()
