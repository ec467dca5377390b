"""One contract for both stores, and what only a file can do: locks, damage, backups, kills."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import actions as a
from core import events as e
from core.ports import Commit, Loaded, StoreError, StoreInUse
from core.record import Record, replace
from core.state import BotState
from engine.books import canonical_text, verify
from engine.runtime import Runtime
from store import codec
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


def trade(store: SqliteStore, code: str | None = None) -> Runtime:
    """Drive a runtime through a round trip and return it."""
    runtime = Runtime(store, None, None, code=code)
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
        bot_tag=1, store_epoch=7, code_version=runtime.code,
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
    assert len(list(store.execution_ids())) == 2


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


def tick(runtime: Runtime, seq: int, at: float, **fields: Any) -> Commit:
    """Return a quiet commit of a timer tick."""
    given_: dict[str, Any] = {
        "seq": seq, "event": e.TimerTick(time=at), "actions": (), "state": runtime.state,
        "is_quiet": True, "is_critical": False, **fields,
    }  # fmt: skip
    return Commit(**given_)


def test_steps_follow_one_another(store: SqliteStore) -> None:
    """A step that leaves a hole, repeats a number or has no time is refused and not stored."""
    runtime = trade(store)
    for seq in (runtime.seq, runtime.seq + 2):
        with pytest.raises(StoreError, match="cannot follow"):
            store.commit(tick(runtime, seq, runtime.state.now))
    with pytest.raises(StoreError, match="has no time"):
        store.commit(tick(runtime, runtime.seq + 1, float("nan")))
    store.commit(tick(runtime, runtime.seq + 1, runtime.state.now))
    assert max(r.seq for r in store.journal(after=0)) == runtime.seq + 1


def test_quiet_commit_leaves_the_state_row(store: SqliteStore) -> None:
    """The journal goes on, the state row keeps its own number."""
    runtime = trade(store)
    before = store.load()
    assert before is not None
    for n in (1, 2, 3):
        store.commit(tick(runtime, runtime.seq + n, runtime.state.now + n))
    assert store.load() == before
    assert max(r.seq for r in store.journal(after=before.seq)) == runtime.seq + 3


def test_reading_snapshots_does_not_change_the_parameters_in_force(store: SqliteStore) -> None:
    """A commit after looking at old snapshots stores the parameters of the last Started."""
    runtime = trade(store)
    old = replace(runtime.params, slot_count=9)
    store.snapshot(Loaded(seq=1, state=runtime.state, params=old))
    assert [x.params.slot_count for x in store.snapshots()] == [9]
    store.commit(tick(runtime, runtime.seq + 1, runtime.state.now, is_quiet=False))
    loaded = store.load()
    assert loaded is not None
    assert loaded.params == runtime.params


def test_failed_start_leaves_the_parameters(store: SqliteStore) -> None:
    """What a rolled back Started carried is not stored by the next step."""
    runtime = trade(store)
    rows_ = [r for r in store.journal(after=0) if isinstance(r.event, (e.Started, e.FillEvent))]
    started, fill = rows_[0].event, rows_[1]
    assert isinstance(started, e.Started)
    changed = replace(started, params=replace(runtime.params, slot_count=9))
    bad = tick(runtime, runtime.seq + 1, 0.0, event=changed, actions=fill.actions, is_quiet=False)
    with pytest.raises(StoreError, match="twice"):
        store.commit(bad)
    store.commit(tick(runtime, runtime.seq + 1, runtime.state.now, is_quiet=False))
    loaded = store.load()
    assert loaded is not None
    assert loaded.params == runtime.params


def test_state_that_cannot_be_read_is_no_new_store(store: SqliteStore) -> None:
    """Empty, unreadable or missing state is an error that names what; never a blank bot."""
    trade(store)
    assert store._db is not None
    for text, words in (("", "state at"), ('{"now":"x"}', r"\$.now"), ("{", "state at")):
        store._db.execute("UPDATE state SET state = ?", (text,))
        with pytest.raises(StoreError, match=words):
            store.load()
    store._db.execute("DELETE FROM state")
    with pytest.raises(StoreError, match="no state"):
        store.load()


def test_order_rows_follow_their_orders(store: SqliteStore) -> None:
    """A filled order says so, with its exchange id and its plain size chain."""
    trade(store)
    orders = {x["role"]: x for x in store.export()["orders"] if x["status"] == "filled"}
    assert set(orders) == {"entry", "exit"}
    assert orders["entry"]["txid"]
    assert orders["entry"]["closed_at"] is not None
    assert Decimal(orders["entry"]["chain"][0]["amount_usd"]) > 0


def test_journal_is_pruned_behind_the_oldest_snapshot(store: SqliteStore) -> None:
    """Rows go when both older than the retention and before the oldest snapshot; the rest stays."""
    runtime = trade(store)
    start, day = runtime.state.now, 86_400.0
    for n in range(1, 101):
        store.commit(tick(runtime, runtime.seq + n, start + n * day))
        state = replace(runtime.state, now=start + n * day)
        store.snapshot(Loaded(seq=runtime.seq + n, state=state, params=runtime.params))
    oldest = next(iter(store.snapshots())).seq
    kept = [row.seq for row in store.journal(after=0)]
    assert oldest == runtime.seq + 53  # the 48 newest reach further back than 30 days
    assert kept == list(range(kept[0], runtime.seq + 101))
    assert kept[0] == oldest + 1


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
    for name in ("bot.db", "bot.db-wal", "bot.db-shm", "bot.db.lock"):
        assert (tmp_path / "private" / name).stat().st_mode & 0o077 == 0
    made.close()
    (tmp_path / "private" / "bot.db").chmod(0o644)  # as a restored copy may be
    SqliteStore(tmp_path / "private" / "bot.db").close()
    assert (tmp_path / "private" / "bot.db").stat().st_mode & 0o777 == 0o600


def test_second_instance_is_refused_with_the_holder(tmp_path: Path) -> None:
    """A second store on the same file says who holds it."""
    first = SqliteStore(tmp_path / "bot.db", owner="process 42, started today")
    with pytest.raises(StoreInUse, match="process 42"):
        SqliteStore(tmp_path / "bot.db")
    first.close()
    SqliteStore(tmp_path / "bot.db").close()


_OPENER = """
import sys
from pathlib import Path
from core.ports import StoreInUse
from store.sqlite import SqliteStore
try:
    SqliteStore(Path(sys.argv[1]))
