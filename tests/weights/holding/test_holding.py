"""Where weights are read from, how many at a time, and that nothing more is imported."""

import subprocess
import sys
from collections.abc import Mapping

import architectures
import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from quantised_models import bridged, dequantised, hf_quantised

import tl_truncate as tlt
from tl_truncate.weights.identity.content import weights_hash
from tl_truncate.weights.unembedding import unembedding

NEW = architectures.HookedTransformer is None


class Counting(Mapping):
    """A weights map that notes what is read."""

    def __init__(self, inner):
        self.inner, self.read = inner, []

    @property
    def prefix(self):
        return self.inner.prefix

    def __getitem__(self, key):
        self.read.append(self.inner.prefix + key)
        return self.inner[key]

    def __iter__(self):
        return iter(self.inner)

    def __len__(self):
        return len(self.inner)


def drawn(seed=0):
    """A Bridge with the weights of a seed."""
    model = architectures.bridge("llama-grouped")
    architectures.randomise(model.original_model, seed)
    return model


def offloaded(seed=0):
    """The same with its weights on the host."""
    model = drawn(seed)
    cpu_offload(model.original_model, execution_device="cpu")
    return model


def test_one_weight_is_read_for_one_spectrum():
    model, maps = offloaded(), []
    for module in model.modules():
        hook = vars(module).get("_hf_hook")
        for each in getattr(hook, "hooks", (hook,)):
            if getattr(each, "weights_map", None) is not None:
                each.weights_map = Counting(each.weights_map)
                maps.append(each.weights_map)
    tlt.find_sites(model)
    assert not any(each.read for each in maps)
    tlt.spectrum(model, "blocks.1.mlp.W_out")
    read = [name for each in maps for name in each.read]
    assert len(set(read)) == 1
    assert read[0].endswith(("down_proj.weight", "out._original_component.weight", "out.weight"))


def test_two_models_share_neither_hash_nor_spectrum():
    one, other, again = offloaded(0), offloaded(1), offloaded(0)
    assert weights_hash(one) == weights_hash(again) != weights_hash(other)
    first, second, third = (tlt.spectrum(model, "blocks.1.mlp.W_out") for model in (one, other, again))
    assert not torch.allclose(first.S, second.S)
    assert torch.equal(first.V, third.V)


def test_hashes_tell_quantisations_apart():
    kinds = ("int8", "int8-outliers", "nf4", "nf4-double", "fp4")
    models = [bridged("llama", hf_quantised("llama", kind)) for kind in kinds]
    assert len({weights_hash(model) for model in models}) == len(kinds)
    found = [str(tlt.processing(model)) for model in models]
    assert found[1] == "quantised by bitsandbytes int8 (threshold 1.5)"
    assert found[3] == "quantised by bitsandbytes nf4"
    found = tlt.processing(bridged("llama", hf_quantised("llama", "torchao")))
    assert (str(found), found.is_raw) == ("quantised by torchao Int8Tensor", True)


def of_torchao(config, **attributes):
    """A small model with one linear quantised by torchao, and attributes of its weight."""
    from torchao.quantization import quantize_

    model = drawn()
    own = model.blocks[1].mlp.out.original_component
    quantize_(own, config)
    for name, value in attributes.items():
        setattr(own.weight, name, value)
    return model


def test_hashes_tell_apart_how_inputs_are_quantised(tokens):
    pytest.importorskip("torchao")
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8DynamicActivationIntxWeightConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        PerAxis,
        PerRow,
        PerTensor,
    )
    from torchao.quantization.quant_primitives import MappingType

    by_row, whole = PerAxis(0), [PerTensor(), PerRow()]
    four = dict(weight_dtype=torch.int4)
    pairs = [
        [
            IntxWeightOnlyConfig(**four, granularity=by_row),
            Int8DynamicActivationIntxWeightConfig(**four, weight_granularity=by_row),
        ],
        [
            Int8WeightOnlyConfig(),
            Int8DynamicActivationInt8WeightConfig(),
            Int8DynamicActivationInt8WeightConfig(act_mapping_type=MappingType.ASYMMETRIC),
            Int8DynamicActivationInt8WeightConfig(granularity=whole),
        ],
    ]
    for configs in pairs:
        models = [of_torchao(config) for config in configs]
        spectra = [tlt.spectrum(model, "blocks.1.mlp.W_out").S for model in models]
        assert all(torch.equal(each, spectra[0]) for each in spectra)  # only the inputs differ
        assert len({weights_hash(model) for model in models}) == len(models)
        assert weights_hash(of_torchao(configs[1])) == weights_hash(models[1])
        assert str(tlt.processing(models[0])).endswith("Tensor")
        assert str(tlt.processing(models[1])).endswith("(inputs quantised too)")
    scales = [of_torchao(configs[1], act_quant_scale=torch.tensor([[s]])) for s in (0.02, 0.05)]
    assert len({weights_hash(model) for model in scales}) == 2


