"""The outbox and the thread that empties it: everything arrives, in order, once."""

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

import config
from core import events as e
from core.commands import AddSlot
from core.ports import ConfigError, StoreError
from core.record import replace
from engine import cli
from engine.runtime import Runtime
from engine.wiring import open_parts
from store import outbox
from store.replica import Acknowledged, Progress, Replica, replica_db
from store.sqlite import SqliteStore
from store.supabase import RemoteError
from store.tables import BY_NAME, MIGRATION_FILES, REMOTE_VERSION, SNAPSHOTS, TABLES, Table
from tests.test_store import trade
from tools.supabase_schema import TARGET, migrations, schema

ADDRESS = "https://abc.supabase.co"
Row = Mapping[str, Any]


class FakeRemote:
    """Keeps rows by their keys, and what was written in order; fails on request."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[tuple[Any, ...], Row]] = {name: {} for name in BY_NAME}
        self.writes: list[tuple[str, Row]] = []
        self.error: RemoteError | ConfigError | None = None
        self.broken: set[str] = set()
        self.poison: str | None = None  # no batch with this text is taken
        self.asked = 0
        self.answers = threading.Event()
        self.answers.set()

    def check(self, run: Row) -> None:
        """Fail if asked to."""
        self.asked += 1
        self.answers.wait(20)
        if self.error is not None:
            raise self.error

    def upsert(self, table: Table, rows: Sequence[Row]) -> None:
        """Take rows."""
        self.asked += 1
        if self.error is not None:
            raise self.error
        if table.name in self.broken or (self.poison and self.poison in str(rows)):
            raise RemoteError(f"{table.name} cannot be written: 500")
        for row in rows:
            assert set(row) == set(table.all_columns)
            self.rows[table.name][tuple(row[x] for x in table.key)] = row
            self.writes.append((table.name, row))

    def read(self, table: Table, *, equal: Mapping[str, str]) -> Iterator[Row]:
        """Yield rows as they come back: amounts as text."""
        for key in sorted(self.rows[table.name]):
            row = self.rows[table.name][key]
            if all(row[x] == value for x, value in equal.items()):
                yield row

    def newest(self, table: Table, run: str, by: str) -> Row | None:
        """Return the row of a run with the greatest `by`."""
        found = [x for x in self.rows[table.name].values() if x["run"] == run]
        return max(found, key=lambda x: x[by], default=None)

    def counts(self) -> dict[str, int]:
        """Return how many rows each table has, snapshots and runs aside."""
        return {x.name: len(self.rows[x.name]) for x in TABLES}


class Desk:
    """A store with a replica that is driven by hand, on a clock of the test's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 0.0
        self.remote = FakeRemote()
        self.store = SqliteStore(path, epoch=7, replica=ADDRESS)
        self.runtime = trade(self.store)
        self.replica = self.open()

    def open(self, address: str = ADDRESS) -> Replica:
        """Return a replica of the store."""
        return Replica(
            self.remote, self.path, address=address, run={"run": "r1"}, rng=Random(1),
            monotonic=lambda: self.now, wall=lambda: 5.0,
        )  # fmt: skip

    def send(self, wait_sec: float = 1000.0) -> None:
        """Let time pass, send what waits, delete what is acknowledged."""
        self.now += wait_sec
        self.replica.send_once()
        self.store.forget_sent(self.replica.acknowledged())

    def local(self, query: str) -> list[tuple[Any, ...]]:
        """Return what the database says."""
        with sqlite3.connect(self.path) as db:
            return db.execute(query).fetchall()

    def expected(self) -> dict[str, int]:
        """Return how many rows each table has here."""
        names = [x.name for x in TABLES if x.source is not None]
        return {x: self.local(f"SELECT count(*) FROM {x}")[0][0] for x in names}

    def step(self, price: str) -> None:
        """Let a minute pass, with another price."""
        at = self.runtime.state.now + 61
        self.runtime.step(e.TimerTick(time=at))

    def close(self) -> None:
        """Release all."""
        self.replica.stop()
        self.store.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Yield a desk whose store has a round trip behind it."""
    made = Desk(tmp_path / "bot.db")
    yield made
    made.close()


def test_the_complete_schema_is_up_to_date() -> None:
    """It is generated from the migrations, and the program knows them all."""
    assert TARGET.read_text() == schema()
    files = {int(path.name[:3]): path.name for path in migrations()}
    assert files == MIGRATION_FILES
    assert max(files) == REMOTE_VERSION


# ---- the outbox ---------------------------------------------------------------------------------


def test_without_a_replica_nothing_waits(tmp_path: Path) -> None:
    """No rows at all; and what waited is forgotten where the replica is taken away."""
    path = tmp_path / "bot.db"
    for address, is_full in (("", False), (ADDRESS, True), ("", False)):
        store = SqliteStore(path, epoch=7, replica=address)
        if store.load() is None:
            trade(store)
        with sqlite3.connect(path) as db:
            assert (db.execute("SELECT count(*) FROM outbox").fetchone()[0] > 0) is is_full
        store.close()


def test_rows_are_named_in_the_step_that_writes_them(desk: Desk) -> None:
    """An order that changed three times waits once, as it is now, behind its last cause."""
    names = desk.local("SELECT name, key FROM outbox ORDER BY id")
    assert len(set(names)) == len(names)
    orders = {key for name, key in names if name == "orders"}
    assert orders == {x for (x,) in desk.local("SELECT client_order_id FROM orders")}
    assert {name for name, _ in names} >= {
        "orders", "executions", "cycles", "exit_outcomes", "ledger_entries", "equity", "snapshots",
    }  # fmt: skip


def test_a_step_that_fails_names_nothing(desk: Desk) -> None:
    """The outbox is part of the transaction."""
    before = desk.local("SELECT * FROM outbox")
    row = next(r for r in desk.store.journal(after=0) if isinstance(r.event, e.FillEvent))
    with pytest.raises(StoreError, match="twice"):
        desk.runtime.store.commit(_commit(desk.runtime, row.event, row.actions))
    assert desk.local("SELECT * FROM outbox") == before


def _commit(runtime: Runtime, event: Any, actions: Any) -> Any:
    from core.ports import Commit  # noqa: PLC0415

    return Commit(
        seq=runtime.seq + 1, event=event, actions=actions, state=runtime.state, is_quiet=False,
        is_critical=True,
    )  # fmt: skip


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    """SQLite would keep NaN as NULL: it is refused where it comes from."""
    store = SqliteStore(tmp_path / "bot.db", epoch=7)
    runtime = trade(store)
    row = next(r for r in store.journal(after=0) if isinstance(r.event, e.FillEvent))
    odd = tuple(
        replace(x, execution_id="odd", fee=Decimal("NaN")) if hasattr(x, "execution_id") else x
        for x in row.actions
    )
    with pytest.raises(StoreError, match="an amount is NaN"):
        store.commit(_commit(runtime, row.event, odd))
    assert len(list(store.execution_ids())) == 2
    store.close()


def test_the_outbox_is_bounded_and_says_what_it_drops(desk: Desk) -> None:
    """Equity goes first, executions last; all is counted, and sent anew by the next start."""
    count = desk.local("SELECT count(*) FROM outbox WHERE name IN ('equity', 'transitions', "
                       "'operator_log', 'ledger_entries')")[0][0]  # fmt: skip
    total = desk.local("SELECT count(*) FROM outbox")[0][0]
    with sqlite3.connect(desk.path) as db:
        outbox.trim(db, total - count)
    assert desk.local("SELECT sum(count) FROM outbox_dropped") == [(count,)]
    assert desk.local("SELECT count(*) FROM outbox WHERE name = 'ledger_entries'") == [(0,)]
    desk.send()
    assert desk.replica.view(0.0).dropped == count
    desk.replica.stop()
    desk.store.close()
    desk.store = SqliteStore(desk.path, replica=ADDRESS)
    desk.replica = desk.open()
    desk.send()
    counts = desk.remote.counts()
    assert {x: counts[x] for x in desk.expected()} == desk.expected()


def test_a_replica_that_is_new_is_given_everything(tmp_path: Path) -> None:
    """What was there before it, and what came while it was switched off, too."""
    path = tmp_path / "bot.db"
    store = SqliteStore(path, epoch=7)
    trade(store)
    store.close()
    desk = Desk.__new__(Desk)
    desk.path, desk.now, desk.remote = path, 0.0, FakeRemote()
    desk.store = SqliteStore(path, replica=ADDRESS)
    desk.replica = desk.open()
    desk.send()
    counts = desk.remote.counts()
    assert {x: counts[x] for x in desk.expected()} == desk.expected()
    assert len(desk.remote.rows["snapshots"]) == 1
    desk.close()


def test_a_row_that_changes_on_its_way_is_sent_again(desk: Desk) -> None:
    """What was read before the change is acknowledged; the change waits under a new number."""
    key = desk.local("SELECT max(client_order_id) FROM orders")[0][0]
    taken = desk.remote.upsert

    def upsert(table: Table, rows: Sequence[Row]) -> None:
        taken(table, rows)
        if table.name == "orders" and rows[0]["detail"] != "changed":
            with sqlite3.connect(desk.path) as db:
                db.execute("UPDATE orders SET detail = 'changed' WHERE client_order_id = ?", [key])
                db.execute("INSERT OR REPLACE INTO outbox (name, key, time) VALUES (?, ?, 0)",
                           ("orders", key))  # fmt: skip

    desk.remote.upsert = upsert  # type: ignore[method-assign]  # a hook of the test's
    desk.send()
    assert desk.local("SELECT name, key FROM outbox WHERE name = 'orders'") == [("orders", key)]
    desk.send()
    assert desk.remote.rows["orders"]["r1", key]["detail"] == "changed"


def test_a_word_that_looks_like_no_number_is_a_word(desk: Desk) -> None:
    """A command may be named as its sender likes, and a NUL holds nothing up."""
    at = desk.runtime.state.now + 1
    desk.runtime.step(e.CommandReceived(time=at, command_id="NaN", command=AddSlot()))
    with sqlite3.connect(desk.path) as db:
        db.execute("UPDATE operator_log SET message = 'a' || char(0) || 'b'")
    desk.send()
    (row,) = desk.remote.rows["operator_log"].values()
    assert (row["command_id"], row["message"]) == ("NaN", "a\N{REPLACEMENT CHARACTER}b")


def test_a_start_does_not_wait_for_a_line_that_trickles(desk: Desk) -> None:
    """After a while it goes on, and the thread asks again."""
    desk.remote.answers.clear()
    desk.replica.check(within_sec=0.05)
    assert not desk.replica.view(0.0).is_checked
    desk.remote.answers.set()


# ---- sending ------------------------------------------------------------------------------------


def test_everything_arrives_and_is_deleted(desk: Desk) -> None:
    """Rows as they are in the database; the state last; then nothing waits."""
    desk.send()
    counts = desk.remote.counts()
    assert {x: counts[x] for x in desk.expected()} == desk.expected()
    assert counts["equity"] > 0
    assert desk.remote.writes[-1][0] == "snapshots"
    assert desk.local("SELECT count(*) FROM outbox") == [(0,)]
    (row,) = desk.remote.rows["snapshots"].values()
    assert (row["state"], row["params"]) == desk.local("SELECT state, params FROM state")[0]
    view = desk.replica.view(desk.runtime.state.now)
    assert (view.queue, view.lag_sec, view.last_error) == (0, 0.0, "")
    assert view.sent == len(desk.remote.writes)


def test_flags_are_flags_and_amounts_are_text(desk: Desk) -> None:
    """Nothing is rounded on the way."""
    desk.send()
    row = next(iter(desk.remote.rows["executions"].values()))
    assert row["is_maker"] in (True, False)
    assert isinstance(row["is_maker"], bool)
    assert isinstance(row["price"], str)


def test_a_day_without_an_answer_loses_nothing(desk: Desk) -> None:
    """Pauses grow to five minutes; then all comes in order, once."""
    desk.remote.error = RemoteError("no answer", is_line=True)
    tries = 0
    for _ in range(24 * 60):
        before = desk.remote.asked
        desk.send(60.0)
        desk.step("0.1")
        tries += desk.remote.asked > before
    assert 24 * 60 / 9 < tries < 24 * 60 / 2
    view = desk.replica.view(desk.runtime.state.now)
    assert view.attempts == tries
    assert view.last_error == "no answer"
    assert view.queue >= 24 * 60
    assert view.lag_sec > 86_000
    desk.remote.error = None
    desk.send()
    counts = desk.remote.counts()
    assert {x: counts[x] for x in desk.expected()} == desk.expected()
    for name in counts:
        times = [row.get("seq", row.get("time")) for x, row in desk.remote.writes if x == name]
        if name in ("executions", "equity", "ledger_entries", "transitions"):
            assert times == sorted(times)
    assert len(desk.remote.writes) == sum(counts.values()) + 1  # each once, and the state
    assert desk.replica.view(desk.runtime.state.now).queue == 0


def test_a_table_that_fails_alone_keeps_its_rows(desk: Desk) -> None:
    """The others go on; the state waits; when it is mended all is there."""
    desk.remote.broken = {"executions"}
    for _ in range(5):
        desk.send()
    assert desk.remote.counts()["executions"] == 0
    assert desk.remote.counts()["orders"] == desk.expected()["orders"]
    assert desk.remote.rows["snapshots"] == {}
    view = desk.replica.view(desk.runtime.state.now)
    assert view.failing == ("executions",)
    assert view.attempts == 5
    assert "executions cannot be written: 500" in view.last_error
    desk.remote.broken = set()
    desk.send()
    assert desk.remote.counts()["executions"] == 2
    assert len(desk.remote.rows["snapshots"]) == 1


def test_a_row_that_is_refused_is_named_and_those_before_it_are_not_kept_back(desk: Desk) -> None:
    """The batch shrinks to the row; nothing is skipped."""
    keys = [
        key for (key,) in desk.local("SELECT key FROM outbox WHERE name = 'orders' ORDER BY id")
    ]
    desk.remote.poison = keys[-1]
    for _ in range(12):
        desk.send()
    assert desk.remote.counts()["orders"] == len(keys) - 1
    assert keys[-1] in desk.replica.view(0.0).last_error
    desk.remote.poison = None
    desk.send()
    assert desk.remote.counts()["orders"] == len(keys)


def test_what_is_acknowledged_survives_a_kill(desk: Desk) -> None:
    """Killed after the answer, before the rows were deleted: nothing is sent again."""
    desk.now += 1
    desk.replica.send_once()  # nothing is deleted
    desk.replica.stop()
    desk.remote.writes.clear()
    desk.replica = desk.open()
    desk.send()
    assert desk.remote.writes == []
    assert desk.local("SELECT count(*) FROM outbox") == [(0,)]


@pytest.mark.parametrize("harm", ["gone", "damaged", "ahead", "elsewhere"])
def test_a_record_that_cannot_be_trusted_begins_anew(desk: Desk, harm: str) -> None:
    """What waits is sent, again perhaps; never taken for sent."""
    desk.replica.stop()
    file = replica_db(desk.path)
    if harm == "gone":
        file.unlink()
    elif harm == "damaged":
        file.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    elif harm == "ahead":
        kept = Acknowledged(file, address=ADDRESS, run="r1", last_id=10**9)
        kept.keep("orders", Progress(id=10**9))
        kept.close()
    else:
        kept = Acknowledged(file, address="https://other", run="r1", last_id=10**9)
        kept.keep("orders", Progress(id=10))
        kept.close()
    desk.replica = desk.open()
    desk.send()
    assert desk.remote.counts()["orders"] == desk.expected()["orders"]
    assert file.stat().st_mode & 0o077 == 0


def test_a_number_is_never_given_twice(desk: Desk) -> None:
    """An emptied outbox goes on counting: a new row cannot be taken for one that was sent."""
    desk.send()
    last = desk.replica.acknowledged()
    for _ in range(70):
        desk.step("0.1")
    ids = desk.local("SELECT id FROM outbox")
    assert ids
    assert all(number > max(last.values()) for (number,) in ids)
    desk.send()
    assert desk.local("SELECT count(*) FROM outbox") == [(0,)]


def test_the_state_is_sent_once_a_minute_at_most(desk: Desk) -> None:
    """And a change after the last sending is not forgotten."""
    desk.send()
    desk.runtime.stop()
    for _ in range(30):
        desk.step("0.1")
    desk.send(1.0)
    sent = [row for name, row in desk.remote.writes if name == SNAPSHOTS.name]
    assert len(sent) == 1
    desk.send(60.0)
    sent = [row for name, row in desk.remote.writes if name == SNAPSHOTS.name]
    assert [x["seq"] for x in sent][-1] == desk.local("SELECT seq FROM state")[0][0]


def test_a_refusal_at_the_start_is_an_error_and_silence_is_none(desk: Desk) -> None:
    """Later, in the thread, a refusal is shown and asked after again."""
    desk.remote.error = RemoteError("no answer", is_line=True)
    desk.replica.check()
    assert not desk.replica.view(0.0).is_checked
    desk.remote.error = ConfigError(["run docs/migrations/002_regime_tag.sql"])
    with pytest.raises(ConfigError):
        desk.replica.check()
    desk.send()
    assert "002_regime_tag" in desk.replica.view(0.0).last_error
    desk.remote.error = None
    desk.send()
    assert desk.replica.view(0.0).is_checked
    assert desk.remote.counts()["orders"] == desk.expected()["orders"]


# ---- the end, and what is forgotten -------------------------------------------------------------


def test_a_clean_stop_sends_what_waits_and_the_state(desk: Desk) -> None:
    """Whatever pause is under way, and within the state's minute, too."""
    desk.send()
    desk.remote.error = RemoteError("no answer", is_line=True)
    desk.step("0.1")
    desk.send(0.0)
    assert desk.replica.view(0.0).last_error == "no answer"
    desk.replica.start()
    desk.remote.error = None
    for _ in range(30):
        desk.step("0.1")
    desk.replica.stop()
    assert desk.replica.view(0.0).queue == 0
    counts = desk.remote.counts()
    assert {x: counts[x] for x in desk.expected()} == desk.expected()
    name, row = desk.remote.writes[-1]
    assert (name, row["seq"]) == ("snapshots", desk.local("SELECT seq FROM state")[0][0])


