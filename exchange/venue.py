"""The venue's records: how careful it is, its orders, executions, balances and whole state.

Values only; what happens to them is in `exchange/matching.py`.
"""

from decimal import ROUND_UP, Decimal

from core.domain import HUNDRED, ONE, ZERO, FeeRates, Side
from core.market import Book, Candle
from core.record import Record, replace
from exchange.queue import QueueModel
from exchange.rates import RateCounter

BPS = Decimal(10_000)
CONSUMED_SEC = 5.0  # so long a level that was taken stays taken without fresh data
Taken = tuple[Side, Decimal, Decimal, float]  # of a level: side, price, volume, time
_CENT = Decimal("1e-8")


def buy_hold(*, price: Decimal, volume: Decimal, rate: Decimal) -> Decimal:
    """Return the quote a buy reserves: cost with the fee at `rate`, rounded up."""
    return (volume * price * (ONE + rate)).quantize(_CENT, ROUND_UP)


def affordable(quote: Decimal, *, price: Decimal, rate: Decimal) -> Decimal:
    """Return the volume that `quote` pays for, fee at `rate` and rounding included."""
    return max(ZERO, (quote - _CENT) / (price * (ONE + rate)))


class MatchingConfig(Record, frozen=True, kw_only=True):
    """How careful the simulation is. Latencies in seconds, medians of a log-normal."""

    seed: int = 1
    participation: Decimal = Decimal("0.10")  # φ: share of a candle's volume beyond the limit
    touch_prob: float = 0.0
    through_ticks: int = 1  # how far the market must pass the limit
    queue_model: QueueModel = QueueModel.RISK_AVERSE
    has_queue: bool = True  # False: nobody stands ahead of us (optimistic)
    assumed_queue: Decimal = Decimal(5000)  # base units ahead of us where no depth is displayed
    is_probabilistic: bool = False  # for books without prints
    spread_bps: Decimal = Decimal(5)
    feed_sec: float = 0.05
    entry_sec: float = 0.15
    cancel_sec: float = 0.15
    response_sec: float = 0.05
    jitter: float = 0.5
    widest_pct: Decimal | None = None  # a candle with a wider range fills nothing
    bar_grace_sec: float = 5.0  # an order sent at a bar's close is live in the next; 0: strict
    flat_fees: FeeRates | None = None
    fee_factor: Decimal = ONE
    open_order_limit: int = 225
    tier: str = "pro"

    @property
    def half_spread(self) -> Decimal:
        """Return half of the spread around a price, as a fraction of it."""
        return self.spread_bps / BPS / 2

    def is_fillable(self, candle: Candle) -> bool:
        """Tell whether a candle may fill orders: it was traded in, and is not too wide."""
        if candle.is_filled or candle.volume <= 0:
            return False
        widest = self.widest_pct
        return widest is None or (candle.high - candle.low) * HUNDRED <= widest * candle.low


def preset(name: str, base: MatchingConfig) -> MatchingConfig:
    """Return `base` as the preset optimistic, default or pessimistic changes it."""
    if name == "optimistic":
        return replace(base, touch_prob=1.0, participation=ONE, assumed_queue=ZERO, has_queue=False)
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


class NewOrder(Record, frozen=True, kw_only=True):
    """A limit order as it arrives."""

    client_order_id: str
    side: Side
    price: Decimal
    volume: Decimal
    post_only: bool = True


class VenueOrder(Record, frozen=True, kw_only=True):
    """An order as the venue sees it."""

    client_order_id: str
    txid: str
    side: Side
    price: Decimal
    volume: Decimal
    arrived_at: float
    number: int
    ahead: Decimal
    hold_rate: Decimal  # the fee rate when it was placed: what a buy reserves
    decided_at: float  # of the last decision of the probabilistic model
    is_ahead_known: bool = True  # False: the level was not displayed yet
    printed: Decimal = ZERO  # prints at our price since the last book
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
        return buy_hold(price=self.price, volume=self.remaining, rate=self.hold_rate)


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


class Accepted(Record, frozen=True, kw_only=True):
    """An order was taken; `executions` are those of its taking part, if any."""

    txid: str
    executions: tuple[VenueExecution, ...] = ()


class Quote(Record, frozen=True, kw_only=True, gc=False):
    """What the venue displays at its top."""

    bid: Decimal
    ask: Decimal
    last: Decimal


class Balances(Record, frozen=True, kw_only=True, gc=False):
    """Totals, reservations and the cash account.

    `quote + inventory_cost + fees − realised` never changes, to the last digit.
    """

    base: Decimal
    quote: Decimal
    reserved_base: Decimal
    reserved_quote: Decimal
    inventory_cost: Decimal
    fees: Decimal
    realised: Decimal


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
    rest_counter: RateCounter = RateCounter()
    status: str = "online"
    quote_: Quote | None = None
    book: Book | None = None
    consumed: tuple[Taken, ...] = ()


def gone_beyond(order: VenueOrder, price: Decimal) -> Decimal:
    """Return how far `price` lies beyond the order's limit; negative: not reached."""
    return order.price - price if order.side is Side.BUY else price - order.price


def price_rank(order: VenueOrder) -> Decimal:
    """Sort key of price priority: the best price first."""
    return -order.price if order.side is Side.BUY else order.price


def displayed_size(book: Book, side: Side, price: Decimal) -> Decimal | None:
    """Return the displayed size at a price; None where the display does not reach that far."""
    levels = book.bids if side is Side.BUY else book.asks
    if not levels:
        return None
    worst = levels[-1][0]
    if price < worst if side is Side.BUY else price > worst:
        return None
    return next((size for at, size in levels if at == price), ZERO)


def still_consumed(taken: tuple[Taken, ...], old: Book | None, new: Book) -> tuple[Taken, ...]:
    """Return what was taken from levels for which no fresh data has come."""
    return tuple(
        x
        for x in taken
        if new.time - x[3] < CONSUMED_SEC
        and old is not None
        and displayed_size(old, x[0], x[1]) == displayed_size(new, x[0], x[1])
    )
