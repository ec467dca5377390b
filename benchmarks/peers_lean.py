"""What a loop may cost at best: no accounting, no latency, no volume, no journal.

`lean` skips bars that touch nothing, with numpy; `every_bar` looks at each, in plain Python, and is
what `peers_numba` compiles. Both return the same.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers_grid import (
    BUY,
    GRID,
    SELL,
    Bars,
    Counts,
    entry_price,
    exit_price,
    is_left,
    measure,
    read_bars,
)

FIRST_LOOK, LOOK_MAX = 64, 8192  # bars searched at a time
RATES = GRID.entry, GRID.profit, GRID.refresh


class Arrays:
    """The columns that fills depend on."""

    def __init__(self, bars: Bars) -> None:
        self.high, self.low, self.close = map(np.array, (bars.high, bars.low, bars.close))


class _Leg:
    """One order at a time: an entry, then its exit."""

    def __init__(self, side: int, close: float) -> None:
        self.side = side
        self.is_exit = False
        self.price = entry_price(side, close)

    @property
    def is_buying(self) -> bool:
        """Tell whether what rests is a buy."""
        return (self.side == BUY) != self.is_exit

    def look(self, high: float, low: float, close: float) -> bool:
        """Take a bar; tell whether it filled what rested."""
        is_filled = low < self.price if self.is_buying else high > self.price
        if is_filled:
            filled_at = self.price
            self.is_exit = not self.is_exit
            self.price = (
                exit_price(self.side, filled_at, close)
                if self.is_exit
                else entry_price(self.side, close)
            )
        elif not self.is_exit and is_left(self.price, close):
            self.price = entry_price(self.side, close)
        return is_filled


def lean(arrays: Arrays) -> Counts:
    """Trade the grid, skipping what is quiet."""
    high, low, close = arrays.high, arrays.low, arrays.close
    legs = _Leg(SELL, close[0]), _Leg(BUY, close[0])
    fills = cycles = 0
    n, size = 1, len(close)
    while (n := _next_lively(arrays, legs, n)) < size:
        for leg in legs:
            if leg.look(high[n], low[n], close[n]):
                fills += 1
                cycles += not leg.is_exit
        n += 1
    return Counts(size, fills, cycles)


def _next_lively(arrays: Arrays, legs: tuple[_Leg, _Leg], n: int) -> int:
    """Return the first bar from `n` on that fills an order or leaves an entry."""
    buys = [x.price for x in legs if x.is_buying]
    sells = [x.price for x in legs if not x.is_buying]
    buy, sell = max(buys, default=0.0), min(sells, default=np.inf)
    entries = [x.price for x in legs if not x.is_exit]
    least = max((x / (1 + GRID.refresh) for x in entries), default=0.0)
    most = min((x / (1 - GRID.refresh) for x in entries), default=np.inf)
    look = FIRST_LOOK
    while n < len(arrays.close):
        part = slice(n, n + look)
        close = arrays.close[part]
        lively = (arrays.low[part] < buy) | (arrays.high[part] > sell)
        lively |= (close <= least) | (close >= most)
        at = int(lively.argmax())
        if lively[at]:
            return n + at
        n, look = n + look, min(2 * look, LOOK_MAX)
    return n


def every_bar(
    high: Any, low: Any, close: Any, rates: tuple[float, float, float]
) -> tuple[int, int]:
    """Trade the grid, looking at every bar; return fills and cycles.

    `rates` are those of an entry, its profit and its refresh.
    """
    entry, profit, refresh = rates
    sell, buy = close[0] * (1 + entry), close[0] * (1 - entry)
    is_short = is_long = False  # what the order of each leg is: an exit
    fills = cycles = 0
    for n in range(1, len(close)):
        c = close[n]
        if is_short:
            if low[n] < sell:
                is_short, sell = False, c * (1 + entry)
                fills, cycles = fills + 1, cycles + 1
        elif high[n] > sell:
            is_short, sell = True, min(sell * (1 - profit), c * (1 - entry))
            fills += 1
        elif abs(sell - c) > refresh * c:
            sell = c * (1 + entry)
        if is_long:
            if high[n] > buy:
                is_long, buy = False, c * (1 - entry)
                fills, cycles = fills + 1, cycles + 1
        elif low[n] < buy:
            is_long, buy = True, max(buy * (1 + profit), c * (1 + entry))
            fills += 1
        elif abs(buy - c) > refresh * c:
            buy = c * (1 - entry)
    return fills, cycles


def prepare(path: Path) -> Callable[[], Counts]:
    """Load the candles."""
    arrays = Arrays(read_bars(path))
    return lambda: lean(arrays)


if __name__ == "__main__":
    measure(None, prepare)
