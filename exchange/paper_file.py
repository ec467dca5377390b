"""The file of a paper exchange: its state, orders, executions and undelivered messages.

One writer, one transaction per commit. Nothing here knows what a record means for the market.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from core import events as e
from core.actions import CancelOrderAction, PlaceOrderAction, RequestReconcile
from core.domain import ZERO, FeeRates, Instrument, OrderState, RejectReason, Side
from core.market import Book, Trade
from core.ports import Message, StoreError
from core.record import Record, plain
from exchange.matching import EngineState, MatchingConfig, Quote, VenueExecution
from exchange.own_file import open_file

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS parts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS cursor (id INTEGER PRIMARY KEY CHECK (id = 1), value TEXT) STRICT;
INSERT OR IGNORE INTO cursor VALUES (1, NULL);
CREATE TABLE IF NOT EXISTS orders (
    txid TEXT PRIMARY KEY, client_order_id TEXT NOT NULL, side TEXT NOT NULL, price TEXT NOT NULL,
    volume TEXT NOT NULL, arrived_at REAL NOT NULL, status TEXT NOT NULL, executed TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS orders_by_client ON orders (client_order_id);
CREATE TABLE IF NOT EXISTS executions (
    execution_id TEXT PRIMARY KEY, txid TEXT NOT NULL, record TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS executions_by_order ON executions (txid);
CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY, event TEXT NOT NULL) STRICT;
"""
PRUNE_MESSAGES = 256  # so many acknowledged messages are deleted at a time
_encode = msgspec.json.Encoder().encode


