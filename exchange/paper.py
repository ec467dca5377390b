"""The paper exchange: a separate party with its own books on disk, in simulated time.

It takes requests, lets them travel, matches them against market evidence and answers by messages.
Everything is committed to its own SQLite file before it answers and before the market moves on, so
a daemon that was killed finds it as it left it, at the same simulated instant.
"""

import heapq
import os
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from core import events as e
from core.actions import CancelOrderAction, PlaceOrderAction, RequestReconcile
from core.domain import ZERO, FeeRates, Instrument, RejectReason, Side
from core.market import Candle, Evidence, MarketSource, available_at
from core.ports import Message, StoreError, Venue
from core.record import Record, plain, replace
from exchange.matching import (
    DAY_SEC,
    EngineState,
    MatchingConfig,
    MatchingEngine,
    Quote,
    VenueExecution,
    VenueOrder,
)
from exchange.rates import latency

TICK_SEC = 1.0  # at most one quote a second reaches the bot
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS parts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS orders (
    client_order_id TEXT PRIMARY KEY, txid TEXT, status TEXT NOT NULL, executed TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS executions (
    execution_id TEXT PRIMARY KEY, client_order_id TEXT NOT NULL, record TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS executions_by_order ON executions (client_order_id);
CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY, event TEXT NOT NULL) STRICT;
"""

Request = PlaceOrderAction | CancelOrderAction | RequestReconcile


class Travelling(Record, frozen=True, kw_only=True):
    """Something on its way: a request to the venue, or a message to the bot."""

    at: float
    number: int
    request: Request | None = None
    event: e.Event | None = None
    # What the message's execution changed, hidden from the bot until it is delivered.
    hidden_base: Decimal = ZERO
    hidden_quote: Decimal = ZERO


class Cursor(Record, frozen=True, kw_only=True):
    """How far the market and the deliveries have come."""

    now: float
    consumed: int = 0
    numbered: int = 0
    delivered: int = 0
    last_tick: float = 0.0
    has_ended: bool = False
    quote: Quote | None = None
    fees: FeeRates | None = None  # as last announced; looked at once a day
    fees_day: int = -1


class Flight(Record, frozen=True, kw_only=True):
    """Everything on its way."""

    items: tuple[Travelling, ...] = ()


class PaperExchange:
    """An exchange in simulated time, with its market, in one SQLite file."""

    def __init__(
        self,
        path: Path | str,
        source: MarketSource,
        instrument: Instrument,
        config: MatchingConfig,
        *,
        start_base: Decimal,
        start_quote: Decimal,
    ) -> None:
        self.source = source
        self.instrument = instrument
        self.config = config
        self._db = _open(path)
        facts = {
            "market": source.name,
            "instrument": msgspec.json.encode(instrument).decode(),
            "settings": msgspec.json.encode(config).decode(),
            "start": f"{plain(start_base)} base, {plain(start_quote)} quote",
        }
        self._check_facts(facts, str(path))
        first = source.first_price()
        state = EngineState(
            base=start_base,
            quote=start_quote,
            inventory_cost=instrument.cost(first, start_base),
        )
        self.engine = MatchingEngine(instrument, config, self._part("engine", EngineState) or state)
        self._cursor = self._part("cursor", Cursor) or Cursor(now=source.start_time())
        if self._cursor.quote is not None:
            self.engine.restore_quote(self._cursor.quote)
        flight = self._part("flight", Flight) or Flight()
        self._requests = [_keyed(x) for x in flight.items if x.request is not None]
        self._messages = [_keyed(x) for x in flight.items if x.event is not None]
        heapq.heapify(self._requests)
        heapq.heapify(self._messages)
        self._market: Iterator[Evidence] = source.read(self._cursor.consumed)
        self._next: Evidence | None = next(self._market, None)
        self._acknowledged = 0
        self._rows: list[tuple[str, tuple[Any, ...]]] = []
        self._is_flight_changed = True

    # ---- the SimulatedExchange protocol -------------------------------------------------------

    def now(self) -> float:
        """Return the simulated instant the exchange has reached."""
        return self._cursor.now

    def describe(self) -> Venue:
        """Return pair facts, fee rates, and balances as far as the bot can have heard of them."""
        base, quote = self._visible()
        return Venue(
            instrument=self.instrument,
            fees=self._cursor.fees or self.engine.fees(self._cursor.now),
            base=base,
            quote=quote,
        )

    def place(self, action: PlaceOrderAction) -> None:
        """Send an order; it arrives after the entry latency."""
        self._send(action, self.config.entry_sec, f"place/{action.order.client_order_id}")

    def cancel(self, action: CancelOrderAction) -> None:
        """Ask for the end of an order; the request arrives after the cancel latency."""
        key = f"cancel/{action.client_order_id}/{self._cursor.now}"
        self._send(action, self.config.cancel_sec, key)

    def reconcile(self, action: RequestReconcile) -> None:
        """Ask for balances and orders; read on arrival, answered after the response latency."""
        key = f"read/{self._cursor.now}/{'/'.join(action.client_order_ids)}"
        self._send(action, self.config.entry_sec, key)

    def next_time(self) -> float | None:
        """Return the time of the next event: market, arrival or delivery; None after the end."""
        times = [heap[0][0] for heap in (self._requests, self._messages) if heap]
        if self._next is not None:
            times.append(available_at(self._next))
        if times:
            return max(self._cursor.now, min(times))
        return None if self._cursor.has_ended else self._cursor.now

    def advance(self, to: float) -> tuple[Message, ...]:
        """Go to the instant `to`; return the messages due by then, durable, in order."""
        due: list[Message] = []
        while True:
            at = self.next_time()
            if at is None or at > to:
                break
            self._move(now=max(self._cursor.now, at))
            if self._next is not None and available_at(self._next) <= at:
                self._market_event(self._next)
            elif self._requests and self._requests[0][0] <= at:
                self._arrive(heapq.heappop(self._requests)[2])
            elif self._messages and self._messages[0][0] <= at:
                due.append(self._deliver(heapq.heappop(self._messages)[2]))
            else:
                self._move(has_ended=True)
                self._tell(e.MarketEnded(time=at), at)
        self._move(now=max(self._cursor.now, to))
        self._commit()
        return tuple(due)

    def acknowledge(self, seq: int) -> None:
        """Forget delivered messages up to `seq` with the next commit."""
        self._acknowledged = max(self._acknowledged, seq)

    def pending(self) -> tuple[Message, ...]:
        """Return messages delivered before but not acknowledged, in order."""
        rows = self._db.execute(
            "SELECT seq, event FROM outbox WHERE seq > ? ORDER BY seq", (self._acknowledged,)
        )
        return tuple(Message(seq=seq, event=e.event_decoder.decode(text)) for seq, text in rows)

    # ---- what its own books say ---------------------------------------------------------------

    def close(self) -> None:
        """Release the file; everything is on disk already."""
        self._db.close()

    def _visible(self) -> tuple[Decimal, Decimal]:
        """Return total balances without executions whose messages still travel."""
        base, quote = self.engine.totals()
        for _, _, item in self._messages:
            base -= item.hidden_base
            quote -= item.hidden_quote
        return base, quote

    # ---- events -------------------------------------------------------------------------------

    def _market_event(self, evidence: Evidence) -> None:
        at = self._cursor.now
        self._tell_fees(at)
        for fill in self.engine.on_evidence(evidence):
            self._tell_fill(fill)
        self._move(consumed=self._cursor.consumed + 1, quote=self.engine.quote())
        self._next = next(self._market, None)
        quote = self.engine.quote()
        if quote is not None:
            self._tell_price(quote, at, is_candle=isinstance(evidence, Candle))

    def _tell_fees(self, at: float) -> None:
        """Announce the fee tier when it has changed, once a day, as a daily look would find it."""
        day = int(at // DAY_SEC)
        if day == self._cursor.fees_day:
            return
        fees, known = self.engine.fees(at), self._cursor.fees
        self._move(fees_day=day, fees=fees)
        if known is not None and known != fees:
            self._answer(e.FeesUpdated(time=at, fees=fees), "fees")

    def _tell_price(self, quote: Quote, at: float, *, is_candle: bool) -> None:
        feed = latency(self.config.feed_sec, self.config.jitter, self.config.seed, f"feed/{at}")
        due = at + feed if is_candle else max(at + feed, self._cursor.last_tick + TICK_SEC)
        waiting = [x for x in self._messages if isinstance(x[2].event, e.PriceTick)]
        tick = e.PriceTick(time=due, bid=quote.bid, ask=quote.ask, last=quote.last)
        if waiting:
            # A newer quote replaces the one that waits, unless it could not be known by then.
            old = waiting[0]
            if old[0] - at >= self.config.feed_sec / 2:
                self._messages.remove(old)
                heapq.heapify(self._messages)
                event = replace(tick, time=old[0])
                heapq.heappush(self._messages, _keyed(replace(old[2], event=event)))
                self._is_flight_changed = True
            return
        self._move(last_tick=due)
        self._tell(tick, due)

    def _arrive(self, item: Travelling) -> None:
        self._is_flight_changed = True
        match item.request:
            case PlaceOrderAction() as request:
                self._place(request)
            case CancelOrderAction() as request:
                self._cancel(request)
            case RequestReconcile() as request:
                self._read(request)
            case None:
                raise StoreError("a request without content travels in the paper exchange's file")

    def _place(self, action: PlaceOrderAction) -> None:
        order, at = action.order, self._cursor.now
        result: VenueOrder | RejectReason | tuple[VenueExecution, ...]
        if at > action.deadline:
            result = RejectReason.DEADLINE
        else:
            result = self.engine.submit(
                client_order_id=order.client_order_id,
                side=order.side,
                price=order.price,
                volume=order.volume,
                at=at,
            )
        if isinstance(result, RejectReason):
            if result is not RejectReason.DUPLICATE_ID:
                self._order_row(order.client_order_id, None, "rejected", ZERO, result)
            self._answer(
                e.OrderRejected(time=at, client_order_id=order.client_order_id, reason=result),
                order.client_order_id,
            )
        elif isinstance(result, VenueOrder):
            self._order_row(order.client_order_id, result.txid, "open", ZERO, "")
            self._answer(
                e.OrderAccepted(time=at, client_order_id=order.client_order_id, txid=result.txid),
                order.client_order_id,
            )

    def _cancel(self, action: CancelOrderAction) -> None:
        at = self._cursor.now
        order = self.engine.cancel(action.client_order_id, at)
        if order is None:
            self._answer(
                e.CancelRefused(
                    time=at, client_order_id=action.client_order_id, reason="unknown order"
                ),
                action.client_order_id,
            )
            return
        self._order_row(order.client_order_id, order.txid, "cancelled", order.filled, "cancelled")
        self._answer(
            e.OrderClosed(
                time=at,
                client_order_id=order.client_order_id,
                reason="cancelled",
                executed=order.filled,
            ),
            order.client_order_id,
        )

    def _read(self, action: RequestReconcile) -> None:
        at = self._cursor.now
        self._flush()
        for client_order_id in action.client_order_ids:
            for event in self._view(client_order_id):
                self._answer(event, client_order_id)
        base, quote = self._visible()
        self._answer(e.BalancesReported(time=at, base=base, quote=quote), "balances")

    def _view(self, client_order_id: str) -> Iterator[e.Event]:
        """Yield what the venue knows of an order; nothing while its placement still travels."""
        at = self._cursor.now
        row = self._db.execute(
            "SELECT txid, status, executed, detail FROM orders WHERE client_order_id = ?",
            (client_order_id,),
        ).fetchone()
        if row is None:
            travels = any(
                isinstance(x[2].request, PlaceOrderAction)
                and x[2].request.order.client_order_id == client_order_id
                for x in self._requests
            )
            if not travels:
                yield e.OrderRejected(
                    time=at, client_order_id=client_order_id, reason=RejectReason.NEVER_ARRIVED
                )
            return
        txid, status, executed, detail = row
        if status == "rejected":
            yield e.OrderRejected(
                time=at, client_order_id=client_order_id, reason=RejectReason(detail)
            )
            return
        for (text,) in self._db.execute(
            "SELECT record FROM executions WHERE client_order_id = ? ORDER BY execution_id",
            (client_order_id,),
        ):
            yield _fill_event(_execution(text), at)
        if status == "open":
            yield e.OrderFound(
                time=at, client_order_id=client_order_id, txid=txid, executed=Decimal(executed)
            )
        else:
            yield e.OrderClosed(
                time=at, client_order_id=client_order_id, reason=status, executed=Decimal(executed)
            )

    # ---- messages -----------------------------------------------------------------------------

    def _tell_fill(self, fill: VenueExecution) -> None:
        text = msgspec.json.encode(fill).decode()
        row = (fill.execution_id, fill.client_order_id, text)
        self._rows.append(("INSERT INTO executions VALUES (?, ?, ?)", row))
        order = self.engine.order(fill.client_order_id)
        status = "filled" if order is None else "open"
        self._order_row(fill.client_order_id, fill.txid, status, fill.executed, "")
        way = 1 if fill.side is Side.BUY else -1
        self._answer(
            _fill_event(fill, fill.time),
            fill.client_order_id,
            hidden_base=way * fill.volume,
            hidden_quote=-way * fill.cost - fill.fee,
        )

    def _answer(
        self,
        event: e.Event,
        key: str,
        *,
        hidden_base: Decimal = ZERO,
        hidden_quote: Decimal = ZERO,
    ) -> None:
        """Send a message after the response latency; those about one order keep their order."""
        wait = latency(
            self.config.response_sec,
            self.config.jitter,
            self.config.seed,
            f"answer/{key}/{type(event).__name__}/{getattr(event, 'execution_id', '')}",
        )
        due = self._cursor.now + wait
        for at, _, item in self._messages:
            if at > due and getattr(item.event, "client_order_id", "balances") == key:
                due = at
        self._tell(event, due, hidden_base=hidden_base, hidden_quote=hidden_quote)

    def _tell(
        self,
        event: e.Event,
        due: float,
        *,
        hidden_base: Decimal = ZERO,
        hidden_quote: Decimal = ZERO,
    ) -> None:
        item = Travelling(
            at=due,
            number=self._number(),
            event=replace(event, time=due),
            hidden_base=hidden_base,
            hidden_quote=hidden_quote,
        )
        heapq.heappush(self._messages, _keyed(item))
        self._is_flight_changed = True

    def _send(self, request: Request, median: float, key: str) -> None:
        wait = latency(median, self.config.jitter, self.config.seed, key)
        item = Travelling(at=self._cursor.now + wait, number=self._number(), request=request)
        heapq.heappush(self._requests, _keyed(item))
        self._is_flight_changed = True
        self._commit()

    def _number(self) -> int:
        self._move(numbered=self._cursor.numbered + 1)
        return self._cursor.numbered

    def _deliver(self, item: Travelling) -> Message:
        self._is_flight_changed = True
        self._move(delivered=self._cursor.delivered + 1)
        if item.event is None:
            raise StoreError("a message without content travels in the paper exchange's file")
        message = Message(seq=self._cursor.delivered, event=item.event)
        text = msgspec.json.encode(item.event).decode()
        self._rows.append(("INSERT INTO outbox VALUES (?, ?)", (message.seq, text)))
        return message

    def _move(self, **changes: object) -> None:
        self._cursor = replace(self._cursor, **changes)

    # ---- disk ---------------------------------------------------------------------------------

    def _order_row(
        self, client_order_id: str, txid: str | None, status: str, executed: Decimal, detail: str
    ) -> None:
        self._rows.append(
            ("INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?, ?)",
             (client_order_id, txid, status, plain(executed), detail))
        )  # fmt: skip

    def _flush(self) -> None:
        for sql, values in self._rows:
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(sql, values)
        self._rows.clear()

    def _commit(self) -> None:
        try:
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            self._flush()
            self._write("cursor", self._cursor)
            if self.engine.is_changed:
                self._write("engine", self.engine.snapshot())
                self.engine.is_changed = False
            if self._is_flight_changed:
                items = tuple(x[2] for x in sorted(self._requests + self._messages))
                self._write("flight", Flight(items=items))
                self._is_flight_changed = False
            if self._acknowledged:
                self._db.execute("DELETE FROM outbox WHERE seq <= ?", (self._acknowledged,))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(f"the paper exchange cannot write its books: {error}") from None

    def _write(self, name: str, value: Record) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO parts VALUES (?, ?)",
            (name, msgspec.json.encode(value).decode()),
        )

    def _part(self, name: str, kind: type[Any]) -> Any:
        row = self._db.execute("SELECT value FROM parts WHERE name = ?", (name,)).fetchone()
        return msgspec.json.decode(row[0], type=kind) if row else None

    def _check_facts(self, facts: dict[str, str], path: str) -> None:
        known = dict(self._db.execute("SELECT name, value FROM facts"))
        if not known:
            self._db.executemany("INSERT INTO facts VALUES (?, ?)", list(facts.items()))
            return
        for name, value in facts.items():
            if known.get(name) != value:
                self._db.close()
                raise StoreError(
                    f"{path} was made with another {name} ({known.get(name)}, now {value}). "
                    "Restore that setting, or start a new run: set STATE_DB to a new file (its "
                    "paper exchange is kept beside it)."
                )


class PaperBooks(Record, frozen=True, kw_only=True):
    """The paper exchange's own books, for comparison."""

    base: Decimal
    quote: Decimal
    executions: int
    undelivered: int


def read_books(path: Path) -> PaperBooks:
    """Read the books of a paper exchange's file. Raises StoreError."""
    if not path.exists():
        raise StoreError(f"{path} does not exist: the paper exchange of this run is missing")
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)
        parts = dict(db.execute("SELECT name, value FROM parts"))
        count = db.execute("SELECT count(*) FROM executions").fetchone()[0]
        db.close()
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    engine = msgspec.json.decode(parts["engine"], type=EngineState) if "engine" in parts else None
    if engine is None:
        raise StoreError(f"{path} holds no run yet")
    flight = msgspec.json.decode(parts.get("flight", '{"items":[]}'), type=Flight)
    return PaperBooks(
        base=engine.base,
        quote=engine.quote,
        executions=count,
        undelivered=sum(1 for x in flight.items if isinstance(x.event, e.FillEvent)),
    )


def _open(path: Path | str) -> sqlite3.Connection:
    mask = os.umask(0o077)
    try:
        db = sqlite3.connect(str(path), isolation_level=None, timeout=5.0, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(_SCHEMA)
    except sqlite3.Error as error:
        raise StoreError(f"the paper exchange's file {path} cannot be used: {error}") from None
    finally:
        os.umask(mask)
    return db


def _keyed(item: Travelling) -> tuple[float, int, Travelling]:
    return item.at, item.number, item


def _execution(text: str) -> VenueExecution:
    return msgspec.json.decode(text, type=VenueExecution)


def _fill_event(fill: VenueExecution, at: float) -> e.FillEvent:
    return e.FillEvent(
        time=at,
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
