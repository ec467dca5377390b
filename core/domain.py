"""Sides, orders, positions, cycles and the instrument with all rounding.

The vocabulary shared by every layer. Prices, volumes, costs and fees are Decimal; times are float
seconds since the epoch, UTC. Look next at `core/state.py`.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from enum import StrEnum

from core.record import Record, RegimeTag

ZERO = Decimal(0)
ONE = Decimal(1)
HUNDRED = Decimal(100)


class Side(StrEnum):
    """The side of an order or execution."""

    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> "Side":
        """Return the other side."""
        return Side.SELL if self is Side.BUY else Side.BUY


class TradeId(StrEnum):
    """The two legs of a slot: A sells high and buys back, B buys low and sells."""

    A = "A"
    B = "B"

    @property
    def entry_side(self) -> Side:
        """Return the side of the leg's entry order."""
        return Side.SELL if self is TradeId.A else Side.BUY

    @property
    def exit_side(self) -> Side:
        """Return the side of the leg's exit order."""
        return self.entry_side.opposite


class Role(StrEnum):
    """What an order is for."""

    ENTRY = "entry"
    EXIT = "exit"
    RECOVERY = "recovery"


class OrderStatus(StrEnum):
    """Where an order stands, as far as the bot knows for certain."""

    PENDING = "pending"  # the intent is on disk, not yet acknowledged
    OPEN = "open"
    CANCELLING = "cancelling"  # a cancel was requested; a request is not a fact
    UNCERTAIN = "uncertain"  # outcome unknown; only reconciliation moves it


class RejectReason(StrEnum):
    """Why an order does not exist at the exchange."""

    POST_ONLY = "post_only"
    SELF_TRADE = "self_trade"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    ORDER_MINIMUM = "order_minimum"
    COST_MINIMUM = "cost_minimum"
    TICK_SIZE = "tick_size"
    ORDERS_LIMIT = "orders_limit"
    RATE_LIMIT = "rate_limit"
    MARKET_MODE = "market_mode"
    DEADLINE = "deadline"
    DUPLICATE_ID = "duplicate_id"
    NOT_SENT = "not_sent"
    NEVER_ARRIVED = "never_arrived"
    OTHER = "other"


class Instrument(Record, frozen=True, kw_only=True, gc=False):
    """One spot pair and the exchange's limits for it; the only place where money is rounded."""

    pair: str = "DOGE/USD"
    symbol: str = "XDGUSD"
    base: str = "DOGE"
    quote: str = "USD"
    tick_size: Decimal = Decimal("0.0000001")
    lot_size: Decimal = Decimal("0.00000001")
    order_min: Decimal = Decimal(50)  # base units
    cost_min: Decimal = Decimal("0.5")  # quote units
    cost_decimals: int = 9
    fee_decimals: int = 8
    # Units in which the exchange keeps balances, where it says so; 0: every digit counts.
    base_unit: Decimal = ZERO
    quote_unit: Decimal = ZERO

    def price_up(self, price: Decimal) -> Decimal:
        """Return the lowest price on the tick grid that is not below `price`."""
        return (price / self.tick_size).to_integral_value(ROUND_CEILING) * self.tick_size

    def price_down(self, price: Decimal) -> Decimal:
        """Return the highest price on the tick grid that is not above `price`."""
        return (price / self.tick_size).to_integral_value(ROUND_FLOOR) * self.tick_size

    def price_for(self, side: Side, price: Decimal) -> Decimal:
        """Return `price` on the tick grid, rounded in our favour: sells up, buys down."""
        return self.price_up(price) if side is Side.SELL else self.price_down(price)

    def volume_down(self, volume: Decimal) -> Decimal:
        """Return `volume` rounded down to the lot."""
        return (volume / self.lot_size).to_integral_value(ROUND_FLOOR) * self.lot_size

    def cost(self, price: Decimal, volume: Decimal) -> Decimal:
        """Return price times volume in quote, rounded half up to `cost_decimals`."""
        return (price * volume).quantize(ONE.scaleb(-self.cost_decimals), ROUND_HALF_UP)

    def fee(self, cost: Decimal, rate: Decimal) -> Decimal:
        """Return the fee in quote for `cost` at `rate` (a fraction), half up, `fee_decimals`."""
        return (cost * rate).quantize(ONE.scaleb(-self.fee_decimals), ROUND_HALF_UP)

    def rounding(self, executions: int) -> tuple[Decimal, Decimal]:
        """Return by how much base and quote kept in units may differ from sums of executions.

        Volume, cost and fee of an execution are each rounded by less than a unit, whichever way.
        """
        is_whole = not self.base_unit or not self.lot_size % self.base_unit
        base = ZERO if is_whole else self.base_unit
        return executions * base, executions * 2 * self.quote_unit

    def kept(self, amount: Decimal) -> Decimal:
        """Return an amount of quote as a balance is moved by it: half up, in `quote_unit`."""
        return amount.quantize(self.quote_unit, ROUND_HALF_UP) if self.quote_unit else amount

    def is_below_minimum(self, *, volume: Decimal, price: Decimal) -> bool:
        """Tell whether the exchange would refuse an order of `volume` at `price` as too small."""
        return volume < self.order_min or volume * price < self.cost_min

    def least_volume(self, price: Decimal) -> Decimal:
        """Return the smallest volume, on the lot grid, that the exchange accepts at `price`."""
        least = max(self.order_min, self.cost_min / price)
        return (least / self.lot_size).to_integral_value(ROUND_CEILING) * self.lot_size


class FeeRates(Record, frozen=True, kw_only=True, gc=False):
    """The account's current fee rates as fractions of the quote value (0.004 is 0.40 %)."""

    maker: Decimal
    taker: Decimal


