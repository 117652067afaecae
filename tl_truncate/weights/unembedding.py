"""The unembedding matrix with its numbers, whatever holds them."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from tl_truncate.weights.stored import plain


def unembedding(model: Any) -> Float[Tensor, "d_model d_vocab"]:
    """W_U of a model, dequantised, and also where it is kept elsewhere between passes.

    Examples:
        >>> bool((unembedding(model) == model.W_U).all())
        True
    """
    inner = getattr(model.unembed, "original_component", None)
    stored = (
        plain(model.unembed, "W_U", transposed=False)
        if inner is None
        else plain(inner, "weight", transposed=True)
    )
    # Where it is plain the model itself knows best, which may have processed it.
    found: Tensor = model.W_U if stored.is_plain else stored.matrix()
    return found.detach()
