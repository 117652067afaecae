"""States of a model, and what its gradients are in one."""

import pytest
import torch


class switched:
    """A state of the model, on for a while; a test is skipped where the model has no such state."""

    def __init__(self, model, name, value=True):
        self.set, self.value = getattr(model, f"set_{name}", None), value
        self.before = bool(getattr(model.cfg, name, False))

    def __enter__(self):
        if self.set is None:
            pytest.skip("this class has no such state")
        self.set(self.value)

    def __exit__(self, *problem):
        self.set(self.before)


def gradients(model, tokens, names=None) -> dict[str, torch.Tensor]:
    """The gradient at every hook point that has one."""
    found: dict[str, torch.Tensor] = {}

    def see(gradient, hook):
        if isinstance(gradient, torch.Tensor):
            found[hook.name] = gradient.detach().clone()

    model.zero_grad()
    try:
        for name, point in model.hook_dict.items():
            if names is None or name in names:
                point.add_hook(see, dir="bwd")
        logits = model(tokens)
        (logits[0, -1, 5] - logits[1, -2].square().mean()).backward()
    finally:
        model.reset_hooks()
        model.zero_grad()
    return found


def parameter_gradients(model, tokens) -> dict[str, torch.Tensor]:
    model.zero_grad()
    logits = model(tokens)
    (logits[0, -1, 5] - logits[1, -2].square().mean()).backward()
    found = {
        name: each.grad.detach().clone()
        for name, each in model.named_parameters()
        if each.grad is not None
    }
    model.zero_grad()
    return found
