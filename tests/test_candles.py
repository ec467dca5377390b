"""Candles as arrays: what is believed, merged, filled and resampled; and where they come from."""

import math
from decimal import Decimal
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.domain import Instrument
from core.market import Candle, Trade
from core.record import replace
from market.candles import (
    Rows,
    Window,
    empty,
    merged,
    prepare,
    resample,
    retention_sec,
    rows_of,
    valid,
)
from market.replay import ReplaySource
from market.synthetic import SyntheticSource
from tests.helpers import market_file, write_candles

D = Decimal
T = 1_700_000_100.0  # a full minute, and a full quarter of an hour
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0


def candle(n: float, close: str = "1", interval: float = MINUTE, volume: str = "5") -> Candle:
    """Return a candle that opens `n` minutes after the start."""
    return Candle(
        time=T + n * MINUTE, interval=interval, open=D(1), high=max(D(1), D(close)),
        low=min(D(1), D(close)), close=D(close), volume=D(volume), trades=3,
    )  # fmt: skip


def flat(*minutes: float, price: float = 1.0) -> Rows:
    """Return flat rows that open so many minutes after the start."""
    return rows_of([(T + n * MINUTE, price, price, price, price, 2.0, 1.0) for n in minutes])


def minutes_of(rows: Rows) -> list[float]:
    """Return the minutes at which rows open."""
    return ((rows.time - T) / MINUTE).tolist()


def same(a: Rows, b: Rows) -> bool:
    """Tell whether rows are equal, unknown trades included."""
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


# ---- what is believed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"time": T + 30},
        {"time": math.nan},
        {"time": -60.0},
        {"interval": 300.0},
        {"open": D("NaN")},
        {"close": D("sNaN")},
        {"high": D("Infinity")},
        {"high": D("1e999")},
        {"high": D("0.9")},
        {"low": D("1.1")},
        {"low": D(0)},
        {"low": D(-1)},
        {"close": D("1.5")},
        {"volume": D(-1)},
        {"volume": D("NaN")},
        {"volume": D("Infinity")},
    ],
)
def test_a_candle_that_cannot_be_is_refused_and_counted(change: dict[str, object]) -> None:
    """What is around it is taken."""
    window = Window(MINUTE)
    candles = [candle(0), replace(candle(1), **change), candle(2)]
    assert window.add(candles) == 2
    assert (window.count, window.refused) == (2, 1)
    assert minutes_of(window.rows()) == [0, 2]


def test_only_closed_candles_are_taken() -> None:
    """One that is still forming is refused, to the second of its end."""
    for now, taken in ((T + 119.9, 1), (T + 120.0, 2)):
        window = Window(MINUTE)
        assert window.add([candle(0), candle(1)], now=now) == taken
        assert window.refused == 2 - taken


def test_the_newest_told_wins_and_order_does_not_matter() -> None:
    """Of equal times the last given stays, within one call and between calls."""
    window = Window(MINUTE)
    window.add([candle(2), candle(0, "2"), candle(1), candle(0, "3")])
    assert window.rows().close.tolist() == [3.0, 1.0, 1.0]
    window.add([candle(1, "7"), candle(3)], origin=4)
    assert window.rows().close.tolist() == [3.0, 7.0, 1.0, 1.0]
    assert window.origins() == {0: 2, 4: 2}
    assert window.last_close_time == T + 240


def test_a_window_forgets_what_is_older_than_its_span() -> None:
    """Whether it grows by one or by many; the arrays stay bounded."""
    window = Window(MINUTE, 100 * MINUTE)
    for n in range(5_000):
        window.add([candle(n)])
        assert window.count == min(n + 1, 100)
    assert window._table.shape[1] < 5_000
    window.trim(T + 5_050 * MINUTE)
    assert minutes_of(window.rows())[0] == 4_950
    window.trim(T + 9_000 * MINUTE)
    assert (window.count, window.last_close_time) == (0, None)


def test_rows_are_those_that_closed_by_then() -> None:
    """Open times from `since` on, closed by `until`; a copy, not a view."""
    window = Window(MINUTE)
    window.add([candle(n) for n in range(10)])
    assert minutes_of(window.rows(since=T + 180, until=T + 360)) == [3, 4, 5]
    assert minutes_of(window.rows(until=T + 359.9)) == [0, 1, 2, 3, 4]
    assert minutes_of(window.rows(until=T + 600, newest=2)) == [8, 9]
    assert minutes_of(window.rows(since=T + 9_999)) == minutes_of(Window(MINUTE).rows()) == []
    rows = window.rows()
    rows.close[:] = 9
    assert window.rows().close.tolist() == [1.0] * 10


