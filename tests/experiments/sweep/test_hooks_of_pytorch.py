"""PyTorch's own hooks on a model: those that change what passes see whole rows, as in a pass of the model."""

import architectures
import numpy as np
import pytest
import torch

import tl_truncate as tlt
from tl_truncate.replay.acting import watch_hooks

OPTIONS = dict(prepend_bos=False, progress=False)
SITES = ["blocks.0.mlp.W_out", "blocks.1.mlp.W_in", "blocks.2.attn.W_O"]
LONG = tlt.Task(
    name="long",
    prompts=[
        "When Mary and John went to the store , John gave a drink to",
        "When Mary and John went to the store , Mary gave a drink to",
        "When John and Mary went to the store , John gave a drink to the",
        "Mary gave a drink to",
    ],
    in_context=[" Mary", " John", " Mary", " John"],
    global_=[" the"] * 4,
)


@pytest.fixture
def model():
    return architectures.with_tokenizer(architectures.build("bridge", "llama-grouped", torch.float64))


def bare(output):
    return output[0] if isinstance(output, tuple) else output


def handed_on(output, value):
    return (value, *output[1:]) if isinstance(output, tuple) else value


def at_a_position(place):
    """Doubles what stands at one position of a row that is long enough."""

    def hook(module, args, output):
        value = bare(output).clone()
        if value.shape[1] > place:
            value[:, place] *= 3
        return handed_on(output, value)

    return hook


def written_into(module, args, output):
    if bare(output).shape[1] > 8:
        bare(output)[:, 8] *= 3


def before(module, args):
    return (torch.cat([args[0][:, :8], 3 * args[0][:, 8:]], dim=1), *args[1:])


def with_keywords(module, args, kwargs, output):
    return at_a_position(9)(module, args, output)


def of_the_batch(module, args, output):
    return handed_on(output, bare(output) - bare(output).mean(0, keepdim=True))


def where_large(module, args, output):
    """Acts on a cut model alone, if at all."""
    value = bare(output)
    quiet = value.norm(dim=-1) < where_large.least
    return handed_on(output, torch.where(quiet[..., None], 2 * value, value)) if quiet.any() else None


HOOKS = {
    "at a position": lambda module: module.register_forward_hook(at_a_position(8)),
    "at a late position": lambda module: module.register_forward_hook(at_a_position(13)),
    "written into": lambda module: module.register_forward_hook(written_into),
    "before": lambda module: module.register_forward_pre_hook(before),
    "with keywords": lambda module: module.register_forward_hook(with_keywords, with_kwargs=True),
}
MODULES = {
    "mlp": lambda model: model.blocks[1].mlp,
    "the last mlp": lambda model: model.blocks[2].mlp,
    "inside": lambda model: model.original_model.model.layers[1].mlp.down_proj,
    "a hook point": lambda model: model.blocks[1].hook_out,
}


def by_hand(model, task, site, keep):
    """Each prompt in a pass of its own, so that nothing is shared, tiled or shortened."""
    found = []
    for row in range(len(task)):
        alone = task.subset([row])
        found.append(tlt.evaluate(model, alone, tlt.Cut(site, keep), **OPTIONS).frame["logit_diff"][0])
    return np.array(found)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("hook", HOOKS)
def test_one_that_acts_by_position_acts_as_in_whole_passes(model, hook, module):
    handle = HOOKS[hook](MODULES[module](model))
    plain = tlt.evaluate(model, LONG, **OPTIONS).frame["logit_diff"].to_numpy()
    with pytest.warns(tlt.FullPassesWarning, match="changes what passes"):
        found = tlt.sweep(model, LONG, sites=SITES, keeps=[0.3], **OPTIONS)
    alone = np.array([tlt.evaluate(model, LONG.subset([row]), **OPTIONS).logit_diff for row in range(4)])
    assert np.abs(found.baseline.frame["logit_diff"].to_numpy() - alone).max() <= 1e-9
    assert np.abs(plain - alone).max() <= 1e-9
    for site in SITES:
        own = found.scores(site, 0.3).frame["logit_diff"].to_numpy()
        assert np.abs(own - by_hand(model, LONG, site, 0.3)).max() <= 1e-9
    handle.remove()
    uncut = tlt.evaluate(model, LONG, **OPTIONS).frame["logit_diff"].to_numpy()
    changes = module != "the last mlp" or hook in (
        "at a late position",
        "before",
    )  # else no answer sees it
    assert (np.abs(uncut - plain).max() > 1e-9) == changes


def test_one_that_only_looks_is_no_hindrance(model, recwarn):
    seen = []
    handles = [
        model.blocks[1].mlp.register_forward_hook(lambda module, args, output: seen.append(1)),
        model.blocks[1].mlp.register_forward_hook(lambda module, args, output: output),
        model.blocks[1].register_forward_pre_hook(lambda module, args: None),
    ]
    found = tlt.sweep(model, LONG, sites=SITES, keeps=[0.3], **OPTIONS)
    assert seen
    assert not [each for each in recwarn if each.category is tlt.FullPassesWarning]
    for handle in handles:
        handle.remove()
    for site in SITES:
        own = found.scores(site, 0.3).frame["logit_diff"].to_numpy()
        assert np.abs(own - by_hand(model, LONG, site, 0.3)).max() <= 1e-9