class Travelling(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Something on its way: a request to the venue, or a message to the bot.

    Neither request nor event: a report of the balances, written on delivery. `about` is the order
    it tells of; `hides_*` what its execution did to the balances, unseen until it is delivered.
    """

    at: float
    number: int
    request: PlaceOrderAction | CancelOrderAction | RequestReconcile | None = None
    event: e.Event | None = None
    about: str = ""
    hides_base: Decimal = ZERO
    hides_quote: Decimal = ZERO


class Flight(Record, frozen=True, kw_only=True):
    """Everything on its way, in order of time."""

    items: tuple[Travelling, ...] = ()


class Cursor(Record, frozen=True, kw_only=True, gc=False):
    """How far market and deliveries have come. `ticks`: (time of arrival, quote), in order."""

    now: float
    last_tick: float
    read: int = 0
    numbered: int = 0
    delivered: int = 0
    acknowledged: int = 0
    has_ended: bool = False
    quote: Quote | None = None
    ticks: tuple[tuple[float, Quote], ...] = ()
    hidden_base: Decimal = ZERO
    hidden_quote: Decimal = ZERO
    fees: FeeRates | None = None  # as last announced; looked at once a day
    fees_day: int = -1
    tail: tuple[Trade, ...] = ()  # of a live market: the prints of the newest instant taken


class PaperBooks(Record, frozen=True, kw_only=True):
    """The paper exchange's own books, for comparison; sums are over its table of executions.

    `base_change` and `quote_change` are what executions did to the balances, fees included.
    """

    start_base: Decimal
    start_quote: Decimal
    base: Decimal
    quote: Decimal
    base_change: Decimal
    quote_change: Decimal
    fees: Decimal
    executions: int
    orders: int
    effects: dict[str, tuple[Decimal, Decimal]]  # of each execution on base and quote
    untold: frozenset[str]  # executions that the bot need not know of yet


class PaperFile:
    """One SQLite file, or ":memory:". Every method raises StoreError when the file fails."""

    def __init__(
        self,
        path: Path | str,
        *,
        market: str,
        content: str,
        instrument: Instrument,
        config: MatchingConfig,
        start_base: Decimal,
        start_quote: Decimal,
        run: str,
        must_exist: bool,
        terms: str = "",
    ) -> None:
        """Open or create it; `terms` stand for what may differ when a live market is gone on with.

        Such a market sets limits of the pair anew, and the start was worth something else then.
        """
        self._path = str(path)
        self._db = open_file(str(path), _SCHEMA, "the paper exchange's")
        self._statements: list[tuple[str, Sequence[Any]]] = []
        self._forgotten = 0
        self._log = -1
        facts = {
            "run": run,
            "market": market,
            "content of the market's file": content,
            "start": f"{plain(start_base)} base and {plain(start_quote)} quote",
            **{f"instrument {k}": str(v) for k, v in instrument.to_dict().items()},
            **{f"setting {k}": str(v) for k, v in config.to_dict().items()},
        }
        if terms:
            facts["start settings"] = terms
        free = {"start", *(x for x in facts if x.startswith("instrument "))} if terms else set()
        try:
            self._check_facts(facts, free - {"instrument pair"}, must_exist=must_exist)
        except BaseException:
            self._db.close()
            raise

    # ---- reading ------------------------------------------------------------------------------

    def engine(self) -> EngineState | None:
        """Return the stored engine, None for a new file."""
        state: EngineState | None = self._part("engine", EngineState)
        return state

    def book(self) -> Book | None:
        """Return the last book of the market, if there was one."""
        book: Book | None = self._part("book", Book)
        return book

    def flight(self) -> Flight:
        """Return everything on its way."""
        flight: Flight | None = self._part("flight", Flight)
        return flight or Flight()

    def cursor(self) -> Cursor | None:
        """Return how far it has come, None for a new file."""
        rows = self._rows("SELECT value FROM cursor")
        return self._decoded(rows[0][0], Cursor) if rows and rows[0][0] is not None else None

    def pending(self, after: int) -> tuple[Message, ...]:
        """Return delivered messages with numbers above `after`, in order."""
        self.flush()
        sql = "SELECT seq, event FROM outbox WHERE seq > ? ORDER BY seq"
        rows = self._rows(sql, (after,))
        return tuple(Message(seq=s, event=self._decoded(text, e.Event)) for s, text in rows)

    def order(self, client_order_id: str) -> tuple[str, str, Decimal] | None:
        """Return txid, status and executed volume of the newest order of that id, or None."""
        self.flush()
        sql = (
            "SELECT txid, status, executed FROM orders WHERE client_order_id = ? "
            "ORDER BY rowid DESC LIMIT 1"
        )
        rows = self._rows(sql, (client_order_id,))
        return (rows[0][0], rows[0][1], Decimal(rows[0][2])) if rows else None

    def executions_of(self, txid: str) -> list[VenueExecution]:
        """Return the executions of one order, oldest first."""
        self.flush()
        sql = "SELECT record FROM executions WHERE txid = ? ORDER BY rowid"
        return [self._decoded(text, VenueExecution) for (text,) in self._rows(sql, (txid,))]

    def known_of(self, client_order_id: str, at: float, *, is_coming: bool) -> Iterator[e.Event]:
        """Yield what the venue knows of an order; nothing while its placement still travels."""
        found = self.order(client_order_id)
        if found is None:
            if not is_coming:
                reason = RejectReason.NEVER_ARRIVED
                yield e.OrderRejected(time=at, client_order_id=client_order_id, reason=reason)
            return
        txid, status, executed = found
        for fill in self.executions_of(txid):
            yield fill_event(fill)
        if status == "open":
            yield e.OrderFound(
                time=at, client_order_id=client_order_id, txid=txid, executed=executed
            )
        elif not is_coming:
            yield e.OrderClosed(
                time=at, client_order_id=client_order_id, reason=status, executed=executed
            )

    def executions(self) -> Iterator[VenueExecution]:
        """Yield all executions, oldest first."""
        return _executions(self._db)

    def books(self) -> PaperBooks:
        """Return exact totals as of the last commit."""
        return _books(self._db, self._path, 0)

    # ---- writing, with the next commit --------------------------------------------------------

    def add_order(self, order: OrderState, txid: str, at: float) -> None:
        """Add an accepted order."""
        row = (
            txid,
            order.client_order_id,
            order.side.value,
            plain(order.price),
            plain(order.volume),
            at,
        )
        self._add("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, 'open', '0')", row)

    def change_order(self, txid: str, status: str, executed: Decimal) -> None:
        """Change status and executed volume of an order."""
        sql = "UPDATE orders SET status = ?, executed = ? WHERE txid = ?"
        self._add(sql, (status, plain(executed), txid))

    def add_execution(self, fill: VenueExecution) -> None:
        """Add an execution; an id that exists already fails the commit."""
        row = (fill.execution_id, fill.txid, _encode(fill).decode())
        self._add("INSERT INTO executions VALUES (?, ?, ?)", row)

    def add_message(self, message: Message) -> None:
        """Add a delivered message."""
        row = (message.seq, _encode(message.event).decode())
        self._add("INSERT INTO outbox VALUES (?, ?)", row)

    def commit(
        self,
        cursor: Cursor,
        *,
        engine: EngineState | None,
        flight: Flight | None,
        book: Book | None,
        is_full: bool,
    ) -> None:
        """Write the cursor, what was added, and the parts that are given, in one transaction.

        `is_full`: it survives a power cut; of prices and balance reports the last may be lost.
        """
        for name, value in (("engine", engine), ("flight", flight), ("book", book)):
            if value is not None:
                self._add("REPLACE INTO parts VALUES (?, ?)", (name, _encode(value).decode()))
        if cursor.acknowledged >= self._forgotten + PRUNE_MESSAGES:
            self._add("DELETE FROM outbox WHERE seq <= ?", (cursor.acknowledged,))
            self._forgotten = cursor.acknowledged
        write = ("UPDATE cursor SET value = ? WHERE id = 1", (_encode(cursor).decode(),))
        if self._statements or self._db.in_transaction:
            self._add(*write)
            self.flush()
            self._execute("COMMIT")
        else:
            self._execute(*write)  # a statement alone is a transaction
        if is_full:
            self._sync()

    def flush(self) -> None:
        """Carry out what was added inside the open transaction, so that reads see it."""
        if self._statements and not self._db.in_transaction:
            self._execute("BEGIN IMMEDIATE")
        for sql, values in self._statements:
            self._execute(sql, values)
        self._statements.clear()

    def close(self) -> None:
        """Release the file; safe to call twice."""
        self._db.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    def _sync(self) -> None:
        """Have what is committed survive a power cut; changing the pragma would cost far more."""
        log = f"{self._path}-wal"
        if self._log < 0 and Path(log).exists():
            self._log = os.open(log, os.O_RDONLY)
        if self._log >= 0:
            os.fsync(self._log)

    # ---- SQLite -------------------------------------------------------------------------------

    def _add(self, sql: str, values: Sequence[Any]) -> None:
        self._statements.append((sql, values))

    def _execute(self, sql: str, values: Sequence[Any] = ()) -> None:
        try:
            self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> StoreError:
        return StoreError(f"the paper exchange's file {self._path} failed: {error}")

    def _part(self, name: str, kind: Any) -> Any:
        rows = self._rows("SELECT value FROM parts WHERE name = ?", (name,))
        return self._decoded(rows[0][0], kind) if rows else None

    def _decoded(self, text: str, kind: Any) -> Any:
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.MsgspecError as error:
            raise self._failure(error) from None

    def _check_facts(self, facts: dict[str, str], free: set[str], *, must_exist: bool) -> None:
        known = dict(self._rows("SELECT name, value FROM facts"))
        if not known and must_exist:
            raise StoreError(
                f"the paper exchange's file {self._path} is empty: restore it together with the "
                "bot's database"
            )
        if not known:
            for fact in facts.items():
                self._add("INSERT INTO facts VALUES (?, ?)", fact)
            return
        if known.get("run") != facts["run"]:
            raise StoreError(
                f"the paper exchange's file {self._path} belongs to another database: put that "
                "database back beside it, or move the file away to start anew"
            )
        names = sorted(known.keys() | facts.keys())
        differences = [
            f"{name} was {known.get(name, 'unset')}, is now {facts.get(name, 'unset')}"
            for name in names
            if known.get(name) != facts.get(name) and name not in free
        ]
        if differences:
            raise StoreError(
                f"the paper exchange's file {self._path} was made with other settings: "
                f"{'; '.join(differences)}. Restore them, or start anew: delete the paper file "
                "together with the bot's database, or set STATE_DB to a new file."
            )


def read_books(path: Path | str, *, told: int = 0) -> PaperBooks:
    """Return the books of a paper exchange's file without changing it.

    `told` is the last message that the bot knows. Raises StoreError, also for a damaged file.
    """
    if not Path(path).is_file():
        raise StoreError(f"{path} does not exist: the paper exchange of this run is missing")
    # Without a write-ahead log beside it nobody has the file open, and SQLite needs not lock it.
    is_alone = not Path(f"{path}-wal").exists()
    uri = f"{Path(path).resolve().as_uri()}?mode=ro{'&immutable=1' if is_alone else ''}"
    try:
        db = sqlite3.connect(uri, uri=True, timeout=5.0)
        try:
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise StoreError(f"{path} is damaged ({verdict}): restore a backup")
            return _books(db, str(path), told)
        finally:
            db.close()
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None


def fill_event(fill: VenueExecution) -> e.FillEvent:
    """Return the message that tells the bot of an execution."""
    return e.FillEvent(
        time=fill.time,
        client_order_id=fill.client_order_id,
        txid=fill.txid,
        execution_id=fill.execution_id,
        price=fill.price,
        volume=fill.volume,
        cost=fill.cost,
        fee=fill.fee,
        executed_at=fill.time,
        is_maker=fill.is_maker,
    )


def _books(db: sqlite3.Connection, path: str, told: int) -> PaperBooks:
    parts = dict(db.execute("SELECT name, value FROM parts WHERE name IN ('engine', 'flight')"))
    if "engine" not in parts:
        raise StoreError(f"{path} holds no run yet")
    engine = msgspec.json.decode(parts["engine"], type=EngineState)
    start = dict(db.execute("SELECT name, value FROM facts"))["start"].split()
    effects: dict[str, tuple[Decimal, Decimal]] = {}
    fees = ZERO
    for fill in _executions(db):
        way = 1 if fill.side is Side.BUY else -1
        effects[fill.execution_id] = (way * fill.volume, -way * fill.cost - fill.fee)
        fees += fill.fee
    flight = msgspec.json.decode(parts.get("flight", "{}"), type=Flight)
    coming: list[e.Event | None] = [item.event for item in flight.items]
    sql = "SELECT event FROM outbox WHERE seq > ?"
    coming += [msgspec.json.decode(text, type=e.Event) for (text,) in db.execute(sql, (told,))]
    return PaperBooks(
        start_base=Decimal(start[0]),
        start_quote=Decimal(start[3]),
        base=engine.base,
        quote=engine.quote,
        base_change=sum((base for base, _ in effects.values()), ZERO),
        quote_change=sum((quote for _, quote in effects.values()), ZERO),
        fees=fees,
        executions=len(effects),
        orders=db.execute("SELECT count(*) FROM orders").fetchone()[0],
        effects=effects,
        untold=frozenset(x.execution_id for x in coming if isinstance(x, e.FillEvent)),
    )


def _executions(db: sqlite3.Connection) -> Iterator[VenueExecution]:
    for (text,) in db.execute("SELECT record FROM executions ORDER BY rowid"):
        yield msgspec.json.decode(text, type=VenueExecution)
