"""The paper exchange: a separate party with its own books on disk, in its market's time.

It takes requests, lets them travel, matches them against market evidence and answers by messages.
Everything is committed to its own SQLite file (`exchange/paper_file.py`) before it answers and
before the market moves on, so a daemon that was killed finds it as it left it, at the same instant.
Of a live market it knows all up to the horizon; what it learns long after the fact the bot hears of
only then, for nobody could have acted on it in between.
"""

import heapq
import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from core import events as e
from core.actions import CancelOrderAction, PlaceOrderAction, RequestReconcile
from core.domain import ZERO, Instrument, ListedOrder, Listing, RejectReason, Side
from core.market import UNREACHABLE, Evidence, LiveMarket, MarketSource, Trade, available_at
from core.ports import Message, StoreError, Venue
from core.record import replace
from exchange.matching import (
    DAY_SEC,
    Accepted,
    EngineState,
    MatchingConfig,
    MatchingEngine,
    NewOrder,
    Quote,
    VenueExecution,
)
from exchange.paper_file import (
    Cursor,
    Flight,
    PaperBooks,
    PaperFile,
    Travelling,
    fill_event,
    read_books,
)
from exchange.rates import READ_BALANCES_COST, READ_ORDERS_COST, latency
from exchange.status import worsened

__all__ = ["Flight", "PaperBooks", "PaperExchange", "read_books"]

SEND_MARGIN_SEC = 8.0
NEWS = (e.HealthChanged, e.InstrumentUpdated)  # from a live market
TICK_SEC = 1.0  # at most one quote a second reaches the bot
LATE_SEC = 30.0  # what becomes known of a live market later than this was not heard of in time


