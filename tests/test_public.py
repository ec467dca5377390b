"""The feed of live prices: order, horizon, gaps, back-off; nothing twice, nothing made up."""

import bisect
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain import Instrument, Side
from core.events import HealthChanged, InstrumentUpdated
from core.market import Book, Candle, Trade, available_at
from core.ports import StartRefused, Unavailable
from core.record import replace
from market.pipeline import CandlePipeline
from market.public import (
    GAP_MAX_SEC,
    PAGES_MAX,
    UNREACHABLE,
    KrakenFeed,
    ServerClock,
    Tail,
)  # fmt: skip

D = Decimal
START = 1_790_000_000.0
BOOK = Book(time=0.0, bids=((D("0.0999"), D(10)),), asks=((D("0.1001"), D(10)),))
PAGE = 1000


def trade(at: float, price: str = "0.1", volume: int = 10) -> Trade:
    """Return a print at `at` seconds after the start."""
    return Trade(time=START + at, price=D(price), volume=D(volume), side=Side.SELL)


class FakeData:
    """A `PublicData` with a clock that the test moves; what it tells depends on that clock only."""

    def __init__(self, prints: list[Trade], *, skew: float = 0.0) -> None:
        self.prints = sorted(prints, key=lambda x: x.time)
        self.seconds = 0.0  # monotonic: how long the test has run
        self.skew = skew  # of the machine's clock
        self.book = BOOK
        self.status, self.pair_status = "online", "online"
        self.instrument = Instrument()
        self.failure: Unavailable | None = None
        self.calls: list[str] = []
        self.is_inclusive = False
        self.bars_from = 0.0  # there are candles from here on
        self.candle_failure: Unavailable | None = None
        self.candle_call_sec = 0.0  # how long a call for candles takes

    def monotonic(self) -> float:
        """Return the seconds that have passed."""
        return self.seconds

    def wall(self) -> float:
        """Return what the machine takes for the time."""
        return START + self.seconds + self.skew

    def _asked(self, name: str) -> None:
        self.calls.append(name)
        if self.failure is not None:
            raise self.failure

    def trades(self, since_ns: int) -> tuple[tuple[Trade, ...], int]:
        """Return prints after the cursor up to now, a page of them."""
        self._asked("trades")
        known = self.prints[: bisect.bisect(self.prints, START + self.seconds, key=available_at)]
        page = [x for x in known if _ns(x) > since_ns - self.is_inclusive][:PAGE]
        return tuple(page), _ns(page[-1]) if page else since_ns

    def candles(self, interval_sec: float, since: float) -> tuple[Candle, ...]:
        """Return the newest 720 that have closed; each tells its minute by its price."""
        self._asked(f"candles {interval_sec:g}")
        self.seconds += self.candle_call_sec
        if self.candle_failure is not None:
            raise self.candle_failure
        now = START + self.seconds
        closed = int(now // interval_sec)
        first = max(closed - 720, int(self.bars_from // interval_sec), 0)
        bars = [bar(n * interval_sec, interval_sec) for n in range(first, closed)]
        return tuple(x for x in bars if x.time > since)

    def depth(self, count: int) -> Book:
        """Return the book."""
        self._asked("depth")
        assert count == 10
        return self.book

    def system_status(self) -> str:
        """Return the status."""
        self._asked("status")
        return self.status

    def server_time(self) -> float:
        """Return whole seconds."""
        self._asked("time")
        return float(int(START + self.seconds))

    def pair(self) -> tuple[Instrument, str]:
        """Return limits and status."""
        self._asked("pair")
        return self.instrument, self.pair_status


def bar(time: float, interval: float) -> Candle:
    """Return a candle whose price tells when it opened."""
    price = D(int(time))
    return Candle(
        time=time, interval=interval, open=price, high=price, low=price, close=price, volume=D(1)
    )


def _ns(x: Trade) -> int:
    return int(D(repr(x.time)) * 10**9)


def feed_of(fake: FakeData, candle_intervals: tuple[float, ...] = ()) -> KrakenFeed:
    """Return a feed without a thread."""
    return KrakenFeed(
        fake, name="a fake", poll_sec=5.0, wall=fake.wall, monotonic=fake.monotonic,
        settle_sec=0.0, candle_intervals=candle_intervals,
    )  # fmt: skip


def opened(
    fake: FakeData,
    at: float = 0.0,
    seen: tuple[Trade, ...] = (),
    candle_intervals: tuple[float, ...] = (),
) -> KrakenFeed:
    """Return a feed that has looked at the market and reads on from `at` seconds."""
    feed = feed_of(fake, candle_intervals)
    feed.look()
    feed.resume(START + at, seen)
    feed.begin()
    return feed


def run(fake: FakeData, feed: KrakenFeed, seconds: float) -> None:
    """Let the feed do its schedule for so long."""
    end = fake.seconds + seconds
    while fake.seconds < end:
        wait = feed.step()  # a slow call takes time itself
        fake.seconds = min(end, fake.seconds + max(0.001, wait))


def taken(feed: KrakenFeed) -> list[Trade | Book]:
    """Take all that has been released."""
    found = []
    while (item := feed.take()) is not None:
        found.append(item)
    return found


def prints_of(items: list[Trade | Book]) -> list[Trade]:
    """Return the prints among evidence."""
    return [x for x in items if isinstance(x, Trade)]


def health(feed: KrakenFeed) -> list[HealthChanged]:
    """Return the news of the connection since the last look."""
    return [x for x in feed.news() if isinstance(x, HealthChanged)]


# ---- the exchange's time --------------------------------------------------------------------


def test_the_clock_is_narrowed_down_by_samples_of_whole_seconds() -> None:
    """Each sample is good to a second, many to much less; a contradiction starts anew."""
    at = [0.0]
    clock = ServerClock(lambda: at[0])
    clock.add(100.0, 0.0, 0.2)
    assert abs(clock.now() - 100.4) < 1e-9
    for n in range(20):
        at[0] = 10.05 + n * 1.05
        true = 100.5 + at[0]
        clock.add(float(int(true)), at[0] - 0.01, at[0] + 0.01)
    assert abs(clock.now() - (100.5 + at[0])) < 0.1
    clock.add(9_000.0, at[0], at[0])
    assert abs(clock.now() - 9_000.5) < 1e-6


# ---- order and horizon ----------------------------------------------------------------------


def test_prints_up_to_the_horizon_come_in_order_with_the_book_of_the_poll() -> None:
    """Evidence is in order of time and never later than the horizon, which only rises."""
    prints = [trade(n * 0.7 + 0.3, volume=n + 1) for n in range(200)]
    fake = FakeData(prints)
    feed = opened(fake)
    items: list[Trade | Book] = []
    horizon = feed.horizon()
    while fake.seconds < 100:
        run(fake, feed, 1.0)
        new = taken(feed)
        assert all(horizon - 1e-6 <= available_at(x) <= feed.horizon() for x in new)
        assert START + fake.seconds - 8 < feed.horizon() <= START + fake.seconds
        horizon = feed.horizon()
        items += new
    assert all(a.time <= b.time for a, b in pairwise(items))
    found = prints_of(items)
    assert found == [x for x in prints if START < x.time <= horizon]
    assert len(items) - len(found) == 20  # one book each 5 s
    assert taken(feed) == []


def test_it_asks_at_most_0_45_times_a_second() -> None:
    """An hour of quiet trading: the schedule, with AssetPairs once an hour."""
    fake = FakeData([trade(n * 3.0) for n in range(1200)])
    feed = opened(fake)
    fake.calls.clear()
    run(fake, feed, 3600.0)
    assert len(fake.calls) / 3600 <= 0.45
    counts = {name: fake.calls.count(name) for name in ("depth", "trades", "status", "pair")}
    assert counts["depth"] == counts["trades"] == pytest.approx(720, abs=3)
    assert counts["status"] == pytest.approx(60, abs=2)
    assert counts["pair"] <= 1


def test_what_is_told_twice_is_read_once() -> None:
    """Whether the cursor counts in or out, and with prints of one instant on both sides of it."""
    prints = [trade(8.0, volume=1), trade(8.0, volume=2), trade(11.0, volume=3)]
    for is_inclusive in (False, True):
        fake = FakeData(prints)
        fake.is_inclusive = is_inclusive
        feed = opened(fake)
        run(fake, feed, 30.0)
        assert prints_of(taken(feed)) == prints


def test_a_tail_takes_what_is_new_of_the_newest_instant() -> None:
    """A sweep that was cut short by a kill is read to its end, once."""
    sweep = [trade(5.0, volume=n) for n in (1, 2, 2, 3)]
    tail = Tail(START + 5.0, tuple(sweep[:2]))
    assert tail.new_of((trade(4.0), *sweep)) == sweep[2:]
    assert tail.new_of(tuple(sweep)) == []
    assert Tail(START + 5.0).new_of((trade(4.9), trade(5.0), trade(5.1))) == [trade(5.1)]


def test_after_a_restart_it_reads_what_was_printed_meanwhile() -> None:
    """From the last print that the exchange has taken, page by page, in order, all of it."""
    prints = [trade(n * 0.5, volume=n + 1) for n in range(14_000)]
    fake = FakeData(prints)
    fake.seconds = 7_000.0
    feed = opened(fake, at=1_000.2, seen=(prints[2000],))
    fake.calls.clear()
    feed.step()
    assert feed.horizon() == START + 1_000.2
    assert taken(feed) == []
    assert fake.calls.count("trades") == PAGES_MAX
    run(fake, feed, 30.0)
    assert feed.is_caught_up()
    assert prints_of(taken(feed)) == prints[2001:]


def test_a_gap_of_more_than_a_day_is_left_alone_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """It goes on from the present; the operator is told what is not known."""
    fake = FakeData([trade(n * 60.0) for n in range(3000)])
    fake.seconds = GAP_MAX_SEC + 3600.0 + 1000.0
    feed = opened(fake, at=10.0, seen=(trade(0.0),))
    assert "25.3 hours old" in caplog.text
    assert feed.skipped_sec > GAP_MAX_SEC
    run(fake, feed, 130.0)
    found = prints_of(taken(feed))
    assert found
    assert all(x.time > feed.start_time() for x in found)


def test_a_print_that_is_told_late_is_passed_on_but_not_a_very_late_one() -> None:
    """A few seconds are the lag of a read; anything older is no news and is counted."""
    fake = FakeData([])
    feed = opened(fake)
    run(fake, feed, 31.0)
    late, very_late = trade(28.0), trade(3.0)
    fake.prints = [very_late, late]
    run(fake, feed, 5.0)
    assert prints_of(taken(feed)) == [late]
    assert feed.refused == 1


# ---- candles ---------------------------------------------------------------------------------

BOTH = (60.0, 900.0)


def test_candles_come_by_themselves_soon_after_they_have_closed() -> None:
    """At first the newest 720, then each minute what is new; the reader never waits."""
    fake = FakeData([])
    feed = opened(fake, candle_intervals=BOTH)
    assert list(feed.candles(60.0, 0.0, START + 9e9)) == []
    run(fake, feed, 6.0)
    for interval in BOTH:
        got = list(feed.candles(interval, 0.0, START + 9e9))
        assert len(got) == 720
        assert got[-1].time == (START + 6) // interval * interval - interval
    fake.calls.clear()
    while fake.seconds < 3_600:
        run(fake, feed, 10.0)
        now = START + fake.seconds
        for interval, late in ((60.0, 15.0), (900.0, 15.0)):
            newest = list(feed.candles(interval, 0.0, now))[-1]
            assert newest.time + interval <= now
            assert newest.time + 2 * interval > now - late
    assert fake.calls.count("candles 60") == pytest.approx(60, abs=2)
    assert fake.calls.count("candles 900") == pytest.approx(12, abs=1)
    got = list(feed.candles(60.0, START // 60 * 60, START + 3_000))
    assert [x.time for x in got] == [START // 60 * 60 + 60 * n for n in range(len(got))]


def test_with_candles_it_asks_a_little_more_than_0_45_times_a_second() -> None:
    """Prices are asked for as often as without them."""
    fake = FakeData([trade(n * 3.0) for n in range(1200)])
    feed = opened(fake, candle_intervals=BOTH)
    fake.calls.clear()
    run(fake, feed, 3600.0)
    assert len(fake.calls) / 3600 <= 0.46
    assert fake.calls.count("depth") == fake.calls.count("trades") == pytest.approx(720, abs=3)


def test_candles_that_fail_do_not_hold_up_prices() -> None:
    """They are counted, the reason is shown, asked for ever less often; what came stays."""
    fake = FakeData([trade(n * 3.0) for n in range(1200)])
    feed = opened(fake, candle_intervals=BOTH)
    run(fake, feed, 6.0)
    feed.news()
    fake.candle_failure = Unavailable("OHLC rows: they are not in order")
    fake.calls.clear()
    run(fake, feed, 3_594.0)
    assert fake.calls.count("trades") == pytest.approx(718, abs=3)
    failed = sum(1 for x in fake.calls if x.startswith("candles"))
    assert 8 <= failed <= 16
    assert feed.candle_errors == failed
    assert "not in order" in str(feed.candle_trouble)
    assert [x.consecutive_errors for x in health(feed) if x.consecutive_errors] == []
    assert len(list(feed.candles(60.0, 0.0, 9e9))) == 720
    fake.candle_failure = None
    run(fake, feed, 1_000.0)
    assert feed.candle_trouble is None
    newest = list(feed.candles(60.0, 0.0, 9e9))[-1]
    assert newest.time + 120 > START + fake.seconds - 15
    times = [x.time for x in feed.candles(60.0, 0.0, 9e9)]
    assert times == [times[0] + 60 * n for n in range(len(times))]


def test_prices_are_asked_for_between_two_slow_calls_for_candles() -> None:
    """However many are due, prices wait for one of them at most."""
    fake = FakeData([])
    fake.candle_call_sec = 6.0
    feed = opened(fake, candle_intervals=BOTH)
    fake.calls.clear()
    run(fake, feed, 20.0)
    assert fake.calls[:7] == [
        "depth", "trades", "candles 60", "depth", "trades", "candles 900", "depth",
    ]  # fmt: skip


def test_a_silence_that_is_asked_for_is_kept_by_all() -> None:
    """A rate limit on candles is one on everything; prices come first when it is over."""
    fake = FakeData([])
    feed = opened(fake, candle_intervals=BOTH)
    run(fake, feed, 30.0)
    fake.candle_failure = Unavailable("EGeneral:Too many requests", 60.0)
    fake.calls.clear()
    run(fake, feed, 40.0)
    at = fake.calls.index("candles 60")
    assert fake.calls[at + 1 :] == []
    run(fake, feed, 60.0)
    assert fake.calls[at + 1 : at + 3] == ["depth", "trades"]


@pytest.mark.slow
def test_candles_are_kept_for_a_day_of_minutes() -> None:
    """The reader may come late; memory is bounded."""
    fake = FakeData([])
    feed = opened(fake, candle_intervals=(60.0,))
    run(fake, feed, 30 * 3600.0)
    assert len(list(feed.candles(60.0, 0.0, 9e9))) == 1440


def test_intervals_that_are_not_asked_for_are_an_error() -> None:
    """Of the program, not of the market."""
    with pytest.raises(ValueError, match="300 s are not asked for"):
        feed_of(FakeData([]), (300.0,))
    with pytest.raises(ValueError, match="900 s are not asked for"):
        feed_of(FakeData([]), (60.0,)).candles(900.0, 0.0, 1.0)


def test_a_pipeline_lives_on_the_feed() -> None:
    """A fresh disk has 720 candles with the first answer: enough to train on at once."""
    fake = FakeData([])
    feed = opened(fake, candle_intervals=BOTH)
    made = CandlePipeline(feed, interval=60.0, target=720, minimum=500)
    made.load(START)
    assert not made.health(START).is_ready
    run(fake, feed, 6.0)
    assert made.sync(START + 6).time.size == 720
    seen = made.window.count
    while fake.seconds < 1_800:
        run(fake, feed, 60.0)
        seen += made.sync(START + fake.seconds).time.size
        assert made.health(START + fake.seconds).is_fresh
    health = made.health(START + fake.seconds)
    assert (health.samples, health.gap_count, health.coverage) == (seen, 0, 1.0)
    fake.candle_failure = Unavailable("gone")
    run(fake, feed, 600.0)
    made.sync(START + fake.seconds)
    health = made.health(START + fake.seconds)
    assert (health.is_fresh, health.errors > 0) == (False, True)
    assert "gone" in str(health.trouble)


# ---- what is wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "book",
    [
        replace(BOOK, bids=()),
        replace(BOOK, asks=()),
        replace(BOOK, bids=((D("0.1001"), D(1)),)),
        replace(BOOK, bids=((D(0), D(1)),)),
        replace(BOOK, asks=((D("NaN"), D(1)),)),
        replace(BOOK, asks=((D("0.1001"), D(-1)),)),
    ],
)
def test_a_book_that_cannot_be_is_refused_and_counted(book: Book) -> None:
    """Without a book the market is not known: the horizon stands still until there is one."""
    fake = FakeData([trade(n * 1.0) for n in range(100)])
    feed = opened(fake)
    run(fake, feed, 6.0)
    taken(feed)
    fake.book, horizon = book, feed.horizon()
    run(fake, feed, 20.0)
    assert (feed.horizon(), taken(feed)) == (horizon, [])
    assert feed.refused >= 2
    fake.book = BOOK
    run(fake, feed, 61.0)
    assert [x.time for x in prints_of(taken(feed))][:3] == [
        START + n for n in range(int(horizon - START) + 1, int(horizon - START) + 4)
    ]


def test_an_outage_backs_off_is_told_and_ends_without_a_loss() -> None:
    """5 s doubled to 60 s; each failure is health news; afterwards all prints come."""
    prints = [trade(n * 1.0) for n in range(1000)]
    fake = FakeData(prints)
    feed = opened(fake)
    run(fake, feed, 6.0)
    feed.news()
    fake.failure = Unavailable("the cable is out")
    fake.calls.clear()
    run(fake, feed, 400.0)
    assert 8 <= len(fake.calls) <= 12
    told = health(feed)
    assert [x.consecutive_errors for x in told][-1] == len(fake.calls)
    assert told[0].system_status == "online"
    assert told[-1].system_status == UNREACHABLE
    assert feed.trouble == "the cable is out"
    fake.failure = None
    run(fake, feed, 70.0)
    (back,) = health(feed)
    assert (back.system_status, back.consecutive_errors) == ("online", 0)
    found = prints_of(taken(feed))
    assert found == [x for x in prints if START < x.time <= feed.horizon()]


def test_a_pause_that_the_exchange_asks_for_is_kept() -> None:
    """After a rate limit nothing at all is asked for a minute."""
    fake = FakeData([])
    feed = opened(fake)
    run(fake, feed, 6.0)
    fake.failure = Unavailable("EGeneral:Too many requests", 60.0)
    run(fake, feed, 5.0)
    fake.calls.clear()
    run(fake, feed, 50.0)
    assert fake.calls == []


def test_prints_from_the_future_are_not_believed() -> None:
    """But the clock is asked first: it is the machine that may have slept."""
    fake = FakeData([])
    feed = opened(fake)
    run(fake, feed, 6.0)
    fake.calls.clear()
    original = fake.trades
    future = ((trade(500.0),), _ns(trade(500.0)))
    fake.trades = lambda _since_ns: future  # type: ignore[method-assign]  # the port is the double
    run(fake, feed, 5.0)
    assert "time" in fake.calls
    assert feed.refused == 1
    fake.trades = original  # type: ignore[method-assign]
    run(fake, feed, 20.0)
    assert prints_of(taken(feed)) == []


def test_status_limits_and_clock_are_told_when_they_change() -> None:
    """The exchange's status goes before the pair's; new limits come as an event of their own."""
    fake = FakeData([], skew=3.0)
    feed = opened(fake)
    (first,) = health(feed)
    assert first.system_status == "online"
    assert first.clock_offset_sec == pytest.approx(-3.0, abs=0.6)
    fake.status = "cancel_only"
    run(fake, feed, 61.0)
    assert health(feed)[-1].system_status == "cancel_only"
    fake.status, fake.pair_status = "online", "reduce_only"
    fake.instrument = Instrument(order_min=D(60))
    run(fake, feed, 3600.0)
    news = feed.news()
    assert [x.system_status for x in news if isinstance(x, HealthChanged)][-1] == "reduce_only"
    (changed,) = [x for x in news if isinstance(x, InstrumentUpdated)]
    assert changed.instrument.order_min == 60


def test_a_delisted_pair_is_refused_in_plain_words() -> None:
    """There is nothing to wait for."""
    fake = FakeData([])
    fake.pair_status = "delisted"
    with pytest.raises(StartRefused, match="has delisted DOGE/USD"):
        feed_of(fake).look()


def test_the_thread_looks_until_it_is_answered_and_then_polls() -> None:
    """A start that finds nobody waits; the reason can be read meanwhile."""
    fake = FakeData([trade(1.0)])
    fake.failure = Unavailable("nobody there")
    feed = feed_of(fake)
    wait: Callable[[], float] = feed._look_again
    assert wait() == 5.0
    assert (feed.is_open(), feed.trouble) == (False, "nobody there")
    fake.failure, fake.seconds = None, 6.0
    assert wait() == 0.0
    assert (feed.is_open(), feed.trouble) == (True, None)
    assert feed.first_price() == D("0.1")


# ---- however it polls -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.floats(0.0, 4.0), min_size=1, max_size=60),
    pattern=st.lists(
        st.tuples(st.floats(0.1, 25.0), st.booleans(), st.booleans()), min_size=1, max_size=20
    ),
)
def test_equal_prints_come_whatever_the_polling_pattern(
    gaps: list[float], pattern: list[tuple[float, bool, bool]]
) -> None:
    """Every print once, in order, never beyond the horizon: with failures and at any interval."""
    at, prints = 1.5, []
    for n, gap in enumerate(gaps):
        at = round(at + gap, 3)
        prints.append(trade(at, volume=n + 1))
    fake = FakeData(prints)
    feed = opened(fake)
    found: list[Trade] = []
    for wait, fails, is_inclusive in [*pattern, (300.0, False, False), (0.1, False, False)]:
        fake.failure = Unavailable("now and then") if fails else None
        fake.is_inclusive = is_inclusive
        run(fake, feed, wait)
        new = taken(feed)
        assert all(x.time <= feed.horizon() for x in new)
        found += prints_of(new)
    assert found == prints


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_died_is_no_quiet_market() -> None:
    """Whoever waits for it hears that it is gone."""
    fake = FakeData([])
    feed = feed_of(fake)
    fake.server_time = lambda: 1 / 0  # type: ignore[method-assign]  # a fault of our own
    feed.start()
    feed._thread.join(5)
    with pytest.raises(RuntimeError, match="has died"):
        feed.horizon()


def test_a_sample_that_was_slow_to_get_there_moves_the_clock_on_too_little_not_too_far() -> None:
    """A clock that was moved on does not go back."""
    at = [5.0]
    clock = ServerClock(lambda: at[0])
    clock.add(100.0, 0.0, 5.0)  # asked for at 0, read there at 4.98
    assert 100.0 <= clock.now() <= 101.0
