"""Gradients of singular values against autograd through factors in the model, and finite differences."""

import inplace
import numpy as np
import pytest
import torch
from architectures import CASES, ROUNDS, with_tokenizer
from samples import PAIRS, SEQUENCES, all_sites

import tl_truncate as tlt
from tl_truncate.experiments.scoring.answers import plan_batches
from tl_truncate.experiments.screening.value_gradients import gradients_of
from tl_truncate.tasks.encode import encode

OPTIONS = dict(prepend_bos=False, progress=False)


def stored_layout(model, site, whole):
    """`[n_in, n_out]` of all heads as the parameter holds it, by operations that autograd sees."""
    parameter, layout = inplace.parameter(model, site.layer, site.matrix)
    if layout == "heads":
        if site.matrix == "W_O":
            return whole.reshape(parameter.shape)
        return whole.reshape(whole.shape[0], parameter.shape[0], -1).permute(1, 0, 2)
    return whole.T if layout == "out,in" else whole


def by_autograd(model, task, site, metric):
    """d metric / d S with W = U diag(S) V^T for the parameter, factors by NumPy."""
    parameter, _ = inplace.parameter(model, site.layer, site.matrix)
    whole = inplace.read(model, site.layer, site.matrix)
    part = (slice(None), slice(None))
    if site.head is not None:
        own = slice(8 * site.head, 8 * site.head + 8)
        part = (own, slice(None)) if site.matrix == "W_O" else (slice(None), own)
    u, s, vh = (torch.tensor(each) for each in np.linalg.svd(whole[part], full_matrices=False))
    s.requires_grad_()
    matrix = torch.tensor(whole.copy())
    matrix[part] = (u * s) @ vh
    factored = stored_layout(model, site, matrix)
    assert torch.allclose(factored, parameter, atol=1e-12)
    total = 0.0
    for batch in plan_batches([encode(model, task, prepend_bos=False)], 32):
        logits = model(batch.tokens, return_type="logits")
        said = logits[:, -batch.positions :].log_softmax(-1)
        for row, answers in enumerate(batch.answers):
            for answer in answers:
                count = len(answer.tokens)
                own = said[row, -count:][range(count), list(answer.tokens)].sum()
                sign = {"logit_diff": (1, -1), "p_in_context": (1, 0), "p_global": (0, 1)}[metric]
                weight = sign[0] if answer.kind == "in_context" else sign[1]
                total = total + weight * (own if metric == "logit_diff" else own.exp())
    (of_the_weight,) = torch.autograd.grad(total / len(task), parameter)
    return torch.autograd.grad(factored, s, of_the_weight.to(factored))[0].numpy()


@pytest.mark.parametrize("metric", ["logit_diff", "p_in_context", "p_global"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_autograd_through_the_factors(shared, drinks, kind, name, metric):
    model = with_tokenizer(shared(kind, name, torch.float64))
    sites = all_sites(model)
    found = tlt.singular_value_gradients(model, drinks, sites=sites, metric=metric, **OPTIONS)
    allowed = 2e-5 if (kind, name) in ROUNDS else 1e-10
    for site in sites if metric == "logit_diff" else sites[-4:]:
        own = found.frame[found.frame["site"] == str(site)]
        wanted = by_autograd(model, drinks, site, metric)
        assert own["gradient"].to_numpy() == pytest.approx(wanted, abs=allowed, rel=1e-7), site


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case[1] in ("gpt2", "no-norm")])
def test_finite_differences(shared, drinks, kind, name):
    """One singular value a little larger and smaller, in the stored weight."""
    model = with_tokenizer(shared(kind, name, torch.float64))
    for site in ("blocks.1.mlp.W_in", "blocks.0.attn.W_O.2"):
        found = tlt.singular_value_gradients(model, drinks, sites=[site], **OPTIONS).frame["gradient"]
        for component in (0, 5):

            def grown(matrix, by, component=component):
                u, _, vh = np.linalg.svd(matrix, full_matrices=False)
                return matrix + by * np.outer(u[:, component], vh[component])

            ends = []
            for step in (1e-5, -1e-5):
                with inplace.edited(model, (site, lambda matrix, step=step: grown(matrix, step))):
                    ends.append(float(tlt.evaluate(model, drinks, **OPTIONS).logit_diff))
            assert found[component] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-6)


def test_answers_of_several_tokens(shared):
    model, site = shared("bridge", "gpt2", torch.float64), tlt.Site(2, "W_out")
    found = tlt.singular_value_gradients(model, SEQUENCES, sites=[site], **OPTIONS)
    wanted = by_autograd(model, SEQUENCES, site, "logit_diff")
    assert found.frame["gradient"].to_numpy() == pytest.approx(wanted, abs=1e-10)