def test_a_stop_does_not_wait_for_a_remote_that_hangs(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time the process goes on; nothing is lost."""
    monkeypatch.setattr("store.replica.STOP_SEC", 0.05)
    monkeypatch.setattr("store.replica.CUT_SEC", 0.05)
    desk.remote.answers.clear()
    desk.replica.start()
    desk.replica.stop()
    assert desk.remote.writes == []
    desk.remote.answers.set()
    desk.replica._thread.join(10)  # the end of the process, in a test
    desk.replica.stop()
    waits = {name for (name,) in desk.local("SELECT name FROM outbox")}
    assert {"orders", "executions"} <= waits


def test_rows_that_retention_took_before_they_were_sent_are_counted(desk: Desk) -> None:
    """They hold nothing up; the status says how many were lost."""
    count = desk.local("SELECT count(*) FROM outbox WHERE name = 'ledger_entries'")[0][0]
    with sqlite3.connect(desk.path) as db:
        db.execute("DELETE FROM ledger_entries")
    desk.send()
    view = desk.replica.view(0.0)
    assert (view.queue, view.dropped) == (0, count)
    assert count > 0
    assert desk.remote.counts()["orders"] == desk.expected()["orders"]


def test_what_was_sent_is_deleted_a_bounded_number_at_a_time(desk: Desk) -> None:
    """After a long outage no step waits for all of it."""
    desk.replica.send_once()
    with sqlite3.connect(desk.path) as db:
        db.executemany(
            "INSERT INTO outbox (id, name, key, time) VALUES (?, 'orders', ?, 0)",
            [(-n, str(n)) for n in range(1, outbox.FORGET_ROWS + 1)],
        )
    assert not desk.store.forget_sent(desk.replica.acknowledged())
    assert 0 < desk.local("SELECT count(*) FROM outbox")[0][0] < 1000
    assert desk.store.forget_sent(desk.replica.acknowledged())
    assert desk.local("SELECT count(*) FROM outbox") == [(0,)]


def test_a_subcommand_leaves_the_outbox_alone(desk: Desk) -> None:
    """One that knows of no replica ends none: what it does is named, as before."""
    waiting = desk.local("SELECT * FROM outbox")
    known = desk.local("SELECT value FROM meta WHERE name = 'replica'")
    desk.close()
    store = SqliteStore(desk.path)
    assert desk.local("SELECT * FROM outbox") == waiting
    assert desk.local("SELECT value FROM meta WHERE name = 'replica'") == known
    runtime = Runtime(store, None, None)
    runtime.restore()
    runtime.step(e.CommandReceived(time=runtime.state.now, command_id="x", command=AddSlot()))
    store.close()
    assert len(desk.local("SELECT * FROM outbox")) > len(waiting)


@pytest.mark.parametrize("command", ["check", "verify", "export", "refold"])
def test_no_subcommand_touches_the_outbox(tmp_path: Path, command: str) -> None:
    """Run in an environment without the two settings that the daemon has."""
    env = {"STATE_DB": str(tmp_path / "bot.db"), "HMM_ENABLED": "false"}
    own = env | {"SUPABASE_URL": "http://127.0.0.1:1", "SUPABASE_KEY": "sb_0123456789" * 4}
    settings = config.load(own, tmp_path / ".env")
    parts = open_parts(settings, is_run=True)
    runtime = Runtime(parts.store, parts.exchange, None)
    runtime.start(parts.exchange.describe(), settings.params, now=parts.exchange.now(), bot_tag=1)
    runtime.step(e.CommandReceived(time=runtime.state.now, command_id="x", command=AddSlot()))
    parts.close()

    def waiting() -> list[Any]:
        with sqlite3.connect(tmp_path / "bot.db") as db:
            return db.execute("SELECT name, key FROM outbox").fetchall()

    before = waiting()
    assert before
    cli.run(cli.parse([command]), config.load(env, tmp_path / ".env"))
    assert waiting() == before
