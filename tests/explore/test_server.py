"""The page on this machine: who is let in, and what a socket answers to whatever is sent."""

import asyncio
import json
import socket

import pytest
from live import serving
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from tl_truncate.explore.asked import MESSAGE, TEXT, Unreadable, read
from tl_truncate.explore.desk import Desk, Visitor
from tl_truncate.explore.show import exploration

PROMPT = "When Mary and John went to the store , John gave a drink to"
CUT = {"site": "blocks.1.mlp.W_out", "rule": "largest", "amount": 0.25}


@pytest.fixture(scope="module")
def door(shared, drinks_task):
    with serving(exploration(shared("bridge", "gpt2"), drinks_task)) as found:
        yield found


def fetch(door, path, **headers):
    """The status, headers and text of a page."""

    async def ask():
        request = HTTPRequest(f"http://127.0.0.1:{door.port}{path}", headers=headers)
        found = await AsyncHTTPClient().fetch(request, raise_error=False)
        return found.code, found.headers, found.body.decode()

    return asyncio.run(ask())


async def connect(door, *, token=None, origin=None, host=None):
    own = f"http://127.0.0.1:{door.port}"
    headers = {"Origin": own if origin is None else origin}
    if host is not None:
        headers["Host"] = host
    address = f"ws://127.0.0.1:{door.port}/socket?token={door.token if token is None else token}"
    return await websocket_connect(HTTPRequest(address, headers=headers))


async def heard(line, *kinds):
    """The next message of one of some kinds."""
    while True:
        text = await asyncio.wait_for(line.read_message(), 60)
        assert text is not None, "the server hung up"
        message = json.loads(text)
        if message["kind"] in kinds:
            return message


async def asked(line, kind, number=1, **fields):
    await line.write_message(json.dumps({"kind": kind, "id": number, **fields}))


class TestDoor:
    def test_the_page(self, door):
        code, headers, text = fetch(door, f"/?token={door.token}")
        assert code == 200
        assert 'id="explore"' in text
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"

    @pytest.mark.parametrize("name", ["explore.js", "page.js", "explore.css"])
    def test_its_files(self, door, name):
        code, headers, text = fetch(door, f"/{name}")
        assert code == 200
        assert headers["Content-Type"].startswith("text/")
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")  # nothing from elsewhere
        assert "https://" not in text

    @pytest.mark.parametrize("path", ["/", "/?token=", "/?token=wrong", "/?token=%C3%A9"])
    def test_without_the_token(self, door, path):
        code, _, text = fetch(door, path)
        assert code == 403
        assert door.token not in text

    @pytest.mark.parametrize(
        "path", ["/nothing", "/explore.html", "/../server.py", "/%2e%2e/server.py", "/assets/explore.js"]
    )
    def test_nothing_else(self, door, path):
        code, _, text = fetch(door, f"{path}?token={door.token}")
        assert code == 404
        assert "import" not in text

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1"])
    @pytest.mark.parametrize("path", ["/?token={token}", "/explore.js"])
    def test_by_another_name(self, door, host, path):
        path = path.format(token=door.token)
        code, _, _ = fetch(door, path, Host=host.format(port=door.port))
        assert code == 403

    def test_it_listens_at_one_address(self, door):
        with socket.socket() as probe:
            probe.settimeout(1)
            assert probe.connect_ex(("127.0.0.1", door.port)) == 0
        with socket.socket() as other, pytest.raises(OSError):  # noqa: PT011 -- of any kind
            other.settimeout(1)
            other.connect(("127.0.0.2", door.port))

    def test_a_port_that_is_taken(self, shared, door):
        from tl_truncate.explore.doors.server import Server

        with pytest.raises(OSError, match=rf"Port {door.port} must be free"):
            Server(exploration(shared("bridge", "gpt2")), door.port)


