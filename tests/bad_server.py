"""A server on a real socket that answers well, badly, slowly or not at all, as it is told."""

import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Self
from urllib.parse import parse_qsl

GOOD = b'{"error":[],"result":{"price":"0.1","number":0.30000000000000001}}'


class Seen(NamedTuple):
    """One request as it arrived."""

    line: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    connection: int

    @property
    def form(self) -> dict[str, str]:
        """Return the body's parameters."""
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


# Answers one request; tells whether the connection is kept for another. The event means: stop.
Manner = Callable[[socket.socket, threading.Event], bool]


def answer(
    body: bytes = GOOD,
    status: str = "200 OK",
    *headers: str,
    length: int | None = None,
    keeps: bool = True,
) -> Manner:
    """Answer with `body`; `length` is what the header says of it."""
    told = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {told}", *headers]
    return say("\r\n".join(lines).encode() + b"\r\n\r\n" + body, keeps=keeps)


def say(content: bytes, *, keeps: bool = False) -> Manner:
    """Send these bytes, whatever they are."""

    def manner(line: socket.socket, _stop: threading.Event) -> bool:
        line.sendall(content)
        return keeps

    return manner


def trickle(before: bytes, drop: bytes = b" ") -> Manner:
    """Send `before` and then a byte at a time, for ever."""

    def manner(line: socket.socket, stop: threading.Event) -> bool:
        line.sendall(before)
        while not stop.wait(0.01):
            line.sendall(drop)
        return False

    return manner


def hang(_line: socket.socket, stop: threading.Event) -> bool:
    """Say nothing."""
    stop.wait()
    return False


def reset_after(content: bytes) -> Manner:
    """Send `content`, then reset the connection."""

    def manner(line: socket.socket, _stop: threading.Event) -> bool:
        line.sendall(content)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    return manner


def gzipped(body: bytes) -> bytes:
    """Return `body` in gzip's format."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(body) + packer.flush()


class BadServer:
    """Gives request after request one manner of `manners`, the last one for all that follow."""

    def __init__(self, *manners: Manner, tls: ssl.SSLContext | None = None) -> None:
        self._manners = list(manners)
        self._tls = tls
        self._stop = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.requests: list[Seen] = []
        self.connections = 0
        self.port: int = self._socket.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._run(self._accept)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _run(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                line, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            number = self.connections
            self._run(lambda line=line, number=number: self._serve(line, number))  # type: ignore[misc]

    def _serve(self, line: socket.socket, number: int) -> None:
        line.settimeout(5)
        with suppress(OSError), line:
            if self._tls:
                line = self._tls.wrap_socket(line, server_side=True)
            with line:
                while (seen := self._read(line, number)) is not None:
                    with self._lock:
                        self.requests.append(seen)
                        many = len(self._manners) > 1
                        manner = self._manners.pop(0) if many else self._manners[0]
                    if not manner(line, self._stop):
                        return

    def _read(self, line: socket.socket, number: int) -> Seen | None:
        told = b""
        while b"\r\n\r\n" not in told:
            if self._stop.is_set():
                return None
            line.settimeout(0.1)
            try:
                chunk = line.recv(65536)
            except TimeoutError:
                continue
            if not chunk:
                return None
            told += chunk
        line.settimeout(5)
        head, _, body = told.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v for k, _, v in (x.partition(": ") for x in rest)}
        while len(body) < int(headers.get("content-length", "0")):
            body += line.recv(65536)
        return Seen(first, headers, body, number)
