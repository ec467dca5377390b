"""Golden values and properties of prices, volumes and sizes (spec: grid, sections 5 and 8)."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain import FeeRates, Instrument, Position, Side, TradeId
from core.params import Params
from core.record import replace
from core.state import Market, RiskLevel
from grid_strategy import (
    CompletedCycle,
    Size,
    SizeFacts,
    backoff,
    break_even_pct,
    entry_price,
    entry_size,
    exit_price,
    net_per_cycle_pct,
    order_volume,
)
from tests.world import GOLDEN_INSTRUMENT

D = Decimal
XDGUSD = Instrument()


def market(mid: str, half: str = "0.00001") -> Market:
    """Return a quote around `mid`."""
    bid, ask = D(mid) - D(half), D(mid) + D(half)
    return Market(bid=bid, ask=ask, last=D(mid), time=0.0, bid_high=bid, bid_low=bid)


def position(price: str, volume: str = "20") -> Position:
    """Return a position entered at `price`."""
    return Position(
        volume=D(volume), cost=D(price) * D(volume), fees=D(0), entered_at=0.0, filled_at=0.0
    )


def test_entry_prices_are_golden() -> None:
    """At m = 0.1 and 0.2 % the entries are 0.0998 × 20 and 0.1002 × 19 for 2 USD."""
    b = entry_price(GOLDEN_INSTRUMENT, market("0.1"), TradeId.B, distance_pct=D("0.2"))
    a = entry_price(GOLDEN_INSTRUMENT, market("0.1"), TradeId.A, distance_pct=D("0.2"))
    assert (b, a) == (D("0.0998"), D("0.1002"))
    assert order_volume(GOLDEN_INSTRUMENT, usd=D(2), price=b) == 20
    assert order_volume(GOLDEN_INSTRUMENT, usd=D(2), price=a) == 19


@pytest.mark.parametrize(
    ("fill", "leg", "mid", "expected"),
    [
        ("0.0998", TradeId.B, "0.1", "0.100798"),
        ("0.1002", TradeId.A, "0.1", "0.099198"),
        ("0.0998", TradeId.B, "0.105", "0.10521"),
        ("0.1002", TradeId.A, "0.095", "0.09481"),
    ],
)
def test_exit_prices_are_golden(fill: str, leg: TradeId, mid: str, expected: str) -> None:
    """Exit prices match the specification, the guard against a market that has run past too."""
    price = exit_price(
        GOLDEN_INSTRUMENT,
        position(fill),
        leg,
        market(mid),
        profit_pct=D(1),
        entry_pct=D("0.2"),
    )
    assert price == D(expected)


def test_exit_price_without_quote_uses_the_first_term_alone() -> None:
    """Without a fresh quote only the entry and the target count."""
    price = exit_price(
        GOLDEN_INSTRUMENT, position("0.0998"), TradeId.B, None, profit_pct=D(1), entry_pct=D(5)
    )
    assert price == D("0.100798")


@pytest.mark.parametrize(
    ("streak", "factor"), [(0, "1"), (2, "1"), (3, "1.5"), (4, "2"), (5, "2.5"), (40, "5")]
)
def test_backoff_is_golden(streak: int, factor: str) -> None:
    """The backoff multiplier follows the table and stops at 5."""
    assert backoff(streak, Params()) == D(factor)


def test_break_even_is_golden() -> None:
    """Break-even is 0.8032 % at 0.40 % and 0.5013 % at 0.25 % maker."""
    assert round(break_even_pct(D("0.004")), 4) == D("0.8032")
    assert round(break_even_pct(D("0.0025")), 4) == D("0.5013")


@pytest.mark.parametrize(("target", "net"), [("1", "0.196"), ("2", "1.192"), ("3", "2.188")])
def test_net_per_cycle_matches_the_arithmetic_of_the_specification(target: str, net: str) -> None:
    """A cycle of 1, 2 and 3 % nets 0.196, 1.19 and 2.19 % at 0.40 % maker."""
    assert net_per_cycle_pct(D(target), D("0.004")) == D(net)


prices = st.decimals(min_value=D("0.001"), max_value=D(10), places=7)
distances = st.decimals(min_value=D("0.01"), max_value=D(20), places=2)


@given(prices, distances, st.integers(0, 3))
def test_entries_never_touch_the_other_side(mid: Decimal, distance: Decimal, hits: int) -> None:
    """An entry is on the tick grid, at least a tick behind the opposite side, and rounds for us."""
    quote = market(str(mid), half="0.0000003")
    a = entry_price(XDGUSD, quote, TradeId.A, distance_pct=distance, rejections=hits)
    b = entry_price(XDGUSD, quote, TradeId.B, distance_pct=distance, rejections=hits)
    assert a % XDGUSD.tick_size == 0
    assert b % XDGUSD.tick_size == 0
    assert a >= quote.bid + XDGUSD.tick_size
    assert b <= quote.ask - XDGUSD.tick_size
    assert a >= mid * (1 + distance / 100)
    assert b <= mid * (1 - distance / 100)


@given(prices, distances, distances, prices)
def test_exits_never_earn_less_than_the_target(
    entry: Decimal, profit: Decimal, guard: Decimal, mid: Decimal
) -> None:
    """A rounded exit is never on the wrong side of the target or of the market guard."""
    quote = market(str(mid), half="0.0000003")
    held = position(str(entry))
    sell = exit_price(XDGUSD, held, TradeId.B, quote, profit_pct=profit, entry_pct=guard)
    assert sell >= entry * (1 + profit / 100)
    assert sell >= (quote.bid + quote.ask) / 2 * (1 + guard / 100)
    buy = exit_price(XDGUSD, held, TradeId.A, quote, profit_pct=profit, entry_pct=guard)
    assert 0 < buy <= entry * (1 - profit / 100)


def facts(**changes: object) -> SizeFacts:
    """Return the facts of an ordinary buy at 0.1."""
    base = SizeFacts(
        instrument=XDGUSD,
        side=Side.BUY,
        price=D("0.1"),
        slot_profit=D(0),
        free_quote=D(500),
        free_base=D(5000),
        maker_fee=D("0.004"),
        slots=3,
        risk_level=RiskLevel.LOW,
        is_band_normal=True,
    )
    return replace(base, **changes)


def stage(size: Size, name: str) -> Decimal:
    """Return the amount after the stage of that name."""
    return next(step.amount_usd for step in size.chain if step.stage == name)


def test_size_chain_names_every_stage_in_order() -> None:
    """The chain reads base, layers, kelly, rebalancer, risk, fund_guard, final."""
    size = entry_size(facts(), Params())
    assert [step.stage for step in size.chain] == [
        "base", "layers", "kelly", "rebalancer", "risk", "fund_guard", "final",
    ]  # fmt: skip
    assert size.volume == 400
    assert size.veto is None


@pytest.mark.parametrize(("profit", "base"), [("-5", "40"), ("3", "43"), ("100", "80")])
def test_size_base_grows_with_slot_profit_up_to_twice(profit: str, base: str) -> None:
    """Losses do not shrink the base, profits grow it to at most 2 × ORDER_SIZE_USD."""
    assert stage(entry_size(facts(slot_profit=D(profit)), Params()), "base") == D(base)


def test_size_layers_add_what_balances_can_fund() -> None:
    """Layers add base at the price, and no more of them than funds carry."""
    params = Params(layers_target=5, layer_base_per_order=D(100))
    assert stage(entry_size(facts(), params), "layers") == D(90)
    poor = entry_size(facts(free_quote=D(70)), params)
    assert stage(poor, "layers") == D(60)


@pytest.mark.parametrize(
    ("level", "usd"),
    [
        (RiskLevel.LOW, "40"),
        (RiskLevel.MEDIUM, "32"),
        (RiskLevel.HIGH, "20"),
        (RiskLevel.CRITICAL, "10"),
        (RiskLevel.EMERGENCY, "0"),
    ],
)
def test_size_follows_the_risk_level(level: RiskLevel, usd: str) -> None:
    """Each level has its multiplier for what adds exposure."""
    assert stage(entry_size(facts(risk_level=level), Params()), "risk") == D(usd)


def test_size_of_inventory_sales_keeps_the_critical_multiplier_in_emergency() -> None:
    """Leg A sells inventory in EMERGENCY with the CRITICAL multiplier."""
    size = entry_size(facts(risk_level=RiskLevel.EMERGENCY, side=Side.SELL), Params())
    assert stage(size, "risk") == D(10)


def test_size_reduced_by_risk_is_held_at_the_minimum() -> None:
    """At HIGH a size below the exchange's minimum is held there and says so."""
    size = entry_size(facts(price=D("0.5"), risk_level=RiskLevel.HIGH), Params())
    assert size.volume == 50
    assert size.veto is None
    assert "held_at_minimum" in next(s.reason for s in size.chain if s.stage == "risk")


