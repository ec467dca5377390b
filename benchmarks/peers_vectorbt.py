"""The grid in vectorbt: one compiled order function, a leg in each of two columns."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import vectorbt as vbt
from numba import njit
from vectorbt.portfolio import nb
from vectorbt.portfolio.enums import NoOrder

from benchmarks.peers_grid import BUY, GRID, SELL, Counts, measure, read_bars


@njit
def order_of(c, ranges, resting, sides, grid):  # type: ignore[no-untyped-def]  # compiled
    """Return what a bar fills of the leg of a column; keep its resting order's price."""
    high, low = ranges
    entry, profit, refresh, fee, size = grid
    side, close, price = sides[c.col], c.close[c.i, c.col], resting[c.col]
    is_exit = c.position_now != 0
    is_buying = (side > 0) != is_exit
    is_filled = low[c.i] < price if is_buying else high[c.i] > price
    if price == 0 or not is_filled:
        if not is_exit and abs(price - close) > refresh * close:
            resting[c.col] = close * (1 - side * entry)
        return NoOrder
    if is_exit:
        resting[c.col] = close * (1 - side * entry)
    elif side > 0:
        resting[c.col] = max(price * (1 + profit), close * (1 + entry))
    else:
        resting[c.col] = min(price * (1 - profit), close * (1 - entry))
    return nb.order_nb(size=size if is_buying else -size, price=price, fees=fee)


def simulate(close: pd.DataFrame, high: np.ndarray, low: np.ndarray) -> Counts:
    """Run the portfolio and count its records."""
    rates = GRID.entry, GRID.profit, GRID.refresh, GRID.maker_fee, float(GRID.size)
    portfolio = vbt.Portfolio.from_order_func(
        close, order_of, (high, low), np.zeros(2), np.array([SELL, BUY]), rates,
        init_cash=2 * GRID.start_usd, group_by=True, cash_sharing=True, freq="1min",
    )  # fmt: skip
    cycles = int(portfolio.trades.closed.count())
    portfolio.total_return()
    return Counts(len(close), int(portfolio.orders.count()), cycles)


def prepare(path: Path) -> Callable[[], Counts]:
    """Load the candles and have everything compiled by a first run."""
    bars = read_bars(path)
    close = pd.DataFrame({"sell": bars.close, "buy": bars.close},
                         index=pd.to_datetime(bars.time, unit="s"))  # fmt: skip
    high, low = np.array(bars.high), np.array(bars.low)
    simulate(close, high, low)
    return lambda: simulate(close, high, low)


if __name__ == "__main__":
    measure("vectorbt", prepare)