class TestSocket:
    @pytest.mark.parametrize(
        "wrong",
        [
            dict(token="wrong"),
            dict(token=""),
            dict(origin="http://evil.example"),
            dict(origin="null"),
            dict(origin=""),
            dict(origin="http://127.0.0.1:1"),
            dict(host="evil.example"),
        ],
        ids=str,
    )
    def test_who_is_not_let_in(self, door, wrong):
        async def ask():
            with pytest.raises(HTTPClientError) as refused:
                await connect(door, **wrong)
            return refused.value.code

        assert asyncio.run(ask()) == 403

    def test_hello_prompt_and_cut(self, door):
        async def ask():
            line = await connect(door)
            await asked(line, "hello")
            hello = await heard(line, "hello")
            await asked(line, "prompt", 2, **hello["prompts"][0])
            prompt = await heard(line, "prompt")
            await asked(line, "cut", 3, cut=CUT, control=True)
            cut = await heard(line, "cut")
            await asked(line, "python", 4, cuts=[CUT])
            return hello, prompt, cut, await heard(line, "python")

        hello, prompt, cut, python = asyncio.run(ask())
        assert hello["layers"] == 3
        assert [len(hello["prompts"]), hello["tasks"][0]] == [4, "drinks"]
        assert {each["site"] for each in hello["sites"]} >= {CUT["site"], hello["start"]["site"]}
        assert (prompt["id"], cut["id"]) == (2, 3)
        assert len(cut["lens"]["in_context"]["cut"]) == 3
        assert "keep=0.25" in python["text"]

    @pytest.mark.parametrize(
        "garbage",
        [
            "",
            "not json",
            "[]",
            "null",
            '{"kind": "hello"}',
            '{"kind": "eval", "id": 1}',
            '{"kind": ["hello"], "id": 1}',
            '{"kind": "hello", "id": "1"}',
            '{"kind": "hello", "id": true}',
            '{"kind": "hello", "id": 1e400}',
            '{"kind": "prompt", "id": 1, "text": 3}',
            '{"kind": "prompt", "id": 1, "text": "\\ud800"}',
            '{"kind": "cut", "id": 1, "cut": {"site": "blocks.0.mlp.W_in", "rule": "largest"}}',
            '{"kind": "cut", "id": 1, "cut": {"site": "__import__", "rule": "largest", "amount": 1}}',
            '{"kind": "cut", "id": 1, "cut": {"site": "blocks.0.mlp.W_in", "rule": "largest", "amount": NaN}}',
            '{"kind": "cut", "id": 1, "cut": {"site": "blocks.0.mlp.W_in", "rule": "rank", "amount": 1e300}}',
            '{"kind": "evaluate", "id": 1, "task": "drinks", "n": 100000}',
            "[" * 5000,
        ],
    )
    def test_garbage_is_an_error_and_the_next_is_answered(self, door, garbage):
        async def ask():
            line = await connect(door)
            await asked(line, "prompt", 7, text=PROMPT)
            await heard(line, "prompt")
            await line.write_message(garbage)
            error = await heard(line, "error")
            await asked(line, "hello", 9)
            return error, await heard(line, "hello")

        error, hello = asyncio.run(ask())
        assert error["message"]
        assert hello["id"] == 9

    def test_bytes(self, door):
        async def ask():
            line = await connect(door)
            await line.write_message(b"\xff\xfe\x00", binary=True)
            return await heard(line, "error")

        assert "JSON" in asyncio.run(ask())["message"]

    def test_much_text(self, door):
        async def ask():
            line = await connect(door)
            await asked(line, "prompt", 5, text="x" * (TEXT + 1))
            long = await heard(line, "error")
            await asked(line, "prompt", 6, text="x" * MESSAGE)
            return long, await heard(line, "error")

        long, longer = asyncio.run(ask())
        assert (long["id"], long["field"]) == (5, "text")
        assert "4,000 characters" in long["message"]
        assert f"at most {MESSAGE}" in longer["message"]

    def test_script_tags_are_text(self, door):
        nasty = "<script>alert(1)</script> Mary gave a drink to"

        async def ask():
            line = await connect(door)
            await asked(line, "prompt", text=nasty, in_context="<b>")
            return await heard(line, "prompt", "error")

        answer = asyncio.run(ask())
        assert answer["kind"] == "prompt" or answer["field"] == "in_context"

    def test_two_pages_are_apart(self, door):
        async def ask():
            one, other = await connect(door), await connect(door)
            await asked(one, "prompt", 1, text=PROMPT)
            await asked(other, "prompt", 1, text="The capital of France is")
            first, second = await heard(one, "prompt"), await heard(other, "prompt")
            await asked(one, "cut", 2, cut=CUT)
            await asked(other, "cut", 2, cut=CUT)
            return first, second, await heard(one, "cut"), await heard(other, "cut")

        first, second, one, other = asyncio.run(ask())
        assert len(first["tokens"]) != len(second["tokens"])
        for prompt, cut in ((first, one), (second, other)):
            before = {row["id"]: row["before"] for row in cut["top"]}
            best = prompt["top"][0]
            assert before[best["id"]] == pytest.approx(best["p"])
        assert one["top"] != other["top"]

    def test_evaluate_and_stop(self, door):
        async def ask():
            line = await connect(door)
            await asked(line, "evaluate", 1, task="drinks", n=4, cuts=[CUT])
            table = await heard(line, "evaluated")
            await asked(line, "evaluate", 2, task="drinks", n=4, cuts=[CUT])
            await asked(line, "stop", 3)
            return table, [await heard(line, "dropped", "stopped", "evaluated") for _ in range(2)]

        table, ended = asyncio.run(ask())
        assert table["rows"][0]["metric"] == "accuracy"
        assert {(each["kind"], each["id"]) for each in ended} == {("dropped", 2), ("stopped", 3)}


