"""Where a model carries hooks beside the cuts at work in it: a part of what is computed."""

from typing import Any


def hooks_at(model: Any) -> list[str]:
    """The hook points at which a model carries hooks of TransformerLens, in order.

    What a hook does cannot be told, so two runs with hooks at the same places pass for one; a run
    without, or with hooks elsewhere, is another.

    Examples:
        >>> with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda value, hook: value)]):
        ...     len(hooks_at(model))
        1
    """
    found: dict[int, str] = {}
    for name, module in model.named_modules():
        if getattr(module, "fwd_hooks", None):
            found.setdefault(id(module), str(getattr(module, "name", None) or name))
    return sorted(found.values())
