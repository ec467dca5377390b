"""The sandbox's records: its orders, trades and ledger rows, its keys, and how far it has come.

Values only. An order keeps its recent past, so that a lagging endpoint can tell the account as it
was. What happens to them is in `exchange/sandbox_account.py`.
"""

from decimal import Decimal

from core.domain import ZERO, Side
from core.record import Record, replace
from exchange.rates import RateCounter

HISTORY_SEC = 900.0  # how long the past of an order is kept: the longest lag there may be
ALL_PERMISSIONS = (
    "query-funds",
    "add-funds",
    "withdraw-funds",
    "earn-funds",
    "query-open-trades",
    "query-closed-trades",
    "modify-trades",
    "close-trades",
    "query-ledger",
    "export-data",
    "create-ws-token",
    "add-withdraw-address",
    "update-withdraw-address",
)
TRADING_PERMISSIONS = (
    "query-funds",
    "query-open-trades",
    "query-closed-trades",
    "modify-trades",
    "close-trades",
    "query-ledger",
)


class OrderRequest(Record, frozen=True, kw_only=True):
    """An order as asked for; a market order has no price."""

    side: Side
    volume: Decimal
    price: Decimal | None = None
    is_post_only: bool = False
    client_id: str | None = None  # a 128-bit value as lower-case UUID text, else as told
    userref: int | None = None
    time_in_force: str = "GTC"  # GTC, IOC, GTD
    expires_at: float | None = None


class OrderChange(Record, frozen=True, kw_only=True, gc=False):
    """An order as it was from the time `at` on."""

    at: float
    status: str  # open, closed, canceled, expired
    price: Decimal
    volume: Decimal
    executed: Decimal = ZERO
    cost: Decimal = ZERO
    fee: Decimal = ZERO
    hold: Decimal = ZERO  # what it reserves: quote with fee for a buy, base for a sell
    closed_at: float | None = None
    reason: str | None = None


class OrderRow(Record, frozen=True, kw_only=True):
    """One order; `changes` are in order of time, the last is how it stands."""

    txid: str
    number: int
    side: Side
    is_market: bool
    is_post_only: bool
    client_id: str | None
    userref: int | None
    time_in_force: str
    opened_at: float
    expires_at: float | None
    changes: tuple[OrderChange, ...]

    @property
    def last(self) -> OrderChange:
        """Return how it stands."""
        return self.changes[-1]

    @property
    def is_open(self) -> bool:
        """Tell whether it may still execute."""
        return self.last.status == "open"

    def seen(self, at: float) -> OrderChange | None:
        """Return how it stood at `at`; None if it did not exist."""
        for change in reversed(self.changes):
            if change.at <= at:
                return change
        return None

    def changed(self, change: OrderChange) -> "OrderRow":
        """Return it with one more change, its far past forgotten."""
        since = change.at - HISTORY_SEC
        recent = tuple(x for x in self.changes if x.at >= since)
        before = tuple(x for x in self.changes if x.at < since)[-1:]
        return replace(self, changes=(*before, *recent, change))


class TradeRow(Record, frozen=True, kw_only=True):
    """One execution; `seen_at` is when the venue booked it, from then on it can be read."""

    trade_id: str
    number: int
    txid: str
    side: Side
    is_market: bool
    price: Decimal
    volume: Decimal
    cost: Decimal
    fee: Decimal
    is_maker: bool
    time: float
    seen_at: float
    ledger_ids: tuple[str, ...]


class LedgerRow(Record, frozen=True, kw_only=True):
    """One line of the account's ledger: `balance` is that of the asset after it."""

    ledger_id: str
    number: int
    reference: str
    time: float
    kind: str  # trade, deposit, withdrawal
    asset: str
    amount: Decimal
    fee: Decimal
    balance: Decimal


class ApiKey(Record, frozen=True, kw_only=True):
    """A key of the account; `secret` is base64, `nonce_window` in units of the nonce."""

    name: str
    key: str
    secret: str
    permissions: tuple[str, ...] = TRADING_PERMISSIONS
    nonce_window: int = 0
    valid_until: int = 0  # seconds since the epoch, 0 for ever
    created_at: int = 0


class KeyUse(Record, frozen=True, kw_only=True):
    """What became of a key: its highest nonce, its failures in a row, its counter."""

    nonce: int = 0
    failures: int = 0
    locked_until: float = 0.0
    counter: RateCounter = RateCounter()
    used_at: float = 0.0


class VenueCursor(Record, frozen=True, kw_only=True):
    """How far the venue has come. Wall times; `read` counts evidence of the present lap."""

    now: float
    lap_start: float
    read: int = 0
    lap: int = 0
    has_ended: bool = False
    status: str = "online"
    cancel_at: float | None = None  # CancelAllOrdersAfter
    calls: int = 0
    orders_made: int = 0
    trades_made: int = 0
    ledgers_made: int = 0


class Truth(Record, frozen=True, kw_only=True):
    """Everything the venue knows, for oracles: oldest first."""

    orders: tuple[OrderRow, ...]
    trades: tuple[TradeRow, ...]
    ledger: tuple[LedgerRow, ...]
    balances: dict[str, Decimal]
