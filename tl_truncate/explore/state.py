"""Whether a model is still what a prompt was passed through: its weights, its hooks, the cuts at work in it."""

import time
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.weights.identity.content import weights_hash
from tl_truncate.weights.identity.deterministic import require_deterministic

#: Seconds without a question after which somebody may have edited a weight by ways that no counter sees.
_PAUSE = 1.0


@dataclass
class State:
    """What a model was when it was looked at.

    Counters and addresses are compared at each question, in a fraction of a millisecond. They do not see
    an edit of `.data`, so the weights themselves are read too where a drag begins and where it rests.
    """

    quick: tuple[Any, ...]
    whole: str
    looked: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, model: Any) -> "State":
        """A model's, as it is."""
        require_deterministic(model)
        return cls(_quick(model), weights_hash(model))

    def holds(self, model: Any, *, thoroughly: bool = False) -> bool:
        """Whether a model still is so; thoroughly also after a pause."""
        paused = time.monotonic() - self.looked > _PAUSE
        same = self.quick == _quick(model)
        if same and (thoroughly or paused):
            require_deterministic(model)
            same = self.whole == weights_hash(model)
        self.looked = time.monotonic()
        return same


def _quick(model: Any) -> tuple[Any, ...]:
    roots = [model, model.__dict__.get("original_model")]
    seen: list[Any] = [active_cuts(model)]
    for root in roots:
        for module in () if root is None else nn.Module.modules(root):
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    seen.append((id(tensor), tensor.data_ptr() if not tensor.is_meta else 0, tensor._version))
            hooks = (module._forward_hooks, module._forward_pre_hooks, getattr(module, "fwd_hooks", ()))
            if any(hooks):
                seen.append((id(module), *(tuple(map(id, each.values() if isinstance(each, dict) else each)) for each in hooks)))
    return tuple(seen)
