"""The replica end to end: the daemon, the official client, a real PostgreSQL."""

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
from tests.postgrest_shim import SERVICE_KEY, Postgres, Shim, door
from tests.replica_rows import differences, local
from tests.test_daemon import ROOT, Running, environment
from tests.test_postgrest import RUN
from tests.test_store import trade
from tools.supabase_schema import migrations

PATIENCE_SEC = 60
pytestmark = pytest.mark.slow


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
    assert view.attempts >= 3  # a busy machine may leave another one unanswered
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


class Hour:
    """A daemon on a fast market, killed and started again; `errors` is all it has said."""

    def __init__(self, folder: Path, shim: Shim) -> None:
        self._env = environment(
            folder, SYNTHETIC_SPEED="300", SUPABASE_URL=shim.url, SUPABASE_KEY=SERVICE_KEY,
            SLOT_COUNT="10", SLOT_STAGGER_PCT="0.2", ORDER_SIZE_USD="20",
            PAPER_START_QUOTE="5000", PAPER_START_BASE_USD="5000",
        )  # fmt: skip
        self._path = folder / "bot.db"
        self.errors = ""
        self.daemon = self.start("--state", "local")  # whether the replica answers or not

    def start(self, *args: str) -> Running:
        """Start it, again."""
        self.daemon = Running(self._env, *args)
        assert self.daemon.wait("/readyz").status_code == 200
        return self.daemon

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.daemon.process.kill()
        self.collect()

    def collect(self) -> None:
        """Wait for its end, and keep what it has said."""
        self.errors += self.daemon.process.communicate()[1]

    def now(self) -> float:
        """Return its time."""
        return float(local(self._path, "SELECT max(time) FROM journal")[0])

    def until(self, claim: Callable[[], bool]) -> None:
        """Wait until `claim` holds."""
        deadline = time.monotonic() + PATIENCE_SEC
        while not claim():
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.slow(seconds=60)
def test_an_hour_of_outages_and_kills_loses_and_doubles_nothing(
    tmp_path: Path, postgres: Postgres, shim: Shim
) -> None:
    """The door is shut, PostgreSQL crashes, the daemon is killed: in the end both are the same."""
    path = tmp_path / "bot.db"
    shim.down = True
    hour = Hour(tmp_path, shim)
    began = hour.now()
    try:
        block_once(hour.daemon, lambda x: x["queue"] > 0 and x["last_error"])
        shim.down = False
        hour.until(lambda: shim.sql("select count(*) from executions") != "0")
        postgres.halt()
        block_once(hour.daemon, lambda x: x["attempts"] > 1 and x["queue"] > 60)
        hour.kill()  # while the replica is down
        hour.start()
        block_once(hour.daemon, lambda x: x["attempts"] > 1 and x["queue"] > 120)
        written = len(shim.writes)
        shim.slow_sec = 0.2
        postgres.resume()
        hour.until(lambda: len(shim.writes) > written)
        hour.kill()  # while it is drained
        assert local(path, "SELECT count(*) FROM outbox") != ["0"]
        shim.slow_sec = 0.0
        hour.start()
        hour.until(lambda: hour.now() - began > 3600)
        assert hour.daemon.stop() == 0
        hour.collect()
    finally:
        hour.daemon.process.kill()
        hour.daemon.process.wait()
    assert SERVICE_KEY not in hour.errors
    assert "replication ends: 0 rows wait" in hour.errors
    assert differences(path, shim) == []
    assert int(shim.sql("select count(*) from cycles")) > 0
    sent = shim.sql("select seq, state, params from snapshots order by time desc limit 1")
    assert sent == local(path, "SELECT seq, state, params FROM state")[0]
    first, last, count = map(float, shim.sql(
        "select min(time), max(time), count(*) from equity").split("|"))  # fmt: skip
    assert count == (last - first) / 60 + 1  # each minute once
    assert last - first > 3500


def test_a_daemon_whose_replica_hangs_ends_in_time(tmp_path: Path, shim: Shim) -> None:
    """Ten seconds at most from SIGTERM to the end, in the midst of a call; nothing is lost."""
    hour = Hour(tmp_path, shim)
    try:
        block_once(hour.daemon, is_settled)
        shim.slow_sec = 30.0
        asked = shim.asked
        hour.until(lambda: shim.asked > asked)
        assert hour.daemon.stop() == 0  # waits ten seconds
        hour.collect()
    finally:
        hour.daemon.process.kill()
        hour.daemon.process.wait()
        shim.slow_sec = 0.0
    assert "replication ends: " in hour.errors
    assert "Traceback" not in hour.errors
    assert local(tmp_path / "bot.db", "SELECT count(*) FROM outbox") != ["0"]


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
    assert not (tmp_path / "bot.db").exists()


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
