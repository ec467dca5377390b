"""The matching engine: when an order of ours would have filled, without optimism.

Pure: no I/O, no clock, chance only from a seed. The eight rules are in `docs/PAPER.md`. Evidence is
candles, trades or books; a maker order fills only on evidence that the market went through it, or
printed at it after the queue ahead was consumed. Look next at `exchange/paper.py`.
"""

from decimal import Decimal

import msgspec

from core.domain import ONE, ZERO, FeeRates, Instrument, RejectReason, Side
from core.market import Book, Candle, Evidence, Trade
from core.record import Record, replace
from exchange.queue import QueueModel, queue_after_depth_change
from exchange.rates import ENGINE_LIMITS, VOLUME_DAYS, RateCounter, cancel_cost, chance, fee_tier

DAY_SEC = 86_400.0
CONSUMED_SEC = 5.0
BPS = Decimal(10_000)


class MatchingConfig(Record, frozen=True, kw_only=True):
    """How careful the simulation is. Latencies in seconds, medians of a log-normal."""

    seed: int = 1
    participation: Decimal = Decimal("0.10")  # φ: share of a candle's volume beyond the limit
    touch_prob: float = 0.0
    through_ticks: int = 1  # how far a candle must pass the limit
    queue_model: QueueModel = QueueModel.RISK_AVERSE
    assumed_queue: Decimal = Decimal(5000)  # base units ahead of us where no book is known
    spread_bps: Decimal = Decimal(5)
    feed_sec: float = 0.05
    entry_sec: float = 0.15
    cancel_sec: float = 0.15
    response_sec: float = 0.05
    jitter: float = 0.5
    bar_grace_sec: float = 5.0  # an order sent at a bar's close is live in the next bar
    flat_fees: FeeRates | None = None
    fee_factor: Decimal = ONE
    open_order_limit: int = 225
    tier: str = "pro"


def preset(name: str, base: MatchingConfig) -> MatchingConfig:
    """Return `base` as the preset optimistic, default or pessimistic changes it."""
    if name == "optimistic":
        return replace(base, touch_prob=1.0, participation=ONE, assumed_queue=ZERO)
    if name == "pessimistic":
        return replace(
            base,
            participation=Decimal("0.03"),
            through_ticks=2,
            feed_sec=base.feed_sec * 3,
            entry_sec=base.entry_sec * 3,
            cancel_sec=base.cancel_sec * 3,
            response_sec=base.response_sec * 3,
            fee_factor=Decimal("1.1"),
        )
    return base


class VenueOrder(Record, frozen=True, kw_only=True):
    """A resting order as the venue sees it."""

    client_order_id: str
    txid: str
    side: Side
    price: Decimal
    volume: Decimal
    arrived_at: float
    number: int
    ahead: Decimal
    hold_rate: Decimal  # fee rate used for the reservation of a buy
    filled: Decimal = ZERO
    has_passed: bool = False  # the market went through it and left a remainder

    @property
    def remaining(self) -> Decimal:
        """Return the volume still to execute."""
        return self.volume - self.filled

    @property
    def hold(self) -> Decimal:
        """Return what the order reserves: quote with fee for a buy, base for a sell."""
        if self.side is Side.SELL:
            return self.remaining
        return self.remaining * self.price * (ONE + self.hold_rate)


class VenueExecution(Record, frozen=True, kw_only=True):
    """One execution."""

    execution_id: str
    client_order_id: str
    txid: str
    side: Side
    price: Decimal
    volume: Decimal
    cost: Decimal
    fee: Decimal
    is_maker: bool
    time: float
    executed: Decimal  # what the order has executed in all, this one included


class Quote(Record, frozen=True, kw_only=True, gc=False):
    """What the venue displays at its top."""

    bid: Decimal
    ask: Decimal
    last: Decimal


class EngineState(Record, frozen=True, kw_only=True):
    """The whole state of the engine, for storing."""

    base: Decimal
    quote: Decimal
    inventory_cost: Decimal
    realised: Decimal = ZERO
    fees: Decimal = ZERO
    orders: tuple[VenueOrder, ...] = ()
    orders_made: int = 0
    executions_made: int = 0
    daily_volume: tuple[tuple[int, Decimal], ...] = ()
    counter: RateCounter = RateCounter()
    quote_: Quote | None = None
    book: Book | None = None
    consumed: tuple[tuple[str, Decimal, Decimal, float], ...] = ()  # side, price, volume, time


