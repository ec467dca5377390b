"""The matching engine: when an order of ours would have filled, without optimism.

Pure: no I/O, no clock, chance only from a seed. Evidence is candles, trades or books; a maker order
fills only on evidence that the market went through it, or printed at it after the queue ahead was
consumed. Its records are in `exchange/venue.py`, queue models in `exchange/queue.py`, fees
and counters in `exchange/rates.py`. Look next at `exchange/paper.py`.
"""

from decimal import Decimal

import msgspec

from core.domain import ONE, ZERO, FeeRates, Instrument, RejectReason, Side
from core.market import Book, Candle, Evidence, Trade
from core.record import replace
from exchange.queue import fill_probability, queue_after_depth_change
from exchange.rates import (
    ENGINE_LIMITS,
    REST_LIMITS,
    VOLUME_DAYS,
    cancel_cost,
    chance,
    fee_tier,
    with_volume,
)
from exchange.venue import (
    CONSUMED_SEC,
    Accepted,
    Balances,
    EngineState,
    MatchingConfig,
    NewOrder,
    Quote,
    VenueExecution,
    VenueOrder,
    affordable,
    buy_hold,
    displayed_size,
    gone_beyond,
    preset,
    price_rank,
    still_consumed,
)

__all__ = [
    "Accepted",
    "Balances",
    "EngineState",
    "MatchingConfig",
    "MatchingEngine",
    "NewOrder",
    "Quote",
    "VenueExecution",
    "VenueOrder",
    "preset",
]

DAY_SEC = 86_400.0
DECISION_SEC = 10.0  # how often the probabilistic model decides on an order