def test_retention_is_14_days_and_a_quarter_more_than_a_training_needs() -> None:
    """Whichever is longer, and in candles also where half of the bars are missing."""
    assert retention_sec(60, 4000) == 14 * DAY
    assert retention_sec(900, 1440) / 900 * 0.5 >= 1.25 * (1440 + 150)
    assert retention_sec(300, 4000) / 300 * 0.5 >= 1.25 * (4000 + 150)


# ---- gaps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "missing", "filled"),
    [(60, 15, 15), (60, 16, 0), (300, 3, 3), (300, 4, 0), (900, 3, 3), (900, 4, 0), (3600, 3, 3)],
)
def test_a_gap_is_filled_up_to_3_bars_or_15_minutes(
    interval: float, missing: int, filled: int
) -> None:
    """Flat at the close before it, without volume, and marked; a longer one ends the sequence."""
    begin = T // interval * interval
    times = [begin, begin + interval, begin + (2 + missing) * interval]
    rows = rows_of([(t, 1.0, 2.0, 0.5, 1.5, 7.0, None) for t in times])
    got = prepare(rows, interval)
    assert got.filled_bars == filled
    assert got.lengths == ((3 + filled,) if filled else (2, 1))
    made = [False, False] + [True] * filled + [False]
    assert got.filled.tolist() == made
    assert got.volume.tolist() == [0.0 if x else 7.0 for x in made]
    assert set(got.close.tolist()) == {1.5}
    if filled:
        assert np.diff(got.time).tolist() == [interval] * (got.time.size - 1)
    assert got.ema_restarts == 0


def test_averages_begin_anew_after_more_than_6_hours() -> None:
    """A missing stretch of 6 h ends the sequence only; a bar more restarts them too."""
    for missing, restarts in ((360, 0), (361, 1)):
        got = prepare(flat(0, 1, 2 + missing, 3 + missing), MINUTE)
        assert (got.sequences, got.ema_restarts) == (2, restarts)
        assert got.starts.tolist() == [True, False, True, False]
        assert got.restarts.tolist() == [False, False, restarts == 1, False]


def test_nothing_comes_of_nothing() -> None:
    """Empty rows, and rows that cannot be, are an empty preparation."""
    for rows in (empty(), flat(0.5), flat(0, price=math.nan), flat(0, price=-1.0)):
        got = prepare(rows, MINUTE)
        assert (got.time.size, got.lengths, got.sequences, got.filled_bars) == (0, (), 0, 0)


NUMBERS = st.one_of(
    st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf, 1e308, 5e-324, T, T + 60]),
    st.floats(0.5, 2.0),
)
ANY_ROWS = st.lists(
    st.tuples(
        st.one_of(NUMBERS, st.integers(-3, 40).map(lambda n: T + n * MINUTE)),
        *[NUMBERS] * 5,
        st.none() | NUMBERS,
    ),
    max_size=30,
).map(rows_of)
GAPS = st.lists(
    st.one_of(st.just(1), st.integers(1, 20), st.integers(300, 400)), min_size=1, max_size=40
)


@given(rows=ANY_ROWS)
@example(rows=flat(3, 1, 1, 2))
@settings(deadline=None)
def test_everything_is_total(rows: Rows) -> None:
    """Whatever the numbers are: in order, once, finite, and only what can be."""
    window = Window(MINUTE)
    count = window.add_rows(rows)
    assert count + window.refused == rows.time.size
    assert bool(valid(window.rows(), MINUTE).all())
    got = prepare(rows, MINUTE)
    assert np.array_equal(got.time[~got.filled], window.rows().time)
    for column in (got.time, got.close, got.volume):
        assert bool(np.isfinite(column).all())
    assert sum(got.lengths) == got.time.size
    assert all(n > 0 for n in got.lengths)
    assert bool((np.diff(got.time) > 0).all())
    assert bool(valid(resample(rows, MINUTE, 900.0, least=1), 900.0).all())


@given(gaps=GAPS, data=st.data())
@settings(deadline=None)
def test_preparing_bit_by_bit_is_preparing_at_once(gaps: list[int], data: st.DataObject) -> None:
    """Wherever it is cut: what follows a candle is the same as if all had been at once."""
    at = np.cumsum(gaps).tolist()
    rows = rows_of([(T + n * MINUTE, 1.0, 3.0, 1.0, 1 + n % 3, 2.0, None) for n in at])
    whole = prepare(rows, MINUTE)
    cut = data.draw(st.integers(1, len(gaps)))
    head = prepare(Rows(*(x[:cut] for x in rows)), MINUTE)
    tail = prepare(
        Rows(*(x[cut:] for x in rows)), MINUTE, (float(head.time[-1]), float(head.close[-1]))
    )
    for name in ("time", "close", "volume", "filled", "restarts", "starts"):
        joined = np.concatenate((getattr(head, name), getattr(tail, name)))
        assert np.array_equal(joined, getattr(whole, name)), name


