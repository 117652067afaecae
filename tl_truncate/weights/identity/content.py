"""What weights are, by their content: a key for one, and a hash of all that a model has."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import xxhash
from torch import Tensor, nn

from tl_truncate.weights.holding.offloaded import real_of
from tl_truncate.weights.holding.quantised import quantised
from tl_truncate.weights.identity.configuration import is_silent, plain_configuration
from tl_truncate.weights.identity.modules import settings_of

# Models with the same weights may still say different things: sequential and parallel blocks, for one.
_CONFIGURATION = (
    "act_fn",
    "normalization_type",
    "eps",
    "parallel_attn_mlp",
    "positional_embedding_type",
    "rotary_base",
    "rotary_dim",
    "rotary_adjacent_pairs",
    "attn_scale",
    "use_attn_scale",
    "attention_dir",
    "attn_scores_soft_cap",
    "output_logits_soft_cap",
    "window_size",
    "n_heads",
    "n_key_value_heads",
    "num_experts",
    "experts_per_token",
    "attn_types",
    "scale_attn_by_inverse_layer_idx",
    "use_NTK_by_parts_rope",
    "NTK_by_parts_low_freq_factor",
    "NTK_by_parts_high_freq_factor",
    "NTK_by_parts_factor",
    "NTK_original_ctx_len",
    "rotary_base_local",
    "use_qk_norm",
)
# Bytes of a weight that are looked at together.
_AT_ONCE = 2**22
# Within `hashed_once` alone.
_held: "WeakKeyDictionary[nn.Module, str]" = WeakKeyDictionary()


def content_key(weight: Tensor) -> str:
    """A hash of a weight's bytes, shape and dtype: equal weights share it, an edited one does not.

    It is read anew at each call, since no counter of torch's sees an edit of `.data`. The hash is XXH3,
    which reads some gigabytes in a second: it is against accidents, not against malice.

    Raises:
        ValueError: if the weight holds no data.

    Examples:
        >>> content_key(torch.zeros(2, 3)) == content_key(torch.zeros(3, 2))
        False
    """
    if weight.is_meta:
        raise ValueError(
            f"A weight must hold data to have a key, got one of shape {tuple(weight.shape)} on the meta "
            "device, as which all of its shape would be equal. Load the model's weights."
        )
    digest = xxhash.xxh3_128(f"{tuple(weight.shape)} {weight.dtype}".encode())
    rows = weight if weight.ndim else weight.reshape(1)
    # In parts, since a transposed weight, or one on another device, is copied for it.
    size = max(1, _AT_ONCE * len(rows) // max(1, rows.numel() * rows.element_size()))
    for start in range(0, len(rows), size):
        digest.update(bytes_of(rows[start : start + size]))
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> Any:
    """A tensor's content as a buffer, without a copy where it lies on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def weights_hash(model: nn.Module) -> str:
    """A hash of all parameters and buffers of a model, and of how its configuration uses them.

    Where one number differs, so does the hash. The same weights have the same hash on any device, and
    offloaded; in another precision, quantised, or after processing such as LayerNorm folding, they are
    others.

    Args:
        model: a HookedTransformer or TransformerBridge.

    Returns:
        32 hexadecimal digits.

    Raises:
        ValueError: if a weight holds no data.

    Examples:
        >>> before = weights_hash(model)
        >>> len(before), before == weights_hash(model)
        (32, True)
    """
    return _held.get(model) or _hash(model)


@contextmanager
def hashed_once(model: nn.Module) -> Iterator[None]:
    """Inside, a model's hash is taken once: for work of our own, during which nobody edits a weight."""
    if model in _held:
        yield
        return
    _held[model] = _hash(model)
    try:
        yield
    finally:
        del _held[model]


def _hash(model: nn.Module) -> str:
    # A weight may stand under several names, as tied ones do: its bytes are read once in this call.
    keys: dict[Any, str] = {}
    digest = hashlib.blake2b(json.dumps(_configuration(model)).encode(), digest_size=16)
    for name, (module, own, tensor) in sorted(_tensors(model).items(), key=lambda each: each[0]):
        place: Any = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.is_meta or quantised(module, own) is not None:  # which have no address of their own
            place = (id(module), own)
        if place not in keys:
            keys[place] = _key(module, own, tensor)
        digest.update(f"{name} {keys[place]}\n".encode())
    for root in _roots(model):
        for path, settings in settings_of(root):
            digest.update(f"{_plain_name(path)} {settings}\n".encode())
    return digest.hexdigest()


def _configuration(model: nn.Module) -> dict[str, str]:
    """TransformerLens' own, and for a model of transformers all that it is built from."""
    found = {name: str(getattr(model.cfg, name, None)) for name in _CONFIGURATION}
    source = getattr(getattr(model, "original_model", None), "config", None)
    told = plain_configuration(source) if hasattr(source, "to_json_string") else {}
    for name, value in sorted(told.items()):
        # Quantised weights say by themselves how they are quantised.
        if not is_silent(name) and name != "quantization_config":
            found[f"transformers {name}"] = json.dumps(value, sort_keys=True)
    return found


def _key(module: nn.Module, name: str, stored: Tensor) -> str:
    """Of what a parameter or buffer stands for; of a quantised one with all that a pass makes of it."""
    owner = quantised(module, "weight") if name == "bias" else None
    if owner is not None:
        return content_key(owner.bias(stored))
    held = quantised(module, name)
    if held is None:
        return content_key(real_of(module, name, stored))
    if held.problem is not None:
        raise ValueError(f"A weight must be readable to have a key, but {held.problem}.")
    beside = [f"{name}={_shown(value)}" for name, value in sorted(held.beside.items())]
    return " ".join([content_key(held.weight()), held.kind, *beside])


def _shown(value: Any) -> str:
    return content_key(value) if isinstance(value, Tensor) else repr(value)


def _tensors(model: nn.Module) -> dict[str, tuple[nn.Module, str, Tensor]]:
    """Parameters and buffers, each with the module and the name that it is stored under.

    By names that neither a Bridge's wrapping nor a parametrization changes.
    """
    found: dict[str, tuple[nn.Module, str, Tensor]] = {}
    for root in _roots(model):
        for path, module in nn.Module.named_modules(root):
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                plain = _plain_name(f"{path}.{name}")
                if tensor is not None and plain is not None:
                    found[plain] = (module, name, tensor)
    return found


def _roots(model: nn.Module) -> list[nn.Module]:
    """The model, and what a Bridge wraps, which it holds outside its own modules."""
    inner = model.__dict__.get("original_model")
    return [model] if inner is None else [model, inner]


def _plain_name(name: str) -> str | None:
    """None for what a parametrization has of its own, which is no weight of the model."""
    parts = [part for part in name.split(".") if part.lstrip("_") != "original_component"]
    if "parametrizations" in parts:
        if parts[-1] != "original":
            return None
        parts = [part for part in parts[:-1] if part != "parametrizations"]
    return ".".join(parts)
