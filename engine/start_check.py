"""What must hold for a run to be able to trade: shown by `check`, warned of by `run`.

Pure, from the parameters, what the exchange says of itself, and a price.
"""

from decimal import Decimal

from core.domain import HUNDRED
from core.params import Params
from core.ports import Venue
from engine.books import Check
from grid_strategy import break_even_pct


def start_checks(params: Params, venue: Venue, price: Decimal) -> list[Check]:
    """Return the checks on pair, balances, profit target and order size at `price`."""
    instrument, fees = venue.instrument, venue.fees
    least = instrument.least_volume(price) * price
    needed = break_even_pct(fees.maker) + params.min_net_profit_pct
    base_value = venue.base * price
    return [
        Check(
            name="pair",
            is_ok=venue.system_status == "online",
            detail=f"{instrument.pair} at {price}",
        ),
        Check(
            name="balances",
            is_ok=venue.quote > 0 or venue.base > 0,
            detail=f"{venue.base:f} {instrument.base} ({base_value:.2f} {instrument.quote}), "
            f"{venue.quote:f} {instrument.quote}",
        ),
        Check(
            name="profit target",
            is_ok=params.profit_pct >= needed,
            detail=f"{params.profit_pct} %; break-even plus margin is {needed:.3f} % "
            f"at {fees.maker * HUNDRED:.2f} % maker",
        ),
        Check(
            name="order size",
            is_ok=params.order_size_usd >= least,
            detail=f"{params.order_size_usd} {instrument.quote}; the least workable is "
            f"{least:.2f} {instrument.quote}",
        ),
    ]
