"""What a transformers configuration says about a model's numbers."""

import json
from typing import Any

# How a model is run, trained, stored and named, and what only a tokenizer or generation reads.
_SILENT = frozenset(
    "architectures attn_impl attn_implementation auto_map bos_token_id chunk_size_feed_forward dtype "
    "eos_token_id finetuning_task gradient_checkpointing id2label initializer_range label2id "
    "pad_token_id prefix problem_type return_dict sep_token_id task_specific_params tokenizer_class "
    "torch_dtype transformers_version use_cache".split()
)


def is_silent(key: str) -> bool:
    """Whether a key changes no number of a model in evaluation mode.

    Examples:
        >>> is_silent("use_cache"), is_silent("attn_pdrop"), is_silent("sliding_window")
        (True, True, False)
    """
    dropped = "dropout" in key or "pdrop" in key
    return key in _SILENT or key.startswith(("output_", "_")) or dropped


def plain_configuration(config: Any) -> dict[str, Any]:
    """A configuration as its file has it: by way of JSON a tuple is a list, and each key a text."""
    found: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return found
