"""A database made anew from its copy, and whether a database agrees with its copies."""

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

import config
import engine.restore
from core import events as e
from core.ports import StoreError
from engine.restore import settle_state
from engine.runtime import Runtime, comparable
from store.restore import (
    OVERLAP_SEC,
    Copy,
    copies_of,
    disagreement,
    epochs_of,
    keep_local,
    move_aside,
    own_run,
    restore,
    restored_of,
)
from store.sqlite import SqliteStore, backup
from store.supabase import RemoteError
from store.tables import Table
from tests.test_replica import ADDRESS, Desk, FakeRemote, Row

RUN = {
    "run": "r1", "bot": "grid", "venue": "paper", "pair": "DOGE/USD", "epoch": 7, "program": "0",
    "restored_from": None,
}  # fmt: skip
BOT = {"bot": "grid", "venue": "paper", "pair": "DOGE/USD"}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Yield a store with a round trip behind it, all of it copied as run r1."""
    made = Desk(tmp_path / "bot.db")
    made.remote.rows["runs"]["r1",] = RUN
    with sqlite3.connect(made.path) as db:
        db.execute("UPDATE meta SET value = 'r1' WHERE name = 'run'")
    made.send()
    yield made
    made.close()


def newest(desk: Desk) -> Copy:
    """Return the newest copy."""
    return copies_of(desk.remote, **BOT)[0]


def test_a_database_is_made_anew_with_all_that_was_copied(desk: Desk, tmp_path: Path) -> None:
    """State, parameters and history are the same, amounts to the digit; id and epoch are new."""
    path = tmp_path / "new.db"
    copy, old = newest(desk), desk.store.load()
    restore(desk.remote, path, copy, {"venue": "paper"}, lambda _: None)
    store = SqliteStore(path)
    loaded = store.load()
    assert old is not None
    assert loaded is not None
    assert loaded == old
    assert [x.seq for x in store.snapshots()] == [old.seq]
    was, now = desk.store.export(), store.export()
    assert {name: rows for name, rows in now.items() if name != "equity"} == {
        name: rows for name, rows in was.items() if name != "equity"
    }
    assert store.audit(old) == desk.store.audit(old)
    assert store.recent_cycles(9) == desk.store.recent_cycles(9)
    epoch, facts = store.identity()
    assert epoch != 7
    assert (facts["venue"], facts["restored_from"]) == ("paper", "r1")
    assert facts["run"] not in ("r1", "")
    told = restored_of(facts)
    assert told is not None
    heard = old.state.balances.reported_at
    assert heard is not None
    assert heard < old.state.now
    assert (told.since, told.epochs[0]) == (heard - OVERLAP_SEC, 7)
    assert epochs_of(store)[0] == epoch
    assert 7 in epochs_of(store)
    runtime = Runtime(store, None, None)
    assert runtime.restore()
    assert comparable(runtime.state) == comparable(old.state)
    runtime.step(e.TimerTick(time=runtime.state.now + 60))
    assert runtime.seq == old.seq + 1
    store.close()


def test_rows_later_than_the_state_are_left_to_the_exchange(desk: Desk, tmp_path: Path) -> None:
    """The replica may be ahead of its newest state."""
    copy = newest(desk)
    late = max(row["seq"] for row in desk.remote.rows["executions"].values())
    older = msgspec.structs.replace(copy, seq=late - 1)
    restore(desk.remote, tmp_path / "new.db", older, {}, lambda _: None)
    store = SqliteStore(tmp_path / "new.db")
    assert len(list(store.execution_ids())) == len(list(desk.store.execution_ids())) - 1
    assert store.export()["cycles"] == []
    with sqlite3.connect(tmp_path / "new.db") as db:
        assert db.execute("SELECT count(*) FROM exit_outcomes").fetchone() == (0,)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    store.close()


def test_hourly_points_of_equity_come_back_in_order(desk: Desk, tmp_path: Path) -> None:
    """The first of each hour, the first of each day marked, up to the state."""
    point = next(iter(desk.remote.rows["equity"].values()))
    copy = msgspec.structs.replace(newest(desk), seq=10_000)
    for minutes in range(0, 26 * 60, 10):
        at = copy.time - 26 * 3600 + minutes * 60.0
        desk.remote.rows["equity"]["r1", at] = {**point, "time": at}
    restore(desk.remote, tmp_path / "new.db", copy, {}, lambda _: None)
    with sqlite3.connect(tmp_path / "new.db") as db:
        points = db.execute("SELECT time, is_daily FROM equity ORDER BY seq").fetchall()
    times = [x for x, _ in points]
    assert times == sorted(times)
    assert len(times) in (26, 27)
    assert sum(daily for _, daily in points) in (2, 3)


def test_a_copy_that_cannot_be_used_leaves_nothing_behind(desk: Desk, tmp_path: Path) -> None:
    """Of a newer program, or damaged: refused in words; there is no half database."""
    path, copy = tmp_path / "new.db", newest(desk)
    for change, words in (
        ({"schema": 99}, "newer program"),
        ({"state": "{"}, "the copied state at"),
        ({"params": "[]"}, "the copied parameters at"),
    ):
        with pytest.raises(StoreError, match=words):
            restore(desk.remote, path, msgspec.structs.replace(copy, **change), {}, lambda _: None)
    row = next(iter(desk.remote.rows["executions"].values()))
    desk.remote.rows["executions"]["r1", "twice"] = row
    with pytest.raises(StoreError, match="cannot be made from the copy"):
        restore(desk.remote, path, copy, {}, lambda _: None)
    assert not path.exists()


def test_the_copy_written_last_is_the_newest(desk: Desk) -> None:
    """Of this bot, venue and pair only."""
    desk.remote.rows["runs"]["r2",] = {**RUN, "run": "r2"}
    row = next(iter(desk.remote.rows["snapshots"].values()))
    desk.remote.rows["snapshots"]["r2", 1] = {**row, "run": "r2", "written_at": 9.0}
    desk.remote.rows["runs"]["r3",] = {**RUN, "run": "r3", "bot": "other"}
    desk.remote.rows["snapshots"]["r3", 1] = {**row, "run": "r3", "written_at": 99.0}
    assert [x.run for x in copies_of(desk.remote, **BOT)] == ["r2", "r1"]


def test_a_database_agrees_with_its_own_older_copy_only(desk: Desk, tmp_path: Path) -> None:
    """An older file, one that went another way, and one of another run disagree."""
    path = desk.path
    assert disagreement(path, [newest(desk)]) is None
    backup(path, tmp_path / "older.db")
    desk.runtime.stop()
    desk.step("0.1")
    desk.send(100.0)
    copy = newest(desk)
    assert disagreement(path, [copy]) is None
    told = disagreement(tmp_path / "older.db", [copy])
    assert told is not None
    assert "it is an older one" in told
    other = msgspec.structs.replace(copy, time=copy.time - 10_000)
    assert "differ" in (disagreement(path, [other]) or "")
    stranger = msgspec.structs.replace(copy, run="r2")
    assert "another database" in (disagreement(path, [stranger, copy]) or "")
    assert disagreement(path, [copy, stranger]) is None  # written before ours
    assert disagreement(path, []) is None


def test_a_decision_for_the_database_is_made_once(desk: Desk, tmp_path: Path) -> None:
    """Its copy goes on under a new id with every row, and does not disagree any more."""
    older = tmp_path / "older.db"
    backup(desk.path, older)
    desk.step("0.1")
    desk.send(100.0)
    copies = [newest(desk)]
    assert disagreement(older, copies)
    keep_local(older, copies)
    assert disagreement(older, copies) is None
    store = SqliteStore(older, replica=ADDRESS)
    facts = store.identity()[1]
    assert own_run(facts) != "r1"
    assert facts["run"] == "r1"  # the paper exchange's file belongs to it
    with sqlite3.connect(older) as db:
        rows = db.execute("SELECT count(*) FROM outbox WHERE name = 'executions'").fetchone()
    assert rows == (len(list(store.execution_ids())),)
    store.close()
    later = [msgspec.structs.replace(copies[0], seq=copies[0].seq + 1)]
    assert disagreement(older, later)


def test_files_are_moved_aside_with_what_belongs_to_them(desk: Desk, tmp_path: Path) -> None:
    """Those that are there; a database is whole without its log, and nothing is deleted."""
    (tmp_path / "other").write_text("other")
    desk.step("0.1")
    count = len(list(desk.store.execution_ids()))
    desk.close()
    moved = move_aside([desk.path, tmp_path / "none.db"], "before-1")
    assert tmp_path / "bot.db.before-1" in moved
    store = SqliteStore(tmp_path / "bot.db.before-1")
    assert len(list(store.execution_ids())) == count
    store.close()
    assert (tmp_path / "other").exists()


def settings_of(path: Path) -> config.Settings:
    """Return settings of a daemon on paper with a replica."""
    env = {"STATE_DB": str(path), "SUPABASE_URL": ADDRESS, "SUPABASE_KEY": "sb_0123456789" * 4}
    return config.load(env, path.parent / ".env")


class Door:
    """A replica that answers, but for one table that breaks once."""

    def __init__(self, remote: FakeRemote, broken: str) -> None:
        self.remote, self.broken = remote, broken

    def problem(self) -> None:
        """All is well."""

    def newest(self, table: Table, run: str, by: str) -> Row | None:
        """Return what is there."""
        return self.remote.newest(table, run, by)

    def read(self, table: Table, *, equal: Mapping[str, str]) -> Iterator[Row]:
        """Yield what is there, or break."""
        if table.name == self.broken:
            self.broken = ""
            raise RemoteError("the line broke", is_line=True)
        return self.remote.read(table, equal=equal)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_line_that_breaks_while_the_copy_is_read_changes_nothing(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """It is read again; until it is complete, a database that is there stays where it is."""
    monkeypatch.setattr(engine.restore, "RETRY_SEC", 0.01)
    disk = tmp_path / "disk"
    disk.mkdir()
    venue = "paper, a market"
    desk.remote.rows["runs"]["r1",] = {**RUN, "venue": venue}
    if is_there:
        SqliteStore(disk / "bot.db").close()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        assert (disk / "bot.db").exists() is is_there

    remote: Any = Door(desk.remote, "executions")
    done = settle_state(
        settings_of(disk / "bot.db"), remote, "a market", "remote" if is_there else None,
        stopping=threading.Event(), say=say,
    )  # fmt: skip
    assert done
    assert any("the line broke" in x for x in said)
    store = SqliteStore(disk / "bot.db")
    books = desk.store.load()
    assert books is not None
    assert store.audit(books) == desk.store.audit(books)
    store.close()
    aside = [x.name for x in disk.glob("*.before-*")]
    assert len(aside) == is_there


def test_a_stop_ends_the_reading_of_a_copy(desk: Desk, tmp_path: Path) -> None:
    """Nothing is left but what was there."""
    desk.remote.rows["runs"]["r1",] = {**RUN, "venue": "paper, a market"}
    stopping = threading.Event()
    stopping.set()
    remote: Any = Door(desk.remote, "")
    path = tmp_path / "disk" / "bot.db"
    done = settle_state(
        settings_of(path), remote, "a market", None, stopping=stopping, say=lambda _: None
    )
    assert not done
    assert not path.exists()
