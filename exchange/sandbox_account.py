"""The sandbox's account: what the matching engine decides becomes orders, trades and ledger rows.

No parameters and no texts of requests here, but refusals are the venue's words. An order goes by
its txid inside the engine, so that a client order id may come again when its order is over. What
the engine lacks (amending, deposits, a market that may not match) is done by giving it a changed
state; its rules are untouched.
"""

from collections.abc import Iterable
from decimal import Decimal

from core.domain import ZERO, Instrument, RejectReason, Side
from core.market import Evidence
from core.record import replace
from exchange.matching import MatchingConfig, MatchingEngine
from exchange.rates import ENGINE_LIMITS, RateCounter
from exchange.sandbox_assets import Pair
from exchange.sandbox_books import Books, make_id
from exchange.sandbox_errors import SandboxError
from exchange.sandbox_params import invalid
from exchange.sandbox_records import (
    LedgerRow,
    OrderChange,
    OrderRequest,
    OrderRow,
    TradeRow,
    VenueCursor,
)
from exchange.venue import EngineState, NewOrder, VenueExecution

MARKET_REACH = Decimal("0.05")  # how far beyond the touch a market order may walk
MATCHING = ("online", "limit_only")
STATUSES = ("online", "limit_only", "post_only", "cancel_only", "maintenance")
SELF_TRADE_REASON = "Self trade prevention"
USER_REASON = "User requested"
EXPIRED_REASON = "Order expired"
TIMER_REASON = "Cancel all orders after timeout"
_AMEND_COSTS = ((5.0, 3.0), (10.0, 2.0), (15.0, 1.0))
_REFUSALS = {
    RejectReason.RATE_LIMIT: "EOrder:Rate limit exceeded",
    RejectReason.ORDERS_LIMIT: "EOrder:Orders limit exceeded",
    RejectReason.TICK_SIZE: "EOrder:Tick size check failed",
    RejectReason.ORDER_MINIMUM: "EOrder:Order minimum not met",
    RejectReason.COST_MINIMUM: "EOrder:Cost minimum not met",
    RejectReason.INSUFFICIENT_FUNDS: "EOrder:Insufficient funds",
    RejectReason.POST_ONLY: "EOrder:Post only order",
}


