"""Weights in which there are no numbers to factor: what must hold, what was given, what to do."""

from collections.abc import Callable

import architectures
import pytest
import torch
from quantised_models import bridged, hf_quantised
from torch import nn
from ways import TASK, refused

import tl_truncate as tlt
from tl_truncate.weights.identity.content import weights_hash


def with_linear(linear: nn.Module) -> nn.Module:
    """A small GPT-2 with another linear in one place."""
    model = architectures.bridge("gpt2")
    model.blocks[1].mlp.out.set_original_component(linear)
    return model


class Odd(torch.Tensor):
    """A tensor that is more than its numbers."""


def test_what_is_quantised_in_each_pass():
    bnb = pytest.importorskip("bitsandbytes")
    model = with_linear(bnb.nn.Linear8bitLt(48, 32))
    refused(
        model, r"W_out must be readable, but bitsandbytes keeps it in floating point.*has_fp16_weights"
    )
    with pytest.raises(ValueError, match=r"must be readable to have a key, but bitsandbytes keeps it"):
        weights_hash(model)


def test_what_is_not_quantised_yet():
    bnb = pytest.importorskip("bitsandbytes")
    refused(
        with_linear(bnb.nn.Linear4bit(64, 32)), r"readable, but bitsandbytes has not quantised it yet"
    )


def test_what_was_quantised_the_other_way_round():
    bnb = pytest.importorskip("bitsandbytes")
    linear = bnb.nn.Linear4bit(48, 32, quant_type="nf4")
    linear.weight = bnb.nn.Params4bit(torch.randn(48, 32), quant_type="nf4", requires_grad=False)
    refused(
        with_linear(linear.to("cpu")),
        r"quantised it as \(48, 32\), and not as \(32, 48\), \[n_out, n_in\]",
    )


def test_scales_that_are_lost():
    bnb = pytest.importorskip("bitsandbytes")
    linear = bnb.nn.Linear8bitLt(48, 32, has_fp16_weights=False).to("cpu")
    linear.weight.SCB = None
    refused(with_linear(linear), r"readable, but its scales are lost\. Load the quantised model anew\.")


@pytest.mark.parametrize("kind", ["int8", "nf4", "torchao"])
def test_what_is_quantised_and_offloaded_at_once(kind):
    model = hf_quantised("llama", kind)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    linear = model.model.layers[1].mlp.down_proj
    stored = linear._parameters["weight"]
    shown = torch.empty(
        stored.shape, dtype=torch.int8 if kind == "int8" else stored.dtype, device="meta"
    )
    if kind == "torchao":
        model = with_linear(nn.Linear(48, 32))
        own = model.blocks[1].mlp.out.original_component
        own.weight = nn.Parameter(stored.to("meta"), requires_grad=False)
    else:
        extra = vars(stored)
        linear.weight = type(stored)(shown, requires_grad=False)
        vars(linear.weight).update(extra)
        model = bridged("llama", model)
    refused(model, r"readable, but it is quantised and offloaded at once")


def test_tensors_of_a_kind_that_is_not_known():
    model = architectures.bridge("gpt2")
    own = model.blocks[1].mlp.out.original_component
    own.weight = nn.Parameter(own.weight.detach().as_subclass(Odd), requires_grad=False)
    refused(
        model, r"be a plain tensor, or one that bitsandbytes or torchao has quantised, got a .*Odd\."
    )


def of_torchao(make: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A small model with one weight of torchao's, of a kind that is not known."""
    model = architectures.bridge("llama-grouped")
    own = model.blocks[1].mlp.out.original_component
    own.weight = nn.Parameter(make(own.weight.detach()), requires_grad=False)
    return model


def test_what_torchao_rounds_in_each_pass():
    pytest.importorskip("torchao")
    from torchao.prototype.quantized_training.bitnet import BitNetTrainingLinearWeight

    wording = "BitNetTrainingLinearWeight is none of the kinds whose product is known .*Int8Tensor"
    refused(of_torchao(BitNetTrainingLinearWeight), wording)


def test_what_torchao_dequantises_by_other_arguments():
    pytest.importorskip("torchao")
    from torchao.quantization.quantize_.workflows.nf4.nf4_tensor import to_nf4

    model = of_torchao(lambda weight: to_nf4(weight, 32, 8))
    refused(model, r"readable, but torchao's NF4Tensor is none of the kinds .*as one of these\.")
    with pytest.raises(ValueError, match=r"to have a key, but torchao's NF4Tensor is none"):
        weights_hash(model)


def test_what_torchao_smooths():
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = architectures.bridge("llama-grouped")
    own = model.blocks[1].mlp.out.original_component
    quantize_(own, Int8WeightOnlyConfig())
    own.weight.act_pre_scale = torch.linspace(0.5, 2, 48)
    wording = r"Int8Tensor multiplies its inputs by an act_pre_scale first.*without smoothing"
    refused(model, wording)
    with pytest.raises(ValueError, match=wording):
        weights_hash(model)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_numbers_without_their_scales(dtype):
    model = architectures.bridge("gpt2")
    own = model.blocks[1].mlp.out.original_component
    own.weight = nn.Parameter(own.weight.detach().to(dtype), requires_grad=False)
    refused(model, rf"16 bits or more, got {dtype}\. Load .*, or quantised by bitsandbytes or torchao\.")


def test_what_no_hook_of_its_own_has():
    """Weights that a hook puts in place for a whole block are not looked for."""
    model = architectures.bridge("llama-grouped")
    block = model.blocks[1].original_component
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    add_hook_to_module(
        block, AlignDevicesHook(execution_device="cpu", offload=True, place_submodules=True)
    )
    refused(model, r"hold data, got a tensor on the meta device.*no hook of this module has it")


def test_queries_whose_rounding_would_be_enlarged():
    bnb = pytest.importorskip("bitsandbytes")
    model = architectures.bridge("gpt2")
    own = model.blocks[1].attn.q.original_component
    linear = bnb.nn.Linear8bitLt(32, 32, has_fp16_weights=False)
    linear.load_state_dict(own.state_dict())
    model.blocks[1].attn.q.set_original_component(linear.to("cpu"))
    cut = tlt.Cut("blocks.1.attn.QK.1", 0.5)
    wording = r"QK\.1 must come from a plain linear.*got blocks\.1\.attn\.W_Q\.1 quantised"
    for way in (lambda: tlt.truncation_hooks(model, cut), lambda: tlt.truncated(model, cut).__enter__()):
        with pytest.raises(ValueError, match=wording):
            way()
    with pytest.raises(ValueError, match=wording):
        tlt.sweep(model, TASK, sites=["blocks.1.attn.QK.1"], keeps=[0.5])
