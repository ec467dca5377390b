"""One contract for both stores, and what only a file can do: locks, damage, backups, kills."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from core import events as e
from core.ports import Commit, Loaded, StoreError, StoreInUse
from core.record import replace
from engine.books import canonical_text, verify
from engine.runtime import Runtime
from store.history import SqliteHistory
from store.memory import MemoryStore
from store.schema import SCHEMA_VERSION
from store.sqlite import SqliteStore, backup
from tests.world import GOLDEN_FEES, GOLDEN_INSTRUMENT, GOLDEN_PARAMS, World

ROOT = Path(__file__).parent.parent


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteStore]:
    """Yield a fresh store of each kind."""
    made = (
        MemoryStore(epoch=7)
        if request.param == "memory"
        else SqliteStore(tmp_path / "deep" / "bot.db", epoch=7)
    )
    yield made
    made.close()


def trade(store: SqliteStore) -> Runtime:
    """Drive a runtime through a round trip and return it."""
    runtime = Runtime(store, None, None)
    world = World()

    def step(event: e.Event) -> list[object]:
        if not isinstance(event, e.Started):
            event = replace(event, time=max(event.time, runtime.state.now))
        actions = list(runtime.step(event))
        world.state = runtime.state
        world.log.extend(actions)
        return actions

    started = e.Started(
        time=world.now, params=GOLDEN_PARAMS, instrument=GOLDEN_INSTRUMENT, fees=GOLDEN_FEES,
        bot_tag=1, store_epoch=7, code_version="test",
    )  # fmt: skip
    world.step = step  # type: ignore[method-assign,assignment]  # the same drive, into the store
    step(started)
    step(e.BalancesReported(time=world.now, base=Decimal(10_000), quote=Decimal(1_000)))
    world.price("0.1")
    world.enter()
    world.fill("1B.entry", fee="0.005")
    world.accept("1B.exit")
    world.fill("1B.exit", fee="0.00504")
    world.price("0.10001")
    return runtime


def test_state_and_journal_come_back(store: SqliteStore) -> None:
    """What was committed is loaded and folds to the same state."""
    runtime = trade(store)
    again = Runtime(store, None, None)
    assert again.restore()
    assert again.state == runtime.state
    assert again.seq == runtime.seq
    assert [row.seq for row in store.journal(after=0)] == list(range(1, runtime.seq + 1))


def test_new_store_has_no_state_and_its_own_epoch(store: SqliteStore) -> None:
    """A new store loads None and knows its identity."""
    assert store.load() is None
    assert store.identity()[0] == 7
    assert list(store.snapshots()) == []


def test_everything_is_proved_after_a_round_trip(store: SqliteStore) -> None:
    """Refold, ledger, executions and equity all agree."""
    runtime = trade(store)
    current = Loaded(seq=runtime.seq, state=runtime.state, params=runtime.params)
    checks = verify(store, current, None)
    assert [x.name for x in checks if not x.is_ok] == []
    assert store.audit()["count"] == 2


def test_an_execution_cannot_be_booked_twice(store: SqliteStore) -> None:
    """A duplicate execution id is an error and leaves nothing behind."""
    runtime = trade(store)
    row = next(r for r in store.journal(after=0) if isinstance(r.event, e.FillEvent))
    commit = Commit(
        seq=runtime.seq + 1, event=row.event, actions=row.actions, state=runtime.state,
        is_quiet=False, is_critical=True,
    )  # fmt: skip
    with pytest.raises(StoreError, match="twice"):
        store.commit(commit)
    assert max(r.seq for r in store.journal(after=0)) == runtime.seq


def test_snapshots_are_kept_and_pruned(store: SqliteStore) -> None:
    """The newest 48 stay, and one a day for the retention time."""
    runtime = trade(store)
    for n in range(200):
        state = replace(runtime.state, now=runtime.state.now + n * 3600.0)
        store.snapshot(Loaded(seq=runtime.seq + n, state=state, params=runtime.params))
    kept = [x.seq for x in store.snapshots()]
    assert len(kept) < 60
    assert kept[-48:] == list(range(runtime.seq + 152, runtime.seq + 200))


def test_export_is_plain_and_repeatable(store: SqliteStore) -> None:
    """The canonical export has no exponents and is the same twice."""
    runtime = trade(store)
    text = canonical_text(store, runtime.state)
    assert text == canonical_text(store, runtime.state)
    assert "E-" not in text
    assert '"net_profit":"0.009920' in text


def test_legacy_regime_tags_are_normalised_on_loading(tmp_path: Path) -> None:
    """A stored state with a text tag loads with its number."""
    path = tmp_path / "bot.db"
    made = SqliteStore(path, epoch=7)
    runtime = trade(made)
    world_text = runtime.store.load()
    assert world_text is not None
    made.close()
    with sqlite3.connect(path) as db:
        db.execute(
            "UPDATE state SET state = replace(state, '\"regime_at_entry\":null', "
            '\'"regime_at_entry":"BULLISH"\')'
        )
    again = SqliteStore(path)
    loaded = again.load()
    again.close()
    assert loaded is not None
    entry = loaded.state.slots[0].legs[0].state
    assert entry.order.regime_at_entry == 2  # type: ignore[union-attr]  # it is an entry


def test_files_are_private(tmp_path: Path) -> None:
    """The directory is 0700, the file 0600."""
    made = SqliteStore(tmp_path / "private" / "bot.db")
    trade(made)
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    for name in ("bot.db", "bot.db-wal", "bot.db.lock"):
        assert (tmp_path / "private" / name).stat().st_mode & 0o077 == 0
    made.close()


def test_second_instance_is_refused_with_the_holder(tmp_path: Path) -> None:
    """A second store on the same file says who holds it."""
    first = SqliteStore(tmp_path / "bot.db", owner="process 42, started today")
    with pytest.raises(StoreInUse, match="process 42"):
        SqliteStore(tmp_path / "bot.db")
    first.close()
    SqliteStore(tmp_path / "bot.db").close()


@pytest.mark.parametrize("damage", ["noise", "text", "page"])
def test_damaged_file_is_refused_and_left_alone(tmp_path: Path, damage: str) -> None:
    """A corrupt database is named with what to do; its bytes do not change."""
    path = tmp_path / "bot.db"
    made = SqliteStore(path)
    trade(made)
    made.close()
    data = bytearray(path.read_bytes())
    if damage == "noise":
        data = bytearray(os.urandom(len(data)))
    elif damage == "text":
        data = bytearray(b"this is no database\n" * 50)
    else:
        data[4096 * 3 : 4096 * 6] = os.urandom(4096 * 3)
    path.write_bytes(data)
    with pytest.raises(StoreError, match="restore a backup"):
        SqliteStore(path)
    assert path.read_bytes() == bytes(data)


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database of a newer program is not opened."""
    path = tmp_path / "bot.db"
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match="newer program"):
        SqliteStore(path)