def test_size_reduced_at_critical_below_the_minimum_is_not_placed() -> None:
    """At CRITICAL such an order is not placed."""
    size = entry_size(facts(price=D("0.5"), risk_level=RiskLevel.CRITICAL), Params())
    assert size.veto == "below_minimum"


def test_size_base_below_the_minimum_names_the_least_workable_size() -> None:
    """A base below 50 DOGE is vetoed with the amount that would do."""
    size = entry_size(facts(price=D(1)), Params())
    assert size.veto == "below_minimum"
    assert "50.00 USD" in size.chain[-1].reason


def test_size_never_exceeds_free_funds_fee_included() -> None:
    """A buy with fee costs at most what is free."""
    size = entry_size(facts(free_quote=D(30)), Params())
    assert size.volume * D("0.1") * D("1.004") <= 30
    assert stage(size, "fund_guard") < D(30)


def test_rebalancer_grows_only_the_needed_side() -> None:
    """With too much quote the buys grow by 1 + 2·excess, at most half."""
    params = Params(rebalance_enabled=True)
    rich = {"free_quote": D(900), "free_base": D(1000)}
    assert stage(entry_size(facts(**rich), params), "rebalancer") == D(60)
    sells = entry_size(facts(side=Side.SELL, **rich), params)
    assert stage(sells, "rebalancer") == D(40)
    near = entry_size(facts(is_band_normal=False, **rich), params)
    assert stage(near, "rebalancer") == D(40)


