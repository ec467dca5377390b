"""The rows that a commit's event and actions call for, and how they are read again as a whole."""

import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from accounting import orders
from core import actions as a
from core import events as e
from core.domain import Audit
from core.order_id import decode
from core.ports import Commit, Loaded, StoreError
from core.record import plain
from grid import auditing
from store import codec
from store.outbox import Named

_LOCAL = ("events", "hourly")  # the replica has its own points of equity, one a minute


class Rows:
    """Writes rows of one commit, and keeps the names of those that were written.

    A number that is none is refused here, where it comes from: SQLite would keep it as NULL.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self.named: list[Named] = []
        self._db = db

    def write(self, name: str, key: str | int, query: str, values: Sequence[object]) -> int | None:
        """Run an INSERT or UPDATE on the row `key` of the table `name`; return its row id.

        Raises StoreError where a value is no finite number.
        """
        for value in values:
            if isinstance(value, float) and not math.isfinite(value):
                raise StoreError(f"a row of {name} ({key}) holds {value}, which is no number")
        cursor = self._db.execute(query, values)
        if cursor.rowcount > 0 and name not in _LOCAL:
            self.named.append((name, key if key != "" else int(cursor.lastrowid or 0)))
        return cursor.lastrowid

    def read(self, query: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        """Return what a query finds."""
        return self._db.execute(query, values).fetchall()


def write(connection: sqlite3.Connection, commit: Commit) -> list[Named]:
    """Write the history rows of a commit, inside its transaction; return the names of them."""
    db = Rows(connection)
    _order_event(db, commit)
    posting = 0
    for line, action in enumerate(commit.actions, 1):
        match action:
            case a.PlaceOrderAction():
                _place(db, action)
            case a.CancelOrderAction():
                _status(db, action.client_order_id, "cancelling")
            case a.RecordExecution():
                _execution(db, action, commit.seq)
            case a.BookCycleAction():
                _cycle(db, action, commit.seq)
            case a.PostEntries():
                posting += 1
                _post(db, action, commit, posting)
            case a.RecordEquity():
                _equity(db, action, commit)
            case a.RecordTransition():
                db.write(
                    "transitions",
                    commit.seq,
                    "INSERT INTO transitions VALUES (?, ?, ?, ?, ?, ?)",
                    (commit.seq, line, commit.event.time, action.kind, action.name, action.detail),
                )
            case a.Notify():
                db.write(
                    "events",
                    commit.seq,
                    "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
                    (commit.seq, line, commit.event.time, action.level, action.kind, action.text),
                )
            case a.ReplyToOperator():
                _reply(db, action, commit)
            case a.RecordOpinion():
                _opinion(db, action, commit)
            case a.RecordScore():
                _score(db, action, commit.event.time)
            case (
                a.OrphanOrderAction()
                | a.RequestReconcile()
                | a.RequestEstimate()
                | a.RequestTraining()
                | a.RequestKelly()
                | a.RequestOpinion()
            ):
                pass
    return db.named


def _post(db: Rows, action: a.PostEntries, commit: Commit, posting: int) -> None:
    for line, entry in enumerate(action.entries):
        db.write(
            "ledger_entries",
            commit.seq,
            "INSERT INTO ledger_entries VALUES (?, ?, ?, ?, ?, ?, ?)",
            (commit.seq, posting, line, commit.event.time, action.reason, entry.account,
             _amount(entry.amount)),
        )  # fmt: skip


def _amount(value: Decimal) -> str:
    """Return an amount as it is stored. Raises StoreError where it is no finite number."""
    if not value.is_finite():
        raise StoreError(f"an amount is {value}, which is no number: the step is not booked")
    return plain(value)


def _place(db: Rows, action: a.PlaceOrderAction) -> None:
    order = action.order
    db.write(
        "orders",
        order.client_order_id,
        f"INSERT INTO orders VALUES ({', '.join('?' * 13)}, NULL, NULL, NULL)",
        (
            order.client_order_id, action.slot_id, order.trade_id, order.role, order.side,
            _amount(order.price), _amount(order.volume), order.cycle, order.attempt,
            codec.encode(action.chain), action.deadline, order.placed_at, "pending",
        ),
    )  # fmt: skip


def _status(
    db: Rows,
    client_order_id: str,
    status: str,
    *,
    txid: str | None = None,
    detail: str | None = None,
    closed_at: float | None = None,
) -> None:
    db.write(
        "orders",
        client_order_id,
        "UPDATE orders SET status = ?, txid = coalesce(?, txid), detail = coalesce(?, detail), "
        "closed_at = coalesce(?, closed_at) WHERE client_order_id = ? AND closed_at IS NULL",
        (status, txid, detail, closed_at, client_order_id),
    )


def _order_event(db: Rows, commit: Commit) -> None:
    event = commit.event
    match event:
        case e.OrderAccepted() | e.OrderFound():
            _status(db, event.client_order_id, "open", txid=event.txid)
        case e.OrderRestored():
            _restored(db, event)
        case e.OrderRejected():
            detail = f"{event.reason} {event.detail}".strip()
            is_doubted = any(
                isinstance(x, a.RequestReconcile) and event.client_order_id in x.client_order_ids
                for x in commit.actions
            )
            if is_doubted:
                _status(db, event.client_order_id, "uncertain", detail=detail)
            elif not _is_alive(commit, event.client_order_id):
                _status(db, event.client_order_id, "rejected", detail=detail, closed_at=event.time)
        case e.OrderUncertain():
            _status(db, event.client_order_id, "uncertain", detail=event.detail)
        case e.OrderClosed():
            _status(db, event.client_order_id, "closed", detail=event.reason, closed_at=event.time)
        case _:
            pass


def _restored(db: Rows, event: e.OrderRestored) -> None:
    """Write an order whose row was lost; its id tells its place, how it was sized is not known."""
    place = decode(event.client_order_id)
    if place is None:
        return
    db.write(
        "orders",
        event.client_order_id,
        f"INSERT OR IGNORE INTO orders VALUES ({', '.join('?' * 16)})",
        (
            event.client_order_id, place.slot, place.trade_id, place.role, event.side,
            _amount(event.price), _amount(event.volume), place.cycle, place.attempt, "[]",
            event.opened_at, event.opened_at, "open", event.txid, None, None,
        ),
    )  # fmt: skip


def _is_alive(commit: Commit, client_order_id: str) -> bool:
    return any(x.client_order_id == client_order_id for x in orders(commit.state))


def _execution(db: Rows, x: a.RecordExecution, seq: int) -> None:
    db.write(
        "executions",
        x.execution_id,
        "INSERT INTO executions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'quote', ?, ?, ?)",
        (
            x.execution_id, x.client_order_id, x.txid, x.slot_id, x.trade_id, x.role, x.cycle,
            x.side, _amount(x.price), _amount(x.volume), _amount(x.cost), _amount(x.fee),
            x.is_maker, x.executed_at, seq,
        ),
    )  # fmt: skip
    query = "SELECT volume FROM {} WHERE client_order_id = ?"
    volumes = db.read(query.format("orders"), (x.client_order_id,))
    parts = db.read(query.format("executions"), (x.client_order_id,))
    wanted = [Decimal(str(volume)) for (volume,) in volumes]
    if wanted == [sum(Decimal(str(part)) for (part,) in parts)]:
        _status(db, x.client_order_id, "filled", txid=x.txid, closed_at=x.executed_at)


def _cycle(db: Rows, action: a.BookCycleAction, seq: int) -> None:
    x = action.record
    cycle_id = db.write(
        "cycles",
        "",
        "INSERT INTO cycles (slot_id, trade_id, cycle, entry_price, exit_price, volume, "
        "gross_profit, entry_fee, exit_fee, fees, net_profit, entry_time, exit_time, "
        "from_recovery, regime_at_entry, resolution, seq) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            action.slot_id, x.trade_id, x.cycle, _amount(x.entry_price), _amount(x.exit_price),
            _amount(x.volume), _amount(x.gross_profit), _amount(x.entry_fee), _amount(x.exit_fee),
            _amount(x.fees), _amount(x.net_profit), x.entry_time, x.exit_time, x.from_recovery,
            x.regime_at_entry, action.resolution, seq,
        ),
    )  # fmt: skip
    db.write(
        "exit_outcomes",
        cycle_id or 0,
        f"INSERT INTO exit_outcomes VALUES ({', '.join('?' * 12)})",
        (
            cycle_id, action.resolution, x.exit_time - x.entry_time, action.orphaned_at,
            _amount(x.entry_price), _amount(x.exit_price), _amount(x.net_profit), x.regime_at_entry,
            action.regime_confidence, action.regime_bias_signal, action.against_trend,
            action.regime_tier,
        ),
    )  # fmt: skip


def _equity(db: Rows, x: a.RecordEquity, commit: Commit) -> None:
    amounts = (x.equity, x.hold, x.usd, x.doge, x.half, x.grid_profit, x.fees, x.mark)
    db.write(
        "hourly",
        commit.seq,
        "INSERT INTO equity VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (commit.seq, x.time, *(_amount(amount) for amount in amounts), x.is_daily),
    )


def _reply(db: Rows, x: a.ReplyToOperator, commit: Commit) -> None:
    command = commit.event.command if isinstance(commit.event, e.CommandReceived) else None
    db.write(
        "operator_log",
        commit.seq,
        "INSERT INTO operator_log VALUES (?, ?, ?, ?, ?, ?)",
        (
            commit.seq,
            commit.event.time,
            x.command_id,
            msgspec.json.encode(command).decode(),
            x.is_accepted,
            x.message,
        ),
    )


def _opinion(db: Rows, x: a.RecordOpinion, commit: Commit) -> None:
    said = x.opinion
    db.write(
        "opinions",
        x.id,
        f"INSERT INTO opinions VALUES ({', '.join('?' * 17)}, NULL, NULL, NULL, NULL)",
        (
            x.id, commit.seq, commit.event.time, x.asked_at, x.trigger, said.panelist,
            said.error or None, said.recommended_tier, said.recommended_direction, said.conviction,
            said.rationale, said.watch_for, said.suggested_ttl_minutes, x.agreement,
            x.mechanical_tier, x.mechanical_direction,
            None if x.price is None else _amount(x.price),
        ),
    )  # fmt: skip


def _score(db: Rows, x: a.RecordScore, time: float) -> None:
    db.write(
        "opinions",
        x.id,
        "UPDATE opinions SET scored_at = ?, price_after = ?, advised_outcome = ?, "
        "mechanical_outcome = ? WHERE id = ?",
        (time, _amount(x.price), x.advised, x.mechanical, x.id),
    )


def _export(table: str, columns: str, order: str, where: str = "") -> tuple[str, list[str], str]:
    names = [name.strip() for name in columns.split(",")]
    return table, names, f"SELECT {columns} FROM {table} {where} ORDER BY {order}"


EXPORTS = (
    _export(
        "executions",
        "execution_id, client_order_id, txid, slot_id, trade_id, role, cycle, side, price, volume, "
        "cost, fee, fee_asset, is_maker, executed_at",
        "executed_at, execution_id",
    ),
    _export(
        "orders",
        "client_order_id, slot_id, trade_id, role, side, price, volume, cycle, attempt, chain, "
        "placed_at, status, txid, detail, closed_at",
        "placed_at, client_order_id",
    ),
    _export(
        "cycles",
        "slot_id, trade_id, cycle, entry_price, exit_price, volume, gross_profit, entry_fee, "
        "exit_fee, fees, net_profit, entry_time, exit_time, from_recovery, regime_at_entry, "
        "resolution",
        "exit_time, slot_id, trade_id, cycle",
    ),
    _export("ledger_entries", "time, reason, account, amount", "seq, posting, line"),
    _export("transitions", "time, kind, name, detail", "seq, line"),
    _export(
        "equity",
        "time, equity, hold, usd, doge, half, grid_profit, fees, mark",
        "seq",
        "WHERE is_daily",
    ),
)

# What statistics of cycles read: the newest of each regime at entry, and of all, oldest first.
CYCLE_COLUMNS = (
    "id", "slot_id", "trade_id", "entry_price", "volume", "entry_fee", "net_profit", "entry_time",
    "exit_time", "regime_at_entry",
)  # fmt: skip
_NEWEST = "SELECT id FROM (SELECT id FROM cycles {} ORDER BY id DESC LIMIT ?)"
_CHOSEN = " UNION ".join(
    _NEWEST.format(where) for where in ("", *(f"WHERE regime_at_entry = {x}" for x in range(3)))
)
RECENT_CYCLES = f"SELECT {', '.join(CYCLE_COLUMNS)} FROM cycles WHERE id IN ({_CHOSEN}) ORDER BY id"

_BY_CYCLE = "ORDER BY slot_id, trade_id, cycle"


def audit(loaded: Loaded, read: Callable[[str], Iterable[Sequence[Any]]]) -> Audit:
    """Return how books differ from the executions of the same instant. Raises StoreError."""
    try:
        return auditing.recompute(
            loaded.state,
            loaded.seq,
            read(f"SELECT {auditing.EXECUTED} FROM executions {_BY_CYCLE}"),
            read(f"SELECT {auditing.BOOKED} FROM cycles {_BY_CYCLE}"),
        )
    except (ArithmeticError, LookupError) as error:
        raise StoreError(f"executions or cycles hold what is no amount: {error!r}") from None
