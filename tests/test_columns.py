"""A file read at once tells what the replay tells, and refuses what the replay refuses."""

import gzip
import math
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.market import Candle
from core.ports import MarketError
from market.columns import ColumnSource
from market.replay import ReplaySource
from tests.helpers import market_file, write_candles


def like_the_replay(path: Path, **more: object) -> ColumnSource:
    """Return the source, compared with the replay of the same file in everything it tells."""
    own, other = ColumnSource(path, **more), ReplaySource(path, **more)  # type: ignore[arg-type]
    for name in ("name", "fingerprint", "interval", "gap_count", "filled_count",
                 "longest_gap_sec", "candle_interval"):  # fmt: skip
        assert getattr(own, name) == getattr(other, name), name
    for told in ("total", "first_price", "start_time", "end_time", "describe"):
        assert getattr(own, told)() == getattr(other, told)(), told
    bars = list(other.read(0))
    assert list(own.read(0)) == bars
    assert list(own.read(7)) == bars[7:]
    begin, end = own.start_time(), own.end_time()
    for interval in (own.candle_interval, 15 * own.candle_interval):
        rows, others = (x.candle_rows(interval, begin - 3600, end) for x in (own, other))
        for mine, theirs in zip(rows, others, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    return own


def with_holes(path: Path, bars: int = 400) -> None:
    """Write candles with missing stretches of every kind, and bars without volume."""
    write_candles(path, bars=bars, seed=4)
    head, *lines = path.read_text().splitlines()
    rng = random.Random(1)
    kept = [x for n, x in enumerate(lines) if n < 3 or rng.random() > 0.05]
    del kept[100:112], kept[200:240]
    kept[50] = ",".join([*kept[50].split(",")[:5], "0.00", "0"])
    path.write_text("\n".join([head, *kept]) + "\n")


def test_bars_and_columns_are_those_of_the_replay(tmp_path: Path) -> None:
    """Gaps are filled or counted, bars without volume are marked, prices keep their digits."""
    path = tmp_path / "candles.csv"
    with_holes(path)
    own = like_the_replay(path)
    assert own.filled_count > 10
    assert own.gap_count > 10
    columns = own.columns
    assert columns is not None
    for n, bar in enumerate(own.read(0)):
        assert isinstance(bar, Candle)
        assert columns.closes_at[n] == bar.time + bar.interval
        assert columns.close[n] == float(bar.close)
        if bar.is_filled or bar.volume == 0:
            assert (columns.low[n], columns.high[n]) == (math.inf, -math.inf)
        else:
            assert (columns.low[n], columns.high[n]) == (float(bar.low), float(bar.high))
        assert own.exact_close(n) == bar.close


@pytest.mark.parametrize("ending", [".csv.gz", ".parquet"])
def test_every_kind_of_file_is_read(tmp_path: Path, ending: str) -> None:
    """Packed text and Parquet, with numbers or texts in it."""
    plain, path = tmp_path / "candles.csv", tmp_path / f"x{ending}"
    with_holes(plain, 120)
    if ending == ".csv.gz":
        path.write_bytes(gzip.compress(plain.read_bytes()))
    else:
        head, *lines = plain.read_text().splitlines()
        cells = list(zip(*(x.split(",") for x in lines), strict=True))
        table = {name: [float(x) for x in column]
                 for name, column in zip(head.split(","), cells, strict=True)}  # fmt: skip
        pq.write_table(pa.table(table), path)
    assert like_the_replay(path).columns is not None


def test_a_market_may_end_before_its_file(tmp_path: Path) -> None:
    """Two parts are the whole, but for what would be filled between them."""
    path = tmp_path / "candles.csv"
    write_candles(path, bars=300, seed=4)
    cut = ColumnSource(path).start_time() + 6_000
    first, second = like_the_replay(path, until=cut), like_the_replay(path, start=cut)
    assert (first.end_time(), second.start_time()) == (cut, cut)
    assert [*first.read(0), *second.read(0)] == list(ColumnSource(path).read(0))


def test_a_start_a_symbol_and_milliseconds(tmp_path: Path) -> None:
    """What is before the start is history; rows of another symbol are not there."""
    path, both = tmp_path / "candles.csv", tmp_path / "both.csv"
    write_candles(path, bars=60, seed=1)
    head, *lines = path.read_text().splitlines()
    start = float(lines[20].split(",")[0])
    assert like_the_replay(path, start=start).start_time() == start
    rows = [f"{name},{int(x.split(',')[0]) * 1000},{x.split(',', 1)[1]}"
            for x in lines for name in ("DOGE", "XBT")]  # fmt: skip
    both.write_text("\n".join([f"symbol,{head}", *rows]) + "\n")
    assert like_the_replay(both, symbol="XBT").columns is not None


def test_trades_are_replayed_as_they_are(tmp_path: Path) -> None:
    """They have no bars to skip."""
    path = tmp_path / "trades.csv"
    times = "\n".join(f"{1_700_000_000 + 7 * n},0.1,{n + 1},buy" for n in range(50))
    path.write_text(f"time,price,volume,side\n{times}\n")
    assert like_the_replay(path).columns is None


@pytest.mark.parametrize(
    ("column", "text"),
    [(2, "0.0001"), (3, "x"), (4, "nan"), (4, ""), (5, "-1"), (6, "1.5"), (0, "1"), (1, "1e10")],
)
def test_a_bad_line_is_refused_in_the_replays_words(tmp_path: Path, column: int, text: str) -> None:
    """File, line, column, what it is and what is allowed."""
    path = tmp_path / "candles.csv"
    write_candles(path, bars=60, seed=1)
    lines = path.read_text().splitlines()
    cells = lines[30].split(",")
    cells[column] = text
    lines[30] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(MarketError) as own:
        ColumnSource(path)
    with pytest.raises(MarketError) as other:
        ReplaySource(path)
    assert str(own.value) == str(other.value)
    assert "line 31" in str(own.value)


def test_rows_that_do_not_rise_are_refused(tmp_path: Path) -> None:
    """As the replay does."""
    path = tmp_path / "candles.csv"
    write_candles(path, bars=60, seed=1)
    lines = path.read_text().splitlines()
    lines[30], lines[31] = lines[31], lines[30]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(MarketError, match="is not after"):
        ColumnSource(path)


@pytest.mark.market
@pytest.mark.slow
def test_recorded_files_are_read_as_the_replay_reads_them() -> None:
    """Kraken's five minutes with their holes, Binance's minutes."""
    for name in ("kraken_xdgusd_5m.csv.gz", "binance_dogeusdt_1m_20230316_20230501.csv.gz"):
        assert like_the_replay(market_file(name)).columns is not None
