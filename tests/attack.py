"""Daemon and sandbox as real processes, to be killed and misled; and an oracle over their files.

Nothing here is a double: `python bot.py` trades at `python -m sim.sandbox` over a socket, both keep
their own SQLite files, and what is right is read out of those files once both have stopped.
"""

import base64
import json
import math
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import requests

from accounting import orders
from core.domain import OrderState, OrderStatus, Role, Side
from core.order_id import OrderPlace, decode
from core.state import BotState
from engine.runtime import Runtime
from exchange.sandbox_file import read_truth
from exchange.sandbox_records import OrderRow, Truth
from store.sqlite import SqliteStore

ROOT = Path(__file__).parent.parent
KEY = "key-of-the-attack-" + "7" * 38
SECRET = base64.b64encode(
    b"what the attack signs with: found in no log and in no database.."
).decode()
SIGNATURE = re.compile(rb"[A-Za-z0-9+/]{86}==")  # what a header API-Sign holds
QUIET_SEC = 90.0
NEWS_SEC = 10.0  # what ended so shortly before the stop may not have been heard of


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def wait_until(is_so: Callable[[], bool], seconds: float, step: float = 0.05) -> bool:
    """Wait for something, `seconds` at most; tell whether it came."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(step)
    return True


def write_lively_market(path: Path, *, seed: int, bars: int = 20_000) -> None:
    """Write candles around 0.1 that leave it by some 1.5 % again and again, thin ones between."""
    rng, price = random.Random(seed), 0.1
    lines = ["time,open,high,low,close,volume,trades"]
    for n in range(bars):
        end = price * math.exp(rng.gauss(0.0, 0.0018)) + (0.1 - price) * 0.01
        high = max(price, end) * (1 + abs(rng.gauss(0.0, 0.0006)))
        low = min(price, end) * (1 - abs(rng.gauss(0.0, 0.0006)))
        volume = rng.choice((900, 40_000, 400_000))
        lines.append(
            f"{1_700_000_040 + n * 60},{price:.7f},{high:.7f},{low:.7f},{end:.7f},{volume},10"
        )
        price = float(f"{end:.7f}")
    path.write_text("\n".join(lines) + "\n")


class Process:
    """One program that is started again and again; all it says goes to one file."""

    def __init__(self, log: Path, env: dict[str, str], *args: str) -> None:
        self.log, self.starts, self.kills = log, 0, 0
        self._env, self._args = env, args
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it must not be running."""
        assert not self.is_running
        self.starts += 1
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, *self._args], cwd=ROOT, env=self._env, stdout=out, stderr=out
            )

    @property
    def pid(self) -> int:
        """Return the number of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Tell whether it runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it without a farewell."""
        if self._process is not None and self.is_running:
            self._process.kill()
            self._process.wait()
            self.kills += 1

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def said(self) -> str:
        """Return all it has said."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""


class Sandbox(Process):
    """The exchange; `drawn` counts the faults of all its lives."""

    def __init__(self, folder: Path, *options: str, log: str = "sandbox.log") -> None:
        self.port, self.file = free_port(), folder / "sandbox.db"
        self.url = f"http://127.0.0.1:{self.port}"
        secret = folder / "secret"
        secret.write_text(SECRET)
        super().__init__(
            folder / log, {"PATH": os.environ["PATH"]}, "-m", "sim.sandbox", "--port",
            str(self.port), "--db", str(self.file), "--tier", "pro", "--key", KEY,
            "--secret-file", str(secret), "--faults", *options,
        )  # fmt: skip
        self._before: Counter[str] = Counter()
        self._now: Counter[str] = Counter()

    def start(self) -> None:
        """Start it and wait until it answers."""
        super().start()
        assert wait_until(lambda: self.ask() is not None, 60, 0.02), self.said()

    def kill(self) -> None:
        """End it without a farewell; its faults go with it."""
        self.ask()
        super().kill()
        self._before, self._now = self.drawn, Counter()

    def ask(self, **told: Any) -> dict[str, Any] | None:
        """Tell the door something, or ask what is on; None where nobody answers."""
        try:
            if told:
                answer = requests.post(self.url + "/sandbox/faults", json=told, timeout=30)
            else:
                answer = requests.get(self.url + "/sandbox/faults", timeout=30)
        except requests.RequestException:
            return None
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        self._now = Counter(found["drawn"])
        return found

    def fault(self, kind: str, *methods: str, **more: Any) -> None:
        """Switch on a fault that befalls one request."""
        self.ask(faults=[{"kind": kind, "methods": methods, "count": 1, **more}])

    @property
    def drawn(self) -> Counter[str]:
        """Return what has befallen requests, as last heard."""
        return self._before + self._now


class Daemon(Process):
    """The bot, trading at a sandbox."""

    def __init__(self, folder: Path, sandbox: Sandbox, *, log: str = "bot.log", **settings: str):
        self.url = f"http://127.0.0.1:{free_port()}"
        self.file, self.resumes = folder / "bot.db", 0
        env = {
            "PATH": os.environ["PATH"],
            "PORT": self.url.rpartition(":")[2],
            "MODE": "live",
            "KRAKEN_API_URL": sandbox.url,
            "KRAKEN_API_KEY": KEY,
            "KRAKEN_API_SECRET": SECRET,
            "KRAKEN_TIER": "pro",
            "POLL_INTERVAL_SECONDS": "1",
            "STATE_DB": str(self.file),
            "LOG_LEVEL": "DEBUG",
            "PAIR_ENTRY_PCT": "0.1",
            "PAIR_PROFIT_PCT": "1.0",
            "PAIR_REFRESH_PCT": "0.8",
            "SLOT_COUNT": "16",
            "SLOT_STAGGER_PCT": "0.05",
            "ENTRIES_PER_SECOND": "10",
            "ORDER_SIZE_USD": "20",
            "RECON_INTERVAL_SEC": "10",
            "DAILY_LOSS_LIMIT_USD": "off",
        }
        self.env = {x: y for x, y in (env | settings).items() if y}
        super().__init__(folder / log, self.env, "bot.py")

    def status(self) -> dict[str, Any] | None:
        """Return the status; None while there is none."""
        try:
            answer = requests.get(self.url + "/api/status", timeout=30)
        except requests.RequestException:
            return None
        found: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
        return found

    def act(self, action: str, **more: Any) -> requests.Response:
        """Give a command."""
        origin = {"Origin": self.url}
        body = {"action": action, **more}
        return requests.post(self.url + "/api/action", json=body, headers=origin, timeout=30)

    def wait_ready(self, seconds: float = 60) -> bool:
        """Wait until it has read what the exchange holds, and has a price."""
        return wait_until(lambda: is_open(self.status()), seconds)

    def operate(self) -> None:
        """Do as an operator would who has looked: resume after a halt for nonces, and count it.

        A line that repeats requests makes them; every other halt is an error.
        """
        status = self.status()
        if status is not None and status["bot"]["mode"] == "halted":
            assert "nonce errors" in status["bot"]["mode_reason"], status["bot"]["mode_reason"]
            self.resumes += self.act("resume").status_code == 200

    def run(self, *args: str) -> "subprocess.CompletedProcess[str]":
        """Run a sub-command with its settings."""
        return subprocess.run(
            [sys.executable, "bot.py", *args], cwd=ROOT, env=self.env, text=True,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip

    def rows(self, query: str) -> list[Any]:
        """Return rows of its database, also while it runs."""
        if not self.file.exists():
            return []
        db = sqlite3.connect(f"{self.file.as_uri()}?mode=ro", uri=True, timeout=30)
        try:
            return db.execute(query).fetchall()
        except sqlite3.OperationalError:  # so young that it has no tables yet
            return []
        finally:
            db.close()

    def state(self) -> BotState:
        """Return the stored state; it must not be running."""
        store = SqliteStore(self.file, must_exist=True)
        try:
            runtime = Runtime(store, None, None)
            assert runtime.restore()
            return runtime.state
        finally:
            store.close()


def is_open(status: dict[str, Any] | None) -> bool:
    """Tell whether a status is one of a daemon that may trade."""
    return status is not None and status["exchange"]["status"] == "online"


def open_orders(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the orders that a status shows."""
    found = [
        x["order"]
        for slot in status["slots"]
        for x in (*slot["legs"], *slot["recoveries"])
        if x["order"] is not None
    ]
    return list(found)


