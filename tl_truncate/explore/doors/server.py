"""The view as a page on this machine: HTTP for the page, a socket for its questions."""

import gc
import hmac
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import tornado.httpserver
import tornado.netutil
import tornado.web
import tornado.websocket
from tornado.ioloop import IOLoop

from tl_truncate.explore.asked import MESSAGE, Unreadable, read
from tl_truncate.explore.assets import asset
from tl_truncate.explore.desk import Desk, Visitor, error
from tl_truncate.explore.exploration import Exploration

#: The only address that is listened at.
HOST = "127.0.0.1"
#: Seconds after which a question that still waits is told so.
BUSY = 0.15
_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_FILES = ("explore.css", "explore.js", "page.js")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Door:
    """Who is let in: whoever asks this machine by its own name, and knows the address with its token."""

    port: int
    token: str

    @property
    def names(self) -> tuple[str, ...]:
        """What the page may be asked by; another name that leads here is somebody else's."""
        return tuple(f"{name}:{self.port}" for name in (HOST, "localhost"))

    @property
    def address(self) -> str:
        """The page's."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    def knows(self, token: str | None) -> bool:
        """Whether a token is the page's."""
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())


class _Guarded(tornado.web.RequestHandler):
    """Answers nobody who asks by another name."""

    def initialize(self, door: Door, **others: Any) -> None:
        self.door = door

    def set_default_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.set_header(name, value)
        host = self.request.host
        self.set_header(
            "Content-Security-Policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'; connect-src 'self'"
            + (f" ws://{host}" if _is_plain(host) else ""),
        )

    def prepare(self) -> None:
        if self.request.host not in self.door.names:
            raise tornado.web.HTTPError(403, reason="Not the name of this page")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code}: {self._reason}. Open the address that was printed.\n")


def _is_plain(host: str) -> bool:
    return all(sign.isalnum() or sign in ".:-" for sign in host)


class _Page(_Guarded):
    """The page itself, for whoever has the token."""

    def get(self) -> None:
        if not self.door.knows(self.get_query_argument("token", None)):
            raise tornado.web.HTTPError(403, reason="The token is missing or wrong")
        _give(self, "explore.html")


class _File(_Guarded):
    """What the page is made of."""

    def get(self, name: str) -> None:
        _give(self, name)


def _give(handler: tornado.web.RequestHandler, name: str) -> None:
    handler.set_header("Content-Type", f"{_KINDS[name.rsplit('.', 1)[-1]]}; charset=utf-8")
    handler.finish(asset(name))


class _Socket(tornado.websocket.WebSocketHandler):
    """One page's questions and answers."""

    def initialize(self, door: Door, desk: Desk, loop: IOLoop) -> None:
        self._door, self._desk, self._loop = door, desk, loop
        self._visitor: Visitor | None = None

    def prepare(self) -> None:
        if self.request.host not in self._door.names:
            raise tornado.web.HTTPError(403, reason="Not the name of this page")
        if not self._door.knows(self.get_query_argument("token", None)):
            raise tornado.web.HTTPError(403, reason="The token is missing or wrong")
        if self.request.headers.get("Origin") is None:
            raise tornado.web.HTTPError(403, reason="No page asks")

    def check_origin(self, origin: str) -> bool:
        """Only the page itself may ask: a socket is open to pages of all sites otherwise."""
        return origin == f"http://{self.request.host}"

    def open(self, *args: str, **kwargs: str) -> None:
        self._visitor = Visitor(self._send)

    def on_message(self, message: str | bytes) -> None:
        assert self._visitor is not None
        try:
            asked = read(message)
        except Unreadable as problem:
            self._write(error(problem))
            return
        waits = self._desk.take(self._visitor, asked)
        self._loop.call_later(BUSY, self._tell_busy, asked.id, waits)

    def _tell_busy(self, number: int, waits: Callable[[], bool]) -> None:
        if waits():
            self._write({"kind": "busy", "id": number})

    def on_close(self) -> None:
        if self._visitor is not None:
            self._desk.leave(self._visitor)

    def _send(self, message: Mapping[str, Any]) -> None:
        """From any thread."""
        self._loop.add_callback(self._write, message)

    def _write(self, message: Mapping[str, Any]) -> None:
        if self.ws_connection is not None and not self.ws_connection.is_closing():
            self.write_message(json.dumps(message, allow_nan=False))


def make_room() -> None:
    """For a process that only serves: leaves a core to the browser, which draws what the model says, and
    what is loaded out of garbage collections."""
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    gc.collect()
    gc.freeze()


class Server:
    """Serves one exploration until it is closed.

    The model works in one thread, for one page at a time.

    Args:
        exploration: what is served.
        port: 0 for any free one.

    Raises:
        OSError: if the port is taken.
    """

    def __init__(self, exploration: Exploration, port: int = 0) -> None:
        try:
            (socket,) = tornado.netutil.bind_sockets(port, address=HOST)
        except OSError as problem:
            raise OSError(
                f"Port {port} must be free, but {problem.strerror or problem}. Use --port 0."
            ) from problem
        self._socket = socket
        self.door = Door(socket.getsockname()[1], secrets.token_urlsafe(24))
        self._desk = Desk(exploration.answer)
        self._ended = threading.Event()
        self._worker = threading.Thread(target=self._work, name="explore", daemon=True)

    def start(self) -> None:
        """Begins to serve, in the running loop."""
        common = dict(door=self.door)
        application = tornado.web.Application(
            [
                (r"/", _Page, common),
                (rf"/({'|'.join(_FILES)})", _File, common),
                (r"/socket", _Socket, common | dict(desk=self._desk, loop=IOLoop.current())),
            ],
            default_handler_class=_Nothing,
            default_handler_args=common,
            websocket_max_message_size=4 * MESSAGE,
            websocket_ping_interval=30,
        )
        self._http = tornado.httpserver.HTTPServer(application, max_body_size=4 * MESSAGE)
        self._http.add_socket(self._socket)
        self._worker.start()

    def close(self) -> None:
        """Stops; what is computed at this moment is waited for."""
        self._http.stop()
        self._ended.set()
        self._worker.join()

    def _work(self) -> None:
        while not self._ended.is_set():
            if self._desk.wait(0.2):
                self._desk.step()


class _Nothing(_Guarded):
    """What is not there."""

    def get(self) -> None:
        raise tornado.web.HTTPError(404, reason="There is no such page")
