"""A parameter that reads as something else, while what is stored stays as it is.

The module gets a class of its own, in which the parameter's name is a property. So whoever reads the
attribute (the module's forward, a property of the model, an analysis) gets the changed matrix, and
whoever asks for parameters or a state dict gets what is stored. A class of its own for each change also
tells a compiler that what it compiled for this module holds no longer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tl_truncate.weights.holding.offloaded import real_of
from tl_truncate.weights.identity.content import content_key

_as_stored: ContextVar[bool] = ContextVar("as_stored", default=False)


@dataclass(frozen=True, eq=False)
class Change:
    """What is read in place of what is stored.

    Attributes:
        forward: from the stored tensor to the one that is read, in the stored layout; affine in it.
        once: computes what is read once, and again only if what is stored has changed; else at each
            reading, by operations that autograd sees.
        for_all: whether `stored_or_read` gives what is read.
    """

    forward: Callable[[Tensor], Tensor]
    once: bool
    for_all: bool


class CopyInsideError(RuntimeError):
    """A model was to be copied while a cut is at work in it."""


def refuse_copy(*args: Any) -> Any:
    """Stands for the copying of what must not be copied.

    Raises:
        CopyInsideError: always.
    """
    raise CopyInsideError(
        "A model must be copied or pickled outside of a cut's context, since the copy would stay cut "
        "for ever, but a cut is at work in it. Leave the context, then copy."
    )


class _Readings:
    """The changes of one module's parameters, and the class that carries them out."""

    def __init__(self, module: nn.Module) -> None:
        self.original = type(module)
        self.changes: dict[str, list[Change]] = {}
        self._read: dict[str, tuple[Any, Tensor]] = {}

    def install(self, module: nn.Module) -> None:
        """Gives the module a fresh class, or its own back where nothing is changed any more."""
        self._read.clear()
        names = [name for name, changes in self.changes.items() if changes]
        if not names:
            module.__class__ = self.original
            return
        parts: dict[str, Any] = {
            "__module__": self.original.__module__,
            "__qualname__": self.original.__qualname__,
            "__deepcopy__": refuse_copy,
            "__copy__": refuse_copy,
            "__reduce_ex__": refuse_copy,
            "_readings": self,
        }
        parts |= {name: property(partial(self.read, name)) for name in names}
        # The name stays: libraries look at it to tell layouts apart.
        module.__class__ = type(self.original.__name__, (self.original,), parts)

    def read(self, name: str, module: nn.Module) -> Tensor:
        """What stands for the parameter now."""
        held = module._parameters[name]
        assert held is not None
        if _as_stored.get():
            return held
        shown = self._shown(name, module, held)
        # accelerate makes its next parameter trainable if what it reads here is.
        if "_hf_hook" in module.__dict__ and shown.is_leaf and shown is not held:
            shown = shown.detach().requires_grad_(held.requires_grad)
        return shown

    def _shown(self, name: str, module: nn.Module, held: Tensor) -> Tensor:
        stored = value = real_of(module, name, held)
        changes = self.changes[name]
        if not all(change.once for change in changes):
            for change in changes:
                value = change.forward(value)
            return value
        key = _state(stored)
        if name not in self._read or self._read[name][0] != key:
            self._read[name] = (key, _through(stored, changes))
        found = self._read[name][1]
        if not (torch.is_grad_enabled() and stored.requires_grad):
            return found
        shown: Tensor = _Read.apply(stored, found, changes)  # type: ignore[no-untyped-call]
        return shown


def _through(stored: Tensor, changes: list[Change]) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        value = stored.clone() if stored.is_inference() else stored.detach()
        for change in changes:
            value = change.forward(value)
        return value


def _state(stored: Tensor) -> tuple[Any, ...]:
    """What tells that a tensor has changed, also through `.data`, which leaves the version as it was."""
    kind = (stored.dtype, stored.device, _content(stored.detach()))
    if stored.device.type == "cpu":
        return kind  # which is all of it: what is kept elsewhere comes as another tensor each time
    return (id(stored), None if stored.is_inference() else stored._version, *kind)


def _content(stored: Tensor) -> str | float:
    """Its bytes; off the CPU a sum in which each place counts otherwise, without a copy to the host."""
    if stored.device.type == "cpu":
        return content_key(stored)
    # mps has no float64.
    wide = torch.float32 if stored.device.type == "mps" else torch.float64
    with torch.no_grad():
        flat = stored.reshape(-1)
        places = torch.arange(1, len(flat) + 1, device=flat.device, dtype=wide).sqrt_()
        return float(places @ flat.to(wide))


class _Read(torch.autograd.Function):
    """The matrix that was computed once, with the gradient that computing it would have had."""

    @staticmethod
    def forward(stored: Tensor, found: Tensor, changes: list[Change]) -> Tensor:
        return found.view_as(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.changes = inputs[2]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        # The changes are affine, so that their derivative is the same everywhere.
        with torch.enable_grad():
            place = torch.zeros_like(gradient, requires_grad=True)
            value: Tensor = place
            for change in ctx.changes:
                value = change.forward(value)
        if not value.requires_grad:
            return torch.zeros_like(gradient), None, None
        found = torch.autograd.grad(
            value, place, gradient, create_graph=torch.is_grad_enabled(), allow_unused=True
        )[0]
        return torch.zeros_like(gradient) if found is None else found, None, None


def read_as(module: nn.Module, name: str, change: Change) -> Callable[[], None]:
    """Lets a parameter read as something else; of several changes each gets what the one before gave.

    Args:
        module: that owns the parameter.
        name: of the parameter.
        change: what is read.

    Returns:
        What undoes it; in any order.
    """
    readings = getattr(type(module), "_readings", None) or _Readings(module)
    readings.changes.setdefault(name, []).append(change)
    readings.install(module)

    def undo() -> None:
        readings.changes[name].remove(change)
        readings.install(module)

    return undo


def stored_or_read(module: nn.Module, name: str) -> Tensor:
    """A parameter as it is stored, unless a change of it is meant for all who read."""
    readings = getattr(type(module), "_readings", None)
    changes = () if readings is None else readings.changes.get(name, ())
    if changes and not any(change.for_all for change in changes):
        stored = module._parameters[name]
        assert stored is not None
        return stored
    value: Tensor = getattr(module, name)
    return value


@contextmanager
def as_stored() -> Iterator[None]:
    """Reads what is stored, whatever changes are at work."""
    token = _as_stored.set(True)
    try:
        yield
    finally:
        _as_stored.reset(token)