amounts = st.decimals(min_value=0, max_value=D(100_000), places=4)


@given(amounts, amounts, prices, st.sampled_from(list(RiskLevel)), st.sampled_from(list(Side)))
def test_size_is_total_and_within_its_caps(
    quote: Decimal, base: Decimal, price: Decimal, level: RiskLevel, side: Side
) -> None:
    """For any funds and price: a size within cap and funds on the lot grid, or a named veto."""
    given_facts = facts(free_quote=quote, free_base=base, price=price, risk_level=level, side=side)
    size = entry_size(given_facts, Params())
    if size.veto is not None:
        assert size.veto in ("below_minimum", "funds")
        return
    assert size.volume % XDGUSD.lot_size == 0
    assert not XDGUSD.is_below_minimum(volume=size.volume, price=price)
    assert size.usd <= Params().max_order_usd
    if side is Side.BUY:
        assert size.usd * D("1.004") <= quote
    else:
        assert size.volume <= base


@pytest.mark.parametrize(
    ("stored", "tag"),
    [("BULLISH", 2), ("bullish", 2), ("bearish", 0), ("Ranging", 1), (0, 0), (1, 1), (2, 2),
     (None, None), ("2", None), ("up", None), ("sideways", None), ("", None), (7, None), (-1, None),
     (True, None), (2.0, None)],
)  # fmt: skip
def test_completed_cycle_reads_legacy_tags(stored: object, tag: int | None) -> None:
    """Every from_dict normalises the regime tag; anything unknown becomes None."""
    cycle = CompletedCycle(
        trade_id=TradeId.B, cycle=1, entry_price=D(1), exit_price=D(2), volume=D(1),
        gross_profit=D(1), entry_fee=D(0), exit_fee=D(0), fees=D(0), net_profit=D(1),
        entry_time=0.0, exit_time=1.0, slot_id=3,
    )  # fmt: skip
    data = {**cycle.to_dict(), "regime_at_entry": stored}
    assert CompletedCycle.from_dict(data).regime_at_entry == tag


def test_fee_rates_are_fractions() -> None:
    """A maker rate of 0.40 % is 0.004 and costs 0.008 on 2 USD."""
    assert XDGUSD.fee(D(2), FeeRates(maker=D("0.004"), taker=D("0.008")).maker) == D("0.008")