def step_for_ever(runtime: Runtime) -> None:
    """Step hour by hour until something stops it."""
    for _ in range(5000):
        runtime.step(e.TimerTick(time=runtime.state.now + 3600))


def test_full_disk_is_an_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    """When nothing more can be written the step fails, and the last commit stands."""
    made = SqliteStore(tmp_path / "bot.db")
    runtime = trade(made)
    pages = made._db.execute("PRAGMA page_count").fetchone()[0]
    made._db.execute(f"PRAGMA max_page_count = {pages}")
    before = runtime.seq
    with pytest.raises(StoreError, match="cannot be written"):
        step_for_ever(runtime)
    made.close()
    again = SqliteStore(tmp_path / "bot.db")
    assert max(r.seq for r in again.journal(after=0)) == runtime.seq >= before
    again.close()


def test_backup_is_complete_and_never_overwrites(tmp_path: Path) -> None:
    """A backup of a database in use opens as a store with the same state."""
    made = SqliteStore(tmp_path / "bot.db")
    runtime = trade(made)
    backup(tmp_path / "bot.db", tmp_path / "copy.db")
    with pytest.raises(StoreError, match="exists"):
        backup(tmp_path / "bot.db", tmp_path / "copy.db")
    copy = SqliteStore(tmp_path / "copy.db")
    again = Runtime(copy, None, None)
    assert again.restore()
    assert again.state == runtime.state
    copy.close()
    made.close()


def test_history_reads_while_the_store_writes(tmp_path: Path) -> None:
    """Events, cycles, one order's life and equity come from connections of their own."""
    made = SqliteStore(tmp_path / "bot.db")
    trade(made)
    history = SqliteHistory(tmp_path / "bot.db")
    events = history.recent_events(10)
    assert any("closed cycle 1" in x["text"] for x in events)
    cycle = history.cycles(10)[0]
    assert cycle["net_profit"].startswith("0.00992")
    with sqlite3.connect(tmp_path / "bot.db") as db:
        order_id = db.execute("SELECT client_order_id FROM orders WHERE role='entry'").fetchone()[0]
    order = history.order(order_id)
    assert order is not None
    assert order["chain"][0]["stage"] == "base"
    assert history.order("nothing") is None
    assert history.command("nothing") is None
    assert len(history.equity_curve(10)) == 1
    made.close()


_WRITER = """
import sys
from tests.test_store import trade
from store.sqlite import SqliteStore
from pathlib import Path
from core import events as e
runtime = trade(SqliteStore(Path(sys.argv[1])))
while True:
    runtime.step(e.TimerTick(time=runtime.state.now + 60))
    print(runtime.seq, flush=True)
"""


def test_killed_writer_keeps_every_acknowledged_commit(tmp_path: Path) -> None:
    """After SIGKILL every step that was reported is there, without a hole."""
    for n in range(3):
        path = tmp_path / f"{n}.db"
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.2 + 0.1 * n)
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in process.stdout.read().splitlines() if line.strip()]
        process.wait()
        again = SqliteStore(path)
        seqs = [row.seq for row in again.journal(after=0)]
        again.close()
        assert seqs == list(range(1, len(seqs) + 1))
        assert seqs[-1] >= max(reported)
