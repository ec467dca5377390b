"""Replay files, good and bad, and the synthetic market."""

import gzip
from decimal import Decimal
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import config
from core.domain import Instrument
from core.market import Book, Candle, Trade, available_at
from core.ports import MarketError, StoreError
from engine.wiring import open_parts, open_source
from market.replay import ReplaySource
from market.synthetic import SyntheticSource
from tests.helpers import market_file, write_candles

NOWHERE = Path("/nonexistent/.env")
T = 1_700_000_040  # a full minute
HEAD = "time,open,high,low,close,volume,trades\n"
GOOD = f"{T},1,2,0.5,1.5,10,3\n{T + 60},1.5,2,1,1.2,5,\n"
THIRD = HEAD + GOOD + f"{T + 120},"
TRADES = f"time,price,volume\n{T},1,1\n{T + 1},"
PRICE = "must be a number from 0.000000000001 to 1000000000"
VOLUME = "must be a number from 0 to 1000000000000000"
COUNT = "must be a whole number from 0 to 1000000000000, or nothing"
TIME = "must be seconds since 1970, UTC, from 2009 to 2100 (or milli-, micro- or nanoseconds)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        (HEAD, "holds 0 rows"),
        (HEAD + f"{T},1,2,0.5,1.5,10,3\n", "holds 1 rows"),
        ("a,b,c\n1,2,3\n", "line 1: columns"),
        (HEAD + GOOD + f"{T + 30},1,2,0.5,1,1,\n", "line 4: time 1700000070.000000 is not after"),
        (HEAD + GOOD + f"{T + 60},1,2,0.5,1,1,\n", "line 4: time"),
        (THIRD + "nan,2,0.5,1,1,\n", f"line 4: open 'nan' {PRICE}"),
        (THIRD + "hello,2,0.5,1,1,\n", f"line 4: open 'hello' {PRICE}"),
        (THIRD + "1_0,20,0.5,1,1,\n", f"line 4: open '1_0' {PRICE}"),
        (THIRD + "١,2,0.5,1,1,\n", f"line 4: open '١' {PRICE}"),
        (THIRD + "1,1e999999,0.5,1,1,\n", f"line 4: high '1e999999' {PRICE}"),
        (THIRD + "1,2e9,0.5,1,1,\n", f"line 4: high '2e9' {PRICE}"),
        (THIRD + "1,2,1e-999999,1,1,\n", f"line 4: low '1e-999999' {PRICE}"),
        (THIRD + "1,2,1e-13,1,1,\n", f"line 4: low '1e-13' {PRICE}"),
        (THIRD + "1,0.9,0.5,1,1,\n", "line 4: open 1, high 0.9"),
        (THIRD + "1,2,-1,1,1,\n", f"line 4: low '-1' {PRICE}"),
        (THIRD + "1,2,0.5,1,-1,\n", f"line 4: volume '-1' {VOLUME}"),
        (THIRD + "1,2,0.5,1,1e16,\n", f"line 4: volume '1e16' {VOLUME}"),
        (THIRD + "1,2,0.5,1,1,abc\n", f"line 4: trades 'abc' {COUNT}"),
        (THIRD + "1,2,0.5,1,1,inf\n", f"line 4: trades 'inf' {COUNT}"),
        (THIRD + "1,2,0.5,1,1,1.5\n", f"line 4: trades '1.5' {COUNT}"),
        (THIRD + "1,2,0.5,1,1,-1\n", f"line 4: trades '-1' {COUNT}"),
        (THIRD + "1,2,0.5,1,1,1e300\n", f"line 4: trades '1e300' {COUNT}"),
        (THIRD + "1\n", "line 4: high is missing"),
        (TRADES + "0,1\n", f"line 3: price '0' {PRICE}"),
        (TRADES + "1e999999,1\n", f"line 3: price '1e999999' {PRICE}"),
        (TRADES + "1,1e999999\n", f"line 3: volume '1e999999' {VOLUME}"),
        (TRADES + "1,0\n", "line 3: volume '0' must be above 0"),
        (f"time,price,volume,side\n{T},1,1,buy\n{T + 1},1,1,up\n", "line 3: side 'up'"),
        (f"time,price,volume,symbol\n{T},1,1,A\n{T + 1},1,1\n", "line 3: symbol is missing"),
    ],
)
def test_bad_files_name_line_and_reason(tmp_path: Path, text: str, expected: str) -> None:
    """Whatever is wrong is named with its line and column before anything is traded."""
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(MarketError, match=r"x\.csv") as caught:
        ReplaySource(path, symbol="A" if "symbol" in text else None)
    assert expected in str(caught.value)


