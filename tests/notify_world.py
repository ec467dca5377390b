"""A local server that plays a webhook and Telegram, well-behaved or not, over real sockets."""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

BOT_TOKEN = "123456789:AAh-0123456789_abcdefghijklmnopqrstu"
HOOK = "/hook/T0000/zzWEBHOOKSECRETzz"
CHAT = 4711
SECRETS = (BOT_TOKEN, BOT_TOKEN.split(":")[1], "zzWEBHOOKSECRETzz")
UNREAD = ("the answer cannot be read", "no complete answer within 0.3 s")  # of Telegram's


class World:
    """What the server heard, and how it is to answer: one behaviour a call, "ok" when none is left.

    Behaviours: ok, hang, drip, drip_head, drip_later, drop, drop_body, huge, garbage, redirect,
    bad_head, a status such as "500", or "429:7" for a pause of 7 s.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.behaviours: deque[str] = deque()
        self.updates: list[dict[str, Any]] = []
        self.polls: list[dict[str, Any]] = []
        self.forgets = True  # whether confirmed updates are not sent again
        self.changed = threading.Condition()
        self.is_over = False
        self._next_id = 100
        world = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                _serve(world, self)

            def do_GET(self) -> None:
                world.note("GET " + self.path, {})
                _send(self, 200, b"{}")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.hook = self.url + HOOK
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """End the server and whatever hangs."""
        with self.changed:
            self.is_over = True
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def note(self, path: str, body: dict[str, Any]) -> None:
        """Remember a call."""
        with self.changed:
            self.heard.append((path, body))
            self.changed.notify_all()

    def type(self, text: Any, *, chat: int = CHAT, number: int | None = None, **more: Any) -> int:
        """Let somebody write into a chat; return the number of the update."""
        with self.changed:
            self._next_id += 1
            number = self._next_id if number is None else number
            message = {"message_id": 1, "date": 1, "chat": {"id": chat, "type": "private"}, **more}
            self.updates.append({"update_id": number, "message": {**message, "text": text}})
            self.changed.notify_all()
            return number

    def texts(self, kind: str | None = None) -> list[str]:
        """Return the texts that arrived, of one kind where the webhook tells kinds."""
        with self.changed:
            bodies = [x for path, x in self.heard if "getUpdates" not in path and "text" in x]
        return [x["text"] for x in bodies if kind in (None, x.get("kind"))]

    def wait(self, what: Any, seconds: float = 60) -> Any:
        """Wait until `what()` is true; return it."""
        until = time.monotonic() + seconds
        with self.changed:
            while not (found := what()):
                assert time.monotonic() < until, (self.heard, self.polls)
                self.changed.wait(0.05)
        return found

    def wait_text(self, part: str, seconds: float = 60) -> str:
        """Wait for a text that contains `part`; return it."""
        found: str = self.wait(lambda: next((x for x in self.texts() if part in x), None), seconds)
        return found


@contextmanager
def served() -> Iterator[World]:
    """Yield a running server."""
    world = World()
    try:
        yield world
    finally:
        world.close()


def _serve(world: World, request: BaseHTTPRequestHandler) -> None:
    body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
    if request.path.endswith("/getUpdates"):
        with world.changed:
            world.polls.append(body)
    elif not request.path.endswith("/getMe"):
        world.note(request.path, body)
    with world.changed:
        behaviour = world.behaviours.popleft() if world.behaviours else "ok"
    if behaviour == "ok":
        _answer(world, request, body)
    elif behaviour[0].isdigit():
        status, _, pause = behaviour.partition(":")
        parameters = {"parameters": {"retry_after": int(pause)}} if pause else {}
        _send(request, int(status), json.dumps({"ok": False, **parameters}).encode())
    elif behaviour == "redirect":
        request.send_response(302)
        request.send_header("Location", world.url + "/elsewhere")
        request.end_headers()
    else:
        _misbehave(world, request, behaviour)


def _misbehave(world: World, request: BaseHTTPRequestHandler, behaviour: str) -> None:
    send = request.wfile.write
    if behaviour == "huge":
        _send(request, 200, b"[" + b" " * 20_000_000)
    elif behaviour == "garbage":
        _send(request, 200, b"\xff{[" * 1000 + b"[" * 100_000)
    elif behaviour == "drop_body":
        send(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{")
    elif behaviour == "bad_head":
        send(b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 11\r\n\r\n" + b'{"ok":true}')
    elif behaviour in ("drip", "drip_head", "drip_later"):
        if behaviour == "drip_later":
            send(b"HTTP/1.1 200 OK\r\nX")
        if behaviour == "drip":
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not world.is_over:
            try:
                send(b"H")
            except OSError:
                return
            time.sleep(0.02)
    elif behaviour == "hang":
        with world.changed:
            world.changed.wait_for(lambda: world.is_over, 30)
    else:
        assert behaviour == "drop"


def _answer(world: World, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    result: Any = {"message_id": 1}
    if request.path == f"/bot{BOT_TOKEN}/getMe":
        result = {"id": 1, "is_bot": True, "username": "GridTestBot"}
    elif request.path == f"/bot{BOT_TOKEN}/getUpdates":
        offset = body.get("offset", 0)
        with world.changed:
            if world.forgets:
                known = [x for x in world.updates if isinstance(x["update_id"], int)]
                world.updates = [x for x in known if x["update_id"] >= offset]
            world.changed.wait_for(lambda: world.updates or world.is_over, body["timeout"])
            result = world.updates[: body["limit"]]
            if not world.forgets:
                world.forgets = True
    elif request.path not in (HOOK, f"/bot{BOT_TOKEN}/sendMessage"):
        _send(request, 401, b'{"ok":false,"description":"Unauthorized"}')
        return
    _send(request, 200, json.dumps({"ok": True, "result": result}).encode())


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    try:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
    except OSError:
        pass  # the other side has broken off


def paths(world: World) -> list[str]:
    """Return where the server was asked."""
    return [path for path, _ in world.heard]


@pytest.fixture(name="world")
def serve() -> Iterator[World]:
    """Yield the server."""
    with served() as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_secret_is_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """Hold every test to it: no log line at any level but the HTTP library's, no output."""
    caplog.set_level(logging.DEBUG)
    yield
    lines = [caplog.handler.format(x) for x in caplog.records if not x.name.startswith("urllib3")]
    shown = "\n".join(lines) + "".join(capfd.readouterr())
    assert not [secret for secret in SECRETS if secret in shown]
