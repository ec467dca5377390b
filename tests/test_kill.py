"""The daemon killed with SIGKILL at random instants of a replay, and started again each time.

Real processes on real files. Whatever the instant: no execution lost or doubled, books conserved
exactly. Where nothing was in flight at a kill, the end state equals that of a run left alone.
"""

import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exchange.paper import Flight, read_books
from tests.helpers import write_candles

ROOT = Path(__file__).parent.parent
BARS = 6_000


def environment(folder: Path, name: str) -> dict[str, str]:
    """Return the environment of a run on the candles in `folder`."""
    return {
        "PATH": os.environ["PATH"],
        "PORT": "0",
        "MARKET_DATA": "replay",
        "REPLAY_FILE": str(folder / "candles.csv"),
        "REPLAY_SPEED": "max",
        "STATE_DB": str(folder / name / "bot.db"),
        "LOG_LEVEL": "WARNING",
        "PAIR_ENTRY_PCT": "0.3",
        "PAIR_PROFIT_PCT": "1.2",
    }


def bot(env: dict[str, str], *args: str) -> "subprocess.CompletedProcess[str]":
    """Run the bot to its end."""
    return subprocess.run(
        [sys.executable, "bot.py", *args], cwd=ROOT, env=env, text=True, capture_output=True,
        timeout=240, check=False,
    )  # fmt: skip


def in_flight(folder: Path) -> bool:
    """Tell from the files of a killed run whether a request or answer about an order travelled."""
    with sqlite3.connect(folder / "bot.paper.db") as db:
        row = db.execute("SELECT value FROM parts WHERE name = 'flight'").fetchone()

    flight = msgspec.json.decode(row[0], type=Flight) if row else Flight()
    if any(x.request is not None or hasattr(x.event, "client_order_id") for x in flight.items):
        return True
    with sqlite3.connect(folder / "bot.db") as db:
        text = db.execute("SELECT state FROM state").fetchone()
    words = ('"status":"pending"', '"status":"cancelling"', '"status":"uncertain"')
    return text is None or any(word in text[0] for word in words)


def kill_at_random(env: dict[str, str], folder: Path, kills: int, rng: random.Random) -> int:
    """Start and kill the daemon until it has been killed that often, then let it finish.

    Returns how many of the kills found something in flight.
    """
    busy = done = 0
    while done < kills:
        process = subprocess.Popen(
            [sys.executable, "bot.py"], cwd=ROOT, env=env, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not (folder / "bot.paper.db").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.4 + rng.random() * 0.9)
        if process.poll() is not None:
            said = process.stderr.read() if process.stderr else ""
            pytest.fail(f"it ended by itself after {done} kills, code {process.returncode}: {said}")
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
        busy += in_flight(folder)
    assert bot(env).returncode == 0
    return busy


def canonical(env: dict[str, str]) -> str:
    """Return the canonical export of a run."""
    result = bot(env, "export", "--canonical")
    assert result.returncode == 0, result.stderr
    return result.stdout


def check_books(env: dict[str, str]) -> None:
    """Verify must prove everything; the exchange's executions must all be booked, once."""
    result = bot(env, "verify")
    assert result.returncode == 0, result.stdout + result.stderr
    path = Path(env["STATE_DB"])
    books = read_books(path.with_name("bot.paper.db"))
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT execution_id, volume FROM executions").fetchall()
    with sqlite3.connect(path.with_name("bot.paper.db")) as db:
        there = {row[0] for row in db.execute("SELECT execution_id FROM executions")}
    assert {row[0] for row in rows} == there
    assert len(rows) == len(there) == books.executions
    assert all(Decimal(row[1]) > 0 for row in rows)


def parting(before: dict[str, Any] | None, after: dict[str, Any] | None) -> float | None:
    """Return when two runs begin to tell an order differently; None where they never do.

    The exchange numbers orders as they arrive: a txid alone makes no difference.
    """
    told = [x for x in (before, after) if x is not None]
    if before is None or after is None or before["placed_at"] != after["placed_at"]:
        return min(float(x["placed_at"]) for x in told)
    if {**before, "txid": None} == {**after, "txid": None}:
        return None
    return min(float(x["closed_at"] or math.inf) for x in told)


def check_difference(calm: str, killed: str) -> None:
    """Where runs part, they part at an order sent later or again, never at an execution."""
    left, right = (json.loads(text) for text in (calm, killed))
    before, after = (
        {x["client_order_id"]: x for x in books["orders"]} for books in (left, right)
    )  # fmt: skip
    times = {x: parting(before.get(x), after.get(x)) for x in before.keys() | after.keys()}
    parted, order_id = min((at, x) for x, at in times.items() if at is not None)
    order = after.get(order_id) or before[order_id]
    is_lost = order["detail"] == "never_arrived"
    why = "the intent on disk was never sent" if is_lost else "sent at another instant"
    sys.stdout.write(f"  parted at {parted:.1f}: {order['role']}, {why}\n")
    assert is_lost or order["role"] == "entry", (before.get(order_id), after.get(order_id))
    done = [
        [x["execution_id"] for x in books["executions"] if float(x["executed_at"]) < parted]
        for books in (left, right)
    ]
    assert done[0] == done[1]


def run_kill_test(tmp_path: Path, kills: int, seed: int) -> None:
    """Kill a run `kills` times and compare it with one that was left alone."""
    write_candles(tmp_path / "candles.csv", bars=BARS, seed=seed)
    calm = environment(tmp_path, "calm")
    assert bot(calm).returncode == 0
    killed = environment(tmp_path, "killed")
    busy = kill_at_random(killed, tmp_path / "killed", kills, random.Random(seed))
    check_books(calm)
    check_books(killed)
    texts = canonical(calm), canonical(killed)
    is_equal = texts[0] == texts[1]
    sys.stdout.write(f"{kills} kills, {busy} with something in flight, equal: {is_equal}\n")
    if not is_equal:
        assert busy > 0
        check_difference(*texts)


@pytest.mark.slow(seconds=35)
def test_killed_daemon_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Ten kills in one replay."""
    run_kill_test(tmp_path, 10, 10)


@pytest.mark.long
def test_killed_daemon_two_hundred_times(tmp_path: Path) -> None:
    """Two hundred kills, ten in each of twenty replays."""
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        run_kill_test(folder, 10, 100 + seed)
