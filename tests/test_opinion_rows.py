"""Opinions of the advisor in the database and in its copy: written once, scored later."""

import sqlite3
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from core import actions as a
from core import events as e
from core.advice import LONG_BIAS, SYMMETRIC, Opinion
from core.advisor_status import PastOpinion
from core.ports import Commit, Loaded, StoreError
from core.record import replace
from engine.runtime import Runtime
from store import outbox
from store.history import FILLS_READ, SqliteHistory
from store.memory import MemoryStore
from store.replica import Replica
from store.restore import Copy, copies_of, restore
from store.sqlite import SqliteStore
from store.supabase import Supabase
from tests.postgrest_shim import SERVICE_KEY, Shim
from tests.test_replica import ADDRESS, Desk
from tests.test_store import ROOT, trade

D = Decimal
SAID = Opinion(
    recommended_tier=1, recommended_direction=LONG_BIAS, conviction=72, rationale="the trend holds",
    watch_for="a break", suggested_ttl_minutes=30, panelist="one",
)  # fmt: skip
RUN = {
    "run": "r1", "bot": "grid", "venue": "paper", "pair": "DOGE/USD", "epoch": 7, "program": "0",
    "restored_from": None,
}  # fmt: skip


def opinion(number: int, **changes: Any) -> a.RecordOpinion:
    """Return the action that an opinion is kept by."""
    made = a.RecordOpinion(
        id=number, opinion=SAID, asked_at=1.5, trigger="interval", agreement="ai_upgrade",
        mechanical_tier=0, mechanical_direction=SYMMETRIC, price=D("0.1000"),
    )  # fmt: skip
    return replace(made, **changes)


def score(number: int, price: str = "0.1012") -> a.RecordScore:
    """Return the action that an opinion is scored by."""
    return a.RecordScore(id=number, price=D(price), advised="right", mechanical="inside")


