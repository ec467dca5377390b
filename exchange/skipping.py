"""A paper exchange for backtests: in memory, and able to skip bars on which nothing happens.

What is skipped is what would have been quiet: no bar reaches one of our orders, no quote leaves the
bounds inside which the reducer only takes note, and nothing is due before the last of them. The
numbers that are searched are doubles; a bar that is near a bound is left to the exact arithmetic.
"""

from decimal import Decimal
from functools import cached_property
from math import exp
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core import events as e
from core.domain import HUNDRED, Instrument
from core.market import ColumnMarket, Columns
from core.ports import Message
from core.state import Market, Quiet
from exchange.matching import DAY_SEC, MatchingConfig
from exchange.paper import TICK_SEC, PaperExchange
from exchange.paper_file import PaperFile
from exchange.rates import READ_BALANCES_COST, latency

HOUR_SEC = 3600
LEAST = 2  # a single bar is not worth it
FIRST_LOOK, LOOK_MAX = 64, 4096  # bars searched at a time
LATENCY_SIGMAS = 9.42  # no draw of 64 bits is farther out


class _InMemory(PaperFile):
    """The tables of orders and executions alone: a backtest is never taken up again."""

    def add_message(self, message: Message) -> None:
        """Forget it."""


class Terms(NamedTuple):
    """What a skip must keep to, besides the quiet bounds."""

    before: float  # something is due then, but to keep the rhythm
    now: float
    timer_at: float  # when the last TimerTick was
    timer_sec: float  # so far apart are two of them
    hour_at: float  # when the hour turns next
    asked_at: float  # when balances were read last
    read_sec: float  # how often they are
    stale_sec: float  # the age that makes a quote stale
    spread_pct: Decimal  # the widest spread


class _Timers(NamedTuple):
    """The TimerTicks inside a skip."""

    last: float
    turns: tuple[float, ...]  # those that turn an hour
    reads: int  # how many read balances
    asked_at: float  # the last of these


class _Limits(NamedTuple):
    """Inside these, exclusively, a bar changes nothing; prices as doubles."""

    low_close: float
    high_close: float
    buy: float  # of our orders: a bar at or below it reaches one
    sell: float
    before: float  # the bar is known before this time


