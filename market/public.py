"""Live public prices as evidence: a thread, a schedule, a cursor; no socket, no clock of its own.

Each poll asks for the book and, a moment later, for all prints since the last one. Only when both
have come whole is the evidence released and the horizon moved: to a time that the exchange's clock
had surely reached when the prints were asked for. What has not come is unknown: nothing is made up,
the horizon stands still.
Look next at `exchange/paper.py`, which lives on it, and `engine/loop.py`, which waits for it.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import partial

from core.domain import Instrument
from core.events import HealthChanged, InstrumentUpdated
from core.market import UNREACHABLE, Book, Candle, Trade
from core.ports import PublicData, StartRefused, Unavailable
from core.record import Record, replace
from market.public_candles import ASK_SEC, PublicCandles

log = logging.getLogger("market")

UNREACHABLE_SEC = 15.0
DEPTH_LEVELS = 10
SETTLE_SEC = 1.0  # from the book to the prints: time for the bot to act on it before the horizon
PAGE_NEARLY_FULL = 900  # of the 1000 prints that fit a page: there may be more
PAGES_MAX = 5  # of prints a poll
CATCH_UP_SEC = 1.0  # between two polls while behind
PAUSE_MIN_SEC, PAUSE_MAX_SEC = 5.0, 60.0
STATUS_SEC, TIME_SEC, PAIR_SEC = 60.0, 60.0, 3600.0
STEP_SEC = 1.0  # the exchange's clock is told in whole seconds
STATUS_AGAIN_SEC = 30.0  # while the exchange is not online
GAP_MAX_SEC = 86_400.0  # older than that is not caught up with
LATE_MAX_SEC = 10.0  # a print that becomes known later than this is refused
AHEAD_SEC = 2.0  # a print farther ahead of the exchange's clock is not believed
OFFSET_STEP_SEC = 0.5  # a smaller change of the clock offset is not worth telling
NS = 10**9


class Task(Record, frozen=True, kw_only=True):
    """One row of the schedule."""

    name: str
    every_sec: float
    run: Callable[[], None]
    is_patient: bool = False  # one such at a time, then prices again


class ServerClock:
    """The exchange's time, from samples that tell whole seconds, over a clock that only rises.

    Each sample bounds the offset from below and above; the bounds of all samples are intersected.
    A sample that contradicts them (the machine slept) takes their place.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._low, self._high = 0.0, 0.0
        self.is_known = False

    def add(self, server: float, began: float, ended: float) -> None:
        """Take a sample that was asked for at `began` and had come by `ended`, both monotonic."""
        low, high = server - ended, server + STEP_SEC - began
        is_new = not self.is_known or low > self._high or high < self._low
        self._low = low if is_new else max(low, self._low)
        self._high = high if is_new else min(high, self._high)
        self.is_known = True

    def now(self) -> float:
        """Return the exchange's time now, good to half a second and half a round trip.

        After a sample that was slow rather too low: a clock that was moved on does not go back.
        """
        return self._monotonic() + self._low + min((self._high - self._low) / 2, STEP_SEC)

    def earliest(self) -> float:
        """Return a time that the exchange's clock has surely reached."""
        return self._monotonic() + self._low


class Tail:
    """The prints of the newest instant that was read: what may be told once more."""

    def __init__(self, time: float, seen: tuple[Trade, ...] = ()) -> None:
        self._time = seen[-1].time if seen else time
        self._seen = list(seen)

    def new_of(self, page: tuple[Trade, ...]) -> list[Trade]:
        """Return the prints of `page` that were not read before, and remember the last of them."""
        told, new = list(self._seen), []
        for trade in page:
            if trade.time < self._time or (trade.time == self._time and not self._seen):
                continue
            if trade.time > self._time:
                self._time, self._seen, told = trade.time, [], []
            if trade in told:
                told.remove(trade)
                continue
            self._seen.append(trade)
            new.append(trade)
        return new