def test_it_is_the_screen_read_another_way(toy):
    found = tlt.singular_value_gradients(toy, PAIRS, progress=False)
    screen = tlt.attribute(toy, PAIRS, progress=False)
    frame, effects = found.frame, screen.frame
    wanted = -effects["effect"] / effects["singular_value"]
    assert np.allclose(frame["gradient"], wanted, rtol=1e-5, atol=1e-8)
    assert np.allclose(frame["gradient_se"], effects["effect_se"] / effects["singular_value"], rtol=1e-4)
    assert np.allclose(frame["q"], effects["q"], atol=1e-9)
    site = "blocks.1.mlp.W_out"
    own = frame[frame["site"] == site]["gradient"]
    assert found.shrinking(site, 8) == pytest.approx(-own[8:].sum(), abs=1e-9)
    assert found.shrinking(site, 1.0) == 0.0
    top = found.top(3)["gradient"].abs().tolist()
    assert top == sorted(frame["gradient"].abs(), reverse=True)[:3]
    sites = found.sites
    assert sites["score"].is_monotonic_decreasing
    row = sites.set_index("site").loc[site]
    assert row["score"] == pytest.approx(-own[own < 0].sum())
    assert row["share"] == (own < 0).mean()
    assert row["norm"] == pytest.approx(np.linalg.norm(own))
    assert str(found).startswith(
        "Gradient of logit_diff with respect to singular values on pairs (6 prompts"
    )


def test_a_cut_at_work_counts(shared, drinks):
    """What is cut already does not answer to its singular value."""
    model, site = shared("bridge", "gpt2", torch.float64), "blocks.1.mlp.W_in"
    with tlt.truncated(model, tlt.Cut(site, 8)):
        found = tlt.singular_value_gradients(model, drinks, sites=[site], **OPTIONS).frame["gradient"]
    assert found[8:].abs().max() < 1e-12
    assert found[:8].abs().min() > 1e-6


def test_a_value_that_is_zero_has_no_gradient(drinks):
    import architectures

    model = architectures.bridge("gpt2", torch.float64)
    site = "blocks.1.mlp.W_in"
    inplace.write(model, 1, "W_in", inplace.top(0.5)(inplace.read(model, 1, "W_in")))
    found = tlt.singular_value_gradients(model, drinks, sites=[site], **OPTIONS)
    gradients = found.frame["gradient"]
    assert gradients[:16].notna().all()
    assert gradients[16:].isna().all()
    assert np.isfinite(found.sites[["score", "share", "norm"]].to_numpy(float)).all()
    assert np.isnan(found.shrinking(site, 8))


def test_the_closed_form_of_nothing():
    assert torch.isnan(gradients_of(torch.ones(1, 2), torch.zeros(2), (2, 2))).all()


def test_it_comes_back_as_itself(toy, drinks, tmp_path):
    found = tlt.singular_value_gradients(toy, drinks, progress=False)
    found.save(tmp_path / "a.safetensors")
    again = tlt.SingularValueGradients.load(tmp_path / "a.safetensors")
    assert again.frame.equals(found.frame)
    assert str(again) == str(found)


def test_bad_input(toy, drinks):
    with pytest.raises(ValueError, match=r"metric must be one of .*got 'accuracy'.*have no gradient"):
        tlt.singular_value_gradients(toy, drinks, metric="accuracy")
    found = tlt.singular_value_gradients(toy, drinks, sites=["blocks.1.mlp.W_in"], progress=False)
    with pytest.raises(ValueError, match="must be one of those attributed"):
        found.shrinking("blocks.2.mlp.W_in", 0.5)
    with pytest.raises(ValueError, match="n must be an integer from 1 up"):
        found.top(0)
    assert all(parameter.grad is None for parameter in toy.parameters())


def test_it_has_a_page(toy, drinks, tmp_path):
    found = tlt.singular_value_gradients(toy, drinks, sites=["blocks.1.mlp.W_in"], progress=False)
    text = tlt.write_report(found, tmp_path / "report.html").read_text()
    assert "singular value gradients" in text
    assert "layer 1, W_in" in text


def test_half_precision_says_nothing_of_small_components(shared):
    """What a pass rounds away has no gradient that could be read off it."""
    site = "blocks.1.mlp.W_out"
    model = shared("bridge", "gpt2", torch.bfloat16)
    values = tlt.spectrum(model, site).S.double()
    assert bool((values > 2 * values[0] * 2**-7).all())  # of random weights all are known
    effects = torch.ones(2, 3)
    found = gradients_of(effects, torch.tensor([1.0, 0.1, 1e-3]), (32, 32), 2**-7)
    assert torch.isnan(found[:, 2]).all()
    assert not torch.isnan(found[:, :2]).any()
    task = tlt.Task("drink", ["Mary gave a drink to"], [" John"], " the")
    with inplace.edited(with_tokenizer(model), (site, inplace.top(20.5 / 32))):
        frame = tlt.singular_value_gradients(model, task, sites=[site], progress=False).frame
    known = frame.set_index("component")["gradient"].notna()
    assert known[:20].all()
    assert not known[20:].any()
