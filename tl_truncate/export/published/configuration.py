"""Whether a model computes as its base does: their configurations, key by key."""

from collections.abc import Iterator, Mapping
from typing import Any

from tl_truncate.export.published.base import Base
from tl_truncate.weights.identity.configuration import is_silent, plain_configuration

# One function under the names that transformers and TransformerLens have for it.
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "swish": "silu"}


def differences(own: Mapping[str, Any], told: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The keys of two configurations that differ, with both values; without those that change no number.

    Examples:
        >>> own = {"num_layers": 2, "use_cache": True, "rope": {"factor": 4.0}}
        >>> list(differences(own, {"num_layers": 3, "use_cache": False, "rope": {"factor": 4.0}}))
        [('num_layers', 2, 3)]
    """
    for key in sorted(own.keys() | told.keys()):
        if is_silent(key):
            continue
        one, other = own.get(key), told.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from ((f"{key}.{inner}", *values) for inner, *values in differences(one, other))
        elif one != other:
            yield key, one, other


def require_same_configuration(config: Any, base: Base) -> None:
    """That the configuration of a model of transformers is that of its base's files.

    Raises:
        ValueError: if a key is another.
    """
    from transformers import AutoConfig

    told = AutoConfig.from_pretrained(base.folder, local_files_only=True)
    found = list(differences(plain_configuration(config), plain_configuration(told)))
    if found:
        raise ValueError(
            f"The model must have the configuration of its base, but {_told(found)} in {base}. Others "
            "would load the base, and not this model. Load it without overrides, or save it and name "
            "that folder: base=folder."
        )


def require_same_architecture(cfg: Any, config: Any, base: Base) -> None:
    """That the configuration of a HookedTransformer is what its base's says, where both say it.

    Raises:
        ValueError: if a setting is another.
    """
    told = {key: value for key, value in _in_words_of_hooked(config).items() if value is not None}
    own = {key: getattr(cfg, key, None) for key in told}
    if "act_fn" in own:
        own["act_fn"] = _ACTIVATIONS.get(str(own["act_fn"]), own["act_fn"])
    found = list(differences(own, told))
    if found:
        raise ValueError(
            f"The model must have the configuration of its base, but {_told(found)} in {base}. Others "
            "would load the base, and not this model. Name the right base, or load it anew."
        )


def _in_words_of_hooked(config: Any) -> dict[str, Any]:
    def first(*names: str) -> Any:
        return next((each for each in (getattr(config, name, None) for name in names) if each), None)

    heads, width = first("num_attention_heads"), first("hidden_size")
    act: Any = first("hidden_act", "activation_function", "hidden_activation")
    rope = first("rope_parameters", "rope_scaling") or {}
    base = rope.get("rope_theta") or first("rope_theta", "rotary_emb_base")
    share = rope.get("partial_rotary_factor") or first("partial_rotary_factor", "rotary_pct")
    d_head = first("head_dim") or width // heads
    return {
        "n_layers": first("num_hidden_layers"),
        "d_model": width,
        "d_mlp": first("intermediate_size", "n_inner"),
        "n_heads": heads,
        "d_head": d_head,
        "eps": first("layer_norm_eps", "rms_norm_eps", "layer_norm_epsilon"),
        "act_fn": _ACTIVATIONS.get(str(act), act),
        "parallel_attn_mlp": getattr(config, "use_parallel_residual", None),
        "rotary_base": base,
        "rotary_dim": None if base is None else int(d_head * (share or 1)),
        "use_NTK_by_parts_rope": None if base is None else rope.get("rope_type") == "llama3",
        "NTK_by_parts_factor": rope.get("factor") if rope.get("rope_type") == "llama3" else None,
    }


def _told(found: list[tuple[str, Any, Any]]) -> str:
    # Of many the first three say which other model it is.
    return "; ".join(f"{key} is {own!r}, and {told!r}" for key, own, told in found[:3])
