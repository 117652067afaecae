"""Loading models with their raw weights."""

from tl_truncate.models.hooked import hooked_transformer
from tl_truncate.models.load import load_model
from tl_truncate.models.wanted import Backend

__all__ = ["Backend", "hooked_transformer", "load_model"]
