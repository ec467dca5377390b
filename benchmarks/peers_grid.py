"""The grid that every engine of the comparison trades, and how an engine is measured.

Each engine runs in an environment of its own: nothing but the standard library may be here.
One sell entry above the market and one buy entry below it; a filled entry is followed by its exit
at the profit target, a filled exit by the next entry. Orders are fixed in size, rest from the bar
after the one they were made from, and an untouched entry that the close has left is made anew.
"""

import csv
import gzip
import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

BUY, SELL = 1, -1


class Grid(NamedTuple):
    """What is traded; rates are fractions, the size is in base."""

    entry: float = 0.002
    profit: float = 0.01
    refresh: float = 0.015
    maker_fee: float = 0.001
    size: int = 300
    start_usd: float = 5_000.0  # of each side: never what limits an order


GRID = Grid()


class Bars(NamedTuple):
    """Candles as columns; `time` is Unix seconds of the open, volume in base."""

    time: list[int]
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float]


class Counts(NamedTuple):
    """What an engine did with them."""

    bars: int
    fills: int  # of entries and exits
    cycles: int  # an entry and its exit


def entry_price(side: int, close: float) -> float:
    """Return the price of the entry of the leg that begins with a buy (1) or a sell (-1)."""
    return close * (1 - side * GRID.entry)


def exit_price(side: int, entry: float, close: float) -> float:
    """Return the price of an exit: the target, and not nearer to the market than an entry."""
    target, away = entry * (1 + side * GRID.profit), close * (1 + side * GRID.entry)
    return max(target, away) if side == BUY else min(target, away)


def is_left(price: float, close: float) -> bool:
    """Tell whether the market has left an untouched entry."""
    return abs(price - close) > GRID.refresh * close


def read_bars(path: Path) -> Bars:
    """Return the candles of a CSV or CSV.GZ file."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="") as file:  # type: ignore[operator]  # two functions
        rows = csv.reader(file)
        next(rows)
        columns = list(zip(*((x[0], *map(float, x[1:6])) for x in rows), strict=True))
    return Bars([int(x) for x in columns[0]], *map(list, columns[1:]))


def measure(package: str | None, prepare: Callable[[Path], Callable[[], Counts]]) -> None:
    """Run one engine in this process and print what it took as one line of JSON.

    `prepare` loads and compiles and returns the run. Loading is all CPU time from the start of
    the process: the interpreter, the imports, the candles, the compiler.
    """
    run = prepare(Path(sys.argv[1]))
    loaded = time.process_time()
    counts = run()
    ended = time.process_time()
    told = {
        "version": version(package) if package else "",
        "load_sec": loaded,
        "run_sec": ended - loaded,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **counts._asdict(),
    }
    print(json.dumps(told), flush=True)
