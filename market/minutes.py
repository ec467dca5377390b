"""The synthetic market's 1 min candles: made as far as they are asked for, moving forward.

What was made is kept, within bounds, so that asking for the newest few costs only them. What a
minute holds follows from the seed alone, wherever the asking began.
"""

import math
import random
from collections.abc import Iterator
from typing import Protocol

from core.market import Candle, CandleRow
from market.candles import Rows, Window, empty, rows_of

MINUTE = 60.0
MINUTES_KEPT = 65_536
NOTED = 64  # minutes that somebody else has made lately


class Walk(Protocol):
    """A market made minute by minute, number 0 the first; negative ones are its history."""

    def first_price(self) -> object:
        """Return the price at which minute 0 begins."""
        ...

    def start_time(self) -> float:
        """Return when it does."""
        ...

    def history(self) -> Iterator[Candle]:
        """Yield the candles before it, each minute's, oldest first."""
        ...

    def walk(self, rng: random.Random, minute: int, regime: int, price: float) -> tuple[int, float]:
        """Return the regime and price after a minute; leave `rng` where its trades begin."""
        ...

    def row(self, rng: random.Random, minute: int, ends: tuple[float, float]) -> CandleRow:
        """Return the candle of a minute that goes from one price to the other."""
        ...


class Minutes:
    """The candles of a `Walk`; `history` is how many minutes it has before its start."""

    def __init__(self, source: Walk, history: int) -> None:
        self._source = source
        self._start = source.start_time()
        self._oldest = -history
        self._rng = random.Random()
        self._noted: dict[int, tuple[CandleRow, tuple[int, float]]] = {}
        self._begin(0)

    def _begin(self, minute: int) -> None:
        """Forget all; the next candle to be made is that of `minute`."""
        self._window = Window(MINUTE, MINUTES_KEPT * MINUTE)
        self._first = self._next = minute
        self._at = 0  # the walk stands before this minute
        self._regime, self._price = 1, float(str(self._source.first_price()))

    def note(self, minute: int, row: CandleRow, after: tuple[int, float]) -> None:
        """Take a minute that was made elsewhere, with the regime and price after it."""
        self._noted[minute] = row, after
        if len(self._noted) > NOTED:
            del self._noted[next(iter(self._noted))]

    def rows(self, since: float, until: float) -> Rows:
        """Return the candles that opened from `since` on and closed by `until`, which is finite."""
        first, end = self._number(since), math.floor((until - self._start) / MINUTE)
        if end <= first:
            return empty()
        oldest = self._window.first_time
        if oldest is None and first > self._first:
            self._begin(first)  # of what was before only the walk is made
        elif first < (self._first if oldest is None else self._number(oldest)):
            self._begin(first if first >= 0 else self._oldest)  # history is made as a whole
        self._make(end)
        return self._window.rows(since, until)

    def _number(self, time: float) -> int:
        """Return the first minute that opens at or after `time`, the oldest at least."""
        if time <= self._start + self._oldest * MINUTE:
            return self._oldest
        return math.ceil((time - self._start) / MINUTE)

    def _make(self, end: int) -> None:
        """Make what is missing before the minute `end`."""
        if self._next < 0:
            self._window.add(self._source.history())
            self._next = 0
        rows: list[CandleRow] = []
        while self._at < end:
            before, minute = self._price, self._at
            noted = self._noted.get(minute)
            after = (
                noted[1] if noted else self._source.walk(self._rng, minute, self._regime, before)
            )
            self._regime, self._price = after
            if minute >= self._next:
                row = (
                    noted[0]
                    if noted
                    else self._source.row(self._rng, minute, (before, self._price))
                )
                rows.append(row)
            self._at += 1
        self._window.add_rows(rows_of(rows))
        self._next = max(self._next, end)
