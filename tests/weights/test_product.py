"""A module that multiplies by something else than the weight that it shows is refused before any pass."""

import copy

import architectures
import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from torch.nn.utils import parametrize, prune
from ways import SITE, refused

import tl_truncate as tlt
from tl_truncate.weights.locate import available, locate


def with_linear(make):
    """A small model with another module in one place, made from the linear that was there."""
    model = architectures.bridge("llama-grouped")
    component = model.blocks[1].mlp.out
    component.set_original_component(make(component.original_component).eval())
    return model


def adapted(linear):
    """peft's layer around it."""
    pytest.importorskip("peft")
    from peft import LoraConfig
    from peft.tuners.lora import Linear

    config = LoraConfig(r=4, lora_alpha=32, init_lora_weights=False)
    return Linear(linear, "default", config=config, r=4, lora_alpha=32, init_lora_weights=False)


def bit_linear(linear):
    """transformers' BitNet, which rounds in each pass."""
    from transformers.integrations.bitnet import AutoBitLinear

    made = AutoBitLinear(linear.in_features, linear.out_features, bias=False, online_quant=True)
    made.load_state_dict({"weight": linear.weight.detach()}, strict=False)
    return made


class Doubled(nn.Linear):
    """A linear with a factor of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


class Renamed(nn.Linear):
    """A linear that does what a linear does, in its own words."""

    def forward(self, x):
        return x @ self.weight.T if self.bias is None else x @ self.weight.T + self.bias


class Pair(nn.Linear):
    """A linear that returns something beside."""

    def forward(self, x):
        return super().forward(x), None


class Curious(nn.Linear):
    """A linear that wants to know more than its input."""

    def forward(self, x, other):
        return super().forward(x) + other


def as_class(kind):
    """A module of a class with the same numbers."""

    def make(linear):
        made = kind(linear.in_features, linear.out_features, bias=linear.bias is not None)
        made.load_state_dict(linear.state_dict())
        return made

    return make


def patched(linear):
    """A linear with a method of its own."""
    linear.forward = lambda x: 2 * nn.functional.linear(x, linear.weight, linear.bias)
    return linear


def quantisation_aware(linear):
    """torchao's, in training."""
    pytest.importorskip("torchao")
    from torchao.quantization.qat import FakeQuantizedLinear, IntxFakeQuantizeConfig

    config = IntxFakeQuantizeConfig(torch.int4, "per_channel")
    return FakeQuantizedLinear.from_linear(linear, None, config)


def quantisation_aware_of_torch(linear):
    """torch's, in training."""
    import torch.ao.nn.qat as qat
    from torch.ao.quantization import get_default_qat_qconfig

    linear.qconfig = get_default_qat_qconfig("x86")
    return qat.Linear.from_float(linear)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (adapted, "peft.tuners.lora.layer.Linear"),
        (bit_linear, "AutoBitLinear"),
        (quantisation_aware, "FakeQuantizedLinear"),
        (quantisation_aware_of_torch, "qat.*Linear"),
        (as_class(Doubled), "Doubled"),
        (patched, r"linear\.Linear"),
    ],
)
def test_what_writes_something_else(make, kind):
    wording = rf"W_out must write x W \+ b of its weight, but what \S*{kind} writes is \d+% away .*Merge"
    refused(with_linear(make), wording)


@pytest.mark.parametrize("kind", [Pair, Curious])
def test_what_cannot_be_asked(kind):
    refused(
        with_linear(as_class(kind)), rf"but what \S*{kind.__name__} writes cannot be called with one row"
    )


def test_an_adapter_that_was_put_into_a_model():
    peft = pytest.importorskip("peft")
    hf = architectures.hf_model("llama-grouped")
    config = peft.LoraConfig(r=4, lora_alpha=32, init_lora_weights=False, target_modules=["down_proj"])
    hf.add_adapter(config)
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(
        "llama-grouped", hf_model=hf, tokenizer=architectures.word_tokenizer()
    )
    refused(model, r"what peft\.tuners\.lora\.layer\.Linear writes is .*merge_and_unload\(\)")
    assert len(tlt.spectrum(model, "blocks.1.mlp.W_in").S) == 32


def test_an_adapter_that_was_merged():
    pytest.importorskip("peft")
    model = with_linear(adapted)
    layer = model.blocks[1].mlp.out.original_component
    layer.merge()
    with torch.no_grad():
        effective = layer(torch.eye(48)) - layer(torch.zeros(1, 48))
    assert torch.allclose(tlt.spectrum(model, SITE).S, torch.linalg.svdvals(effective), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_class_of_ones_own_that_writes_the_product(dtype):
    plain = architectures.bridge("llama-grouped", dtype)
    own = copy.deepcopy(plain)
    component = own.blocks[1].mlp.out
    component.set_original_component(as_class(Renamed)(component.original_component).to(dtype))
    assert torch.equal(tlt.spectrum(own, SITE).S, tlt.spectrum(plain, SITE).S)
    with tlt.truncated(own, tlt.Cut(SITE, 0.5), weights=True):  # also while another weight is read
        locate(own, tlt.Site.parse(SITE))


@pytest.mark.parametrize("how", ["offloaded", "pruned", "parametrized", "adapter that is off"])
def test_what_only_keeps_or_makes_its_weight_in_another_way(how):
    model = architectures.bridge("llama-grouped")
    component = model.blocks[1].mlp.out
    linear = component.original_component
    if how == "offloaded":
        component.set_original_component(as_class(Renamed)(linear))
        cpu_offload(model.original_model, execution_device="cpu")
    elif how == "pruned":
        prune.random_unstructured(linear, "weight", 0.5)
    elif how == "parametrized":
        parametrize.register_parametrization(linear, "weight", nn.Tanh())
    else:
        pytest.importorskip("peft")
        component.set_original_component(adapted(linear))
        component.original_component.enable_adapters(False)
    module = component.original_component
    with torch.no_grad():
        effective = module(torch.eye(48)) - module(torch.zeros(1, 48))
    assert torch.allclose(tlt.spectrum(model, SITE).S, torch.linalg.svdvals(effective), atol=1e-5)


def test_asking_draws_no_random_number():
    model = with_linear(as_class(Renamed))
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    tlt.spectrum(model, SITE)
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize("name", [*architectures.HF, "no-norm"])
def test_every_architecture_is_taken(name):
    model = architectures.bridge(name)
    for matrix in available(model, 1):
        locate(model, tlt.Site(1, matrix))
