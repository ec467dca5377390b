"""Messages to the operator, over a webhook and Telegram, never in the way of the loop.

`send` only puts into a bounded box; one thread takes out and does the network. Addresses and
tokens are secrets: no text that is logged, kept or raised here holds one, and what a server
answers is neither shown nor logged. What leaves and when is decided in `engine/outbox.py`.
"""

import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Any, Protocol

import msgspec
import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from core.plain_text import clean_text
from core.record import Record, replace
from engine.outbox import ChannelHealth, Message, Outbox, Outcome, shortened

log = logging.getLogger("notify")

CALL_SEC = 8.0  # from the first packet to the last byte of one call
CONNECT_SEC = 4.0  # per address of the host
ANSWER_MAX = 64 * 1024
STOP_SEC = 1.8
LAST_CALL_SEC = 0.5  # what a call under way is given when the daemon stops
WATCH_SEC = 5.0  # how often a report may become due
LINES_MAX = 60
TIMEOUT, CONNECTION, TOO_LONG = "timeout", "connection", "too_long"
_LEVELS = {"warning": "WARNING: ", "error": "ERROR: "}

Report = Callable[[], str | None]


class HttpAnswer(Record, frozen=True, kw_only=True):
    """What came back: `problem` in plain words when there was no answer at all (status 0).

    `fault` is why there is no whole body: timeout, connection or too_long.
    """

    status: int = 0
    body: bytes = b""
    retry_after_sec: float | None = None
    problem: str | None = None
    fault: str = ""


class Line:
    """Makes one HTTP call at a time, each within a total deadline, and can be cut from outside.

    No redirects, no proxies or credentials from the environment, no connection kept.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._call = 0
        self._broken = -1  # the call that was broken off
        self._socket: socket.socket | None = None
        self._closed = False

    def post(
        self,
        url: str,
        body: Mapping[str, Any],
        *,
        limit_sec: float = CALL_SEC,
        answer_max: int = ANSWER_MAX,
        headers: Mapping[str, str] | None = None,
    ) -> HttpAnswer:
        """Send `body` as JSON; return the answer, of which at most `answer_max` bytes are read.

        Never raises: what goes wrong is told in `problem`, without the address and the headers.
        """
        with self._lock:
            if self._closed:
                return HttpAnswer(problem="the daemon is stopping", fault=CONNECTION)
            self._call += 1
            call, self._socket = self._call, None
        timer = threading.Timer(limit_sec, self._break, (call,))
        timer.daemon = True
        timer.start()
        try:
            answer = self._post(url, body, limit_sec, answer_max, headers or {})
        finally:
            timer.cancel()
        if self._broken == call and answer.problem is not None:
            problem = f"no complete answer within {limit_sec:.3g} s"
            return HttpAnswer(problem=problem, fault=TIMEOUT)
        return replace(answer, fault=TIMEOUT) if self._broken == call else answer

    def cut(self, after_sec: float = 0.0) -> None:
        """Break off the call under way, if it is the same after `after_sec`; later ones go on."""
        call = self._call
        if not after_sec:
            self._break(call)
            return
        timer = threading.Timer(after_sec, self._break, (call,))
        timer.daemon = True
        with suppress(RuntimeError):  # no thread to be had: the call's own limit holds
            timer.start()

    def close(self) -> None:
        """Break off the call under way and refuse further ones."""
        with self._lock:
            self._closed = True
        self.cut()

    def _post(
        self,
        url: str,
        body: Mapping[str, Any],
        limit_sec: float,
        answer_max: int,
        further: Mapping[str, str],
    ) -> HttpAnswer:
        headers = {
            "Content-Type": "application/json", "Accept-Encoding": "identity",
            "Connection": "close", "User-Agent": "grid-daemon", **further,
        }  # fmt: skip
        with requests.Session() as session:
            session.trust_env = False
            session.mount("https://", _Adapter(self._opened))
            session.mount("http://", _Adapter(self._opened))
            try:
                response = session.post(
                    url,
                    data=msgspec.json.encode(body),
                    headers=headers,
                    timeout=(min(CONNECT_SEC, limit_sec), limit_sec + 1.0),  # the timer is first
                    allow_redirects=False,
                    stream=True,
                )
            except (OSError, HTTPError, ValueError) as error:  # their texts hold the address
                is_late = isinstance(error, requests.exceptions.Timeout)
                return HttpAnswer(problem=_problem(error), fault=TIMEOUT if is_late else CONNECTION)
            with response:
                if self._broken == self._call:  # a head cut short is no answer, whatever its status
                    return HttpAnswer(problem="cut short", fault=TIMEOUT)
                content, fault = _content(response, answer_max)
                return HttpAnswer(
                    status=response.status_code,
                    body=content,
                    retry_after_sec=_seconds(response.headers.get("Retry-After")),
                    fault=fault,
                )

    def _opened(self, opened: socket.socket) -> None:
        with self._lock:
            self._socket = opened
            if self._closed or self._broken == self._call:
                _shut(opened)

    def _break(self, call: int) -> None:
        with self._lock:
            if call != self._call:
                return
            self._broken = call
            if self._socket is not None:
                _shut(self._socket)


class _Adapter(HTTPAdapter):
    """Tells of each socket it opens, so that a call can be ended whatever it waits for."""

    def __init__(self, opened: Callable[[socket.socket], None]) -> None:
        self._opened = opened
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools with connections of our own."""
        super().init_poolmanager(*args, **kwargs)
        opened = self._opened

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                opened(self.sock)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                opened(self.sock)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