@given(gaps=GAPS)
@settings(deadline=None)
def test_a_sequence_has_no_hole_and_no_two_could_be_one(gaps: list[int]) -> None:
    """Within a sequence bars follow each other; between two more than 15 minutes are missing."""
    got = prepare(flat(*np.cumsum(gaps).tolist()), MINUTE)
    ends = np.cumsum(got.lengths)
    steps = np.diff(got.time) / MINUTE
    between = steps[ends[:-1] - 1]
    assert bool((np.delete(steps, ends[:-1] - 1) == 1).all())
    assert bool((between > 16).all())
    assert got.filled_bars == sum(g - 1 for g in gaps[1:] if g <= 16)
    assert np.flatnonzero(got.starts).tolist() == [0, *ends[:-1].tolist()]
    assert got.ema_restarts == sum(g > 361 for g in gaps[1:])


@given(parts=st.lists(st.lists(st.tuples(st.integers(0, 9), st.floats(1, 2))), max_size=5))
@settings(deadline=None)
def test_merging_is_a_dictionary_by_time(parts: list[list[tuple[int, float]]]) -> None:
    """Later parts win; the window comes to the same however it is fed."""
    expected = {T + n * MINUTE: price for part in parts for n, price in part}
    rows = [rows_of([(T + n * MINUTE, p, p, p, p, 0.0, None) for n, p in part]) for part in parts]
    got = merged(*rows)
    assert dict(zip(got.time.tolist(), got.close.tolist(), strict=True)) == expected
    assert got.time.tolist() == sorted(expected)
    window = Window(MINUTE)
    for part in rows:
        window.add_rows(part)
    assert same(window.rows(), got)


# ---- longer candles -----------------------------------------------------------------------------


def test_a_longer_bar_is_made_of_all_its_rows_or_of_those_asked_for() -> None:
    """Open of the first, close of the last, extremes, sums; a missing row makes it incomplete."""
    rows = rows_of([
        (T + n * MINUTE, 10.0 + n, 20.0 + n, 5.0 - n / 10, 11.0 + n, 1.0 + n, 1.0)
        for n in range(45)
        if n not in (17, 44)
    ])  # fmt: skip
    got = resample(rows, MINUTE, 900.0)
    assert minutes_of(got) == [0]
    assert [float(x[0]) for x in got[1:]] == [10.0, 34.0, 3.6, 25.0, 120.0, 15.0]
    assert minutes_of(resample(rows, MINUTE, 900.0, least=1)) == [0, 15, 30]
    assert minutes_of(resample(rows, MINUTE, 900.0, least=15)) == [0]
    with pytest.raises(ValueError, match="no whole multiple"):
        resample(rows, MINUTE, 90.0)
    assert same(resample(rows, MINUTE, MINUTE), rows)


@given(at=st.lists(st.integers(0, 90), unique=True))
@settings(deadline=None)
def test_resampling_by_steps_is_resampling_at_once(at: list[int]) -> None:
    """1 min to 5 min to 15 min, where a bar may be made of whatever there is."""
    rows = rows_of([(T + n * MINUTE, 1.0 + n, 99.0, 1.0, 2.0 + n, 1.0, 1.0) for n in at])
    steps = resample(resample(rows, MINUTE, 300.0, least=1), 300.0, 900.0, least=1)
    assert same(steps, resample(rows, MINUTE, 900.0, least=1))


# ---- recorded files -----------------------------------------------------------------------------


def test_a_candle_file_tells_its_rows_again_and_again(tmp_path: Path) -> None:
    """Exactly its own candles, from any time, in any order of asking; gaps are not filled."""
    path = tmp_path / "c.csv"
    write_candles(path, bars=400, seed=3)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:100] + lines[105:]) + "\n")
    source = ReplaySource(path)
    real = [x for x in source.read(0) if isinstance(x, Candle) and not x.is_filled]
    start, end = source.start_time(), source.end_time()
    assert source.candle_interval == 60.0
    assert list(source.candles(60.0, start, end)) == real
    for since in (start, start + 61, start + 6_000, start):
        until = since + 300
        expected = [x for x in real if x.time >= since and x.time + 60 <= until]
        assert list(source.candles(60.0, since, until)) == expected
    assert list(source.candles(60.0, end, end + 600)) == []
    with pytest.raises(ValueError, match="no whole multiple"):
        source.candles(90.0, start, end)


