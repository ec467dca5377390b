"""The grid in NautilusTrader: its backtest engine on candles, a strategy of events."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pandas as pd
from nautilus_trader.backtest.engine import BacktestEngine
from nautilus_trader.config import BacktestEngineConfig, LoggingConfig
from nautilus_trader.model.currencies import DOGE, USDT
from nautilus_trader.model.data import Bar, BarType
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
from nautilus_trader.model.events import OrderFilled
from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue
from nautilus_trader.model.instruments import CurrencyPair
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.persistence.wranglers import BarDataWrangler
from nautilus_trader.trading.strategy import Strategy

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

VENUE = Venue("SIM")
PRICE_DECIMALS = 7
MINUTE = 60
FEE = Decimal(str(GRID.maker_fee))
PAIR = CurrencyPair(
    instrument_id=InstrumentId(Symbol("DOGEUSDT"), VENUE), raw_symbol=Symbol("DOGEUSDT"),
    base_currency=DOGE, quote_currency=USDT, price_precision=PRICE_DECIMALS, size_precision=0,
    price_increment=Price(10**-PRICE_DECIMALS, PRICE_DECIMALS), size_increment=Quantity(1, 0),
    maker_fee=FEE, taker_fee=FEE, ts_event=0, ts_init=0,
)  # fmt: skip
BARS = BarType.from_str(f"{PAIR.id}-1-MINUTE-LAST-EXTERNAL")


class TwoSided(Strategy):
    """One order on each side, an entry or its exit."""

    def __init__(self) -> None:
        super().__init__()
        self.resting = {SELL: None, BUY: None}
        self.is_exit = {SELL: False, BUY: False}
        self.fills = self.cycles = 0

    def on_start(self) -> None:
        """Ask for candles."""
        self.subscribe_bars(BARS)

    def on_bar(self, bar: Bar) -> None:
        """See to both sides at the close of a bar."""
        close = bar.close.as_double()
        for side, order in self.resting.items():
            if order is None:
                self._place(side, entry_price(side, close))
            elif order.is_closed:
                price = order.price.as_double()
                self._place(side, exit_price(side, price, close) if self.is_exit[side]
                            else entry_price(side, close))  # fmt: skip
            elif (
                not self.is_exit[side]
                and not order.filled_qty.as_double()
                and is_left(order.price.as_double(), close)
            ):
                self.cancel_order(order)
                self._place(side, entry_price(side, close))

    def on_order_filled(self, event: OrderFilled) -> None:
        """Count; the next order is made at the close."""
        for side, order in self.resting.items():
            if order.client_order_id == event.client_order_id and order.is_closed:
                self.fills += 1
                self.cycles += self.is_exit[side]
                self.is_exit[side] = not self.is_exit[side]

    def _place(self, side: int, price: float) -> None:
        is_buying = (side == BUY) != self.is_exit[side]
        order = self.order_factory.limit(
            PAIR.id, OrderSide.BUY if is_buying else OrderSide.SELL, Quantity(GRID.size, 0),
            Price(price, PRICE_DECIMALS), post_only=True,
        )  # fmt: skip
        self.resting[side] = order
        self.submit_order(order)


def prepare(path: Path) -> Callable[[], Counts]:
    """Load the candles as the engine's own."""
    bars = read_bars(path)
    names = ("open", "high", "low", "close", "volume")
    table = pd.DataFrame({name: getattr(bars, name) for name in names},
                         index=pd.to_datetime([x + MINUTE for x in bars.time], unit="s",
                                              utc=True))  # fmt: skip
    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    base = GRID.start_usd / bars.open[0]
    engine.add_venue(
        VENUE, OmsType.NETTING, AccountType.CASH,
        [Money(GRID.start_usd, USDT), Money(round(base), DOGE)],
    )  # fmt: skip
    engine.add_instrument(PAIR)
    engine.add_data(BarDataWrangler(BARS, PAIR).process(table))
    strategy = TwoSided()
    engine.add_strategy(strategy)

    def run() -> Counts:
        engine.run()
        return Counts(len(table), strategy.fills, strategy.cycles)

    return run


if __name__ == "__main__":
    measure("nautilus_trader", prepare)
