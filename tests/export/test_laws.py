"""A cut taken elsewhere is the cut: against plain Hugging Face models edited in place by NumPy."""

import copy
import json

import architectures
import inplace
import published
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import tl_truncate as tlt

HEADS = ("W_Q", "W_K", "W_V", "W_O")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
IN_BOTH = ("neox-parallel", "gpt2", "llama-grouped")
CASES = [(name, torch.float64) for name in published.LAYOUTS]
CASES += [(name, torch.float32) for name in IN_BOTH]
pytestmark = pytest.mark.filterwarnings("ignore::tl_truncate.LargeAdapterWarning")


def sites(name):
    """All matrices of the middle layer, and one head of each kind."""
    joint = [
        f"blocks.1.{'attn' if each in HEADS else 'mlp'}.{each}" for each in published.matrices(name)
    ]
    return [*joint, *(f"blocks.1.attn.{each}.1" for each in HEADS)]


def without_first(count):
    """What DropTop does, by NumPy."""
    return lambda matrix: inplace.truncate(matrix, slice(count, None))


def logits(model, tokens):
    with torch.no_grad():
        found = model(tokens)
    return found if isinstance(found, torch.Tensor) else found.logits


def with_adapter(hf, folder):
    return PeftModel.from_pretrained(copy.deepcopy(hf), folder)


def gap(one, other):
    return float((one - other).detach().abs().max())


def saved(name, dtype, folder):
    """A folder of an architecture in a precision, and the plain model that transformers reads from it.

    Which is not to the last digit what was saved: positions are turned in a precision of their own.
    """
    architectures.hf_model(name).to(dtype).save_pretrained(folder)
    architectures._fresh_tokenizer().save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "dtype"), CASES, ids=[f"{name}-{str(dtype)[6:]}" for name, dtype in CASES]
)
def test_an_adapter_is_the_weight_edited_in_place(name, dtype, shared, tokens, tmp_path):
    """At every kind of site; merged too, where all other tensors stay as they are to the bit."""
    model, hf = shared("bridge", name, dtype), architectures.hf_model(name).to(dtype)
    uncut = logits(hf, tokens)
    for site in sites(name):
        folder = tmp_path / site
        made = tlt.export_adapter(model, tlt.Cut(site, tlt.DropTop(3)), folder)
        edited = copy.deepcopy(hf)
        published.edit(edited, name, site, without_first(3))
        expected, cut = logits(edited, tokens), with_adapter(hf, folder)
        assert [part.rank for part in made.parts] == [3]
        assert gap(expected, uncut) > 1e-3
        assert gap(logits(cut, tokens), expected) < TOLERANCE[dtype], site
        merged = cut.merge_and_unload()
        assert gap(logits(merged, tokens), expected) < TOLERANCE[dtype], site
        changed = published.parameter_name(name, 1, site.split(".")[3])
        for key, tensor in merged.state_dict().items():
            assert torch.equal(tensor, hf.state_dict()[key]) == (key != changed), (site, key)


@pytest.mark.parametrize(
    ("name", "dtype"), CASES, ids=[f"{name}-{str(dtype)[6:]}" for name, dtype in CASES]
)
def test_a_checkpoint_is_the_weight_edited_in_place(name, dtype, tokens, tmp_path):
    """From a model of these files, and from the folder unloaded; other tensors are the same bytes."""
    hf = saved(name, dtype, tmp_path / "base")
    model = tlt.load_model(str(tmp_path / "base"), dtype=dtype)
    for site in sites(name):
        cut = tlt.Cut(site, 0.4)
        published.edit(edited := copy.deepcopy(hf), name, site, inplace.top(0.4))
        for source in (model, tmp_path / "base"):
            folder = tmp_path / f"{site} of {type(source).__name__}"
            tlt.export_checkpoint(source, cut, folder)
            found = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
            assert gap(logits(found, tokens), logits(edited, tokens)) < TOLERANCE[dtype], site
            changed = published.parameter_name(name, 1, site.split(".")[3])
            for key, tensor in found.state_dict().items():
                assert torch.equal(tensor, hf.state_dict()[key]) == (key != changed), (site, key)
    again = tlt.load_model(str(folder), dtype=dtype)
    with tlt.truncated(model, cut):
        assert gap(logits(again, tokens), logits(model, tokens)) < TOLERANCE[dtype]


