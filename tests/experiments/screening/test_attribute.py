"""Predictions against finite differences of real cuts, and against gradients taken elsewhere."""

from dataclasses import replace

import inplace
import numpy as np
import pytest
import torch
from architectures import CASES, ROUNDS, with_tokenizer
from samples import SEQUENCES, all_sites
from scipy import stats

import tl_truncate as tlt
from tl_truncate.statistics import estimate_mean, mean_columns

NAMES = ("Mary", "Paris", "London", "Rome", "Italy")


def slope(model, task, cut_at, metric, uncut=None) -> float:
    """The change of a metric per strength of a cut, by a central difference."""
    step = 1e-4
    ends = [
        tlt.evaluate(model, task, cut_at(strength), baseline=uncut, prepend_bos=False, progress=False)
        for strength in (step, -step)
    ]
    values = [float(end.estimate(metric)) for end in ends]
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("metric", ["logit_diff", "p_in_context", "p_global"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_first_order_in_the_strength_of_a_cut(shared, drinks, kind, name, metric):
    model = with_tokenizer(shared(kind, name, torch.float64))
    sites = all_sites(model)
    screen = tlt.attribute(model, drinks, sites=sites, metric=metric, prepend_bos=False, progress=False)
    allowed = 2e-3 if (kind, name) in ROUNDS else 1e-6
    uncut = tlt.evaluate(model, drinks, prepend_bos=False, progress=False)  # asked once
    for site in sites if metric == "logit_diff" else sites[-4:]:
        found = screen.effect(site, keep=0.3)
        cut_at = lambda s, site=site: tlt.Cut(site, 0.3, strength=s)  # noqa: E731
        wanted = slope(model, drinks, cut_at, metric, uncut)
        assert float(found) == pytest.approx(wanted, abs=allowed), site


def test_where_an_mlp_has_all_positions_of_all_rows_in_one_axis(shared, drinks):
    """OPT's: rows of one batch, of which each has its own effect, and rows alone say the same."""
    model = with_tokenizer(shared("bridge", "opt-learnt", torch.float64))
    sites = [tlt.Site(1, "W_in"), tlt.Site(1, "W_out"), tlt.Site(1, "W_O")]
    options = dict(sites=sites, prepend_bos=False, progress=False)
    screen = tlt.attribute(model, drinks, **options)
    alone = tlt.attribute(model, drinks, batch_size=1, **options)
    for site in sites:
        assert torch.allclose(screen.by_row[site], alone.by_row[site], atol=1e-12)
        wanted = slope(model, drinks, lambda s, site=site: tlt.Cut(site, 0.3, strength=s), "logit_diff")
        # Its softmax is one of float32 whatever the weights are, which a small step feels.
        assert float(screen.effect(site, keep=0.3)) == pytest.approx(wanted, abs=5e-4), site


def test_each_component_is_its_own_cut(shared, drinks):
    model, site = shared("bridge", "neox-parallel", torch.float64), tlt.Site(1, "W_in")
    screen = tlt.attribute(model, drinks, sites=[site], prepend_bos=False, progress=False)
    for component in (0, 3, 31):
        others = tlt.Components([i for i in range(32) if i != component])
        wanted = slope(model, drinks, lambda s: tlt.Cut(site, others, strength=s), "logit_diff")
        row = screen.frame.loc[component]
        assert row["effect"] == pytest.approx(wanted, abs=1e-6)
        assert float(screen.effect(site, others)) == pytest.approx(row["effect"], abs=1e-12)


def test_answers_of_several_tokens(shared):
    model, site = shared("bridge", "gpt2", torch.float64), tlt.Site(2, "W_out")
    screen = tlt.attribute(model, SEQUENCES, sites=[site], prepend_bos=False, progress=False)
    wanted = slope(model, SEQUENCES, lambda s: tlt.Cut(site, 0.3, strength=s), "logit_diff")
    assert float(screen.effect(site, 0.3)) == pytest.approx(wanted, abs=1e-6)


class TestPromptsAreTheUnits:
    """Also where a prompt's answers take several passes, or two prompts are equal."""

    @pytest.fixture(scope="class")
    def task(self):
        prompts = [f"When {a} and John went to the store , John gave a drink to" for a in NAMES]
        first = tlt.Task(
            "long", prompts, [f" {a} and Paris" for a in NAMES], " the store", scoring="sequence"
        )
        again = first.subset([0, 0, 1, 2, 3, 4])
        return tlt.Task(
            "long",
            again.prompts,
            (" Rome and Paris", *again.in_context[1:]),
            " the store",
            scoring="sequence",
        )

    def test_the_standard_error_is_over_prompts(self, shared, task):
        model, site = shared("bridge", "gpt2", torch.float64), tlt.Site(1, "W_out")
        options = dict(sites=[site], prepend_bos=False, progress=False)
        screen = tlt.attribute(model, task, **options)
        alone = [tlt.attribute(model, task.subset([i]), **options) for i in range(len(task))]
        assert len(screen.by_row[site]) == len(task)
        for prompt, one in enumerate(alone):
            assert torch.allclose(screen.by_row[site][prompt], one.by_row[site][0], atol=1e-12)
        effects = [float(one.effect(site, 0.3)) for one in alone]
        found, wanted = screen.effect(site, 0.3), estimate_mean(effects)
        assert (found.se, found.low, found.high, found.n) == pytest.approx(
            (wanted.se, wanted.low, wanted.high, len(task))
        )
        first = [float(one.by_row[site][0, 0]) for one in alone]
        assert screen.frame["effect_se"][0] == pytest.approx(stats.sem(first))

    def test_q_is_among_all_components_and_all_of_a_grid(self, shared, task):
        screen = tlt.attribute(shared("bridge", "gpt2"), task, progress=False)
        p = [mean_columns(each.numpy()).p for each in screen.by_row.values()]
        wanted = stats.false_discovery_control(np.concatenate(p))
        assert screen.frame["q"].to_numpy() == pytest.approx(wanted)
        assert screen.predict([0.5, 0.9])["q"].between(0, 1).all()

    def test_rows_of_an_earlier_version_have_no_interval(self, shared, task):
        screen = tlt.attribute(shared("bridge", "gpt2"), task, progress=False)
        twice = {site: torch.cat([each / 2, each / 2]) for site, each in screen.by_row.items()}
        older = replace(screen, by_row=twice)
        found = older.effect("blocks.1.mlp.W_in", 0.5)
        assert float(found) == pytest.approx(float(screen.effect("blocks.1.mlp.W_in", 0.5)), rel=1e-5)
        assert np.isnan([found.se, found.low]).all()


def test_the_tables(toy, drinks):
    screen = tlt.attribute(toy, drinks, progress=False)
    frame = screen.frame
    assert len(frame) == 6 * 32
    top = screen.top(3)
    assert top["effect"].abs().tolist() == sorted(frame["effect"].abs(), reverse=True)[:3]
    site = "blocks.1.mlp.W_out"
    own = frame[frame["site"] == site]
    assert float(screen.effect(site, 8)) == pytest.approx(own["effect"][8:].sum(), abs=1e-6)
    assert float(screen.effect(site, 1.0)) == 0.0
    predicted = screen.predict([0.5, 0.9])
    assert predicted["predicted_change"].is_monotonic_decreasing
    row = predicted[(predicted["site"] == site) & (predicted["keep"] == 0.5)].iloc[0]
    assert row["predicted_change"] == pytest.approx(float(screen.effect(site, 0.5)), abs=1e-6)
    assert row["rank"] == 16
    assert "first-order estimate" in str(screen)
    by_row = screen.by_row[tlt.Site.parse(site)].double().numpy()
    se = by_row[:, 0].std(ddof=1) / np.sqrt(len(drinks))
    assert own["effect_se"].iloc[0] == pytest.approx(se, rel=1e-6)
    assert screen.record.task == "drinks"


def test_no_gradient_is_left_on_the_weights_and_none_is_needed(shared, drinks):
    model = shared("bridge", "gpt2")
    reference = tlt.attribute(model, drinks, progress=False).frame
    assert all(parameter.grad is None for parameter in model.parameters())
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    try:
        with torch.no_grad():
            frozen = tlt.attribute(model, drinks, progress=False).frame
    finally:
        for parameter, wants in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(wants)
    assert np.allclose(frozen["effect"], reference["effect"], atol=1e-6)


def test_inside_a_context(shared, drinks):
    model = shared("bridge", "neox-parallel", torch.float64)
    outer, site = tlt.Cut("blocks.1.mlp.W_in", 0.3), tlt.Site(2, "W_out")
    with tlt.truncated(model, outer):
        screen = tlt.attribute(model, drinks, sites=[site], prepend_bos=False, progress=False)

    def both(strength):
        return [outer, tlt.Cut(site, 0.3, strength=strength)]

    assert float(screen.effect(site, 0.3)) == pytest.approx(
        slope(model, drinks, both, "logit_diff"), abs=1e-6
    )
    assert screen.record.cuts == (outer.to_json(),)


@pytest.mark.parametrize(
    ("at_work", "asked"),
    [
        ("blocks.1.attn.W_O", "blocks.1.attn.W_O.1"),
        ("blocks.1.attn.W_O", "blocks.1.attn.OV.1"),
        ("blocks.1.attn.W_V.1", "blocks.1.attn.W_V"),
        ("blocks.1.attn.W_Q", "blocks.1.attn.QK.0"),
    ],
)
@pytest.mark.parametrize("weights", [False, True])
def test_what_could_not_be_cut_there_is_not_predicted(shared, drinks, at_work, asked, weights):
    """The spectrum is of the stored weight's part, and no longer of what is at work."""
    model = shared("bridge", "gpt2", torch.float64)
    options = dict(sites=[asked], progress=False)
    with tlt.truncated(model, tlt.Cut(at_work, 0.4), weights=weights):
        for screen in (tlt.attribute, tlt.singular_value_gradients):
            with pytest.raises(ValueError, match="must not overlap"):
                screen(model, drinks, **options)
    with tlt.truncated(model, tlt.Cut("blocks.1.attn.W_O.0", 0.4), weights=weights):
        other = tlt.attribute(model, drinks, sites=["blocks.1.attn.W_O.1"], progress=False)
    with inplace.edited(model, ("blocks.1.attn.W_O.0", inplace.top(0.4))):
        wanted = tlt.attribute(model, drinks, sites=["blocks.1.attn.W_O.1"], progress=False)
    assert np.allclose(other.frame["effect"], wanted.frame["effect"], atol=1e-9)


def test_bad_input(toy, drinks):
    with pytest.raises(ValueError, match="metric must be one of logit_diff, p_in_context, p_global"):
        tlt.attribute(toy, drinks, metric="accuracy")
    screen = tlt.attribute(toy, drinks, sites=["blocks.1.mlp.W_in"], progress=False)
    with pytest.raises(ValueError, match="must be one of those attributed"):
        screen.effect("blocks.2.mlp.W_in", 0.5)
    with pytest.raises(ValueError, match="at most 32"):
        screen.effect("blocks.1.mlp.W_in", 40)
