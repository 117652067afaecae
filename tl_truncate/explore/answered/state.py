"""Whether a model is still what a prompt was passed through: its weights, its hooks, the cuts in it."""

import time
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.weights.identity.content import weights_hash
from tl_truncate.weights.identity.deterministic import require_deterministic

#: Seconds without a question after which somebody may have edited a weight by ways that no counter sees.
_PAUSE = 1.0
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "fwd_hooks")


@dataclass
class State:
    """What a model was when it was looked at.

    Counters and addresses are compared at each question, in a millisecond. They do not see an edit of
    `.data`, so the weights themselves are read too where a drag begins and where it rests.
    """

    modules: tuple[dict[str, Any], ...]
    quick: tuple[Any, ...]
    whole: str
    looked: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, model: Any) -> "State":
        """A model's, as it is.

        Raises:
            ValueError: if dropout is active.
        """
        require_deterministic(model)
        modules = _modules(model)
        return cls(modules, _quick(model, modules), weights_hash(model))

    def unmoved(self, model: Any) -> bool:
        """Whether what counters and addresses see is as it was."""
        return self.quick == _quick(model, self.modules)

    def holds(self, model: Any, *, thoroughly: bool = False) -> bool:
        """Whether a model still is so; thoroughly also after a pause.

        Raises:
            ValueError: if dropout is active by now.
        """
        paused = time.monotonic() - self.looked > _PAUSE
        same = self.unmoved(model)
        if same and (thoroughly or paused):
            require_deterministic(model)
            same = self.whole == weights_hash(model)
        self.looked = time.monotonic()
        return same


def _modules(model: Any) -> tuple[dict[str, Any], ...]:
    """What each module holds: their dictionaries are read directly, a Bridge hands attributes on."""
    roots = [model, model.__dict__.get("original_model")]
    found = {id(each): each for root in roots if root is not None for each in nn.Module.modules(root)}
    return tuple(each.__dict__ for each in found.values())


def _quick(model: Any, modules: tuple[dict[str, Any], ...]) -> tuple[Any, ...]:
    seen: list[Any] = [active_cuts(model)]
    for own in modules:
        for kind in ("_parameters", "_buffers"):
            for name, tensor in own[kind].items():
                if tensor is not None:
                    place = 0 if tensor.is_meta else tensor.data_ptr()
                    seen.append((name, place, tensor._version, tensor.shape))
        seen.append((*map(id, own["_modules"].values()), own["training"]))
        for name in _HOOKS:
            hooks = own.get(name)
            if hooks:
                # Keys are never given twice, as the address of a hook that is gone may be.
                keys = hooks.keys() if isinstance(hooks, dict) else ()
                each = hooks.values() if isinstance(hooks, dict) else hooks
                seen.append((name, *keys, *map(id, each)))
    return tuple(seen)
