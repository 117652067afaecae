"""The independent path of exports: plain Hugging Face models, edited in place by NumPy.

Where each matrix lies in the published tensors is spelt out here, architecture by architecture, while
the package looks it up by its numbers. Nothing here uses the package.
"""

import numpy as np
import torch

HEADS, D_HEAD, WIDTH = 4, 8, 32
_FUSED = {"W_Q": 0, "W_K": 1, "W_V": 2}

_LLAMA = dict(
    W_Q="self_attn.q_proj", W_K="self_attn.k_proj", W_V="self_attn.v_proj", W_O="self_attn.o_proj",
    W_in="mlp.up_proj", W_gate="mlp.gate_proj", W_out="mlp.down_proj",
)  # fmt: skip
_NEOX = dict(
    fused="attention.query_key_value", W_O="attention.dense",
    W_in="mlp.dense_h_to_4h", W_out="mlp.dense_4h_to_h",
)  # fmt: skip
_BLOOM = {**_NEOX, "fused": "self_attention.query_key_value", "W_O": "self_attention.dense"}
_GPT2 = dict(fused="attn.c_attn", W_O="attn.c_proj", W_in="mlp.c_fc", W_out="mlp.c_proj")
#: The layers, the modules in one, and how heads stand in a fused module: one after the other, each with
#: its query, key and value ("by head"), or all queries first ("by kind"); Conv1D has inputs first.
LAYOUTS = {
    "neox-parallel": ("gpt_neox.layers", _NEOX, "by head"),
    "neox-sequential": ("gpt_neox.layers", _NEOX, "by head"),
    "bloom-alibi": ("transformer.h", _BLOOM, "by head"),
    "falcon-alibi": ("transformer.h", _BLOOM, "by head"),
    "gpt2": ("transformer.h", _GPT2, "by kind, inputs first"),
    "mpt-alibi": (
        "transformer.blocks",
        dict(fused="attn.Wqkv", W_O="attn.out_proj", W_in="ffn.up_proj", W_out="ffn.down_proj"),
        "by kind",
    ),
    "llama-grouped": ("model.layers", _LLAMA, ""),
    "mistral-window": ("model.layers", _LLAMA, ""),
    "gemma2-post-norm": ("model.layers", _LLAMA, ""),
    "qwen3-grouped": ("model.layers", _LLAMA, ""),
    "phi-partial": (
        "model.layers",
        {**_LLAMA, "W_O": "self_attn.dense", "W_in": "mlp.fc1", "W_out": "mlp.fc2", "W_gate": None},
        "",
    ),
    "opt-learnt": (
        "model.decoder.layers",
        {**_LLAMA, "W_O": "self_attn.out_proj", "W_in": "fc1", "W_out": "fc2", "W_gate": None},
        "",
    ),
}


def parameter_name(name: str, layer: int, matrix: str) -> str:
    """The name of the tensor that a matrix lies in."""
    layers, modules, _ = LAYOUTS[name]
    return f"{layers}.{layer}.{modules.get(matrix) or modules['fused']}.weight"


def _outputs(name: str, matrix: str, width: int) -> np.ndarray:
    """Which outputs of the module are the matrix's."""
    layout = LAYOUTS[name][2]
    if matrix not in _FUSED or not layout:
        return np.arange(width)
    which = _FUSED[matrix]
    if layout == "by head":
        return np.arange(width).reshape(HEADS, 3, D_HEAD)[:, which].reshape(-1)
    return np.arange(width).reshape(3, WIDTH)[which]


def edit(hf: torch.nn.Module, name: str, site: str, change) -> None:
    """Replaces a matrix `[n_in, n_out]`, or that of one head, by a function of it, for good."""
    _, layer, _, matrix, *head = site.split(".")
    stored = hf.get_parameter(parameter_name(name, int(layer), matrix))
    value = stored.detach().double().numpy().copy()
    turned = value if "inputs first" in LAYOUTS[name][2] else value.T
    outputs, inputs = _outputs(name, matrix, turned.shape[1]), np.arange(turned.shape[0])
    if head:
        own = slice(int(head[0]) * D_HEAD, (int(head[0]) + 1) * D_HEAD)
        if matrix == "W_O":
            inputs = inputs[own]
        else:
            outputs = outputs[own]
    turned[np.ix_(inputs, outputs)] = change(turned[np.ix_(inputs, outputs)])
    with torch.no_grad():
        stored.copy_(torch.from_numpy(value).to(stored.dtype))


def matrices(name: str) -> list[str]:
    """Those that an architecture has, in all heads or none."""
    modules = LAYOUTS[name][1]
    present = [each for each in ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out")
               if modules.get(each) or ("fused" in modules and each in _FUSED)]  # fmt: skip
    return present
