"""HookedTransformer, where TransformerLens has it, and a GPT-NeoX folder for it."""

from typing import Any

from tl_truncate.models.wanted import Wanted


def hooked_transformer() -> Any:
    """The class HookedTransformer.

    Raises:
        ValueError: if the installed TransformerLens has none.
    """
    try:
        from transformer_lens import HookedTransformer
    except ImportError:
        import transformer_lens

        found = getattr(transformer_lens, "__version__", "4 or newer")
        raise ValueError(
            f"backend='hooked' must have TransformerLens 3, since 4.0 removed HookedTransformer; got "
            f"{found}. Use backend='bridge', or install 'transformer-lens<4'."
        ) from None
    return HookedTransformer


def load_hooked_folder(cls: Any, wanted: Wanted) -> Any:
    """A local GPT-NeoX folder, for which HookedTransformer has converters but no loader."""
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_neox_weights
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = AutoModelForCausalLM.from_pretrained(wanted.name, dtype=wanted.dtype)
    if source.config.architectures != ["GPTNeoXForCausalLM"]:
        raise ValueError(
            "backend='hooked' must have a GPT-NeoX folder, got "
            f"{', '.join(source.config.architectures or ['an unknown architecture'])} in "
            f"{wanted.name!r}. Use backend='bridge'."
        )
    settings = _neox_config(source, wanted.name) | {"dtype": wanted.dtype, "device": wanted.device}
    settings["normalization_type"] = "LN" if wanted.raw else "LNPre"
    config = HookedTransformerConfig.from_dict(settings)
    model = cls(config, tokenizer=AutoTokenizer.from_pretrained(wanted.name))
    flags = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    weights = convert_neox_weights(source, config)
    model.load_and_process_state_dict(weights, **dict.fromkeys(flags, not wanted.raw))
    return model


def _neox_config(source: Any, folder: str) -> dict[str, Any]:
    config = source.config
    d_head = config.hidden_size // config.num_attention_heads
    first = source.gpt_neox.layers[0].attention
    rotary = getattr(first, "rotary_ndims", None) or round(_rotary_share(config) * d_head)
    return {
        "model_name": folder,
        "original_architecture": "GPTNeoXForCausalLM",
        "tokenizer_name": folder,
        "d_model": config.hidden_size,
        "d_head": d_head,
        "n_heads": config.num_attention_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": config.layer_norm_eps,
        "d_vocab": config.vocab_size,
        "act_fn": config.hidden_act,
        "parallel_attn_mlp": config.use_parallel_residual,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": int(rotary),
        "rotary_base": int(_rotary_base(config)),
        "default_prepend_bos": False,
    }


def _rope(config: Any) -> dict[str, Any]:
    return getattr(config, "rope_parameters", None) or {}


def _rotary_share(config: Any) -> float:
    # Renamed between transformers 4 and 5.
    share = _rope(config).get("partial_rotary_factor", getattr(config, "rotary_pct", 0.25))
    return float(share)


def _rotary_base(config: Any) -> float:
    return float(_rope(config).get("rope_theta", getattr(config, "rotary_emb_base", 10_000)))
