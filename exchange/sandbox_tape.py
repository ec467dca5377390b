"""The sandbox's tape: prints in order, and the bars of every interval made from them.

Pure and of bounded size. A candle has no prints of its own: it gives one for each corner of the
path open, nearer extreme, other extreme, close, a quarter of its volume each, and only once it is
complete, so that nothing is told before its time. Look next at `exchange/sandbox_market.py`.
"""

from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice, takewhile

from core.domain import ZERO, Instrument, Side
from core.market import Candle, Trade
from core.record import Record

INTERVALS = (1, 5, 15, 30, 60, 240, 1440, 10_080, 21_600)  # minutes
PRINTS_MAX = 10_000
BARS_MAX = 720  # rows of one answer, the forming one included
SECOND_NS = 1_000_000_000
MINUTE_SEC = 60


class Print(Record, frozen=True, kw_only=True, gc=False):
    """One line of the tape; `at_ns` is unique, so that a cursor never splits an instant."""

    number: int
    at_ns: int
    price: Decimal
    volume: Decimal
    side: Side  # the taker's


class Bar:
    """One bar; `start` in seconds; `cost` is the sum of price times volume."""

    __slots__ = ("close", "cost", "count", "high", "low", "open", "start", "volume")

    def __init__(self, start: int, price: Decimal) -> None:
        self.start = start
        self.open = self.high = self.low = self.close = price
        self.volume = self.cost = ZERO
        self.count = 0

    def add(self, price: Decimal, volume: Decimal) -> None:
        """Take one print."""
        if price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        self.close = price
        self.volume += volume
        self.cost += price * volume
        self.count += 1


class Tape:
    """The last prints with their numbers, and bars of every interval."""

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        self._prints: deque[Print] = deque(maxlen=PRINTS_MAX)
        self._bars: dict[int, deque[Bar]] = {
            interval: deque(maxlen=BARS_MAX + 1) for interval in INTERVALS
        }
        self._number = 0

    @property
    def last(self) -> Print | None:
        """Return the last print, or None before the first."""
        return self._prints[-1] if self._prints else None

    def add_trade(self, trade: Trade) -> None:
        """Take a public trade as it is; one without a side gets that of its move."""
        self._add(trade.time, trade.price, trade.volume, trade.side)

    def add_candle(self, candle: Candle) -> None:
        """Take a closed candle as four prints; one without volume, or made up, gives none."""
        if candle.is_filled or candle.volume <= 0:
            return
        is_low_first = candle.open - candle.low <= candle.high - candle.open
        near, far = (candle.low, candle.high) if is_low_first else (candle.high, candle.low)
        quarter = self._instrument.volume_down(candle.volume / 4)
        for n, price in enumerate((candle.open, near, far, candle.close)):
            volume = quarter if n < 3 else candle.volume - 3 * quarter
            self._add(candle.time + candle.interval * (n + 0.5) / 4, price, volume, None)

    def latest(self, count: int) -> list[Print]:
        """Return the last `count` prints, oldest first."""
        return list(islice(reversed(self._prints), count))[::-1]

    def after(self, cursor_ns: int, count: int) -> list[Print]:
        """Return up to `count` prints after the cursor, oldest first."""
        newer = takewhile(lambda x: x.at_ns > cursor_ns, reversed(self._prints))
        return list(newer)[::-1][:count]

    def mean_volume(self, count: int) -> Decimal | None:
        """Return the mean volume of the last `count` prints, None if there are none."""
        recent = self.latest(count)
        return sum((x.volume for x in recent), ZERO) / len(recent) if recent else None

    def bars(self, interval: int, now: float) -> list[Bar]:
        """Return up to 720 bars of `interval` minutes, oldest first; the last is still forming.

        A bar without prints stands at the close before it. Empty before the first print.
        """
        step = interval * MINUTE_SEC
        newest = int(now) // step * step
        return list(self._walk(interval, newest - (BARS_MAX - 1) * step, newest))

    def recent(self, interval: int, since: float) -> list[Bar]:
        """Return the bars of `interval` minutes with prints that start at `since` or later."""
        return [bar for bar in self._bars[interval] if bar.start >= since]

    def _walk(self, interval: int, oldest: int, newest: int) -> Iterator[Bar]:
        step, due, close = interval * MINUTE_SEC, newest + 1, ZERO
        for bar in self._bars[interval]:
            if bar.start > newest:
                break
            yield from (Bar(start, close) for start in range(max(due, oldest), bar.start, step))
            if bar.start >= oldest:
                yield bar
            due, close = bar.start + step, bar.close
        yield from (Bar(start, close) for start in range(max(due, oldest), newest + 1, step))

    def _add(self, at: float, price: Decimal, volume: Decimal, side: Side | None) -> None:
        if volume <= 0:
            return
        last = self.last
        at_ns = int(Decimal(repr(at)) * SECOND_NS)  # a float has no room for nanoseconds
        if last is not None:
            at_ns = max(at_ns, last.at_ns + 1)
        if side is None:
            side = _side_of_move(last, price)
        self._number += 1
        self._prints.append(
            Print(number=self._number, at_ns=at_ns, price=price, volume=volume, side=side)
        )
        second = at_ns // SECOND_NS
        for interval, bars in self._bars.items():
            start = second - second % (interval * MINUTE_SEC)
            if not bars or bars[-1].start != start:
                bars.append(Bar(start, price))
            bars[-1].add(price, volume)


def _side_of_move(last: Print | None, price: Decimal) -> Side:
    """Return the side whose takers moved the price there; no move keeps the side before."""
    if last is None or price > last.price:
        return Side.BUY
    return last.side if price == last.price else Side.SELL
