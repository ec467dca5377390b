"""What Kraken's answers say, as values: the words that wire, client and desk share.

Values only. They are read from bytes in `exchange/kraken_wire.py`; what an error string calls for
is in `exchange/kraken_errors.py`.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Any, Generic, TypeVar

from core.domain import Instrument, RejectReason, Side
from core.record import Record

T = TypeVar("T")


class WireError(Exception):
    """An answer that is good by its envelope has not the documented shape: unknown, not empty."""


class Answer(Record, frozen=True, kw_only=True):
    """What came back of one call; total: whatever happened, there is an Answer.

    `fault` says in plain words why there is no answer of Kraken's (time-out, HTML, truncated, a
    status other than 200, …), None where there is one. `was_sent` is False only where the request
    surely never left this process.
    """

    status: int = 0  # HTTP, 0 for none
    errors: tuple[str, ...] = ()  # strings that begin with E
    warnings: tuple[str, ...] = ()
    result: Any = None  # numbers with a point are Decimal
    fault: str | None = None
    was_sent: bool = True

    @property
    def is_good(self) -> bool:
        """Tell whether the call did what it should and its result can be read."""
        return self.fault is None and not self.errors and self.result is not None


class Purpose(StrEnum):
    """What a call was for: the same error string may mean different things."""

    PLACE = "place"
    CANCEL = "cancel"
    READ = "read"


class Verdict(StrEnum):
    """What an error answer lets us conclude."""

    REJECT = "reject"  # definite: the order does not exist
    EXISTS = "exists"  # an open order has this client order id: resolve and adopt
    UNKNOWN = "unknown"  # the outcome must be found out
    HALT = "halt"  # stop trading until a person has looked; a placement's outcome is unknown
    RETRY = "retry"  # a read that may be asked again after a pause


class Trouble(StrEnum):
    """What kind of trouble an error names, where the daemon reacts to the kind."""

    NONE = "none"
    NONCE = "nonce"
    RATE = "rate"  # REST counter or address
    ENGINE_RATE = "engine_rate"
    LOCKOUT = "lockout"
    MARKET_MODE = "market_mode"
    DOWN = "down"  # unavailable, busy, internal error, time-out
    KEY = "key"  # key, signature, permission, account


class Judgement(Record, frozen=True, kw_only=True):
    """The verdict on an error answer, and what to do about it."""

    verdict: Verdict
    trouble: Trouble = Trouble.NONE
    reason: RejectReason = RejectReason.OTHER  # for REJECT
    pause_sec: float = 0.0  # no call of this kind before it is over
    until: float | None = None  # the exchange's time before which it wants no call, where told
    advice: str = ""  # what the operator can do, in plain words


class OrderView(Record, frozen=True, kw_only=True):
    """One order as the exchange tells it."""

    txid: str
    client_order_id: str | None  # as UUID text where it is a 128-bit value, else as told
    status: str  # pending, open, closed, canceled, expired
    pair: str
    side: Side
    price: Decimal  # the limit
    volume: Decimal
    executed: Decimal
    cost: Decimal
    fee: Decimal
    opened_at: float
    closed_at: float | None = None
    reason: str | None = None
    trade_ids: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Tell whether it can execute no more."""
        return self.status in ("closed", "canceled", "expired")


class TradeView(Record, frozen=True, kw_only=True):
    """One execution as the exchange tells it."""

    execution_id: str
    txid: str
    pair: str
    side: Side
    price: Decimal
    volume: Decimal
    cost: Decimal
    fee: Decimal
    time: float
    is_maker: bool


class Page(Record, Generic[T], frozen=True, kw_only=True):
    """One page of a walk: its rows, and how many there are in all (None: not told)."""

    rows: tuple[T, ...]
    count: int | None = None


class PairFacts(Record, frozen=True, kw_only=True):
    """What AssetPairs says of one pair."""

    instrument: Instrument
    status: str  # online, cancel_only, post_only, limit_only, reduce_only, delisted
    base_id: str  # XXDG
    quote_id: str  # ZUSD
    names: frozenset[str]  # every name by which an answer may call it


class LedgerView(Record, frozen=True, kw_only=True):
    """One line of the account's ledger."""

    ledger_id: str
    reference: str
    time: float
    kind: str  # trade, deposit, withdrawal, transfer, …
    asset: str
    amount: Decimal
    fee: Decimal
    balance: Decimal


class KeyFacts(Record, frozen=True, kw_only=True):
    """What GetApiKeyInfo says of the key; never the key itself."""

    name: str
    permissions: frozenset[str]
    nonce: int | None
    nonce_window: int
    valid_until: float | None
    allowlist: tuple[str, ...] = ()