@pytest.mark.parametrize("time", ["soon", "nan", "inf", "-1", "0", "1e999", "1_700_000_100", "1e11",
                                  "1230767999", "4102444800", "9" * 70])  # fmt: skip
@pytest.mark.parametrize("line", [2, 3, 4])
def test_times_outside_2009_to_2100_are_refused(tmp_path: Path, time: str, line: int) -> None:
    """No time can be so far away that the run would never end; the line is named."""
    path = tmp_path / "x.csv"
    rows = [f"{T + 60 * n},1,1,1,1,1,1" for n in range(3)]
    rows[line - 2] = f"{time},1,1,1,1,1,1"
    path.write_text(HEAD + "\n".join(rows) + "\n")
    with pytest.raises(MarketError, match=rf"x\.csv line {line}: time") as caught:
        ReplaySource(path)
    assert TIME in str(caught.value) or "as line 2" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("zeros", ["000", "000000", "000000000"])
@pytest.mark.parametrize("head", [HEAD, "time,price,volume\n"])
def test_the_unit_of_time_is_seen_from_its_size(tmp_path: Path, zeros: str, head: str) -> None:
    """Milli-, micro- and nanoseconds give the same evidence as seconds; the name says so."""
    cells = "0.1,0.2,0.05,0.1,100,1" if head is HEAD else "0.1,100"
    streams = []
    for name, end in (("s", ""), ("other", zeros)):
        path = tmp_path / f"{name}.csv"
        rows = [f"{T + 60 * n + 600 * (n > 5)}{end},{cells}" for n in range(10)]
        path.write_text(head + "\n".join(rows) + "\n")
        source = ReplaySource(path)
        assert source.interval in (60.0, 0.0)
        streams.append(list(source.read(0)))
        assert ("seconds" in source.name) == bool(end)
    assert streams[0] == streams[1]


def test_units_of_time_cannot_be_mixed(tmp_path: Path) -> None:
    """A file whose unit changes half-way is refused at the line where it does."""
    path = tmp_path / "x.csv"
    for ends in (("", "", "000"), ("000", "000", ""), ("000", "000000", "000")):
        rows = [f"{T + 60 * n}{end},1,1,1,1,1,1" for n, end in enumerate(ends)]
        path.write_text(HEAD + "\n".join(rows) + "\n")
        with pytest.raises(MarketError, match=r"line [34]: time '\d+' .*as line 2"):
            ReplaySource(path)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((0, 0.000001, 0.000002, 900), "line 3: candles are 0 s apart; allowed: 1 s to 15 days"),
        ((0, 0.5, 1, 900), "candles are 0.5 s apart"),
        ((0, 86400 * 16, 86400 * 32), "candles are 1382400 s apart"),
        ((0, 60, 120, 86400 * 40), "line 5: no candles for 40 days; allowed: up to 31 days"),
        ((0, 60, 120, 2_000_000_000), "line 5: no candles for 23148 days"),
    ],
)
def test_no_distance_between_times_can_make_a_run_endless(
    tmp_path: Path, times: tuple[float, ...], expected: str
) -> None:
    """Candles too close would fill gaps for ever, candles too far apart tick for ever."""
    path = tmp_path / "x.csv"
    path.write_text(HEAD + "".join(f"{T + x:f},1,1,1,1,1,1\n" for x in times))
    with pytest.raises(MarketError) as caught:
        ReplaySource(path)
    assert expected in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    """Spreadsheets write one; packed or not it is skipped, and lines are counted the same."""
    text = b"\xef\xbb\xbf" + (HEAD + GOOD).encode()
    (tmp_path / "x.csv").write_bytes(text)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(text))
    for name in ("x.csv", "x.csv.gz"):
        assert ReplaySource(tmp_path / name).total() == 2
    (tmp_path / "x.csv").write_bytes(text + f"{T + 120},oops,1,1,1,1,1\n".encode())
    with pytest.raises(MarketError, match="line 4: open 'oops'"):
        ReplaySource(tmp_path / "x.csv")


