"""The loop over every bar, compiled by numba."""

from collections.abc import Callable
from pathlib import Path

from numba import njit

from benchmarks.peers_grid import Counts, measure, read_bars
from benchmarks.peers_lean import RATES, Arrays, every_bar


def prepare(path: Path) -> Callable[[], Counts]:
    """Load the candles and compile."""
    arrays = Arrays(read_bars(path))
    compiled = njit(every_bar)
    compiled(arrays.high[:9], arrays.low[:9], arrays.close[:9], RATES)

    def run() -> Counts:
        found = compiled(arrays.high, arrays.low, arrays.close, RATES)
        return Counts(len(arrays.close), *found)

    return run


if __name__ == "__main__":
    measure("numba", prepare)
