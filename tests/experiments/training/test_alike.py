"""Checkpoints of one run are models that were made in one way, whoever reads them and when."""

import shutil

import architectures
import pytest
import torch
from samples import PAIRS

import tl_truncate as tlt
from tl_truncate.experiments.training.alike import require_alike
from tl_truncate.runs.folder import RunFolder
from tl_truncate.tasks.encode import encode

CUT = tlt.Cut("blocks.1.mlp.W_in", 0.2)
STEPS = [0, 1]


def load(step, kind="bridge", dtype=torch.float32, bos=False, processed=False, exchanged=()):
    if kind == "hooked" and architectures.HookedTransformer is None:
        pytest.skip("TransformerLens 4 has only the Bridge")
    model = architectures.with_tokenizer(architectures.build(kind, "gpt2", dtype))
    model.cfg.default_prepend_bos = bos
    architectures.randomise(model, step)
    if exchanged:
        model.tokenizer = architectures.with_words_exchanged(*exchanged)
    if processed:
        model.enable_compatibility_mode(disable_warnings=True)
    return model


def ask(run_dir=None, load=load, steps=STEPS, task=PAIRS, **options):
    return tlt.dynamics(load, steps, task, CUT, run_dir=run_dir, progress=False, **options)


def otherwise(**made):
    return lambda step: load(step, **made)


def line(step, weights):
    record = dict(task="pairs", weights=weights)
    return dict(step=step, tasks=dict(pairs=dict(readings=dict(uncut=dict(record=record)))))


#: How others make the models, and what is said of it.
WAYS = {
    "dtype": (dict(dtype=torch.float64), r"dtype \(float32 at step 0; float64 at step 1\)"),
    "class": (dict(kind="hooked"), r"model_class \(\w*Bridge at step 0; HookedTransformer at step 1\)"),
    "processing": (
        dict(processed=True),
        r"processing \(raw at step 0; folded or centred at step 1\)",
    ),
    "bos": (dict(bos=True), r"prepend_bos of pairs \(False at step 0; True at step 1\)"),
    "tokenizer": (
        dict(exchanged=("ĠMary", "ĠJohn")),
        r"tokens_hash of pairs \(\w{16} at step 0; \w{16} at step 1\)",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_of_shards_that_begin_together(tmp_path, way):
    """Neither finds a line of the other; they are in one folder only afterwards."""
    made, told = WAYS[way]
    one, other = tmp_path / "one", tmp_path / "other"
    ask(one, shard=(1, 2))
    ask(other, otherwise(**made), shard=(2, 2))
    shutil.copytree(other, one, dirs_exist_ok=True)
    for read in (tlt.Dynamics.load, tlt.merge):
        with pytest.raises(ValueError, match=rf"{told}.*Delete the folder of the wrong one"):
            read(one)
    with pytest.raises(ValueError, match=told):
        ask(one)  # which would take over what they have
    with pytest.raises(ValueError, match="Have load make all of them in one way"):
        ask(one, shard=(1, 2))
    shutil.rmtree(one / "shards" / "2-of-2")
    ask(one, shard=(2, 2))
    assert tlt.merge(one).finished


@pytest.mark.parametrize("way", WAYS)
def test_within_a_run(tmp_path, way):
    made, told = WAYS[way]

    def both(step):
        return load(step, **(made if step else {}))

    with pytest.raises(ValueError, match=told):
        ask(load=both)
    with pytest.raises(ValueError, match=told):
        ask(tmp_path, both)
    assert [line["step"] for line in RunFolder(tmp_path).lines()] == [0]


def test_what_weights_before_training_cannot_tell_is_not_compared():
    """Unit norms and zero biases look folded, or as if nothing had been folded into them."""
    require_alike([line(0, "folded layer norm, compatibility mode"), line(1, "compatibility mode")], "")
    folded = "folded layer norm, centred writing weights"
    require_alike([line(0, folded), line(1, f"{folded}, folded value biases")], "")
    require_alike([line(0, "unknown"), line(1, "raw")], "")
    with pytest.raises(ValueError, match=r"processing \(.*Use another"):
        require_alike([line(0, "raw"), line(1, folded)], "Use another.")


def test_gone_on_with_another_default_of_a_bos(tmp_path):
    """Refused before a pass, and without a trace in the folder."""
    ask(tmp_path)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()}
    for steps in (STEPS, [0, 1, 2]):
        with pytest.raises(ValueError, match=r"at step 1 .*prepend_bos of pairs \(False, now True\)"):
            ask(tmp_path, otherwise(bos=True), steps)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()} == before


def test_gone_on_with_another_tokenizer(tmp_path):
    """The texts are the same, and so are the weights."""
    ask(tmp_path)
    other = otherwise(exchanged=("ĠMary", "ĠJohn"))
    with pytest.raises(ValueError, match=r"at step 1 .*tokens_hash of pairs \(\w{16}, now \w{16}\)"):
        ask(tmp_path, other, [0, 1, 2])
    line = RunFolder(tmp_path).lines()[0]
    tokens = encode(load(0), PAIRS, prepend_bos=None).hash
    assert (
        line["tasks"]["pairs"]["tokens_hash"] == tokens != encode(other(0), PAIRS, prepend_bos=None).hash
    )


def test_gone_on_with_under_hooks(tmp_path):
    """Another cut would be compared with what the model says without them."""
    ask(tmp_path)

    def hooked(step):
        model = load(step)
        model.add_hook("blocks.1.hook_attn_out", lambda value, hook: 0.3 * value)
        return model

    with pytest.raises(ValueError, match=r"hooks \(none at .*; blocks.1.attn.hook_out at step 2\)"):
        ask(tmp_path, hooked, [0, 1, 2])
    assert [line["step"] for line in RunFolder(tmp_path).lines()] == [0, 1]