def test_blank_lines_are_skipped(tmp_path: Path) -> None:
    """An empty line is no row, wherever it stands."""
    path = tmp_path / "x.csv"
    path.write_text(HEAD + "\n" + GOOD.replace("\n", "\n\n"))
    assert ReplaySource(path).total() == 2


def test_missing_and_truncated_files_are_refused(tmp_path: Path) -> None:
    """A file that is not there, or not whole, is named."""
    with pytest.raises(MarketError, match="does not exist"):
        ReplaySource(tmp_path / "none.csv")
    packed = gzip.compress((HEAD + GOOD * 1).encode())
    (tmp_path / "cut.csv.gz").write_bytes(packed[:-10])
    (tmp_path / "torn.csv.gz").write_bytes(packed[:20] + b"\xff" * 20 + packed[40:])
    (tmp_path / "wide.csv").write_bytes((HEAD + GOOD).encode("utf-16"))
    for name in ("cut.csv.gz", "torn.csv.gz", "wide.csv"):
        with pytest.raises(MarketError, match="cannot be read"):
            ReplaySource(tmp_path / name)


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
    path.write_text(HEAD + GOOD + f"{T + 180},1,1,1,1,5,\n")
    filled = list(ReplaySource(path).read(0))[2]
    assert filled == Candle(
        time=T + 120.0, interval=60.0, open=Decimal("1.2"), high=Decimal("1.2"), low=Decimal("1.2"),
        close=Decimal("1.2"), volume=Decimal(0), trades=0, is_filled=True,
    )  # fmt: skip


def test_several_symbols_need_a_choice(tmp_path: Path) -> None:
    """A file of several symbols lists them."""
    path = tmp_path / "t.csv"
    path.write_text(f"time,price,volume,symbol\n{T},1,1,A\n{T},2,1,B\n{T + 2},1,1,A\n")
    with pytest.raises(MarketError, match="A, B"):
        ReplaySource(path)
    assert ReplaySource(path, symbol="A").total() == 2
    path.write_text(f"time,price,volume\n{T},1,1\n")
    with pytest.raises(MarketError, match="has no column symbol; leave REPLAY_SYMBOL unset"):
        ReplaySource(path, symbol="A")


@pytest.mark.market
def test_the_venues_own_candles_have_374_gaps() -> None:
    """The recorded half year: 52,578 rows, 374 gaps, the longest 60 minutes."""
    source = ReplaySource(market_file("kraken_xdgusd_5m.csv.gz"))
    assert (source.gap_count, source.longest_gap_sec) == (374, 3600.0)
    assert source.total() - source.filled_count == 52_578


@pytest.mark.slow
@pytest.mark.market
def test_a_day_of_trades_reads_whole() -> None:
    """266,395 trades, in order."""
    source = ReplaySource(market_file("trades/coinbase_dogeusd_trades_20251010.csv.gz"))
    assert source.total() == 266_395


# ---- beginning in the midst of a file -----------------------------------------------------------


@pytest.mark.parametrize("start", [T + 100, T + 100.5, T + 120])
def test_a_replay_may_begin_in_the_midst_of_its_file(tmp_path: Path, start: float) -> None:
    """At the first row from the start on; its price is the first, what was before is history."""
    path = tmp_path / "c.csv"
    write_candles(path, bars=50, seed=2)
    first = ReplaySource(path)
    begin = first.start_time()
    source = ReplaySource(path, start=begin + start - T)
    assert source.start_time() == begin + 120
    assert list(source.read(0)) == list(first.read(2))
    assert list(source.read(3)) == list(first.read(5))
    assert source.total() == 48
    assert source.first_price() == next(iter(first.read(2))).open  # type: ignore[union-attr]
    history = list(source.candles(60.0, 0.0, source.start_time()))
    assert history == list(first.read(0))[:2]
    assert "from 2023-11-14 22:1" in source.name