def test_one_that_acts_on_cut_models_alone_is_seen_there(model):
    """Uncut, nothing is as quiet as what a cut leaves."""
    sizes = []
    handle = model.blocks[1].mlp.register_forward_hook(
        lambda module, args, output: sizes.append(float(bare(output).norm(dim=-1).min()))
    )
    tlt.evaluate(model, LONG, **OPTIONS)
    handle.remove()
    where_large.least = 0.9 * min(sizes)
    model.blocks[1].mlp.register_forward_hook(where_large)
    site = "blocks.1.mlp.W_out"
    with pytest.warns(tlt.FullPassesWarning, match=f"Cuts of {site} take passes through the whole"):
        found = tlt.sweep(model, LONG, sites=[site], keeps=[0.1, 1.0], **OPTIONS)
    for keep in (0.1, 1.0):
        own = found.scores(site, keep).frame["logit_diff"].to_numpy()
        assert np.abs(own - by_hand(model, LONG, site, keep)).max() <= 1e-9


def test_in_inference_mode_nothing_is_known_of_what_is_written(model):
    model.blocks[1].mlp.register_forward_hook(written_into)
    with torch.inference_mode(), pytest.warns(tlt.FullPassesWarning, match="changes what passes"):
        found = tlt.sweep(model, LONG, sites=SITES[:1], keeps=[0.3], **OPTIONS)
    own = found.scores(SITES[0], 0.3).frame["logit_diff"].to_numpy()
    assert np.abs(own - by_hand(model, LONG, SITES[0], 0.3)).max() <= 1e-9


def test_hooks_are_left_as_they_were(model):
    hook = at_a_position(8)
    handle = model.blocks[1].mlp.register_forward_hook(hook)
    with pytest.warns(tlt.FullPassesWarning):
        tlt.sweep(model, LONG, sites=SITES[:1], keeps=[0.3], **OPTIONS)
    assert list(model.blocks[1].mlp._forward_hooks.values()) == [hook]
    handle.remove()
    assert not model.blocks[1].mlp._forward_hooks


def doubled(module, args, output):
    return handed_on(output, 2 * bare(output))


def looks(module, args, output):
    return None


def is_the_mlp(place):
    """A Bridge has it by two names."""
    return place in ("blocks.1.mlp", "blocks.1._original_component.mlp")


@pytest.mark.parametrize("before", [None, looks, doubled])
@pytest.mark.parametrize("after", [None, looks, doubled])
@pytest.mark.parametrize("cuts", [(), tlt.Cut(SITES[1], 0.3)])
def test_a_baseline_under_another_hook_is_refused(model, before, after, cuts):
    """Whatever only looks is no other model."""
    handle = before and model.blocks[1].mlp.register_forward_hook(before)
    baseline = tlt.evaluate(model, LONG, **OPTIONS)
    assert list(map(is_the_mlp, baseline.record.acting)) == [True] * (before is doubled)
    if handle:
        handle.remove()
    if after:
        model.blocks[1].mlp.register_forward_hook(after)
    if (before is doubled) != (after is doubled):
        with pytest.raises(ValueError, match=r"under the same hooks, got scores with hooks that change"):
            tlt.evaluate(model, LONG, cuts, baseline=baseline, **OPTIONS)
        return
    given = tlt.evaluate(model, LONG, cuts, baseline=baseline, **OPTIONS)
    if cuts:
        anew = tlt.evaluate(model, LONG, cuts, **OPTIONS)
        assert float(given.change("logit_diff")) == pytest.approx(
            float(anew.change("logit_diff")), abs=1e-9
        )


def test_a_record_names_them_only_where_there_are_some(model):
    assert "acting" not in tlt.evaluate(model, LONG, **OPTIONS).record.to_json()
    model.blocks[1].mlp.register_forward_hook(doubled)
    (place,) = tlt.evaluate(model, LONG, **OPTIONS).record.to_json()["acting"]
    assert is_the_mlp(place)


def test_a_watch_within_a_watch_sees_too(model):
    model.blocks[1].mlp.register_forward_hook(doubled)
    with watch_hooks(model) as outer, watch_hooks(model) as inner:
        model(torch.tensor([[3, 4, 5]]))
    assert outer.places == inner.places
    assert list(map(is_the_mlp, outer.places)) == [True]
    with watch_hooks(model) as again:
        pass
    assert not again.now


def test_training_that_is_gone_on_with_under_another_hook_is_refused(tmp_path):
    def load(step, hook=None):
        model = architectures.with_tokenizer(architectures.bridge("neox-parallel"))
        if hook:
            model.blocks[1].mlp.register_forward_hook(hook)
        return model

    cut = {"cut": tlt.Cut(SITES[1], 0.3)}
    tlt.dynamics(load, [0], LONG, run_dir=tmp_path, **OPTIONS)
    with (
        pytest.raises(ValueError, match=r"must score as it did .*Are there hooks"),
        pytest.warns(tlt.FullPassesWarning),
    ):
        tlt.dynamics(lambda step: load(step, doubled), [0], LONG, cut, run_dir=tmp_path, **OPTIONS)
    found = tlt.dynamics(lambda step: load(step, looks), [0], LONG, cut, run_dir=tmp_path, **OPTIONS)
    wanted = tlt.evaluate(load(0), LONG, cut["cut"], **OPTIONS).change("logit_diff")
    assert found.frame["logit_diff_change"].iloc[-1] == pytest.approx(float(wanted), abs=1e-5)
