"""The comparison with other backtesters: its table, its market, and the loop that is its limit."""

import csv
import random
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.peers import Measured, document, lengthened, main, measure_all, medians, run_once
from benchmarks.peers_engines import BY_NAME, OURS
from benchmarks.peers_grid import Bars, Counts
from benchmarks.peers_lean import RATES, Arrays, every_bar, lean
from tests.helpers import write_candles

VECTORBT = BY_NAME["vectorbt"]
TAKEN = Measured(
    "1.2", load_sec=14.0, run_sec=0.25, rss_mb=400, bars=1_000, fills=60, cycles=29,
    ratios=(0.4, 0.5, 0.6),
)  # fmt: skip


def bars_of(*rows: tuple[float, float, float]) -> Bars:
    """Return bars from high, low and close."""
    high, low, close = (list(x) for x in zip(*rows, strict=True))
    return Bars([60 * n for n in range(len(rows))], close, high, low, close, [1.0] * len(rows))


def test_the_table_is_written_from_what_was_measured() -> None:
    """Rates and ratios follow from the rows; what was not measured says why."""
    results = {
        "ours": TAKEN._replace(version="", run_sec=0.5, ratios=(1.0, 1.0)),
        "vectorbt": TAKEN,
        "backtesting": TAKEN._replace(ratios=(0.9, 1.1)),
        "hftbacktest": TAKEN._replace(run_sec=5.0, ratios=(9.0, 11.0)),
        "freqtrade": "failed with code 1",
    }
    page = document(results, data="1,000 candles", repeats=3, day="2026-01-02", load="0.1")
    told = "| grid daemon | this tree | 14.0 | 0.50 | 2,000 | 1.00 | 1.00 – 1.00 | 400 | 60 | 29 |"
    assert told in page
    told = "| vectorbt | 1.2 | 14.0 | 0.25 | 4,000 | 0.50 | 0.40 – 0.60 | 400 | 60 | 29 |"
    assert told in page
    assert "| Freqtrade | | not measured: failed with code 1 |" in page
    assert "**Ours is slower than** vectorbt (2.0 times)." in page
    assert "It is faster than hftbacktest (10 times)." in page
    assert "Now one, now the other: backtesting.py." in page
    assert "NautilusTrader" not in page
    assert "Data: 1,000 candles." in page


def test_what_is_not_installed_is_skipped_with_a_word(tmp_path: Path) -> None:
    """The word is the command that installs it."""
    results = measure_all([VECTORBT], tmp_path / "none", environments=tmp_path, repeats=2)
    told = "not installed; `python -m benchmarks.peers --install vectorbt`"
    assert results == {"vectorbt": told}


def test_an_engine_that_fails_is_no_measurement(tmp_path: Path) -> None:
    """Its code is told."""
    assert run_once(VECTORBT, Path("/bin/false"), tmp_path) == "failed with code 1"


def test_medians_leave_out_a_bad_turn() -> None:
    """Times are the middle ones, each by itself; ratios are of two runs of the same turn."""
    runs = [TAKEN._replace(run_sec=x, load_sec=9 - x) for x in (1.0, 8.0, 2.0)]
    ours = [TAKEN._replace(run_sec=x) for x in (2.0, 16.0, 1.0)]
    made = medians(runs, ours)
    assert made == TAKEN._replace(run_sec=2.0, load_sec=7.0, ratios=(0.5, 0.5, 2.0))


def test_without_candles_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is run or written."""
    assert main(["--file", str(tmp_path / "none.csv"), "--out", str(tmp_path / "out.md")]) == 2
    assert "no candles: none.csv is not there" in capsys.readouterr().err
    assert not (tmp_path / "out.md").exists()


def test_the_lean_loop_fills_by_the_rules() -> None:
    """A touch is no fill, no bar fills an order made from it, a left entry is made anew."""
    arrays = Arrays(bars_of(
        (100, 100, 100),  # entries at 99.8 and 100.2
        (100.1, 99.8, 100),  # a touch
        (101, 99.7, 100),  # both entries; exits at 100.798 and 99.198, though 101 was there
        (100.7, 99.3, 100),  # neither
        (100.8, 99.3, 100),  # the sell: a cycle; an entry at 99.8 again
        (103, 103, 103),  # which the market leaves: one at 102.794
        (103, 102.7, 103),  # is filled
    ))  # fmt: skip
    assert lean(arrays) == Counts(7, fills=4, cycles=1)


def test_skipping_quiet_bars_changes_nothing() -> None:
    """The lean loop is the loop over every bar."""
    cycles = 0
    for seed in range(20):
        rng, price, rows = random.Random(seed), 0.1, []
        for n in range(1_500):
            end = price * (1 + rng.gauss(0.0, 0.004 if n // 100 % 2 else 0.0002))
            rows.append((max(price, end) * 1.0003, min(price, end) * 0.9997, end))
            price = end
        arrays = Arrays(bars_of(*rows))
        found = lean(arrays)
        assert found[1:] == every_bar(arrays.high, arrays.low, arrays.close, RATES)
        cycles += found.cycles
    assert cycles > 100


def test_a_market_is_lengthened_without_a_jump(tmp_path: Path) -> None:
    """Every second time backwards, a minute after the one before."""
    write_candles(tmp_path / "some.csv", bars=50, seed=1)
    made = lengthened(tmp_path / "some.csv", 120, tmp_path)
    with made.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 120
    for before, after in pairwise(rows):
        assert int(after["time"]) - int(before["time"]) == 60
        assert after["open"] == before["close"]


@pytest.mark.slow
def test_ours_is_measured_in_the_same_way(tmp_path: Path) -> None:
    """The process prints what the table needs."""
    write_candles(tmp_path / "some.csv", bars=60, seed=1)
    results = measure_all([OURS], tmp_path / "some.csv", environments=tmp_path, repeats=1)
    found = results["ours"]
    assert isinstance(found, Measured)
    assert found.bars == 60
    assert found.run_sec > 0
