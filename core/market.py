"""Market evidence: what a market source yields and the matching engine consumes.

Times are seconds since the epoch, UTC, of the moment the evidence is complete: a candle's `time`
is its open, it may be used only from `time + interval` on.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Protocol

from core.domain import Side
from core.record import Record


class Candle(Record, frozen=True, kw_only=True, tag="candle", gc=False):
    """One closed candle; `volume` in base; `trades` None where unknown; `is_filled`: gap-filled."""

    time: float
    interval: float
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    trades: int | None = None
    is_filled: bool = False


class Trade(Record, frozen=True, kw_only=True, tag="trade", gc=False):
    """One public trade (print); `side` is the taker's, None where unknown."""

    time: float
    price: Decimal
    volume: Decimal
    side: Side | None = None


class Book(Record, frozen=True, kw_only=True, tag="book"):
    """Displayed depth, best level first, as (price, volume)."""

    time: float
    bids: tuple[tuple[Decimal, Decimal], ...]
    asks: tuple[tuple[Decimal, Decimal], ...]


Evidence = Candle | Trade | Book


def available_at(evidence: Evidence) -> float:
    """Return the time from which `evidence` may be known."""
    if isinstance(evidence, Candle):
        return evidence.time + evidence.interval
    return evidence.time


class MarketSource(Protocol):
    """A finite or endless stream of evidence in order of `available_at`, resumable by count."""

    name: str  # plain words for the page, e.g. "replay of kraken_xdgusd_5m.csv.gz"
    fingerprint: str  # of recorded content, "" for none: a run goes on only with the same
    price_interval: float  # seconds between quotes one may expect: a candle's interval, else 1

    def first_price(self) -> Decimal:
        """Return the opening price of the first evidence. Raises MarketError."""
        ...

    def start_time(self) -> float:
        """Return the time at which the market begins (the first evidence's open)."""
        ...

    def read(self, skip: int) -> Iterator[Evidence]:
        """Yield evidence in order, without the first `skip` items. Raises MarketError."""
        ...

    def total(self) -> int | None:
        """Return how many items there are in all, None if endless or unknown."""
        ...
