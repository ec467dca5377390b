"""Closed candles as arrays: what is believed, merging, filling of gaps, resampling, a window.

Arrays are float64 of shape (T,), oldest first; `time` is a candle's open in seconds since the
epoch, UTC. Nothing here reads a file, asks a market or knows what time it is. Everything is total:
whatever the numbers are, candles that cannot be are left out. Look next at `market/pipeline.py`.
"""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.market import Candle, CandleRow, PipelineHealth

__all__ = [
    "Flags",
    "Floats",
    "PipelineHealth",
    "Prepared",
    "Rows",
    "Window",
    "empty",
    "gap_limit",
    "merged",
    "prepare",
    "resample",
    "retention_sec",
    "rows_of",
    "valid",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FILL_BARS, FILL_SEC = 3, 900.0  # a missing stretch up to the longer of both is filled
EMA_GAP_SEC = 21_600.0  # over a longer one averages begin anew
WARM_UP = 150  # rows before features are whole
RETENTION_SEC = 14 * 86_400.0
RETENTION_MARGIN = 1.25
THINNEST = 0.5  # share of bars that may be missing for `RETENTION_MARGIN` to hold in candles too
_CAPACITY_MIN = 1024


class Rows(NamedTuple):
    """Candles, one array a column; `trades` is nan where unknown."""

    time: Floats
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    trades: Floats


class Prepared(NamedTuple):
    """Candles with short gaps filled, as sequences without a hole.

    `filled` marks rows that were made up: flat at the close before, without volume. `lengths` are
    those of the sequences; they add up to T. `starts` marks each sequence's first row, `restarts`
    a row before which averages begin anew, for the gap before it was longer than 6 h.
    """

    time: Floats
    close: Floats
    volume: Floats
    filled: Flags
    lengths: tuple[int, ...]
    restarts: Flags
    starts: Flags

    @property
    def filled_bars(self) -> int:
        """Return how many rows were made up."""
        return int(np.count_nonzero(self.filled))

    @property
    def sequences(self) -> int:
        """Return how many stretches without a hole there are."""
        return len(self.lengths)

    @property
    def ema_restarts(self) -> int:
        """Return how often averages begin anew after the first row."""
        return int(np.count_nonzero(self.restarts))


def empty() -> Rows:
    """Return no candles."""
    return Rows(*np.empty((len(Rows._fields), 0)))


def rows_of(table: Sequence[CandleRow]) -> Rows:
    """Return rows of plain numbers as arrays, in the order given."""
    if not table:
        return empty()
    return Rows(*np.array(table, dtype=np.float64).T.copy())


def retention_sec(interval: float, target: int) -> float:
    """Return how far back candles are kept, in seconds.

    At least 14 days, and 1.25 times target and warm-up also where half of the bars are missing.
    """
    wanted = math.ceil(RETENTION_MARGIN * (target + WARM_UP) / THINNEST)
    return max(RETENTION_SEC, wanted * interval)


def gap_limit(interval: float) -> float:
    """Return the longest missing stretch that is filled, in seconds."""
    return max(FILL_BARS * interval, FILL_SEC)


def valid(rows: Rows, interval: float, now: float = math.inf) -> Flags:
    """Return which rows are closed candles of `interval` at `now` that can be believed."""
    with np.errstate(invalid="ignore", over="ignore"):
        top, bottom = np.maximum(rows.open, rows.close), np.minimum(rows.open, rows.close)
        is_finite = np.isfinite(rows.time) & np.isfinite(rows.high) & np.isfinite(rows.volume)
        is_ordered = (rows.high >= top) & (bottom >= rows.low) & (rows.low > 0)
        is_in_time = (rows.time >= 0) & (rows.time + interval <= now)
        is_aligned = np.fmod(rows.time, interval) == 0
        found: Flags = is_finite & is_ordered & is_in_time & is_aligned & (rows.volume >= 0)
    return found


def merged(*parts: Rows) -> Rows:
    """Return the rows of all parts in order of time; of equal times the last given stays."""
    if not parts:
        return empty()
    whole = Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    if _rises(whole.time):
        return whole
    order = np.argsort(whole.time, kind="stable")
    times = whole.time[order]
    order = order[np.append(times[1:] != times[:-1], np.ones(min(1, times.size), dtype=bool))]
    return Rows(*(column[order] for column in whole))


def _rises(times: Floats) -> bool:
    return bool(np.all(times[1:] > times[:-1]))


def _clean(rows: Rows, interval: float) -> Rows:
    """Return what can be believed of `rows`, in order, each time once."""
    found = valid(rows, interval)
    kept = rows if found.all() else Rows(*(column[found] for column in rows))
    return merged(kept)


def prepare(rows: Rows, interval: float, after: tuple[float, float] | None = None) -> Prepared:
    """Return `rows` with short gaps filled and sequences told apart.

    A missing stretch of up to 3 bars or 15 min, whichever is longer, is filled flat at the close
    before it; a longer one ends the sequence. `after` is the (open time, close) of a candle that
    was prepared before: what follows it is prepared as if all had been at once.
    """
    rows = _clean(rows, interval)
    times, closes, volumes = rows.time, rows.close, rows.volume
    if after is not None:
        kept = times > after[0]
        times = np.append(after[0], times[kept])
        closes = np.append(after[1], closes[kept])
        volumes = np.append(0.0, volumes[kept])
    missing = np.zeros(times.size)
    missing[1:] = np.diff(times) / interval - 1
    is_gap = missing * interval > gap_limit(interval)
    before = np.where(is_gap, 0, missing).astype(np.int64)  # made up before each row
    made = np.append(before[1:], 0)[: times.size]  # and after it
    at = np.repeat(np.arange(times.size), made + 1)
    first = np.cumsum(made + 1) - (made + 1)
    offset = np.arange(at.size) - first[at]
    filled = offset > 0
    starts = np.zeros(at.size, dtype=bool)
    starts[first[is_gap]] = True
    restarts = np.zeros(at.size, dtype=bool)
    restarts[first[missing * interval > EMA_GAP_SEC]] = True
    cut = 0 if after is None else 1
    starts[:1] = True
    bounds = np.append(np.flatnonzero(starts[cut:]), at.size - cut)
    if bounds[0] > 0:
        bounds = np.append(0, bounds)
    return Prepared(
        time=(times[at] + offset * interval)[cut:],
        close=closes[at][cut:],
        volume=np.where(filled, 0.0, volumes[at])[cut:],
        filled=filled[cut:],
        lengths=tuple(np.diff(bounds).tolist()),
        restarts=restarts[cut:],
        starts=starts[cut:],
    )


def resample(rows: Rows, interval: float, to: float, *, least: int | None = None) -> Rows:
    """Return candles of the longer interval `to`, aligned to it.

    A bar needs `least` of its rows, all of them by default; it lacks trades where one of its rows
    does. Raises ValueError where `to` is no whole multiple of `interval`.
    """
    factor = round(to / interval) if interval > 0 else 0
    if factor < 1 or factor * interval != to:
        raise ValueError(f"{to:g} s is no whole multiple of {interval:g} s")
    rows = _clean(rows, interval)
    if factor == 1 or not rows.time.size:
        return rows
    bars = np.floor(rows.time / to)
    first = np.flatnonzero(np.append(True, bars[1:] != bars[:-1]))
    counts = np.diff(np.append(first, bars.size))
    last = first + counts - 1
    with np.errstate(over="ignore"):
        found = Rows(
            time=bars[first] * to,
            open=rows.open[first],
            high=np.maximum.reduceat(rows.high, first),
            low=np.minimum.reduceat(rows.low, first),
            close=rows.close[last],
            volume=np.add.reduceat(rows.volume, first),
            trades=np.add.reduceat(rows.trades, first),
        )
    kept = (counts >= (factor if least is None else least)) & valid(found, to)
    return Rows(*(column[kept] for column in found))


class Window:
    """Candles of one interval in growing arrays, as far back as `span_sec` before the newest.

    `refused` counts what was given and not believed. Each candle remembers its `origin`, a small
    number that the caller chooses.
    """

    def __init__(self, interval: float, span_sec: float = math.inf) -> None:
        self.interval = interval
        self.span_sec = span_sec
        self.refused = 0
        self.version = 0  # rises with every change
        self._table = np.empty((len(Rows._fields) + 1, _CAPACITY_MIN))
        self._first = self._end = 0

    @property
    def count(self) -> int:
        """Return how many candles there are."""
        return self._end - self._first

    @property
    def first_time(self) -> float | None:
        """Return when the oldest candle opened, None without any."""
        return float(self._table[0, self._first]) if self.count else None

    @property
    def last_close_time(self) -> float | None:
        """Return when the newest candle closed, None without any."""
        return float(self._table[0, self._end - 1]) + self.interval if self.count else None

    def add(self, candles: Iterable[Candle], *, now: float = math.inf, origin: int = 0) -> int:
        """Take candles in any order, the last of equal times; return how many were believed.

        Refused and counted are those that are not closed at `now`, not of this interval, not
        aligned to it, or that cannot be.
        """
        return self.add_rows(rows_of([self._row(x) for x in candles]), now=now, origin=origin)

    def add_rows(self, rows: Rows, *, now: float = math.inf, origin: int = 0) -> int:
        """Take candles as arrays, as `add` does."""
        if not rows.time.size:
            return 0
        found = valid(rows, self.interval, now)
        count = int(np.count_nonzero(found))
        self.refused += rows.time.size - count
        if not count:
            return 0
        new = np.array([*rows, np.full(rows.time.size, float(origin))])
        if count < rows.time.size:
            new = new[:, found]
        trades = new[6]
        trades[~((trades >= 0) & (trades < math.inf))] = math.nan
        times = new[0].tolist()
        newest = self._table[0, self._end - 1] if self.count else -math.inf
        if not (times[0] > newest and all(map(operator.lt, times, times[1:]))):
            new = self._joined(new)
        self._append(new)
        self.version += 1
        self.trim(float(self._table[0, self._end - 1]) + self.interval)
        return count

    def _row(self, candle: Candle) -> CandleRow:
        is_own = candle.interval == self.interval
        return (
            candle.time if is_own else math.nan,
            _number(candle.open),
            _number(candle.high),
            _number(candle.low),
            _number(candle.close),
            _number(candle.volume),
            None if candle.trades is None else _number(candle.trades),
        )

    def _joined(self, new: Floats) -> Floats:
        """Take everything out and return it together with `new`, in order, newest given stays."""
        whole = np.concatenate((self._table[:, self._first : self._end], new), axis=1)
        order = np.argsort(whole[0], kind="stable")
        times = whole[0, order]
        self._first = self._end = 0
        joined: Floats = whole[:, order[np.append(times[1:] != times[:-1], True)]]
        return joined

    def _append(self, new: Floats) -> None:
        count, size = self.count, new.shape[1]
        if self._end + size > self._table.shape[1]:
            capacity = max(_CAPACITY_MIN, 2 * (count + size))
            table = np.empty((self._table.shape[0], capacity))
            table[:, :count] = self._table[:, self._first : self._end]
            self._table, self._first, self._end = table, 0, count
        self._table[:, self._end : self._end + size] = new
        self._end += size

    def trim(self, now: float) -> None:
        """Forget candles that opened earlier than the span before `now`."""
        first = self._first + self._at(now - self.span_sec)
        if first != self._first:
            self._first = first
            self.version += 1

    def _at(self, time: float) -> int:
        """Return how many candles opened before `time`."""
        return int(self._table[0, self._first : self._end].searchsorted(time))

    def rows(
        self, since: float | None = None, until: float | None = None, *, newest: int | None = None
    ) -> Rows:
        """Return a copy of the candles with an open time from `since` on that closed by `until`.

        Of these only the `newest` so many, if given.
        """
        first = self._first + (0 if since is None else self._at(since))
        end = self._end
        if until is not None:
            times = self._table[0, self._first : self._end]
            end = self._first + int(times.searchsorted(until - self.interval, side="right"))
        if newest is not None:
            first = max(first, end - newest)
        return Rows(*self._table[: len(Rows._fields), first : max(first, end)].copy())

    def rows_of(self, origin: int) -> Rows:
        """Return a copy of the candles that came from there."""
        whole = self._table[:, self._first : self._end]
        return Rows(*whole[: len(Rows._fields), whole[-1] == origin])

    def rows_not_of(self, origin: int) -> Rows:
        """Return a copy of the candles that came from elsewhere."""
        whole = self._table[:, self._first : self._end]
        return Rows(*whole[: len(Rows._fields), whole[-1] != origin])

    def lacks(self, rows: Rows) -> Rows:
        """Return those of `rows` that are not here as they are."""
        own = Rows(*self._table[: len(Rows._fields), self._first : self._end])
        at = np.minimum(own.time.searchsorted(rows.time), max(0, own.time.size - 1))
        if not own.time.size:
            return rows
        pairs = zip(own, rows, strict=True)
        is_here = np.all([(x[at] == y) | (np.isnan(x[at]) & np.isnan(y)) for x, y in pairs], axis=0)
        return Rows(*(column[~is_here] for column in rows))

    def origins(self) -> dict[int, int]:
        """Return origin → how many of the candles came from there."""
        numbers, counts = np.unique(self._table[-1, self._first : self._end], return_counts=True)
        return {int(n): int(c) for n, c in zip(numbers, counts, strict=True)}


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # a Decimal or an int; sNaN cannot be a float
    except (TypeError, ValueError, OverflowError):
        return math.nan
