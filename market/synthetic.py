"""The synthetic market: seeded regime-switching prices with fat tails, trades and books.

Each simulated minute has a generator of its own, made from the seed and the minute's number; only
the price and the regime are carried on. So the same seed gives the same market, and going on from
any place needs no more than walking the minutes before it without their trades.
"""

import math
import random
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

from core.domain import Instrument, Side
from core.market import Book, Candle, CandleRow, Evidence, Trade

if TYPE_CHECKING:
    from market.minutes import Minutes

MINUTE = 60.0
START_TIME = 1_767_571_200.0  # 2026-01-05 00:00 UTC
HISTORY_DAYS = 21
# Per regime: drift and volatility of a minute's log return, and the mean length in minutes.
REGIMES = ((-0.00006, 0.0022, 600.0), (0.0, 0.0015, 1200.0), (0.00006, 0.0022, 600.0))
TAIL_DEGREES = 4  # of Student's t: fat tails
TRADES = (4, 12)
BOOK_SECONDS = (1.0, 21.0, 41.0)
BOOK_LEVELS = 5
HALF_SPREAD = 0.00025
MEDIAN_TRADE = 600.0  # base units
LOG_SD_TRADE = 1.2


class SyntheticSource:
    """An endless market from a seed."""

    price_interval = 1.0
    candle_interval = MINUTE
    candle_errors = 0
    candle_trouble: str | None = None

    def __init__(
        self,
        seed: int,
        *,
        instrument: Instrument,
        start_price: Decimal = Decimal("0.1"),
        start_time: float = START_TIME,
    ) -> None:
        self.name = f"synthetic market, seed {seed}"
        self.fingerprint = ""
        self._seed = seed
        self._instrument = instrument
        self._start_price = start_price
        self._start_time = start_time
        self._minutes: Minutes | None = None

    def first_price(self) -> Decimal:
        """Return the price at which the market begins."""
        return self._start_price

    def start_time(self) -> float:
        """Return the time at which the market begins."""
        return self._start_time

    def end_time(self) -> None:
        """Return None: the market has no end."""
        return

    def total(self) -> None:
        """Return None: the market has no end."""
        return

    def read(self, skip: int) -> Iterator[Evidence]:
        """Yield evidence in order, without the first `skip` items."""
        price, regime, minute = float(self._start_price), 1, 0
        left = skip
        while True:
            rng = self._rng(minute)
            regime, end = _walk(rng, regime, price)
            count = rng.randint(*TRADES)
            size = count + len(BOOK_SECONDS)
            if left >= size:
                left -= size
            else:
                items = self._minute(rng, minute, (price, end), count)
                if self._minutes is not None:  # made once is enough
                    self._minutes.note(minute, self._row(minute, items), (regime, end))
                yield from items[left:]
                left = 0
            price, minute = end, minute + 1

    def history(self, days: int = HISTORY_DAYS) -> Iterator[Candle]:
        """Yield closed 1 min candles before the start that lead up to its price.

        The walk is made forwards from 1 and scaled so that its last close is the start price.
        """
        minutes = days * 1440
        prices, regime, rng = [1.0], 1, random.Random(f"{self._seed}/history")
        for _ in range(minutes):
            regime, end = _walk(rng, regime, prices[-1])
            prices.append(end)
        scale = float(self._start_price) / prices[-1]
        for n in range(minutes):
            at = self._start_time - (minutes - n) * MINUTE
            yield self._candle(rng, at, (prices[n] * scale, prices[n + 1] * scale))

    def candles(self, interval: float, since: float, until: float) -> Iterator[Candle]:
        """Yield closed candles: those of the history, then of the very trades that `read` yields.

        A longer candle is told when all of its minutes are. Raises ValueError where `interval` is
        no whole number of minutes.
        """
        from market.candles import resample  # noqa: PLC0415 - numpy, rarely needed
        from market.minutes import Minutes  # noqa: PLC0415
        from market.recorded import told  # noqa: PLC0415

        if self._minutes is None:
            self._minutes = Minutes(self, HISTORY_DAYS * 1440)
        if interval == MINUTE:
            return told(self._minutes.rows(since, until), interval)
        bar = math.ceil(since / interval) * interval if math.isfinite(since) else since
        return told(resample(self._minutes.rows(bar, until), MINUTE, interval), interval)

    def walk(self, rng: random.Random, minute: int, regime: int, price: float) -> tuple[int, float]:
        """Return the regime and price after a minute; `rng` then stands where its trades begin."""
        self._seed_for(rng, minute)
        return _walk(rng, regime, price)

    def row(self, rng: random.Random, minute: int, ends: tuple[float, float]) -> CandleRow:
        """Return the candle of a minute's trades, as numbers; `rng` as `walk` has left it."""
        count = rng.randint(*TRADES)
        return self._row(minute, self._minute(rng, minute, ends, count, has_books=False))

    def _row(self, minute: int, evidence: list[Evidence]) -> CandleRow:
        trades = [x for x in evidence if isinstance(x, Trade)]
        prices = [float(x.price) for x in trades]
        volume = float(sum(x.volume for x in trades))
        time = self._start_time + minute * MINUTE
        return (time, prices[0], max(prices), min(prices), prices[-1], volume, len(trades))

    def _rng(self, minute: int) -> random.Random:
        return random.Random(f"{self._seed}/{minute}")

    def _seed_for(self, rng: random.Random, minute: int) -> None:
        rng.seed(f"{self._seed}/{minute}")

    def _price(self, value: float) -> Decimal:
        tick = self._instrument.tick_size
        return max(tick, self._instrument.price_down(Decimal(repr(value))))

    def _minute(
        self,
        rng: random.Random,
        minute: int,
        ends: tuple[float, float],
        count: int,
        *,
        has_books: bool = True,
    ) -> list[Evidence]:
        start = self._start_time + minute * MINUTE
        times = sorted([(rng.uniform(0.0, 59.0), True) for _ in range(count)]
                       + [(second, False) for second in BOOK_SECONDS])  # fmt: skip
        step = abs(ends[1] / ends[0] - 1) / math.sqrt(count) + 0.0003
        items: list[Evidence] = []
        for n, (second, is_trade) in enumerate(times):
            share = (n + 1) / len(times)
            mid = ends[0] * (ends[1] / ends[0]) ** share
            mid *= math.exp(rng.gauss(0.0, step) * 4 * share * (1 - share))
            at = round(start + second, 3)
            if is_trade:
                items.append(self._trade(rng, at, mid))
            elif has_books:
                items.append(self._book(rng, at, mid))
            else:  # drawn all the same: what follows is what it would have been
                for _ in range(BOOK_LEVELS):
                    rng.random()
        return items

    def _trade(self, rng: random.Random, at: float, mid: float) -> Trade:
        side = Side.BUY if rng.random() < 0.5 else Side.SELL
        price = mid * (1 + HALF_SPREAD if side is Side.BUY else 1 - HALF_SPREAD)
        volume = MEDIAN_TRADE * math.exp(rng.gauss(0.0, LOG_SD_TRADE))
        return Trade(
            time=at,
            price=self._price(price),
            volume=self._instrument.volume_down(Decimal(repr(round(volume, 2)))),
            side=side,
        )

    def _book(self, rng: random.Random, at: float, mid: float) -> Book:
        bids, asks = [], []
        for level in range(BOOK_LEVELS):
            gap = HALF_SPREAD * (1 + level)
            size = Decimal(repr(round(MEDIAN_TRADE * (2 + level) * rng.uniform(0.5, 2.0), 2)))
            bids.append((self._price(mid * (1 - gap)), size))
            asks.append((self._price(mid * (1 + gap)) + self._instrument.tick_size, size))
        return Book(time=at, bids=tuple(bids), asks=tuple(asks))

    def _candle(self, rng: random.Random, at: float, ends: tuple[float, float]) -> Candle:
        wick = abs(rng.gauss(0.0, 0.0005))
        prices = [self._price(value) for value in (ends[0], ends[1])]
        high = self._price(max(ends) * (1 + wick))
        low = self._price(min(ends) * (1 - wick))
        volume = Decimal(repr(round(MEDIAN_TRADE * 8 * math.exp(rng.gauss(0.0, 0.8)), 2)))
        return Candle(
            time=at, interval=MINUTE, open=prices[0], close=prices[1], high=max(high, *prices),
            low=min(low, *prices), volume=volume, trades=rng.randint(*TRADES),
        )  # fmt: skip


def _walk(rng: random.Random, regime: int, price: float) -> tuple[int, float]:
    """Return the regime and price one minute later."""
    if rng.random() < 1 / REGIMES[regime][2]:
        regime = rng.choice([n for n in range(len(REGIMES)) if n != regime])
    drift, sd, _ = REGIMES[regime]
    chi = sum(rng.gauss(0.0, 1.0) ** 2 for _ in range(TAIL_DEGREES))
    shock = rng.gauss(0.0, 1.0) / math.sqrt(chi / TAIL_DEGREES) * math.sqrt(0.5)
    shock = max(-8.0, min(8.0, shock))
    return regime, price * math.exp(drift + sd * shock)