class SkippingExchange(PaperExchange):
    """A paper exchange in memory over recorded bars."""

    _file_type = _InMemory

    def __init__(
        self,
        source: ColumnMarket,
        instrument: Instrument,
        config: MatchingConfig,
        *,
        start_base: Decimal,
        start_quote: Decimal,
    ) -> None:
        self._bars = source
        self._late: tuple[float, npt.NDArray[np.int64]] = (np.nan, np.empty(0, dtype=np.int64))
        super().__init__(
            ":memory:", source, instrument, config, start_base=start_base, start_quote=start_quote
        )

    def _commit(self) -> None:
        """Write what was added; where it stands is nowhere but in memory."""
        self._file.flush()

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing travels: otherwise the next bar has to be looked at."""
        return not (self._requests or self._messages or self._ticks)

    def skip(self, quiet: Quiet, market: Market, terms: Terms) -> Message | None:
        """Go over bars that change nothing, as far as they go; return the message that tells so.

        None: the next bar has to be looked at.
        """
        columns = self._columns()
        if columns is None or not self.is_idle:
            return None
        second = self._read_count + LEAST - 1
        if second >= columns.closes_at.size or columns.closes_at[second] >= terms.before:
            return None
        limits = self._limits(quiet, market, terms)
        if limits is None:
            return None
        first = self._read_count
        end = _quiet_until(columns, first, limits)
        end = self._fresh_until(columns, first, end, market.time, terms.stale_sec - self._slowest)
        while end - first >= LEAST:
            until = self._told_at(columns, end - 1)
            timers = _timers(terms, until)
            if not timers.reads or self._reported_at(timers.asked_at)[1] < until:
                return self._pass(columns, first, end, market, timers)
            end -= 1  # a read would be under way
        return None

    def _told_at(self, columns: Columns, n: int) -> float:
        """Return when the bot hears of bar `n`."""
        key = f"feed/{n + 1}"
        wait = latency(self.config.feed_sec, self.config.jitter, self.config.seed, key)
        return float(columns.closes_at[n]) + wait

    def _reported_at(self, asked_at: float) -> tuple[float, float]:
        """Return when a read of balances arrives, and when its answer is here."""
        config = self.config
        key = f"read/{asked_at!r}/"
        at = asked_at + latency(config.entry_sec, config.jitter, config.seed, key)
        key = f"reply/{at!r}/"
        return at, at + latency(config.response_sec, config.jitter, config.seed, key)

    def _columns(self) -> Columns | None:
        columns = self._bars.columns
        if columns is None or self._next is None:
            return None
        # Ticks must not meet: each has to be told before the next bar closes.
        return columns if self._bars.price_interval > self._slowest + TICK_SEC else None

    def _fresh_until(
        self, columns: Columns, first: int, end: int, seen_at: float, most: float
    ) -> int:
        """Return `end`, or the first bar that comes more than `most` s after the one before."""
        if end <= first or columns.closes_at[first] - seen_at > most:
            return min(first, end)
        if self._late[0] != most:
            self._late = most, np.flatnonzero(np.diff(columns.closes_at) > most) + 1
        late = self._late[1]
        n = int(late.searchsorted(first, side="right"))
        return min(end, int(late[n])) if n < late.size else end

    @cached_property
    def _slowest(self) -> float:
        """Return the longest that a quote can travel, seconds."""
        return self.config.feed_sec * exp(self.config.jitter * LATENCY_SIGMAS)

    def _limits(self, quiet: Quiet, market: Market, terms: Terms) -> _Limits | None:
        half = float(self.config.half_spread)
        step = 2.1 * float(self.instrument.tick_size)  # bid and ask are rounded by one at most
        low = max((float(quiet.price_low) + step) / (1 - half), float(quiet.mid_low) + step)
        high = min((float(quiet.price_high) - step) / (1 - half), float(quiet.mid_high) - step)
        widest = (2 * half * low + step) / (low * (1 - half) - step) if low > 2 * step else np.inf
        most = terms.spread_pct
        is_wide = (market.ask - market.bid) * HUNDRED > most * market.bid
        if is_wide or widest * 100 > float(most) * (1 - 1e-9) or self._fees_day < 0:
            return None
        buy, sell = self.engine.bounds
        midnight = (self._fees_day + 1) * DAY_SEC  # the fee tier is looked at then
        return _Limits(
            low_close=low,
            high_close=high,
            buy=-np.inf if buy is None else float(buy) + step,
            sell=np.inf if sell is None else float(sell) - step,
            before=min(terms.before - self._slowest, midnight),
        )

    def _pass(
        self, columns: Columns, first: int, end: int, market: Market, timers: _Timers
    ) -> Message | None:
        rhythm, asked_at, reported_at = None, None, None
        if timers.reads:
            asked_at = timers.asked_at
            at, reported_at = self._reported_at(asked_at)
            if self.engine.read_wait(READ_BALANCES_COST, at):
                return None
        after, seen = first, [market.bid]
        if timers.reads or timers.turns:
            after = self._heard(columns, first, end, timers.last)
            if after > first:
                seen = [*self._range(columns, first, after), self._shown(after - 1)[0]]
            turns = [
                e.Turn(time=x, bid=self._shown(n - 1)[0] if n > first else market.bid)
                for x in timers.turns
                for n in (self._heard(columns, first, end, x),)
            ]
            rhythm = e.Rhythm(
                time=timers.last, low=min(seen), high=max(seen), turns=tuple(turns),
                asked_at=asked_at, reported_at=reported_at,
            )  # fmt: skip
        bids = [seen[-1]]
        if after < end:
            bids += self._range(columns, after, end)
        last = self._shown(end - 1)
        self._read_count = end
        self._market = self._bars.read(end)
        self._next_evidence()
        self._now = self._last_tick = self._told_at(columns, end - 1)
        self._delivered += end - first + timers.reads
        self._numbered += 2 * timers.reads
        skipped = e.PricesSkipped(
            time=self._now, count=end - first, bid=last[0], ask=last[1], last=last[2],
            low=min(bids), high=max(bids), rhythm=rhythm,
        )  # fmt: skip
        return Message(seq=self._delivered, event=skipped)

    def _heard(self, columns: Columns, first: int, end: int, at: float) -> int:
        """Return the first bar of which the bot has not heard at that time."""
        n = first + int(columns.closes_at[first:end].searchsorted(at))
        is_on_its_way = n > first and columns.closes_at[n - 1] + self._slowest > at
        return n - 1 if is_on_its_way and self._told_at(columns, n - 1) > at else n

    def _range(self, columns: Columns, first: int, end: int) -> tuple[Decimal, Decimal]:
        """Return the lowest and the highest bid of bars; there are some."""
        close = columns.close[first:end]
        at = (first + int(close.argmin()), first + int(close.argmax()))
        return self._shown(at[0])[0], self._shown(at[1])[0]

    def _shown(self, n: int) -> tuple[Decimal, Decimal, Decimal]:
        """Return bid, ask and last after bar `n`; they are what is shown now."""
        self.engine.show(self._bars.exact_close(n))
        quote = self.engine.quote()
        if quote is None:
            raise AssertionError("a quote has just been shown")
        return quote.bid, quote.ask, quote.last


def _timers(terms: Terms, until: float) -> _Timers:
    """Return the TimerTicks until then, where nothing but the rhythm asks for one."""
    last, asked_at, hour_at = terms.timer_at, terms.asked_at, terms.hour_at
    turns: list[float] = []
    reads, now = 0, terms.now
    while True:
        at = max(min(asked_at + terms.read_sec, hour_at), last + terms.timer_sec, now)
        if at > until:
            return _Timers(last=last, turns=tuple(turns), reads=reads, asked_at=asked_at)
        if at >= hour_at:
            turns.append(at)
            hour_at = (at // HOUR_SEC + 1) * HOUR_SEC
        if at >= asked_at + terms.read_sec:
            asked_at = at
            reads += 1
        last = now = at


def _quiet_until(columns: Columns, first: int, limits: _Limits) -> int:
    """Return the first bar from `first` on that may change something, or the end."""
    known = columns.closes_at
    end = int(np.searchsorted(known, limits.before))
    at, look = first, FIRST_LOOK
    while at < end:
        part = slice(at, min(at + look, end))
        close = columns.close[part]
        is_loud = (close <= limits.low_close) | (close >= limits.high_close)
        is_loud |= (columns.low[part] <= limits.buy) | (columns.high[part] >= limits.sell)
        n = int(is_loud.argmax())
        if is_loud[n]:
            return at + n
        at, look = part.stop, min(2 * look, LOOK_MAX)
    return max(at, first)
