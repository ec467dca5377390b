"""All rounding of money: ticks, lots, costs, fees, units of balances, minima of orders."""

from decimal import Decimal

import pytest

from core.domain import Instrument, Side

D = Decimal
COARSE = Instrument(
    tick_size=D("0.05"),
    lot_size=D("0.2"),
    order_min=D("1.5"),
    cost_min=D("0.9"),
    cost_decimals=2,
    fee_decimals=3,
    base_unit=D("0.3"),
    quote_unit=D("0.01"),
)


@pytest.mark.parametrize(
    ("price", "up", "down"),
    [("1.01", "1.05", "1.00"), ("1.05", "1.05", "1.05"), ("1.09", "1.10", "1.05")],
)
def test_price_lands_on_the_nearest_tick_of_the_wanted_side(price: str, up: str, down: str) -> None:
    """On the grid nothing moves; off it a sell goes up and a buy down, however near a tick is."""
    assert (COARSE.price_up(D(price)), COARSE.price_down(D(price))) == (D(up), D(down))
    assert COARSE.price_for(Side.SELL, D(price)) == D(up)
    assert COARSE.price_for(Side.BUY, D(price)) == D(down)


def test_volume_is_never_rounded_up() -> None:
    """Whole lots only, and no more than there is."""
    assert COARSE.volume_down(D("1.99")) == D("1.8")
    assert COARSE.volume_down(D("1.8")) == D("1.8")


@pytest.mark.parametrize(
    ("price", "cost"), [("0.025", "0.03"), ("0.035", "0.04"), ("0.0249", "0.02")]
)
def test_cost_is_rounded_half_up(price: str, cost: str) -> None:
    """As the exchange does: a half goes up, whether the digit before it is odd or even."""
    assert COARSE.cost(D(price), D(1)) == D(cost)
    assert COARSE.cost(D(1), D(price)) == D(cost)


@pytest.mark.parametrize(
    ("rate", "fee"), [("0.0025", "0.003"), ("0.0035", "0.004"), ("0.0024", "0.002")]
)
def test_fee_is_rounded_half_up(rate: str, fee: str) -> None:
    """In decimals of its own."""
    assert COARSE.fee(D(1), D(rate)) == D(fee)
    assert COARSE.fee(D(rate), D(1)) == D(fee)


def test_balances_are_kept_in_units_of_quote() -> None:
    """Half up in the unit; where the exchange names none, every digit counts."""
    assert COARSE.kept(D("0.025")) == D("0.03")
    assert COARSE.kept(D("-0.025")) == D("-0.03")
    assert COARSE.kept(D("0.0249")) == D("0.02")
    assert Instrument().kept(D("0.0249")) == D("0.0249")


@pytest.mark.parametrize(
    ("base_unit", "base"), [("0", "0"), ("0.1", "0"), ("0.2", "0"), ("0.3", "0.9"), ("0.4", "1.2")]
)
def test_what_rounding_may_explain_grows_with_the_executions(base_unit: str, base: str) -> None:
    """Per execution one unit of base, unless a lot is whole units, and two of quote."""
    coarse = Instrument(lot_size=D("0.2"), base_unit=D(base_unit), quote_unit=D("0.01"))
    assert coarse.rounding(3) == (D(base), D("0.06"))


@pytest.mark.parametrize(
    ("volume", "price", "is_below"),
    [("1.5", "0.6", False), ("1.4", "10", True), ("1.5", "0.599", True), ("1.6", "0.6", False)],
)
def test_an_order_at_the_minimum_is_large_enough(volume: str, price: str, is_below: bool) -> None:
    """Both minima are themselves allowed, and either is enough to refuse what is below."""
    assert COARSE.is_below_minimum(volume=D(volume), price=D(price)) is is_below


@pytest.mark.parametrize(("price", "least"), [("10", "1.6"), ("0.5", "1.8"), ("0.489", "2.0")])
def test_least_volume_is_accepted_and_a_lot_less_is_not(price: str, least: str) -> None:
    """The greater of both minima, on the lot grid."""
    assert COARSE.least_volume(D(price)) == D(least)
    assert not COARSE.is_below_minimum(volume=D(least), price=D(price))
    assert COARSE.is_below_minimum(volume=D(least) - COARSE.lot_size, price=D(price))
