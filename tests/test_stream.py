"""Server-sent events over real sockets: what is sent when, to whom, and what a stream may cost."""

import gzip
import http.client
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from core.params import Params
from core.record import replace
from core.state import BotState
from core.status import Published
from engine.publish import Publisher
from tests.test_dashboard import TOKEN, World, log_in, status_of
from tests.test_publish import wait_for
from tests.test_status import sample_facts
from web.gate import SESSION_SEC
from web.stream import HEARTBEAT_SEC, STALL_SEC, STREAMS_MAX, URGENT_SEC


def publish(world: World, number: int, *, padding: int = 0) -> None:
    """Publish a status that holds `number`."""
    body = json.dumps({"number": number, "padding": "x" * padding}).encode()
    world.published = Published(
        body=body, gzip_body=gzip.compress(body), etag=f'W/"{number}"', version=number
    )


def hurry(world: World) -> None:
    """Have what is published sent at once, by letting the least pause pass."""
    world.skew += URGENT_SEC
    world.app.hurry()


class Client:
    """One stream, read as its text comes."""

    def __init__(self, world: World, *, buffer: int | None = None, **headers: str) -> None:
        self.sock = socket.socket()
        if buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.sock.settimeout(30)
        self.sock.connect(("127.0.0.1", world.port))
        sent = {"Host": world.host, **{k.replace("_", "-"): v for k, v in headers.items()}}
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        self.sock.sendall(f"GET /api/stream HTTP/1.1\r\n{lines}\r\n".encode())
        received = b""
        while b"\r\n\r\n" not in received and (chunk := self.sock.recv(4096)):
            received += chunk
        self.head, _, self.body = received.partition(b"\r\n\r\n")
        self.unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.is_packed = b"Content-Encoding: gzip" in self.head
        self.text = b""
        self._take(self.body)

    def _take(self, chunk: bytes) -> None:
        self.text += self.unpacker.decompress(chunk) if self.is_packed else chunk

    def until(self, wanted: Any) -> None:
        """Read until that text, or the event of that number, has come in whole."""
        while wanted not in (self.text if isinstance(wanted, bytes) else self.numbers()):
            chunk = self.sock.recv(65536)
            assert chunk, self.text[-200:]
            self._take(chunk)

    def wait_for_end(self) -> bytes:
        """Read until the server closes; return all that came."""
        try:
            while chunk := self.sock.recv(65536):
                self._take(chunk)
        except ConnectionResetError:
            pass
        return self.text

    def numbers(self) -> list[int]:
        """Return the numbers of the events that have come in whole."""
        blocks = self.text.split(b"\n\n")[:-1]
        return [json.loads(x.split(b"data: ")[1])["number"] for x in blocks if b"data: " in x]


@pytest.fixture(name="world")
def make_world() -> Iterator[World]:
    """Give a dashboard without a token."""
    world = World()
    publish(world, 1)
    yield world
    world.app.stop()


@pytest.fixture(name="guarded")
def make_guarded() -> Iterator[World]:
    """Give a dashboard with a token."""
    world = World(token=TOKEN)
    publish(world, 1)
    yield world
    world.app.stop()


def soon(is_so: Any, seconds: float = 30) -> bool:
    """Tell whether something becomes so within some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if is_so():
            return True
        time.sleep(0.01)
    return bool(is_so())


def version_of(published: Published | None) -> int:
    """Return the version of what is published, 0 before."""
    return 0 if published is None else published.version


# ---- what is sent -------------------------------------------------------------------------------


def test_first_event_comes_at_once_and_whole(world: World) -> None:
    """The head is that of every answer, without a length; then retry, and what is published."""
    client = Client(world)
    client.until(1)
    assert status_of(client.head) == 200
    head = client.head.decode()
    for line in (
        "Content-Type: text/event-stream; charset=utf-8",
        "Cache-Control: no-store",
        "Content-Security-Policy: default-src 'none'",
        "X-Content-Type-Options: nosniff",
        "Vary: Accept-Encoding",
        "Connection: close",
    ):
        assert line in head
    assert "Content-Length" not in head
    assert client.text == (
        b'retry: 2000\n\nevent: status\nid: W/"1"\ndata: {"number": 1, "padding": ""}\n\n'
    )
    client.sock.close()


def test_events_come_within_a_second_and_sooner_when_urgent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new status goes out by itself, only when it is new; an urgent one does not wait for it."""
    client = Client(world)
    client.until(1)
    publish(world, 2)
    publish(world, 3)
    client.until(3)
    monkeypatch.setattr("web.stream.INTERVAL_SEC", 3600.0)
    publish(world, 4)
    world.app.hurry()
    client.until(4)
    world.app.hurry()
    world.app.hurry()
    publish(world, 5)
    world.app.hurry()
    client.until(5)
    assert client.numbers()[-2:] == [4, 5]
    assert sorted(set(client.numbers())) == client.numbers()
    client.sock.close()


