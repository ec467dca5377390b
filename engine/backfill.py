"""The sub-command backfill: deeper candles from public prints, beside a running daemon or alone.

A program, as `engine/cli.py`. What is read, and how, is in `market/backfill.py`.
"""

import argparse
import os
import signal
import sys
from datetime import UTC, datetime
from types import FrameType

import numpy as np

import config
from core.ports import StartRefused, StoreError, StoreInUse, Unavailable
from engine.candle_history import candles_of, public_market, public_name
from engine.clock import sleep, wall_now
from engine.live import no_answer
from engine.progress import ProgressLine
from market.backfill import (
    DAY_SEC,
    MINUTES,
    PAGE_SEC,
    Backfill,
    Done,
    known_since,
    missing,
    quarter,
)
from market.candles import gap_limit, rows_of
from market.pipeline import PRIMARY_SEC, SECONDARY_SEC
from store.candles import SqliteCandles, candles_db
from store.lock import StoreLock

LAG_SEC = 5.0  # prints younger than that may not be told yet
WAIT_SEC = 30.0  # for the daemon's turn to write
EXIT_OK, EXIT_CONFIG, EXIT_REFUSED, EXIT_IN_USE, EXIT_INTERRUPTED = 0, 2, 3, 5, 130
GO_ON = "What was read is kept; the same command goes on from there."


def backfill(args: argparse.Namespace, settings: config.Settings) -> int:
    """Read `args.days` of prints; return the exit code.

    Raises ConfigError, StoreError, StartRefused; Unavailable while nothing was answered yet.
    """
    if settings.market_data != "kraken":
        sys.stderr.write(
            f"MARKET_DATA={settings.market_data} is no market of Kraken's: it tells its whole past "
            "by itself, there is nothing to fill. MARKET_DATA=kraken or MODE=live have one.\n"
        )
        return EXIT_CONFIG
    path = candles_db(settings.state_db)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path.parent} cannot be made: {error.strerror}") from None
    since = datetime.fromtimestamp(wall_now(), UTC).isoformat(timespec="seconds")
    try:
        lock = StoreLock(path, f"process {os.getpid()}, started {since}")
    except StoreInUse:
        holder = path.with_name(path.name + ".lock").read_text(encoding="utf-8")
        sys.stderr.write(f"A backfill of {path} is running: {holder}.\n")
        return EXIT_IN_USE
    try:
        return _locked(args.days, settings)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted before anything was read.\n")
        return EXIT_INTERRUPTED
    finally:
        lock.release()


def _locked(days: float, settings: config.Settings) -> int:
    market = public_market(settings)
    until = quarter(market.server_time() - LAG_SEC)
    if market.pair()[1] == "delisted":
        raise StartRefused(f"it does not know the pair {settings.pair}")
    since = quarter(until - days * DAY_SEC)
    first = known_since(market, since)
    if first > since:
        told = f"from {_time(first)} on only" if first < until else "not yet; try again later"
        sys.stderr.write(f"{public_name(settings)} tell whole quarters of an hour {told}.\n")
        if first >= until:
            return EXIT_REFUSED
        since = first
    sleep(PAGE_SEC)
    store = SqliteCandles(
        candles_db(settings.state_db), pair=candles_of(settings), wait_sec=WAIT_SEC
    )
    try:
        store.keep(days * DAY_SEC)
        job = _Job(settings, store, since, until)
        job.say(
            f"{settings.pair}, {public_name(settings)}: {_days(job.total_sec)} of "
            f"{_days(until - since)} are to be read, {_time(since)} to {_time(until)}"
        )
        code = job.run(Backfill(market, store, wait=sleep, told=job.told, warned=job.warned))
        if code == EXIT_OK:
            job.report(is_used=settings.params.hmm_enabled)
        return code
    finally:
        store.close()


