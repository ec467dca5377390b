"""The candles a model lives on: load order, syncs, restarts, what is shown, what goes wrong."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain import Instrument
from core.market import Candle, CandleRow
from core.ports import MarketError, StoreError
from market.candles import Rows, rows_of
from market.pipeline import (
    CandlePipeline,
    RowSource,
    freshness_limit,
    primary_interval,
    secondary_interval,
)
from market.replay import ReplaySource
from market.synthetic import SyntheticSource
from store.candles import SqliteCandles
from tests.helpers import market_file, write_candles

D = Decimal
T = 1_700_000_100.0
MINUTE, DAY = 60.0, 86_400.0
PAIR = "DOGE/USD"


def candle(n: int, close: str = "1", volume: str = "5") -> Candle:
    """Return the candle of minute `n`."""
    return Candle(
        time=T + n * MINUTE, interval=MINUTE, open=D(1), high=max(D(1), D(close)),
        low=min(D(1), D(close)), close=D(close), volume=D(volume),
    )  # fmt: skip


class ListSource:
    """A market of given candles that notes what it was asked, and may fail."""

    candle_interval = MINUTE
    candle_errors = 0
    candle_trouble: str | None = None

    def __init__(self, candles: list[Candle]) -> None:
        self.all = candles
        self.asked: list[tuple[float, float]] = []
        self.failure: Exception | None = None

    def candles(self, interval: float, since: float, until: float) -> Iterator[Candle]:
        """Yield what is asked for."""
        self.asked.append((since, until))
        for x in self.all:
            if self.failure is not None:
                raise self.failure
            if x.time >= since and x.time + interval <= until:
                yield x


class Place:
    """A further place whose candles come when the test says so."""

    name = "replica"

    def __init__(self, *, is_stored: bool = False) -> None:
        self.is_stored = is_stored
        self.asked: list[tuple[float, float]] = []
        self.ready: list[CandleRow] = []
        self.failure: StoreError | None = None

    def ask(self, interval: float, since: float, until: float) -> None:
        """Note what is asked."""
        self.asked.append((since, until))

    def arrived(self, interval: float) -> list[CandleRow]:
        """Give what is ready, once; or fail."""
        if self.failure is not None:
            raise self.failure
        ready, self.ready = self.ready, []
        return ready


def numbers(*candles: Candle) -> list[CandleRow]:
    """Return candles as plain numbers."""
    return [
        (x.time, float(x.open), float(x.high), float(x.low), float(x.close), float(x.volume), None)
        for x in candles
    ]


class DeadStore:
    """A store whose disk is gone, until it is back."""

    def __init__(self) -> None:
        self.is_dead = True
        self.rows: list[CandleRow] = []

    def _ask(self) -> None:
        if self.is_dead:
            raise StoreError("the disk is gone")

    def read(self, interval: float, since: float, until: float) -> list[CandleRow]:
        """Fail."""
        self._ask()
        return self.rows

    def write(self, interval: float, rows: list[CandleRow]) -> None:
        """Fail, or keep."""
        self._ask()
        self.rows += rows

    def prune(self, interval: float, before: float) -> None:
        """Fail."""
        self._ask()


def pipeline(source: object, **more: object) -> CandlePipeline:
    """Return a pipeline of minutes for a small training window."""
    made = {"interval": MINUTE, "target": 100, "minimum": 20, "batch": 1} | more
    return CandlePipeline(source, **made)  # type: ignore[arg-type]  # what a test needs of it


def closes(rows: Rows) -> dict[int, float]:
    """Return minute → close."""
    return {
        round((t - T) / MINUTE): c
        for t, c in zip(rows.time.tolist(), rows.close.tolist(), strict=True)
    }


def same(a: Rows, b: Rows) -> bool:
    """Tell whether rows are equal."""
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


# ---- loading ------------------------------------------------------------------------------------


def test_the_newest_place_wins_on_equal_times() -> None:
    """Store, then further places, then the market; what only one has stays."""
    store = SqliteCandles(":memory:", pair=PAIR)
    stored = rows_of([(T + n * MINUTE, 1, 1, 1, 1, 1, None) for n in range(4)])
    store.write(MINUTE, list(zip(*(x.tolist() for x in stored[:6]), [None] * 4, strict=True)))
    replica = Place()
    replica.ready = numbers(*(candle(n, "2") for n in (1, 2, 3, 5)))
    made = pipeline(
        ListSource([candle(n, "3") for n in (2, 4)]), store=store, further=(replica,)
    )  # fmt: skip
    made.load(T + 6 * MINUTE)
    assert closes(made.window.rows()) == {0: 1, 1: 2, 2: 3, 3: 2, 4: 3, 5: 2}
    assert made.health(T + 6 * MINUTE).sources == {"store": 1, "replica": 3, "market": 2}
    assert len(store.read(MINUTE, 0, 1e12)) == 6  # what it lacked is written, what changed too
    assert dict(closes(rows_of(store.read(MINUTE, 0, 1e12))))[2] == 3
    again = pipeline(ListSource([]), store=store)
    again.load(T + 6 * MINUTE)
    assert same(again.window.rows(), made.window.rows())


def test_what_a_further_place_finds_late_is_taken_without_waiting() -> None:
    """The market's word stays, and what is told as the store has it stays the store's."""
    now = T + 150 * MINUTE
    store, replica = SqliteCandles(":memory:", pair=PAIR), Place()
    store.write(MINUTE, numbers(*(candle(n) for n in range(100, 110))))
    source = ListSource([candle(n, "3") for n in range(120, 150)])
    made = pipeline(source, store=store, further=(replica,))
    made.load(now)
    assert replica.asked == [(now - made.span_sec, now)]
    assert made.window.count == 40
    replica.ready = numbers(*(candle(n) for n in range(90, 111)), candle(130, "9"), candle(150))
    assert made.sync(now + 1).time.size == 0
    expected = dict.fromkeys(range(90, 111), 1.0) | dict.fromkeys(range(120, 150), 3.0)
    assert closes(made.window.rows()) == expected
    assert made.health(now).sources == {"store": 10, "replica": 11, "market": 30}
    assert closes(rows_of(store.read(MINUTE, 0, 1e12))) == expected
    assert len(replica.asked) == 1


def test_a_further_place_is_asked_only_where_the_store_has_too_few() -> None:
    """A full training window needs nobody else."""
    store, replica = SqliteCandles(":memory:", pair=PAIR), Place()
    store.write(MINUTE, numbers(*(candle(n) for n in range(100))))
    pipeline(ListSource([]), store=store, further=(replica,)).load(T + 100 * MINUTE)
    assert replica.asked == []


def test_a_further_place_that_cannot_be_read_is_told() -> None:
    """Nothing is raised, and it is asked again."""
    replica = Place(is_stored=True)
    replica.failure = StoreError("the disk is gone")
    made = pipeline(ListSource([candle(0)]), further=(replica,))
    made.load(T + MINUTE)
    assert "the disk is gone" in str(made.health(T + MINUTE).trouble)
    replica.failure, replica.ready = None, numbers(candle(1))
    made.sync(T + 2 * MINUTE)
    assert made.health(T + 2 * MINUTE).sources == {"replica": 1, "market": 1}


def test_of_what_the_store_has_only_the_newest_is_asked_again() -> None:
    """720 bars, as many as Kraken tells; and all that is older than its oldest."""
    candles = [candle(n) for n in range(3_000)]
    store = SqliteCandles(":memory:", pair=PAIR)
    first = ListSource(candles[1_000:2_000])
    now = T + 2_000 * MINUTE
    pipeline(first, store=store).load(now)
    source = ListSource(candles)
    made = pipeline(source, store=store)
    made.load(now + 60)
    assert source.asked == [
        (now + 60 - made.span_sec, T + 1_000 * MINUTE),
        (now - 720 * MINUTE, now + 60),
    ]
    assert closes(made.window.rows()) == dict.fromkeys(range(2_001), 1.0)


def test_nothing_later_than_now_is_loaded() -> None:
    """A store that is ahead, for a backup of the state was restored, tells the past only."""
    store = SqliteCandles(":memory:", pair=PAIR)
    source = ListSource([candle(n) for n in range(100)])
    pipeline(source, store=store).load(T + 100 * MINUTE)
    made = pipeline(source, store=store)
    made.load(T + 50 * MINUTE)
    assert list(closes(made.window.rows())) == list(range(50))
    assert closes(made.sync(T + 52 * MINUTE)) == {50: 1.0, 51: 1.0}


# ---- syncs --------------------------------------------------------------------------------------


def test_a_sync_returns_what_has_closed_since() -> None:
    """Once, in order; the first loads; nothing new is nothing."""
    made = pipeline(ListSource([candle(n) for n in range(100)]))
    assert list(closes(made.sync(T + 10 * MINUTE))) == list(range(10))
    assert list(closes(made.sync(T + 12.5 * MINUTE))) == [10, 11]
    assert closes(made.sync(T + 12.9 * MINUTE)) == {}
    assert list(closes(made.sync(T + 13 * MINUTE))) == [12]
    assert made.health(T + 13 * MINUTE).last_sync == T + 13 * MINUTE


def test_what_arrives_late_is_taken_when_it_arrives() -> None:
    """A market whose answers come by themselves has nothing at first."""
    source = ListSource([])
    made = pipeline(source)
    assert made.sync(T + 720 * MINUTE).time.size == 0
    source.all = [candle(n) for n in range(720)]
    assert len(closes(made.sync(T + 720 * MINUTE))) == 720


def test_a_candle_that_is_not_believed_is_asked_for_once() -> None:
    """It is counted, and what follows it is taken."""
    source = ListSource([candle(0), candle(1, volume="-1"), candle(2)])
    made = pipeline(source)
    made.sync(T + MINUTE)
    for now in (T + 2 * MINUTE, T + 2.5 * MINUTE):
        assert made.sync(now).time.size == 0
    assert closes(made.sync(T + 3 * MINUTE)) == {2: 1.0}
    assert made.health(T + 3 * MINUTE).refused == 1


def test_the_window_and_the_store_are_bounded() -> None:
    """Both forget what is older than the retention; the store once a day."""
    count = 17 * 1440
    source = ListSource([])
    store = SqliteCandles(":memory:", pair=PAIR)
    made = pipeline(source, store=store, batch=30)
    assert made.span_sec == 14 * DAY
    for begin in range(0, count, 720):
        source.all = [candle(n) for n in range(begin, begin + 720)]
        made.sync(T + (begin + 720) * MINUTE)
    assert made.window.count == 14 * 1440
    kept = store.read(MINUTE, 0.0, 1e12)
    assert 14 * 1440 <= len(kept) <= 15 * 1440


@pytest.mark.slow
@given(steps=st.lists(st.integers(1, 500), min_size=1, max_size=12), data=st.data())
@settings(deadline=None, max_examples=40)
def test_a_restart_at_any_sync_changes_nothing(steps: list[int], data: st.DataObject) -> None:
    """With the store or without it, whole or not yet written: the candles are the same."""
    candles = [candle(n) for n in range(6_200) if n % 97 and n % 1_000 > 20]
    times = [T + sum(steps[: n + 1]) * MINUTE for n in range(len(steps))]
    kept = pipeline(ListSource(candles), batch=7)
    store = SqliteCandles(":memory:", pair=PAIR)
    own = pipeline(ListSource(candles), store=store, batch=7)
    for now in times:
        assert same(kept.sync(now), own.sync(now))
        if data.draw(st.booleans()):
            with_store = data.draw(st.booleans())
            own = pipeline(ListSource(candles), store=store if with_store else None, batch=7)
            own.load(now)
        assert same(kept.window.rows(), own.window.rows())


@pytest.mark.slow
def test_a_replay_that_is_killed_goes_on_with_the_same_candles(tmp_path: Path) -> None:
    """A real file, a real store: both pipelines, loaded half-way, come to the same."""
    path = tmp_path / "c.csv"
    write_candles(path, bars=4_000, seed=4)
    start = ReplaySource(path).start_time()
    for interval in (60.0, 900.0):
        store = SqliteCandles(tmp_path / f"{interval:g}.db", pair=PAIR)
        whole = pipeline(ReplaySource(path), interval=interval, store=store, batch=30)
        for n in range(1, 400):
            whole.sync(start + n * 300)
        late = pipeline(ReplaySource(path), interval=interval, store=store)
        late.load(start + 399 * 300)
        alone = pipeline(ReplaySource(path), interval=interval)
        alone.load(start + 399 * 300)
        for now in (start + 400 * 300, start + 500 * 300 + 7):
            new = whole.sync(now)
            assert same(new, late.sync(now))
            assert same(new, alone.sync(now))
        assert same(whole.window.rows(), late.window.rows())
        assert same(whole.window.rows(), alone.window.rows())
        store.close()


@pytest.mark.slow
def test_the_synthetic_market_has_a_full_window_at_its_start() -> None:
    """Its history serves the first training, of both intervals."""
    source = SyntheticSource(1, instrument=Instrument())
    now = source.start_time() + 300
    first = CandlePipeline(source, interval=60.0, target=4_000, minimum=500)
    second = CandlePipeline(source, interval=900.0, target=1_440, minimum=200)
    for made in (first, second):
        made.load(now)
        health = made.health(now)
        assert health.coverage == 1.0
        assert health.is_ready
        assert health.is_fresh
        assert (health.gap_count, health.sequences, health.refused) == (0, 1, 0)
    assert first.window.last_close_time == now
    assert first.sync(now + 120).time.size == 2


# ---- health -------------------------------------------------------------------------------------


def test_health_tells_coverage_gaps_and_age() -> None:
    """Of the newest target's bars: what is there, what has volume, what is missing since when."""
    absent = {30, 31, 60, *range(70, 90)}
    source = ListSource(
        [candle(n, volume="0" if n % 2 else "5") for n in range(120) if n not in absent]
    )
    made = pipeline(source)
    now = T + 121.5 * MINUTE
    made.load(now)
    health = made.health(now)
    assert health.coverage == (119 - 21 + 1 - len(absent)) / 100
    assert health.gaps == (
        "from 2023-11-14 23:25 UTC: 20 missing",
        "from 2023-11-14 23:15 UTC: 1 missing",
        "from 2023-11-14 22:45 UTC: 2 missing",
    )
    assert (health.gap_count, health.filled_bars, health.sequences) == (3, 3, 2)
    assert health.volume_coverage == pytest.approx(0.5, abs=0.02)
    assert (health.newest_age_sec, health.freshness_limit_sec) == (90.0, 180.0)
    assert (health.is_ready, health.is_fresh) == (True, True)
    assert health.samples == 120 - len(absent)
    assert health.to_dict()["sources"] == {"market": 97}


