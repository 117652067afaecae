"""Small models with quantised linears, and their dequantised weights by the packages' own functions."""

import copy
from functools import lru_cache

import architectures
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
        GPT2Config(vocab_size=architectures.VOCAB, n_embd=64, n_layer=3, n_head=4, n_inner=128, n_positions=64)
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
def _folder(name: str) -> str:
    import tempfile

    folder = tempfile.mkdtemp(prefix="quantised-")
    architectures.randomise(_HF[name]()).save_pretrained(folder)
    return folder


def hf_quantised(name: str, kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A Hugging Face model whose linears are quantised, the fused and the last ones aside."""
    left_out = [*_FUSED[name], *_HEADS]
    if kind == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        model = AutoModelForCausalLM.from_pretrained(_folder(name), dtype=dtype).eval()

        def chosen(module: nn.Module, path: str) -> bool:
            return isinstance(module, nn.Linear) and not any(each in path for each in left_out)

        quantize_(model, Int8WeightOnlyConfig(), filter_fn=chosen)
        return model
    config = BitsAndBytesConfig(llm_int8_skip_modules=left_out, **_BITS[kind])
    return AutoModelForCausalLM.from_pretrained(
        _folder(name), quantization_config=config, dtype=dtype
    ).eval()


def bridged(name: str, hf: nn.Module) -> nn.Module:
    """A Bridge around it."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        f"quantised-{name}", hf_model=hf, tokenizer=architectures.word_tokenizer()
    )


def dequantised(linear: nn.Module) -> torch.Tensor:
    """`[n_out, n_in]`, of a linear that no pass has been through."""
    weight = linear.weight
    if type(weight).__name__ == "Params4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, copy.deepcopy(weight.quant_state)).double()
    if type(weight).__name__ == "Int8Params":
        return weight.data.double() * weight.SCB.double()[:, None] / 127
    return weight.dequantize().double()


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
