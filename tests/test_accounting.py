"""Holds, claims, equity, benchmarks and the breakdown, of one state in which everything occurs."""

from decimal import Decimal

import pytest

from accounting import (
    BenchmarkValues,
    Breakdown,
    Funds,
    benchmarks,
    breakdown,
    claims,
    closed_share,
    conservation,
    equity,
    first_benchmarks,
    free,
    held,
    held_value,
    is_short,
    net_equity,
    orders,
    positions,
    post,
    rebalanced,
    sign,
    signed_open_volume,
    trial_balance,
    with_flow,
)
from core.actions import Entry
from core.domain import (
    FeeRates,
    OrderState,
    Owed,
    Position,
    RecoveryOrder,
    Residual,
    Role,
    Side,
    TradeId,
)
from core.record import replace
from core.state import (
    Accounts,
    Balances,
    Benchmarks,
    BotState,
    Entering,
    Exiting,
    Leg,
    LegTotals,
    Market,
    SlotState,
)

D = Decimal
A, B = TradeId.A, TradeId.B
OWED = Owed(reason="new", retry_at=0.0)
MARKET = Market(
    bid=D("0.1"), ask=D("0.2"), last=D("0.3"), time=0.0, bid_high=D("0.1"), bid_low=D("0.1")
)


def order(name: str, side: Side, price: str, volume: int, **known: object) -> OrderState:
    """Return an order of ours; its name is its id."""
    return OrderState(
        client_order_id=name, trade_id=A, role=Role.ENTRY, side=side, price=D(price),
        volume=D(volume), cycle=1, attempt=1, placed_at=0.0, **known,
    )  # fmt: skip


def position(volume: int, cost: str, closed: int = 0, closed_cost: str = "0") -> Position:
    """Return a position without fees."""
    return Position(
        volume=D(volume), cost=D(cost), fees=D(0), entered_at=0.0, filled_at=0.0,
        closed_volume=D(closed), closed_cost=D(closed_cost),
    )  # fmt: skip


def recovery(trade_id: TradeId, of: Position, exit_: OrderState | Owed) -> RecoveryOrder:
    """Return a recovery."""
    return RecoveryOrder(
        recovery_id=f"{trade_id}{of.volume}", trade_id=trade_id, cycle=1, position=of,
        exit=exit_, orphaned_at=0.0, reason="old",
    )  # fmt: skip


def leg(
    trade_id: TradeId, state: Entering | Exiting, residual: tuple[int, str] | None = None
) -> Leg:
    """Return a leg; the residual is volume and cost."""
    rest = None if residual is None else Residual(
        volume=D(residual[0]), cost=D(residual[1]), fees=D(0)
    )  # fmt: skip
    return Leg(trade_id=trade_id, state=state, residual=rest)


BUYS_BACK = order("a1", Side.BUY, "0.1", 15, fee_rate=D("0.003"))
BUYS = order("b1", Side.BUY, "0.09", 30, filled_volume=D(10), filled_cost=D("0.9"))
IS_OVER = order("over", Side.SELL, "0.11", 7, closed_executed=D(4), filled_volume=D(3))
SELLS = order("a2", Side.SELL, "0.12", 40, filled_volume=D(6), filled_cost=D("0.72"))
RECOVERS = order("b2", Side.SELL, "0.15", 8)
SLOTS = (
    SlotState(
        slot_id=1, place=0, alias="one",
        legs=(
            leg(A, Exiting(position=position(20, "2.2", 5, "0.5"), exit=BUYS_BACK), (3, "0.33")),
            leg(B, Entering(order=BUYS), (2, "0.19")),
        ),
        recovery_orders=(
            recovery(A, position(17, "1.7", 1, "0.1"), OWED),
            recovery(B, position(11, "1.1", 4, "0.4"), IS_OVER),
        ),
    ),
    SlotState(
        slot_id=2, place=1, alias="two",
        legs=(
            leg(A, Entering(order=SELLS)),
            leg(B, Exiting(position=position(13, "1.17", 2, "0.2"), exit=OWED)),
        ),
        recovery_orders=(
            recovery(B, position(8, "0.8"), RECOVERS),
            recovery(A, position(5, "0.6"), OWED),
        ),
    ),
)  # fmt: skip
STATE = BotState(
    slots=SLOTS,
    fees=FeeRates(maker=D("0.0025"), taker=D("0.004")),
    market=MARKET,
    balances=Balances(
        base=D(100), quote=D(50), start_base=D(90), start_quote=D(45), start_mark=D("0.08"),
        flow_base=D(30), flow_quote=D(6), foreign_base=D(9), foreign_quote=D(7),
    ),
    accounts=Accounts(
        inventory=D("1.3"), positions=D("0.7"), residuals=D("0.11"), fees=D("0.29"),
        capital=D("-52.2"), flows=D("-8.4"), grid_profit=D("-0.53"), unbooked=D("-0.17"),
        inventory_base=D(19),
    ),
    benchmarks=Benchmarks(usd=D(51), doge=D(620), half_quote=D(23), half_base=D(340)),
)  # fmt: skip
HELD = Funds(base=D(34 + 8), quote=D("1.5") * D("1.003") + D("1.8") * D("1.0025"))
CLAIMED = Funds(
    base=D(10 + 2 + (11 - 4) + (13 - 2)),
    quote=(D("0.33") + D("1.6") + D("0.72") + D("0.6")) * D("1.0025"),
)


