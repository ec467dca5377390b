"""Benchmark of the replica: does the loop suffer from it, how far behind is it, how long to drain.

`python -m benchmarks.replica [SECONDS]` runs one loop with 30 slots on a fast market for so long in
each state of the remote: none at all, working, hanging (it accepts and never answers), one table
that answers 500, and draining what has gathered. The remote is a plain HTTP door in a process of
its own that acknowledges what PostgREST would; no database stands behind it.
"""

import json
import multiprocessing
import sqlite3
import sys
import tempfile
import time
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from benchmarks.busy import Busy
from benchmarks.regimes import lateness
from store.tables import REMOTE_VERSION

PHASE_SEC, SETTLE_SEC = 15.0, 5.0
SPEED = 60.0  # times as lively as the market: more rows to send
BACKLOG_ROWS = 200_000  # of an outage of weeks, for the last phase
WORKS, HANGS, BROKEN = range(3)
BROKEN_TABLE = "executions"
KEY = "sb_secret_0123456789abcdefghijklmnopqr"


class _Door(BaseHTTPRequestHandler):
    """Acknowledges every write; `mode` is shared with the process that measures."""

    mode: "Synchronized[int]"
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer a read: the version of the schema, or no rows."""
        is_version = "replica_schema" in self.path
        self._answer([{"version": REMOTE_VERSION}] if is_version else [])

    def do_POST(self) -> None:
        """Acknowledge a write."""
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        keys = parse_qs(urlsplit(self.path).query)["select"][0].split(",")
        self._answer([{x: row[x] for x in keys} for row in rows])

    def _answer(self, rows: list[Any]) -> None:
        while self.mode.value == HANGS:
            time.sleep(0.05)
        is_broken = self.mode.value == BROKEN and f"/{BROKEN_TABLE}?" in self.path
        body = json.dumps({"message": "broken"} if is_broken else rows).encode()
        with suppress(OSError):  # asked so long ago that nobody listens
            self.send_response(500 if is_broken else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


def _serve(mode: "Synchronized[int]", told: Any) -> None:
    handler = type("Door", (_Door,), {"mode": mode})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    told.send(server.server_address[1])
    server.serve_forever()


class _Phase(NamedTuple):
    """What was seen in one state of the remote."""

    name: str
    late: list[float]
    lag_sec: float  # the longest, in the market's time
    queue: int  # the longest

    def line(self, speed: float) -> str:
        """Return it for people."""
        lag = f"lag up to {self.lag_sec / speed:.1f} s, queue up to {self.queue:,}"
        return f"  {self.name:<22} {lateness(self.late)}; {lag}"


class _Bench(Busy):
    """A loop whose replica is led through its states."""

    def __init__(self, folder: Path, port: int | None) -> None:
        env = {"HMM_ENABLED": "false"}
        if port is not None:
            env |= {"SUPABASE_URL": f"http://127.0.0.1:{port}", "SUPABASE_KEY": KEY}
        super().__init__(folder, env, SPEED)

    def view(self) -> tuple[float, int]:
        """Return lag and queue."""
        block = self.parts.replication(self.runtime.state.now)
        return (0.0, 0) if block is None else (block.lag_sec, block.queue)

    def phase(self, name: str, seconds: float) -> _Phase:
        """Watch for so long."""
        first, views = len(self.pacer.late), []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            views.append(self.view())
            time.sleep(0.2)
        lag, queue = max(x for x, _ in views), max(x for _, x in views)
        return _Phase(name, self.pacer.late[first:], lag, queue)

    def drain(self) -> tuple[_Phase, float]:
        """Watch until nothing waits that waited; return that, and the seconds it took."""
        began, first, top = time.monotonic(), len(self.pacer.late), self.view()
        while self.view()[1] > 500 or time.monotonic() - began < SETTLE_SEC:
            top = max(top, self.view())
            time.sleep(0.05)
        took = time.monotonic() - began
        return _Phase("draining", self.pacer.late[first:], *top), took

    def gather(self, rows: int) -> None:
        """Let so many rows wait, as after a long outage: points of equity."""
        with closing(sqlite3.connect(self.folder / "bot.db", timeout=30.0)) as db, db:
            now = self.runtime.state.now
            db.executemany(
                "INSERT INTO outbox (name, key, time, row) VALUES ('equity', ?, ?, ?)",
                ((-n, now, json.dumps(_POINT | {"time": -60.0 * n})) for n in range(1, rows + 1)),
            )


_POINT = dict.fromkeys(
    ("equity", "hold", "usd", "doge", "half", "grid_profit", "fees", "mark"), "1234.567891"
)


def replica(folder: Path, seconds: float = PHASE_SEC) -> str:
    """Measure the loop's lateness, lag, queue and draining in each state of the remote."""
    mode: Synchronized[int] = multiprocessing.Value("i", WORKS)  # type: ignore[assignment]  # stubs
    here, there = multiprocessing.Pipe()
    door = multiprocessing.Process(target=_serve, args=(mode, there), daemon=True)
    door.start()
    port = here.recv()
    try:
        lines = [_without(folder / "calm", seconds), *_led(folder / "busy", port, mode, seconds)]
    finally:
        door.terminate()
    return "lateness of a loop (required p99 ≤ 50 ms, none over 250 ms)\n" + "\n".join(lines)


def _without(folder: Path, seconds: float) -> str:
    bench = _Bench(folder, None)
    try:
        time.sleep(SETTLE_SEC)
        return bench.phase("without a replica", seconds).line(SPEED)
    finally:
        bench.close()


def _led(folder: Path, port: int, mode: "Synchronized[int]", seconds: float) -> list[str]:
    """Return a line for each state that the remote is led through."""
    bench, lines = _Bench(folder, port), []
    try:
        time.sleep(SETTLE_SEC)
        for state, words in ((WORKS, "it works"), (HANGS, "it hangs")):
            mode.value = state
            lines.append(bench.phase(words, seconds).line(SPEED))
        mode.value = WORKS
        lines.append(_drained(bench))
        mode.value = BROKEN
        lines.append(bench.phase("one table answers 500", seconds).line(SPEED))
        bench.gather(BACKLOG_ROWS)
        mode.value = HANGS
        time.sleep(SETTLE_SEC)  # the writing of so many is not what is measured
        lines.append(bench.phase(f"it hangs, {BACKLOG_ROWS:,} wait", seconds).line(SPEED))
        mode.value = WORKS
        lines.append(_drained(bench))
    finally:
        took = bench.close()
    return [*lines, f"  clean stop in {took:.1f} s"]


def _drained(bench: _Bench) -> str:
    waiting = bench.view()[1]
    phase, took = bench.drain()
    return f"{phase.line(SPEED)}; {waiting:,} rows in {took:.1f} s, its pause included"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(replica(Path(place), float(sys.argv[1]) if sys.argv[1:] else PHASE_SEC))