def is_sure(status: dict[str, Any] | None) -> bool:
    """Tell whether a daemon is ready and knows of every order what became of it."""
    if status is None or not is_open(status):
        return False
    return all(x["status"] == "open" for x in open_orders(status))


def come_to_rest(daemon: Daemon, sandbox: Sandbox) -> None:
    """Stop the faults, then the market; wait until the daemon is sure and has heard of all."""
    if not sandbox.is_running:
        sandbox.start()
    sandbox.ask(clear=True)
    if not daemon.is_running:
        daemon.start()

    def has_heard() -> bool:
        daemon.operate()
        truth, status = read_truth(sandbox.file), daemon.status()
        here = daemon.rows("SELECT count(*) FROM executions")
        if status is None or not here or here[0][0] != len(truth.trades):
            return False
        known = {x["id"] for x in open_orders(status)}
        return is_sure(status) and known == {x.client_id for x in truth.orders if x.is_open}

    sandbox.ask(is_still=True)
    assert wait_until(has_heard, QUIET_SEC, 0.2), in_doubt(daemon)


def in_doubt(daemon: Daemon) -> str:
    """Return what keeps a daemon from being sure, for a person to read."""
    status = daemon.status()
    if status is None:
        return daemon.said()[-2000:]
    waiting = [x for x in open_orders(status) if x["status"] != "open"]
    return json.dumps([status["exchange"], status["bot"]["reasons"], waiting])