class MatchingEngine:
    """One pair, one account."""

    def __init__(self, instrument: Instrument, config: MatchingConfig, state: EngineState) -> None:
        self.instrument = instrument
        self.config = config
        self.is_changed = False  # since the last snapshot, apart from quotes
        self._state = state
        self._orders = {order.txid: order for order in state.orders}
        self._by_client = {order.client_order_id: order.txid for order in state.orders}
        self._quote = state.quote_
        self._book = state.book
        self._bounds: tuple[Decimal | None, Decimal | None] = (None, None)
        self._find_bounds()

    # ---- reading ------------------------------------------------------------------------------

    def snapshot(self) -> EngineState:
        """Return the whole state."""
        return replace(
            self._state,
            orders=tuple(self._orders.values()),
            quote_=self._quote,
            book=self._book,
        )

    def quote(self) -> Quote | None:
        """Return the displayed top, or None before any evidence."""
        return self._quote

    def restore_quote(self, quote: Quote) -> None:
        """Show a quote that was displayed after the last snapshot."""
        self._quote = quote

    def totals(self) -> tuple[Decimal, Decimal]:
        """Return total base and quote, held amounts included."""
        return self._state.base, self._state.quote

    def order(self, client_order_id: str) -> VenueOrder | None:
        """Return a resting order, or None."""
        txid = self._by_client.get(client_order_id)
        return self._orders[txid] if txid is not None else None

    def orders(self) -> list[VenueOrder]:
        """Return all resting orders."""
        return list(self._orders.values())

    def reserved(self) -> tuple[Decimal, Decimal]:
        """Return what resting orders hold of base and quote."""
        base = sum((o.hold for o in self._orders.values() if o.side is Side.SELL), ZERO)
        quote = sum((o.hold for o in self._orders.values() if o.side is Side.BUY), ZERO)
        return base, quote

    def fees(self, at: float) -> FeeRates:
        """Return the fee rates at `at`: flat ones, or the tier of the last 30 days' volume."""
        rates = self.config.flat_fees
        if rates is None:
            day = int(at // DAY_SEC)
            recent = (v for d, v in self._state.daily_volume if d > day - VOLUME_DAYS)
            rates = fee_tier(sum(recent, ZERO))
        factor = self.config.fee_factor
        if factor == ONE:
            return rates
        return FeeRates(maker=rates.maker * factor, taker=rates.taker * factor)

    # ---- orders -------------------------------------------------------------------------------

    def submit(
        self,
        *,
        client_order_id: str,
        side: Side,
        price: Decimal,
        volume: Decimal,
        at: float,
        post_only: bool = True,
    ) -> VenueOrder | RejectReason | tuple[VenueExecution, ...]:
        """Take an order that arrives at `at`.

        Returns the resting order, the reason why there is none, or, for an order that may take, the
        executions of its taking part (its rest then rests).
        """
        self._set(counter=self._charged(1.0, at))
        reason = self._refusal(client_order_id, side, price=price, volume=volume, at=at)
        if reason is not None:
            return reason
        crosses = self._crosses(side, price)
        if crosses and post_only:
            return RejectReason.POST_ONLY
        number = self._state.orders_made + 1
        order = VenueOrder(
            client_order_id=client_order_id,
            txid=f"OPAPER-{number:09d}",
            side=side,
            price=price,
            volume=volume,
            arrived_at=at,
            number=number,
            ahead=self._ahead(side, price),
            hold_rate=self.fees(at).taker if not post_only else self.fees(at).maker,
        )
        self._set(orders_made=number)
        self._put(order)
        return self._take(order, at) if crosses else order

    def cancel(self, client_order_id: str, at: float) -> VenueOrder | None:
        """Take a resting order off the book; None if there is none of that id."""
        order = self.order(client_order_id)
        if order is None:
            return None
        self._set(counter=self._charged(cancel_cost(at - order.arrived_at), at))
        self._drop(order)
        return order

    def _charged(self, cost: float, at: float) -> RateCounter:
        return self._state.counter.add(cost, at, ENGINE_LIMITS[self.config.tier][1])

    def _refusal(
        self, client_order_id: str, side: Side, *, price: Decimal, volume: Decimal, at: float
    ) -> RejectReason | None:
        instrument = self.instrument
        most, decay = ENGINE_LIMITS[self.config.tier]
        base, quote = self.reserved()
        is_buy = side is Side.BUY
        cost = price * volume * (ONE + self.fees(at).maker)
        checks = (
            (self._state.counter.now(at, decay) > most, RejectReason.RATE_LIMIT),
            (client_order_id in self._by_client, RejectReason.DUPLICATE_ID),
            (len(self._orders) >= self.config.open_order_limit, RejectReason.ORDERS_LIMIT),
            (price <= 0 or price % instrument.tick_size != 0, RejectReason.TICK_SIZE),
            (
                volume < instrument.order_min or volume % instrument.lot_size != 0,
                RejectReason.ORDER_MINIMUM,
            ),
            (price * volume < instrument.cost_min, RejectReason.COST_MINIMUM),
            (is_buy and self._state.quote - quote < cost, RejectReason.INSUFFICIENT_FUNDS),
            (not is_buy and self._state.base - base < volume, RejectReason.INSUFFICIENT_FUNDS),
            (self._meets_own(side, price), RejectReason.SELF_TRADE),
        )
        return next((reason for is_wrong, reason in checks if is_wrong), None)

    def _meets_own(self, side: Side, price: Decimal) -> bool:
        for order in self._orders.values():
            if order.side is not side and (
                price >= order.price if side is Side.BUY else price <= order.price
            ):
                return True
        return False

    def _crosses(self, side: Side, price: Decimal) -> bool:
        if self._quote is None:
            return False
        return price >= self._quote.ask if side is Side.BUY else price <= self._quote.bid

    def _ahead(self, side: Side, price: Decimal) -> Decimal:
        if self._book is None:
            return self.config.assumed_queue
        levels = self._book.bids if side is Side.BUY else self._book.asks
        return next((size for at, size in levels if at == price), ZERO)

    # ---- evidence -----------------------------------------------------------------------------

    def on_evidence(self, evidence: Evidence) -> list[VenueExecution]:
        """Match resting orders against evidence, then show it as the quote."""
        if isinstance(evidence, Candle):
            return self._on_candle(evidence)
        if isinstance(evidence, Trade):
            return self._on_trade(evidence)
        return self._on_book(evidence)

    def _on_candle(self, candle: Candle) -> list[VenueExecution]:
        high_buy, low_sell = self._bounds
        fills: list[VenueExecution] = []
        is_reached = (high_buy is not None and candle.low <= high_buy) or (
            low_sell is not None and candle.high >= low_sell
        )
        if is_reached and candle.volume > 0 and not candle.is_filled:
            fills = self._fill_by_candle(candle)
        self._show(candle.close)
        return fills

    def _fill_by_candle(self, candle: Candle) -> list[VenueExecution]:
        step = self.instrument.tick_size * self.config.through_ticks
        limit_time = candle.time + min(self.config.bar_grace_sec, candle.interval / 10)
        live = [o for o in self._orders.values() if o.arrived_at <= limit_time]
        is_low_first = candle.open - candle.low <= candle.high - candle.open
        used = {Side.BUY: ZERO, Side.SELL: ZERO}
        fills: list[VenueExecution] = []
        for side in (Side.BUY, Side.SELL) if is_low_first else (Side.SELL, Side.BUY):
            own = [o for o in live if o.side is side]
            own.sort(key=lambda o: (not o.has_passed, _rank(o), o.number))
            for order in own:
                fill = self._candle_fill(order, candle, step=step, used=used[side])
                if fill is not None:
                    used[side] += fill.volume
                    fills.append(fill)
        return fills

    def _candle_fill(
        self, order: VenueOrder, candle: Candle, *, step: Decimal, used: Decimal
    ) -> VenueExecution | None:
        is_buy = order.side is Side.BUY
        gone = order.price - candle.low if is_buy else candle.high - order.price
        if gone < step:
            key = f"touch/{order.txid}/{candle.time}"
            is_touch = gone >= 0 and chance(self.config.seed, key) < self.config.touch_prob
            if not is_touch:
                return None
        width = candle.high - candle.low
        share = min(ONE, gone / width) if width > 0 else ONE
        if self.config.touch_prob >= 1:
            share = ONE
        budget = self.config.participation * candle.volume * share - used
        volume = self.instrument.volume_down(min(order.remaining, max(ZERO, budget)))
        if volume < order.remaining and not order.has_passed:
            order = replace(order, has_passed=True)
            self._put(order)
        if volume <= 0:
            return None
        return self._execute(order, volume, candle.time + candle.interval, is_maker=True)

    def _on_trade(self, trade: Trade) -> list[VenueExecution]:
        high_buy, low_sell = self._bounds
        fills: list[VenueExecution] = []
        is_reached = (high_buy is not None and trade.price <= high_buy) or (
            low_sell is not None and trade.price >= low_sell
        )
        if is_reached:
            left = trade.volume
            for order in sorted(self._orders.values(), key=lambda o: o.number):
                if left <= 0:
                    break
                fill = self._trade_fill(order, trade, left)
                if fill is not None:
                    left -= fill.volume
                    fills.append(fill)
        if self._book is None:
            self._show(trade.price)
        elif self._quote is not None:
            self._quote = replace(self._quote, last=trade.price)
        return fills

    def _trade_fill(self, order: VenueOrder, trade: Trade, left: Decimal) -> VenueExecution | None:
        is_buy = order.side is Side.BUY
        gone = order.price - trade.price if is_buy else trade.price - order.price
        if gone < 0 or order.arrived_at > trade.time:
            return None
        if gone == 0:
            if trade.side is order.side:  # the taker was on our side: it consumed the other one
                return None
            eaten = min(order.ahead, left)
            if eaten > 0:
                order = replace(order, ahead=order.ahead - eaten)
                self._put(order)
                left -= eaten
        volume = self.instrument.volume_down(min(order.remaining, left))
        if volume <= 0:
            return None
        return self._execute(order, volume, trade.time, is_maker=True)

    def _on_book(self, book: Book) -> list[VenueExecution]:
        old, self._book = self._book, book
        self.is_changed = True
        if book.bids and book.asks:
            last = self._quote.last if self._quote is not None else book.bids[0][0]
            self._quote = Quote(bid=book.bids[0][0], ask=book.asks[0][0], last=last)
        if self._state.consumed:
            self._set(consumed=self._still_consumed(old, book))
        fills: list[VenueExecution] = []
        for order in sorted(self._orders.values(), key=lambda o: o.number):
            queued = order if old is None else self._requeue(order, old, book)
            fills.extend(self._book_fill(queued, book))
        return fills

    def _requeue(self, order: VenueOrder, old: Book, new: Book) -> VenueOrder:
        before, after = (
            _size_at(old, order.side, order.price),
            _size_at(new, order.side, order.price),
        )
        if before is None or after is None or before == after:
            return order
        ahead = queue_after_depth_change(
            self.config.queue_model, ahead=order.ahead, before=before, after=after
        )
        if ahead != order.ahead:
            order = replace(order, ahead=ahead)
            self._put(order)
        return order

    def _book_fill(self, order: VenueOrder, book: Book) -> list[VenueExecution]:
        """Fill an order that the displayed other side has passed, as far as it is displayed."""
        levels = book.asks if order.side is Side.BUY else book.bids
        fills: list[VenueExecution] = []
        for price, size in levels:
            gone = order.price - price if order.side is Side.BUY else price - order.price
            if gone <= 0 or order.arrived_at > book.time or order.remaining <= 0:
                break
            free = size - self._consumed_at(order.side.opposite, price, book.time)
            volume = self.instrument.volume_down(min(order.remaining, max(ZERO, free)))
            if volume > 0:
                self._consume(order.side.opposite, price, volume, book.time)
                fills.append(self._execute(order, volume, book.time, is_maker=True))
                order = replace(order, filled=order.filled + volume)
        return fills

    # ---- taking -------------------------------------------------------------------------------

    def _take(self, order: VenueOrder, at: float) -> tuple[VenueExecution, ...]:
        """Walk the displayed book as far as the limit allows; what a level gave stays taken."""
        side = order.side.opposite
        levels: tuple[tuple[Decimal, Decimal], ...] = ()
        if self._book is not None:
            levels = self._book.asks if side is Side.SELL else self._book.bids
        elif self._quote is not None:
            touch = self._quote.ask if side is Side.SELL else self._quote.bid
            levels = ((touch, order.remaining),)
        fills = []
        for price, size in levels:
            beyond = price > order.price if side is Side.SELL else price < order.price
            if beyond or order.remaining <= 0:
                break
            free = size - self._consumed_at(side, price, at)
            volume = self.instrument.volume_down(min(order.remaining, max(ZERO, free)))
            if volume > 0:
                self._consume(side, price, volume, at)
                fills.append(self._execute(order, volume, at, is_maker=False, price=price))
                order = replace(order, filled=order.filled + volume)
        return tuple(fills)

    def _consumed_at(self, side: Side, price: Decimal, at: float) -> Decimal:
        return sum(
            (
                volume
                for name, level, volume, time in self._state.consumed
                if name == side and level == price and at - time < CONSUMED_SEC
            ),
            ZERO,
        )

    def _consume(self, side: Side, price: Decimal, volume: Decimal, at: float) -> None:
        kept = tuple(x for x in self._state.consumed if at - x[3] < CONSUMED_SEC)
        self._set(consumed=(*kept, (str(side), price, volume, at)))

    def _still_consumed(
        self, old: Book | None, new: Book
    ) -> tuple[tuple[str, Decimal, Decimal, float], ...]:
        """Forget what was taken from levels for which fresh data has come."""
        return tuple(
            x
            for x in self._state.consumed
            if new.time - x[3] < CONSUMED_SEC
            and old is not None
            and _size_at(old, Side(x[0]), x[1]) == _size_at(new, Side(x[0]), x[1])
        )

    # ---- books --------------------------------------------------------------------------------

    def _execute(
        self,
        order: VenueOrder,
        volume: Decimal,
        at: float,
        *,
        is_maker: bool,
        price: Decimal | None = None,
    ) -> VenueExecution:
        state = self._state
        price = order.price if price is None else price
        cost = self.instrument.cost(price, volume)
        rates = self.fees(at)
        fee = self.instrument.fee(cost, rates.maker if is_maker else rates.taker)
        number = state.executions_made + 1
        if order.side is Side.BUY:
            changes = {
                "base": state.base + volume,
                "quote": state.quote - cost - fee,
                "inventory_cost": state.inventory_cost + cost,
            }
        else:
            share = state.inventory_cost
            if volume < state.base:
                share = self.instrument.cost(state.inventory_cost / state.base, volume)
            changes = {
                "base": state.base - volume,
                "quote": state.quote + cost - fee,
                "inventory_cost": state.inventory_cost - share,
                "realised": state.realised + cost - share,
            }
        self._set(
            **changes,
            fees=state.fees + fee,
            executions_made=number,
            daily_volume=_with_volume(state.daily_volume, int(at // DAY_SEC), cost),
        )
        filled = replace(order, filled=order.filled + volume)
        if filled.remaining > 0:
            self._put(filled)
        else:
            self._drop(order)
        return VenueExecution(
            execution_id=f"TPAPER-{number:09d}",
            client_order_id=order.client_order_id,
            txid=order.txid,
            side=order.side,
            price=price,
            volume=volume,
            cost=cost,
            fee=fee,
            is_maker=is_maker,
            time=at,
            executed=filled.filled,
        )

    def _show(self, price: Decimal) -> None:
        half = price * self.config.spread_bps / BPS / 2
        bid = self.instrument.price_down(price - half)
        ask = max(self.instrument.price_up(price + half), bid + self.instrument.tick_size)
        self._quote = Quote(bid=bid, ask=ask, last=price)

    def _set(self, **changes: object) -> None:
        self._state = msgspec.structs.replace(self._state, **changes)
        self.is_changed = True

    def _put(self, order: VenueOrder) -> None:
        is_new = order.txid not in self._orders
        self._orders[order.txid] = order
        self._by_client[order.client_order_id] = order.txid
        self.is_changed = True
        if is_new:
            self._find_bounds()

    def _drop(self, order: VenueOrder) -> None:
        del self._orders[order.txid]
        del self._by_client[order.client_order_id]
        self.is_changed = True
        self._find_bounds()

    def _find_bounds(self) -> None:
        buys = [o.price for o in self._orders.values() if o.side is Side.BUY]
        sells = [o.price for o in self._orders.values() if o.side is Side.SELL]
        self._bounds = (max(buys, default=None), min(sells, default=None))


def _rank(order: VenueOrder) -> Decimal:
    """Sort key of price priority: the best price first."""
    return -order.price if order.side is Side.BUY else order.price


def _size_at(book: Book, side: Side, price: Decimal) -> Decimal | None:
    """Return the displayed size at a price; None where the display does not reach that far."""
    levels = book.bids if side is Side.BUY else book.asks
    for at, size in levels:
        if at == price:
            return size
    if not levels:
        return None
    worst = levels[-1][0]
    is_inside = price > worst if side is Side.BUY else price < worst
    return ZERO if is_inside else None


def _with_volume(
    daily: tuple[tuple[int, Decimal], ...], day: int, cost: Decimal
) -> tuple[tuple[int, Decimal], ...]:
    kept = tuple((d, v) for d, v in daily if day - VOLUME_DAYS < d < day)
    today = sum((v for d, v in daily if d == day), ZERO)
    return (*kept, (day, today + cost))