class _Job:
    """What a job says while it runs, and at its end."""

    def __init__(
        self, settings: config.Settings, store: SqliteCandles, since: float, until: float
    ) -> None:
        self._settings, self._store = settings, store
        self._since, self._until = since, until
        self._stretches = missing(store, since, until)
        self.total_sec = sum(end - begin for begin, end in self._stretches)
        self._done = Done()
        self._line = ProgressLine(sys.stderr, start=0.0, end=self.total_sec, enabled=True)

    def run(self, work: Backfill) -> int:
        """Read what is missing; return the exit code. Raises StoreError."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, stop)
        try:
            work.run(self._stretches)
        except KeyboardInterrupt:
            self.say(f"Interrupted: {self._reached()}. {GO_ON}")
            return EXIT_INTERRUPTED
        except Unavailable as error:
            why = no_answer(self._settings, error)
            self.say(f"The exchange does not answer: {why}. {self._reached()}. {GO_ON}")
            return EXIT_REFUSED
        except StoreError:
            self.say(f"{self._reached()}. {GO_ON}")
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
        return EXIT_OK

    def told(self, done: Done) -> None:
        """Show how far the job has come."""
        self._done = done
        text = (
            f"{self._reached()}, {_count(done.pages, 'page')}, "
            f"{_count(done.minutes, 'candle')} of 1 min "
        )
        self._line.show(done.sec, text)

    def warned(self, why: str, pause_sec: float) -> None:
        """Say why it waits."""
        self.say(f"{why}; again in {pause_sec:.0f} s")

    def say(self, text: str) -> None:
        """Write a line of its own, over what stands there of the progress."""
        is_terminal = sys.stderr.isatty()
        sys.stderr.write(f"\r{text.ljust(100)}\n" if is_terminal else f"{text}\n")
        sys.stderr.flush()

    def _reached(self) -> str:
        return f"{self._done.sec / DAY_SEC:.2f} of {_days(self.total_sec)} read"

    def report(self, *, is_used: bool) -> None:
        """Say what was written, and what there is now."""
        done = self._done
        lines = [
            f"{_days(done.sec)} read: {_count(done.pages, 'page')}, {_count(done.trades, 'print')}",
            f"{_count(done.minutes, 'candle')} of 1 min and {done.bars:,} of 15 min written",
            *self._there(),
            "A running daemon takes them in by itself, and trains deeper at its next evaluations."
            if is_used
            else "The models are off: HMM_ENABLED=true lets them learn from it.",
        ]
        self._line.end()
        sys.stdout.write("\n".join(lines) + "\n")

    def _there(self) -> list[str]:
        """Return what there is of the whole time that was asked for, and where nothing is."""
        rows = rows_of(self._store.read(PRIMARY_SEC, self._since, self._until))
        count = round((self._until - self._since) / PRIMARY_SEC)
        bars = len(self._store.read(SECONDARY_SEC, self._since, self._until))
        lines = [
            f"there are {rows.time.size:,} of {count:,} minutes ({np.count_nonzero(rows.volume):,} "
            f"with trades) and {bars:,} of {count // MINUTES:,} quarters of an hour"
        ]
        ends = np.concatenate(([self._since - PRIMARY_SEC], rows.time, [self._until]))
        gaps = np.diff(ends) - PRIMARY_SEC
        long = np.flatnonzero(gaps > gap_limit(PRIMARY_SEC))
        if long.size:
            worst = int(np.argmax(gaps))
            lines.append(
                f"{_count(int(long.size), 'silence')} of more than 15 min, the longest from "
                f"{_time(float(ends[worst]) + PRIMARY_SEC)}: {_length(float(gaps[worst]))}"
            )
        return lines


def _days(sec: float) -> str:
    days = f"{sec / DAY_SEC:.2f}".rstrip("0").rstrip(".")
    return f"{days} day" if days == "1" else f"{days} days"


def _length(sec: float) -> str:
    return f"{sec / 60:.0f} min" if sec < 2 * 3600 else f"{sec / 3600:.1f} h"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