class SizeStep(Record, frozen=True, kw_only=True, gc=False):
    """One stage of the size pipeline: its name, the amount in quote after it, and why."""

    stage: str
    amount_usd: Decimal
    reason: str


class OrderState(Record, frozen=True, kw_only=True, tag="order"):
    """One order of ours that the exchange may hold."""

    client_order_id: str
    trade_id: TradeId
    role: Role
    side: Side
    price: Decimal
    volume: Decimal
    cycle: int
    attempt: int
    placed_at: float
    status: OrderStatus = OrderStatus.PENDING
    txid: str | None = None
    filled_volume: Decimal = ZERO
    filled_cost: Decimal = ZERO
    fees: Decimal = ZERO
    execution_ids: tuple[str, ...] = ()
    first_execution_at: float | None = None
    last_execution_at: float | None = None
    regime_at_entry: RegimeTag = None
    cancel_requested_at: float | None = None
    fee_rate: Decimal | None = None  # the maker fee when it was placed: what a buy holds with
    asked_at: float | None = None  # when the exchange was last asked what became of it
    # The exchange's last word: the order is over, with this much executed. It leaves the state only
    # when the executions we know add up to it.
    closed_executed: Decimal | None = None
    absent_at: float | None = None  # when it was first said never to have arrived, against its txid

    @property
    def remaining(self) -> Decimal:
        """Return the volume that may still execute."""
        return self.volume - self.filled_volume


class Residual(Record, frozen=True, kw_only=True, gc=False):
    """Executed volume too small for an order of its own, with its cost, fees and tag."""

    volume: Decimal
    cost: Decimal
    fees: Decimal
    regime_at_entry: RegimeTag = None


class Position(Record, frozen=True, kw_only=True, gc=False):
    """What an entry bought or sold (plus a residual that joined it), and how much is closed again.

    `cost` and `fees` are the entry's; `closed_cost` is the part of `cost` that belongs to the
    volume already closed; `exit_cost` and `exit_fees` are what the closing executions were worth.
    `entered_at`, `filled_at` and `closed_at` are execution times: first and last of the entry,
    last of the exit.
    """

    volume: Decimal
    cost: Decimal
    fees: Decimal
    entered_at: float
    filled_at: float
    regime_at_entry: RegimeTag = None
    closed_volume: Decimal = ZERO
    closed_cost: Decimal = ZERO
    exit_cost: Decimal = ZERO
    exit_fees: Decimal = ZERO
    closed_at: float | None = None
    exit_attempts: int = 0
    owed_since: float | None = None  # None while an exit rests at the exchange
    exit_failures: int = 0  # refusals in a row since it last executed, or rested and was ended
    soft_limit: Decimal | None = None  # soft close: near the market, but never beyond this price
    is_repricing: bool = False  # its resting exit is to be withdrawn and placed anew

    @property
    def open_volume(self) -> Decimal:
        """Return the volume still to be closed."""
        return self.volume - self.closed_volume

    @property
    def open_cost(self) -> Decimal:
        """Return the entry cost of the volume still to be closed."""
        return self.cost - self.closed_cost

    @property
    def average_price(self) -> Decimal:
        """Return the volume-weighted entry price, unrounded."""
        return self.cost / self.volume


class Owed(Record, frozen=True, kw_only=True, tag="owed"):
    """An exit that must be placed and is not: why, and when it is tried again."""

    reason: str
    retry_at: float


class RecoveryOrder(Record, frozen=True, kw_only=True):
    """An exit that was orphaned: it goes on resting (or is owed) while its leg is free again."""

    recovery_id: str
    trade_id: TradeId
    cycle: int
    position: Position
    exit: OrderState | Owed
    orphaned_at: float
    reason: str
    regime_at_entry: RegimeTag = None
    releasing: bool = False  # the operator gives it up: what is left becomes inventory


class CycleRecord(Record, frozen=True, kw_only=True, gc=False):
    """One completed cycle: the only thing that realises P&L, booked once."""

    trade_id: TradeId
    cycle: int
    entry_price: Decimal
    exit_price: Decimal
    volume: Decimal
    gross_profit: Decimal
    entry_fee: Decimal
    exit_fee: Decimal
    fees: Decimal
    net_profit: Decimal
    entry_time: float
    exit_time: float
    from_recovery: bool = False
    regime_at_entry: RegimeTag = None


class ListedOrder(Record, frozen=True, kw_only=True, gc=False):
    """An open order with our tag, as the exchange shows it; `volume` is all of it."""

    client_order_id: str
    txid: str
    side: Side
    price: Decimal
    volume: Decimal


class Listing(Record, frozen=True, kw_only=True):
    """All open orders of the account as the exchange last listed them, asked at `at`."""

    at: float
    orders: tuple[ListedOrder, ...]  # those with our tag
    strangers: int = 0  # how many others


class Difference(Record, frozen=True, kw_only=True, gc=False):
    """By how much the books have more of something than was recomputed."""

    name: str
    amount: Decimal


class Audit(Record, frozen=True, kw_only=True):
    """What recomputing the books of step `seq` from the executions has shown: where they differ.

    `cycles_wrong` counts all that differ, `in_cycles` has the first ones. Of `cycles_shared` entry
    or exit is taken as booked; see `grid/auditing.py`.
    """

    seq: int
    executions: int
    cycles: int
    cycles_shared: int = 0
    cycles_wrong: int = 0
    in_balances: tuple[Difference, ...] = ()
    in_ledger: tuple[Difference, ...] = ()
    in_cycles: tuple[Difference, ...] = ()

    @property
    def agrees(self) -> bool:
        """Tell whether nothing differs."""
        return not (self.in_balances or self.in_ledger or self.in_cycles)
