"""The grid in hftbacktest: trades made of candles, a compiled loop that waits for each close."""

from collections.abc import Callable
from pathlib import Path

import hftbacktest as hbt
import numpy as np
from hftbacktest.types import event_dtype
from numba import njit

from benchmarks.peers_grid import GRID, Bars, Counts, measure, read_bars

SECOND = 1_000_000_000  # in nanoseconds
STEPS_SEC = (1, 15, 30, 45)  # open, nearer extreme, other extreme, close
CLOSED_SEC = 55
LATENCY_NS = 10_000_000
TICK = 1e-7


def trades_of(bars: Bars) -> np.ndarray:
    """Return a trade for each move on the way of each candle, by whoever moves it."""
    open_, high, low, close = map(np.array, (bars.open, bars.high, bars.low, bars.close))
    is_down = open_ - low < high - open_
    first, second = np.where(is_down, low, high), np.where(is_down, high, low)
    prices = np.stack([open_, first, second, close], axis=1).ravel()
    times = (np.array(bars.time)[:, None] + np.array(STEPS_SEC)).ravel() * SECOND
    step = np.diff(prices, prepend=prices[0])
    kept = step != 0
    kept[0] = True
    made = np.zeros(int(kept.sum()), dtype=event_dtype)
    taker = np.where(step[kept] < 0, hbt.SELL_EVENT, hbt.BUY_EVENT)
    made["ev"] = hbt.TRADE_EVENT | hbt.EXCH_EVENT | hbt.LOCAL_EVENT | taker
    made["exch_ts"] = times[kept]
    made["local_ts"] = times[kept] + LATENCY_NS
    made["px"] = prices[kept]
    made["qty"] = np.repeat(np.array(bars.volume), len(STEPS_SEC))[kept] / len(STEPS_SEC)
    return made


@njit
def trade(venue, closed_at, closes, grid):  # type: ignore[no-untyped-def]  # compiled
    """Run over all bars; return fills and cycles."""
    entry, profit, refresh, size = grid
    ids = np.zeros(2, np.int64)
    prices = np.zeros(2)
    is_exit = np.zeros(2, np.bool_)
    last_id = fills = cycles = 0
    for n in range(len(closes)):
        is_over = venue.elapse(closed_at[n] - venue.current_timestamp) != 0
        close = closes[n]
        for leg in range(2):
            side = 1 if leg == 1 else -1
            if ids[leg] != 0:
                order = venue.orders(0).get(ids[leg])
                if order.status == hbt.FILLED:
                    fills += 1
                    cycles += 1 if is_exit[leg] else 0
                    is_exit[leg] = not is_exit[leg]
                elif is_exit[leg] or abs(prices[leg] - close) <= refresh * close:
                    continue
                else:
                    venue.cancel(0, ids[leg], True)
            if is_over:
                continue
            if not is_exit[leg]:
                prices[leg] = close * (1 - side * entry)
            elif side > 0:
                prices[leg] = max(prices[leg] * (1 + profit), close * (1 + entry))
            else:
                prices[leg] = min(prices[leg] * (1 - profit), close * (1 - entry))
            last_id += 1
            ids[leg] = last_id
            if (side > 0) != is_exit[leg]:
                venue.submit_buy_order(0, last_id, prices[leg], size, hbt.GTX, hbt.LIMIT, True)
            else:
                venue.submit_sell_order(0, last_id, prices[leg], size, hbt.GTX, hbt.LIMIT, True)
        venue.clear_inactive_orders(0)
        if is_over:
            break
    return fills, cycles


def simulate(events: np.ndarray, closed_at: np.ndarray, closes: np.ndarray) -> Counts:
    """Set up the venue and trade."""
    asset = (
        hbt.BacktestAsset()
        .data(events)
        .linear_asset(1.0)
        .constant_order_latency(LATENCY_NS, LATENCY_NS)
        .risk_adverse_queue_model()
        .no_partial_fill_exchange()
        .trading_value_fee_model(GRID.maker_fee, GRID.maker_fee)
        .tick_size(TICK)
        .lot_size(1)
    )
    venue = hbt.HashMapMarketDepthBacktest([asset])
    rates = GRID.entry, GRID.profit, GRID.refresh, float(GRID.size)
    found = trade(venue, closed_at, closes, rates)
    venue.close()
    return Counts(len(closes), *found)


def prepare(path: Path) -> Callable[[], Counts]:
    """Load the candles, make trades of them, and compile by a first run."""
    bars = read_bars(path)
    events = trades_of(bars)
    closed_at = (np.array(bars.time) + CLOSED_SEC) * SECOND
    closes = np.array(bars.close)
    simulate(events[:100].copy(), closed_at[:9], closes[:9])
    return lambda: simulate(events, closed_at, closes)


if __name__ == "__main__":
    measure("hftbacktest", prepare)
