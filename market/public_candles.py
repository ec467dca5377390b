"""Candles that an exchange tells, asked for by a schedule and handed over as far as they came.

One thread asks, any other reads; no socket and no clock here. A call that fails is counted and
leaves what has come: only what is new is asked for, so the next one makes up for it.
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from core.market import Candle
from core.ports import PublicData, Unavailable

ASK_SEC = {60.0: 60.0, 900.0: 300.0}  # how often candles of an interval are asked for
LAG_SEC = 3.0  # after a bar has ended, before it is asked for
PAUSE_MAX_SEC = 900.0
KEPT = 1440  # twice what an answer holds: a reader may come late


class PublicCandles:
    """The candles of some intervals that a `PublicData` tells, the newest 1440 of each."""

    def __init__(self, data: PublicData, intervals: Sequence[float]) -> None:
        unknown = [x for x in intervals if x not in ASK_SEC]
        if unknown:
            raise ValueError(f"candles of {unknown[0]:g} s are not asked for; allowed: 60, 900")
        self.errors = 0
        self.trouble: str | None = None
        self._data = data
        self._failures = dict.fromkeys(intervals, 0)
        self._lock = threading.Lock()
        self._candles: dict[float, tuple[Candle, ...]] = dict.fromkeys(intervals, ())

    def ask(self, interval: float, now: float) -> float:
        """Read what is new; return in how many seconds to ask again. `now`: exchange's time.

        That is a moment after a bar has ended, later after failures. Raises Unavailable, counted.
        """
        known = self._candles[interval]
        try:
            new = self._data.candles(interval, known[-1].time if known else 0.0)
        except Unavailable as error:
            self.errors += 1
            self.trouble = f"candles of {interval / 60:g} min: {error}"
            self._failures[interval] += 1
            raise
        self._failures[interval] = 0
        if not any(self._failures.values()):
            self.trouble = None
        found = {x.time: x for x in known} | {x.time: x for x in new}
        merged = tuple(found[time] for time in sorted(found))[-KEPT:]
        with self._lock:
            self._candles[interval] = merged
        every = ASK_SEC[interval]
        wait = every - (now - LAG_SEC) % every
        return wait if wait > every / 4 else wait + every

    def pause(self, interval: float) -> float:
        """Return in how many seconds to ask again after a failure: doubled with each in a row."""
        doubled: float = ASK_SEC[interval] * 2 ** min(self._failures[interval] - 1, 8)
        return max(ASK_SEC[interval], min(PAUSE_MAX_SEC, doubled))

    def candles(self, interval: float, since: float, until: float) -> Iterator[Candle]:
        """Yield what has come of the candles that opened from `since` on and closed by `until`.

        Raises ValueError for an interval that is not asked for.
        """
        with self._lock:
            known = self._candles.get(interval)
        if known is None:
            raise ValueError(f"candles of {interval:g} s are not asked for")
        first = bisect_left(known, since, key=_open_time)
        end = bisect_right(known, until - interval, key=_open_time)
        return iter(known[first:end])


def _open_time(candle: Candle) -> float:
    return candle.time