def _shut(opened: socket.socket) -> None:
    with suppress(OSError):  # closed already
        socket.socket.shutdown(opened, socket.SHUT_RDWR)  # below TLS, which might wait itself


def _content(response: requests.Response, most: int) -> tuple[bytes, str]:
    """Return the body; none, and why, if it is longer than `most` bytes or breaks off."""
    if not most:
        return b"", ""
    try:
        body: bytes = response.raw.read(most + 1, decode_content=False)
    except (OSError, HTTPError, ValueError):
        return b"", CONNECTION
    if len(body) > most:
        return b"", TOO_LONG
    return (b"", CONNECTION) if response.raw.length_remaining else (body, "")


def _seconds(text: str | None) -> float | None:
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 9:
        return None
    return float(text)


def _problem(error: Exception) -> str:
    """Return what happened without any text of the error itself."""
    for kind, words in (
        (requests.exceptions.SSLError, "no secure connection: its certificate or TLS is refused"),
        (requests.exceptions.ConnectTimeout, "no connection in time"),
        (requests.exceptions.Timeout, "no answer in time"),
        (requests.exceptions.ConnectionError, "no connection, or it broke off"),
    ):
        if isinstance(error, kind):
            return words
    return f"the call failed ({type(error).__name__})"


def judged(answer: HttpAnswer, *, pause_sec: float | None = None) -> Outcome:
    """Return what an answer means for the message; `pause_sec` is what its body asked for."""
    status = answer.status
    if answer.problem is not None:
        return Outcome(problem=answer.problem)
    if 200 <= status < 300:
        return Outcome()
    if status == 429:
        asked = pause_sec if pause_sec is not None else answer.retry_after_sec
        return Outcome(problem="answered 429: too many messages", pause_sec=asked)
    if 300 <= status < 400:
        words = f"answered {status}: redirects are not followed; give the final address"
        return Outcome(problem=words, is_final=True)
    if status == 408 or status >= 500:
        return Outcome(problem=f"answered {status}", pause_sec=answer.retry_after_sec)
    return Outcome(problem=f"answered {status}: refused", is_final=True)


# ---- channels -----------------------------------------------------------------------------------


class Channel(Protocol):
    """One way to the operator."""

    name: str

    def deliver(self, message: Message, line: Line, limit_sec: float) -> Outcome:
        """Make one attempt within `limit_sec`; never raises for what a server does."""
        ...


class Webhook:
    """Posts each message as JSON: bot, level, kind, text, and time in seconds since the epoch."""

    name = "webhook"

    def __init__(self, url: str, bot_name: str) -> None:
        self._url = url
        self._bot_name = bot_name

    def deliver(self, message: Message, line: Line, limit_sec: float) -> Outcome:
        """Make one attempt; the status alone decides."""
        body = {"bot": self._bot_name, **message.to_dict()}
        body["time"] = round(body.pop("at"), 3)
        return judged(line.post(self._url, body, limit_sec=limit_sec, answer_max=0))


def titled(message: Message, bot_name: str) -> str:
    """Return the text of a message for a chat: who speaks, and how grave it is."""
    return shortened(f"{bot_name}: {_LEVELS.get(message.level, '')}{message.text}")


# ---- the worker ---------------------------------------------------------------------------------


class _Lane:
    """A channel with its box and its line."""

    def __init__(self, channel: Channel, box: Outbox, line: Line) -> None:
        self.channel = channel
        self.box = box
        self.line = line