except StoreInUse as error:
    sys.exit(f"refused: {error}")
"""


def test_second_process_is_refused_even_through_a_link(tmp_path: Path) -> None:
    """The lock holds between processes and belongs to the real file."""
    first = SqliteStore(tmp_path / "bot.db", owner="process 42, started today")
    (tmp_path / "link.db").symlink_to(tmp_path / "bot.db")
    for name in ("bot.db", "link.db"):
        done = subprocess.run(
            [sys.executable, "-c", _OPENER, str(tmp_path / name)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "refused" in done.stderr
        assert "process 42" in done.stderr
    first.close()


def test_lock_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """Where no lock can be, the store does not open."""
    (tmp_path / "bot.db.lock").mkdir()
    with pytest.raises(StoreError, match="locked"):
        SqliteStore(tmp_path / "bot.db")


@pytest.mark.parametrize("damage", ["noise", "text", "page", "flip", "cut", "empty"])
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
    elif damage == "flip":
        data[4096 * 2 : 4096 * 2 + 8] = bytes(x ^ 0xFF for x in data[4096 * 2 : 4096 * 2 + 8])
    elif damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "empty":
        data = bytearray()
    else:
        data[4096 * 3 : 4096 * 6] = os.urandom(4096 * 3)
    path.write_bytes(data)
    with pytest.raises(StoreError, match="restore a backup"):
        SqliteStore(path)
    assert path.read_bytes() == bytes(data)


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database of a newer program is not opened, and not a byte of it changes."""
    path = tmp_path / "bot.db"
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        db.commit()
        db.execute("PRAGMA journal_mode=DELETE")
    data = path.read_bytes()
    with pytest.raises(StoreError, match="newer program"):
        SqliteStore(path)
    assert path.read_bytes() == data