class MatchingEngine:
    """One pair, one account."""

    def __init__(self, instrument: Instrument, config: MatchingConfig, state: EngineState) -> None:
        self.instrument = instrument
        self.config = config
        self.is_changed = False  # since the owner last stored it, apart from quote and book
        self._half_spread = config.half_spread
        self._step = instrument.tick_size * config.through_ticks
        self._load(state)

    def _load(self, state: EngineState) -> None:
        self._state = state
        self._orders = {order.txid: order for order in state.orders}
        self._by_client = {order.client_order_id: order.txid for order in state.orders}
        self._quote = state.quote_
        self._book = state.book
        self._find_bounds()

    # ---- reading ------------------------------------------------------------------------------

    def state(self) -> EngineState:
        """Return the whole state."""
        return replace(
            self._state, orders=tuple(self._orders.values()), quote_=self._quote, book=self._book
        )

    def restore_market(self, quote: Quote | None, book: Book | None) -> None:
        """Show this quote and book: those the venue displayed last."""
        self._quote, self._book = quote, book

    @property
    def status(self) -> str:
        """Return the pair's status: online, post_only, cancel_only, maintenance and so on."""
        return self._state.status

    def quote(self) -> Quote | None:
        """Return the displayed top, or None before any evidence."""
        return self._quote

    def book(self) -> Book | None:
        """Return the last book, or None."""
        return self._book

    def balances(self) -> Balances:
        """Return totals, reservations and the cash account."""
        state, (base, quote) = self._state, self.reserved()
        return Balances(
            base=state.base,
            quote=state.quote,
            reserved_base=base,
            reserved_quote=quote,
            inventory_cost=state.inventory_cost,
            fees=state.fees,
            realised=state.realised,
        )

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
        return base, min(quote, self._state.quote)

    def fees(self, at: float) -> FeeRates:
        """Return the fee rates at `at`: flat ones, or the tier of the last 30 days' volume."""
        rates = self.config.flat_fees
        if rates is None:
            day = int(at // DAY_SEC)
            recent = (v for d, v in self._state.daily_volume if d > day - VOLUME_DAYS)
            rates = fee_tier(sum(recent, ZERO))
        factor = self.config.fee_factor
        return FeeRates(maker=rates.maker * factor, taker=rates.taker * factor)

    # ---- orders -------------------------------------------------------------------------------

    def submit(self, order: NewOrder, at: float) -> Accepted | RejectReason:
        """Take an order that arrives at `at`, or say why not. A taking part executes at once."""
        if not self._charge(1.0, at):
            return RejectReason.RATE_LIMIT
        reason = self._refusal(order, at)
        if reason is not None:
            return reason
        number = self._state.orders_made + 1
        ahead, is_known = self._ahead(order.side, order.price)
        resting = VenueOrder(
            client_order_id=order.client_order_id,
            txid=f"OPAPER-{number:09d}",
            side=order.side,
            price=order.price,
            volume=order.volume,
            arrived_at=at,
            number=number,
            ahead=ahead,
            is_ahead_known=is_known,
            hold_rate=self._rate(at, is_maker=order.post_only),
            decided_at=at,
        )
        self._set(orders_made=number)
        self._put(resting)
        fills = self._take(resting, at) if self._crosses(order.side, order.price) else ()
        return Accepted(txid=resting.txid, executions=fills)

    def cancel(self, order_id: str, at: float) -> VenueOrder | str:
        """Take an order (client id or txid) off the book; return it, or why it was refused."""
        order = self._orders.get(order_id) or self.order(order_id)
        if order is None:
            return "unknown order"
        if not self._charge(cancel_cost(at - order.arrived_at), at):
            return RejectReason.RATE_LIMIT.value
        self._drop(order)
        return order

    def set_status(self, status: str) -> None:
        """Set the pair's status: online, post_only, cancel_only, maintenance and so on."""
        self._set(status=status)

    def read_wait(self, cost: float, at: float) -> float:
        """Charge a read to the REST counter and return 0, or how long there is no room for it."""
        most, decay = REST_LIMITS[self.config.tier]
        wait = self._state.rest_counter.wait(min(cost, most), at, most=most, decay=decay)
        if not wait:
            self._set(rest_counter=self._state.rest_counter.add(min(cost, most), at, decay))
        return wait

    def _charge(self, cost: float, at: float) -> bool:
        """Add to the engine counter if there is room; a refusal for want of room costs nothing."""
        most, decay = ENGINE_LIMITS[self.config.tier]
        if self._state.counter.now(at, decay) + cost > most:
            return False
        self._set(counter=self._state.counter.add(cost, at, decay))
        return True

    def _rate(self, at: float, *, is_maker: bool) -> Decimal:
        rates = self.fees(at)
        return rates.maker if is_maker else rates.taker

    def _refusal(self, order: NewOrder, at: float) -> RejectReason | None:
        instrument, state = self.instrument, self._state
        side, price, volume = order.side, order.price, order.volume
        crosses = self._crosses(side, price)
        if state.status not in ("online", "limit_only", "post_only") or (
            state.status == "post_only" and not order.post_only
        ):
            return RejectReason.MARKET_MODE
        if order.client_order_id in self._by_client:
            return RejectReason.DUPLICATE_ID
        if len(self._orders) >= self.config.open_order_limit:
            return RejectReason.ORDERS_LIMIT
        if price <= 0 or price % instrument.tick_size:
            return RejectReason.TICK_SIZE
        if volume < instrument.order_min:
            return RejectReason.ORDER_MINIMUM
        if volume % instrument.lot_size:
            return RejectReason.OTHER
        if price * volume < instrument.cost_min:
            return RejectReason.COST_MINIMUM
        if not self._has_funds(order, at):
            return RejectReason.INSUFFICIENT_FUNDS
        if crosses and order.post_only:
            return RejectReason.POST_ONLY
        return RejectReason.SELF_TRADE if self._meets_own(side, price) else None

    def _has_funds(self, order: NewOrder, at: float) -> bool:
        base, quote = self.reserved()
        if order.side is Side.SELL:
            return self._state.base - base >= order.volume
        rate = self._rate(at, is_maker=order.post_only)
        need = buy_hold(price=order.price, volume=order.volume, rate=rate)
        return self._state.quote - quote >= need

    def _meets_own(self, side: Side, price: Decimal) -> bool:
        high_buy, low_sell = self.bounds
        if side is Side.BUY:
            return low_sell is not None and price >= low_sell
        return high_buy is not None and price <= high_buy

    def _crosses(self, side: Side, price: Decimal) -> bool:
        if self._quote is None:
            return False
        return price >= self._quote.ask if side is Side.BUY else price <= self._quote.bid

    def _ahead(self, side: Side, price: Decimal) -> tuple[Decimal, bool]:
        """Return what stands before us at a price, and whether the display tells it."""
        if not self.config.has_queue:
            return ZERO, True
        size = None if self._book is None else displayed_size(self._book, side, price)
        return (self.config.assumed_queue, False) if size is None else (size, True)

    # ---- evidence -----------------------------------------------------------------------------

    def on_evidence(self, evidence: Evidence) -> list[VenueExecution]:
        """Match resting orders against evidence, then show it as the quote."""
        if type(evidence) is Candle:
            return self._on_candle(evidence)
        if type(evidence) is Trade:
            return self._on_trade(evidence)
        if type(evidence) is Book:
            return self._on_book(evidence)
        raise TypeError(f"{type(evidence).__name__} is no market evidence")

    def _is_reached(self, low: Decimal, high: Decimal) -> bool:
        high_buy, low_sell = self.bounds
        return (high_buy is not None and low <= high_buy) or (
            low_sell is not None and high >= low_sell
        )

    def _on_candle(self, candle: Candle) -> list[VenueExecution]:
        fills: list[VenueExecution] = []
        if self._is_reached(candle.low, candle.high) and self.config.is_fillable(candle):
            fills = self._fill_by_candle(candle)
        self.show(candle.close)
        return fills

    def _fill_by_candle(self, candle: Candle) -> list[VenueExecution]:
        """Walk open → nearer extreme → other extreme → close; a tie goes down first."""
        until = candle.time + min(self.config.bar_grace_sec, candle.interval / 10)
        is_low_first = candle.open - candle.low <= candle.high - candle.open
        first = Side.BUY if is_low_first else Side.SELL

        def place_on_path(order: VenueOrder) -> tuple[int, Decimal, int]:
            is_first = order.has_passed and gone_beyond(order, candle.open) >= self._step
            stage = 0 if is_first else 1 if order.side is first else 2
            return stage, price_rank(order), order.number

        used = {Side.BUY: ZERO, Side.SELL: ZERO}
        fills: list[VenueExecution] = []
        live = [o for o in self._orders.values() if o.arrived_at <= until]
        for order in sorted(live, key=place_on_path):
            fill = self._candle_fill(order, candle, used=used[order.side])
            if fill is not None:
                used[order.side] += fill.volume
                fills.append(fill)
        return fills

    def _candle_fill(
        self, order: VenueOrder, candle: Candle, *, used: Decimal
    ) -> VenueExecution | None:
        gone = gone_beyond(order, candle.low if order.side is Side.BUY else candle.high)
        width = candle.high - candle.low
        if gone < self._step:
            if gone < 0 or not self._is_touch_lucky(order, candle.time):
                return None
            # A lucky touch counts as if the range had gone one tick farther.
            gone, width = gone + self.instrument.tick_size, width + self.instrument.tick_size
        elif not order.has_passed:
            order = replace(order, has_passed=True)
        share = min(ONE, gone / width) if width else ONE
        budget = self.config.participation * candle.volume * share - used
        return self._fill(order, budget, candle.time + candle.interval)

    def _is_touch_lucky(self, order: VenueOrder, at: float) -> bool:
        if self.config.touch_prob <= 0:
            return False
        # Keyed by level, not by order: splitting an order does not draw twice.
        key = f"touch/{order.side}/{order.price.normalize()}/{at!r}"
        return chance(self.config.seed, key) < self.config.touch_prob

    def _on_trade(self, trade: Trade) -> list[VenueExecution]:
        fills: list[VenueExecution] = []
        if self._is_reached(trade.price, trade.price):
            used = ZERO
            for order in sorted(self._orders.values(), key=lambda o: (price_rank(o), o.number)):
                fill = self._trade_fill(order, trade, left=trade.volume - used)
                if fill is not None:
                    used += fill.volume
                    fills.append(fill)
        if self._book is None:
            self.show(trade.price)
        elif self._quote is not None:
            self._quote = Quote(bid=self._quote.bid, ask=self._quote.ask, last=trade.price)
        return fills

    def _trade_fill(
        self, order: VenueOrder, trade: Trade, *, left: Decimal
    ) -> VenueExecution | None:
        """Fill from what is `left` of a print; orders at one price share one queue before them."""
        gone = gone_beyond(order, trade.price)
        if gone < 0 or order.arrived_at > trade.time:
            return None
        if gone >= self._step:
            return self._fill(replace(order, ahead=ZERO, has_passed=True), left, trade.time)
        if trade.side is order.side:  # the taker was on our side: it consumed the other one
            return None
        moved = replace(
            order,
            ahead=max(ZERO, order.ahead - left),
            printed=order.printed + (trade.volume if gone == 0 else ZERO),
        )
        return self._fill(moved, left - order.ahead, trade.time)

    # ---- books as evidence --------------------------------------------------------------------

    def _on_book(self, book: Book) -> list[VenueExecution]:
        old, self._book = self._book, book
        if book.bids and book.asks:
            last = self._quote.last if self._quote is not None else book.bids[0][0]
            self._quote = Quote(bid=book.bids[0][0], ask=book.asks[0][0], last=last)
        if self._state.consumed:
            self._set(consumed=still_consumed(self._state.consumed, old, book))
        fills: list[VenueExecution] = []
        for order in sorted(self._orders.values(), key=lambda o: (price_rank(o), o.number)):
            self._requeue(order, old, book)
            fills.extend(self._book_fill(self._orders[order.txid], book))
        return fills

    def _requeue(self, order: VenueOrder, old: Book | None, new: Book) -> None:
        """Move the order in its queue as the new display tells; it never moves back."""
        if not self.config.has_queue:
            return
        after = displayed_size(new, order.side, order.price)
        if after is None:
            moved = replace(order, printed=ZERO)
        else:
            before = None if old is None else displayed_size(old, order.side, order.price)
            if not order.is_ahead_known:  # first sight of the level: all of it stands before us
                ahead = ZERO if order.has_passed else after
            elif before is None:
                ahead = min(order.ahead, after)
            else:
                ahead = queue_after_depth_change(
                    self.config.queue_model,
                    ahead=order.ahead,
                    before=max(ZERO, before - order.printed),
                    after=after,
                )
            moved = replace(order, ahead=ahead, printed=ZERO, is_ahead_known=True)
        if moved != order:
            self._put(moved)

    def _book_fill(self, order: VenueOrder, book: Book) -> list[VenueExecution]:
        """Fill an order that the displayed other side has reached, as far as it is displayed."""
        levels = book.asks if order.side is Side.BUY else book.bids
        if not levels or order.arrived_at > book.time:
            return []
        if gone_beyond(order, levels[0][0]) >= 0:
            # Nobody can stand before us where the other side stands now.
            reached = [level for level in levels if gone_beyond(order, level[0]) >= 0]
            return self._sweep(replace(order, ahead=ZERO), reached, book.time)
        if not self.config.is_probabilistic or not self._is_fill_drawn(order, book):
            return []
        return self._sweep(self._orders[order.txid], list(levels[:1]), book.time)

    def _is_fill_drawn(self, order: VenueOrder, book: Book) -> bool:
        """Decide by hazard, once in ten seconds, on an order inside the displayed depth."""
        elapsed = book.time - order.decided_at
        is_inside = displayed_size(book, order.side, order.price) is not None
        if elapsed < DECISION_SEC or not is_inside or not (book.bids and book.asks):
            return False
        self._put(replace(order, decided_at=book.time))
        half = (book.asks[0][0] - book.bids[0][0]) / 2
        touch = book.bids[0][0] if order.side is Side.BUY else book.asks[0][0]
        behind = float(-gone_beyond(order, touch) / half) if half > 0 else 0.0
        draw = chance(self.config.seed, f"hazard/{order.side}/{book.time!r}")
        return draw < fill_probability(behind, elapsed)

    def _sweep(
        self, order: VenueOrder, levels: list[tuple[Decimal, Decimal]], at: float
    ) -> list[VenueExecution]:
        """Fill a resting order, at its limit, from displayed levels of the other side."""
        fills: list[VenueExecution] = []
        for price, size in levels:
            free = size - self._consumed_at(order.side.opposite, price, at)
            fill = self._fill(order, free, at)
            if fill is not None:
                self._consume(order.side.opposite, price, fill.volume, at)
                fills.append(fill)
            found = self._orders.get(order.txid)
            if found is None:
                break
            order = found
        return fills

    # ---- taking -------------------------------------------------------------------------------

    def _take(self, order: VenueOrder, at: float) -> tuple[VenueExecution, ...]:
        """Walk the displayed book as far as the limit allows; what a level gave stays taken.

        Without a book the taker pays the displayed touch and one tick more.
        """
        side, tick = order.side.opposite, self.instrument.tick_size
        levels: tuple[tuple[Decimal, Decimal], ...] = ()
        if self._book is not None:
            levels = self._book.asks if side is Side.SELL else self._book.bids
        elif self._quote is not None:
            touch = self._quote.ask + tick if side is Side.SELL else self._quote.bid - tick
            levels = ((touch, order.remaining),)
        fills = []
        for price, size in levels:
            if gone_beyond(order, price) < 0:
                break
            free = size - self._consumed_at(side, price, at) if self._book is not None else size
            fill = self._fill(order, free, at, taker_price=price)
            if fill is not None:
                self._consume(side, price, fill.volume, at)
                fills.append(fill)
            found = self._orders.get(order.txid)
            if found is None:
                break
            order = found
        return tuple(fills)

    def _consumed_at(self, side: Side, price: Decimal, at: float) -> Decimal:
        return sum(
            (
                volume
                for of, level, volume, time in self._state.consumed
                if of is side and level == price and at - time < CONSUMED_SEC
            ),
            ZERO,
        )

    def _consume(self, side: Side, price: Decimal, volume: Decimal, at: float) -> None:
        kept = tuple(x for x in self._state.consumed if at - x[3] < CONSUMED_SEC)
        self._set(consumed=(*kept, (side, price, volume, at)))

    # ---- account ------------------------------------------------------------------------------

    def _fill(
        self, order: VenueOrder, budget: Decimal, at: float, *, taker_price: Decimal | None = None
    ) -> VenueExecution | None:
        """Execute as much of `order` (as it stands now) as `budget` allows; keep its new state."""
        if order != self._orders[order.txid]:
            self._put(order)
        state, is_maker = self._state, taker_price is None
        price = order.price if taker_price is None else taker_price
        rate = self._rate(at, is_maker=is_maker)
        most = min(order.remaining, max(ZERO, budget))
        if order.side is Side.BUY and most > 0:
            others = (o.hold for o in self._orders.values() if o.side is Side.BUY)
            left = self._state.quote - sum(others, -order.hold)
            most = min(most, affordable(left, price=price, rate=rate))
        volume = self.instrument.volume_down(most)
        if volume <= 0:
            return None
        cost = self.instrument.cost(price, volume)
        fee = self.instrument.fee(cost, rate)
        self._book_cash(order.side, volume=volume, cost=cost, fee=fee)
        number = state.executions_made + 1
        self._set(
            executions_made=number,
            daily_volume=with_volume(state.daily_volume, int(at // DAY_SEC), cost),
        )
        done = replace(order, filled=order.filled + volume)
        if done.remaining > 0:
            self._put(done)
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
            executed=done.filled,
        )

    def _book_cash(self, side: Side, *, volume: Decimal, cost: Decimal, fee: Decimal) -> None:
        state, kept = self._state, self.instrument.kept
        if side is Side.BUY:
            self._set(
                base=state.base + volume,
                quote=state.quote - kept(cost) - kept(fee),
                inventory_cost=state.inventory_cost + cost,
                fees=state.fees + fee,
            )
            return
        share = state.inventory_cost
        if volume < state.base:
            share = self.instrument.cost(state.inventory_cost / state.base, volume)
        self._set(
            base=state.base - volume,
            quote=state.quote + kept(cost) - kept(fee),
            inventory_cost=state.inventory_cost - share,
            realised=state.realised + cost - share,
            fees=state.fees + fee,
        )

    def show(self, price: Decimal) -> None:
        """Show the quote around a price that was traded last."""
        shown = self._quote
        if shown is not None and shown.last == price:
            return
        half, instrument = price * self._half_spread, self.instrument
        bid = max(instrument.price_down(price - half), instrument.tick_size)
        ask = max(instrument.price_up(price + half), bid + instrument.tick_size)
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
        self.bounds = (max(buys, default=None), min(sells, default=None))