def test_old_candles_are_not_fresh_and_few_are_not_enough() -> None:
    """The limit is 3 bars, 180 s at least, since the newest closed; it is met to the second."""
    made = pipeline(ListSource([candle(n) for n in range(19)]))
    closed = T + 19 * MINUTE
    made.load(closed)
    assert not made.health(closed).is_ready
    assert made.health(closed + 180).is_fresh
    assert not made.health(closed + 180.1).is_fresh
    assert made.health(closed + 180.1).coverage == pytest.approx(0.19, abs=0.04)
    empty = pipeline(ListSource([]))
    health = empty.health(closed)
    assert (health.newest_age_sec, health.is_fresh, health.samples) == (None, False, 0)
    assert freshness_limit(900.0) == 2_700


def test_gaps_that_are_shown_are_few() -> None:
    """The newest five; how many there are is told too."""
    made = pipeline(ListSource([candle(2 * n) for n in range(40)]))
    made.load(T + 80 * MINUTE)
    health = made.health(T + 80 * MINUTE)
    assert (len(health.gaps), health.gap_count, health.filled_bars) == (5, 39, 39)


# ---- what goes wrong ----------------------------------------------------------------------------


def test_a_market_that_fails_is_counted_and_asked_again() -> None:
    """Nothing is raised; when it is back, what was missed comes."""
    source = ListSource([candle(n) for n in range(100)])
    made = pipeline(source)
    made.sync(T + 10 * MINUTE)
    source.failure = MarketError("the file is gone")
    assert made.sync(T + 20 * MINUTE).time.size == 0
    health = made.health(T + 20 * MINUTE)
    assert (health.errors, health.is_fresh) == (1, False)
    assert "the file is gone" in str(health.trouble)
    source.failure = None
    assert list(closes(made.sync(T + 21 * MINUTE))) == list(range(10, 21))


