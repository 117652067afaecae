"""Whether a pass through a cut's block made the cut."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from tl_truncate.surgery.surgeon import CutNotApplied, Surgeon
from tl_truncate.weights.reading import refuse_copy


class _Before(threading.local):
    """How often each cut of a block had been made when a thread entered it, for each pass under way.

    A pass may begin inside of another: what a prompt says is taken away by passes from a hook.
    """

    def __init__(self) -> None:
        self.fired: list[list[int]] = []


class _Paused(threading.local):
    """Whether a thread runs passes in which no block computes anything."""

    now = False


_paused = _Paused()


@contextmanager
def unwatched() -> Iterator[None]:
    """Lets passes that compute no block, and so reach no cut, say nothing of the cuts."""
    before, _paused.now = _paused.now, True
    try:
        yield
    finally:
        _paused.now = before


class _BlockWatch:
    """Of one block; a pass that begins above it or stops below it never calls it."""

    __copy__ = __deepcopy__ = __reduce_ex__ = refuse_copy

    def __init__(self, surgeons: Sequence[Surgeon]) -> None:
        self.missed: list[Surgeon] = []
        self._surgeons = surgeons
        self._before = _Before()

    def place(self, block: nn.Module) -> Iterator[RemovableHandle]:
        # First in, and out also after an exception, so that each entry has its leaving.
        yield block.register_forward_pre_hook(self._enter, prepend=True)
        yield block.register_forward_hook(self._leave, always_call=True)

    def _enter(self, block: nn.Module, args: Any) -> None:
        self._before.fired.append([surgeon.fired for surgeon in self._surgeons])

    def _leave(self, block: nn.Module, args: Any, output: Any) -> None:
        # A block that was already running when the hooks were placed, and one that raised.
        fired = self._before.fired.pop() if self._before.fired else None
        if fired is None or output is None or _paused.now:
            return
        for surgeon, before in zip(self._surgeons, fired, strict=True):
            if surgeon.fired == before and surgeon not in self.missed:
                self.missed.append(surgeon)


class Watch:
    """Sees whether each pass through the blocks of some cuts reached them.

    Args:
        surgeons: at work through hooks.
    """

    def __init__(self, surgeons: Sequence[Surgeon]) -> None:
        layers = sorted({surgeon.cut.site.layer for surgeon in surgeons})
        self._blocks = {
            layer: _BlockWatch([each for each in surgeons if each.cut.site.layer == layer])
            for layer in layers
        }

    def follow(self, model: Any) -> Iterator[RemovableHandle]:
        """Places the hooks."""
        for layer, watch in self._blocks.items():
            yield from watch.place(model.blocks[layer])

    def check(self) -> None:
        """Raises what was seen.

        Raises:
            CutNotApplied: if a block ran without one of its cuts.
        """
        missed = [surgeon for watch in self._blocks.values() for surgeon in watch.missed]
        if missed:
            told = "; ".join(f"{each.cut!r} at {each.linear.output.name}" for each in missed)
            raise CutNotApplied(
                f"A pass through a block must reach every cut in it, but one did not reach {told}. The "
                "results of that pass are those of the uncut weight. Is the hook point switched off or "
                "replaced in this model?"
            )
