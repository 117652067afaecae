"""Cuts at work in a model: as hooks to pass on, or as a context in which everything sees them.

The context does not use the library's hook lists. It puts a torch pre-hook on the hook point's
module, so that the cut value is what enters the point: every hook there, whenever it was added and
wherever in the list, sees it; `reset_hooks` and `.to()` leave it alone; and the user's hooks stay.
Where the output alone does not say what the cut weight would have written (one head of W_O, an input for
each head), the weight reads as cut instead.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tl_truncate.surgery.circuits import require_no_overlap, require_precise
from tl_truncate.surgery.compiled import uncompiled
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.surgeon import CutNotApplied, Surgeon
from tl_truncate.surgery.watch import Watch
from tl_truncate.weights.locate import carrier
from tl_truncate.weights.processing import warn_if_processed
from tl_truncate.weights.reading import as_stored, read_as, refuse_copy

Model = TypeVar("Model")
HookFunction = Callable[..., Tensor | None]

_active: "weakref.WeakKeyDictionary[nn.Module, list[Surgeon]]" = weakref.WeakKeyDictionary()
_by_hooks: "weakref.WeakKeyDictionary[nn.Module, list[Surgeon]]" = weakref.WeakKeyDictionary()


def active_cuts(model: Any) -> tuple[SiteCut, ...]:
    """The cuts at work in a model, in the order in which their contexts were entered."""
    return tuple(surgeon.cut for surgeon in _active.get(model, ()))


def _surgeons(model: Any, cuts: Sequence[SiteCut]) -> list[Surgeon]:
    """Everything that can fail, before the first hook is placed."""
    linears = [carrier(model, cut.site) for cut in cuts]
    active = _active.get(model, ())
    around = (surgeon.cut.site for surgeon in active)
    require_no_overlap(model, [*around, *(cut.site for cut in cuts)])
    if cuts:
        warn_if_processed(model)
    # Of the weights as they are stored, whatever is at work: two calls are one call with two cuts.
    with as_stored(), torch.inference_mode(False):
        pairs = zip(cuts, linears, strict=True)
        surgeons = [Surgeon(cut, linear, cut.edit(model)) for cut, linear in pairs]
    for surgeon in surgeons:
        if surgeon.linear.is_quantised:  # which cannot be cut in the weight instead
            require_precise(surgeon.linear, surgeon.edit, surgeon.cut.site)
    return surgeons


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
    surgeons = _surgeons(model, Cuts(cuts))
    for surgeon in surgeons:
        _require_visible_input(surgeon)
    _require_first(model, surgeons, surgeons)
    for surgeon in surgeons:
        linear = surgeon.linear
        require_precise(linear, surgeon.edit, surgeon.cut.site)
        if linear.input is not None and (surgeon.needs_input or linear.result is not None):
            hooks.append((linear.input.name, _input_hook(surgeon)))
        if linear.result is not None and linear.uses_result():
            hooks.append((linear.result.name, _as_hook(surgeon.at_result)))
        else:
            hooks.append((linear.output.name, _as_hook(surgeon.at_output)))
    return hooks


def _require_visible_input(surgeon: Surgeon) -> None:
    if surgeon.edit.needs_input and surgeon.linear.input is None:
        raise ValueError(
            f"The input of {surgeon.linear.site} must have a hook point for {surgeon.cut!r} to be plain "
            "hooks, but HookedTransformer has none there. Use tlt.truncated(model, cut), or load the "
            "model as a TransformerBridge."
        )


def _require_first(model: Any, entered: Sequence[Surgeon], by_hooks: Sequence[Surgeon]) -> None:
    """Refuses cuts that stand for a matrix made of the stored weight, behind another cut of it."""
    for surgeon in entered:
        if not surgeon.edit.needs_input or (surgeon not in by_hooks and surgeon.edit.is_of_any_weight):
            continue
        before = [*_active.get(model, ()), *entered[: entered.index(surgeon)]]
        if any(each.cut.site == surgeon.cut.site for each in before):
            raise ValueError(
                f"A cut that replaces the weight must be the first one of {surgeon.cut.site}, since it "
                f"would undo those before it, got {surgeon.cut!r} behind another. Enter it first."
            )


def _as_hook(action: Callable[[Tensor], Tensor | None]) -> HookFunction:
    def hook_function(value: Tensor, hook: Any = None) -> Tensor | None:
        return action(value)

    return hook_function


def _input_hook(surgeon: Surgeon) -> HookFunction:
    """The input, where it is needed; and the point that every pass reaches, wherever the cut is made."""
    linear, by_result = surgeon.linear, surgeon.linear.uses_result()

    def hook_function(value: Tensor, hook: Any = None) -> None:
        if linear.uses_result() != by_result:
            raise CutNotApplied(
                f"The hooks of a cut of {linear.site} must be made after use_attn_result is switched, "
                f"but it was {'on' if by_result else 'off'} when they were made. Call "
                "tlt.truncation_hooks again."
            )
        if surgeon.needs_input:
            _see_input(surgeon, value)

    return hook_function


def _see_input(surgeon: Surgeon, value: Tensor) -> None:
    _require_no_backward_hooks(surgeon)
    surgeon.see_input(value)


def _require_no_backward_hooks(surgeon: Surgeon) -> None:
    point = surgeon.linear.input
    if point is not None and (point.module._backward_hooks or point.module._backward_pre_hooks):
        quantised = surgeon.linear.is_quantised
        kind, remedy = (
            ("a cut of the quantised", "Load the model with that linear left out of the quantisation")
            if quantised
            else ("plain hooks of a cut of", "Use tlt.truncated(model, cut)")
        )
        raise CutNotApplied(
            f"Backward hooks at {point.name} must see all of its gradient, but {kind} "
            f"{surgeon.linear.site} lead{'s' if quantised else ''} a part of it past them. {remedy}."
        )


@contextmanager
def truncated(
    model: Model, *cuts: SiteCut | Sequence[SiteCut], weights: bool = False
) -> Iterator[Model]:
    """Runs the model as if its weights were cut; no stored weight is touched.

    Any hook, cache, patch, generation step or gradient inside sees what it would see had the weights
    been edited in place. Contexts nest; cuts are made in the order in which they are entered. A cut
    follows the weights as they were on entering: train outside.

    With `weights=True` whoever *reads* a weight sees the cut one too: attributes such as
    `model.blocks[3].attn.W_O`, properties such as `model.W_V` and `model.OV`, and analyses that go
    through them, such as `cache.stack_head_results`. Each cut matrix is computed once, on entering, and
    takes its memory. Parameters and state dicts are what is stored. Without it, such readers see the
    uncut weight (that of a cut head of W_O aside, which is cut in this way always). A quantised weight
    has no place for a cut one, so there `weights=True` is refused.

    The gradient of a cut weight is that of `W -> W - strength * R` with the removed directions held
    fixed, `dL/dW = dL/dW_cut (1 - strength * R)`; every other parameter's is that of the edited model.

    Args:
        model: a HookedTransformer or TransformerBridge.
        cuts: any number of cuts, or lists of them.
        weights: whether those who read the weights see them cut.

    Yields:
        The model.

    Raises:
        ValueError: if a cut addresses nothing in this model, or if with `weights` a cut depends on the
            tokens or is one of a quantised weight, before anything runs.
        TypeError: if something is not a cut, or the model not a TransformerLens model.
        CutNotApplied: if a pass through a cut's block does not reach its hook point, on leaving; at
            once if a state of the model has changed in which the cut cannot be made.

    Examples:
        >>> with tlt.truncated(model, tlt.Ablated("blocks.0.mlp.W_out")):
        ...     _, cache = model.run_with_cache(tokens)
        >>> bool((cache["blocks.0.hook_mlp_out"] == model.blocks[0].mlp.b_out).all())
        True
        >>> with tlt.truncated(model, tlt.Ablated("blocks.0.attn.W_O"), weights=True):
        ...     bool((model.W_O[0] == 0).all())
        True
    """
    surgeons = _surgeons(model, Cuts(*cuts))
    by_weight = [surgeon for surgeon in surgeons if weights or surgeon.must_be_read]
    _require_weights(model, by_weight, surgeons)
    by_hooks = [surgeon for surgeon in surgeons if surgeon not in by_weight]
    _require_first(model, surgeons, by_hooks)
    watch = Watch(by_hooks)
    with ExitStack() as stack:
        if surgeons:
            stack.enter_context(uncompiled())
        _activate(stack, model, surgeons, by_hooks)
        for surgeon in by_weight:
            stored = surgeon.linear.stored
            stack.callback(read_as(stored.module, stored.name, surgeon.change(once=weights)))
        for surgeon in by_hooks:
            for handle in (*surgeon.watch(), *_handles(surgeon)):
                stack.callback(handle.remove)
        for handle in watch.follow(model):
            stack.callback(handle.remove)
        yield model
    watch.check()


def _require_weights(model: Any, by_weight: Sequence[Surgeon], entered: Sequence[Surgeon]) -> None:
    """Refuses what no cut weight stands for, and cuts that would be made in another order."""
    for surgeon in by_weight:
        held = surgeon.linear.stored.quantised
        if held is not None:
            raise ValueError(
                f"With weights=True a weight must be a plain one, but that of {surgeon.linear.site} is "
                f"quantised ({held.kind}), and who reads it sees packed numbers. Leave weights=True "
                "away: passes see the cut all the same."
            )
        if not surgeon.edit.is_of_weight:
            raise ValueError(
                "With weights=True a cut must be a change of the weight alone, but this one depends on "
                f"the tokens: {surgeon.cut!r}. Leave weights=True away."
            )
        before = [*_by_hooks.get(model, ()), *entered[: entered.index(surgeon)]]
        if any(each.linear.site == surgeon.linear.site and each not in by_weight for each in before):
            raise ValueError(
                f"Cuts of {surgeon.cut.site} must be made in the order in which they are entered, but "
                f"{surgeon.cut!r} is made in the weight, and one entered before it at the output. Enter "
                "both with weights=True, or this one first."
            )


def _activate(
    stack: ExitStack, model: Any, surgeons: Sequence[Surgeon], by_hooks: Sequence[Surgeon]
) -> None:
    """Notes who is at work, so that a nested context can refuse an overlap."""
    for registry, own in ((_active, surgeons), (_by_hooks, by_hooks)):
        at_work = registry.setdefault(model, [])
        for surgeon in own:
            at_work.append(surgeon)
            stack.callback(at_work.remove, surgeon)


def _handles(surgeon: Surgeon) -> "Iterator[RemovableHandle | _Observer]":
    """A cut's hooks."""
    linear = surgeon.linear
    if surgeon.needs_input and linear.input is not None:
        see = partial(_see_input, surgeon) if linear.is_quantised else surgeon.see_input
        yield _Observer(linear.input.module, see)
    for point, action in surgeon.points():
        if point is linear.output and linear.returns is not None:
            yield linear.returns.register_forward_hook(_Changed(action))
        else:
            yield intercept(point.module, action)


def intercept(module: nn.Module, action: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Changes the value on its way into a hook point, ahead of every hook there."""
    return module.register_forward_pre_hook(_Entering(action))


class _Uncopied:
    """A hook that is not copied with its model: the copy would stay cut for ever."""

    __copy__ = __deepcopy__ = __reduce_ex__ = refuse_copy

    def __init__(self, action: Callable[[Tensor], Tensor | None]) -> None:
        self._action = action


class _Entering(_Uncopied):
    """Changes what enters a module."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        changed = self._action(args[0])
        return None if changed is None else (changed, *args[1:])


class _Changed(_Uncopied):
    """Changes what leaves a module."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return self._action(output)


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