def test_a_store_that_fails_is_counted_and_nothing_is_lost_when_it_is_back() -> None:
    """The window lives on without it; what was not written is, later."""
    store, source = DeadStore(), ListSource([candle(n) for n in range(100)])
    made = pipeline(source, store=store)
    made.load(T + 10 * MINUTE)
    made.sync(T + 20 * MINUTE)
    assert made.window.count == 20
    assert made.health(T + 20 * MINUTE).errors == 3
    assert "the disk is gone" in str(made.health(T + 20 * MINUTE).trouble)
    store.is_dead = False
    made.sync(T + 21 * MINUTE)
    assert list(closes(rows_of(store.rows))) == list(range(21))
    store.is_dead = True
    made.sync(T + 22 * MINUTE)
    made.close()
    store.is_dead = False
    made.close()
    made.close()
    assert list(closes(rows_of(store.rows))) == list(range(22))


# ---- intervals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "primary", "secondary"),
    [(60, 60, 900), (63, 63, None), (300, 300, 900), (900, 900, None), (3600, 3600, None)],
)
def test_the_markets_own_interval_is_the_primary_if_it_is_longer(
    own: float, primary: float, secondary: float | None
) -> None:
    """There is no secondary where 15 minutes cannot be told from it."""
    source = ListSource([])
    source.candle_interval = own
    assert (primary_interval(source), secondary_interval(source)) == (primary, secondary)


