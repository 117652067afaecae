"""What linears of other packages tell of themselves beside their weights: an adapter's scale, say."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from tl_truncate.weights.holding.forward import is_known

# Of an adapter, as peft names them; all other private names are torch's or a loader's own.
_PRIVATE = ("_active_adapter", "_disable_adapters")


def settings_of(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Path and settings of adapters, and of linears that may write something else than `x W + b`.

    Examples:
        >>> list(settings_of(torch.nn.Linear(2, 3)))
        []
    """
    for path, module in nn.Module.named_modules(model):
        if "base_layer" in module._modules or (isinstance(module, nn.Linear) and not is_known(module)):
            told = {
                name: value
                for name, value in sorted(vars(module).items())
                if name in _PRIVATE or not (name.startswith("_") or name == "training")
            }
            shown = {name: value for name, value in told.items() if _is_text(value)}
            yield path, f"{type(module).__module__}.{type(module).__name__} {shown}"


def _is_text(value: Any) -> bool:
    """Whether a value's own text tells all of it."""
    if isinstance(value, dict):
        return all(_is_text(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple):
        return all(_is_text(each) for each in value)
    return isinstance(value, str | int | float | bool | None)