class TestDesk:
    """Whose turn it is, without a model."""

    def desk(self):
        heard = []

        def answer(visitor, asked):
            yield {"kind": type(asked).__name__}
            if type(asked).__name__ in ("PromptAsked", "EvaluateAsked"):
                yield None
                yield {"kind": "later"}

        return Desk(answer), Visitor(heard.append), heard

    def test_only_the_newest_cut(self):
        desk, visitor, heard = self.desk()
        for number in range(4):
            desk.take(visitor, read({"kind": "cut", "id": number, "cut": CUT}))
        while desk.step():
            pass
        assert [(each["kind"], each["id"]) for each in heard] == [
            *[("dropped", number) for number in range(3)],
            ("CutAsked", 3),
        ]

    def test_cuts_of_another_page_stay(self):
        desk, visitor, heard = self.desk()
        others = []
        other = Visitor(others.append)
        desk.take(visitor, read({"kind": "cut", "id": 1, "cut": CUT}))
        desk.take(other, read({"kind": "cut", "id": 1, "cut": CUT}))
        while desk.step():
            pass
        assert [each["kind"] for each in heard] == [each["kind"] for each in others] == ["CutAsked"]

    def test_a_hand_goes_before_an_evaluation(self):
        desk, visitor, heard = self.desk()
        desk.take(visitor, read({"kind": "evaluate", "id": 1, "task": "drinks", "n": 4}))
        desk.step()
        waits = desk.take(visitor, read({"kind": "cut", "id": 2, "cut": CUT}))
        assert waits()
        desk.step()
        assert heard[-1]["kind"] == "CutAsked"
        assert not waits()

    def test_the_map_waits_for_a_quiet_hand(self, monkeypatch):
        desk, visitor, heard = self.desk()
        desk.take(visitor, read({"kind": "prompt", "id": 1, "text": "Mary"}))
        assert desk.step()
        assert not desk.step()
        monkeypatch.setattr(desk, "_last", -1e9)
        while desk.step():
            pass
        assert [each["kind"] for each in heard] == ["PromptAsked", "later"]
        assert desk.is_empty

    def test_an_error_does_not_end_it(self):
        def answer(visitor, asked):
            if asked.id == 1:
                raise ZeroDivisionError("nothing to divide")
            yield {"kind": "fine"}

        heard = []
        desk, visitor = Desk(answer), Visitor(heard.append)
        for number in (1, 2):
            desk.take(visitor, read({"kind": "hello", "id": number}))
        while desk.step():
            pass
        assert [(each["kind"], each["id"]) for each in heard] == [("error", 1), ("fine", 2)]

    def test_who_left_hears_nothing(self):
        desk, visitor, heard = self.desk()
        desk.take(visitor, read({"kind": "cut", "id": 1, "cut": CUT}))
        desk.leave(visitor)
        assert not desk.step()
        assert heard == []


def test_many_cuts():
    with pytest.raises(Unreadable, match="at most 32"):
        read({"kind": "python", "id": 1, "cuts": [CUT] * 33})
