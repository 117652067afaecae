"""The live view in a browser, for tests, the benchmark and the recording: opened, waited for, and dragged."""

import asyncio
import queue
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tl_truncate.explore.doors.server import Door, Server
from tl_truncate.explore.exploration import Exploration

#: Where Chromium is, if it is here.
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
KNOB = 11  # half of a slider's knob, in pixels: its middle goes no nearer to the ends


@contextmanager
def serving(exploration: Exploration, door: Door | None = None) -> Iterator[Door]:
    """A server beside what asks it, in a thread of its own; behind the same door as one before, if one is given."""
    started: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event, Door]] = queue.Queue()

    async def serve() -> None:
        server, ended = Server(exploration, 0 if door is None else door.port), asyncio.Event()
        server.door = door or server.door
        server.start()
        started.put((asyncio.get_running_loop(), ended, server.door))
        await ended.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop, ended, own = started.get(timeout=60)
    try:
        yield own
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


@contextmanager
def browsing() -> Iterator[Any]:
    """Playwright's browser, closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def rest(page: Any, seconds: float = 60) -> None:
    """Until what is shown is that of the newest cut, with its control and its lens."""
    page.wait_for_selector(".tlx[data-rests=true][data-busy=no]", timeout=1000 * seconds)


def act(page: Any, doing: Any) -> None:
    """Does something that changes the cut or the prompt, and waits for what follows."""
    page.evaluate("document.querySelector('.tlx').dataset.rests = 'false'")
    doing()
    rest(page)


def choose(page: Any, site: str) -> None:
    """A click on the map; nothing if the site is chosen already."""
    cell = page.locator(f"[data-site='{site}']")
    if cell.get_attribute("aria-selected") != "true":
        act(page, cell.click)


def place(page: Any, share: float) -> tuple[float, float]:
    """Where the knob's middle is at a share of the slider's way."""
    box = page.locator(".tlx-slider").bounding_box()
    across = box["x"] + KNOB + share * (box["width"] - 2 * KNOB)
    return across, box["y"] + box["height"] / 2


def drag(page: Any, start: float, end: float, *, steps: int = 20, pause: float = 0) -> None:
    """Takes the knob from one share of its way to another, `pause` milliseconds between two steps."""
    (left, height), (right, _) = place(page, start), place(page, end)
    page.mouse.move(left, height)
    page.mouse.down()
    for step in range(1, steps + 1):
        page.mouse.move(left + (right - left) * step / steps, height)
        page.wait_for_timeout(pause)
    page.mouse.up()
