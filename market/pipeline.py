"""The candles that a model lives on: loaded from the store, kept up with the market, judged.

One pipeline an interval. Given the market and the times it is asked at, it always comes to the same
candles: the store only saves asking again. What goes wrong is counted and shown, never raised. No
clock, no file, no socket here. Look next at `market/candles.py`.
"""

import logging
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from core.market import Candle, CandleRow, CandleSource, PipelineHealth
from core.ports import CandleStore, MarketError, StoreError, Unavailable
from market.candles import Rows, Window, empty, merged, prepare, retention_sec, rows_of

log = logging.getLogger("market")

PRIMARY_SEC, SECONDARY_SEC = 60.0, 900.0
OVERLAP = 720  # newest bars that the market is asked for although the store has them
BATCH = 30  # candles written at once
FRESH_MIN_SEC, FRESH_BARS = 180.0, 3
SYNC_SHARE = 1.0 / 3  # of a bar: so often `keep_up` looks for new candles
GAPS_SHOWN = 5
DAY_SEC = 86_400.0
STORE, MARKET, FURTHER = 0, 1, 2  # where a candle came from


class CandleHistory(Protocol):
    """Another place where candles are kept, such as a replica. It is never waited for."""

    name: str
    is_stored: bool  # what it tells is in the store already

    def ask(self, interval: float, since: float, until: float) -> None:
        """Begin to look for candles that opened from `since` on and closed by `until`."""
        ...

    def arrived(self, interval: float) -> list[CandleRow]:
        """Return, once, what has been found of an interval. Raises StoreError."""
        ...


@runtime_checkable
class RowSource(Protocol):
    """A market that tells the same candles as arrays too, several times faster."""

    def candle_rows(self, interval: float, since: float, until: float) -> Rows:
        """Return what `candles` yields."""
        ...


def primary_interval(source: CandleSource) -> float:
    """Return the interval of the primary pipeline: a minute, or what the market has at least."""
    return max(PRIMARY_SEC, source.candle_interval)


def secondary_interval(source: CandleSource) -> float | None:
    """Return the interval of the secondary pipeline: 15 minutes.

    None where the market's own candles are as long, or no whole number of them makes one.
    """
    own = primary_interval(source)
    return SECONDARY_SEC if own < SECONDARY_SEC and SECONDARY_SEC % own == 0 else None


def freshness_limit(interval: float) -> float:
    """Return how old, in seconds since its close, the newest candle may be to infer from it."""
    return max(FRESH_MIN_SEC, FRESH_BARS * interval)


