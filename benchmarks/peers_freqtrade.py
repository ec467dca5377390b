"""The buy leg of the grid in Freqtrade's backtest, on an exchange whose markets are told to it.

Freqtrade asks its exchange for markets when it starts; without a line they are set by hand.
"""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType, RunMode
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.resolvers import ExchangeResolver
from freqtrade.strategy import IStrategy

from benchmarks.peers_grid import BUY, GRID, Counts, entry_price, is_left, measure, read_bars

PAIR, QUOTE = "DOGE/USDT", "USDT"
NEVER = 10_000_000  # minutes
FEE = GRID.maker_fee
MARKET = {
    "symbol": PAIR, "id": "DOGEUSDT", "base": "DOGE", "quote": QUOTE, "active": True,
    "type": "spot", "spot": True, "swap": False, "future": False, "option": False,
    "margin": False, "contract": False, "linear": None, "contractSize": None, "info": {},
    "maker": FEE, "taker": FEE, "precision": {"price": 1e-7, "amount": 1.0},
    "limits": {"amount": {"min": 1.0, "max": None}, "price": {"min": None, "max": None},
               "cost": {"min": 1.0, "max": None}, "leverage": {"min": None, "max": None}},
}  # fmt: skip


class BuyLeg(IStrategy):
    """Always one entry or one trade; the exit is the return aimed at, which is net of fees."""

    INTERFACE_VERSION = 3
    timeframe = "1m"
    minimal_roi = {"0": (1 + GRID.profit) * (1 - FEE) / (1 + FEE) - 1}  # noqa: RUF012 - its interface
    stoploss = -0.99
    process_only_new_candles = True
    startup_candle_count = 0

    def populate_indicators(self, dataframe: pd.DataFrame, _metadata: object) -> pd.DataFrame:
        """Need none."""
        return dataframe

    def populate_entry_trend(self, dataframe: pd.DataFrame, _metadata: object) -> pd.DataFrame:
        """Wish to enter at every candle."""
        dataframe["enter_long"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe: pd.DataFrame, _metadata: object) -> pd.DataFrame:
        """Leave exits to the return aimed at."""
        dataframe["exit_long"] = 0
        return dataframe

    def custom_entry_price(self, *_args: object, proposed_rate: float, **_more: object) -> float:
        """Enter below the market."""
        return entry_price(BUY, proposed_rate)

    def adjust_entry_price(
        self, *_args: object, proposed_rate: float, current_order_rate: float, **_more: object
    ) -> float:
        """Keep an entry until the market has left it."""
        if is_left(current_order_rate, proposed_rate):
            return entry_price(BUY, proposed_rate)
        return current_order_rate


def _configuration(folder: Path, stake: float) -> dict[str, Any]:
    return {
        "strategy": "BuyLeg", "strategy_path": str(Path(__file__).parent), "timeframe": "1m",
        "datadir": folder / "data", "user_data_dir": folder, "dry_run": True,
        "exchange": {"name": "binance", "pair_whitelist": [PAIR], "pair_blacklist": []},
        "pairlists": [{"method": "StaticPairList"}], "stake_currency": QUOTE,
        "stake_amount": stake, "dry_run_wallet": GRID.start_usd, "max_open_trades": 1,
        "fee": FEE, "trading_mode": "spot", "export": "none", "runmode": RunMode.BACKTEST,
        "unfilledtimeout": {"entry": NEVER, "exit": NEVER, "unit": "minutes"},
        "entry_pricing": {"price_side": "same", "use_order_book": False},
        "exit_pricing": {"price_side": "same", "use_order_book": False},
        "dataformat_ohlcv": "feather", "candle_type_def": CandleType.SPOT, "verbosity": 0,
    }  # fmt: skip


def _store(path: Path, folder: Path) -> tuple[int, float]:
    """Write the candles as Freqtrade keeps them; return how many and the first price."""
    bars = read_bars(path)
    table = pd.DataFrame(bars._asdict()).rename(columns={"time": "date"})
    table["date"] = pd.to_datetime(table["date"], unit="s", utc=True)
    handler = get_datahandler(folder, "feather")
    handler.ohlcv_store(PAIR, "1m", table, CandleType.SPOT)
    return len(table), bars.open[0]


def prepare(path: Path) -> Callable[[], Counts]:
    """Load the candles through Freqtrade's own files and set up its backtest."""
    logging.disable(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp())
    (folder / "data").mkdir()
    size, first = _store(path, folder / "data")
    config = _configuration(folder, GRID.size * first)
    exchange = ExchangeResolver.load_exchange(config, validate=False)
    exchange._markets = {PAIR: MARKET}  # nothing public works without a line
    test = Backtesting(config, exchange)
    test.progress = None
    data, timerange = test.load_bt_data()

    def run() -> Counts:
        test.backtest_one_strategy(test.strategylist[0], data, timerange)
        made = test.all_bt_content["BuyLeg"]["results"]
        is_cycle = made["exit_reason"] == "roi"
        cycles = int(is_cycle.sum())
        return Counts(size, 2 * cycles + int((~is_cycle).sum()), cycles)

    return run


if __name__ == "__main__":
    measure("freqtrade", prepare)
