"""The candles of a recorded file, or of a market that is made by rule, as arrays to ask again.

Prices pass through a double here: fifteen digits stay as they are. Nothing here opens a file; the
rows come from `market/replay.py`, which has checked them.
"""

import math
from collections.abc import Iterable, Iterator
from decimal import Decimal

import numpy as np

from core.market import Candle, CandleRow
from market.candles import Rows, resample, rows_of

BATCH = 10_000


def joined(rows: Iterable[CandleRow], interval: float) -> Iterator[CandleRow]:
    """Yield bars of `interval` made of shorter rows, or of prints, in order of time.

    The first bar is left out unless the rows begin where it does: what was before is not known.
    """
    bar: CandleRow | None = None
    is_first = True
    for row in rows:
        time, first, high, low, close, volume, count = row
        at = math.floor(time / interval) * interval
        if bar is not None and bar[0] == at:
            _, first, top, bottom, _, sum_before, count_before = bar
            high, low, volume = max(top, high), min(bottom, low), sum_before + volume
            count = None if count is None or count_before is None else count_before + count
        else:
            if bar is not None and not is_first:
                yield bar
            is_first = bar is None and time != at
        bar = (at, first, high, low, close, volume, count)
    if bar is not None and not is_first:
        yield bar


def told(rows: Rows, interval: float) -> Iterator[Candle]:
    """Yield rows as candles."""
    columns = [column.tolist() for column in rows]
    for time, first, high, low, close, volume, trades in zip(*columns, strict=True):
        yield Candle(
            time=time,
            interval=interval,
            open=Decimal(repr(first)),
            high=Decimal(repr(high)),
            low=Decimal(repr(low)),
            close=Decimal(repr(close)),
            volume=Decimal(repr(volume)),
            trades=None if math.isnan(trades) else int(trades),
        )


class Recorded:
    """All candles of one recording, in its own interval and, once asked for, in longer ones."""

    def __init__(self, rows: Iterable[CandleRow] | Rows, interval: float) -> None:
        self._interval = interval
        self._rows = {interval: rows if isinstance(rows, Rows) else _packed(rows)}

    def candles(self, interval: float, since: float, until: float) -> Iterator[Candle]:
        """Yield the candles of `interval` that opened from `since` on and closed by `until`.

        A longer bar is made of whatever it has, as an exchange makes it. Raises ValueError where
        `interval` is no whole multiple of the recording's.
        """
        return told(self.rows(interval, since, until), interval)

    def rows(self, interval: float, since: float, until: float) -> Rows:
        """Return the same as arrays."""
        if interval not in self._rows:
            own = self._rows[self._interval]
            made = resample(own, self._interval, interval, least=1)
            is_cut = made.time.size > 0 and own.time[0] > made.time[0]
            self._rows[interval] = Rows(*(column[1:] for column in made)) if is_cut else made
        rows = self._rows[interval]
        first = int(rows.time.searchsorted(since))
        end = int(rows.time.searchsorted(until - interval, side="right"))
        return Rows(*(column[first:end] for column in rows))


def _packed(rows: Iterable[CandleRow]) -> Rows:
    """Return rows as arrays; what is not packed yet is never more than a batch."""
    parts: list[Rows] = []
    batch: list[CandleRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            parts.append(rows_of(batch))
            batch = []
    parts.append(rows_of(batch))
    return Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