# ---- the oracle -----------------------------------------------------------------------------


def wrong(daemon: Daemon, sandbox: Sandbox) -> list[str]:
    """Return everything that the exchange's own file says is wrong; both must have stopped."""
    truth, state = read_truth(sandbox.file), daemon.state()
    return [
        *_doubled(truth),
        *_misplaced(truth, state),
        *_misbooked(truth, daemon),
        *_unowned(truth, state),
        *_miscounted(truth, state),
        *_leaked(daemon, sandbox),
    ]


def _doubled(truth: Truth) -> list[str]:
    counts = Counter(x.client_id for x in truth.orders)
    return [f"{n} orders with the id {x}" for x, n in counts.items() if n > 1]


def _misplaced(truth: Truth, state: BotState) -> list[str]:
    """Each leg, cycle and role has one order that was filled at most; exits never exceed entries.

    An entry that was withdrawn when partly filled is over: the next order of its leg is an exit,
    unless what it bought was too little for one.
    """
    found: list[str] = []
    epochs = (state.store_epoch, *state.former_epochs)
    by_place: dict[tuple[Any, ...], list[OrderRow]] = {}
    entered: Counter[tuple[Any, ...]] = Counter()
    for row in truth.orders:
        place = decode(row.client_id or "")
        if place is None or place.tag != state.bot_tag or place.epoch not in epochs:
            found.append(f"order {row.txid} is none of ours: {row.client_id}")
        elif row.last.executed:
            by_place.setdefault(_key(place), []).append(row)
            sign = 1 if place.role is Role.ENTRY else -1
            entered[(place.slot, place.trade_id)] += sign * row.last.executed  # type: ignore[assignment]
    least = state.instrument.order_min
    for key, rows in by_place.items():
        full = [x.txid for x in rows if x.last.executed == x.last.volume]
        large = [x.txid for x in rows if x.last.executed >= least]
        if len(full) > 1 or (key[-1] == "entry" and len(large) > 1):
            found.append(f"orders {full or large} were all filled for {key}")
    found += [f"{key} has closed {-n} more than it entered" for key, n in entered.items() if n < 0]
    return found


