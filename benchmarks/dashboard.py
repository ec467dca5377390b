"""Benchmark of the page's server: does the loop feel fifty open pages and 200 questions a second?

`python -m benchmarks.dashboard [SECONDS]` runs a daemon with 30 slots on a fast market in a process
of its own, left alone for so long and asked by clients in another process for so long, by turns, so
that both see the same market and the same machine. How late each price is processed is noted inside
the daemon, everything else from outside.
"""

import http.client
import json
import multiprocessing
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

import config
from benchmarks.busy import ENV
from benchmarks.regimes import Late
from bot import Daemon
from core import events as e
from engine import log
from engine.progress import ProgressLine
from engine.runtime import Runtime
from engine.wiring import Parts

ROOT = Path(__file__).parent.parent
PHASE_SEC, SETTLE_SEC, START_SEC = 60.0, 10.0, 30.0
TURNS = 6
SPEED = 60.0
STREAMS, REQUESTS_PER_SEC, CONNECTIONS = 50, 200, 10
PAGE_SEC = 10.0  # between two times that an open page asks for the rest
PAGE_PATHS = (
    "/api/candles?limit=500", "/api/executions?limit=500", "/api/equity?limit=500", "/api/payoff",
)  # fmt: skip


# ---- the daemon ---------------------------------------------------------------------------------


class _Watched(Daemon):
    """A daemon that notes how late each price has been processed, and when."""

    def __init__(self, settings: config.Settings) -> None:
        super().__init__(settings)
        self.pacer, self.times = Late(SPEED), list[float]()

    def _after(
        self, runtime: Runtime, parts: Parts, progress: ProgressLine, is_urgent: bool
    ) -> None:
        if runtime.on_step is None and self.counter.loop is not None:
            runtime.on_step, self.counter.loop.pacer = self._note, self.pacer
        super()._after(runtime, parts, progress, is_urgent)

    def _note(self, event: e.Event, _actions: object) -> None:
        if isinstance(event, e.PriceTick):
            self.pacer.note(event.time)
            self.times.append(time.monotonic())


def _run(told: Path) -> None:
    settings = config.load(os.environ, told.parent / ".env")
    log.configure(settings.log_level, settings.log_format, secrets=settings.secrets())
    daemon = _Watched(settings)
    (told.parent / "port").write_text(str(daemon.dashboard.port))
    daemon.run()
    late = daemon.pacer.late
    told.write_text(json.dumps(list(zip(daemon.times[-len(late) :], late, strict=True))))


# ---- the clients --------------------------------------------------------------------------------


class _Seen(NamedTuple):
    """What the clients saw."""

    answer_sec: list[float]
    page_sec: list[float]  # of what a page asks beside its stream
    refused: int  # of these: 503, or no answer
    failures: int
    events: list[int]  # of each stream
    size: int  # of a status, in bytes


def _ask(port: int, until: float, seen: list[float], sizes: list[int]) -> None:
    """Ask for the status at an even pace on one connection; half of the answers packed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    pause, due, n = CONNECTIONS / REQUESTS_PER_SEC, time.monotonic(), 0
    while (due := due + pause) < until:
        time.sleep(max(0.0, due - time.monotonic()))
        n += 1
        began = time.monotonic()
        connection.request(
            "GET", "/api/status", headers={"Accept-Encoding": "gzip" if n % 2 else "identity"}
        )
        body = connection.getresponse().read()
        seen.append(time.monotonic() - began)
        sizes.append(len(body))


def _look(port: int, begin: float, until: float, seen: list[float], refused: list[str]) -> None:
    """Ask as an open page does, on a connection of its own; a new one when that was closed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    due = begin
    while due < until:
        time.sleep(max(0.0, due - time.monotonic()))
        due += PAGE_SEC
        for path in PAGE_PATHS:
            sock: Any = connection.sock
            if sock is not None and select.select([sock], [], [], 0)[0]:
                connection.close()
            began = time.monotonic()
            try:
                connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                refused.append(f"{path}: {error!r}")
                connection.close()
                continue
            if answer.status != http.HTTPStatus.OK:
                refused.append(f"{path}: {answer.status}")
            seen.append(time.monotonic() - began)


class _Stream:
    """One open page."""

    def __init__(self, port: int, is_packed: bool) -> None:
        self.events = 0
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        packing = "Accept-Encoding: gzip\r\n" if is_packed else ""
        head = f"GET /api/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{packing}\r\n"
        self.connection.sendall(head.encode())
        self._unpack = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress if is_packed else bytes
        self._head, self._is_body = b"", False

    def read(self) -> bool:
        """Count the events that have come; False at the end."""
        chunk = self.connection.recv(262_144)
        if not self._is_body:
            self._head += chunk
            _, end, chunk = self._head.partition(b"\r\n\r\n")
            self._is_body = bool(end)
        if self._is_body and chunk:
            self.events += self._unpack(chunk).count(b"event: status\nid:")
        return bool(chunk) or not self._is_body


