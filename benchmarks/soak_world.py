"""What a soak runs: daemon, sandbox and PostgreSQL as they are, and all that befalls them.

The lines from the daemon to the exchange and to its replica lead through proxies that spoil a share
of the requests; a plan drawn from the seed kills the daemon, freezes it, floods its door, cuts the
lines and restarts the sandbox. How it is measured is in `soak_watch.py`.
"""

import http.client
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from os import kill
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from benchmarks.chaos import HERE, KINDS, ChaosProxy
from exchange.sandbox_file import read_truth
from tests.attack import Daemon, Sandbox, come_to_rest, wait_until, wrong
from tests.postgrest_shim import SERVICE_KEY, Postgres, door
from tests.replica_rows import differences, local
from tools.supabase_schema import schema

RATES = {"exchange": 0.03, "replica": 0.1}  # shares of the requests that are spoilt
CUT = ("cut_before", "black_hole")  # what each request meets while a line is out
EVENTS = ("kill", "freeze", "flood", "restart", "exchange out", "replica out")
KILLS_SHARE = 2 / 3  # of the time; the last life is a long one, in which growth would show
GAP_SEC, GAPS = 40.0, 8  # between two events; shorter where a run has no room for so many
FREEZE_SEC, FLOOD_SEC, DOWN_SEC = (1.0, 12.0), 3.0, (0.5, 6.0)
FLOODERS = 32
CONDUCT_SEC = 0.2
SAID = 2000  # characters of what the daemon has said last
COPIED_SEC = 330.0  # the replica's longest pause, and a little
SETTINGS = {
    "LOG_LEVEL": "INFO", "HMM_ENABLED": "true", "KELLY_ENABLED": "true",
    "SUPABASE_CANDLES": "true", "SUPABASE_KEY": SERVICE_KEY,
}  # fmt: skip


def plan(rng: Random, begin: float, end: float) -> list[tuple[float, str]]:
    """Return what happens when, in seconds: each kind once, in some order, then again.

    A line that goes out comes back before `end`.
    """
    made: list[tuple[float, str]] = []
    gap, at, left = min(GAP_SEC, (end - begin) / GAPS), begin, list[str]()
    while (at := at + rng.uniform(0.5, 1.5) * gap) < end:
        left = left or rng.sample(EVENTS, len(EVENTS))
        name = left.pop()
        if name == "kill" and at > begin + (end - begin) * KILLS_SHARE:
            continue
        made.append((at, name))
        if name.endswith(" out"):
            back = name.removesuffix("out") + "back"
            made.append((min(end, at + rng.uniform(0.2, 0.8) * gap), back))
    return sorted(made)


