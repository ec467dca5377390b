"""Candles for the chart: made of what is on disk, never of what is not."""

from pathlib import Path

import pytest

from core.market import CandleRow
from core.ports import StoreError
from store.candles import SqliteCandles
from store.chart import CandleChart

T = 1_699_999_200.0  # a full hour
PAIR = "a market, run 1"


def row(minute: int, close: float = 1.0, interval: int = 60) -> CandleRow:
    """Return a candle that goes from 1 to `close`."""
    low, high = min(1.0, close), max(1.0, close)
    return (T + minute * interval, 1.0, high, low, close, 0.1, None)


def chart(
    tmp_path: Path, rows: list[CandleRow], *, interval: float = 60.0, pair: str = PAIR
) -> CandleChart:
    """Return the chart of a file with these candles."""
    store = SqliteCandles(tmp_path / "c.db", pair=pair)
    store.write(interval, rows)
    store.close()
    return CandleChart(tmp_path / "c.db", pair=PAIR, interval=interval)


def minutes(found: tuple[float, list[dict[str, object]]]) -> list[float]:
    """Return when candles opened, in minutes."""
    return [(float(str(x["time"])) - T) / 60 for x in found[1]]


def test_a_longer_candle_is_made_of_its_minutes(tmp_path: Path) -> None:
    """Open of the first, close of the last, the extremes, the sum; decimal text."""
    made = chart(tmp_path, [row(n, 1.0 + n / 100) for n in range(5)])
    own, found = made.candles(300.0, 10)
    assert own == 300.0
    assert found == [
        {"time": T, "open": "1", "high": "1.04", "low": "1", "close": "1.04", "volume": "0.5",
         "regime": None}
    ]  # fmt: skip
    assert made.candles(60.0, 10)[1][4]["close"] == "1.04"


def test_only_whole_closed_candles_are_told_and_none_is_invented(tmp_path: Path) -> None:
    """Not the first one that was not seen whole, not the forming one, none in a gap."""
    made = chart(tmp_path, [row(n) for n in (*range(2, 12), 23, *range(30, 33))])
    assert minutes(made.candles(60.0, 100)) == [*range(2, 12), 23, 30, 31, 32]
    assert minutes(made.candles(300.0, 100)) == [5, 10, 20]
    assert made.candles(300.0, 100)[1][2]["volume"] == "0.1"
    assert minutes(made.candles(3600.0, 100)) == []


def test_scrolling_back_leaves_nothing_out(tmp_path: Path) -> None:
    """`before` the first of a page comes the next, over a gap, until there is nothing."""
    own = (*range(7), *range(50, 55), 90)
    made = chart(tmp_path, [row(n) for n in own])
    seen: list[float] = []
    found = made.candles(60.0, 3)
    while found[1]:
        assert len(found[1]) <= 3
        seen = minutes(found) + seen
        found = made.candles(60.0, 3, found[1][0]["time"])
    assert seen == list(own)
    assert minutes(made.candles(300.0, 10, T + 3 * 60)) == [0]


def test_a_market_with_longer_candles_tells_its_own(tmp_path: Path) -> None:
    """Asked for what cannot be made, it answers the market's own interval."""
    made = chart(tmp_path, [row(n, interval=300) for n in range(3)], interval=300.0)
    assert (made.candles(60.0, 5)[0], minutes(made.candles(60.0, 5))) == (300.0, [0, 5, 10])
    assert (made.candles(900.0, 5)[0], minutes(made.candles(900.0, 5))) == (900.0, [0])


def test_the_regime_is_the_last_label_known_within_the_candle(tmp_path: Path) -> None:
    """Of all minutes of a bar; where the policy had none there is none."""
    made = chart(tmp_path, [row(n) for n in range(15)])
    store = SqliteCandles(tmp_path / "c.db", pair=PAIR)
    store.append_labels(60.0, [(T, 1.0, 2), (T + 60, 1.0, 0), (T + 120, 1.0, None)])
    store.append_labels(60.0, [(T + 300, 1.0, None), (T + 600, 1.0, 1)])
    store.close()
    told = [x["regime"] for x in made.candles(300.0, 10)[1]]
    assert told == ["bearish", None, "ranging"]
    assert [x["regime"] for x in made.candles(60.0, 15)[1]][:3] == ["bullish", "bearish", None]


def test_other_markets_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Another run's candles are not told; a file that is not there is an error, not nothing."""
    assert chart(tmp_path, [row(0)], pair="another").candles(60.0, 5) == (60.0, [])
    with pytest.raises(StoreError, match="cannot be read"):
        CandleChart(tmp_path / "none.db", pair=PAIR, interval=60.0).candles(60.0, 5)
