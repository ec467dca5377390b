"""Orders, evidence and engines made by the tests of the matching engine."""

from decimal import Decimal

from core.domain import FeeRates, Instrument, RejectReason, Side
from core.market import Book, Candle, Trade
from exchange.matching import (
    Accepted,
    EngineState,
    MatchingConfig,
    MatchingEngine,
    NewOrder,
    VenueExecution,
)

D = Decimal
PLAIN = Instrument(tick_size=D("0.0001"), lot_size=D(1), order_min=D(1), cost_min=D("0.01"))
CENTS = Instrument(tick_size=D(1), lot_size=D(1), order_min=D(1), cost_min=D("0.01"))
FREE = FeeRates(maker=D(0), taker=D(0))
NO_FEES = MatchingConfig(flat_fees=FREE, assumed_queue=D(0))
FEES = MatchingConfig(flat_fees=FeeRates(maker=D("0.004"), taker=D("0.008")), assumed_queue=D(0))


def engine(
    config: MatchingConfig = NO_FEES,
    *,
    instrument: Instrument = PLAIN,
    base: int | D = 100_000,
    quote: int | D = 100_000,
) -> MatchingEngine:
    """Return a fresh engine whose inventory cost nothing."""
    state = EngineState(base=D(base), quote=D(quote), inventory_cost=D(0))
    return MatchingEngine(instrument, config, state)


def order(
    side: Side, price: str | D, volume: int | D, name: str = "a", *, post: bool = True
) -> NewOrder:
    """Return an order as it arrives."""
    return NewOrder(
        client_order_id=name, side=side, price=D(price), volume=D(volume), post_only=post
    )


def buy(price: str | D, volume: int | D, name: str = "a", *, post: bool = True) -> NewOrder:
    """Return a buy."""
    return order(Side.BUY, price, volume, name, post=post)


def sell(price: str | D, volume: int | D, name: str = "a", *, post: bool = True) -> NewOrder:
    """Return a sell."""
    return order(Side.SELL, price, volume, name, post=post)


def bar(  # noqa: PLR0917 - a candle reads best in its usual order
    o: str, h: str, low: str, c: str, volume: int | str = 50_000, n: int = 1
) -> Candle:
    """Return the candle of minute `n`."""
    return Candle(
        time=60.0 * n, interval=60.0, open=D(o), high=D(h), low=D(low), close=D(c), volume=D(volume)
    )


def trade(price: str, volume: int, at: float = 1.0, side: Side | None = None) -> Trade:
    """Return a print."""
    return Trade(time=at, price=D(price), volume=D(volume), side=side)


def book(bids: list[tuple[int, int]], asks: list[tuple[int, int]], at: float = 0.0) -> Book:
    """Return displayed depth."""
    return Book(
        time=at,
        bids=tuple((D(p), D(v)) for p, v in bids),
        asks=tuple((D(p), D(v)) for p, v in asks),
    )


def volumes(fills: list[VenueExecution]) -> list[int]:
    """Return the volumes of executions."""
    return [int(x.volume) for x in fills]


def accepted(result: Accepted | RejectReason) -> Accepted:
    """Return the acceptance, or fail."""
    assert isinstance(result, Accepted), result
    return result
