"""The view in a notebook: the same page over the notebook's own connection."""

import asyncio
from typing import Any

import anywidget
import traitlets

from tl_truncate.explore.asked import Unreadable, read
from tl_truncate.explore.assets import asset
from tl_truncate.explore.desk import QUIET, Desk, Visitor, error
from tl_truncate.explore.exploration import Exploration

#: Most displays of one widget at a time, of which each has a prompt of its own.
_DISPLAYS = 16


class Explorer(anywidget.AnyWidget):
    """The view of one model.

    The model works in the notebook's own thread, between cells and never inside of one, so that no pass
    of a cell meets a cut of the view. A widget may be displayed in several cells: each display is a
    visitor of its own, with its own prompt.

    Args:
        exploration: what is shown.
        state: where it was left, such as `other.state`.

    Attributes:
        state: prompt, place, cuts and task as they are on the page.
    """

    _esm = asset("explore.js")
    _css = asset("explore.css")
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, exploration: Exploration, state: dict[str, Any] | None = None) -> None:
        super().__init__(state=dict(state or {}))
        self._desk = Desk(exploration.answer)
        self._visitors: dict[str, Visitor] = {}
        self._later: asyncio.TimerHandle | None = None
        self.on_msg(self._heard)

    def _heard(self, widget: Any, content: Any, buffers: Any) -> None:
        content = content if isinstance(content, dict) else {}
        display = str(content.get("view", ""))[:64]
        if content.get("kind") == "leave":
            self._forget(display)
            return
        visitor = self._visitor(display)
        try:
            asked = read(content)
        except Unreadable as problem:
            visitor.send(error(problem))
            return
        self._desk.take(visitor, asked)
        self.work()

    def _visitor(self, display: str) -> Visitor:
        """Of a display; the one that was asked last is the last to be forgotten."""
        found = self._visitors.pop(display, None)
        if found is None:
            found = Visitor(lambda message: self.send({**message, "view": display}))
        self._visitors[display] = found
        if len(self._visitors) > _DISPLAYS:
            self._forget(next(iter(self._visitors)))
        return found

    def _forget(self, display: str) -> None:
        gone = self._visitors.pop(display, None)
        if gone is not None:
            self._desk.leave(gone)

    def work(self) -> None:
        """Answers what is asked; what can wait is done when the notebook has nothing else to do."""
        while self._desk.step(hands_only=True):
            pass
        self._go_on(QUIET)

    def _go_on(self, seconds: float) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._desk.is_empty:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # outside of a notebook: the map waits for the next question
            return
        self._later = loop.call_later(seconds, self._step)

    def _step(self) -> None:
        self._later = None
        self._go_on(0.01 if self._desk.step() else QUIET)

    def close(self) -> None:
        """Takes the view away."""
        for display in list(self._visitors):
            self._forget(display)
        super().close()
