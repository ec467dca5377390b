"""Replay files, good and bad, and the synthetic market."""

import gzip
from decimal import Decimal
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.domain import Instrument
from core.market import Book, Candle, Trade, available_at
from core.ports import MarketError
from market.replay import ReplaySource
from market.synthetic import SyntheticSource
from tests.helpers import market_file, write_candles

HEAD = "time,open,high,low,close,volume,trades\n"
GOOD = "0,1,2,0.5,1.5,10,3\n60,1.5,2,1,1.2,5,\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        (HEAD, "holds 0 rows"),
        (HEAD + "0,1,2,0.5,1.5,10,3\n", "holds 1 rows"),
        ("a,b,c\n1,2,3\n", "line 1: columns"),
        (HEAD + GOOD + "30,1,2,0.5,1,1,\n", "line 4: time 30.000000 is not after 60.000000"),
        (HEAD + GOOD + "60,1,2,0.5,1,1,\n", "line 4: time"),
        (HEAD + GOOD + "120,nan,2,0.5,1,1,\n", "line 4: open 'nan' is not finite"),
        (HEAD + GOOD + "120,hello,2,0.5,1,1,\n", "line 4: open 'hello' is not a number"),
        (HEAD + GOOD + "120,1,0.9,0.5,1,1,\n", "line 4: open 1, high 0.9"),
        (HEAD + GOOD + "120,1,2,-1,1,1,\n", "line 4: low -1 is not positive"),
        (HEAD + GOOD + "120,1,2,0.5,1,-1,\n", "line 4: volume -1 is negative"),
        (HEAD + GOOD + "120,1\n", "line 4: high is missing"),
        ("time,price,volume\n0,1,1\n1,0,1\n", "line 3: price 0"),
        ("time,price,volume,side\n0,1,1,buy\n1,1,1,up\n", "line 3: side 'up'"),
    ],
)
def test_bad_files_name_line_and_reason(tmp_path: Path, text: str, expected: str) -> None:
    """Whatever is wrong is named with its line before anything is traded."""
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(MarketError, match=r"x\.csv") as caught:
        ReplaySource(path)
    assert expected in str(caught.value)


def test_missing_and_truncated_files_are_refused(tmp_path: Path) -> None:
    """A file that is not there, or not whole, is named."""
    with pytest.raises(MarketError, match="does not exist"):
        ReplaySource(tmp_path / "none.csv")
    packed = gzip.compress((HEAD + GOOD * 1).encode())
    (tmp_path / "cut.csv.gz").write_bytes(packed[:-10])
    with pytest.raises(MarketError, match="cannot be read"):
        ReplaySource(tmp_path / "cut.csv.gz")


def test_csv_gzip_and_parquet_give_the_same_evidence(tmp_path: Path) -> None:
    """Three formats, one stream, exact decimals."""
    plain = tmp_path / "c.csv"
    write_candles(plain, bars=300, seed=1)
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    rows = [line.split(",") for line in plain.read_text().splitlines()[1:]]
    names = ("time", "open", "high", "low", "close", "volume", "trades")
    columns = {name: [float(row[n]) for row in rows] for n, name in enumerate(names)}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    streams = [
        list(ReplaySource(tmp_path / f"c.{x}").read(0)) for x in ("csv", "csv.gz", "parquet")
    ]
    assert streams[0] == streams[1] == streams[2]
    assert len(streams[0]) == 300


@pytest.mark.parametrize("skip", [0, 1, 7, 150, 299, 400])
def test_reading_goes_on_from_any_place(tmp_path: Path, skip: int) -> None:
    """read(skip) is the tail of read(0), filled bars included."""
    path = tmp_path / "c.csv"
    write_candles(path, bars=300, seed=2)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:100] + lines[103:]) + "\n")
    source = ReplaySource(path)
    assert (source.gap_count, source.filled_count, source.total()) == (1, 3, 300)
    assert list(source.read(skip)) == list(source.read(0))[skip:]