def _key(place: OrderPlace) -> tuple[Any, ...]:
    role = "entry" if place.role is Role.ENTRY else "exit"
    return (place.slot, str(place.trade_id), place.cycle, role)


def _misbooked(truth: Truth, daemon: Daemon) -> list[str]:
    columns = "execution_id, txid, side, price, volume, cost, fee"
    booked = {x[0]: x[1:] for x in daemon.rows(f"SELECT {columns} FROM executions")}
    there = {
        x.trade_id: (x.txid, str(x.side), x.price, x.volume, x.cost, x.fee) for x in truth.trades
    }
    found = [f"execution {x} is not booked" for x in there.keys() - booked.keys()]
    found += [f"execution {x} is booked and never was" for x in booked.keys() - there.keys()]
    for x in booked.keys() & there.keys():
        here = (*booked[x][:2], *(Decimal(text) for text in booked[x][2:]))
        if here != there[x]:
            found.append(f"execution {x} is booked as {here}, it was {there[x]}")
    return found


def _unowned(truth: Truth, state: BotState) -> list[str]:
    alive = {x.client_order_id: x for x in orders(state)}
    found = []
    for row in truth.orders:
        owner = alive.get(row.client_id or "")
        if row.is_open and owner is None:
            found.append(f"open order {row.txid} ({row.client_id}) has no owner")
        elif row.is_open and owner is not None and owner.filled_volume != row.last.executed:
            found.append(f"order {row.txid} has executed {row.last.executed}, not as we know")
    there = {x.client_id: x for x in truth.orders}
    found += [
        f"order {x} ({order.status}) of the state is not open there"
        for x, order in alive.items()
        if not _is_there(there.get(x), order, state.now)
    ]
    return found


def _is_there(row: OrderRow | None, order: OrderState, stopped_at: float) -> bool:
    """Tell whether an order of the state is open there, or parted from it just before the stop.

    Ended there too late to be heard of; or meant here, on disk, and not sent any more.
    """
    if row is None:
        is_young = order.placed_at > stopped_at - NEWS_SEC
        return order.status is OrderStatus.PENDING and is_young and not order.filled_volume
    if row.is_open:
        return True
    at = row.last.closed_at
    is_late = at is not None and at > stopped_at - NEWS_SEC
    return is_late and row.last.executed == order.filled_volume


def _miscounted(truth: Truth, state: BotState) -> list[str]:
    found = [f"{state.counters[x]} {x}" for x in ("ghosts", "violations") if state.counters.get(x)]
    own, there, kept = state.balances, truth.balances, state.instrument.kept
    # What the venue has rounded away of each execution, to the last digit.
    rounded = Decimal(0)
    for x in truth.trades:
        cost = kept(x.cost) - x.cost
        rounded += (-cost if x.side is Side.BUY else cost) - (kept(x.fee) - x.fee)
    if (own.base, own.quote + rounded) != (there["XXDG"], there["ZUSD"]):
        found.append(
            f"we own {own.base:f} and {own.quote:f}, there are {there['XXDG']:f} and "
            f"{there['ZUSD']:f}"
        )
    return [*found, *(f"lock {x.name}: {x.reason}" for x in state.risk.locks)]


def _leaked(daemon: Daemon, sandbox: Sandbox) -> list[str]:
    files = [daemon.log, sandbox.log, *daemon.file.parent.glob(f"{daemon.file.name}*")]
    secrets = (SECRET.encode(), base64.b64decode(SECRET), KEY.encode())
    found = []
    for path in files:
        raw = path.read_bytes()
        if any(x in raw for x in secrets[: 2 if path == sandbox.log else 3]):
            found.append(f"{path.name} holds key or secret")
        if SIGNATURE.search(raw):
            found.append(f"{path.name} holds a signature")
    return found
