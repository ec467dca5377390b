"""Connections: requests read strictly and within a deadline, answers written in one send.

How many there may be at once, how long heads and bodies are and how long they may take is decided
here; what a request means is not. Look next at `dashboard.py`.
"""

import logging
import re
import socket
import struct
import threading
from collections.abc import Iterable
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, Protocol

from core.ports import StoreError
from core.record import replace
from web.message import Answer, Refusal, encoded, json_answer, retry_after

log = logging.getLogger("dashboard")

BODY_MAX = 16 * 1024
HEAD_MAX = 16 * 1024
LINE_MAX = 4 * 1024
CONNECTIONS_MAX = 32
CROWDED = CONNECTIONS_MAX // 2  # with more, no connection is kept for a request that may come
REQUEST_SEC = 5.0  # from the first wait for a request to its last byte, whatever drips in
IDLE_LOOK_SEC = 0.25
LINGER_SEC = 0.5
_RESET = struct.pack("ii", 1, 0)  # linger for no time
_LINE = re.compile(rb"[A-Z]{1,16} [\x21-\x7e]+ HTTP/1\.[01]")
_HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class App(Protocol):
    """What answers requests; `refused` counts connections turned away."""

    refused: int
    is_stopping: bool

    def monotonic(self) -> float:
        """Return the time that deadlines are measured by."""
        ...

    def answer(self, request: "Request") -> Answer | None:
        """Return the answer, or None when the connection is in other hands; raises a refusal."""
        ...


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, host: str, port: int, app: App) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.app = app
        self._taken, self._lock = 0, threading.Lock()
        super().__init__((host, port), Request)

    def server_bind(self) -> None:
        """Bind without asking the name service for our own name, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @property
    def is_crowded(self) -> bool:
        """Tell whether idle connections are to leave their places to new ones.

        That is from half of the places on, not from the last: a page opens some at one time, and an
        idle connection needs a moment to go.
        """
        return self._taken > CROWDED

    def _take(self, places: int) -> bool:
        with self._lock:
            has_room = self._taken + places <= CONNECTIONS_MAX
            self._taken += places if has_room else 0
        return has_room

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, or refuse it at once when there are too many."""
        if not self._take(1):
            self.app.refused += 1
            answer = json_answer(
                503, {"error": "too many connections"}, headers=retry_after(1), closes=True
            )
            try:
                request.setblocking(False)
                request.send(encoded(answer))
            except OSError:
                pass  # the client is gone already
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread to be had
            self._take(-1)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection on its own thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._take(-1)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - inherited
        """Say that a connection broke, without its contents."""
        log.debug("connection from %s broke", client_address[0], exc_info=True)