@pytest.mark.slow
@pytest.mark.market
def test_the_venues_own_candles_feed_both_pipelines() -> None:
    """5 min candles are the primary; 15 min ones are made of them."""
    source = ReplaySource(market_file("kraken_xdgusd_5m.csv.gz"))
    now = source.start_time() + 60 * DAY
    for interval, target in ((primary_interval(source), 4_000), (900.0, 1_440)):
        made = CandlePipeline(source, interval=interval, target=target, minimum=200)
        made.load(now)
        health = made.health(now)
        assert health.is_ready
        assert health.is_fresh
        assert health.coverage > 0.98
        assert health.refused == 0
        assert made.window.count >= 1.25 * (target + 150)


@pytest.mark.parametrize("interval", [MINUTE, 900.0])
def test_a_market_that_tells_arrays_tells_the_same(interval: float, tmp_path: Path) -> None:
    """The same windows after each sync as from its candles; a failure is counted as well."""
    path = tmp_path / "candles.csv"
    write_candles(path, bars=4000, seed=5)
    source = ReplaySource(path)
    told = ListSource(list(source.candles(interval, 0.0, np.inf)))
    assert isinstance(source, RowSource)
    assert not isinstance(told, RowSource)
    fast = CandlePipeline(source, interval=interval, target=500, minimum=100)
    slow = CandlePipeline(told, interval=interval, target=500, minimum=100)
    start = source.start_time()
    for n in range(0, 4000 * 60, 7777):
        rows = fast.sync(start + n), slow.sync(start + n)
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*rows, strict=True))
        whole = fast.window.rows(), slow.window.rows()
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*whole, strict=True))
        assert fast.window.count == slow.window.count


def test_a_recording_that_has_changed_is_an_error_and_no_end(tmp_path: Path) -> None:
    """The file is read once candles are asked for: what fails then is counted."""
    path = tmp_path / "candles.csv"
    write_candles(path, bars=100, seed=5)
    source = ReplaySource(path)
    path.write_text("time,open,high,low,close,volume\n1700000040,a,b,c,d,e\n")
    pipeline = CandlePipeline(source, interval=MINUTE, target=500, minimum=100)
    assert not pipeline.sync(source.start_time() + 3600).time.size
    assert pipeline.errors > 0
    assert "the file has changed since it was checked" in (pipeline.trouble or "")