def test_a_bridge_without_files_writes_its_own_tensors(shared, tokens, tmp_path):
    for name in ("neox-parallel", "gpt2", "opt-learnt"):
        model, hf = shared("bridge", name, torch.float64), saved(name, torch.float64, tmp_path / "hf")
        tlt.export_checkpoint(model, tlt.Cut("blocks.1.attn.W_V.2", 3), tmp_path / name)
        published.edit(hf, name, "blocks.1.attn.W_V.2", lambda w: inplace.truncate(w, slice(0, 3)))
        found = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float64)
        assert gap(logits(found, tokens), logits(hf, tokens)) < 1e-9
        assert tlt.load_model(str(tmp_path / name)).tokenizer is not None


def all_kinds(model, tokens):
    """A cut of each kind that is a change of the weight."""
    site, gate = "blocks.1.mlp.W_out", "blocks.1.mlp.W_in"
    moments = tlt.OutputMoments.fit(model, tokens, sites=[site], progress=False)
    factors = tlt.CurvatureFactors.fit(model, tokens, sites=[site], progress=False)
    means = tlt.TokenMeans.fit(model, tokens, layers=[1], progress=False)
    shares = tlt.component_shares(model, site, means)
    cut = tlt.Cut(site, 0.3)
    return {
        "laser": cut,
        "energy": tlt.Cut(gate, tlt.Energy(0.8)),
        "band": tlt.Cut(gate, tlt.Band(2, 9)),
        "half": tlt.Cut(site, 4, strength=0.5),
        "doubled": tlt.Cut(site, tlt.DropTop(4), strength=-1.0),
        "bulk": tlt.Cut(site, tlt.OutsideBulk()),
        "targeted": tlt.Cut(site, shares.without_most_global(3)),
        "direction": tlt.GlobalDirection(site, means, int(tokens[0, 2])),
        "pca": tlt.OutputPCA(site, moments, drop=2),
        "curvature": tlt.Curvature(site, factors, mass=0.7),
        "clustered": tlt.Clustered(site, groups=3, keep=0.3),
        "sketched": tlt.Cut(site, tlt.LaserCompat(0.3)),
        "ablated": tlt.Ablated("blocks.1.attn.W_O.2"),
        "random": tlt.RandomSubspace(site, 5, seed=1),
        "matched": tlt.NormMatched(site, 5, seed=1),
        "matched to": tlt.NormMatchedTo(cut, seed=1),
        "circuit": tlt.Cut("blocks.1.attn.OV.3", 2),
        "two of one weight": [cut, tlt.RandomSubspace(site, 9, seed=2, strength=0.5)],
        "two heads": [tlt.Cut("blocks.1.attn.W_O.0", 2), tlt.Cut("blocks.1.attn.W_O.3", 1)],
        "of one tensor": [
            tlt.Cut("blocks.1.attn.W_Q.3", tlt.DropTop(2)),
            tlt.Cut("blocks.1.attn.W_V", tlt.DropTop(1)),
            tlt.Cut("blocks.1.attn.W_Q.0", 0.5),
        ],
        "several": [tlt.Cut(site, 0.2), tlt.Cut("blocks.2.mlp.W_in", 0.2), tlt.Cut("blocks.0.attn.W_K", 3)],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["gpt2", "llama-grouped"])
def test_every_kind_of_cut_is_what_it_is_at_work(name, shared, tokens, tmp_path):
    saved(name, torch.float64, tmp_path / "base")
    model, hf = shared("bridge", name, torch.float64), architectures.hf_model(name).double()
    cuts = all_kinds(model, tokens)
    if name == "gpt2":
        cuts["query and key"] = tlt.Cut("blocks.1.attn.QK.2", 3)
    for kind, cut in cuts.items():
        with tlt.truncated(model, cut, weights=True):
            expected = logits(model, tokens)
        tlt.export_adapter(model, cut, tmp_path / f"a {kind}", base=tmp_path / "base")
        assert gap(logits(with_adapter(hf, tmp_path / f"a {kind}"), tokens), expected) < 1e-9, kind
        tlt.export_checkpoint(model, cut, tmp_path / f"c {kind}", base=tmp_path / "base")
        found = AutoModelForCausalLM.from_pretrained(tmp_path / f"c {kind}", dtype=torch.float64)
        edited = copy.deepcopy(hf)
        edited.load_state_dict(found.state_dict())
        assert gap(logits(edited, tokens), expected) < 1e-9, kind
        stored = json.loads((tmp_path / f"a {kind}" / "tl_truncate.json").read_text())["cuts"]
        assert stored == [each.to_json() for each in tlt.Cuts(cut)], kind