def test_eight_bits_that_were_replaced_after_a_pass(tokens):
    bnb = pytest.importorskip("bitsandbytes")
    model = bridged("llama", hf_quantised("llama", "int8"))
    with torch.no_grad():
        model(tokens)
    first, linear = weights_hash(model), model.blocks[1].mlp.out.original_component
    drawn = torch.randn(64, 128, generator=torch.Generator().manual_seed(3))
    linear.weight = bnb.nn.Int8Params(drawn, requires_grad=False, has_fp16_weights=False).to("cpu")
    wanted = np.linalg.svd(dequantised(linear), compute_uv=False)
    found = tlt.spectrum(model, "blocks.1.mlp.W_out").S, weights_hash(model)
    assert np.abs(found[0].double().numpy() - wanted).max() < 1e-5 * wanted[0]
    with torch.no_grad():
        model(tokens)
    assert torch.equal(tlt.spectrum(model, "blocks.1.mlp.W_out").S, found[0])
    assert weights_hash(model) == found[1] != first


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_offloaded_weights_stay_trainable_after_a_cut_in_them(mode, tokens):
    model = offloaded()
    frozen = model.blocks[2].mlp.out.original_component._parameters["weight"]
    frozen.requires_grad_(False)
    before = [(name, each.requires_grad) for name, each in model.named_parameters()]
    cuts = [tlt.Cut(f"blocks.{layer}.mlp.W_out", 0.25) for layer in (1, 2)]
    for cut, weights in [(tlt.Cut("blocks.1.attn.W_O.1", 0.25), False), (cuts, True)]:
        with tlt.truncated(model, cut, weights=weights), mode():
            model(tokens)
            model(tokens)
    assert [(name, each.requires_grad) for name, each in model.named_parameters()] == before


@pytest.mark.parametrize("how", ["quantised", "offloaded"])
def test_what_directions_write_through_an_unembedding_that_is_not_plain(how):
    near, far = drawn(), offloaded()
    wanted = near.W_U.detach()
    if how == "quantised":
        bnb = pytest.importorskip("bitsandbytes")
        far = near
        inner = near.unembed.original_component
        linear = bnb.nn.Linear8bitLt(32, architectures.VOCAB, bias=False, has_fp16_weights=False)
        linear.load_state_dict({"weight": inner.weight.detach()}, strict=False)
        near.unembed._modules["_original_component"] = linear.to("cpu")
        wanted = torch.tensor(dequantised(linear)).float()
    assert torch.allclose(unembedding(far), wanted, atol=1e-6)
    spec = tlt.spectrum(far, "blocks.1.mlp.W_out")
    top = spec.tokens(far, 1, components=[0]).iloc[0]
    norm = drawn().ln_final.weight.detach()
    logits = (spec.V[:, 0] * norm) @ wanted
    assert top.logit == pytest.approx(float(logits.max()), abs=1e-5)


def test_heads_of_a_quantised_linear_that_was_fused(tokens):
    """TransformerLens splits queries, keys and values at boot; each can be quantised after that."""
    bnb = pytest.importorskip("bitsandbytes")
    model = architectures.bridge("neox-parallel")
    component = model.blocks[1].attn.v
    linear = bnb.nn.Linear8bitLt(32, 32, has_fp16_weights=False)
    linear.load_state_dict(component.original_component.state_dict())
    component.set_original_component(linear.to("cpu"))
    weight = dequantised(linear)
    with torch.no_grad():
        _, uncut = model.run_with_cache(tokens)
        with tlt.truncated(model, tlt.Cut("blocks.1.attn.W_V.2", 0.5)):
            _, cut = model.run_with_cache(tokens)
    before, after = (each["blocks.1.attn.hook_v"].double().numpy() for each in (uncut, cut))
    rows = np.linalg.svd(weight[:, 16:24], full_matrices=False)[2][:4]
    bias = linear.bias.detach().double().numpy().reshape(4, 8)
    exact = before.copy()
    exact[:, :, 2] = bias[2] + (before[:, :, 2] - bias[2]) @ rows.T @ rows
    assert np.abs(after - exact).max() < 1e-6 * np.abs(before).max()


@pytest.mark.skipif(not NEW, reason="a Bridge around an offloaded model came with TransformerLens 4")
def test_a_device_map_with_the_disk_in_it(tmp_path, tokens):
    from transformers import AutoModelForCausalLM

    folder = architectures.save_folder("llama-grouped", tmp_path / "model")
    places = {
        "model.embed_tokens": "cpu",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    places |= {f"model.layers.{layer}": "disk" if layer else "cpu" for layer in range(3)}
    hf = AutoModelForCausalLM.from_pretrained(
        folder, device_map=places, offload_folder=tmp_path / "kept", attn_implementation="eager"
    )
    far = bridged("llama-grouped", hf)
    near = architectures.bridge("llama-grouped")
    assert any(parameter.is_meta for parameter in far.parameters())
    cuts = [tlt.Cut("blocks.2.mlp.W_out", 0.25), tlt.Cut("blocks.0.attn.W_O.1", 0.25)]
    logits = []
    for model in (near, far):
        with tlt.truncated(model, cuts), torch.no_grad():
            logits.append(model(tokens))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)
    assert weights_hash(near) == weights_hash(far)


def test_a_folder_that_was_saved_quantised(tmp_path, tokens):
    hf = hf_quantised("llama", "nf4")
    wanted = bridged("llama", hf_quantised("llama", "nf4"))
    hf.save_pretrained(tmp_path)
    architectures.word_tokenizer().save_pretrained(tmp_path)
    model = tlt.load_model(str(tmp_path))
    assert weights_hash(model) == weights_hash(wanted)
    assert torch.equal(
        tlt.spectrum(model, "blocks.1.mlp.W_in").S, tlt.spectrum(wanted, "blocks.1.mlp.W_in").S
    )


def test_a_plain_model_imports_no_package_of_quantisation():
    code = """
import sys
sys.path.insert(0, "tests")
import architectures, torch
import tl_truncate as tlt
from tl_truncate.weights.identity.content import weights_hash
model = architectures.bridge("gpt2")
loaded = {"bitsandbytes", "torchao"} & set(sys.modules)
with tlt.truncated(model, tlt.Cut("blocks.1.mlp.W_out", 0.5)):
    model(torch.arange(3, 8)[None])
weights_hash(model), tlt.processing(model), tlt.spectrum(model, "blocks.1.mlp.W_out").tokens(model)
print(sorted({"bitsandbytes", "torchao"} & set(sys.modules) - loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