def _clients(port: int, seconds: float, told: Any) -> None:
    told.send("begun")
    until = time.monotonic() + seconds
    answers: list[float] = []
    sizes: list[int] = []
    threads = [
        threading.Thread(target=_ask, args=(port, until, answers, sizes))
        for _ in range(CONNECTIONS)
    ]
    pages: list[float] = []
    refused: list[str] = []
    now = time.monotonic()
    threads += [
        threading.Thread(
            target=_look, args=(port, now + n * PAGE_SEC / STREAMS, until, pages, refused)
        )
        for n in range(STREAMS)
    ]
    streams = [_Stream(port, is_packed=n % 2 == 0) for n in range(STREAMS)]
    selector = selectors.DefaultSelector()
    for stream in streams:
        selector.register(stream.connection, selectors.EVENT_READ, stream)
    for thread in threads:
        thread.start()
    failures = 0
    while (left := until - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            if not key.data.read():
                failures += 1
                selector.unregister(key.fileobj)
    for thread in threads:
        thread.join()
    events = [stream.events for stream in streams]
    told.send(_Seen(answers, pages, len(refused), failures, events, max(sizes, default=0)))


# ---- the measurement ----------------------------------------------------------------------------


def dashboard(folder: Path, seconds: float = PHASE_SEC) -> str:
    """Measure the loop's lateness without and with clients, and how these fared."""
    told = folder / "late.json"
    env = {
        **ENV, "PATH": os.environ["PATH"], "PORT": "0", "STATE_DB": str(folder / "bot.db"),
        "KRAKEN_TIER": "pro", "SYNTHETIC_SPEED": f"{SPEED:g}", "LOG_LEVEL": "WARNING",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.dashboard", "--daemon", str(told)], cwd=ROOT, env=env,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = _port(folder / "port", process)
        watched = psutil.Process(process.pid)
        time.sleep(min(SETTLE_SEC, seconds))
        before = watched.memory_info().rss
        quiet, busy, seen = [], [], []
        for _ in range(TURNS):
            quiet.append(_share(watched, lambda: time.sleep(seconds / TURNS)))
            phase, of_clients = _turn(watched, port, seconds / TURNS)
            busy.append(phase)
            seen.append(of_clients)
        after = watched.memory_info().rss
        process.send_signal(signal.SIGTERM)
        process.wait(START_SEC)
    finally:
        process.kill()
    return _report(json.loads(told.read_text()), quiet, busy, seen) + (
        f"; memory {before / 2**20:.0f} MB before, {after / 2**20:.0f} MB after"
    )


class _Phase(NamedTuple):
    """A stretch of time, and the share of one processor that the daemon used in it."""

    began: float
    ended: float
    cpu: float


def _share(watched: psutil.Process, wait: Callable[[], object]) -> _Phase:
    began, used = time.monotonic(), sum(watched.cpu_times()[:2])
    wait()
    ended = time.monotonic()
    return _Phase(began, ended, (sum(watched.cpu_times()[:2]) - used) / (ended - began))


def _port(told: Path, process: "subprocess.Popen[bytes]") -> int:
    """Return the daemon's port once it has a status to show."""
    until = time.monotonic() + START_SEC
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.1)
        if not told.exists() or not (text := told.read_text()):
            continue
        connection = http.client.HTTPConnection("127.0.0.1", int(text), timeout=5)
        connection.request("GET", "/readyz")
        if connection.getresponse().status == http.HTTPStatus.OK:
            return int(text)
    raise RuntimeError("the daemon did not start")


def _turn(watched: psutil.Process, port: int, seconds: float) -> tuple[_Phase, _Seen]:
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    clients = context.Process(target=_clients, args=(port, seconds, there))
    clients.start()
    here.recv()
    phase = _share(watched, lambda: here.poll(seconds + START_SEC))
    seen: _Seen = here.recv()
    clients.join()
    return phase, seen


def _report(
    late: Sequence[tuple[float, float]],
    quiet: Sequence[_Phase],
    busy: Sequence[_Phase],
    seen: Sequence[_Seen],
) -> str:
    without, loaded = (
        [x for at, x in late if any(phase.began <= at < phase.ended for phase in phases)]
        for phases in (quiet, busy)
    )
    answers = [x for turn in seen for x in turn.answer_sec]
    pages = [x for turn in seen for x in turn.page_sec]
    events = [sum(counts) for counts in zip(*(turn.events for turn in seen), strict=True)]
    took = sum(phase.ended - phase.began for phase in busy)
    longer = (_quantile(loaded, 0.99) - _quantile(without, 0.99)) * 1000
    rate = len(answers) / took
    cpu = [sum(phase.cpu for phase in phases) / TURNS for phases in (quiet, busy)]
    return (
        f"lateness of a loop {_told(without)} without, {_told(loaded)} with {STREAMS} streams and "
        f"{rate:.0f} requests a second: {longer:+.1f} ms at p99 (required ≤ 10 ms)\n"
        f"  status of {max(x.size for x in seen) / 1024:.0f} KiB in {_told(answers)}; streams got "
        f"{min(events)} to {max(events)} events in {took:.0f} s, "
        f"{sum(x.failures for x in seen)} broke; what pages ask in {_told(pages)}, "
        f"{sum(x.refused for x in seen)} refused; daemon: processor {cpu[0]:.0%} without, "
        f"{cpu[1]:.0%} with"
    )


def _told(seconds: Sequence[float]) -> str:
    p50, p99, worst = (_quantile(seconds, share) * 1000 for share in (0.5, 0.99, 1.0))
    return f"p50 {p50:.1f}, p99 {p99:.1f}, worst {worst:.0f} ms of {len(seconds):,}"


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--daemon"]:
        _run(Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as place:
            print(dashboard(Path(place), float(sys.argv[1]) if sys.argv[1:] else PHASE_SEC))
