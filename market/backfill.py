"""Deeper candles from an exchange's public prints: which are missing, and how they are made.

The unit is a quarter of an hour, all of whose prints were read: its minutes and its bar of 15 min
are written together with the note that it is complete, so that a job that is killed goes on behind
the last one. Missing days are read newest first, so that what there is reaches back from now
without a hole; within a day prints are read forwards, as exchanges page them. Minutes without
prints are flat, without volume and trades, as Kraken's own candles tell them; a silence longer than
what is filled of a gap (`market/candles.py`) has none. No clock, no file and no socket here. Look
next at `engine/backfill.py`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Protocol

import numpy as np

from core.market import CandleRow, Trade
from core.ports import Unavailable
from core.record import Record, replace
from market.candles import Rows, gap_limit, merged, resample, rows_of, valid
from market.pipeline import PRIMARY_SEC, SECONDARY_SEC
from market.public import NS, PAUSE_MAX_SEC, PAUSE_MIN_SEC, Tail

PAGE_SEC = 1.5  # between two pages: a daemon on this address asks too, and one a second is safe
PAGE_ROWS = 1000
ATTEMPTS_MAX = 8  # failures in a row before the job gives up
DAY_SEC = 86_400.0
MINUTES = int(SECONDARY_SEC // PRIMARY_SEC)

Stretch = tuple[float, float]  # since, until


class Prints(Protocol):
    """What is asked for prints."""

    def trades(self, since_ns: int) -> tuple[tuple[Trade, ...], int]:
        """Return prints after the cursor, oldest first, and the next cursor. Raises Unavailable."""
        ...


class HistoryStore(Protocol):
    """Where candles are kept. All raise StoreError."""

    def read(self, interval: float, since: float, until: float) -> list[CandleRow]:
        """Return candles that opened from `since` on and closed by `until`, oldest first."""
        ...

    def stretches(self) -> list[tuple[int, float, float]]:
        """Return (number, since, until) of stretches that are complete."""
        ...

    def write_stretch(
        self, since: float, until: float, candles: Mapping[float, Sequence[CandleRow]]
    ) -> None:
        """Store all candles there are of a stretch, by interval, and that it is complete."""
        ...


class Done(Record, frozen=True, kw_only=True):
    """How far a job has come."""

    sec: float = 0.0  # of the market
    pages: int = 0
    trades: int = 0
    minutes: int = 0  # candles of 1 min
    bars: int = 0  # of 15 min


def quarter(time: float) -> float:
    """Return the begin of the quarter of an hour that `time` lies in."""
    return math.floor(time / SECONDARY_SEC) * SECONDARY_SEC


def known_since(prints: Prints, since: float) -> float:
    """Return the first quarter of an hour from `since` on that can be read whole, inf without any.

    Kraken tells all there ever were. Where nothing is told of the time just before `since`, the
    source may tell its newest prints only, and begin in the midst of some minute. Raises
    Unavailable.
    """
    page, _ = prints.trades(_cursor(since))
    if not page:
        return math.inf
    return max(since, math.ceil(page[0].time / SECONDARY_SEC) * SECONDARY_SEC)


def missing(store: HistoryStore, since: float, until: float) -> list[Stretch]:
    """Return what is to be read, a day at most each, the newest first.

    A quarter is there if it was read before, or if all its minutes and its bar are there. `since`
    and `until` are begins of quarters. Raises StoreError.
    """
    count = round((until - since) / SECONDARY_SEC)
    there = np.zeros(count, dtype=bool)
    for interval, wanted in ((PRIMARY_SEC, MINUTES), (SECONDARY_SEC, 1)):
        times = rows_of(store.read(interval, since, until)).time
        at = ((times - since) // SECONDARY_SEC).astype(np.int64)
        is_full = np.bincount(at, minlength=count)[:count] >= wanted
        there = is_full if interval == PRIMARY_SEC else there & is_full
    for _, first, end in store.stretches():
        begin = max(0, math.ceil((first - since) / SECONDARY_SEC))
        there[begin : max(begin, math.floor((end - since) / SECONDARY_SEC))] = True
    edges = np.flatnonzero(np.diff(np.concatenate(([True], there, [True])).astype(np.int8)))
    found: list[Stretch] = []
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        first, last = since + begin * SECONDARY_SEC, since + end * SECONDARY_SEC
        while first < last:
            cut = max(first, (math.ceil(last / DAY_SEC) - 1) * DAY_SEC)  # days begin at midnight
            found.append((cut, last))
            last = cut
    return sorted(found, reverse=True)


class MinuteCandles:
    """Minutes made of prints in their order; amounts are exact until a minute is told."""

    def __init__(self) -> None:
        self._rows: dict[float, list[Decimal]] = {}  # open, high, low, close, volume, count
        self._before: CandleRow | None = None  # the newest that was told

    def add(self, trade: Trade) -> None:
        """Take one print."""
        time = math.floor(trade.time / PRIMARY_SEC) * PRIMARY_SEC
        price = trade.price
        row = self._rows.setdefault(time, [price, price, price, price, Decimal(0), Decimal(0)])
        row[1], row[2], row[3] = max(row[1], price), min(row[2], price), price
        row[4] += trade.volume
        row[5] += 1

    def take(self, until: float) -> list[CandleRow]:
        """Return, once, the minutes that ended by `until`, in order.

        Short silences are told where the print that ends them has been taken.
        """
        found: list[CandleRow] = []
        for time in sorted(self._rows):
            found += self._silence(min(time, until), time)
            if time + PRIMARY_SEC > until:
                break
            first, high, low, close, volume, count = map(float, self._rows.pop(time))
            found.append((time, first, high, low, close, volume, count))
            self._before = found[-1]
        return found

    def _silence(self, until: float, ended: float) -> list[CandleRow]:
        """Return the flat minutes before `until` of a silence that the minute `ended` ended."""
        if self._before is None:
            return []
        first, close = self._before[0] + PRIMARY_SEC, self._before[4]
        if ended - first > gap_limit(PRIMARY_SEC):
            return []
        count = max(0, round((until - first) / PRIMARY_SEC))
        times = [first + n * PRIMARY_SEC for n in range(count)]
        found: list[CandleRow] = [(x, close, close, close, close, 0.0, 0.0) for x in times]
        self._before = found[-1] if found else self._before
        return found


class Backfill:
    """A job: reads the prints of stretches, and writes what they make.

    `wait` waits for so many seconds; `told` hears of each page; `warned` why it waits.
    """

    def __init__(
        self,
        prints: Prints,
        store: HistoryStore,
        *,
        wait: Callable[[float], None],
        told: Callable[[Done], None],
        warned: Callable[[str, float], None],
        page_sec: float = PAGE_SEC,
    ) -> None:
        self._prints, self._store = prints, store
        self._wait, self._told, self._warned = wait, told, warned
        self._page_sec = page_sec
        self._has_asked = False
        self._newest = 0.0  # of all prints that were told
        self.done = Done()

    def run(self, stretches: Sequence[Stretch]) -> None:
        """Read all of them. Raises Unavailable after many failures in a row; StoreError."""
        for since, until in stretches:
            self._read(since, until)

    def _read(self, since: float, until: float) -> None:
        """Read one stretch; all of it is past when it is begun."""
        reached, candles, tail = since, MinuteCandles(), Tail(0.0)
        cursor = _cursor(since)
        is_over = False
        while not is_over:
            page, following = self._page(cursor)
            new = tail.new_of(page)
            for trade in new:
                candles.add(trade)
            is_over = not _goes_on(page, cursor, following) or page[-1].time >= until
            known = until if is_over else quarter(page[-1].time)
            self.done = replace(
                self.done, pages=self.done.pages + 1, trades=self.done.trades + len(new)
            )
            if known > reached:
                minutes = [x for x in candles.take(known) if x[0] >= since]
                self._write(reached, known, minutes)
                reached = known
            self._told(self.done)
            # Prints of one instant may be cut in two by a page's end: it is asked for once more.
            cursor = max(following - 1, cursor + 1)

    def _page(self, cursor: int) -> tuple[tuple[Trade, ...], int]:
        """Return the next page; what fails is asked for again. Raises Unavailable."""
        attempts = 0
        while True:
            if self._has_asked:
                self._wait(self._page_sec)
            self._has_asked = True
            try:
                return self._asked(cursor)
            except Unavailable as error:
                attempts += 1
                if attempts >= ATTEMPTS_MAX:
                    raise
                pause = min(PAUSE_MAX_SEC, PAUSE_MIN_SEC * 2.0 ** (attempts - 1))
                pause = max(pause, error.pause_sec)
                self._warned(str(error), pause)
                self._wait(pause)

    def _asked(self, cursor: int) -> tuple[tuple[Trade, ...], int]:
        """Return a page that can be believed. Raises Unavailable."""
        page, following = self._prints.trades(cursor)
        if any(a.time > b.time for a, b in pairwise(page)):
            raise Unavailable("Trades: prints are not in order")
        if len(page) >= PAGE_ROWS and following <= cursor:
            raise Unavailable("Trades: the cursor does not move")
        if not _goes_on(page, cursor, following) and cursor / NS < self._newest - 1.0:
            raise Unavailable("Trades: there were newer prints before")  # unknown is not empty
        self._newest = max(self._newest, page[-1].time if page else 0.0)
        return page, following

    def _write(self, since: float, until: float, minutes: list[CandleRow]) -> None:
        rows = rows_of(minutes)
        minutes = [x for x, kept in zip(minutes, valid(rows, PRIMARY_SEC), strict=True) if kept]
        table: list[CandleRow] = list(zip(*(x.tolist() for x in _bars(rows)), strict=True))
        self._store.write_stretch(since, until, {PRIMARY_SEC: minutes, SECONDARY_SEC: table})
        self.done = replace(
            self.done,
            sec=self.done.sec + until - since,
            minutes=self.done.minutes + len(minutes),
            bars=self.done.bars + len(table),
        )


def _cursor(since: float) -> int:
    """Return where to begin: a little earlier, for a silence stands at the price before it."""
    return int(since - gap_limit(PRIMARY_SEC)) * NS - 1


def _bars(minutes: Rows) -> Rows:
    """Return bars of 15 min: of the minutes with trades, and flat where all are silent."""
    parts = [
        Rows(*(x[kept] for x in minutes)) for kept in (minutes.trades == 0, minutes.trades > 0)
    ]
    silent, traded = parts
    return merged(
        resample(silent, PRIMARY_SEC, SECONDARY_SEC),
        resample(traded, PRIMARY_SEC, SECONDARY_SEC, least=1),
    )


def _goes_on(page: tuple[Trade, ...], cursor: int, following: int) -> bool:
    """Tell whether there may be newer prints: a page that ends where it began is the last."""
    return bool(page) and (following > cursor + 1 or len(page) >= PAGE_ROWS)
