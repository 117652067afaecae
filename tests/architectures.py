"""Small random models of every architecture that the surgery is tested on.

Biases and norm weights are drawn too, since a forgotten bias would not show in a fresh model.
"""

import copy
import json
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    MptConfig,
    MptForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

try:  # removed in TransformerLens 4
    from transformer_lens import HookedTransformer, HookedTransformerConfig
except ImportError:
    HookedTransformer = None

#: Where models are built; the tests' option `--device` says.
DEVICE = torch.device("cpu")
VOCAB = 97
SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48)
_COMMON = dict(vocab_size=VOCAB, max_position_embeddings=64, attn_implementation="eager", **SIZES)
_GROUPED = dict(num_key_value_heads=2, **_COMMON)
_EAGER = dict(vocab_size=VOCAB, attn_implementation="eager")
#: Keys further back than this are out of sight, in the architectures that have a window.
WINDOW = 4
_TEXT = [
    "When",
    "Mary",
    "and",
    "John",
    "went",
    "to",
    "the",
    "store",
    ",",
    "gave",
    "a",
    "drink",
    ".",
    "in",
    "is",
    "of",
    "Paris",
    "London",
    "France",
    "Rome",
    "Italy",
    "capital",
    "country",
    "The",
]

HF = {
    "neox-parallel": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(use_parallel_residual=True, rotary_pct=0.25, **_COMMON)
    ),
    "neox-sequential": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(use_parallel_residual=False, rotary_pct=0.25, **_COMMON)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_inner=48, n_positions=64)
    ),
    "llama-grouped": lambda: LlamaForCausalLM(LlamaConfig(attention_bias=True, **_GROUPED)),
    "gemma2-post-norm": lambda: Gemma2ForCausalLM(Gemma2Config(head_dim=8, **_GROUPED)),
    "mixtral-sparse": lambda: MixtralForCausalLM(MixtralConfig(num_local_experts=4, **_GROUPED)),
    "mistral-window": lambda: MistralForCausalLM(MistralConfig(sliding_window=WINDOW, **_GROUPED)),
    "qwen3-grouped": lambda: Qwen3ForCausalLM(Qwen3Config(head_dim=8, **_GROUPED)),
    "bloom-alibi": lambda: BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=3, n_head=4, **_EAGER)),
    "mpt-alibi": lambda: MptForCausalLM(
        MptConfig(d_model=32, n_heads=4, n_layers=3, expansion_ratio=2, max_seq_len=64, **_EAGER)
    ),
    "falcon-alibi": lambda: FalconForCausalLM(
        FalconConfig(
            architectures=["FalconForCausalLM"],
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            alibi=True,
            multi_query=False,
            parallel_attn=False,
            bias=True,
            **_EAGER,
        )
    ),
    "opt-learnt": lambda: OPTForCausalLM(
        OPTConfig(ffn_dim=48, word_embed_proj_dim=32, **{**_COMMON, "intermediate_size": 48})
    ),
    "phi-partial": lambda: PhiForCausalLM(PhiConfig(partial_rotary_factor=0.5, **_COMMON)),
    "gptneo-local": lambda: GPTNeoForCausalLM(
        GPTNeoConfig(
            hidden_size=32,
            num_layers=3,
            num_heads=4,
            intermediate_size=48,
            window_size=WINDOW,
            attention_types=[[["global", "local", "local"], 1]],
            max_position_embeddings=64,
            **_EAGER,
        )
    ),
    "gpt1": lambda: OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(n_embd=32, n_layer=3, n_head=4, n_positions=64, **_EAGER)
    ),
}
_HOOKED = {
    "neox-parallel": dict(
        parallel_attn_mlp=True, positional_embedding_type="rotary", rotary_dim=2, act_fn="gelu"
    ),
    "neox-sequential": dict(positional_embedding_type="rotary", rotary_dim=2, act_fn="gelu"),
    "gpt2": dict(act_fn="gelu_new"),
    "llama-grouped": dict(
        n_key_value_heads=2,
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        positional_embedding_type="rotary",
        rotary_dim=8,
        act_fn="silu",
    ),
    "no-norm": dict(normalization_type=None, act_fn="relu"),
    "gptneo-local": dict(
        use_local_attn=True,
        window_size=WINDOW,
        attn_types=["global", "local", "local"],
        use_attn_scale=False,
        act_fn="gelu_new",
    ),
    "gemma2-post-norm": dict(
        use_normalization_before_and_after=True, normalization_type="RMS", act_fn="gelu"
    ),
}
#: The architectures that every law is tested on, by class.
BRIDGED = ("neox-parallel", "neox-sequential", "gpt2", "llama-grouped", "no-norm")
HOOKED = BRIDGED if HookedTransformer is not None else ()
CASES = [("bridge", name) for name in BRIDGED] + [("hooked", name) for name in HOOKED]
#: transformers' RMS norm and HookedTransformer's rotary embedding round to float32 whatever the weights are,
#: which a small step feels.
ROUNDS = {("bridge", "llama-grouped"), ("hooked", "neox-parallel"), ("hooked", "neox-sequential")}
ROUNDS |= {("hooked", "llama-grouped")}
#: Further ones, for the laws that they are special to: windows, ALiBi, learnt positions, norms of queries.
WINDOWED = [("bridge", "mistral-window"), ("bridge", "gptneo-local")]
WINDOWED += [("hooked", "gptneo-local")] if HOOKED else []
SPECIAL = ("qwen3-grouped", "bloom-alibi", "mpt-alibi", "falcon-alibi", "opt-learnt", "gpt1")