class Request(BaseHTTPRequestHandler):
    """Reads requests strictly and within the deadline, and writes answers in one send."""

    server: Server
    protocol_version = "HTTP/1.1"
    headers: Message

    def setup(self) -> None:
        """Prepare the connection: no Nagle, no buffering but our own."""
        self.connection: socket.socket = self.request
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._buffer = b""
        self.target = ""
        self._deadline = 0.0
        self.close_connection = True
        self._is_further = self._is_idle = False

    def finish(self) -> None:
        """Let a client that still sends read our last answer before the connection is reset."""
        if self._is_idle:
            return
        try:
            self.connection.shutdown(socket.SHUT_WR)
            until = self.server.app.monotonic() + LINGER_SEC
            while (left := until - self.server.app.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(65536):
                    return
        except OSError:
            pass  # gone, or too slow to matter

    def handle_one_request(self) -> None:
        """Serve one request; any failure ends the connection, never the server."""
        self._deadline = self.server.app.monotonic() + REQUEST_SEC
        self.close_connection, self.command = True, ""
        if self._is_further and not self._buffer and not self._is_asked_again():
            self._is_idle = True
            return
        self._is_further = True
        try:
            if not self._read_head():
                return
            if self.server.app.is_stopping:
                self.close_connection = True
                return
            answer = self.server.app.answer(self)
            if answer is None:  # the connection is in other hands
                self.close_connection = True
                return
        except Refusal as refusal:
            answer = refusal.answer
        except TimeoutError:
            if not self._buffer and not self.command:
                return
            answer = json_answer(408, {"error": "the request took too long"}, closes=True)
        except OSError:
            return
        except Exception:  # handler top: a constant answer, the rest is in the log
            log.exception("request failed path=%s", self.target.partition("?")[0])
            answer = json_answer(500, {"error": "internal error"}, closes=True)
        self._write(answer)

    def _is_asked_again(self) -> bool:
        """Wait for a further request to begin; False when none does, or its place is needed."""
        try:
            while (left := self._deadline - self.server.app.monotonic()) > 0:
                self.connection.settimeout(min(left, IDLE_LOOK_SEC))
                try:
                    self._buffer = self.connection.recv(65536)
                    return bool(self._buffer)
                except TimeoutError:
                    if self.server.is_crowded or self.server.app.is_stopping:
                        return False
        except OSError:
            pass  # gone
        return False

    def _write(self, answer: Answer) -> None:
        if (self.close_connection or self.server.is_crowded) and not answer.closes:
            answer = replace(answer, closes=True)
        self.close_connection = answer.closes
        try:
            self.connection.settimeout(REQUEST_SEC)
            self.connection.sendall(encoded(answer, without_body=self.command == "HEAD"))
            if answer.parts is not None and self.command != "HEAD":
                self._write_parts(answer.parts, is_chunked=not answer.is_endless)
        except OSError:
            self.close_connection = True

    def _write_parts(self, parts: Iterable[bytes], *, is_chunked: bool) -> None:
        """Send a body part by part; where it is not whole, without the last chunk or with a reset.

        An empty part says nothing: as a chunk it would be the last.
        """
        path = self.target.partition("?")[0]
        try:
            for part in filter(None, parts):
                if self.server.app.is_stopping:
                    raise ConnectionAbortedError
                chunk = b"%x\r\n%b\r\n" % (len(part), part)
                self.connection.sendall(chunk if is_chunked else part)
            if is_chunked:
                self.connection.sendall(b"0\r\n\r\n")
            return
        except OSError:
            pass  # gone, or we are going
        except StoreError as error:
            log.warning("cut off path=%s: %s", path, error)
        except Exception:  # handler top, as where the answer is made
            log.exception("cut off path=%s", path)
        self.close_connection = True
        if not is_chunked:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.connection.close()

    def _fill(self) -> None:
        left = self._deadline - self.server.app.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        received = self.connection.recv(65536)
        if not received:
            raise ConnectionError("closed by the client")
        self._buffer += received

    def _read_head(self) -> bool:
        """Read and check request line and headers; False when the client had nothing to say."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0 and len(self._buffer) <= HEAD_MAX:
            self._fill()
        line = self._buffer[: LINE_MAX + 2].split(b"\r\n", 1)[0]
        if len(line) > LINE_MAX:
            raise Refusal(414, "the request line is too long", closes=True)
        if not 0 <= end <= HEAD_MAX:
            raise Refusal(431, "the headers are too long", closes=True)
        head, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
        first, *headers = head[:-4].split(b"\r\n")
        if not _LINE.fullmatch(first) or not all(_HEADER.fullmatch(x) for x in headers):
            raise Refusal(400, "the request cannot be read", closes=True)
        self.rfile = BytesIO(head[len(first) + 2 :])
        self.raw_requestline = first + b"\r\n"
        self.target = first.split(b" ")[1].decode("ascii")  # the parser would fold "//" into "/"
        return self.parse_request()

    def send_error(
        self,
        code: int,
        message: str | None = None,  # noqa: ARG002 - inherited; may hold what the client sent
        explain: str | None = None,  # noqa: ARG002
    ) -> None:
        """Answer what the standard parser refuses, in our own constant words."""
        self._write(json_answer(code, {"error": HTTPStatus(code).phrase}, closes=True))

    def handle_expect_100(self) -> bool:
        """Refuse to announce bodies: ours are short."""
        raise Refusal(417, "no expectations, please", closes=True)

    def only(self, name: str) -> str | None:
        """Return the one header of that name, or None; raises 400 when it is given twice."""
        values = self.headers.get_all(name, [])
        if len(values) > 1:
            raise Refusal(400, f"{name} is given twice", closes=True)
        return str(values[0]).strip() if values else None

    def body(self) -> bytes:
        """Read the body that Content-Length announces."""
        text = self.only("Content-Length")
        if text is None:
            raise Refusal(411, "Content-Length is missing", closes=True)
        if not re.fullmatch(r"\d{1,20}", text, re.ASCII):
            raise Refusal(400, "Content-Length is not a number", closes=True)
        length = int(text)
        if length > BODY_MAX:
            raise Refusal(413, f"the body is longer than {BODY_MAX} bytes", closes=True)
        while len(self._buffer) < length:
            self._fill()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return body

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing by default: requests are many and may carry secrets."""