class CandlePipeline:
    """The candles of one interval, of a market, with a store and further places to load from.

    `target` is how many a full training window has, `minimum` how many the smallest. `batch` is
    how many new candles are written to the store at once; `keep_up` and `close` write the rest. The
    store keeps them for `kept_sec` at least, and is `is_read` unless the market tells all anyway.
    None is asked for that opened before `begin`.
    """

    def __init__(
        self,
        source: CandleSource,
        *,
        interval: float,
        target: int,
        minimum: int,
        store: CandleStore | None = None,
        further: Sequence[CandleHistory] = (),
        batch: int = BATCH,
        kept_sec: float = 0.0,
        is_read: bool = True,
        begin: float = -math.inf,
    ) -> None:
        self.interval = interval
        self.target = target
        self.span_sec = retention_sec(interval, target)
        self._kept_sec = max(self.span_sec, kept_sec)
        self._is_read = is_read
        self._begin = begin
        self.window = Window(interval, self.span_sec)
        self.errors = 0
        self.trouble: str | None = None
        self._minimum = minimum
        self._source = source
        self._tells_rows = isinstance(source, RowSource)
        self._store = store
        self._further = tuple(further)
        self._batch = batch
        self._next: float | None = None  # open time from which the market is asked; None: load
        self._unsaved = empty()
        self._prune_at = -math.inf
        self._last_sync: float | None = None
        self._judged: tuple[tuple[int, float], dict[str, Any]] = ((-1, 0.0), {})

    # ---- reading --------------------------------------------------------------------------------

    def load(self, now: float) -> None:
        """Fill the window with what had closed by `now`: store, further places, market.

        The newest place wins on equal times. Of what the store has, the market is asked again for
        the newest 720 bars only. Further places are asked where the store has not enough for a full
        training; what they find later is taken by `sync`.
        """
        since, refused = max(self._begin, now - self.span_sec), self.window.refused
        self.window = Window(self.interval, self.span_sec)
        self.window.refused = refused
        stored = self._stored(since, now)
        self.window.add_rows(stored, now=now, origin=STORE)
        oldest, newest = self.window.first_time, self.window.last_close_time
        if self.window.count < self.target:
            for place in self._further:
                place.ask(self.interval, since, now)
        self._hear(now)
        if oldest is None or newest is None:
            self._take(since, now)
        else:
            self._take(since, oldest, now=now)
            self._take(max(since, newest - OVERLAP * self.interval), now)
        self.window.trim(now)
        closed = self.window.last_close_time
        self._next = max(self._next or since, since if closed is None else closed)
        self._last_sync = now
        self._keep(self.window.rows_not_of(STORE), now)

    def sync(self, now: float) -> Rows:
        """Take what has closed by `now` since the last call; return it, in order.

        The first call loads, and returns all there is.
        """
        if self._next is None:
            self.load(now)
            return self.window.rows(until=now)
        since = self._next
        self._hear(now)
        if now >= since + self.interval:  # before, nothing more can have closed
            self._take(since, now)
        self.window.trim(now)
        self._last_sync = now
        new = self.window.rows(since=since, until=now)
        self._keep(new, now)
        return new

    def keep_up(self, now: float) -> None:
        """Sync, and write all there is, where a third of a bar has passed since the last time."""
        if self._last_sync is None or now - self._last_sync >= SYNC_SHARE * self.interval:
            self.sync(now)
            self._save(now)

    def close(self) -> None:
        """Write what is not written yet. Safe to call twice."""
        self._save()

    def _hear(self, now: float) -> None:
        """Take what further places have found; what the market told stays."""
        for n, place in enumerate(self._further):
            try:
                told = place.arrived(self.interval)
            except StoreError as error:
                self._failed("candles were not read", error)
                continue
            new = self.window.lacks(rows_of(told))
            if not new.time.size:
                continue
            market = self.window.rows_of(MARKET)
            self.window.add_rows(new, now=now, origin=FURTHER + n)
            self.window.add_rows(market, now=now, origin=MARKET)
            log.info("candles of %g s from the %s: %s", self.interval, place.name, new.time.size)
            if not place.is_stored:
                self._keep(self.window.rows_of(FURTHER + n), now)

    def _take(self, since: float, until: float, *, now: float | None = None) -> None:
        """Ask the market, and go on behind the newest it told, believed or not."""
        at = until if now is None else now
        source = self._source
        if self._tells_rows:
            rows = self._rows_told(cast("RowSource", source), since, until)
            self.window.add_rows(rows, now=at, origin=MARKET)
            closes = rows.time + self.interval
            closed = closes[closes <= until].tolist()
        else:
            told = self._told(source, since, until)
            self.window.add(told, now=at, origin=MARKET)
            closed = [x.time + self.interval for x in told if x.time + self.interval <= until]
        self._next = max([-math.inf if self._next is None else self._next, *closed])

    def _told(self, source: CandleSource, since: float, until: float) -> list[Candle]:
        try:
            return list(source.candles(self.interval, since, until))
        except (MarketError, StoreError, Unavailable) as error:
            self._failed("candles were not told", error)
            return []

    def _rows_told(self, source: RowSource, since: float, until: float) -> Rows:
        try:
            return source.candle_rows(self.interval, since, until)
        except (MarketError, StoreError, Unavailable) as error:
            self._failed("candles were not told", error)
            return empty()

    # ---- the store ------------------------------------------------------------------------------

    def _stored(self, since: float, until: float) -> Rows:
        if self._store is None or not self._is_read:
            return empty()
        try:
            return rows_of(self._store.read(self.interval, since, until))
        except StoreError as error:
            self._failed("candles were not read", error)
            return empty()

    def _keep(self, new: Rows, now: float) -> None:
        """Note what is to be written, and write once it is enough."""
        if self._store is None or not new.time.size:
            return
        kept = self._unsaved.time >= now - self.span_sec
        self._unsaved = merged(Rows(*(x[kept] for x in self._unsaved)), new)
        if self._unsaved.time.size >= self._batch:
            self._save(now)

    def _save(self, now: float | None = None) -> None:
        """Write what is not written; what cannot be stays to be tried again. Once a day, prune."""
        rows = self._unsaved
        if self._store is None or not rows.time.size:
            return
        columns = [column.tolist() for column in rows]
        columns[-1] = [None if math.isnan(x) else x for x in columns[-1]]
        try:
            self._store.write(self.interval, list(zip(*columns, strict=True)))
        except StoreError as error:
            self._failed("candles were not written", error)
            return
        self._unsaved = empty()
        if now is not None and now >= self._prune_at:
            self._prune_at = now + DAY_SEC
            self._prune(now - self._kept_sec)

    def _prune(self, before: float) -> None:
        if self._store is None:
            return
        try:
            self._store.prune(self.interval, before)
        except StoreError as error:
            self._failed("old candles were not deleted", error)

    def _failed(self, what: str, error: Exception) -> None:
        self.errors += 1
        self.trouble = f"{what}: {error}"
        level = logging.WARNING if self.errors == 1 else logging.INFO
        log.log(level, "candles of %g s, error %s: %s", self.interval, self.errors, self.trouble)

    # ---- health ---------------------------------------------------------------------------------

    def health(self, now: float) -> PipelineHealth:
        """Return what the candles are good for at `now`."""
        source, window = self._source, self.window
        end = math.floor(now / self.interval) * self.interval
        key = (window.version, end)
        if self._judged[0] != key:
            self._judged = key, self._judge(end)
        closed = window.last_close_time
        age = None if closed is None else max(0.0, now - closed)
        limit = freshness_limit(self.interval)
        names = {STORE: "store", MARKET: "market"}
        names |= {FURTHER + n: x.name for n, x in enumerate(self._further)}
        return PipelineHealth(
            **self._judged[1],
            enabled=True,
            interval_sec=self.interval,
            samples=window.count,
            target=self.target,
            minimum=self._minimum,
            newest_age_sec=age,
            freshness_limit_sec=limit,
            is_ready=window.count >= self._minimum,
            is_fresh=age is not None and age <= limit,
            last_sync=self._last_sync,
            sources={names[n]: count for n, count in window.origins().items()},
            refused=window.refused,
            errors=self.errors + source.candle_errors,
            trouble=source.candle_trouble or self.trouble,
        )

    def _judge(self, end: float) -> dict[str, Any]:
        """Return what follows from the candles alone, those of the target's bars before `end`."""
        rows = self.window.rows(since=end - self.target * self.interval, until=end)
        prepared = prepare(rows, self.interval)
        times = rows.time
        missing = np.rint(np.diff(times) / self.interval).astype(np.int64) - 1
        at = np.flatnonzero(missing > 0)
        return {
            "coverage": times.size / self.target,
            "volume_coverage": float(np.mean(rows.volume > 0)) if times.size else 0.0,
            "gaps": tuple(
                f"from {_words(float(times[n]) + self.interval)}: {missing[n]} missing"
                for n in at[: -GAPS_SHOWN - 1 : -1]
            ),
            "gap_count": int(at.size),
            "filled_bars": prepared.filled_bars,
            "sequences": prepared.sequences,
            "ema_restarts": prepared.ema_restarts,
        }


def _words(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")