def test_longer_candles_of_a_file_are_closed_and_whole_at_the_beginning(tmp_path: Path) -> None:
    """A bar that began before the file is not known; a hole in the midst is left to the bar."""
    path = tmp_path / "c.csv"
    write_candles(path, bars=100, seed=3)
    source = ReplaySource(path)
    start = source.start_time()
    assert start % 900 != 0
    bars = list(source.candles(900.0, 0.0, start + 100 * 60))
    first = math.ceil(start / 900) * 900
    assert [x.time for x in bars] == [first + n * 900 for n in range(len(bars))]
    assert bars[-1].time + 900 <= start + 100 * 60 < bars[-1].time + 1800
    own = [x for x in source.read(0) if isinstance(x, Candle) and first <= x.time < first + 900]
    assert bars[0].open == own[0].open
    assert bars[0].close == own[-1].close
    assert bars[0].high == max(x.high for x in own)
    assert float(bars[0].volume) == pytest.approx(float(sum(x.volume for x in own)))


def test_prints_are_told_as_minutes(tmp_path: Path) -> None:
    """Open, extremes, close, volume, count; the first minute is cut off, quiet ones are absent."""
    path = tmp_path / "t.csv"
    prints = [(T + 30, "1", 1), (T + 60, "2", 2), (T + 61, "5", 1), (T + 119, "3", 4),
              (T + 240, "4", 1), (T + 301, "4", 1)]  # fmt: skip
    path.write_text("time,price,volume\n" + "".join(f"{t},{p},{v}\n" for t, p, v in prints))
    source = ReplaySource(path)
    assert source.candle_interval == 60.0
    got = list(source.candles(60.0, 0.0, T + 300))
    assert got == [
        Candle(time=T + 60, interval=60.0, open=D(2), high=D(5), low=D(2), close=D(3), volume=D(7),
               trades=3),
        Candle(time=T + 240, interval=60.0, open=D(4), high=D(4), low=D(4), close=D(4),
               volume=D(1), trades=1),
    ]  # fmt: skip
    assert len(list(source.candles(60.0, 0.0, T + 360))) == 3


@pytest.mark.parametrize(("own", "told"), [(1, 60.0), (20, 60.0), (7, 63.0), (90, 90.0)])
def test_the_shortest_candle_is_a_minute_or_the_recordings(
    tmp_path: Path, own: int, told: float
) -> None:
    """Shorter ones are joined, so that no file is held in memory by the second."""
    path = tmp_path / "c.csv"
    write_candles(path, bars=300, seed=1, interval=own)
    source = ReplaySource(path)
    assert source.candle_interval == told
    got = list(source.candles(told, 0.0, source.end_time()))
    assert len(got) == pytest.approx(300 * own / told, abs=2)
    assert all(x.time % told == 0 for x in got)


@pytest.mark.slow
@pytest.mark.market
def test_the_venues_own_half_year_is_told_with_its_gaps() -> None:
    """52,578 candles and 374 gaps; one ends the sequence, the rest is filled."""
    source = ReplaySource(market_file("kraken_xdgusd_5m.csv.gz"))
    assert source.candle_interval == 300.0
    window = Window(300.0)
    assert window.add(source.candles(300.0, 0.0, source.end_time())) == 52_578
    assert window.refused == 0
    gaps = np.diff(window.rows().time) / 300 - 1
    assert (int((gaps > 0).sum()), float(gaps.max())) == (374, 11.0)
    got = prepare(window.rows(), 300.0)
    assert got.filled_bars == source.filled_count == int(gaps[gaps <= 3].sum())
    assert got.sequences == 1 + int((gaps > 3).sum())
    assert got.ema_restarts == 0
    quarters = list(source.candles(900.0, 0.0, source.end_time()))
    assert len(quarters) == pytest.approx(184 * 96, abs=10)


@pytest.mark.slow
@pytest.mark.market
def test_a_minute_file_with_two_long_gaps_has_three_sequences() -> None:
    """Binance, spring of 2021: 150 and 284 minutes are missing; averages go on over both."""
    source = ReplaySource(market_file("binance_dogeusdt_1m_20210402_20210615.csv.gz"))
    window = Window(MINUTE)
    assert window.add(source.candles(MINUTE, 0.0, source.end_time())) == 106_857
    got = prepare(window.rows(), MINUTE)
    assert (got.sequences, got.ema_restarts, got.filled_bars) == (3, 0, 0)