def test_foreign_database_is_refused(tmp_path: Path) -> None:
    """Another program's database gets none of our tables."""
    path = tmp_path / "bot.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    data = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        SqliteStore(path)
    assert path.read_bytes() == data


def test_a_log_without_its_database_is_not_overwritten(tmp_path: Path) -> None:
    """A lost database whose last steps are in the log beside it stops the start."""
    (tmp_path / "bot.db-wal").write_bytes(b"the last steps")
    with pytest.raises(StoreError, match="last steps"):
        SqliteStore(tmp_path / "bot.db")
    assert (tmp_path / "bot.db-wal").read_bytes() == b"the last steps"


@pytest.mark.parametrize("schema", range(1, SCHEMA_VERSION))
def test_store_of_a_former_schema_opens(tmp_path: Path, schema: int) -> None:
    """The kept databases load, with a legacy regime text, and give their history."""
    with sqlite3.connect(tmp_path / "bot.db") as db:
        db.executescript((ROOT / f"tests/golden/store_v{schema}.sql").read_text())
    made = SqliteStore(tmp_path / "bot.db")
    loaded = made.load()
    assert loaded is not None
    entry = loaded.state.slots[0].legs[0].state
    assert entry.order.regime_at_entry == 2  # type: ignore[union-attr]  # it is an entry
    assert made.identity()[0] == 7
    assert len(list(made.execution_ids())) == 2
    assert [x.seq for x in made.snapshots()] == [1, 11]
    assert len(SqliteHistory(tmp_path / "bot.db").cycles(10)) == 1
    made.close()


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
    with pytest.raises(StoreError, match="disk is full"):
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


def test_backup_is_of_one_instant_while_steps_go_on(tmp_path: Path) -> None:
    """A copy made during writing has no hole and at least what was there before it began."""
    made = SqliteStore(tmp_path / "bot.db")
    runtime = trade(made)
    failed: list[BaseException] = []

    def copy() -> None:
        try:
            for n in range(5):
                backup(tmp_path / "bot.db", tmp_path / f"{n}.db")
        except StoreError as error:
            failed.append(error)

    worker = threading.Thread(target=copy)
    worker.start()
    n = 0
    while worker.is_alive():
        n += 1
        made.commit(tick(runtime, runtime.seq + n, runtime.state.now + n))
    assert failed == []
    counts = [runtime.seq]
    for x in range(5):
        again = SqliteStore(tmp_path / f"{x}.db")
        seqs = [row.seq for row in again.journal(after=0)]
        again.close()
        assert seqs == list(range(1, len(seqs) + 1))
        counts.append(len(seqs))
    assert [*counts, runtime.seq + n] == sorted([*counts, runtime.seq + n])
    made.close()


def test_failed_backup_leaves_nothing(tmp_path: Path) -> None:
    """A source that is damaged gives no copy, and no part of one."""
    (tmp_path / "bot.db").write_bytes(b"this is no database\n" * 500)
    with pytest.raises(StoreError, match="no backup"):
        backup(tmp_path / "bot.db", tmp_path / "copy.db")
    assert [x.name for x in tmp_path.iterdir()] == ["bot.db"]