@pytest.mark.parametrize("is_urgent", [False, True])
def test_events_keep_their_distance(world: World, is_urgent: bool) -> None:
    """One a second, four where each is urgent, however many there are; the last one comes."""
    client = Client(world)
    client.until(1)
    began = time.monotonic()
    for number in range(2, 62):
        publish(world, number)
        if is_urgent:
            world.app.hurry()
        time.sleep(0.01)
    client.until(61)
    took = time.monotonic() - began
    distance = 0.25 if is_urgent else 1.0
    assert len(client.numbers()) <= 2 + took / distance
    client.sock.close()


def test_stream_opens_before_the_first_status(world: World) -> None:
    """A page that opens while the daemon starts waits on its stream, not in front of it."""
    world.published = None
    client = Client(world)
    client.until(b"retry: 2000\n\n")
    publish(world, 7)
    hurry(world)
    client.until(7)
    client.sock.close()


def test_gzip_events_are_packed_once_and_independent(world: World) -> None:
    """Whoever comes later reads the same packed bytes, though it has not seen what was before."""
    early = Client(world, Accept_Encoding="gzip, br")
    early.until(1)
    publish(world, 2, padding=50_000)
    hurry(world)
    early.until(2)
    late = Client(world, Accept_Encoding="gzip")
    plain = Client(world, Accept_Encoding="gzip;q=0")
    late.until(2)
    publish(world, 3, padding=50_000)
    hurry(world)
    for client in (early, late, plain):
        client.until(3)
    assert (early.numbers(), late.numbers(), plain.numbers()) == ([1, 2, 3], [2, 3], [2, 3])
    assert early.is_packed
    assert late.is_packed
    assert not plain.is_packed
    assert b"Vary: Accept-Encoding" in plain.head
    for client in (early, late, plain):
        client.sock.close()


def test_heartbeat_after_fifteen_quiet_seconds(world: World) -> None:
    """A stream with nothing new gets a comment, plain or packed, which an EventSource ignores."""
    clients = [Client(world), Client(world, Accept_Encoding="gzip")]
    for client in clients:
        client.until(1)
    world.skew += HEARTBEAT_SEC - 1
    hurry(world)
    world.skew += 2
    hurry(world)
    for client in clients:
        client.until(b"\n\n: ")
        assert client.numbers() == [1]
        assert client.text.count(b"\n: ") == 1
        client.sock.close()


# ---- who gets it --------------------------------------------------------------------------------


def test_stream_needs_the_token_and_other_methods_do_not_open_one(guarded: World) -> None:
    """401 without, a stream with Bearer or session; HEAD answers the head, POST 405."""
    assert guarded.ask("GET", "/api/stream")[0] == 401
    assert guarded.ask("GET", f"/api/stream?token={TOKEN}")[0] == 401
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    status, headers, body = guarded.ask(
        "HEAD", "/api/stream", Authorization=bearer["Authorization"]
    )
    assert (status, body, headers["Content-Length"]) == (200, b"", None)
    assert headers["Content-Type"].startswith("text/event-stream")
    assert guarded.ask("POST", "/api/stream", {}, **bearer)[0] == 405
    assert len(guarded.app._streams) == 0
    for client in (Client(guarded, **bearer), Client(guarded, Cookie=log_in(guarded))):
        client.until(1)
        client.sock.close()


def test_logout_ends_the_streams_of_that_session(guarded: World) -> None:
    """They get nothing more; those of another session and of a token go on."""
    cookie, other = log_in(guarded), log_in(guarded)
    ending = Client(guarded, Cookie=cookie)
    going = [Client(guarded, Cookie=other), Client(guarded, Authorization=f"Bearer {TOKEN}")]
    for client in (ending, *going):
        client.until(1)
    assert guarded.ask("POST", "/logout", {}, Cookie=cookie)[0] == 200
    publish(guarded, 2)
    hurry(guarded)
    assert b'"2"' not in ending.wait_for_end()
    for client in going:
        client.until(2)
        client.sock.close()


def test_open_stream_keeps_its_session_until_the_clock_leaps(guarded: World) -> None:
    """A session in use by a stream lives on beyond twelve hours; one that slept so long ends."""
    cookie = log_in(guarded)
    client = Client(guarded, Cookie=cookie)
    for number in (2, 3):
        guarded.skew += SESSION_SEC - 60
        publish(guarded, number)
        hurry(guarded)
        client.until(number)
    assert guarded.ask("GET", "/api/status", Cookie=cookie)[0] == 200
    guarded.skew += SESSION_SEC + 60
    hurry(guarded)
    client.wait_for_end()
    assert guarded.ask("GET", "/api/status", Cookie=cookie)[0] == 401


