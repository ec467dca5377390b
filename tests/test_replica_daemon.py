"""The replica end to end: the daemon, the official client, a real PostgreSQL."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from store.replica import Replica
from store.sqlite import SqliteStore
from store.supabase import Supabase
from store.tables import TABLES
from tests.postgrest_shim import SERVICE_KEY, Postgres, Shim, door, why_not
from tests.test_daemon import ROOT, Running, environment
from tests.test_postgrest import RUN
from tests.test_store import trade
from tools.supabase_schema import migrations, schema

PATIENCE_SEC = 60
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """Yield a running server."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture
def shim(postgres: Postgres) -> Iterator[Shim]:
    """Yield a door to a fresh database with our schema."""
    with door(postgres, schema()) as opened:
        yield opened


def local(path: Path, query: str) -> list[str]:
    """Return rows of the database as text."""
    with sqlite3.connect(path) as db:
        return ["|".join("" if x is None else str(x) for x in row) for row in db.execute(query)]


def differences(path: Path, shim: Shim) -> list[str]:
    """Return the tables that are not the same here and there, amounts to the digit."""
    found = []
    for table in TABLES:
        if table.source is None:
            continue
        names = [x for x, kind in table.columns.items() if kind in ("text", "integer", "numeric")]
        columns = ", ".join([*(x for x in table.key if x not in ("run", *names)), *names])
        here = local(path, f"SELECT {columns} FROM {table.name}")
        there = shim.sql(f"select {columns} from {table.name}")
        if sorted(here) != sorted(there.splitlines()):
            found.append(f"{table.name}: {len(here)} here, {len(there.splitlines())} there")
    return found


@pytest.fixture
def replica(tmp_path: Path, shim: Shim) -> Iterator[Replica]:
    """Yield the replica of a store with a round trip behind it; its clock jumps an hour a look."""
    path = tmp_path / "bot.db"
    store = SqliteStore(path, epoch=7, replica=shim.url)
    trade(store)
    ticks = iter(range(0, 10**9, 3600))
    made = Replica(
        Supabase(shim.url, SERVICE_KEY, timeout_sec=2.0),
        path,
        address=shim.url,
        run=RUN,
        rng=Random(1),
        monotonic=lambda: float(next(ticks)),
        wall=lambda: 5.0,
    )
    yield made
    made.stop()
    store.close()


@pytest.mark.parametrize("fault", ["half", "deaf", "page", "broken", "down", "slow"])
def test_no_fault_of_the_other_side_loses_or_doubles_a_row(
    replica: Replica, shim: Shim, tmp_path: Path, fault: str
) -> None:
    """While it lasts the status says so; afterwards both sides are the same."""
    replica.check()
    tables = {"executions", "ledger_entries"}
    if fault != "slow":
        setattr(shim, fault, True if fault == "down" else tables)
    shim.slow_sec = 3.0 if fault == "slow" else 0.0
    for _ in range(3):
        replica.send_once()
    view = replica.view(0.0)
    assert view.attempts == 3
    assert view.last_error
    assert view.queue > 0
    assert shim.sql("select count(*) from snapshots") == "0"
    for name in ("half", "deaf", "page", "broken"):
        setattr(shim, name, set())
    shim.down, shim.slow_sec = False, 0.0
    replica.send_once()
    assert differences(tmp_path / "bot.db", shim) == []
    assert shim.sql("select count(*) from snapshots") == "1"
    assert replica.view(0.0).last_error == ""
    assert replica.view(0.0).queue == 0


def block_once(daemon: Running, claim: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the replica's block of the status once `claim` holds of it."""
    deadline = time.monotonic() + PATIENCE_SEC
    while True:
        answer = daemon.get("/api/status")
        block = answer.json()["persistence"]["replica"] if answer.status_code == 200 else {}
        if block and claim(block):
            return dict(block)
        assert time.monotonic() < deadline, block
        time.sleep(0.2)


def is_settled(block: dict[str, Any]) -> bool:
    """Tell whether nothing waits."""
    return bool(block["is_checked"] and not block["queue"])


def test_the_daemon_trades_while_the_replica_is_down_and_killed_itself(
    tmp_path: Path, shim: Shim
) -> None:
    """Down at the start, killed, up again: in the end both sides are the same."""
    env = environment(
        tmp_path, SYNTHETIC_SPEED="600", SUPABASE_URL=shim.url, SUPABASE_KEY=SERVICE_KEY
    )
    shim.down = True
    daemon = Running(env)
    try:
        assert daemon.wait("/readyz").status_code == 200
        deadline = time.monotonic() + PATIENCE_SEC
        while not local(tmp_path / "bot.db", "SELECT 1 FROM executions LIMIT 1"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        block_once(daemon, lambda x: x["queue"] > 0 and x["last_error"])
        shim.down = False
        daemon.process.kill()
        daemon.process.wait()
        daemon = Running({**env, "SYNTHETIC_SPEED": "1"})
        daemon.wait("/readyz")
        assert block_once(daemon, is_settled)["last_error"] == ""
        assert daemon.stop() == 0
        errors = daemon.process.stderr.read() if daemon.process.stderr else ""
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
    assert SERVICE_KEY not in errors
    assert differences(tmp_path / "bot.db", shim) == []
    assert int(shim.sql("select count(*) from equity")) > 0
    assert shim.sql("select count(*) from snapshots") != "0"


def test_an_older_schema_stops_the_start(tmp_path: Path, postgres: Postgres) -> None:
    """Exit 2, with the file to run; no order was placed."""
    with door(postgres, migrations()[0].read_text()) as shim:
        env = environment(tmp_path, SUPABASE_URL=shim.url, SUPABASE_KEY=SERVICE_KEY)
        done = subprocess.run(
            [sys.executable, "bot.py"], cwd=ROOT, env=env, capture_output=True, text=True,
            timeout=PATIENCE_SEC, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert "run docs/migrations/002_regime_tag.sql" in done.stderr
    assert "Traceback" not in done.stderr
    assert local(tmp_path / "bot.db", "SELECT * FROM orders") == []


def test_check_tells_of_the_replica(tmp_path: Path, shim: Shim) -> None:
    """A line of its own; nothing is written there."""
    env = environment(tmp_path, SUPABASE_URL=shim.url, SUPABASE_KEY=SERVICE_KEY)
    for shim.down, code, words in ((False, 0, "ok     replica "), (True, 3, "FAILED replica ")):
        done = subprocess.run(
            [sys.executable, "bot.py", "check"], cwd=ROOT, env=env, capture_output=True, text=True,
            timeout=PATIENCE_SEC, check=False,
        )  # fmt: skip
        assert done.returncode == code
        assert words in done.stdout
    assert shim.sql("select count(*) from runs") == "0"
