"""Market evidence: what a market source yields and the matching engine consumes.

Times are seconds since the epoch, UTC, of the moment the evidence is complete: a candle's `time`
is its open, it may be used only from `time + interval` on.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from core.domain import Side
from core.events import HealthChanged, InstrumentUpdated
from core.record import Record

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# A status of our connection, not of the exchange: it answers nothing.
UNREACHABLE = "unreachable"


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
# A candle as numbers: open time, open, high, low, close, volume, trades (None: unknown).
CandleRow = tuple[float, float, float, float, float, float, float | None]
LabelRow = tuple[float, float, int | None]  # open time, close, label


def available_at(evidence: Evidence) -> float:
    """Return the time from which `evidence` may be known."""
    if isinstance(evidence, Candle):
        return evidence.time + evidence.interval
    return evidence.time


class Market(Protocol):
    """What every market tells of itself."""

    name: str  # plain words for the page, e.g. "replay of kraken_xdgusd_5m.csv.gz"
    fingerprint: str  # of recorded content, "" for none: a run goes on only with the same
    price_interval: float  # seconds between quotes one may expect: a candle's interval, else 1

    def first_price(self) -> Decimal:
        """Return the opening price of the first evidence. Raises MarketError."""
        ...

    def start_time(self) -> float:
        """Return the time at which the market begins (the first evidence's open)."""
        ...


class MarketSource(Market, Protocol):
    """A finite or endless stream of evidence in order of `available_at`, resumable by count."""

    def read(self, skip: int) -> Iterator[Evidence]:
        """Yield evidence in order, without the first `skip` items. Raises MarketError."""
        ...

    def total(self) -> int | None:
        """Return how many items there are in all, None if endless or unknown."""
        ...


class Columns(NamedTuple):
    """All bars of a recorded market, those made up for short gaps among them; shape (T,)."""

    closes_at: "npt.NDArray[np.float64]"  # seconds, UTC: from then on a bar is known
    low: "npt.NDArray[np.float64]"  # inf without volume: nothing fills there
    high: "npt.NDArray[np.float64]"  # and −inf
    close: "npt.NDArray[np.float64]"


class ColumnMarket(MarketSource, Protocol):
    """A market whose bars are known as columns too; `columns` None: they are not."""

    columns: Columns | None

    def exact_close(self, n: int) -> Decimal:
        """Return the close of bar `n`."""
        ...


@runtime_checkable
class LiveMarket(Market, Protocol):
    """A market that happens while it is read: it may run dry without having ended."""

    def resume(self, at: float, seen: tuple[Trade, ...]) -> None:
        """Begin, once, to read what was printed after the instant `at`.

        `seen` are the prints of the last printed instant before it that are known already.
        """
        ...

    def horizon(self) -> float:
        """Return the instant until which all evidence has been released; it never falls."""
        ...

    def take(self) -> Trade | Book | None:
        """Return the next evidence, none of it later than the horizon; None: dry for now.

        A print that became known late may be older than evidence taken before it.
        """
        ...

    def news(self) -> tuple[HealthChanged | InstrumentUpdated, ...]:
        """Return, once, what has changed of connection, status and pair since the last call."""
        ...


class CandleSource(Protocol):
    """A market that can tell its closed candles, those before its start too where it has them."""

    candle_interval: float  # the shortest it can tell, seconds: 60, or the recording's if longer

    @property
    def candle_errors(self) -> int:
        """Return how many requests have failed so far."""
        ...

    @property
    def candle_trouble(self) -> str | None:
        """Return why the last request failed; None: it did not."""
        ...

    def candles(self, interval: float, since: float, until: float) -> Iterator[Candle]:
        """Yield candles with an open time from `since` on that had closed by `until`, in order.

        `interval` is a whole multiple of `candle_interval`. Where nothing is known there is no
        candle: nothing is filled. What is told depends on the market and the arguments only; a
        live market tells what has arrived so far and never waits.
        """
        ...


class PipelineHealth(Record, frozen=True, kw_only=True):
    """What the candles of one interval are good for; times and ages in seconds."""

    enabled: bool
    interval_sec: float
    samples: int  # candles at hand
    target: int  # how many a full training window has
    minimum: int  # fewer cannot be trained on
    coverage: float  # share of the target's bars, back from now, that are there
    newest_age_sec: float | None  # since the newest candle closed
    freshness_limit_sec: float
    volume_coverage: float  # share of the target window's candles that have volume
    is_ready: bool  # there are enough to train on
    is_fresh: bool  # the newest is young enough to infer from
    gaps: tuple[str, ...]  # the newest few of the target window, newest first
    gap_count: int
    filled_bars: int  # of the target window, once its gaps are filled
    sequences: int
    ema_restarts: int
    last_sync: float | None
    sources: Mapping[str, int]  # where the candles at hand came from: name to count
    refused: int  # candles that were not believed
    errors: int  # failed reads and writes, of the market and of the store
    trouble: str | None = None  # the newest of them
