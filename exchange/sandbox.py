"""The sandbox as a server: HTTP on loopback around `SandboxVenue`, and a ticker for its market.

Sockets and threads only; what is answered is in `exchange/sandbox_venue.py`. One lock stands around
the venue. Waiting, where a fault asks for it, is done outside of the lock.
"""

import ipaddress
import threading
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR, socket
from types import TracebackType
from typing import Any, Self

import msgspec

from core.ports import MarketError, StoreError
from exchange.sandbox_faults import read_faults
from exchange.sandbox_venue import CLOSED, SandboxVenue

HOST = "127.0.0.1"
DOOR = "/sandbox/faults"
BODY_MAX = 1 << 20
IDLE_SEC = 75.0
TICK_SEC = 0.2


class Sandbox:
    """A running sandbox: `with Sandbox(venue, clock=wall_now) as sandbox: sandbox.url`.

    `clock` gives seconds since the epoch. Port 0 takes any that is free; OSError when the port is
    taken. `has_door` opens POST /sandbox/faults. `log` gets lines in plain words. The venue is
    closed with the server; whoever touches it meanwhile holds `lock`.
    """

    def __init__(
        self,
        venue: SandboxVenue,
        *,
        clock: Callable[[], float],
        port: int = 0,
        has_door: bool = False,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.venue, self.clock, self.log, self.has_door = venue, clock, log, has_door
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.failure: Exception | None = None
        self._server = _Server(self, port)
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True),
            threading.Thread(target=self._tick, daemon=True),
        ]

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Return its address, as KRAKEN_API_URL takes it."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> Self:
        """Begin to answer."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Close every connection, then the venue; safe to call twice."""
        if self.stopped.is_set() and not self._threads:
            return
        self.stopped.set()
        if any(thread.is_alive() for thread in self._threads):
            self._server.shutdown()
        self._server.server_close()
        self._server.drop_connections()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._threads = []
        with self.lock:
            self.venue.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def fail(self, error: Exception) -> None:
        """Note that it can go on no more: its file or its market has failed."""
        self.failure = error
        self.log(f"the sandbox stops: {error}")
        self.stopped.set()

    def _tick(self) -> None:
        was_over = False
        while not self.stopped.wait(TICK_SEC):
            try:
                with self.lock:
                    self.venue.advance(self.clock())
                    is_over = self.venue.has_ended
            except (StoreError, MarketError) as error:
                self.fail(error)
                return
            if is_over and not was_over:
                self.log("the market has come to its end: the price stays where it is")
            was_over = is_over


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, sandbox: Sandbox, port: int) -> None:
        self.sandbox = sandbox
        self._open: set[socket] = set()
        self._guard = threading.Lock()
        super().__init__((HOST, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        """Close what is still connected."""
        with self._guard:
            left = list(self._open)
        for connection in left:
            with suppress(OSError):
                connection.shutdown(SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "sandbox"
    sys_version = ""
    timeout = IDLE_SEC
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: _Server

    def do_GET(self) -> None:
        """Carry a public call."""
        self._carry()

    def do_POST(self) -> None:
        """Carry a private call."""
        self._carry()

    def log_message(self, format: str, *args: Any) -> None:
        """Log no request: the keys are in them."""

    def _carry(self) -> None:
        body = self._body()
        if body is None:
            return
        sandbox = self.server.sandbox
        if sandbox.has_door and self.path == DOOR:
            self._send(*self._at_the_door(body))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            with sandbox.lock:
                before, after = sandbox.venue.waits(self.path)
            sandbox.stopped.wait(before)
            with sandbox.lock:
                if sandbox.stopped.is_set():
                    self._hang_up()
                    return
                status, told = sandbox.venue.answer(
                    self.command, self.path, headers, body, sandbox.clock()
                )
        except (StoreError, MarketError) as error:
            sandbox.fail(error)
            self._hang_up()
            return
        sandbox.stopped.wait(after)
        if status == CLOSED:
            self._hang_up()
        else:
            self._send(status, told)

    def _body(self) -> bytes | None:
        """Return the body; None where there cannot be one, already answered."""
        if self.headers.get("transfer-encoding"):
            self._refuse(411, "a Content-Length is needed")
            return None
        told = self.headers.get("content-length", "0")
        if not (told.isascii() and told.isdigit()) or len(told) > 9 or int(told) > BODY_MAX:
            self._refuse(413, f"a body has at most {BODY_MAX} bytes")
            return None
        body = self.rfile.read(int(told))
        if len(body) < int(told):
            self._hang_up()
            return None
        return body

    def _refuse(self, status: int, text: str) -> None:
        self.close_connection = True
        self._send(status, msgspec.json.encode({"error": [f"EAPI:Bad request:{text}"]}))

    def _send(self, status: int, body: bytes) -> None:
        kind = "text/html" if body.startswith(b"<") else "application/json"
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(SHUT_RDWR)

    # ---- the door for tests -------------------------------------------------------------------

    def _at_the_door(self, body: bytes) -> tuple[int, bytes]:
        """Switch what a test asks for; tell what is on and what has happened."""
        sandbox = self.server.sandbox
        is_own = ipaddress.ip_address(self.client_address[0]).is_loopback
        if not is_own or self.headers.get("origin"):
            return 403, _told(error="only programs of this machine may come in here")
        try:
            with sandbox.lock:
                if self.command == "POST":
                    _switch(sandbox.venue, body)
                faults = sandbox.venue.faults
                told = _told(faults=list(faults.active()), drawn=faults.drawn)
        except ValueError as error:
            return 400, _told(error=str(error))
        return 200, told


def _switch(venue: SandboxVenue, body: bytes) -> None:
    """Do what a body tells: faults, clear, status, lags, is_lag_random, deposit, is_still.

    Raises ValueError in plain words.
    """
    try:
        told: Any = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError(f"the body is no JSON: {error}") from None
    known = {"faults", "clear", "status", "lags", "is_lag_random", "deposit", "is_still"}
    if not isinstance(told, dict) or not told or set(told) - known:
        raise ValueError(f"the body must be an object with some of {', '.join(sorted(known))}")
    if told.get("clear"):
        venue.faults.clear()
    for fault in read_faults(told.get("faults", [])):
        venue.faults.add(fault)
    if "is_still" in told:
        venue.is_still = bool(told["is_still"])
    if "status" in told:
        venue.set_status(str(told["status"]))
    if "lags" in told:
        try:
            lags = msgspec.convert(told["lags"], dict[str, float])
        except msgspec.ValidationError as error:
            raise ValueError(f"lags: {error}") from None
        venue.set_lags(lags, is_random=bool(told.get("is_lag_random")))
    if "deposit" in told:
        _deposit(venue, told["deposit"])


def _deposit(venue: SandboxVenue, told: Any) -> None:
    try:
        asset, amount = told["asset"], Decimal(str(told["amount"]))
    except (KeyError, TypeError, InvalidOperation):
        raise ValueError('deposit must be {"asset": "ZUSD", "amount": "100"}') from None
    if not amount.is_finite():
        raise ValueError("amount must be a number")
    venue.deposit(str(asset), amount)


def _told(**fields: Any) -> bytes:
    return msgspec.json.encode(fields)
