"""Small models with quantised linears, and their dequantised weights by the packages' own functions."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import architectures
import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

# bitsandbytes' packed kernels want multiples of 32 outputs and of 64 inputs.
_SIZES = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4)
_COMMON = dict(
    vocab_size=architectures.VOCAB, max_position_embeddings=64, attn_implementation="eager", **_SIZES
)
_HF = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(num_key_value_heads=2, attention_bias=True, mlp_bias=True, **_COMMON)
    ),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(rotary_pct=0.25, **_COMMON)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=architectures.VOCAB, n_embd=64, n_layer=3, n_head=4, n_inner=128, n_positions=64
        )
    ),
}
#: What TransformerLens splits at boot, which it can only do with plain weights.
_FUSED = {"llama": [], "neox": ["query_key_value"], "gpt2": ["c_attn"]}
_HEADS = ["lm_head", "embed_out"]
_BITS = {
    "int8": dict(load_in_8bit=True, llm_int8_threshold=0.0),
    "int8-outliers": dict(load_in_8bit=True, llm_int8_threshold=1.5),
    "nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
    "nf4-double": dict(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    ),
    "fp4": dict(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=torch.float32),
}
KINDS = (*_BITS, "torchao")


@lru_cache
def folder(name: str) -> str:
    """A Hugging Face folder with the plain model."""
    path = tempfile.mkdtemp(prefix="quantised-")
    architectures.randomise(_HF[name]()).save_pretrained(path)
    return path


def hf_quantised(name: str, kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A Hugging Face model whose linears are quantised, the fused and the last ones aside."""
    left_out = [*_FUSED[name], *_HEADS]
    if kind == "torchao":
        pytest.importorskip("torchao")  # no part of the environment: it prints into every notebook
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        model = AutoModelForCausalLM.from_pretrained(folder(name), dtype=dtype).eval()

        def chosen(module: nn.Module, path: str) -> bool:
            return isinstance(module, nn.Linear) and not any(each in path for each in left_out)

        quantize_(model, Int8WeightOnlyConfig(), filter_fn=chosen)
        return model
    config = BitsAndBytesConfig(llm_int8_skip_modules=left_out, **_BITS[kind])
    return AutoModelForCausalLM.from_pretrained(
        folder(name), quantization_config=config, dtype=dtype
    ).eval()


def bridged(name: str, hf: nn.Module) -> nn.Module:
    """A Bridge around it."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        f"quantised-{name}", hf_model=hf, tokenizer=architectures.word_tokenizer()
    )


def dequantised(linear: nn.Module) -> np.ndarray:
    """`[n_in, n_out]` in float64, of a linear that no pass has been through, by the formats' definitions."""
    weight = linear.weight
    if type(weight).__name__ == "Int8Params":
        return (weight.data.double() * weight.SCB.double()[:, None] / 127).T.numpy()
    if type(weight).__name__ != "Params4bit":
        return weight.dequantize().double().T.numpy()
    from bitsandbytes.functional import dequantize_blockwise

    state, packed = weight.quant_state, weight.data.flatten()
    scales = state.absmax
    if state.nested:
        scales = dequantize_blockwise(scales, state.state2) + state.offset
    if getattr(linear, "support_avx512bf16_for_cpu", False):  # the first pass rounds them
        scales = scales.bfloat16()
    places = torch.stack([packed >> 4, packed & 15], 1).flatten().long()
    numbers = state.code[places].view(-1, state.blocksize) * scales.float()[:, None]
    return numbers.view(state.shape).double().T.numpy()


def content(linear: nn.Module) -> bytes:
    """All bytes that a quantised linear's weight is made of."""
    weight = linear.weight
    if type(weight).__name__ == "Int8Params":
        tensors = [weight.data, linear.state.SCB if weight.SCB is None else weight.SCB]
    elif type(weight).__name__ == "Params4bit":
        tensors = [weight.data, weight.quant_state.absmax, weight.quant_state.code]
    else:
        tensors = [getattr(weight, name) for name in weight.tensor_data_names]
    plain = [tensor.detach().cpu().contiguous().flatten().view(torch.uint8) for tensor in tensors]
    return b"".join(each.numpy().tobytes() for each in plain)


@contextmanager
def replaced(component: nn.Module, weight: np.ndarray) -> Iterator[None]:
    """The Bridge's component with a plain linear of a weight `[n_in, n_out]` in place of its own."""
    own = component.original_component
    linear = nn.Linear(*weight.shape, bias=own.bias is not None)
    linear.weight.data = torch.tensor(weight.T.copy()).float()
    if own.bias is not None:
        linear.bias.data = own.bias.detach().float()
    component._modules["_original_component"] = linear
    try:
        yield
    finally:
        component._modules["_original_component"] = own


def linears(model: nn.Module, layer: int) -> dict[str, nn.Module]:
    """The Bridge's component of each matrix of a block."""
    block = model.blocks[layer]
    parts = dict(W_Q="q", W_K="k", W_V="v", W_O="o", W_in="in", W_gate="gate", W_out="out")
    found = {}
    for matrix, name in parts.items():
        part = getattr(block.attn if matrix in ("W_Q", "W_K", "W_V", "W_O") else block.mlp, name, None)
        if part is not None:
            found[matrix] = part
    return found
