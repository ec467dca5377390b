"""The grid in backtesting.py: hedged trades, each with its take profit."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from backtesting import Backtest, Strategy

from benchmarks.peers_grid import (
    BUY,
    GRID,
    SELL,
    Counts,
    entry_price,
    exit_price,
    is_left,
    measure,
    read_bars,
)


class TwoSided(Strategy):
    """One entry or one trade on each side."""

    def init(self) -> None:
        """Begin without orders."""
        self.entries = {BUY: None, SELL: None}

    def next(self) -> None:
        """See to both sides at the close of a bar."""
        close = float(self.data.Close[-1])
        held = {BUY if trade.is_long else SELL for trade in self.trades}
        waiting = set(self.orders)
        for side in (SELL, BUY):
            entry = self.entries[side]
            is_waiting = entry in waiting
            if side in held or (is_waiting and not is_left(entry.limit, close)):
                continue
            if is_waiting:
                entry.cancel()
            price = entry_price(side, close)
            place = self.buy if side == BUY else self.sell
            target = exit_price(side, price, price)
            self.entries[side] = place(size=GRID.size, limit=price, tp=target)


def prepare(path: Path) -> Callable[[], Counts]:
    """Load the candles."""
    warnings.simplefilter("ignore")
    bars = read_bars(path)
    table = pd.DataFrame(
        {"Open": bars.open, "High": bars.high, "Low": bars.low, "Close": bars.close,
         "Volume": bars.volume},
        index=pd.to_datetime(bars.time, unit="s"),
    )  # fmt: skip
    test = Backtest(
        table, TwoSided, cash=2 * GRID.start_usd, commission=GRID.maker_fee, hedging=True
    )

    def run() -> Counts:
        stats = test.run()
        cycles = int(stats["# Trades"])
        return Counts(len(table), 2 * cycles + len(stats["_strategy"].trades), cycles)

    return run


if __name__ == "__main__":
    measure("backtesting", prepare)
