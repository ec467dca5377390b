"""Server-sent events of `/api/stream`: one thread writes to all streams, and waits for none.

A stream is a socket and what is still to be sent on it; while there is some, newer events are left
out for it, which costs nothing but age: each event is a whole status. Look next at `dashboard.py`.
"""

import logging
import socket
import threading
import zlib
from collections.abc import Callable
from functools import cached_property

from core.status import Published
from web.message import Answer, Refusal, encoded, retry_after

log = logging.getLogger("stream")

STREAMS_MAX = 64
INTERVAL_SEC = 1.0
URGENT_SEC = 0.25  # between two events, whatever the hurry
HEARTBEAT_SEC = 15.0
STALL_SEC = 10.0
STOP_SEC = 2.0
_RETRY_SEC = 10  # for those turned away
_SEND_BUFFER = 64 * 1024  # so that little that is old waits in the kernel
_LEVEL = 5
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


def stream_answer(*, is_packed: bool) -> Answer:
    """Return the head that opens a stream; compressed when `is_packed`."""
    headers = (("Vary", "Accept-Encoding"), ("X-Accel-Buffering", "no"))  # proxies pass on at once
    packing = (("Content-Encoding", "gzip"),) if is_packed else ()
    return Answer(
        status=200,
        content_type="text/event-stream; charset=utf-8",
        headers=headers + packing,
        closes=True,
        is_endless=True,
    )


class Streams:
    """The open streams, and the thread that sends them what `published` returns.

    A stream gets the newest status when it opens, then once a second if there is a newer one, and
    four times a second at most while there is a hurry.
    """

    def __init__(
        self, published: Callable[[], Published | None], monotonic: Callable[[], float]
    ) -> None:
        self.refused = 0  # streams turned away
        self._published = published
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._streams: list[_Stream] = []
        self._event: _Event | None = None
        self._hurry = False
        self._stopping = False
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)

    def __len__(self) -> int:
        return len(self._streams)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Close all streams and end the thread; no stream opens any more."""
        self._stopping = True
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SEC)

    def hurry(self) -> None:
        """Have what is published sent sooner than in its turn; never blocks, from any thread."""
        self._hurry = True
        self._woken.set()

    def open(
        self, connection: socket.socket, *, is_packed: bool, is_allowed: Callable[[], bool]
    ) -> None:
        """Take a connection over, to which nothing was answered yet; its owner has it no more.

        `is_allowed` is asked before each send, and ends the stream when it says no. Raises 503 when
        there are too many streams.
        """
        with self._lock:
            if len(self._streams) >= STREAMS_MAX or self._stopping:
                self.refused += 1
                raise Refusal(503, "too many streams", headers=retry_after(_RETRY_SEC))
            own = socket.socket(fileno=connection.detach())
            self._streams.append(_Stream(own, is_packed, is_allowed, self._monotonic()))
        self._woken.set()

    def _run(self) -> None:
        sent = self._monotonic() - INTERVAL_SEC
        while not self._stopping:
            due = sent + (URGENT_SEC if self._hurry else INTERVAL_SEC)
            self._woken.wait(max(0.0, due - self._monotonic()) if self._streams else None)
            self._woken.clear()
            now = self._monotonic()
            is_due = now >= sent + (URGENT_SEC if self._hurry else INTERVAL_SEC)
            if is_due:  # the hurry ends before the status is read: a newer one begins it again
                self._hurry, sent = False, now
            try:
                self._serve(now, is_due=is_due)
            except Exception:  # worker top: clients come again, the thread would not
                log.exception("streams closed")
                self._close_all()
        self._close_all()

    def _serve(self, now: float, *, is_due: bool) -> None:
        published, event = self._published(), self._event
        if published is not None and (event is None or event.etag != published.etag):
            self._event = event = _Event(published)
        for stream in tuple(self._streams):
            if (is_due or stream.etag is None) and not stream.serve(event, now):
                with self._lock:
                    self._streams.remove(stream)
                stream.close()

    def _close_all(self) -> None:
        with self._lock:
            gone, self._streams = self._streams, []
        for stream in gone:
            stream.close()


class _Event:
    """A status as it is sent; compressed at most once."""

    def __init__(self, published: Published) -> None:
        self.etag = published.etag
        self.plain = b"event: status\nid: %b\ndata: %b\n\n" % (
            published.etag.encode(),
            published.body,
        )

    @cached_property
    def packed(self) -> bytes:
        return _deflated(self.plain)


class _Stream:
    """One client: its socket, what is still to be sent to it, and what it has had."""

    def __init__(
        self,
        connection: socket.socket,
        is_packed: bool,
        is_allowed: Callable[[], bool],
        now: float,
    ) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        head = encoded(stream_answer(is_packed=is_packed))
        head += _GZIP_HEAD + _RETRY_PACKED if is_packed else _RETRY
        self.etag: str | None = None
        self._connection = connection
        self._is_packed = is_packed
        self._is_allowed = is_allowed
        self._pending = memoryview(head)
        self._said_at = self._moved_at = now

    def serve(self, event: _Event | None, now: float) -> bool:
        """Send what can be sent of what there is; False when the stream is over."""
        try:
            if self._has_ended() or not self._is_allowed():
                return False
            self._send(now)
            if self._pending:
                return now - self._moved_at < STALL_SEC
            if event is not None and event.etag != self.etag:
                self.etag = event.etag
                self._say(event.packed if self._is_packed else event.plain, now)
            elif now - self._said_at >= HEARTBEAT_SEC:
                self._say(_BEAT_PACKED if self._is_packed else _BEAT, now)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _has_ended(self) -> bool:
        """Tell whether the client has closed, or says what nobody asked for."""
        try:
            self._connection.recv(1024)
        except BlockingIOError:
            return False
        return True

    def _say(self, text: bytes, now: float) -> None:
        self._pending, self._said_at, self._moved_at = memoryview(text), now, now
        self._send(now)

    def _send(self, now: float) -> None:
        try:
            while self._pending:
                self._pending = self._pending[self._connection.send(self._pending) :]
                self._moved_at = now
        except BlockingIOError:
            pass  # full: the rest goes with the next turn


def _deflated(text: bytes) -> bytes:
    """Return `text` as a piece of a deflate stream that needs nothing from before it."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(text) + packer.flush(zlib.Z_FULL_FLUSH)


_RETRY, _BEAT = b"retry: 2000\n\n", b": still here\n\n"
_RETRY_PACKED, _BEAT_PACKED = _deflated(_RETRY), _deflated(_BEAT)