def test_every_order_and_every_position_is_found_once() -> None:
    """Entries, exits and exits of recoveries; an exit that is owed is no order."""
    assert [x.client_order_id for x in orders(STATE)] == ["a1", "b1", "over", "a2", "b2"]
    found = [(trade_id, int(own.volume), exit_) for trade_id, own, exit_ in positions(STATE)]
    assert found == [
        (A, 20, BUYS_BACK), (A, 17, OWED), (B, 11, IS_OVER), (B, 13, OWED), (B, 8, RECOVERS),
        (A, 5, OWED),
    ]  # fmt: skip
    assert (sign(A), sign(B)) == (-1, 1)


def test_buys_hold_quote_with_the_fee_they_were_placed_at_and_sells_base() -> None:
    """Of an order that is over nothing is held; one without a rate of its own has the account's."""
    assert held(STATE) == HELD


def test_what_is_executed_and_owed_is_claimed() -> None:
    """B owes base and A quote with fee: unfinished entries, residuals, exits that do not rest."""
    assert claims(STATE) == CLAIMED


def test_free_is_what_neither_orders_nor_strangers_nor_claims_need() -> None:
    """Both assets alike."""
    assert free(STATE) == Funds(
        base=100 - 9 - HELD.base - CLAIMED.base, quote=50 - 7 - HELD.quote - CLAIMED.quote
    )


@pytest.mark.parametrize(
    ("base", "quote", "expected"),
    [("51", "10.3", False), ("50.99", "10.3", True), ("51", "10.29", True)],
)
def test_orders_that_hold_all_there_is_are_covered(base: str, quote: str, expected: bool) -> None:
    """Foreign holds come first, fees are not counted, and the last unit may be held."""
    own = replace(STATE.balances, base=D(base), quote=D(quote))
    assert is_short(replace(STATE, balances=own)) is expected


def test_the_last_part_of_a_position_takes_what_rounding_left() -> None:
    """Shares are rounded half even, and add up to the cost whatever they are."""
    own = position(3, "1", 0)
    first = closed_share(own, D(1), 2)
    assert first == D("0.33")
    own = replace(own, closed_volume=D(1), closed_cost=first)
    second = closed_share(own, D(1), 2)
    own = replace(own, closed_volume=D(2), closed_cost=first + second)
    assert closed_share(own, D(1), 2) == D("0.34")
    assert closed_share(own, D(2), 2) == D("0.34")  # more than there is takes no more
    assert closed_share(position(4, "0.1"), D(1), 2) == D("0.02")
    assert closed_share(position(4, "0.14"), D(1), 2) == D("0.04")


