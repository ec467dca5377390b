"""The sandbox's market in wall time: recorded or synthetic evidence, re-timed and never early.

Evidence of the time t is known at lap_start + (t − t0) / speed. Pure but for the source it reads.
"""

from collections.abc import Iterator
from decimal import Decimal

from core.market import Candle, Evidence, MarketSource, available_at
from core.record import replace

SPEED_MIN, SPEED_MAX = 0.01, 100_000.0


class Feed:
    """A source's evidence from the `read`-th on, in wall time.

    `speed` says how many times as lively the market is. At its end it stays where it is, or begins
    anew where `is_looping`. Raises ValueError for a speed out of bounds, MarketError as the source.
    """

    def __init__(
        self,
        source: MarketSource,
        *,
        lap_start: float,
        read: int = 0,
        lap: int = 0,
        speed: float = 1.0,
        is_looping: bool = False,
    ) -> None:
        if not SPEED_MIN <= speed <= SPEED_MAX:
            raise ValueError(f"speed {speed:g} must be from {SPEED_MIN:g} to {SPEED_MAX:g}")
        self.lap_start, self.read, self.lap = lap_start, read, lap
        self.has_ended = False
        self._source, self._speed, self._is_looping = source, speed, is_looping
        self._origin = source.start_time()
        self._items: Iterator[Evidence] = source.read(read)
        self._end = lap_start
        self._next: Evidence | None = None
        self._take()

    @property
    def next_at(self) -> float | None:
        """Return when the next evidence is known, None after the end."""
        return None if self._next is None else available_at(self._next)

    def pop(self) -> Evidence:
        """Return the next evidence and go on. Raises StopIteration after the end."""
        found = self._next
        if found is None:
            raise StopIteration
        self._end = available_at(found)
        self.read += 1
        self._take()
        return found

    def past(self, count: int) -> Iterator[Evidence]:
        """Yield up to `count` pieces of evidence that came before the present one, in order."""
        first = max(0, self.read - count)
        items = self._source.read(first)
        for _ in range(self.read - first):
            yield self.retimed(next(items))

    def before(self, candles: Iterator[Candle]) -> Iterator[Evidence]:
        """Yield older candles of the source in the wall time of the first lap."""
        return map(self.retimed, candles)

    def retimed(self, evidence: Evidence) -> Evidence:
        """Return evidence of the source in wall time."""
        at = round(self.lap_start + (evidence.time - self._origin) / self._speed, 6)
        if isinstance(evidence, Candle):
            return replace(evidence, time=at, interval=evidence.interval / self._speed)
        return replace(evidence, time=at)

    def _take(self) -> None:
        item = next(self._items, None)
        if item is None and self._is_looping and self.read:
            self.lap, self.read, self.lap_start = self.lap + 1, 0, self._end
            self._items = self._source.read(0)
            item = next(self._items, None)
        self.has_ended = item is None
        self._next = None if item is None else self.retimed(item)


class ManualSource:
    """A market that has only what a test feeds by hand."""

    name = "market by hand"
    fingerprint = ""
    price_interval = 1.0

    def __init__(self, price: Decimal) -> None:
        self._price = price

    def first_price(self) -> Decimal:
        """Return the price at which it begins."""
        return self._price

    def start_time(self) -> float:
        """Return 0."""
        return 0.0

    def total(self) -> int:
        """Return that nothing comes of itself."""
        return 0

    def read(self, skip: int) -> Iterator[Evidence]:  # noqa: ARG002 - the protocol's signature
        """Yield nothing."""
        return iter(())
