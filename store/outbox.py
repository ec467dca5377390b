"""The outbox: which rows the replica has yet to be given. It names rows, it does not copy them.

A row that changes again before it was sent is sent once, as it then is. Names are written in the
transaction of the step that causes them, by the thread that steps; it alone deletes them, too.
Equity is the one table whose rows lie in the outbox itself: it has a point a minute there.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from decimal import Decimal

import msgspec

from accounting import benchmarks, equity
from core.ports import Commit
from core.record import plain
from store.tables import SNAPSHOTS, TABLES

ROWS_MAX = 500_000  # some 50 MB, and more than a month of one pair
FORGET_ROWS = 500  # deleted in one step at most
TRIM_EVERY = 500  # rows put between two looks at the size
MINUTE_SEC = 60
_EQUITY_STEP = Decimal("0.00000001")
_SHED_FIRST = ("equity", "opinions", "transitions", "operator_log", "ledger_entries")
_REPLACE = "INSERT OR REPLACE INTO outbox (name, key, time, row) "
_TIMES = {
    "orders": "placed_at", "executions": "executed_at", "cycles": "exit_time",
    "transitions": "time", "opinions": "time", "operator_log": "time", "ledger_entries": "time",
}  # fmt: skip

Named = tuple[str, str | int]  # a table and the name of a row in it


class Outbox:
    """Writes the names of changed rows. All calls are made inside the store's transactions."""

    def __init__(self, rows_max: int = ROWS_MAX) -> None:
        self._rows_max = rows_max
        self._untrimmed = TRIM_EVERY
        self._minute: int | None = None

    def put(self, db: sqlite3.Connection, commit: Commit, named: Iterable[Named]) -> None:
        """Name what a commit has written, the state if it has changed, and a minute's equity."""
        time = commit.event.time
        rows: list[tuple[str, str | int, float, str | None]] = [
            (name, key, time, None) for name, key in dict.fromkeys(named)
        ]
        # Before the books are open there is nothing to go back to: no balances to begin with.
        if not commit.is_quiet and commit.state.balances.start_mark:
            rows.append((SNAPSHOTS.name, 1, time, None))
        minute = int(commit.state.now // MINUTE_SEC)
        if minute != self._minute and (point := _equity_point(commit, minute)) is not None:
            rows.append(("equity", minute, time, point))
            self._minute = minute
        db.executemany(_REPLACE + "VALUES (?, ?, ?, ?)", rows)
        self._untrimmed += len(rows)
        if self._untrimmed >= TRIM_EVERY:
            self._untrimmed = 0
            trim(db, self._rows_max)


def _equity_point(commit: Commit, minute: int) -> str | None:
    state = commit.state
    if state.market is None or not state.started_at:
        return None
    value, others = equity(state), benchmarks(state)
    if value is None or others is None:
        return None
    amounts = {
        "equity": value,
        "hold": others.hold,
        "usd": others.usd,
        "doge": others.doge.quantize(_EQUITY_STEP),
        "half": others.half.quantize(_EQUITY_STEP),
        "grid_profit": -(state.accounts.grid_profit + state.accounts.unbooked),
        "fees": state.accounts.fees,
        "mark": state.market.bid,
    }
    point: dict[str, float | str] = {name: plain(amount) for name, amount in amounts.items()}
    point["time"] = float(minute * MINUTE_SEC)
    return msgspec.json.encode(point).decode()


def trim(db: sqlite3.Connection, rows_max: int) -> None:
    """Drop the oldest rows beyond `rows_max`, minutes of equity first; count what is dropped."""
    total: int = db.execute("SELECT count(*) FROM outbox").fetchone()[0]
    others = tuple(x.name for x in TABLES if x.name not in _SHED_FIRST)
    for name in (*_SHED_FIRST, *others):
        if total <= rows_max:
            return
        cursor = db.execute(
            "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE name = ? ORDER BY id "
            "LIMIT ?)",
            (name, total - rows_max),
        )
        total -= cursor.rowcount
        db.execute(
            "INSERT INTO outbox_dropped VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET "
            "count = count + excluded.count",
            (name, cursor.rowcount),
        )


def dropped(db: sqlite3.Connection) -> int:
    """Return how many rows were dropped in all."""
    count: int = db.execute("SELECT coalesce(sum(count), 0) FROM outbox_dropped").fetchone()[0]
    return count


def fill(db: sqlite3.Connection) -> None:
    """Name every row there is: the replica is new, or missed some."""
    for table in TABLES:
        if table.source is not None and table.name in _TIMES:
            db.execute(
                f"{_REPLACE} SELECT DISTINCT '{table.name}', {table.source}, "
                f"{_TIMES[table.name]}, NULL FROM {table.name} ORDER BY {_TIMES[table.name]}"
            )
    db.execute(
        f"{_REPLACE} SELECT 'exit_outcomes', cycle_id, exit_time, NULL FROM exit_outcomes "
        "JOIN cycles ON id = cycle_id ORDER BY cycle_id"
    )
    columns = ("equity", "hold", "usd", "doge", "half", "grid_profit", "fees", "mark")
    pairs = ", ".join(f"'{x}', {x}" for x in columns)
    db.execute(
        f"{_REPLACE} SELECT 'equity', CAST(time / {MINUTE_SEC} AS INTEGER), time, "
        f"json_object({pairs}, 'time', {MINUTE_SEC}.0 * CAST(time / {MINUTE_SEC} AS INTEGER)) "
        "FROM equity ORDER BY seq"
    )
    db.execute(
        f"{_REPLACE} SELECT '{SNAPSHOTS.name}', 1, 0, NULL FROM state "
        "WHERE CAST(json_extract(state, '$.balances.start_mark') AS REAL) > 0"
    )


def empty(db: sqlite3.Connection) -> None:
    """Forget all rows: there is no replica."""
    db.execute("DELETE FROM outbox")
    db.execute("DELETE FROM outbox_dropped")


def forget(db: sqlite3.Connection, acknowledged: Mapping[str, int]) -> bool:
    """Delete what the replica has: rows of each table up to a number; tell whether all are gone.

    A bounded number at a time: after a long outage they are many, and the step waits.
    """
    left = FORGET_ROWS
    for name, number in acknowledged.items():
        cursor = db.execute(
            "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE name = ? AND id <= ? "
            "ORDER BY id LIMIT ?)",
            (name, number, left),
        )
        left -= cursor.rowcount
    return left > 0
