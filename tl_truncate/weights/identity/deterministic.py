"""Whether a model says the same each time that it is asked."""

from torch import nn


def require_deterministic(model: nn.Module) -> None:
    """Refuses active dropout. HookedTransformer has none and is never put into evaluation mode.

    Raises:
        ValueError: if there is some.

    Examples:
        >>> require_deterministic(model)
    """
    for name, module in model.named_modules():
        drops = isinstance(module, nn.modules.dropout._DropoutNd) or hasattr(module, "attention_dropout")
        if module.training and drops:
            raise ValueError(
                f"The model must be in evaluation mode, got {name or type(module).__name__} in "
                "training mode, where dropout is random. Call model.eval() first."
            )
