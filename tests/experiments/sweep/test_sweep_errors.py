"""Bad input to the experiments: what must hold, what was given, and before any pass runs."""

import pytest
import torch

import tl_truncate as tlt

SITE = ["blocks.1.mlp.W_in"]
# fmt: off
CASES = [
    ("no task", dict(task="ioi"), TypeError, r"task must be a Task or a list of tasks, got 'ioi'"),
    ("an empty list", dict(task=[]), ValueError, r"one or more with different names, got \[\]"),
    ("something in the list", dict(task=[3]), TypeError, r"task must be a Task.*got 3"),
    ("a misspelt site", dict(sites=["W_in"]), ValueError, r"A site must read like"),
    ("a site of another model", dict(sites=["blocks.9.mlp.W_in"]), ValueError, r"must be in 0\.\.2"),
    ("a matrix that is not there", dict(sites=["blocks.0.mlp.W_gate"]), ValueError, r"Only gated MLPs"),
    ("a site twice", dict(sites=SITE * 2), ValueError, r"Each site .* given once, got blocks\.1\.mlp\.W_in"),
    ("no site", dict(sites=[]), ValueError, r"at least one site and one keep, got 0 and 2"),
    ("no keep", dict(keeps=[]), ValueError, r"at least one site and one keep, got 1 and 0"),
    ("a keep twice", dict(keeps=[0.1, tlt.Fraction(0.1)]), ValueError, r"Each keep .* given once"),
    ("a keep above 1", dict(keeps=[1.5]), ValueError, r"from 0 to 1, got 1\.5"),
    ("a rank too high", dict(keeps=[40]), ValueError, r"blocks\.1\.mlp\.W_in: Rank's k must be at most 32"),
    ("a band too high", dict(keeps=[tlt.Band(2, 50)]), ValueError, r"at most 32.*got 50"),
    ("a component too high", dict(keeps=[tlt.Components([40])]), ValueError, r"at most 31"),
    ("an unknown control", dict(controls=["placebo"]), ValueError, r"Controls must be among random_subspace"),
    ("an unknown metric", dict(metrics=["loss"]), ValueError, r"metrics must be a list from accuracy"),
    ("one metric as text", dict(metrics="accuracy"), ValueError, r"metrics must be a list"),
    ("no batch", dict(batch_size=0), ValueError, r"batch_size must be an integer from 1 up, got 0"),
    ("no tokens", dict(tokens_in_flight=0), ValueError, r"tokens_in_flight must be an integer from 1 up"),
    ("too little memory", dict(max_memory=10), ValueError, r"max_memory must be at least \d+ bytes"),
    ("an answer of several tokens",
     dict(task=tlt.Task("t", ["Mary gave a drink to"], [" John and Mary"], " the")), ValueError,
     r"must be one token, got ' John and Mary' with 3 tokens"),
]
# fmt: on


@pytest.mark.parametrize(("changes", "error", "wording"), [case[1:] for case in CASES],
                         ids=[case[0] for case in CASES])  # fmt: skip
def test_it_fails_before_any_pass(toy, drinks, changes, error, wording):
    def never(*args):
        raise AssertionError("a pass was run")

    arguments = {**dict(task=drinks, sites=SITE, keeps=[0.1, 0.5], progress=False), **changes}
    made = arguments.pop("task")
    handle = toy.blocks[0].register_forward_pre_hook(never)
    try:
        with pytest.raises(error, match=wording):
            tlt.sweep(toy, made, **arguments)
    finally:
        handle.remove()


def test_two_tasks_of_one_name(toy, drinks):
    with pytest.raises(ValueError, match=r"with different names, got \['drinks', 'drinks'\]"):
        tlt.sweep(toy, [drinks, drinks.subset([0])], sites=SITE)


def test_overlap_with_a_cut_that_is_at_work(toy, drinks):
    around = tlt.truncated(toy, tlt.Cut("blocks.0.attn.W_V.2", 3))
    with around, pytest.raises(ValueError, match="must not overlap"):
        tlt.sweep(toy, drinks, sites=["blocks.0.attn.W_V"], keeps=[0.1])


def test_active_dropout(shared, drinks):
    model = shared("bridge", "gpt2")
    model.train()
    try:
        for call in (tlt.sweep, tlt.attribute, tlt.search):
            with pytest.raises(ValueError, match=r"must be in evaluation mode"):
                call(model, drinks)
        with pytest.raises(ValueError, match=r"must be in evaluation mode"):
            tlt.side_effects(model, tlt.Cut(SITE[0], 0.1))
    finally:
        model.eval()


def test_laser_compat_without_an_input(shared, drinks):
    from architectures import HOOKED, with_tokenizer

    if not HOOKED:
        pytest.skip("TransformerLens 4 has only the Bridge, which has the input")
    model = with_tokenizer(shared("hooked", "llama-grouped"))
    with pytest.raises(ValueError, match="needs the linear's input"):
        tlt.sweep(model, drinks, sites=["blocks.1.attn.W_K"], keeps=[tlt.LaserCompat(0.1)])


def test_laser_compat_is_swept_where_it_can_be(shared, drinks):
    model = shared("bridge", "llama-grouped")
    sites, rule = ["blocks.1.mlp.W_in", "blocks.1.mlp.W_out", "blocks.1.attn.W_K"], tlt.LaserCompat(0.3)
    result = tlt.sweep(model, drinks, sites=sites, keeps=[rule, 0.3], prepend_bos=False, progress=False)
    for site in sites:
        full = tlt.evaluate(model, drinks, tlt.Cut(site, rule), prepend_bos=False, progress=False).frame
        found = result.scores(site, rule).frame
        assert found["logit_diff"].tolist() == pytest.approx(full["logit_diff"].tolist(), abs=1e-5)


def test_a_setting_that_was_not_swept(toy, drinks):
    result = tlt.sweep(toy, drinks, sites=SITE, keeps=[0.1], progress=False)
    with pytest.raises(ValueError, match=r"must be one of the sweep's finished settings"):
        result.scores(SITE[0], 0.2)
    with pytest.raises(ValueError, match=r"The task must be one of drinks, got 'ioi'"):
        result.scores(SITE[0], 0.1, task="ioi")
    assert torch.isfinite(torch.tensor(result.frame["logit_diff"].tolist())).all()