def test_the_setting_reaches_the_market(tmp_path: Path) -> None:
    """REPLAY_FROM is where it begins, and a run of another start has other books."""
    path = tmp_path / "c.csv"
    write_candles(path, bars=50, seed=2)
    env = {"MARKET_DATA": "replay", "REPLAY_FILE": str(path), "STATE_DB": str(tmp_path / "x.db")}
    open_parts(config.load(env, NOWHERE)).close()
    later = config.load({**env, "REPLAY_FROM": "2023-11-14T22:20Z"}, NOWHERE)
    assert open_source(later).start_time() == 1_700_000_400
    with pytest.raises(StoreError, match="from 2023-11-14 22:20:00 UTC"):
        open_parts(later)


def test_prints_may_begin_in_the_midst_too(tmp_path: Path) -> None:
    """Those before are told as candles only."""
    path = tmp_path / "t.csv"
    path.write_text("time,price,volume\n" + "".join(f"{T + n},{n + 1},1\n" for n in range(300)))
    source = ReplaySource(path, start=T + 200)
    assert [x.time for x in source.read(0)] == [T + n for n in range(200, 300)]
    assert source.first_price() == 201
    assert [x.time for x in source.candles(60.0, 0.0, T + 200)] == [T, T + 60, T + 120]


def test_a_gap_before_the_beginning_is_not_filled(tmp_path: Path) -> None:
    """The market begins with a real row."""
    path = tmp_path / "c.csv"
    path.write_text(HEAD + GOOD + f"{T + 300},1,1,1,1,5,\n{T + 360},1,1,1,1,5,\n")
    source = ReplaySource(path, start=T + 70)
    assert [x.time for x in source.read(0)] == [T + 300, T + 360]
    assert source.filled_count == 0


@pytest.mark.parametrize("start", [T - 1, T + 241, T + 10**8])
def test_a_start_outside_the_file_is_refused_with_what_is_allowed(
    tmp_path: Path, start: float
) -> None:
    """From its first row to its last but one."""
    path = tmp_path / "c.csv"
    path.write_text(HEAD + "".join(f"{T + 60 * n},1,1,1,1,1,1\n" for n in range(6)))
    with pytest.raises(MarketError, match=r"c\.csv has no start at 20") as caught:
        ReplaySource(path, start=start)
    assert "from 2023-11-14 22:14:00 UTC to 2023-11-14 22:18:00 UTC" in str(caught.value)
    assert ReplaySource(path, start=T + 240).total() == 2


def test_what_is_before_the_start_is_checked_too(tmp_path: Path) -> None:
    """It trains models: a bad line there is refused as anywhere."""
    path = tmp_path / "c.csv"
    path.write_text(HEAD + GOOD + f"{T + 120},x,1,1,1,1,\n{T + 180},1,1,1,1,1,\n" * 2)
    with pytest.raises(MarketError, match="line 4: open 'x'"):
        ReplaySource(path, start=T + 180)


def test_runs_of_another_start_are_told_apart(tmp_path: Path) -> None:
    """By the fingerprint; the file's own start is the same as none."""
    path = tmp_path / "c.csv"
    write_candles(path, bars=50, seed=2)
    begin = ReplaySource(path).start_time()
    starts = (None, begin, begin + 60, begin + 90, begin + 120)
    made = [ReplaySource(path, start=x) for x in starts]
    assert made[0].fingerprint == made[1].fingerprint
    assert made[3].fingerprint == made[4].fingerprint  # both begin with the same row
    assert len({x.fingerprint for x in made}) == len({x.name for x in made}) == 3


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
