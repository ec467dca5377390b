"""The benchmarks run; what they measure is never asserted."""

from pathlib import Path

import pytest

from benchmarks import backtest
from benchmarks.dashboard import dashboard
from benchmarks.run import quiet_tick


def test_the_benchmark_of_a_quiet_tick_runs(tmp_path: Path) -> None:
    """It gives a figure with its unit."""
    assert "µs" in str(quiet_tick(tmp_path))


@pytest.mark.slow
def test_the_benchmark_of_the_dashboard_runs(tmp_path: Path) -> None:
    """Its daemon starts, its clients are answered and get events."""
    told = dashboard(tmp_path, 3.0)
    assert "at p99" in told
    assert "streams got 0" not in told
    assert "0 broke" in told


@pytest.mark.market
@pytest.mark.slow
def test_the_benchmark_of_a_backtest_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four days of the recorded minutes: bars a second, memory, the plain loop beside it."""
    monkeypatch.setattr(backtest, "MINUTES", 4 * 1440)
    told = backtest.without_models(tmp_path)
    assert "bars per CPU second" in told
    assert "to load 5,760 bars" in told
    rows = (tmp_path / "year.csv").read_text().splitlines()
    assert len(rows) == 5_761
