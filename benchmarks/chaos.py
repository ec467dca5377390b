"""A proxy of real sockets that does to requests what bad lines do: seeded, counted by kind.

It reads whole requests and whole answers (HTTP/1.1, bodies by Content-Length), so that a fault
befalls a request surely before, or surely after, it was carried out. It serves on a thread of its
own; `rate` and `kinds` may be set at any time, and hold from the next request on.
"""

import asyncio
import re
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Self

HERE = "127.0.0.1"
BEFORE = ("cut_before", "black_hole", "error_502")  # the request is not carried out
AFTER = (
    "cut_after", "swallowed", "error_520", "html", "garbage", "noise", "truncated", "trickled",
    "late",
)  # fmt: skip
KINDS = (*BEFORE, "delayed", *AFTER)
HOLD_SEC = 60.0  # a connection without an answer is held for so long, or until the client leaves
LATE_SEC = (0.2, 12.0)  # of a request or an answer: some clients have gone by then
TRICKLE_SEC = (0.5, 15.0)  # of a whole answer
PIECES = 40  # of an answer that trickles
NOISE_BYTES = 4096
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_RESET = struct.pack("ii", 1, 0)


class ChaosProxy:
    """Stands before a port of this machine; `drawn` counts what has befallen, "" what nothing did.

    `rate` is the share of requests that meet one of `kinds`, all alike.
    """

    def __init__(self, port: int, rng: Random, *, rate: float = 0.0) -> None:
        self.rate, self.kinds = rate, tuple[str, ...](KINDS)
        self.drawn: Counter[str] = Counter()
        self._there, self._rng = port, rng
        self._socket = socket.create_server((HERE, 0))
        self.url = f"http://{HERE}:{self._socket.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="chaos", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # ends what is left
            runner.run(self._listen())

    async def _listen(self) -> None:
        async with await asyncio.start_server(self._serve, sock=self._socket):
            await self._stop.wait()

    async def _serve(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._meet(await _message(here), here, back):
                pass
        back.close()

    async def _meet(
        self, request: bytes, here: asyncio.StreamReader, back: asyncio.StreamWriter
    ) -> bool:
        """Let one request meet what is drawn for it; tell whether its connection goes on."""
        kind = self._rng.choice(self.kinds) if self._rng.random() < self.rate else ""
        self.drawn[kind] += 1
        answer = b""
        if kind == "delayed":
            await asyncio.sleep(self._rng.uniform(*LATE_SEC))
        if kind not in BEFORE:
            answer = await self._carry(request)
        match kind:
            case "cut_before" | "cut_after":
                line = back.get_extra_info("socket")
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                back.transport.abort()
                return False
            case "black_hole" | "swallowed":
                with suppress(TimeoutError):
                    await asyncio.wait_for(here.read(1), HOLD_SEC)
                return False
            case "error_502" | "error_520" | "html":
                status = {"error_502": "502 Bad Gateway", "error_520": "520 "}.get(kind, "200 OK")
                answer = _answer(status, "text/html", b"<html><body>just a moment</body></html>")
            case "garbage":
                body = self._rng.randbytes(self._rng.randrange(1, NOISE_BYTES))
                answer = _answer("200 OK", "application/json", body)
            case "noise":
                answer = self._rng.randbytes(self._rng.randrange(1, NOISE_BYTES))
            case "truncated":
                answer = answer[: self._rng.randrange(len(answer))]
            case "late":
                await asyncio.sleep(self._rng.uniform(*LATE_SEC))
        await self._send(answer, back, is_slow=kind == "trickled")
        return kind not in ("noise", "truncated") and not _CLOSE.search(answer)

    async def _carry(self, request: bytes) -> bytes:
        there, out = await asyncio.open_connection(HERE, self._there)
        try:
            out.write(request)
            return await _message(there)
        finally:
            out.close()

    async def _send(self, answer: bytes, back: asyncio.StreamWriter, *, is_slow: bool) -> None:
        pause = self._rng.uniform(*TRICKLE_SEC) / PIECES if is_slow else 0.0
        size = -(-len(answer) // PIECES) if is_slow else max(1, len(answer))
        for n in range(0, len(answer), size):
            back.write(answer[n : n + size])
            await back.drain()
            await asyncio.sleep(pause)


async def _message(line: asyncio.StreamReader) -> bytes:
    """Read a request or an answer to its end. Raises IncompleteReadError where there is none."""
    head = await line.readuntil(b"\r\n\r\n")
    told = _LENGTH.search(head)
    return head + await line.readexactly(int(told[1]) if told else 0)


def _answer(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