class Notifications:
    """Carries messages over every channel, on one thread of its own. A `core.ports.Notifier`.

    `is_fast`: bot time runs faster than the wall clock, so that only the least is told and no
    daily report is asked for. `report` returns a report once it is due, else None.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        is_fast: bool,
        rng: Random,
        monotonic: Callable[[], float],
        wall_now: Callable[[], float],
        report: Report | None = None,
    ) -> None:
        self._lanes = [
            _Lane(x, Outbox(x.name, is_fast=is_fast, rng=rng), Line(monotonic)) for x in channels
        ]
        self._monotonic = monotonic
        self._wall_now = wall_now
        self._report = None if is_fast else report
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._watched_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)

    def start(self) -> None:
        """Begin to send; once is enough."""
        if not self._thread.is_alive() and not self._stopping.is_set():
            self._thread.start()

    def send(self, *, level: str, kind: str, text: str) -> None:
        """Queue a message for every channel; never waits, never fails."""
        self._put(Message(level=level, kind=kind, text=text, at=self._wall_now()), None)

    def answer(self, channel_name: str, text: str) -> None:
        """Queue the answer to a command, for one channel."""
        message = Message(level="info", kind="reply", text=text, at=self._wall_now())
        self._put(message, channel_name)

    def health(self) -> tuple[ChannelHealth, ...]:
        """Return how each channel fares; from any thread."""
        with self._lock:
            return tuple(lane.box.health() for lane in self._lanes)

    def stop(self) -> None:
        """Send what still waits as one message per channel; end within 2 s whatever hangs."""
        self._stopping.set()
        self._woken.set()
        for lane in self._lanes:
            lane.line.cut(after_sec=LAST_CALL_SEC)
        if self._thread.is_alive():
            self._thread.join(STOP_SEC)
        for lane in self._lanes:
            lane.line.close()

    def _put(self, message: Message, channel_name: str | None) -> None:
        now = self._monotonic()
        with self._lock:
            queued = [
                lane.box.put(message, now)
                for lane in self._lanes
                if channel_name in (None, lane.channel.name)
            ]
        if any(queued):
            self._woken.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._watch()
            for lane in self._lanes:
                self._attempt(lane)
            self._woken.wait(self._wait_sec())
            self._woken.clear()
        self._part()

    def _wait_sec(self) -> float:
        with self._lock:
            found = [at for lane in self._lanes if (at := lane.box.next_at()) is not None]
        return max(0.0, min([*found, self._monotonic() + WATCH_SEC]) - self._monotonic())

    def _attempt(self, lane: _Lane) -> None:
        with self._lock:
            message = lane.box.take(self._monotonic(), self._wall_now())
        if message is not None and not self._stopping.is_set():
            self._deliver(lane, message, CALL_SEC)

    def _deliver(self, lane: _Lane, message: Message, limit_sec: float) -> None:
        try:
            outcome = lane.channel.deliver(cleaned(message), lane.line, limit_sec)
        except Exception as error:  # noqa: BLE001 - worker top; a log of it might hold an address
            outcome = Outcome(problem=f"an error inside ({type(error).__name__})", is_final=True)
        with self._lock:
            before = lane.box.health()
            lane.box.settle(outcome, self._monotonic(), self._wall_now())
            after = lane.box.health()
        name = lane.channel.name
        if outcome.problem is not None and outcome.problem != before.last_error:
            log.warning("not delivered channel=%s: %s", name, outcome.problem)
        if after.failed > before.failed:
            log.warning("given up channel=%s kind=%s", name, message.kind)

    def _watch(self) -> None:
        """Ask now and then whether a report is due."""
        now = self._monotonic()
        if self._report is None or now - self._watched_at < WATCH_SEC:
            return
        self._watched_at = now
        try:
            text = self._report()
        except Exception as error:  # noqa: BLE001 - worker top; messages go on without the report
            log.warning("no report: an error inside (%s)", type(error).__name__)
            text = None
        if text is not None:
            self.send(level="info", kind="report", text=text)

    def _part(self) -> None:
        """Send each channel's last message, in what is left of the time."""
        until = self._monotonic() + STOP_SEC - LAST_CALL_SEC - 0.1
        for n, lane in enumerate(self._lanes):
            with self._lock:
                message = lane.box.close(self._wall_now())
            left = (until - self._monotonic()) / (len(self._lanes) - n)
            if message is not None and left > 0:
                self._deliver(lane, message, left)


def cleaned(message: Message) -> Message:
    """Return the message as harmless text: no control or direction marks but line ends."""
    lines = message.text[: 4 * 4096].split("\n")[:LINES_MAX]
    text = shortened("\n".join(clean_text(line) for line in lines))
    return replace(
        message, text=text, level=clean_text(message.level), kind=clean_text(message.kind)
    )
