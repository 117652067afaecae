"""Cuts at work in a model: as hooks to pass on, or as a context in which everything sees them.

The context does not use the library's hook lists. It puts a torch pre-hook on the hook point's
module, so that the cut value is what enters the point: every hook there, whenever it was added and
wherever in the list, sees it; `reset_hooks` and `.to()` leave it alone; and the user's hooks stay.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.surgeon import CutNotApplied, Surgeon
from tl_truncate.weights.locate import locate, n_layers
from tl_truncate.weights.processing import warn_if_processed
from tl_truncate.weights.site import Site

Model = TypeVar("Model")
HookFunction = Callable[..., Tensor | None]

_active: "weakref.WeakKeyDictionary[nn.Module, list[Surgeon]]" = weakref.WeakKeyDictionary()


def active_cuts(model: Any) -> tuple[SiteCut, ...]:
    """The cuts at work in a model, in the order in which their contexts were entered."""
    return tuple(surgeon.cut for surgeon in _active.get(model, ()))


def _surgeons(model: Any, cuts: Sequence[SiteCut]) -> list[Surgeon]:
    """Everything that can fail, before the first hook is placed."""
    linears = [locate(model, cut.site) for cut in cuts]
    active = list(_active.get(model, ()))
    require_no_overlap([*(surgeon.linear.site for surgeon in active), *(cut.site for cut in cuts)])
    if cuts:
        warn_if_processed(model)
    made: list[Surgeon] = []
    for cut, linear in zip(cuts, linears, strict=True):
        made.append(Surgeon(cut, linear, cut.edit(model), earlier=[*active, *made]))
    return made


def require_no_overlap(sites: Sequence[Site]) -> None:
    """Refuses a joint cut of an attention matrix together with a cut of one of its heads.

    The two spectra belong to different matrices, so the order of the cuts would decide the result.

    Raises:
        ValueError: if there is such a pair.
    """
    joint = {(site.layer, site.matrix) for site in sites if site.head is None}
    for site in sites:
        if site.head is not None and (site.layer, site.matrix) in joint:
            raise ValueError(
                f"Cuts that are active together must not overlap, got {site} and all heads of "
                f"blocks.{site.layer}.attn.{site.matrix} jointly. Cut either the whole matrix or "
                "single heads."
            )


def truncation_hooks(model: Any, cuts: SiteCut | Sequence[SiteCut]) -> list[tuple[str, HookFunction]]:
    """Hooks that make the model behave as if its weights were cut.

    For `model.run_with_hooks(tokens, fwd_hooks=hooks)` and `with model.hooks(fwd_hooks=hooks)`. Hooks in
    a list run in its order, so put these in front of your own; a cut of one head of W_O reads the
    head's input when its turn comes, so put hooks that change `hook_z` in front of these. `truncated`
    needs no such care.

    Args:
        model: a HookedTransformer or TransformerBridge.
        cuts: one cut or several.

    Returns:
        Pairs of a hook point's name and a function of (value, hook).

    Raises:
        ValueError: if a cut addresses nothing in this model, before anything runs.
        TypeError: if something is not a cut, or the model not a TransformerLens model.

    Examples:
        >>> hooks = tlt.truncation_hooks(model, tlt.Cut("blocks.0.mlp.W_in", keep=0.5))
        >>> logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    """
    hooks: list[tuple[str, HookFunction]] = []
    reading = [cut for cut in Cuts(cuts) if cut.reads_tokens]
    if reading:
        raise ValueError(
            f"Cuts must not depend on the tokens to be plain hooks, got {reading[0]!r}. Use "
            "tlt.truncated(model, cut), or tlt.global_removal_hooks(model, tokens, ...)."
        )
    for surgeon in _surgeons(model, Cuts(cuts)):
        if surgeon.needs_input and surgeon.linear.input is not None:
            hooks.append((surgeon.linear.input.name, _as_hook(surgeon.see_input)))
        for point, action in surgeon.points():
            at_result = point is surgeon.linear.result
            if at_result == surgeon.linear.uses_result():
                hooks.append((point.name, _as_hook(action)))
    return hooks


def _as_hook(action: Callable[[Tensor], Tensor | None]) -> HookFunction:
    def hook_function(value: Tensor, hook: Any = None) -> Tensor | None:
        return action(value)

    return hook_function


@contextmanager
def truncated(model: Model, *cuts: SiteCut | Sequence[SiteCut]) -> Iterator[Model]:
    """Runs the model as if its weights were cut; no weight is touched.

    Any hook, cache, patch, generation step or gradient inside sees what it would see had the weights
    been edited in place. Contexts nest; cuts are made in the order in which they are entered. A cut
    follows the weights as they were on entering: train outside.

    Args:
        model: a HookedTransformer or TransformerBridge.
        cuts: any number of cuts, or lists of them.

    Yields:
        The model.

    Raises:
        ValueError: if a cut addresses nothing in this model, before anything runs.
        TypeError: if something is not a cut, or the model not a TransformerLens model.
        CutNotApplied: on leaving, if a whole forward pass did not reach a cut's hook point.

    Examples:
        >>> with tlt.truncated(model, tlt.Ablated("blocks.0.mlp.W_out")):
        ...     _, cache = model.run_with_cache(tokens)
        >>> bool((cache["blocks.0.hook_mlp_out"] == model.blocks[0].mlp.b_out).all())
        True
    """
    surgeons = _surgeons(model, Cuts(*cuts))
    watch = _Watch(surgeons)
    with ExitStack() as stack:
        _activate(stack, model, surgeons)
        for surgeon in surgeons:
            for handle in surgeon.watch():
                _place(stack, handle)
            if surgeon.needs_input and surgeon.linear.input is not None:
                _place(stack, _Observer(surgeon.linear.input.module, surgeon.see_input))
            for point, action in surgeon.points():
                _place(stack, intercept(point.module, action))
        if surgeons:
            for handle in watch.follow(model):
                _place(stack, handle)
        yield model
    watch.check()


def _place(stack: ExitStack, handle: "RemovableHandle | _Observer") -> None:
    stack.callback(handle.remove)


def _activate(stack: ExitStack, model: Any, surgeons: Sequence[Surgeon]) -> None:
    """Notes who is at work, so that a nested context can follow earlier cuts and refuse an overlap."""
    at_work = _active.setdefault(model, [])
    for surgeon in surgeons:
        at_work.append(surgeon)
        stack.callback(at_work.remove, surgeon)


def intercept(module: nn.Module, action: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Changes the value on its way into a hook point, ahead of every hook there."""

    def pre_hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        changed = action(args[0])
        return None if changed is None else (changed, *args[1:])

    return module.register_forward_pre_hook(pre_hook)


