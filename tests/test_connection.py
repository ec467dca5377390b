"""Connections over real sockets: whose place is whose, and bodies that are made while they go."""

import http.client
import select
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from core.ports import StoreError
from tests.http_client import status_of
from tests.test_dashboard import World
from web.connection import CONNECTIONS_MAX, CROWDED, IDLE_LOOK_SEC, REQUEST_SEC
from web.history_views import TABLES

CLIENTS, ASKS, PAUSE_SEC = 40, 3, 0.5
HEALTHY = b'{"alive":true}'


@pytest.fixture(name="world")
def make_world() -> Iterator[World]:
    """Give a dashboard without a token."""
    world = World()
    yield world
    world.app.stop()


class KeptAlive:
    """A connection that is kept as a browser keeps one: a new one once the server closes it."""

    def __init__(self, world: World) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=30)
        self.opened = 0

    def ask(self) -> int:
        """Return the status of one request."""
        sock: Any = self.connection.sock
        if sock is not None and select.select([sock], [], [], 0)[0]:
            self.connection.close()
        self.opened += self.connection.sock is None
        try:
            self.connection.request("GET", "/healthz")
            response = self.connection.getresponse()
        except ConnectionError:  # closed while the request was on its way: a browser asks again
            self.connection.close()
            return self.ask()
        response.read()
        return response.status


# ---- places -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_more_pages_than_places_are_all_served(world: World) -> None:
    """40 clients with connections of their own ask again and again: not one is refused."""
    clients = [KeptAlive(world) for _ in range(CLIENTS)]
    statuses: list[int] = []

    def run(n: int) -> None:
        for turn in range(ASKS):
            time.sleep(max(0.0, began + (turn + n / CLIENTS) * PAUSE_SEC - time.monotonic()))
            statuses.append(clients[n].ask())

    began = time.monotonic()
    threads = [threading.Thread(target=run, args=(n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * CLIENTS * ASKS
    assert world.app.refused == 0


def test_few_clients_keep_their_connections(world: World) -> None:
    """With half of the places taken nobody has to connect anew; one more, and idle ones go."""
    clients = [KeptAlive(world) for _ in range(CROWDED)]
    for _ in range(2):
        assert {client.ask() for client in clients} == {200}
        time.sleep(1.2 * IDLE_LOOK_SEC)
    assert {client.opened for client in clients} == {1}
    with world.connect():
        sockets = [client.connection.sock for client in clients]
        gone = select.select(sockets, [], [], REQUEST_SEC / 2)[0]
        assert gone
        assert gone[0].recv(1) == b""
    for client in clients:
        client.connection.close()


def test_a_crowded_server_says_that_it_closes(world: World) -> None:
    """Nobody is left to find out: what may not be kept is announced, and more is answered."""
    silent = [world.connect() for _ in range(CONNECTIONS_MAX - 1)]
    time.sleep(0.05)  # until all have their threads
    request = f"GET /healthz HTTP/1.1\r\nHost: {world.host}\r\n\r\n".encode()
    answer = world.raw(request)
    assert (status_of(answer), b"Connection: close\r\n" in answer) == (200, True)
    for sock in silent:
        sock.close()


# ---- bodies that are made while they go ---------------------------------------------------------


class Table:
    """Cycles without end, until something stops them."""

    def __init__(self, error: Exception | None, rows: int) -> None:
        self.error, self.rows = error, rows

    def assets(self) -> tuple[str, str]:
        """Return some."""
        return "DOGE", "USD"

    def cycles_ended(self, *_: float) -> Iterator[dict[str, Any]]:
        """Yield rows, then fail."""
        texts = ("entry_price", "exit_price", "volume", "gross_profit", "entry_fee", "exit_fee",
                 "fees", "net_profit")  # fmt: skip
        row = dict.fromkeys(texts, "0.1") | {
            "slot_id": 0, "trade_id": "A", "cycle": 1, "entry_time": 0.0, "exit_time": 1.0,
            "from_recovery": 0, "regime_at_entry": None, "resolution": "filled",
        }  # fmt: skip
        for n in range(self.rows):
            yield row | {"id": n}
        if self.error is not None:
            raise self.error


def table(world: World, version: str) -> bytes:
    """Return all that comes of a table before the connection ends; raises where it is reset."""
    head = f"GET /api/export/cycles.csv HTTP/{version}\r\nHost: {world.host}\r\n"
    with world.connect() as sock:
        sock.sendall(f"{head}Connection: close\r\n\r\n".encode())
        received = b""
        while chunk := sock.recv(65536):
            received += chunk
    return received


@pytest.mark.parametrize("error", [None, StoreError("the disk is gone"), RuntimeError("ours")])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_table_that_is_cut_off_does_not_look_whole(
    world: World, caplog: pytest.LogCaptureFixture, version: str, error: Exception | None
) -> None:
    """Without its last chunk or, where there are none, by a reset; the log says why."""
    world.app.history = Table(error, 3_000)  # type: ignore[assignment]
    if version == "1.0" and error is not None:
        with pytest.raises(ConnectionResetError):
            table(world, version)
    else:
        received = table(world, version)
        assert status_of(received) == 200
        assert received.endswith(b"\r\n0\r\n\r\n") == (version == "1.1" and error is None)
        assert (b"Transfer-Encoding: chunked" in received) == (version == "1.1")
        assert b"Content-Length" not in received
        assert (b"\n2999," in received) == (error is None)
    told = [x for x in caplog.records if x.message.startswith("cut off path=/api/export/cycles")]
    assert len(told) == (error is not None)
    assert [x for x in told if x.exc_info] == (told if isinstance(error, RuntimeError) else [])
    assert world.ask("GET", "/healthz")[0] == 200


def test_a_part_without_bytes_is_not_the_last_one(world: World) -> None:
    """A table that just fills its last part ends once, and the connection is good for more."""
    first = next(TABLES["/api/export/cycles.csv"](Table(None, 9_999), ""))
    rows = first.count(b"\r\n") - 1  # but for the header
    assert list(TABLES["/api/export/cycles.csv"](Table(None, rows), "")) == [first, b""]
    world.app.history = Table(None, rows)  # type: ignore[assignment]
    asked = f"GET /api/export/cycles.csv HTTP/1.1\r\nHost: {world.host}\r\n\r\n"
    more = f"GET /healthz HTTP/1.1\r\nHost: {world.host}\r\nConnection: close\r\n\r\n"
    received = world.raw(f"{asked}{more}".encode())
    assert received.count(b"0\r\n\r\n") == 1
    assert received.endswith(HEALTHY)