def test_a_folder_unloaded_takes_fitted_cuts_too(tokens, tmp_path):
    saved("gpt2", torch.float64, tmp_path / "base")
    model = tlt.load_model(str(tmp_path / "base"), dtype="float64")
    for kind, cut in all_kinds(model, tokens).items():
        one = tlt.export_checkpoint(model, cut, tmp_path / f"m {kind}").folder
        other = tlt.export_checkpoint(tmp_path / "base", cut, tmp_path / f"f {kind}").folder
        read = [AutoModelForCausalLM.from_pretrained(each, dtype="float64") for each in (one, other)]
        pairs = zip(read[0].state_dict().values(), read[1].state_dict().values(), strict=True)
        assert max(gap(*pair) for pair in pairs) < 1e-12, kind


def test_each_adapter_is_of_one_module_whatever_the_numbers_of_layers(tokens, tmp_path):
    """Layer 1 is not layer 11, also where both have ranks of their own."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(vocab_size=97, max_position_embeddings=64, hidden_size=16,
                           num_hidden_layers=12, num_attention_heads=2, intermediate_size=24)  # fmt: skip
    hf = architectures.randomise(GPTNeoXForCausalLM(config))
    model = TransformerBridge.boot_transformers(
        "deep", hf_model=copy.deepcopy(hf), tokenizer=architectures.word_tokenizer()
    )
    cuts = [
        tlt.Cut(f"blocks.{layer}.mlp.W_out", tlt.DropTop(k)) for layer, k in ((1, 2), (11, 5), (0, 5))
    ]
    made = tlt.export_adapter(model, cuts, tmp_path / "deep")
    found = with_adapter(hf, tmp_path / "deep")
    ranks = {key: tensor.shape[0] for key, tensor in found.state_dict().items() if "lora_A" in key}
    assert {int(key.split(".")[4]): rank for key, rank in ranks.items()} == {0: 5, 1: 2, 11: 5}
    with tlt.truncated(model, cuts):
        assert gap(logits(found, tokens), logits(model, tokens)) < 1e-5
    assert [part.rank for part in made.parts] == [5, 2, 5]


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.9])
def test_the_rank_is_that_of_what_is_removed(keep, shared, tmp_path):
    model = shared("bridge", "gpt2")
    made = tlt.export_adapter(model, tlt.Cut("blocks.1.mlp.W_out", keep), tmp_path / "a")
    (part,) = made.parts
    assert part.rank == 32 - int(32 * keep)
    assert part.rest < 1e-6
    assert made.nbytes == 4 * part.rank * (48 + 32)
    assert f"rank {part.rank}" in str(made)


def test_in_half_precision_it_is_rounded_as_is_said(tokens, tmp_path):
    """A checkpoint and a merged adapter round the cut weight once, as the weight that is read does."""
    hf = saved("llama-grouped", torch.bfloat16, tmp_path / "base")
    model, cut = (
        tlt.load_model(str(tmp_path / "base"), dtype="bfloat16"),
        tlt.Cut("blocks.1.mlp.W_out", 0.3),
    )
    made = tlt.export_checkpoint(model, cut, tmp_path / "c")
    tlt.export_adapter(model, cut, tmp_path / "a")
    (told,) = made.changed
    assert told.dtype == torch.bfloat16
    assert 1e-4 < told.rounding < 4e-3
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "c", dtype=torch.bfloat16)
    name = published.parameter_name("llama-grouped", 1, "W_out")
    with tlt.truncated(model, cut, weights=True):
        read = model.blocks[1].mlp.out.original_component.weight.detach().clone()
    merged = with_adapter(hf, tmp_path / "a").merge_and_unload()
    for stored in (found.get_parameter(name), merged.get_parameter(name)):
        # Two roundings of nearly the same number may fall on either side of a half.
        different = (stored != read).float().mean()
        assert different < 0.02
        assert gap(stored.float(), read.float()) < 2**-8 * float(read.abs().max())
    exact = (stored.double() - read.double()).norm() / read.double().norm()
    assert exact < told.rounding