class World:
    """The processes of a soak and the lines between them; `ends` ends all that was begun.

    `befallen` counts the events, `answered` what a flood was answered.
    """

    def __init__(self, folder: Path, ends: ExitStack, *, seed: int, speed: float) -> None:
        self._ends = ends
        self.rng = Random(f"{seed}/events")
        self.befallen: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        postgres = Postgres()
        ends.callback(postgres.stop)
        self.shim = ends.enter_context(door(postgres, schema()))
        self.sandbox = Sandbox(
            folder, "--market", f"synthetic:{seed}", "--speed", f"{speed:g}",
            "--start-quote", "2000", "--start-base-usd", "2000",
        )  # fmt: skip
        ports = {"exchange": self.sandbox.port, "replica": urlsplit(self.shim.url).port or 0}
        self.lines = {x: ChaosProxy(port, Random(f"{seed}/{x}")) for x, port in ports.items()}
        self.daemon = Daemon(
            folder, self.sandbox, KRAKEN_API_URL=self.lines["exchange"].url,
            SUPABASE_URL=self.lines["replica"].url, **SETTINGS,
        )  # fmt: skip

    def start(self) -> None:
        """Start everything; the daemon trades when this returns."""
        for line in self.lines.values():
            self._ends.enter_context(line)
        for process in (self.sandbox, self.daemon):
            self._ends.callback(process.kill)
        self.sandbox.start()
        self.daemon.start()
        if not self.daemon.wait_ready():
            raise RuntimeError(f"the daemon did not start: {self.daemon.said()}")

    def ended(self) -> list[str]:
        """Return a line if the daemon has ended by itself."""
        if self.daemon.is_running:
            return []
        return [f"the daemon ended by itself: {self.daemon.said()[-SAID:]}"]

    def spoil(self) -> None:
        """Let the usual share of requests be spoilt from now on."""
        for name, line in self.lines.items():
            line.rate = RATES[name]

    def heal(self) -> None:
        """Let nothing befall a request any more."""
        for line in self.lines.values():
            line.rate = 0.0

    def befall(self, event: str) -> None:
        """Let one event of the plan happen; returns when it is over, or a line is out or back."""
        self.befallen[event] += 1
        match event.split():
            case ["kill"]:
                self.daemon.kill()
                time.sleep(self.rng.uniform(0.0, 1.0))
                self.daemon.start()
            case ["freeze"]:
                kill(self.daemon.pid, signal.SIGSTOP)
                time.sleep(self.rng.uniform(*FREEZE_SEC))
                kill(self.daemon.pid, signal.SIGCONT)
            case ["flood"]:
                self.answered += flood(int(self.daemon.env["PORT"]), FLOOD_SEC)
            case ["restart"]:
                self.sandbox.stop()
                time.sleep(self.rng.uniform(*DOWN_SEC))
                self.sandbox.start()
            case [name, "out"]:
                self.lines[name].kinds, self.lines[name].rate = CUT, 1.0
            case [name, "back"]:
                self.lines[name].kinds, self.lines[name].rate = KINDS, RATES[name]

    # ---- the end --------------------------------------------------------------------------------

    def settle(self) -> list[str]:
        """Let the market stand still until all has been heard, and copied; return what is wrong."""
        try:
            come_to_rest(self.daemon, self.sandbox)
        except AssertionError as error:
            return [f"it did not come to rest: {error}"]
        if not wait_until(self._is_copied, COPIED_SEC, 0.5):
            return [f"rows wait for the replica: {self.daemon.rows(OUTBOX)}"]
        status = self.daemon.status()
        if status is None or status["equity"]["change"] is None:
            return ["there is no status at rest"]
        unexplained = status["equity"]["change"]["unexplained"]
        found = [f"{unexplained} are unexplained"] if float(unexplained) else []
        mode, reasons = status["bot"]["mode"], status["bot"]["reasons"]
        return found + ([f"at rest: {mode}: {reasons}"] if mode != "running" else [])

    def _is_copied(self) -> bool:
        status = self.daemon.status()
        copy = None if status is None else status["persistence"]["replica"]
        return copy is not None and copy["is_checked"] and not copy["queue"]

    def end(self) -> list[str]:
        """Stop both; return all that exchange, books, replica and logs say is wrong."""
        code, found = self.daemon.stop(), list[str]()
        if code:
            found.append(f"the daemon ended with {code}")
        verified = self.daemon.run("verify")
        if verified.returncode:
            found.append(f"verify: {verified.stdout}{verified.stderr}")
        if self.sandbox.stop():
            found.append("the sandbox did not end as it should")
        found += wrong(self.daemon, self.sandbox)
        found += [f"the replica differs: {x}" for x in differences(self.daemon.file, self.shim)]
        newest = "SELECT seq, state, params FROM {} LIMIT 1"
        if self.shim.sql(newest.format("snapshots ORDER BY time DESC")) not in local(
            self.daemon.file, newest.format("state")
        ):
            found.append("the replica's state is not the last one")
        for process in (self.daemon, self.sandbox):
            said = process.said()
            words = [x for x in ("Traceback", SERVICE_KEY) if x in said]
            found += [f"{process.log.name} holds {x}" for x in words]
        return found

    def counts(self) -> dict[str, int]:
        """Return how much was traded, as exchange, books and replica have it."""
        truth = read_truth(self.sandbox.file)
        here = {x: self.daemon.rows(f"SELECT count(*) FROM {x}")[0][0] for x in COUNTED}
        there = {x: int(self.shim.sql(f"select count(*) from {x}")) for x in COUNTED}
        return {
            "orders at the exchange": len(truth.orders),
            "executions at the exchange": len(truth.trades),
            **{f"{x} booked": n for x, n in here.items()},
            **{f"{x} copied": n for x, n in there.items()},
        }


OUTBOX = "SELECT name, count(*) FROM outbox GROUP BY 1"
COUNTED = ("orders", "executions", "cycles")


# ---- the flood ------------------------------------------------------------------------------


def flood(port: int, seconds: float) -> Counter[str]:
    """Ask, order, babble and hold connections open, all at once; return what was answered."""
    until, told = time.monotonic() + seconds, list[Counter[str]]()
    threads = [
        threading.Thread(target=lambda n=n: told.append(_flood_one(n, port, until)))
        for n in range(FLOODERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(told, Counter())


def _flood_one(number: int, port: int, until: float) -> Counter[str]:
    told: Counter[str] = Counter()
    while (left := until - time.monotonic()) > 0:
        try:
            match number % 4:
                case 0 | 1:
                    told[_ask(port, "GET", ("/", "/api/status")[number % 4])] += 1
                case 2:
                    told[_ask(port, "POST", "/api/action")] += 1
                case 3:
                    _babble(port, number, min(left, 0.5))
                    told["babble"] += 1
        except (OSError, http.client.HTTPException):
            told["refused"] += 1
    return told


def _ask(port: int, method: str, path: str) -> str:
    line = http.client.HTTPConnection(HERE, port, timeout=5)
    try:
        line.request(method, path, b"{" if method == "POST" else None)
        answer = line.getresponse()
        answer.read()
        return str(answer.status)
    finally:
        line.close()


def _babble(port: int, number: int, hold_sec: float) -> None:
    """Send noise, or the beginning of a request, and stay for a while."""
    with socket.create_connection((HERE, port), timeout=5) as line, suppress(OSError):
        line.sendall(Random(number).randbytes(4096) if number % 8 == 3 else b"GET /api/status HT")
        time.sleep(hold_sec)