@pytest.mark.slow
@pytest.mark.market
def test_flat_bars_of_a_thin_venue_are_candles_like_any_other() -> None:
    """KuCoin's bars without trades are told, as the venue tells them."""
    source = ReplaySource(market_file("kucoin_dogeusdt_1m_20230218_20230321.csv.gz"))
    window = Window(MINUTE)
    window.add(source.candles(MINUTE, 0.0, source.end_time()))
    assert (window.count, window.refused) == (44_318, 0)
    rows = window.rows()
    is_flat = (rows.high == rows.low) & (rows.open == rows.close)
    assert float(is_flat.mean()) == pytest.approx(0.17, abs=0.02)
    assert prepare(rows, MINUTE).time.size >= 44_318


# ---- the synthetic market -----------------------------------------------------------------------


def synthetic(seed: int = 5) -> SyntheticSource:
    """Return a synthetic market."""
    return SyntheticSource(seed, instrument=Instrument())


def test_synthetic_candles_are_made_of_the_prints_that_are_traded_on() -> None:
    """Each minute's open, extremes, close and volume are those of the very trades."""
    source = synthetic()
    start = source.start_time()
    candles = list(source.candles(60.0, start, start + 200 * MINUTE))
    assert len(candles) == 200
    trades = [x for x in islice(source.read(0), 2_200) if isinstance(x, Trade)]
    for made in candles[:150]:
        own = [x for x in trades if made.time <= x.time < made.time + 60]
        prices = [x.price for x in own]
        assert (made.open, made.close) == (prices[0], prices[-1])
        assert (made.high, made.low) == (max(prices), min(prices))
        assert (made.volume, made.trades) == (sum(x.volume for x in own), len(own))


def test_synthetic_candles_are_the_same_wherever_the_asking_begins() -> None:
    """Bit by bit, after a restart at any minute, and from before the start on."""
    source, start = synthetic(), synthetic().start_time()
    whole = list(source.candles(60.0, start, start + 4 * HOUR))
    steps = synthetic()
    pulled = [
        x
        for n in range(48)
        for x in steps.candles(60.0, start + n * 300, start + (n + 1) * 300)
    ]  # fmt: skip
    assert pulled == whole
    for minute in (0, 1, 77, 239):
        since = start + minute * MINUTE
        assert list(synthetic().candles(60.0, since, start + 4 * HOUR)) == whole[minute:]
    assert list(source.candles(60.0, start + 60, start + 300)) == whole[1:5]
    quarters = list(source.candles(900.0, start, start + 4 * HOUR))
    assert [x.time for x in quarters] == [start + n * 900 for n in range(16)]
    assert list(synthetic().candles(900.0, start + 1, start + HOUR)) == quarters[1:4]
    assert list(source.candles(60.0, start, start + 59.9)) == []


def test_synthetic_candles_are_the_same_while_the_market_is_read() -> None:
    """What a reader has made is not made again; nor does a reader ahead or behind matter."""
    start = synthetic().start_time()
    whole = list(synthetic().candles(60.0, start, start + 4 * HOUR))
    for lead in (0, 1, 30, 100, -100):
        source, got = synthetic(), []
        list(source.candles(60.0, start, start + 60))
        evidence = source.read(7)
        for n in range(48):
            now = start + (n + 1) * 300
            for x in evidence:
                if x.time >= now + lead * MINUTE:
                    break
            got += source.candles(60.0, now - 300, now)
        assert got == whole


@pytest.mark.slow
def test_synthetic_history_comes_before_the_start() -> None:
    """21 days of it, told as `history` tells it, and no more."""
    source = synthetic()
    start = source.start_time()
    whole = list(source.candles(60.0, 0.0, start + 60))
    assert whole[:-1] == list(source.history())
    assert len(whole) == 21 * 1440 + 1
    assert list(synthetic().candles(60.0, start - DAY, start + 60)) == whole[-1441:]
    quarters = list(source.candles(900.0, 0.0, start))
    assert (len(quarters), quarters[0].time) == (21 * 96, start - 21 * DAY)


def test_no_candle_is_told_before_it_has_closed(tmp_path: Path) -> None:
    """Of no market, at no time."""
    path = tmp_path / "c.csv"
    write_candles(path, bars=100, seed=3)
    replay = ReplaySource(path)
    for source, start in ((replay, replay.start_time()), (synthetic(), synthetic().start_time())):
        for until in (start + 59.999, start + 60, start + 901.5, start + 1800):
            for interval in (60.0, 900.0):
                got = list(source.candles(interval, start, until))
                assert all(x.time + interval <= until for x in got)
                assert all(x.time >= start for x in got)
