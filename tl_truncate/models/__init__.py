"""Loading models with their raw weights."""

from tl_truncate.models.checkpoints import Checkpoints
from tl_truncate.models.hooked import hooked_transformer
from tl_truncate.models.keys import LostKeysWarning, keeps_keys
from tl_truncate.models.load import load_model
from tl_truncate.models.wanted import Backend

__all__ = ["Backend", "Checkpoints", "LostKeysWarning", "hooked_transformer", "keeps_keys", "load_model"]
