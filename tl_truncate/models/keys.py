"""Whether a TransformerBridge keeps the keys of a pass for the next one.

transformers 5.24 calls a layer's cache of keys `cache` where it called it `past_key_values`, and a
TransformerLens that does not know the new name runs every later pass as if nothing had come before.
"""

import inspect
import warnings
from typing import Any

import torch

#: Of passes from a cache and whole ones: more apart than this share of what the past does.
_APART = 0.1


class LostKeysWarning(UserWarning):
    """Generation with a cache of keys does not see the prompt, whether anything is cut or not."""


def keeps_keys(model: Any) -> bool:
    """Whether a pass that goes on from a cache of keys gives the logits of a whole pass.

    Asked of the model itself with four tokens, and only where the name of the argument is the new one.

    Args:
        model: a HookedTransformer or TransformerBridge, with nothing cut.

    Returns:
        Whether it does; also where the model has no cache.

    Examples:
        >>> keeps_keys(model)
        True
    """
    source = getattr(model, "original_model", None)
    if source is None or not _renamed(model):
        return True
    tokens = torch.tensor([[0, 1, 2, 3]], device=next(model.parameters()).device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the old name, which both versions take
        begun = source(tokens[:, :3], use_cache=True)
        cache = getattr(begun, "past_key_values", None)
        if cache is None:
            return True
        goes_on = source(tokens[:, 3:], past_key_values=cache, use_cache=True).logits[0, -1]
        whole, alone = (source(each).logits[0, -1] for each in (tokens, tokens[:, 3:]))
    apart = (goes_on - whole).abs().max()
    return bool(apart <= _APART * (alone - whole).abs().max())


def warn_of_lost_keys(model: Any) -> None:
    """Says that keys are lost, and what to do."""
    if not keeps_keys(model):
        message = (
            "This TransformerLens does not hand the cache of keys on to the attention of this "
            "transformers: a token that a Bridge generates with a cache sees itself alone, cut or not. "
            "Passes without a cache, and with them all that this package computes, are right. Install "
            "'transformers<5.24', a newer TransformerLens, or generate with use_past_kv_cache=False."
        )
        warnings.warn(message, LostKeysWarning, stacklevel=4)


def _renamed(model: Any) -> bool:
    attention = getattr(getattr(model.blocks[0], "attn", None), "original_component", None)
    forward = getattr(attention, "forward", None)
    return forward is not None and "cache" in inspect.signature(forward).parameters