class PaperExchange:
    """An exchange with its market, in the market's time, in one SQLite file (or ":memory:").

    `run` names the bot's database that it belongs to; `terms`, with a live market, what it was
    started with in words; a new one numbers orders and executions from `made` on. Raises StoreError
    when the file belongs to another run, market, instrument, setting or start.
    """

    reads_first = False
    _file_type: type[PaperFile] = PaperFile

    def __init__(
        self,
        path: Path | str,
        source: MarketSource | LiveMarket,
        instrument: Instrument,
        config: MatchingConfig,
        *,
        start_base: Decimal,
        start_quote: Decimal,
        start_time: float | None = None,
        run: str = "",
        must_exist: bool = False,
        terms: str = "",
        made: int = 0,
    ) -> None:
        self.source = source
        self.instrument = instrument
        self.config = config
        self._file = self._file_type(
            path,
            market=source.name,
            content=source.fingerprint,
            instrument=instrument,
            config=config,
            start_base=start_base,
            start_quote=start_quote,
            run=run,
            must_exist=must_exist,
            terms=terms,
        )
        try:
            self._resume(start_base, start_quote, start_time, made)
        except BaseException:
            self._file.close()
            raise

    def _resume(self, base: Decimal, quote: Decimal, start_time: float | None, made: int) -> None:
        file, source = self._file, self.source
        engine = file.engine() or EngineState(
            base=base,
            quote=quote,
            inventory_cost=self.instrument.cost(source.first_price(), base),
            orders_made=made,
            executions_made=made,
        )
        self.engine = MatchingEngine(self.instrument, self.config, engine)
        cursor = file.cursor()
        if cursor is None:
            began = source.start_time() if start_time is None else start_time
            cursor = Cursor(now=began, last_tick=began - TICK_SEC)
            self.engine.is_changed = True
        self.engine.restore_market(cursor.quote, file.book())
        self._now, self._read_count = cursor.now, cursor.read
        self._numbered, self._delivered = cursor.numbered, cursor.delivered
        self._acknowledged = cursor.acknowledged
        self._last_tick, self._has_ended = cursor.last_tick, cursor.has_ended
        self._ticks = list(cursor.ticks)
        self._fees, self._fees_day = cursor.fees, cursor.fees_day
        self._hidden = (cursor.hidden_base, cursor.hidden_quote)
        flight = file.flight().items
        self._requests = [_keyed(x) for x in flight if x.request is not None]
        self._messages = [_keyed(x) for x in flight if x.request is None]
        heapq.heapify(self._requests)
        heapq.heapify(self._messages)
        self._is_flight_changed = False
        self._must_last = True  # what came since the last commit must survive a power cut
        self._book = self.engine.book()
        self._tail = list(cursor.tail)
        self._live: LiveMarket | None = None
        self._next: Evidence | None = None
        self._market: Iterator[Evidence] = iter(())
        if isinstance(source, LiveMarket):
            self._live = source
            source.resume(self._now, cursor.tail)
            self._look(source)
        else:
            self._market = source.read(self._read_count)
            self._next_evidence()
        self._commit()

    # ---- the SimulatedExchange protocol -------------------------------------------------------

    def now(self) -> float:
        """Return the instant the exchange has reached."""
        return self._now

    def horizon(self) -> float | None:
        """Return until when the market is known; None: a recorded one, all of it is."""
        return None if self._live is None else self._live.horizon()

    def describe(self) -> Venue:
        """Return pair facts, fee rates, and balances without executions whose message travels.

        After a restart take up `pending` first: its executions are part of the balances.
        """
        base, quote = self._visible()
        rates = self._fees or self.engine.fees(self._now)
        venue = Venue(instrument=self.instrument, fees=rates, base=base, quote=quote)
        return replace(venue, system_status=self.engine.status)

    def place(self, action: PlaceOrderAction) -> None:
        """Send an order; it arrives after the entry latency."""
        key = f"place/{action.order.client_order_id}"
        self._send(action, self.config.entry_sec, key, sent_at=action.order.placed_at)

    def obstacle(self, action: PlaceOrderAction, status: str) -> str | None:
        """Return why an order may not leave now, or None."""
        if (worse := worsened(self.engine.status, status)) is not None:
            return worse
        if action.deadline - self._now < SEND_MARGIN_SEC:
            return f"{action.deadline - self._now:.1f} s are left to its deadline"
        return None

    def cancel(self, action: CancelOrderAction) -> None:
        """Ask for the end of an order; the request arrives after the cancel latency."""
        key = f"cancel/{action.client_order_id}/{self._now!r}"
        self._send(action, self.config.cancel_sec, key)

    def reconcile(self, action: RequestReconcile) -> None:
        """Ask for balances and orders; read on arrival, answered after the response latency."""
        key = f"read/{self._now!r}/{'/'.join(action.client_order_ids)}"
        self._send(action, self.config.entry_sec, key)

    def listing(self) -> Listing:
        """Return the orders that rest now: all are the bot's."""
        resting = tuple(
            ListedOrder(
                client_order_id=x.client_order_id,
                txid=x.txid,
                side=x.side,
                price=x.price,
                volume=x.volume,
            )
            for x in self.engine.orders()
        )
        return Listing(at=self._now, orders=resting)

    def next_time(self) -> float | None:
        """Return the time of the next event: market, arrival or delivery.

        None after the end, and while a live market is dry.
        """
        if self._live is not None:
            self._look(self._live)
        at = self._next_at
        if self._requests and (at is None or self._requests[0][0] < at):
            at = self._requests[0][0]
        if self._messages and (at is None or self._messages[0][0] < at):
            at = self._messages[0][0]
        if self._ticks:
            tick = self._tick_due()
            if at is None or tick < at:
                at = tick
        if at is None:
            return None if self._has_ended or self._live is not None else self._now
        return at if at > self._now else self._now

    def advance(self, to: float) -> tuple[Message, ...]:
        """Go to the instant `to`; return the messages due by then, durable, in order.

        What a live market tells only now is lived through first, up to the horizon.
        """
        if (horizon := self.horizon()) is not None and horizon - self._now > LATE_SEC:
            self._live_unheard(horizon)
        return self._go(max(to, self._now))

    def _go(self, to: float) -> tuple[Message, ...]:
        due: list[Message] = []
        while (at := self.next_time()) is not None and at <= to:
            self._now = at
            if self._next_at is not None and self._next_at <= at:
                self._market_event()
            elif self._requests and self._requests[0][0] <= at:
                self._arrive(heapq.heappop(self._requests)[2])
            elif self._messages and self._messages[0][0] <= at:
                due.append(self._deliver(heapq.heappop(self._messages)[2]))
            elif self._ticks:
                due.append(self._deliver_tick())
            else:
                self._has_ended = True
                due.append(self._number_message(e.MarketEnded(time=at)))
        self._now = max(self._now, to)
        self._commit()
        return tuple(due)

    def acknowledge(self, seq: int) -> None:
        """Forget messages up to `seq`, with the next commit.

        An acknowledgement that is lost only has the bot see a message again that it knows.
        """
        self._acknowledged = max(self._acknowledged, seq)

    def catch_up(self, told: int, until: float) -> None:
        """Live again, unheard, what a power cut has taken from the file before the time `until`.

        Orders and cancels are on disk for good before they travel, so the same happens to them
        again; the bot has heard of it all, up to message `told`, and takes later ones for new.
        """
        news: list[e.Event] = []
        while (at := self.next_time()) is not None and at < until:
            news += [m.event for m in self._go(at) if isinstance(m.event, NEWS)]
        for event in news:  # of the present, not lived before
            self._tell(event, self._now, "")
        self._delivered = max(self._delivered, told)
        self._acknowledged = max(self._acknowledged, told)

    def knows(self, client_order_id: str) -> bool:
        """Tell whether an order of that id was ever accepted, or is on its way."""
        return self._is_coming(client_order_id) or self._file.order(client_order_id) is not None

    def _is_coming(self, client_order_id: str) -> bool:
        requests = (item.request for _, _, item in self._requests)
        orders = (x.order for x in requests if isinstance(x, PlaceOrderAction))
        return any(x.client_order_id == client_order_id for x in orders)

    def pending(self, after: int) -> tuple[Message, ...]:
        """Return messages delivered before with numbers above `after`, in order.

        Raises StoreError when some of them are forgotten already.
        """
        if self._acknowledged > after:
            raise StoreError(
                f"the paper exchange has told the bot {self._acknowledged} messages, the database "
                f"knows of {after}: it is an older copy. Restore both files from one backup "
                "(python bot.py backup FILE copies both)"
            )
        return self._file.pending(after)

    # ---- its own books ------------------------------------------------------------------------

    def books(self) -> PaperBooks:
        """Return exact totals: start, present balances, sums over all executions."""
        return self._file.books()

    def executions(self) -> Iterator[VenueExecution]:
        """Yield every execution there ever was, oldest first, from the table of executions."""
        return self._file.executions()

    def close(self) -> None:
        """Release the file; safe to call twice."""
        self._file.close()

    # ---- market -------------------------------------------------------------------------------

    def _live_unheard(self, until: float) -> None:
        """Go to `until` without a word to the bot; of the quotes on the way the last remains."""
        while True:
            del self._ticks[:-1]
            if self._next is None:
                self._next_evidence()
            market_at = math.inf if self._next_at is None else self._next_at
            request_at = self._requests[0][0] if self._requests else math.inf
            if min(market_at, request_at) > until:
                break
            self._now = max(self._now, min(market_at, request_at))
            if market_at <= self._now:
                self._market_event()
            else:
                self._arrive(heapq.heappop(self._requests)[2])
        self._now = until

    def _look(self, live: LiveMarket) -> None:
        """Take what a live market has to tell; its news are messages of this instant."""
        if self._next is None:
            self._next_evidence()
        for news in live.news():
            if isinstance(news, e.InstrumentUpdated):
                self.instrument = news.instrument
                self.engine = MatchingEngine(self.instrument, self.config, self.engine.state())
                self.engine.is_changed = True
            elif news.system_status != UNREACHABLE:
                self.engine.set_status(news.system_status)
            self._tell(news, self._now, "")

    def _next_evidence(self) -> None:
        live = self._live
        self._next = next(self._market, None) if live is None else live.take()
        self._next_at = None if self._next is None else available_at(self._next)

    def _market_event(self) -> None:
        evidence = self._next
        if evidence is None:
            raise AssertionError("a market event needs evidence")
        self._tell_fees()
        for fill in self.engine.on_evidence(evidence):
            self._report_fill(fill)
        self._read_count += 1
        if self._live is not None and isinstance(evidence, Trade):
            self._keep_tail(evidence)
        self._next_evidence()
        quote = self.engine.quote()
        if quote is not None:
            self._queue_tick(quote)

    def _keep_tail(self, trade: Trade) -> None:
        if not self._tail or trade.time >= self._tail[-1].time:
            self._tail = [*(x for x in self._tail if x.time == trade.time), trade]

    def _tell_fees(self) -> None:
        """Announce the fee tier when it has changed, once a day, as a daily look would find it."""
        day = int(self._now // DAY_SEC)
        if day == self._fees_day:
            return
        fees, known = self.engine.fees(self._now), self._fees
        self._fees, self._fees_day = fees, day
        if known is not None and known != fees:
            self._answer(e.FeesUpdated(time=self._now, fees=fees), "")

    def _tick_due(self) -> float:
        return max(self._ticks[0][0], self._last_tick + TICK_SEC)

    def _queue_tick(self, quote: Quote) -> None:
        """Let a quote travel. Of those that arrive before the next delivery the latest stays."""
        wait = self._latency(self.config.feed_sec, f"feed/{self._read_count}")
        seen_at, due = self._now + wait, self._last_tick
        for seen, _ in self._ticks:
            seen_at, due = max(seen_at, seen), max(seen, due + TICK_SEC)
        if self._ticks and seen_at <= due:
            self._ticks[-1] = (self._ticks[-1][0], quote)
        else:
            self._ticks.append((seen_at, quote))

    def _deliver_tick(self) -> Message:
        _, quote = self._ticks.pop(0)
        self._last_tick = self._now
        tick = e.PriceTick(time=self._now, bid=quote.bid, ask=quote.ask, last=quote.last)
        return self._number_message(tick)

    # ---- requests -----------------------------------------------------------------------------

    def _send(
        self,
        request: PlaceOrderAction | CancelOrderAction | RequestReconcile,
        median: float,
        key: str,
        *,
        sent_at: float = 0.0,
    ) -> None:
        """Let a request travel. Its luck hangs on `key`, never on what else was sent before."""
        # Market and orders decide all that follows: what they led to may be lost and lived again.
        self._must_last |= not isinstance(request, RequestReconcile)
        at = max(self._now, sent_at) + self._latency(median, key)
        self._push(Travelling(at=at, number=self._number(), request=request))
        self._commit()

    def _arrive(self, item: Travelling) -> None:
        self._is_flight_changed = True
        match item.request:
            case PlaceOrderAction() as request:
                self._place(request)
            case CancelOrderAction() as request:
                self._cancel(request)
            case RequestReconcile() as request:
                self._reconcile(request, item)
            case None:
                raise StoreError("a request without content travels in the paper exchange's file")

    def _place(self, action: PlaceOrderAction) -> None:
        order, at = action.order, self._now
        client_order_id = order.client_order_id
        result: Accepted | RejectReason = RejectReason.DEADLINE
        if at <= action.deadline:
            new = NewOrder(
                client_order_id=client_order_id,
                side=order.side,
                price=order.price,
                volume=order.volume,
            )
            result = self.engine.submit(new, at)
        if isinstance(result, RejectReason):
            rejected = e.OrderRejected(time=at, client_order_id=client_order_id, reason=result)
            self._answer(rejected, client_order_id)
            return
        self._file.add_order(action.order, result.txid, at)
        accepted = e.OrderAccepted(time=at, client_order_id=client_order_id, txid=result.txid)
        self._answer(accepted, client_order_id)
        for fill in result.executions:
            self._report_fill(fill)

    def _cancel(self, action: CancelOrderAction) -> None:
        at, client_order_id = self._now, action.client_order_id
        result = self.engine.cancel(client_order_id, at)
        if isinstance(result, str):
            refused = e.CancelRefused(time=at, client_order_id=client_order_id, reason=result)
            self._answer(refused, client_order_id)
            return
        self._file.change_order(result.txid, "cancelled", result.filled)
        closed = e.OrderClosed(
            time=at, client_order_id=client_order_id, reason="cancelled", executed=result.filled
        )
        self._answer(closed, client_order_id)

    def _reconcile(self, action: RequestReconcile, item: Travelling) -> None:
        """Answer with one reply: what is known of each order, then balances.

        A read for which the REST counter has no room waits until it has.
        """
        ids = action.client_order_ids
        cost = READ_BALANCES_COST + (READ_ORDERS_COST if ids else 0.0)
        wait = self.engine.read_wait(cost, self._now)
        if wait > 0:
            self._push(replace(item, at=self._now + wait + 1e-6))
            return
        key = f"reply/{self._now!r}/{'/'.join(ids)}"
        due = self._now + self._latency(self.config.response_sec, key)
        due = max([due, *(self._last_due(order_id) for order_id in ids)])
        for order_id in ids:
            is_coming = self._is_coming(order_id)
            for event in self._file.known_of(order_id, self._now, is_coming=is_coming):
                self._tell(event, due, order_id)
        self._tell(None, due, "")

    # ---- messages -----------------------------------------------------------------------------

    def _visible(self) -> tuple[Decimal, Decimal]:
        """Return total balances without executions whose messages still travel."""
        base, quote = self.engine.totals()
        return base - self._hidden[0], quote - self._hidden[1]

    def _report_fill(self, fill: VenueExecution) -> None:
        self._file.add_execution(fill)
        is_open = self.engine.order(fill.client_order_id) is not None
        self._file.change_order(fill.txid, "open" if is_open else "filled", fill.executed)
        is_buy = fill.side is Side.BUY
        base = fill.volume if is_buy else -fill.volume
        quote = -fill.cost - fill.fee if is_buy else fill.cost - fill.fee
        self._hidden = (self._hidden[0] + base, self._hidden[1] + quote)
        self._answer(fill_event(fill), fill.client_order_id, hides=(base, quote))

    def _answer(
        self, event: e.Event, order_id: str, hides: tuple[Decimal, Decimal] = (ZERO, ZERO)
    ) -> None:
        """Send a message after the response latency; those about one order keep their order."""
        what = getattr(event, "execution_id", type(event).__name__)
        key = f"answer/{order_id}/{what}/{self._now!r}"
        wait = self._latency(self.config.response_sec, key)
        due = max(self._now + wait, self._last_due(order_id))
        self._tell(event, due, order_id, hides=hides)

    def _last_due(self, order_id: str) -> float:
        return max((at for at, _, item in self._messages if item.about == order_id), default=0.0)

    def _tell(
        self,
        event: e.Event | None,
        due: float,
        order_id: str,
        *,
        hides: tuple[Decimal, Decimal] = (ZERO, ZERO),
    ) -> None:
        """Send `event`, or (None) a report of the balances as they are on delivery."""
        self._push(
            Travelling(
                at=due,
                number=self._number(),
                event=None if event is None else replace(event, time=due),
                about=order_id,
                hides_base=hides[0],
                hides_quote=hides[1],
            )
        )

    def _deliver(self, item: Travelling) -> Message:
        self._is_flight_changed = True
        event = item.event
        self._hidden = (self._hidden[0] - item.hides_base, self._hidden[1] - item.hides_quote)
        if event is None:
            base, quote = self._visible()
            event = e.BalancesReported(time=self._now, base=base, quote=quote)
        elif event.time < self._now:  # it was not heard of when it was due
            event = replace(event, time=self._now)
        return self._number_message(event)

    def _number_message(self, event: e.Event) -> Message:
        self._delivered += 1
        message = Message(seq=self._delivered, event=event)
        self._file.add_message(message)
        return message

    def _number(self) -> int:
        self._numbered += 1
        return self._numbered

    def _latency(self, median: float, key: str) -> float:
        return latency(median, self.config.jitter, self.config.seed, key)

    def _push(self, item: Travelling) -> None:
        heapq.heappush(self._messages if item.request is None else self._requests, _keyed(item))
        self._is_flight_changed = True

    # ---- disk ---------------------------------------------------------------------------------

    def _commit(self) -> None:
        engine = None
        if self.engine.is_changed:
            engine, self.engine.is_changed = self.engine.state(), False
        flight = None
        if self._is_flight_changed:
            travelling = sorted(self._requests + self._messages, key=lambda x: x[:2])
            flight = Flight(items=tuple(x[2] for x in travelling))
            self._is_flight_changed = False
        book = self.engine.book()
        is_new_book, self._book = book is not self._book, book
        self._file.commit(
            Cursor(
                now=self._now,
                read=self._read_count,
                numbered=self._numbered,
                delivered=self._delivered,
                acknowledged=self._acknowledged,
                last_tick=self._last_tick,
                has_ended=self._has_ended,
                quote=self.engine.quote(),
                ticks=tuple(self._ticks),
                hidden_base=self._hidden[0],
                hidden_quote=self._hidden[1],
                fees=self._fees,
                fees_day=self._fees_day,
                tail=tuple(self._tail),
            ),
            engine=engine,
            flight=flight,
            book=book if is_new_book else None,
            # A live market shows its books only once: they cannot be lived again.
            is_full=self._must_last or (self._live is not None and bool(engine or flight)),
        )
        self._must_last = False


def _keyed(item: Travelling) -> tuple[float, int, Travelling]:
    return item.at, item.number, item
