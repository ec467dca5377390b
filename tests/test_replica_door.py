"""The replica's door against answers that are none of Supabase's, each from a plain socket."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from store.supabase import RemoteError, Supabase
from store.tables import BY_NAME, REMOTE_VERSION
from tests.postgrest_shim import SERVICE_KEY

pytestmark = pytest.mark.slow  # the client takes a second to import

EQUITY = BY_NAME["equity"]
POINT = dict.fromkeys(EQUITY.columns, "1.10") | {"run": "r1", "time": 60.0}
HUGE = 10 * 1024 * 1024
Answer = Callable[[socket.socket, threading.Event], None]


class Odd:
    """A server that answers each request in its own way."""

    def __init__(self) -> None:
        self.answer: Answer = plain(500, b"")
        self.asked: list[bytes] = []
        self.ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(line,), daemon=True).start()

    def _talk(self, line: socket.socket) -> None:
        with line:
            self.asked.append(line.recv(65536))
            try:
                self.answer(line, self.ended)
            except OSError:  # the client has had enough
                return

    def close(self) -> None:
        """End."""
        self.ended.set()
        self._listener.close()


def plain(status: int, body: bytes, *, kind: str = "text/html", more: str = "") -> Answer:
    """Return an answer that is complete."""
    head = (
        f"HTTP/1.1 {status} Odd\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\n{more}\r\n"
    )
    return lambda line, _: line.sendall(head.encode() + body)


def trickling(start: bytes, drop: bytes) -> Answer:
    """Return an answer that never ends: a byte now and then, more often than any time-out."""

    def answer(line: socket.socket, ended: threading.Event) -> None:
        line.sendall(start)
        while not ended.wait(0.05):
            line.sendall(drop)

    return answer


@pytest.fixture
def odd() -> Iterator[Odd]:
    """Yield a server."""
    made = Odd()
    yield made
    made.close()


def told(odd: Odd, answer: Answer, **limits: float) -> RemoteError:
    """Return what a write that is answered so is told."""
    odd.answer = answer
    with pytest.raises(RemoteError) as caught:
        Supabase(odd.url, SERVICE_KEY, **limits).upsert(EQUITY, [POINT])
    assert SERVICE_KEY not in str(caught.value)
    assert len(str(caught.value)) < 500
    return caught.value


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (409, b'{"code":"23505","message":"duplicate key"}', "application/json"),
        (413, b"<html>Request Entity Too Large</html>", "text/html"),
        (414, b"", "text/html"),
        (429, b'{"message":"slow down"}', "application/json"),
        (502, b"<html>" + b"x" * HUGE + b"</html>", "text/html"),
        (500, b'{"message":"' + b"x" * HUGE + b'"}', "application/json"),
        (400, b'{"message":["not", "a", "text"]}', "application/json"),
        (200, b"", "application/json"),
        (200, b"null", "application/json"),
        (200, b'{"time": 60}', "application/json"),
        (200, b"[]", "application/json"),
        (200, b"[1, 2", "application/json"),
        (204, b"", "application/json"),
    ],
)
def test_no_odd_answer_is_taken_for_an_acknowledgement(
    odd: Odd, status: int, body: bytes, kind: str
) -> None:
    """An error with a short text, however long the answer is; never another exception."""
    told(odd, plain(status, body, kind=kind))
    assert len(odd.asked) == 1


def test_a_redirect_is_not_followed(odd: Odd) -> None:
    """The key goes nowhere else."""
    told(odd, plain(307, b"", more=f"Location: {odd.url}/elsewhere\r\n"))
    assert len(odd.asked) == 1


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n[",
         b" "),
        (b"HTTP/1.1 200 OK\r\n", b"X-Wait: a\r\n"),
        (b"", b"H"),
    ],
    ids=["body", "head", "status"],
)  # fmt: skip
def test_an_answer_that_trickles_has_an_end(odd: Odd, start: bytes, drop: bytes) -> None:
    """Each byte comes in time; the call as a whole does not, and the line counts as down."""
    found = told(odd, trickling(start, drop), timeout_sec=5.0, call_sec=0.4)
    assert found.is_line


def test_a_line_that_was_broken_off_can_be_used_again(odd: Odd) -> None:
    """The next call opens a new connection."""
    odd.answer = trickling(b"HTTP/1.1 200 OK\r\n", b"X: a\r\n")
    remote = Supabase(odd.url, SERVICE_KEY, timeout_sec=5.0, call_sec=0.4)
    with pytest.raises(RemoteError):
        remote.upsert(EQUITY, [POINT])
    odd.answer = plain(201, b'[{"run": "r1", "time": 60}]', kind="application/json")
    remote.upsert(EQUITY, [POINT])
    assert len(odd.asked) == 2


def test_a_server_that_says_nothing_is_a_line_that_is_down(odd: Odd) -> None:
    """It accepts, and is silent."""
    assert told(odd, lambda _, ended: bool(ended.wait(20)), timeout_sec=0.3).is_line


def test_a_line_that_loses_every_fourth_request_does_not_keep_the_check_from_its_end(
    odd: Odd,
) -> None:
    """A table that has been looked at is not asked for again; each attempt goes on."""

    def answer(line: socket.socket, _ended: threading.Event) -> None:
        if len(odd.asked) % 4:
            body = b'[{"version": %d}]' % REMOTE_VERSION
            plain(200, body, kind="application/json")(line, _ended)

    odd.answer = answer
    remote, attempts = Supabase(odd.url, SERVICE_KEY), 0
    while not remote.is_complete and attempts < len(BY_NAME):
        attempts += 1
        with suppress(RemoteError):
            assert remote.problem() is None
    assert remote.is_complete
    names = [x.split(b"?")[0].rsplit(b"/", 1)[1].decode() for x in odd.asked]
    assert all(names.count(x) <= 2 for x in BY_NAME)  # once more where it was lost