def test_a_posting_that_does_not_balance_is_refused() -> None:
    """What balances is added to the accounts; lines of nothing are left out."""
    start = Accounts(cash=D(2), fees=D(1))
    books, lines = post(start, cash=D(-3), fees=D(3), flows=D(0))
    assert books == Accounts(cash=D(-1), fees=D(4))
    assert lines == (Entry(account="cash", amount=D(-3)), Entry(account="fees", amount=D(3)))
    with pytest.raises(ValueError, match="unbalanced"):
        post(start, cash=D(1))
    with pytest.raises(ValueError, match="unbalanced"):
        post(start, cash=D(2), fees=D(-1))


def test_the_trial_balance_counts_money_alone() -> None:
    """Every account but the base volume behind the inventory."""
    assert trial_balance(STATE.accounts) == D("1.3") + D("0.7") + D("0.11") + D("0.29") - (
        D("52.2") + D("8.4") + D("0.53") + D("0.17")
    )


def test_equity_is_marked_at_the_bid() -> None:
    """With and without flows; there is none before the first price."""
    assert equity(STATE) == 50 + 100 * D("0.1")
    assert equity(replace(STATE, market=None)) is None
    assert net_equity(STATE, D("0.3")) == 50 - 6 + (100 - 30) * D("0.3")
    assert held_value(STATE, D("0.3")) == 45 + 90 * D("0.3")


def test_doing_nothing_is_worth_its_holdings_and_flows() -> None:
    """At the bid; unknown before the first mark."""
    assert benchmarks(STATE) == BenchmarkValues(
        hold=45 + 90 * D("0.1") + 6 + 30 * D("0.1"), usd=D(51), doge=D(62), half=D(57)
    )
    unmarked = replace(STATE, balances=replace(STATE.balances, start_mark=D(0)))
    assert benchmarks(replace(STATE, market=None)) is benchmarks(unmarked) is None


def test_benchmarks_put_the_same_value_to_work_in_four_ways() -> None:
    """At the first mark, at a flow, and half and half again once a day."""
    first = first_benchmarks(D(10), D("0.2"))
    assert first == Benchmarks(usd=D(10), doge=D(50), half_quote=D(5), half_base=D(25))
    joined = with_flow(first, value=D(4), mark=D("0.5"))
    assert joined == Benchmarks(usd=D(14), doge=D(58), half_quote=D(7), half_base=D(29))
    halved = rebalanced(joined, D("0.5"))
    assert halved == replace(joined, half_quote=D("10.75"), half_base=D("21.5"))


def test_open_volume_is_signed_by_what_each_leg_holds_or_owes() -> None:
    """Positions less what is closed, unfinished entries and residuals; A counts against B."""
    owed_by_a = (20 - 5) + (17 - 1) + 5 + 3 + 6
    held_by_b = (11 - 4) + (13 - 2) + 8 + 2 + 10
    assert signed_open_volume(STATE) == held_by_b - owed_by_a


def test_the_breakdown_explains_the_change_of_equity_in_lines_that_add_up() -> None:
    """The signs are those of effects; what is left over is named, and the taker fee kept apart."""
    volume = 19 + signed_open_volume(STATE)
    inventory = volume * D("0.1") - (D("1.3") + D("0.7") + D("0.11"))
    change = 60 - D("52.2")
    assert breakdown(STATE) == Breakdown(
        change=change,
        grid_profit=D("0.7"),
        inventory_pnl=inventory,
        fees=D("-0.29"),
        flows=D("8.4"),
        unexplained=change - D("0.7") - inventory + D("0.29") - D("8.4"),
        liquidation_cost=100 * D("0.1") * D("0.004"),
    )
    unmarked = replace(STATE, balances=replace(STATE.balances, start_mark=D(0)))
    assert breakdown(replace(STATE, market=None)) is breakdown(unmarked) is None


def test_a_leg_still_holds_what_it_entered_and_neither_exited_nor_gave_up() -> None:
    """In volume and in entry cost."""
    totals = LegTotals(
        entered_volume=D(50), entered_cost=D(5), exited_volume=D(20), exited_cost=D("2.1"),
        written_off_volume=D(7), written_off_cost=D("0.6"),
    )  # fmt: skip
    assert conservation(totals) == Funds(base=D(23), quote=D("2.3"))