def test_history_is_read_from_any_thread_or_fails_aloud(tmp_path: Path) -> None:
    """Each thread has its own connection, odd names work, and damage is an error, not nothing."""
    made = SqliteStore(tmp_path / "a #1?.db")
    trade(made)
    history = SqliteHistory(tmp_path / "a #1?.db")
    counts: list[int] = []
    for _ in range(4):
        thread = threading.Thread(target=lambda: counts.append(len(history.cycles(10))))
        thread.start()
        thread.join()
    assert counts == [1, 1, 1, 1]
    made.close()
    (tmp_path / "bad.db").write_bytes(b"this is no database\n" * 500)
    with pytest.raises(StoreError, match="history"):
        SqliteHistory(tmp_path / "bad.db").recent_events(1)


def test_history_reads_while_the_store_writes(tmp_path: Path) -> None:
    """Events, cycles, one order's life and equity come from connections of their own."""
    made = SqliteStore(tmp_path / "bot.db")
    trade(made)
    history = SqliteHistory(tmp_path / "bot.db")
    events = history.recent_events(10)
    assert any("closed cycle 1" in x["text"] for x in events)
    assert history.cycles(10)[0]["net_profit"].startswith("0.00992")
    with sqlite3.connect(tmp_path / "bot.db") as db:
        order_id = db.execute("SELECT client_order_id FROM orders WHERE role='entry'").fetchone()[0]
    order = history.order(order_id)
    assert order is not None
    assert order["chain"][0]["stage"] == "base"
    assert history.order("nothing") is None
    assert history.command("nothing") is None
    assert len(history.equity_curve(None, 10)[0]) == 1
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


_NUMBERS = st.decimals(min_value=Decimal(-(10**12)), max_value=Decimal(10**12), allow_nan=False)
_SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    Decimal: _NUMBERS | st.sampled_from([Decimal("1E-7"), Decimal("0E-9"), Decimal("1E+9")]),
    float: st.floats(allow_nan=False, allow_infinity=False),
    int: st.integers(-(2**53), 2**53),
    str: st.text(max_size=10),
    bool: st.booleans(),
    type(None): st.none(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for any value of a field's type."""
    origin, args = get_origin(kind), get_args(kind)
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if origin in (Union, UnionType):
        return st.one_of([values(x) for x in args])
    if origin is tuple and args[-1] is ...:
        return st.lists(values(args[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*(values(x) for x in args))
    if origin is dict:
        return st.dictionaries(values(args[0]), values(args[1]), max_size=2)
    if issubclass(kind, Enum):
        return st.sampled_from(list(kind))
    return st.deferred(lambda: records(kind))


def records(kind: type[Record]) -> st.SearchStrategy[Any]:
    """Return a strategy for a record with any values in its fields."""
    regimes = st.sampled_from([None, 0, 1, 2])
    fields = {
        field.name: regimes if field.name == "regime_at_entry" else values(field.type)
        for field in msgspec.structs.fields(kind)
    }
    return st.builds(kind, **fields)


ANY = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


@given(event=values(e.Event), actions=st.lists(values(a.Action), max_size=3).map(tuple))
@ANY
def test_any_step_comes_back(event: e.Event, actions: tuple[a.Action, ...]) -> None:
    """Decoding what was encoded gives the same event and actions, digit for digit."""
    again = codec.decode_event(codec.encode(event), "it")
    assert (again, codec.encode(again)) == (event, codec.encode(event))
    assert codec.decode_actions(codec.encode(actions), "it") == actions


@pytest.mark.slow
@given(state=records(BotState))
@ANY
def test_any_state_comes_back(state: BotState) -> None:
    """Decoding what was encoded gives the same state, digit for digit."""
    again = codec.decode_state(codec.encode(state), "it")
    assert (again, codec.encode(again)) == (state, codec.encode(state))


@pytest.mark.parametrize("text", ["", "{", "7", "null", '{"type":"nothing"}', '{"now":[]}'])
def test_unreadable_text_is_a_store_error(text: str) -> None:
    """What cannot be read is an error that names the place."""
    for decode in (codec.decode_event, codec.decode_actions):
        with pytest.raises(StoreError, match="row 7"):
            decode(text, "row 7")