# ---- what it costs ------------------------------------------------------------------------------


def test_sixty_four_streams_cost_no_threads_and_the_next_is_refused(world: World) -> None:
    """Their connections' places are free again; the 65th gets 503, and a place once one closes."""
    before = threading.active_count()
    clients = [Client(world) for _ in range(STREAMS_MAX)]
    assert soon(lambda: threading.active_count() <= before)
    status, headers, body = world.ask("GET", "/api/stream")
    assert (status, json.loads(body)["error"]) == (503, "too many streams")
    assert headers["Retry-After"] == "10"
    assert world.ask("GET", "/api/status")[0] == 200
    assert world.app.refused == 0
    publish(world, 2)
    hurry(world)
    for client in clients:
        client.until(2)
    clients.pop().sock.close()
    hurry(world)
    assert soon(lambda: len(world.app._streams) == STREAMS_MAX - 1)
    clients.append(Client(world))
    clients[-1].until(2)
    for client in clients:
        client.sock.close()


def test_slow_client_skips_events_and_hinders_nobody(world: World) -> None:
    """What is begun is finished whole, newer events are left out for it, the last one comes."""
    slow, quick = Client(world, buffer=4096), Client(world)
    for number in range(2, 14):
        publish(world, number, padding=60_000)
        hurry(world)
        quick.until(number)
    reader = threading.Thread(target=slow.until, args=(13,))
    reader.start()
    assert soon(lambda: world.app.hurry() or not reader.is_alive())
    had = slow.numbers()
    assert had[0] == 1
    assert had == sorted(set(had))
    assert len(had) < 10
    slow.sock.close()
    quick.sock.close()


def test_client_that_reads_nothing_is_dropped_after_ten_seconds(world: World) -> None:
    """A stall is not progress; a stream whose bytes have gone is not one."""
    stalled, quick = Client(world, buffer=4096), Client(world)
    for number in range(2, 14):
        publish(world, number, padding=60_000)
        hurry(world)
        quick.until(number)
    world.skew += STALL_SEC / 4  # the rest is room for a busy machine
    hurry(world)
    publish(world, 50)
    hurry(world)
    quick.until(50)
    assert len(world.app._streams) == 2

    def has_gone() -> bool:  # asked again: at first a few more bytes may find room on their way
        world.skew += STALL_SEC
        hurry(world)
        return len(world.app._streams) == 1

    assert soon(has_gone)
    publish(world, 51)
    hurry(world)
    quick.until(51)
    stalled.sock.close()
    quick.sock.close()


@pytest.mark.parametrize("ends", ["closes", "resets", "half-closes", "talks"])
def test_clients_that_leave_or_talk_are_let_go(world: World, ends: str) -> None:
    """Whoever closes, breaks off or sends what nobody asked for frees its place."""
    client = Client(world)
    client.until(1)
    if ends == "half-closes":
        client.sock.shutdown(socket.SHUT_WR)
    elif ends == "talks":
        client.sock.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
    else:
        if ends == "resets":
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.sock.close()
    time.sleep(0.02)  # on its way over loopback
    hurry(world)
    assert soon(lambda: len(world.app._streams) == 0)
    client.sock.close()


def test_stop_closes_all_streams_at_once() -> None:
    """Nobody waits for a stream, and none opens any more."""
    world = World()
    clients = [Client(world) for _ in range(5)]
    world.app.stop()
    for client in clients:
        client.wait_for_end()
    with pytest.raises((OSError, http.client.HTTPException)):
        world.ask("GET", "/api/stream")


def test_failing_broadcast_closes_streams_and_goes_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Something that should never be raised costs the clients a new connection, no more."""
    client = Client(world)
    client.until(1)
    world.published = "not a status"  # type: ignore[assignment]  # a fault of ours
    hurry(world)
    client.wait_for_end()
    assert "streams closed" in caplog.text
    publish(world, 2)
    again = Client(world)
    again.until(2)
    again.sock.close()


def test_publisher_tells_of_what_was_urgent() -> None:
    """The call comes once the bytes are there; what has time is not told, but at the end."""
    told: list[int] = []
    publisher = Publisher(
        interval_sec=30.0, on_urgent=lambda: told.append(version_of(publisher.published()))
    )
    publisher.start()
    publisher.offer(BotState(), Params(), sample_facts())
    wait_for(publisher, 18_102)
    publisher.offer(BotState(), Params(), replace(sample_facts(), state_seq=2), at_once=True)
    wait_for(publisher, 2)
    assert soon(lambda: told == [2])
    publisher.offer(BotState(), Params(), replace(sample_facts(), state_seq=3))
    publisher.stop()
    assert told == [2, 3]