@lru_cache
def word_tokenizer() -> PreTrainedTokenizerBase:
    """A word-level tokenizer whose words carry their leading space, as GPT-2's do.

    The Bridge reloads a tokenizer from its folder, so it has to come from one.
    """
    return _from_a_folder(_fresh_tokenizer())


def _from_a_folder(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    folder = tempfile.mkdtemp(prefix="word-tokenizer-")
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def with_words_exchanged(one: str, other: str) -> PreTrainedTokenizerBase:
    """The small tokenizer, but two words have each other's number."""
    tokenizer = _fresh_tokenizer()
    found = json.loads(tokenizer.backend_tokenizer.to_str())
    words = found["model"]["vocab"]
    words[one], words[other] = words[other], words[one]
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    changed = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(found)), **special)
    return _from_a_folder(changed)


def _fresh_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<bos>", "<pad>", "<unk>", *_TEXT, *(f"Ġ{word}" for word in _TEXT), "Ġthe", "Ġdrink"]
    words = list(dict.fromkeys(words))
    words += [f"<{index}>" for index in range(VOCAB - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<bos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draws every parameter, so that biases and norms are no special values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = 0.15 if parameter.ndim > 1 else 0.3
            centre = 1.0 if parameter.ndim == 1 and bool((parameter == 1).all()) else 0.0
            parameter.copy_(centre + scale * noise)
    return model.eval()


def hf_model(name: str) -> nn.Module:
    """A random Hugging Face model of an architecture."""
    return randomise(HF[name]()).to(DEVICE)


def save_folder(name: str, folder: Path) -> Path:
    """A Hugging Face folder with a random model and a tokenizer."""
    hf_model(name).save_pretrained(folder)
    _fresh_tokenizer().save_pretrained(folder)
    return folder


def bridge(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A TransformerBridge of an architecture."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    if name == "no-norm":
        config = TransformerBridgeConfig(
            d_model=32,
            d_head=8,
            n_heads=4,
            n_layers=3,
            n_ctx=64,
            d_vocab=VOCAB,
            d_mlp=48,
            act_fn="relu",
            normalization_type=None,
        )
        return _placed(randomise(TransformerBridge.boot_native(config)).to(dtype))
    model = TransformerBridge.boot_transformers(
        name, hf_model=copy.deepcopy(hf_model(name)).to(dtype), tokenizer=word_tokenizer()
    )
    model.cfg.dtype = dtype
    return _placed(model)


def _placed(model: nn.Module) -> nn.Module:
    """The model on the device of the tests, and its configuration says so."""
    model.cfg.device = str(DEVICE)
    return model.to(DEVICE)


def hooked(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A HookedTransformer of an architecture (TransformerLens 3)."""
    config = dict(
        n_layers=3,
        d_model=32,
        d_head=8,
        n_heads=4,
        d_mlp=48,
        n_ctx=64,
        d_vocab=VOCAB,
        normalization_type="LN",
        dtype=dtype,
        device=str(DEVICE),
    )
    model = HookedTransformer(HookedTransformerConfig(**{**config, **_HOOKED[name]}), tokenizer=None)
    return randomise(model)


def build(kind: str, name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model by class and architecture."""
    return {"bridge": bridge, "hooked": hooked}[kind](name, dtype)


def with_tokenizer(model: nn.Module) -> nn.Module:
    """The model with the small tokenizer; HookedTransformers and native models are built without."""
    if model.tokenizer is None:
        model.tokenizer = word_tokenizer()
        model.cfg.d_vocab_out = model.cfg.d_vocab
        model.cfg.default_prepend_bos = False
    return model