def test_long_gaps_are_left_and_counted(tmp_path: Path) -> None:
    """A gap beyond 15 minutes is not filled; it is counted with its length."""
    path = tmp_path / "c.csv"
    write_candles(path, bars=300, seed=2)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:100] + lines[130:]) + "\n")
    source = ReplaySource(path)
    assert (source.gap_count, source.filled_count, source.longest_gap_sec) == (1, 0, 1860.0)


def test_filled_bars_are_flat_and_without_volume(tmp_path: Path) -> None:
    """A filled bar repeats the close and says that it is one."""
    path = tmp_path / "c.csv"
    path.write_text(HEAD + "0,1,2,0.5,1.5,10,3\n60,1.5,2,1,1.2,5,\n180,1,1,1,1,5,\n")
    filled = list(ReplaySource(path).read(0))[2]
    assert filled == Candle(
        time=120.0, interval=60.0, open=Decimal("1.2"), high=Decimal("1.2"), low=Decimal("1.2"),
        close=Decimal("1.2"), volume=Decimal(0), trades=0, is_filled=True,
    )  # fmt: skip


def test_several_symbols_need_a_choice(tmp_path: Path) -> None:
    """A file of several symbols lists them."""
    path = tmp_path / "t.csv"
    path.write_text("time,price,volume,symbol\n0,1,1,A\n1,2,1,B\n2,1,1,A\n")
    with pytest.raises(MarketError, match="A, B"):
        ReplaySource(path)
    assert ReplaySource(path, symbol="A").total() == 2


@pytest.mark.market
def test_the_venues_own_candles_have_374_gaps() -> None:
    """The recorded half year: 52,578 rows, 374 gaps, the longest 60 minutes."""
    source = ReplaySource(market_file("kraken_xdgusd_5m.csv.gz"))
    assert (source.gap_count, source.longest_gap_sec) == (374, 3600.0)
    assert source.total() - source.filled_count == 52_578


@pytest.mark.market
def test_a_day_of_trades_reads_whole() -> None:
    """266,395 trades, in order."""
    source = ReplaySource(market_file("trades/coinbase_dogeusd_trades_20251010.csv.gz"))
    assert source.total() == 266_395


def test_synthetic_market_is_the_same_for_a_seed_and_goes_on_anywhere() -> None:
    """Same seed, same evidence; another seed, another; read(skip) is the tail."""
    one = list(islice(SyntheticSource(1, instrument=Instrument()).read(0), 3000))
    assert one == list(islice(SyntheticSource(1, instrument=Instrument()).read(0), 3000))
    assert one != list(islice(SyntheticSource(2, instrument=Instrument()).read(0), 3000))
    for skip in (1, 17, 999, 2500):
        tail = SyntheticSource(1, instrument=Instrument()).read(skip)
        assert list(islice(tail, 50)) == one[skip : skip + 50]


def test_synthetic_market_is_well_formed() -> None:
    """Times rise, prices are on the tick grid, books are not crossed."""
    tick, last = Instrument().tick_size, 0.0
    for item in islice(SyntheticSource(3, instrument=Instrument()).read(0), 20_000):
        assert available_at(item) >= last
        last = available_at(item)
        match item:
            case Trade():
                assert item.price % tick == 0
                assert item.volume > 0
            case Book():
                assert item.bids[0][0] < item.asks[0][0]
            case _:
                raise AssertionError(item)


def test_synthetic_history_leads_up_to_the_start() -> None:
    """21 days of 1 min candles end at the start, at its price."""
    source = SyntheticSource(1, instrument=Instrument())
    candles = list(source.history(days=2))
    assert len(candles) == 2880
    assert candles[-1].time + 60 == source.start_time()
    assert abs(candles[-1].close - source.first_price()) < Decimal("0.000001")
    assert all(c.low <= min(c.open, c.close) <= max(c.open, c.close) <= c.high for c in candles)