def record(runtime: Runtime, *actions: a.Action, after_sec: float = 1.0) -> None:
    """Commit a step with these actions."""
    state = replace(runtime.state, now=runtime.state.now + after_sec)
    runtime.store.commit(
        Commit(
            seq=runtime.seq + 1, event=e.TimerTick(time=state.now), actions=actions, state=state,
            is_quiet=False, is_critical=False,
        )
    )  # fmt: skip
    runtime.seq, runtime.state = runtime.seq + 1, state


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Yield a store with a round trip behind it and a replica that is driven by hand, run r1."""
    made = Desk(tmp_path / "bot.db")
    made.remote.rows["runs"]["r1",] = RUN
    yield made
    made.close()


# ---- the database -------------------------------------------------------------------------------


def test_an_opinion_is_kept_as_it_came_and_scored_later(desk: Desk) -> None:
    """One row: its texts, what stood against it, and an hour later who was right."""
    record(desk.runtime, opinion(1))
    came, seq = desk.runtime.state.now, desk.runtime.seq
    row = (
        1, seq, came, 1.5, "interval", "one", None, 1, LONG_BIAS, 72, "the trend holds", "a break",
        30, "ai_upgrade", 0, SYMMETRIC, "0.1000",
    )  # fmt: skip
    assert desk.local("SELECT * FROM opinions") == [(*row, None, None, None, None)]
    record(desk.runtime, score(1), after_sec=3600.0)
    scored = (came + 3600.0, "0.1012", "right", "inside")
    assert desk.local("SELECT * FROM opinions") == [(*row, *scored)]


def test_what_is_no_opinion_yet_leaves_no_row(desk: Desk) -> None:
    """A question, and the score of an opinion that is gone, write and name nothing."""
    named = desk.local("SELECT name, key FROM outbox")
    record(desk.runtime, a.RequestOpinion(trigger="interval"), score(9))
    assert desk.local("SELECT * FROM opinions") == []
    assert desk.local("SELECT name, key FROM outbox") == named


def test_an_opinion_is_kept_once_and_with_numbers_only(desk: Desk) -> None:
    """A number given twice, and a price that is none, are errors; the step is not booked."""
    record(desk.runtime, opinion(1))
    for action, words in (
        (opinion(1), "twice"),
        (opinion(2, price=D("NaN")), "an amount is NaN"),
        (opinion(2, asked_at=float("inf")), "holds inf"),
        (score(1, "Infinity"), "an amount is Infinity"),
    ):
        with pytest.raises(StoreError, match=words):
            record(desk.runtime, action)
    assert desk.local("SELECT id, scored_at FROM opinions") == [(1, None)]


def test_opinions_go_with_the_story_they_belong_to() -> None:
    """Those older than the retention are deleted, however many there are; the others stay."""
    store = MemoryStore(epoch=7, history_days=31)
    runtime = trade(store)
    for n in range(1, 21):
        runtime.step(e.TimerTick(time=runtime.state.now + 2 * 86_400))
        record(runtime, opinion(n))
    store.snapshot(Loaded(seq=runtime.seq, state=runtime.state, params=runtime.params))
    kept = list(store._rows("SELECT id, time FROM opinions ORDER BY id"))
    assert [n for n, _ in kept] == list(range(kept[0][0], 21))
    oldest = runtime.state.now - 33 * 86_400
    assert oldest < kept[0][1] < oldest + 3 * 86_400
    plan = store._rows("EXPLAIN QUERY PLAN DELETE FROM opinions WHERE seq <= 5")
    assert "opinions_in_order" in str(list(plan))  # an hourly look at every text would be felt


def test_a_database_without_opinions_takes_them(tmp_path: Path) -> None:
    """That of schema 2 migrates with all that waits for its replica, and goes on from there."""
    path = tmp_path / "bot.db"
    waiting = "SELECT * FROM outbox ORDER BY id"
    with sqlite3.connect(path) as db:
        db.executescript((ROOT / "tests/golden/store_v2.sql").read_text())
        before = db.execute(waiting).fetchall()
    store = SqliteStore(path, replica=ADDRESS)
    assert list(store._rows(waiting)) == before
    assert SqliteHistory(path).recent_opinions(10) == []
    runtime = Runtime(store, None, None)
    assert runtime.restore()
    record(runtime, opinion(1))
    assert ("opinions", 1) in store._rows("SELECT name, key FROM outbox")
    store.close()


# ---- the history --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("0.1000", "0.1012", "1.200"),
        ("0.3", "0.1", "-66.667"),
        ("0.1000", "0.0999999999", "0.000"),
        ("0.00000001", "0.1", "999999900.000"),
        (None, "0.1", None),
        ("0.1", None, None),
        ("0", "0.1", None),
    ],
)
def test_the_change_after_an_opinion_is_exact(
    tmp_path: Path, before: str | None, after: str | None, expected: str | None
) -> None:
    """In percent, to a thousandth; none without both prices."""
    store = SqliteStore(tmp_path / "bot.db")
    runtime = trade(store)
    record(runtime, opinion(1, price=None if before is None else D(before)))
    if after is not None:
        record(runtime, score(1, after))
    (found,) = SqliteHistory(tmp_path / "bot.db").recent_opinions(1)
    assert found["change_pct"] == expected
    store.close()


def test_recent_opinions_are_those_of_the_status(desk: Desk) -> None:
    """The newest first, field by field a past opinion; from a thread of its own, too."""
    failed = Opinion(panelist="two", error="timeout")
    record(desk.runtime, opinion(1), opinion(2, opinion=failed, agreement="error"), opinion(3))
    record(desk.runtime, score(1), after_sec=3600.0)
    history, found = SqliteHistory(desk.path), list[dict[str, Any]]()
    thread = threading.Thread(target=lambda: found.extend(history.recent_opinions(2)))
    thread.start()
    thread.join()
    assert [x["id"] for x in found] == [3, 2]
    past = [PastOpinion(**x) for x in history.recent_opinions(9)]
    assert [x.to_dict() for x in past] == history.recent_opinions(9)
    assert (past[1].error, past[1].panelist, past[1].agreement) == ("timeout", "two", "error")
    assert past[2] == PastOpinion(
        id=1, at=desk.runtime.state.now - 3600.0, panelist="one", error=None, recommended_tier=1,
        recommended_direction=LONG_BIAS, conviction=72, agreement="ai_upgrade", mechanical_tier=0,
        mechanical_direction=SYMMETRIC, change_pct="1.200", advised_outcome="right",
        mechanical_outcome="inside",
    )  # fmt: skip


def test_fills_are_counted_among_the_newest(desk: Desk) -> None:
    """Later than an instant, however long the history; never more than are read."""
    history = SqliteHistory(desk.path)
    at = desk.local("SELECT max(executed_at) FROM executions")[0][0]
    assert (history.fills_since(at), history.fills_since(at - 1)) == (0, 2)
    with sqlite3.connect(desk.path) as db:
        db.executemany(
            "INSERT INTO executions SELECT ?, client_order_id, txid, slot_id, trade_id, role, "
            "cycle, side, price, volume, cost, fee, fee_asset, is_maker, ?, seq FROM executions "
            "WHERE execution_id = 'E1'",
            [(f"later {n}", at + n) for n in range(1, FILLS_READ + 51)],
        )
    assert history.fills_since(at + FILLS_READ) == 50
    assert history.fills_since(0.0) == FILLS_READ


# ---- the copy -----------------------------------------------------------------------------------


def test_a_score_is_sent_after_its_opinion_was(desk: Desk) -> None:
    """A row that was acknowledged is sent again once it is scored; unsent ones go once."""
    record(desk.runtime, opinion(1))
    desk.send()
    assert desk.remote.rows["opinions"]["r1", 1]["advised_outcome"] is None
    assert desk.local("SELECT count(*) FROM outbox") == [(0,)]
    record(desk.runtime, score(1), opinion(2))
    record(desk.runtime, score(2))
    desk.remote.writes.clear()
    desk.send()
    sent = [row for name, row in desk.remote.writes if name == "opinions"]
    assert [(x["id"], x["price"], x["price_after"], x["advised_outcome"]) for x in sent] == [
        (1, "0.1000", "0.1012", "right"), (2, "0.1000", "0.1012", "right"),
    ]  # fmt: skip
    assert desk.remote.counts()["opinions"] == 2


def test_a_new_replica_is_given_opinions_and_a_full_outbox_sheds_them(desk: Desk) -> None:
    """They are history: named again by a start, dropped before the books are, and counted."""
    record(desk.runtime, *(opinion(n) for n in range(1, 6)))
    with sqlite3.connect(desk.path) as db:
        outbox.empty(db)
        outbox.fill(db)
        keys = db.execute("SELECT key FROM outbox WHERE name = 'opinions' ORDER BY id").fetchall()
        assert keys == [(n,) for n in range(1, 6)]
        query = "SELECT count(*) FROM outbox WHERE name NOT IN ('equity', 'opinions')"
        others = db.execute(query).fetchone()[0]
        outbox.trim(db, others + 2)
        assert db.execute(query).fetchone()[0] == others
        left = db.execute("SELECT key FROM outbox WHERE name = 'opinions'").fetchall()
    assert left == [(4,), (5,)]
    assert ("opinions", 3) in desk.local("SELECT name, count FROM outbox_dropped")


def test_opinions_come_back_as_they_stood_at_the_copied_state(desk: Desk, tmp_path: Path) -> None:
    """Later ones do not, nor what was scored later: the state still waits for it."""
    record(desk.runtime, opinion(1), opinion(2))
    record(desk.runtime, score(1))
    desk.send()
    copy, kept = copy_of(desk), desk.local("SELECT * FROM opinions")
    record(desk.runtime, opinion(3), score(2))
    desk.send(1.0)
    restore(desk.remote, tmp_path / "new.db", copy, {}, lambda _: None)
    store = SqliteStore(tmp_path / "new.db")
    assert list(store._rows("SELECT * FROM opinions ORDER BY id")) == kept
    runtime = Runtime(store, None, None)
    assert runtime.restore()
    record(runtime, score(2), opinion(3))
    store.close()


def copy_of(desk: Desk) -> Copy:
    """Return the newest copy of run r1."""
    return copies_of(desk.remote, bot="grid", venue="paper", pair="DOGE/USD")[0]


@pytest.mark.slow
def test_opinions_survive_the_way_there_and_back(tmp_path: Path, shim: Shim) -> None:
    """Through a real database: every column as it was, one row each, and the score on top."""
    path, remote = tmp_path / "bot.db", Supabase(shim.url, SERVICE_KEY)
    store = SqliteStore(path, epoch=7, replica=shim.url)
    store.keep_fact("run", "r1")
    runtime = trade(store)
    ticks = iter(range(0, 10**6, 3600))
    replica = Replica(
        remote, path, address=shim.url, run=RUN, rng=Random(1),
        monotonic=lambda: float(next(ticks)), wall=lambda: 5.0,
    )  # fmt: skip
    odd = replace(SAID, rationale='"q\\uote\\", %,()\n' + "é😀" * 200, conviction=0)
    record(runtime, opinion(1), opinion(2, price=None), opinion(3, opinion=odd))
    replica.send_once()
    store.forget_sent(replica.acknowledged())
    assert shim.sql("select count(*), count(scored_at) from opinions") == "3|0"
    record(runtime, score(1), score(3, "0.10000000000000000001"))
    replica.send_once()
    assert shim.sql("select count(*), count(scored_at) from opinions") == "3|2"
    (copy,) = copies_of(remote, bot="grid", venue="paper", pair="DOGE/USD")
    restore(remote, tmp_path / "new.db", copy, {}, lambda _: None)
    with sqlite3.connect(path) as old, sqlite3.connect(tmp_path / "new.db") as new:
        query = "SELECT * FROM opinions ORDER BY id"
        assert new.execute(query).fetchall() == old.execute(query).fetchall()
    replica.stop()
    store.close()