class KrakenFeed:
    """A `LiveMarket` of what a `PublicData` tells.

    `poll_sec` is how often prices are asked for, `wall` the machine's clock, compared with the
    exchange's, `monotonic` one that never goes back. Once started it looks at the market, again and
    again until it is answered; then it waits for `resume`, and polls. Candles of
    `candle_intervals` (60 and 900 s) are asked for too, when prices are not: none by default.
    """

    fingerprint = ""
    candle_interval = 60.0

    def __init__(
        self,
        data: PublicData,
        *,
        name: str,
        poll_sec: float,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        settle_sec: float = SETTLE_SEC,
        candle_intervals: Sequence[float] = (),
    ) -> None:
        self.name = name
        self.price_interval = poll_sec
        self.refused = 0  # polls and prints that were not believed
        self.skipped_sec = 0.0  # of the market while nobody looked, too long to be caught up with
        self._data = data
        self._wall, self._monotonic = wall, monotonic
        self._settle_sec = settle_sec
        self._clock = ServerClock(monotonic)
        self._public_candles = PublicCandles(data, candle_intervals)
        self.schedule = (  # what else fails must not keep prices from being asked for: they first
            Task(name="market", every_sec=poll_sec, run=self.poll),
            Task(name="status", every_sec=STATUS_SEC, run=self.ask_status),
            Task(name="time", every_sec=TIME_SEC, run=self.ask_time),
            Task(name="pair", every_sec=PAIR_SEC, run=self.ask_pair),
            *(
                Task(
                    name=_candles(x),
                    every_sec=ASK_SEC[x],
                    run=partial(self.ask_candles, x),
                    is_patient=True,
                )
                for x in candle_intervals
            ),
        )
        self._due = {task.name: 0.0 for task in self.schedule}
        self._paused_until = 0.0
        self._offset_sec = 0.0
        self._system = self._pair_status = "online"
        self._instrument = Instrument()
        self._errors = 0
        self._complete_at: float | None = None  # the last complete poll, monotonic
        self._told: HealthChanged | None = None
        self._first: Book | None = None
        self._since_ns = 0
        self._tail = Tail(0.0)
        self._held: list[Trade] = []  # read, but later than the horizon
        self._lock = threading.Lock()
        self._released: deque[Trade | Book] = deque()  # guarded by _lock, as are the next two
        self._horizon = 0.0
        self._news: list[HealthChanged | InstrumentUpdated] = []
        self.trouble: str | None = None  # why the last call failed, None: it did not
        self._refusal: StartRefused | None = None
        self._has_polled = False
        self._resumed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="market", daemon=True)

    # ---- the start ----------------------------------------------------------------------------

    def look(self) -> None:
        """Read time, status, pair and book once. Raises Unavailable, StartRefused."""
        self.ask_time()
        self.ask_status()
        self.ask_pair()
        if self._pair_status == "delisted":
            raise StartRefused(
                f"Kraken has delisted {self._instrument.pair}: it cannot be traded there any more. "
                "Choose another pair; on a recorded market MARKET_DATA=replay still runs"
            )
        self._first = self._ask_book()
        self.ask_time()  # a second sample tells it better
        self._errors, self.trouble = 0, None
        self._tell_health()

    def is_open(self) -> bool:
        """Tell whether the first look has succeeded. Raises StartRefused."""
        self._check_thread()
        if self._refusal is not None:
            raise self._refusal
        return self._first is not None

    def is_caught_up(self) -> bool:
        """Tell whether a poll has been complete."""
        self._check_thread()
        return self._has_polled

    def instrument(self) -> Instrument:
        """Return the pair's limits as told last."""
        return self._instrument

    def status(self) -> str:
        """Return the market's status: the exchange's if it is not online, else the pair's."""
        return self._system if self._system != "online" else self._pair_status

    def first_price(self) -> Decimal:
        """Return the mid price of the first look, on the tick grid."""
        book = self._looked()
        return self._instrument.price_down((book.bids[0][0] + book.asks[0][0]) / 2)

    def start_time(self) -> float:
        """Return the time of the first look."""
        return self._looked().time

    def end_time(self) -> None:
        """Return None: the market has no end."""
        return

    def _looked(self) -> Book:
        if self._first is None:
            raise AssertionError("the market is read before the first look at it")
        return self._first

    # ---- the LiveMarket protocol ----------------------------------------------------------------

    def resume(self, at: float, seen: tuple[Trade, ...]) -> None:
        """Begin to read what was printed after `at`, in the last 24 hours at most."""
        start = self.start_time()
        if start - at > GAP_MAX_SEC:
            self.skipped_sec = start - at
            log.warning(
                "the last price is %.1f hours old; prints are caught up with for %.0f hours at "
                "most: it goes on from the present, what printed between is not known",
                self.skipped_sec / 3600, GAP_MAX_SEC / 3600,
            )  # fmt: skip
            at, seen = start, ()
        seen = seen if seen and seen[-1].time >= at - LATE_MAX_SEC else ()
        self._tail = Tail(at, seen)
        # A microsecond less, for times come as floats: what is told again is known by the tail.
        self._since_ns = int(Decimal(repr(seen[-1].time if seen else at)) * NS) - 1000
        with self._lock:
            self._horizon = at
        self._resumed.set()

    def horizon(self) -> float:
        """Return the instant until which all evidence has been released."""
        self._check_thread()
        with self._lock:
            return self._horizon

    def take(self) -> Trade | Book | None:
        """Return the next evidence, or None."""
        with self._lock:
            return self._released.popleft() if self._released else None

    def news(self) -> tuple[HealthChanged | InstrumentUpdated, ...]:
        """Return what has changed since the last call."""
        with self._lock:
            news, self._news = tuple(self._news), []
        return news

    # ---- the CandleSource protocol --------------------------------------------------------------

    @property
    def candle_errors(self) -> int:
        """Return how many requests for candles have failed."""
        return self._public_candles.errors

    @property
    def candle_trouble(self) -> str | None:
        """Return why the last one failed, None: it did not."""
        return self._public_candles.trouble

    def candles(self, interval: float, since: float, until: float) -> Iterator[Candle]:
        """Yield the candles that have come so far; never waits."""
        return self._public_candles.candles(interval, since, until)

    # ---- the thread ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look, and after `resume` to poll."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; what it is waiting for is not waited for. Safe to call twice."""
        self._stopping.set()
        self._resumed.set()

    def _run(self) -> None:
        while self._first is None and not self._stopping.is_set():
            self._stopping.wait(self._look_again())
        self._resumed.wait()
        self.begin()
        while not self._stopping.is_set():
            self._stopping.wait(self.step())

    def _check_thread(self) -> None:
        thread = self._thread
        if thread.ident is not None and not thread.is_alive() and not self._stopping.is_set():
            raise RuntimeError("the thread that reads the market has died; its traceback says why")

    def _look_again(self) -> float:
        """Look; return how long to wait before the next attempt, if it failed."""
        try:
            self.look()
        except Unavailable as error:
            self._failed("the first look", error)
        except StartRefused as error:
            self._refusal = error
            self._stopping.set()
        return max(0.0, self._paused_until - self._monotonic())

    def begin(self) -> None:
        """Begin the schedule; from now on `step` does what is due."""
        self._complete_at = self._monotonic()
        for task in self.schedule:  # `look` has asked for all but prints and candles
            if task.run != self.poll and not task.is_patient:
                self._due[task.name] = self._complete_at + task.every_sec

    def step(self) -> float:
        """Do what is due; return the seconds until something is again."""
        now = self._monotonic()
        if now < self._paused_until:
            return self._paused_until - now
        for task in self.schedule:
            if now < self._due[task.name] or self._stopping.is_set():
                continue
            self._due[task.name] = now + task.every_sec
            try:
                task.run()
            except Unavailable as error:
                self._due[task.name] = now
                self._failed(task.name, error)
                break
            if task.is_patient:
                break
        next_due = max(min(self._due.values()), self._paused_until)
        return max(0.0, next_due - self._monotonic())

    def _failed(self, name: str, error: Unavailable) -> None:
        self._errors += 1
        self.trouble = str(error)
        doubled = PAUSE_MIN_SEC * 2 ** min(self._errors - 1, 10)
        pause = max(error.pause_sec, min(PAUSE_MAX_SEC, doubled))
        self._paused_until = self._monotonic() + pause
        level = logging.WARNING if self._errors == 1 else logging.INFO
        log.log(level, "%s failed, error %s, next in %.0f s: %s", name, self._errors, pause, error)
        if self._clock.is_known:
            self._tell_health()

    # ---- what is asked ------------------------------------------------------------------------

    def ask_time(self) -> None:
        """Compare clocks. Raises Unavailable."""
        began, wall = self._monotonic(), self._wall()
        server = self._data.server_time()
        ended = self._monotonic()
        self._clock.add(server, began, ended)
        self._offset_sec = self._clock.now() - (wall + (self._monotonic() - began))
        self._tell_health()

    def ask_status(self) -> None:
        """Read the exchange's status. Raises Unavailable."""
        self._system = self._data.system_status()
        if self._system != "online":
            self._due["status"] = self._monotonic() + STATUS_AGAIN_SEC
        self._tell_health()

    def ask_pair(self) -> None:
        """Read the pair's limits and status. Raises Unavailable."""
        instrument, self._pair_status = self._data.pair()
        if self._first is not None and instrument != self._instrument:
            log.info("the pair's limits have changed: %s", instrument.to_dict())
            with self._lock:
                self._news.append(InstrumentUpdated(time=self._clock.now(), instrument=instrument))
        self._instrument = instrument
        self._tell_health()

    def ask_candles(self, interval: float) -> None:
        """Read candles, or try again later: prices do not wait for them, nor count their errors.

        Only a silence that the exchange asks for is kept by all.
        """
        name = _candles(interval)
        try:
            wait = self._public_candles.ask(interval, self._clock.now())
        except Unavailable as error:
            wait = max(self._public_candles.pause(interval), error.pause_sec)
            now = self._monotonic()
            if error.pause_sec:
                self._paused_until = max(self._paused_until, now + error.pause_sec)
            log.info("%s failed, next in %.0f s: %s", name, wait, error)
        self._due[name] = self._monotonic() + wait

    def poll(self) -> None:
        """Read book and prints; release them when both are whole. Raises Unavailable."""
        book = self._ask_book()
        if self._stopping.wait(self._settle_sec):
            return
        for _ in range(PAGES_MAX):
            asked_at = self._clock.earliest()
            if self._ask_page(asked_at):
                self._release(book, asked_at)
                self._errors, self._complete_at = 0, self._monotonic()
                self._has_polled, self.trouble = True, None
                self._tell_health()
                return
        self._due["market"] = self._monotonic() + CATCH_UP_SEC
        self._tell_health()

    def _ask_book(self) -> Book:
        book = self._data.depth(DEPTH_LEVELS)
        levels = [*book.bids, *book.asks]
        is_sane = all(p.is_finite() and p > 0 and v.is_finite() and v >= 0 for p, v in levels)
        if not (book.bids and book.asks) or not is_sane or book.bids[0][0] >= book.asks[0][0]:
            self.refused += 1
            raise Unavailable("the book is empty on a side, crossed or no book at all: refused")
        return replace(book, time=self._clock.now())

    def _ask_page(self, asked_at: float) -> bool:
        """Read one page of prints; tell whether it was the last there is so far."""
        page, cursor = self._data.trades(self._since_ns)
        if page and page[-1].time > self._clock.now() + AHEAD_SEC:
            self.ask_time()  # this machine may have slept
            if page[-1].time > self._clock.now() + AHEAD_SEC:
                self.refused += 1
                raise Unavailable("prints are ahead of the exchange's clock: refused")
        new = self._tail.new_of(page)
        oldest = self.horizon() - LATE_MAX_SEC
        self.refused += sum(1 for trade in new if trade.time < oldest)
        self._held += [trade for trade in new if trade.time >= oldest]
        moved, self._since_ns = cursor > self._since_ns, max(cursor, self._since_ns)
        return not moved or len(page) < PAGE_NEARLY_FULL or page[-1].time >= asked_at

    def _release(self, book: Book, asked_at: float) -> None:
        """Give out, in order of time, what is known up to `asked_at`, and move the horizon."""
        with self._lock:
            horizon = max(asked_at, self._horizon)
            book = replace(book, time=min(max(book.time, self._horizon), horizon))
            before = [x for x in self._held if x.time <= book.time]
            after = [x for x in self._held if book.time < x.time <= horizon]
            self._held = [x for x in self._held if x.time > horizon]
            self._released.extend((*before, book, *after))
            self._horizon = horizon

    def _tell_health(self) -> None:
        """Say how the connection is, where that is news."""
        complete_at = self._complete_at
        is_silent = complete_at is not None and self._monotonic() - complete_at > UNREACHABLE_SEC
        health = HealthChanged(
            time=self._clock.now(),
            system_status=UNREACHABLE if is_silent else self.status(),
            clock_offset_sec=round(self._offset_sec, 3),
            consecutive_errors=self._errors,
        )
        told = self._told
        is_same = told is not None and (
            told.system_status == health.system_status
            and told.consecutive_errors == health.consecutive_errors
            and abs(told.clock_offset_sec - health.clock_offset_sec) < OFFSET_STEP_SEC
        )
        if is_same:
            return
        if told is None or told.system_status != health.system_status:
            log.info("exchange status %s", health.system_status)
        with self._lock:
            self._told = health
            self._news.append(health)


def _candles(interval: float) -> str:
    return f"candles of {interval / 60:g} min"
