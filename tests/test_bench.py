"""The benchmarks run; what they measure is never asserted."""

from pathlib import Path

from benchmarks.run import quiet_tick


def test_the_benchmark_of_a_quiet_tick_runs(tmp_path: Path) -> None:
    """It gives a figure with its unit."""
    assert "µs" in str(quiet_tick(tmp_path))