class Account:
    """One account at the venue, over one engine."""

    def __init__(
        self,
        instrument: Instrument,
        config: MatchingConfig,
        *,
        engine: EngineState,
        books: Books,
        cursor: VenueCursor,
    ) -> None:
        self.pair = Pair(instrument)
        self.instrument = instrument = replace(
            instrument, base_unit=self.pair.base_unit, quote_unit=self.pair.quote_unit
        )
        self.config = config
        self.books = books
        self.engine = MatchingEngine(instrument, config, engine)
        self.page_rows = 50
        self.status = cursor.status
        self.cancel_at = cursor.cancel_at
        self.orders_made = cursor.orders_made
        self.trades_made = cursor.trades_made
        self.ledgers_made = cursor.ledgers_made

    def list_as(self, instrument: Instrument) -> None:
        """Hold new orders to other limits; those that rest stay as they are."""
        self.pair = Pair(instrument)
        self.instrument = self.engine.instrument = instrument

    # ---- orders -------------------------------------------------------------------------------

    def place(self, request: OrderRequest, at: float) -> OrderRow:
        """Take an order that arrives at `at` and execute its taking part. Raises SandboxError."""
        new = self._checked(request)
        result = self.engine.submit(new, at)
        if result is RejectReason.SELF_TRADE:
            row = self._enter(request, new, at)
            self._close(row, at, "canceled", SELF_TRADE_REASON)
            return self.books.orders[row.txid]
        if isinstance(result, RejectReason):
            raise self._refusal(result)
        row = self._enter(request, new, at)
        self._book(result.executions, at)
        row = self.books.orders[row.txid]
        if row.is_open and (row.is_market or row.time_in_force == "IOC"):
            self.withdraw(row, at, "canceled", "IOC")
        return self.books.orders[row.txid]

    def check(self, request: OrderRequest, at: float) -> None:
        """Raise the SandboxError that `place` would; change nothing."""
        new = self._checked(request)
        trial = MatchingEngine(self.instrument, self.config, self.engine.state())
        result = trial.submit(new, at)
        if isinstance(result, RejectReason) and result is not RejectReason.SELF_TRADE:
            raise self._refusal(result)

    def cancel(self, txid: str, at: float) -> None:
        """Take an order off the book, charged by its age. Raises SandboxError."""
        row = self.books.orders.get(txid)
        if row is None:
            raise SandboxError("EOrder:Invalid order")
        if not row.is_open:
            raise SandboxError("EOrder:Unknown order")
        result = self.engine.cancel(txid, at)
        if isinstance(result, str):
            raise SandboxError("EOrder:Rate limit exceeded")
        self._close(row, at, "canceled", USER_REASON)

    def cancel_all(self, at: float, reason: str) -> int:
        """Take every order off the book, uncharged; return how many there were."""
        rows = [self.books.orders[txid] for txid in self.books.open]
        for row in rows:
            self.withdraw(row, at, "canceled", reason)
        return len(rows)

    def end_since(self, number: int, at: float, reason: str) -> None:
        """Take the orders made after the `number`th off the book for a reason of the venue's."""
        for row in [self.books.orders[txid] for txid in self.books.open]:
            if row.number > number:
                self.withdraw(row, at, "canceled", reason)

    def withdraw(self, row: OrderRow, at: float, status: str, reason: str) -> None:
        """Take an open order off the book for a reason of the venue's."""
        state = self.engine.state()
        orders = tuple(x for x in state.orders if x.client_order_id != row.txid)
        self._rebuild(replace(state, orders=orders))
        self._close(row, at, status, reason)

    def amend(
        self,
        row: OrderRow,
        at: float,
        *,
        volume: Decimal | None,
        price: Decimal | None,
        is_post_only: bool,
    ) -> None:
        """Change volume or price of an open order; less volume keeps its place in the queue.

        A volume that is executed already cancels the rest. Raises SandboxError, nothing changed.
        """
        last = row.last
        new_volume = last.volume if volume is None else volume
        new_price = last.price if price is None else price
        if new_volume <= last.executed:
            self.withdraw(row, at, "canceled", USER_REASON)
            return
        self._check_numbers(new_price, new_volume)
        before = self.engine.state()
        extra = next((cost for age, cost in _AMEND_COSTS if at - row.opened_at < age), 0.0)
        most, decay = ENGINE_LIMITS[self.config.tier]
        if before.counter.now(at, decay) + extra + 1.0 > most:
            raise SandboxError("EOrder:Rate limit exceeded")
        if new_price == last.price and new_volume <= last.volume:
            less = last.volume - new_volume
            orders = tuple(
                replace(x, volume=x.volume - less) if x.client_order_id == row.txid else x
                for x in before.orders
            )
            charged = replace(before, orders=orders, counter=before.counter.add(1.0, at, decay))
            self._rebuild(charged)
        else:
            self._replace_resting(row, before, at, new_price, new_volume, is_post_only=is_post_only)
        state = self.engine.state()
        self._rebuild(replace(state, counter=state.counter.add(extra, at, decay)))
        resting = self.engine.order(row.txid)
        row = self.books.orders[row.txid]
        change = replace(
            row.last,
            at=at,
            price=new_price,
            volume=new_volume,
            hold=ZERO if resting is None else resting.hold,
        )
        self.books.put_order(row.changed(change))

    def _replace_resting(
        self,
        row: OrderRow,
        before: EngineState,
        at: float,
        price: Decimal,
        volume: Decimal,
        *,
        is_post_only: bool,
    ) -> None:
        others = tuple(x for x in before.orders if x.client_order_id != row.txid)
        self._rebuild(replace(before, orders=others))
        new = NewOrder(
            client_order_id=row.txid,
            side=row.side,
            price=price,
            volume=volume - row.last.executed,
            post_only=True,  # an amendment that would take is refused, whoever asks
        )
        result = self.engine.submit(new, at)
        if isinstance(result, RejectReason):
            self._rebuild(before)
            if result is RejectReason.POST_ONLY and not (is_post_only or row.is_post_only):
                raise SandboxError("EOrder:Invalid price")
            raise self._refusal(result)

    def set_counter(self, counter: RateCounter) -> None:
        """Have the engine's counter stand so: a batch is charged otherwise than its orders."""
        self._rebuild(replace(self.engine.state(), counter=counter))

    # ---- venue --------------------------------------------------------------------------------

    def set_status(self, status: str) -> None:
        """Set the market's status. Raises ValueError for one there is not."""
        if status not in STATUSES:
            raise ValueError(f"status {status!r} must be one of {', '.join(STATUSES)}")
        self.status = status

    def check_status(self, *, is_post_only: bool, is_market: bool) -> None:
        """Raise SandboxError if the market takes no such order now."""
        if self.status == "maintenance":
            raise SandboxError("EService:Unavailable")
        if self.status == "cancel_only":
            raise SandboxError("EService:Market in cancel_only mode")
        if self.status == "post_only" and not is_post_only:
            raise SandboxError("EService:Market in post_only mode")
        if self.status == "limit_only" and is_market:
            raise SandboxError("EService:Market in limit_only mode")

    def on_evidence(self, evidence: Evidence, at: float) -> None:
        """Match against evidence known from `at` on; where nothing may match, only show it."""
        if self.status in MATCHING:
            self._book(self.engine.on_evidence(evidence), at)
            return
        shown = MatchingEngine(
            self.instrument, self.config, replace(self.engine.state(), orders=())
        )
        shown.on_evidence(evidence)
        self.engine.restore_market(shown.quote(), shown.book())

    def on_time(self, at: float) -> None:
        """Expire orders that are due, and let the cancel-all timer fire when the engine is up."""
        for row in [self.books.orders[txid] for txid in self.books.open]:
            if row.expires_at is not None and row.expires_at <= at:
                self.withdraw(row, at, "expired", EXPIRED_REASON)
        if self.cancel_at is not None and self.cancel_at <= at and self.status != "maintenance":
            self.cancel_at = None
            self.cancel_all(at, TIMER_REASON)

    def next_timer(self) -> float | None:
        """Return when `on_time` has something to do next, or None."""
        due = [
            row.expires_at
            for row in map(self.books.orders.__getitem__, self.books.open)
            if row.expires_at is not None
        ]
        if self.cancel_at is not None and self.status != "maintenance":
            due.append(self.cancel_at)
        return min(due, default=None)

    def move_funds(self, asset: str, amount: Decimal, at: float) -> None:
        """Book a deposit, or with a negative amount a withdrawal, of an asset given by its id.

        Raises ValueError when it is nothing, or more than is there and not held by orders.
        """
        held = dict(zip((self.pair.base_id, self.pair.quote_id), self.books.held(at), strict=True))
        free = self.books.balance(asset) - held.get(asset, ZERO)
        if not amount or free + amount < 0:
            raise ValueError(f"{amount} {asset} cannot be moved: {free} are free")
        state, kind = self.engine.state(), "deposit" if amount > 0 else "withdrawal"
        if asset == self.pair.base_id:
            price = ZERO if state.quote_ is None else state.quote_.last
            if amount < 0:
                price = state.inventory_cost / state.base
            cost = self.instrument.cost(price, amount)
            self._rebuild(
                replace(
                    state,
                    base=state.base + amount,
                    inventory_cost=max(ZERO, state.inventory_cost + cost),
                )
            )
        elif asset == self.pair.quote_id:
            self._rebuild(replace(state, quote=state.quote + amount))
        reference = make_id(self.config.seed, "F", self.ledgers_made + 1)
        self._enter_ledger(reference, at, kind, asset=asset, amount=amount)

    # ---- rows ---------------------------------------------------------------------------------

    def _checked(self, request: OrderRequest) -> NewOrder:
        price = self._market_price(request.side) if request.price is None else request.price
        self._check_numbers(price, request.volume)
        if request.client_id is not None and self.books.open_with(request.client_id):
            raise SandboxError("EGeneral:Invalid arguments:cl_ord_id not unique")
        return NewOrder(
            client_order_id=make_id(self.config.seed, "O", self.orders_made + 1),
            side=request.side,
            price=price,
            volume=request.volume,
            post_only=request.is_post_only,
        )

    def _check_numbers(self, price: Decimal, volume: Decimal) -> None:
        instrument, places = self.instrument, self.pair.price_decimals
        if price <= 0:
            raise invalid("price")
        if price % Decimal(1).scaleb(-places):
            raise SandboxError(
                f"EOrder:Invalid price:{instrument.symbol} price can only be specified up to "
                f"{places} decimals."
            )
        if volume <= 0 or volume % instrument.lot_size:
            raise invalid("volume")
        if volume < instrument.order_min:
            raise SandboxError(_REFUSALS[RejectReason.ORDER_MINIMUM])

    def _market_price(self, side: Side) -> Decimal:
        quote = self.engine.quote()
        if quote is None:
            raise SandboxError("EService:Unavailable")
        if side is Side.BUY:
            return self.instrument.price_up(quote.ask * (1 + MARKET_REACH))
        return self.instrument.price_up(quote.bid * (1 - MARKET_REACH))

    def _refusal(self, reason: RejectReason) -> SandboxError:
        return SandboxError(_REFUSALS.get(reason, "EGeneral:Internal error"))

    def _enter(self, request: OrderRequest, new: NewOrder, at: float) -> OrderRow:
        self.orders_made += 1
        resting = self.engine.order(new.client_order_id)
        first = OrderChange(
            at=at,
            status="open",
            price=ZERO if request.price is None else request.price,
            volume=request.volume,
            hold=ZERO if resting is None else resting.hold,
        )
        row = OrderRow(
            txid=new.client_order_id,
            number=self.orders_made,
            side=request.side,
            is_market=request.price is None,
            is_post_only=request.is_post_only,
            client_id=request.client_id,
            userref=request.userref,
            time_in_force=request.time_in_force,
            opened_at=at,
            expires_at=request.expires_at,
            changes=(first,),
        )
        self.books.put_order(row)
        return row

    def _close(self, row: OrderRow, at: float, status: str, reason: str | None) -> None:
        change = replace(row.last, at=at, status=status, hold=ZERO, closed_at=at, reason=reason)
        self.books.put_order(row.changed(change))

    def _book(self, fills: Iterable[VenueExecution], at: float) -> None:
        for fill in fills:
            self._book_one(fill, at)

    def _book_one(self, fill: VenueExecution, at: float) -> None:
        row, way = self.books.orders[fill.client_order_id], 1 if fill.side is Side.BUY else -1
        self.trades_made += 1
        trade_id = make_id(self.config.seed, "T", self.trades_made)
        kept = self.instrument.kept
        quote = self._enter_ledger(
            trade_id, at, "trade", asset=self.pair.quote_id,
            amount=-way * kept(fill.cost), fee=kept(fill.fee),
        )  # fmt: skip
        base = self._enter_ledger(
            trade_id, at, "trade", asset=self.pair.base_id, amount=way * fill.volume
        )
        self.books.add_trade(
            TradeRow(
                trade_id=trade_id,
                number=self.trades_made,
                txid=row.txid,
                side=fill.side,
                is_market=row.is_market,
                price=fill.price,
                volume=fill.volume,
                cost=fill.cost,
                fee=fill.fee,
                is_maker=fill.is_maker,
                time=fill.time,
                seen_at=at,
                ledger_ids=(quote, base),
            )
        )
        resting = self.engine.order(row.txid)
        change = replace(
            row.last,
            at=at,
            executed=row.last.executed + fill.volume,
            cost=row.last.cost + fill.cost,
            fee=row.last.fee + fill.fee,
            hold=ZERO if resting is None else resting.hold,
        )
        if change.executed == change.volume:
            change = replace(change, status="closed", closed_at=at)
        self.books.put_order(row.changed(change))

    def _enter_ledger(
        self,
        reference: str,
        at: float,
        kind: str,
        *,
        asset: str,
        amount: Decimal,
        fee: Decimal = ZERO,
    ) -> str:
        self.ledgers_made += 1
        entry = LedgerRow(
            ledger_id=make_id(self.config.seed, "L", self.ledgers_made),
            number=self.ledgers_made,
            reference=reference,
            time=at,
            kind=kind,
            asset=asset,
            amount=amount,
            fee=fee,
            balance=self.books.balance(asset) + amount - fee,
        )
        self.books.add_ledger(entry)
        return entry.ledger_id

    def _rebuild(self, state: EngineState) -> None:
        self.engine = MatchingEngine(self.instrument, self.config, state)
        self.engine.is_changed = True