class _Observer:
    """Reads the value that leaves a hook point, behind every hook there.

    A hook that is added at the start of a call runs last in that call, whatever was added before.
    """

    def __init__(self, module: nn.Module, action: Callable[[Tensor], None]) -> None:
        self._action = action
        self._entry = module.register_forward_pre_hook(self._enter)
        self._exit: RemovableHandle | None = None

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._forget()
        self._exit = module.register_forward_hook(self._leave)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self._forget()
        self._action(output)

    def _forget(self) -> None:
        # Also what a call left behind that an exception ended half way.
        if self._exit is not None:
            self._exit.remove()
            self._exit = None

    def remove(self) -> None:
        self._forget()
        self._entry.remove()


class _Watch:
    """Sees whether each pass through the whole model reached every cut."""

    def __init__(self, surgeons: Sequence[Surgeon]) -> None:
        self._surgeons = surgeons
        self._before: list[int] | None = None
        self._missed: set[str] = set()

    def follow(self, model: Any) -> Iterator[RemovableHandle]:
        first, last = model.blocks[0], model.blocks[n_layers(model) - 1]
        entry = first.hook_in if hasattr(first, "hook_in") else first.hook_resid_pre
        exit_ = last.hook_out if hasattr(last, "hook_in") else last.hook_resid_post
        yield _observe_entry(entry, self._enter)
        yield _observe_entry(exit_, self._leave)

    def _enter(self) -> None:
        self._before = [surgeon.fired for surgeon in self._surgeons]

    def _leave(self) -> None:
        if self._before is None:  # the pass began above the first block
            return
        for surgeon, before in zip(self._surgeons, self._before, strict=True):
            if surgeon.fired == before:
                self._missed.add(f"{surgeon.cut!r} at {surgeon.linear.output.name}")
        self._before = None

    def check(self) -> None:
        if self._missed:
            raise CutNotApplied(
                "A whole forward pass must reach every cut, but this one did not reach "
                f"{'; '.join(sorted(self._missed))}. The results of that pass are those of the uncut "
                "weight. Is the hook point switched off or replaced in this model?"
            )


def _observe_entry(module: nn.Module, action: Callable[[], None]) -> RemovableHandle:
    return module.register_forward_pre_hook(lambda module, args: action())
