"""A leg from its entry to its exit, to the last digit: executions, orders placed, exits owed."""

from decimal import Decimal
from typing import Any

import pytest

from core import actions as a
from core import events as e
from core.domain import (
    OrderState,
    OrderStatus,
    Owed,
    Position,
    RejectReason,
    Residual,
    Role,
    Side,
    TradeId,
)
from core.order_id import OrderPlace, encode
from core.record import replace
from core.state import Accounts, Exiting, Idle, LegTotals, Restoring
from grid.endings import close_order, orphan
from grid.reduction import Duty, Found, Reduction
from leg import FILL_SECS_KEPT, PAIR_OFF, acknowledge, holding, keep_owed, place_exit
from state_machine import reduce
from tests.regime_world import estimated
from tests.world import HMM_PARAMS, World, entered, of

D = Decimal
LEGS = pytest.mark.parametrize("leg", list(TradeId))


def execution(
    world: World, name: str, volume: str, *, cost: str = "0.7", fee: str = "0.003",
    at: float = 0.0, number: str = "X",
) -> e.FillEvent:  # fmt: skip
    """Return an execution of an order whose cost fits neither price nor volume."""
    return e.FillEvent(
        time=world.now, client_order_id=world.order(name).client_order_id, txid=f"T{number}",
        execution_id=number, price=D("0.123"), volume=D(volume), cost=D(cost), fee=D(fee),
        executed_at=world.now + at, is_maker=False,
    )  # fmt: skip


def position_of(world: World, leg: TradeId) -> Position:
    """Return the leg's position."""
    state = world.leg(f"1{leg}").state
    assert isinstance(state, Exiting)
    return state.position


def debt_of(world: World, leg: TradeId) -> Owed:
    """Return the leg's debt."""
    state = world.leg(f"1{leg}").state
    assert isinstance(state, Exiting)
    assert isinstance(state.exit, Owed)
    return state.exit


def held(leg: TradeId) -> World:
    """Return a world whose leg holds a position; its exit rests."""
    world = entered()
    world.fill(f"1{leg}.entry", fee="0.02")
    world.accept(f"1{leg}.exit")
    return world


def difference(new: Accounts, old: Accounts) -> dict[str, Decimal]:
    """Return by how much accounts have changed, `reserved` and cash set against it left out."""
    names = ("inventory", "positions", "residuals", "fees", "capital", "grid_profit", "unbooked")
    changes = {x: getattr(new, x) - getattr(old, x) for x in names}
    return {k: v for k, v in changes.items() if v}


# ---- executions -----------------------------------------------------------------------------


@LEGS
@pytest.mark.parametrize("duty", ["entry", "exit", "recovery"])
def test_execution_is_recorded_as_it_was_told_and_moves_both_balances(
    leg: TradeId, duty: str
) -> None:
    """Volume one way, cost the other way, and the fee always out of quote."""
    world = entered() if duty == "entry" else held(leg)
    if duty == "recovery":
        r = Reduction(world.state, world.params)
        orphan(r, 1, leg, "old", is_loss=False)
        world.state = r.state
    name = f"1{leg}.{duty}"
    order, own, books = world.order(name), world.state.balances, world.state.accounts
    event = execution(world, name, "5")
    (told,) = of(world.step(event), a.RecordExecution)
    assert told == a.RecordExecution(
        execution_id="X", client_order_id=order.client_order_id, txid="TX", slot_id=1,
        trade_id=leg, role=Role(duty), cycle=1, side=order.side, price=D("0.123"), volume=D(5),
        cost=D("0.7"), fee=D("0.003"), executed_at=world.now, is_maker=False,
    )  # fmt: skip
    way = 1 if order.side is Side.BUY else -1
    now = world.state.balances
    assert now == replace(
        own, base=own.base + way * 5, quote=own.quote - way * D("0.7") - D("0.003"),
        last_execution_at=world.now,
    )  # fmt: skip
    sign = 1 if leg is TradeId.B else -1
    wanted = {"fees": D("0.003"), "positions": sign * D("0.7")}
    if duty != "entry":
        volume = D(20) if leg is TradeId.B else D(19)
        cost = (volume * (D("0.0998") if leg is TradeId.B else D("0.1002")) * 5 / volume).quantize(
            D("1e-9")
        )
        wanted |= {"positions": -sign * cost, "unbooked": -sign * (D("0.7") - cost)}
    assert difference(world.state.accounts, books) == wanted


@LEGS
def test_entry_adds_up_its_executions_in_whatever_order_they_are_told(leg: TradeId) -> None:
    """First and last are by the exchange's time; the leg's totals and refusals follow."""
    world = World()
    world.timer()
    world.reject(f"1{leg}.entry", RejectReason.NOT_SENT)
    world.timer(2)
    assert world.leg(f"1{leg}").refusals == 1
    placed = world.order(f"1{leg}.entry")
    world.advance(10)
    for number, at in (("X", -2.0), ("Y", -5.0), ("Z", -1.0)):
        world.step(execution(world, f"1{leg}.entry", "3", at=at, number=number))
    assert world.order(f"1{leg}.entry") == replace(
        placed, status=OrderStatus.OPEN, txid="TZ", filled_volume=D(9), filled_cost=D("2.1"),
        fees=D("0.009"), execution_ids=("X", "Y", "Z"), first_execution_at=world.now - 5,
        last_execution_at=world.now - 1,
    )  # fmt: skip
    own = world.leg(f"1{leg}")
    assert own.totals == LegTotals(entered_volume=D(9), entered_cost=D("2.1"))
    assert own.refusals == 0
    counters = world.state.counters
    assert (counters["fills"], counters["partial_fills"]) == (3, 3)
    world.step(execution(world, f"1{leg}.entry", "3", number="Y"))
    assert world.state.counters["duplicate_fills"] == 1
    stranger = replace(execution(world, f"1{leg}.entry", "3"), client_order_id="nobody's")
    world.step(stranger)
    assert world.state.counters["unknown_fills"] == 1
    assert world.state.counters["fills"] == 3


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (OrderStatus.PENDING, OrderStatus.OPEN), (OrderStatus.UNCERTAIN, OrderStatus.OPEN),
        (OrderStatus.OPEN, OrderStatus.OPEN), (OrderStatus.CANCELLING, OrderStatus.CANCELLING),
    ],
)  # fmt: skip
def test_execution_proves_that_an_order_exists(before: OrderStatus, after: OrderStatus) -> None:
    """One that is being cancelled goes on being cancelled."""
    world = entered()
    r = Reduction(world.state, world.params)
    found = r.find(world.order("1B.entry").client_order_id)
    assert found is not None
    r.put_order(found, replace(found.order, status=before))
    world.state = r.state
    world.step(execution(world, "1B.entry", "3"))
    assert world.order("1B.entry").status is after


@LEGS
def test_complete_entry_is_a_position_that_owes_its_exit_from_now_on(leg: TradeId) -> None:
    """With the executions' cost, fees and times; how long it took is kept for the last hundred."""
    world = entered()
    world.state = replace(world.state, fill_secs=tuple(range(FILL_SECS_KEPT)))
    order = world.order(f"1{leg}.entry")
    world.advance(7)
    world.step(execution(world, f"1{leg}.entry", "9", at=-4.0, number="X"))
    rest = str(order.volume - 9)
    world.step(execution(world, f"1{leg}.entry", rest, cost="1.1", at=-3.0, number="Y"))
    took = world.now - 3 - order.placed_at
    assert world.state.fill_secs == (*range(1, FILL_SECS_KEPT), took)
    assert world.state.counters["entries_filled"] == 1
    assert world.state.counters["partial_fills"] == 1
    assert position_of(world, leg) == Position(
        volume=order.volume, cost=D("1.8"), fees=D("0.006"), entered_at=world.now - 4,
        filled_at=world.now - 3, exit_attempts=1, owed_since=world.now,
    )  # fmt: skip
    world.accept(f"1{leg}.exit")
    assert position_of(world, leg).owed_since is None


@LEGS
def test_residual_joins_the_next_entry_with_cost_fees_and_ledger(leg: TradeId) -> None:
    """Of equal volumes the position's tag counts."""
    world = entered()
    r = Reduction(world.state, world.params)
    order = world.order(f"1{leg}.entry")
    old = Residual(volume=order.volume, cost=D("1.2"), fees=D("0.005"), regime_at_entry=2)
    r.put_leg(1, replace(r.leg(1, leg), residual=old))
    world.state = r.state
    books = world.state.accounts
    event = execution(world, f"1{leg}.entry", str(order.volume), cost="2.1", fee="0.004")
    after, _ = r_step(world, event)
    state = after.slots[0].leg(leg).state
    assert isinstance(state, Exiting)
    assert state.position.volume == 2 * order.volume
    assert (state.position.cost, state.position.fees) == (D("3.3"), D("0.009"))
    assert state.position.regime_at_entry is None
    assert after.slots[0].leg(leg).residual is None
    sign = 1 if leg is TradeId.B else -1
    assert difference(after.accounts, books) == {
        "positions": sign * D("3.3"), "residuals": -sign * D("1.2"), "fees": D("0.004"),
    }  # fmt: skip


def r_step(world: World, event: e.Event) -> tuple[Any, tuple[a.Action, ...]]:
    """Reduce an event of a state that no run leads to: its invariants do not hold."""
    return reduce(world.state, event, world.params)


@LEGS
def test_part_of_an_entry_below_the_minimum_is_a_residual(leg: TradeId) -> None:
    """With its cost and fees; the leg wants an entry again from now on."""
    world = entered()
    world.step(execution(world, f"1{leg}.entry", "3"))
    small = replace(world.state.instrument, order_min=D(4))
    world.step(e.InstrumentUpdated(time=world.now, instrument=small))
    books = world.state.accounts
    world.advance(5)
    world.close(f"1{leg}.entry")
    own = world.leg(f"1{leg}")
    assert own.residual == Residual(volume=D(3), cost=D("0.7"), fees=D("0.003"))
    assert own.state == Idle(since=world.now)
    sign = 1 if leg is TradeId.B else -1
    assert difference(world.state.accounts, books) == {
        "positions": -sign * D("0.7"), "residuals": sign * D("0.7"),
    }  # fmt: skip


@LEGS
def test_exit_adds_up_in_its_position(leg: TradeId) -> None:
    """What is closed, its share of the entry cost, and what it was worth; the debt is forgotten."""
    world = held(leg)
    r = Reduction(world.state, world.params)
    found = r.find(world.order(f"1{leg}.exit").client_order_id)
    assert found is not None
    owing = replace(r.position(found), owed_since=1.0, exit_failures=2)
    r.put_holding(found, owing, found.order)
    world.state, before = r.state, position_of(world, leg)
    world.advance(10)
    for number, at in (("X", -2.0), ("Y", -5.0)):
        world.step(execution(world, f"1{leg}.exit", "4", at=at, number=number))
    cost = (before.cost * 4 / before.volume).quantize(D("1e-9")) * 2
    assert position_of(world, leg) == replace(
        before, closed_volume=D(8), closed_cost=cost, exit_cost=D("1.4"), exit_fees=D("0.006"),
        closed_at=world.now - 2, owed_since=None, exit_failures=0,
    )  # fmt: skip
    totals = world.leg(f"1{leg}").totals
    assert (totals.exited_volume, totals.exited_cost) == (8, cost)


@LEGS
def test_exit_that_executes_beyond_its_position_takes_the_surplus_from_the_inventory(
    leg: TradeId,
) -> None:
    """At its price: somebody has made it larger. The cycle has all of it, the ledger balances."""
    world = held(leg)
    own, books = position_of(world, leg), world.state.accounts
    more = own.volume + 3
    actions = world.step(execution(world, f"1{leg}.exit", str(more), cost="2.9"))
    (booked,) = of(actions, a.BookCycleAction)
    surplus, way = 3 * D("0.123"), 1 if leg is TradeId.B else -1
    gross = way * (D("2.9") - own.cost - surplus)
    assert (booked.record.volume, booked.record.gross_profit) == (more, gross)
    totals = world.leg(f"1{leg}").totals
    assert (totals.written_off_volume, totals.written_off_cost) == (-3, -surplus)
    assert difference(world.state.accounts, books) == {
        "positions": -way * own.cost, "inventory": -way * surplus, "fees": D("0.003"),
        "grid_profit": -gross,
    }  # fmt: skip


@LEGS
@pytest.mark.parametrize("surplus", [-1, 0, 1])
def test_one_unit_more_or_less_is_not_the_whole_position(leg: TradeId, surplus: int) -> None:
    """With one unit open the exit works on; one beyond comes from the inventory."""
    world = held(leg)
    whole = position_of(world, leg).volume
    price = world.order(f"1{leg}.exit").price
    event = execution(world, f"1{leg}.exit", str(whole + surplus))
    booked = of(world.step(replace(event, price=price)), a.BookCycleAction)
    if surplus < 0:
        assert booked == []
        assert position_of(world, leg).open_volume == 1
        assert world.order(f"1{leg}.exit").remaining == 1
        return
    assert [x.record.volume for x in booked] == [whole + surplus]
    assert (booked[0].resolution, world.state.counters["cycles"]) == ("exit", 1)
    assert world.leg(f"1{leg}").totals.written_off_volume == -surplus
    assert world.slot().totals.cycles == 1


@LEGS
def test_entry_with_one_unit_open_works_on(leg: TradeId) -> None:
    """Only a complete one owes its exit."""
    world = entered()
    whole = world.order(f"1{leg}.entry").volume
    world.step(execution(world, f"1{leg}.entry", str(whole - 1)))
    assert world.order(f"1{leg}.entry").remaining == 1


@pytest.mark.parametrize(
    ("since", "age", "tag"),
    [(0.0, 600.0, 2), (0.0, 601.0, None), (-1.0, 0.0, 2), (1.0, 0.0, 0)],
)
def test_tag_is_that_of_the_estimate_in_force(since: float, age: float, tag: int | None) -> None:
    """From its own instant on, and fresh for two intervals; before it, that of the one before."""
    world = entered(HMM_PARAMS)
    world.step(estimated(world.now, 0))
    world.advance(30)
    world.step(estimated(world.now, 2))
    at = world.now
    world.advance(700)
    event = replace(execution(world, "1B.entry", "3"), executed_at=at - since + age)
    world.step(event)
    assert world.order("1B.entry").regime_at_entry == tag


# ---- exits that are placed ------------------------------------------------------------------


@LEGS
@pytest.mark.parametrize("is_recovery", [False, True])
def test_exit_is_placed_with_its_place_its_fee_and_a_deadline(
    leg: TradeId, is_recovery: bool
) -> None:
    """All that is open, at the target, under the next attempt, ten seconds at most on its way."""
    world = held(leg)
    r = Reduction(world.state, world.params)
    own = replace(
        position_of(world, leg), exit_attempts=2, closed_volume=D(6), closed_cost=D("0.5"),
        regime_at_entry=2,
    )  # fmt: skip
    r.put_holding(holding(r, 1, leg), own, Owed(reason="rest", retry_at=r.now))
    recovery_id = None
    if is_recovery:
        orphan(r, 1, leg, "old", is_loss=False)
        recovery_id = f"1-{leg}-1"
    attempt = 1 if is_recovery else 3
    before = r.state.counters["orders"]
    r.actions.clear()
    place_exit(r, 1, leg, recovery_id)
    (placed,) = of(r.actions, a.PlaceOrderAction)
    role = Role.RECOVERY if is_recovery else Role.EXIT
    place = OrderPlace(
        tag=1, epoch=2, slot=1, trade_id=leg, role=role, cycle=1, attempt=attempt
    )  # fmt: skip
    order = OrderState(
        client_order_id=encode(place), trade_id=leg, role=role, side=leg.exit_side,
        price=D("0.100798") if leg is TradeId.B else D("0.099198"), volume=own.volume - 6,
        cycle=1, attempt=attempt, placed_at=r.now, regime_at_entry=2, fee_rate=D("0.0025"),
    )  # fmt: skip
    assert placed == a.PlaceOrderAction(slot_id=1, order=order, chain=(), deadline=r.now + 10)
    assert r.state.counters["orders"] == before + 1
    found = r.find(order.client_order_id)
    assert found == Found(
        slot_id=1, trade_id=leg, duty=Duty.RECOVERY if is_recovery else Duty.EXIT, order=order,
        recovery_id=recovery_id,
    )  # fmt: skip
    assert found is not None
    assert r.position(found) == replace(own, exit_attempts=attempt)


@LEGS
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"restoring": Restoring(since=0.0)}, "restore"),
        ({"status": "maintenance"}, "exchange maintenance"),
        ({"status": "post_only"}, None),
        ({"clock": 2.0}, "clock"),
        ({"clock": -2.0}, "clock"),
        ({"clock": 1.9}, None),
        ({"room": D(0)}, None),
        ({"room": D("-1e-7")}, "funds"),
    ],
)
def test_exit_that_would_surely_be_refused_is_not_tried(
    leg: TradeId, change: dict[str, Any], reason: str | None
) -> None:
    """Funds are those that neither strangers nor other orders hold, to the last unit."""
    world = held(leg)
    r = Reduction(world.state, world.params)
    volume = position_of(world, leg).volume
    r.put_holding(holding(r, 1, leg), position_of(world, leg), Owed(reason="rest", retry_at=r.now))
    if "restoring" in change:
        r.update(**change)
    health = r.state.health
    r.update(
        health=replace(
            health,
            system_status=change.get("status", "online"),
            clock_offset_sec=change.get("clock", 0.0),
        )
    )
    if (room := change.get("room")) is not None:
        own, other = r.state.balances, world.order(f"1{other_of(leg)}.entry")
        if leg is TradeId.B:
            own = replace(own, foreign_base=D(2), base=2 + other.volume + volume + room)
        else:
            mine = other.volume * other.price * D("1.0025")
            need = volume * D("0.099198") * D("1.0025")
            own = replace(own, foreign_quote=D(3), quote=3 + mine + need + room)
        r.update(balances=own)
    place_exit(r, 1, leg, None)
    world.state = r.state
    if reason is None:
        assert world.order(f"1{leg}.exit").volume == volume
    else:
        assert debt_of(world, leg) == Owed(reason=reason, retry_at=r.now + 1)


def other_of(leg: TradeId) -> TradeId:
    """Return the other leg."""
    return TradeId.A if leg is TradeId.B else TradeId.B


@LEGS
def test_debt_keeps_its_beginning_and_counts_its_failures(leg: TradeId) -> None:
    """Tried again after 1, 5, 15 and then every 60 s; an acknowledgement pays it."""
    world = held(leg)
    r = Reduction(world.state, world.params)
    found, began = holding(r, 1, leg), r.now
    for n, wait in enumerate((1, 5, 15, 60, 60)):
        r.update(now=began + n)
        keep_owed(r, found, r.position(found), "funds")
        position = r.position(found)
        assert (position.owed_since, position.exit_failures) == (began, n + 1)
        state = r.leg(1, leg).state
        assert isinstance(state, Exiting)
        assert state.exit == Owed(reason="funds", retry_at=r.now + wait)
    order = world.order(f"1{leg}.exit")
    acknowledge(r, replace(found, order=order), order)
    assert r.leg(1, leg).state == Exiting(position=replace(position, owed_since=None), exit=order)


@LEGS
def test_exit_that_ends_while_pairing_waits_and_that_of_a_recovery_does_not(leg: TradeId) -> None:
    """The rest of the leg is to be set off; a recovery is no part of that."""
    for is_recovery in (False, True):
        world = held(leg)
        r = Reduction(world.state, world.params)
        if is_recovery:
            orphan(r, 1, leg, "old", is_loss=False)
        r.put_slot(replace(r.known_slot(1), pairing=True))
        world.state = r.state
        world.advance(3)
        name = f"1{leg}.recovery" if is_recovery else f"1{leg}.exit"
        order = world.order(name)
        ended = e.OrderClosed(
            time=world.now, client_order_id=order.client_order_id, reason="cancelled", executed=D(0)
        )
        r = Reduction(replace(world.state, now=world.now), world.params)
        found = r.find(order.client_order_id)
        assert found is not None
        close_order(r, found, ended)
        if is_recovery:
            (kept,) = r.known_slot(1).recovery_orders
            assert isinstance(kept.exit, OrderState)
            assert kept.exit.attempt == 1
        else:
            state = r.leg(1, leg).state
            assert isinstance(state, Exiting)
            assert state.exit == Owed(reason=PAIR_OFF, retry_at=r.now)
            assert state.position.owed_since == r.now


@LEGS
def test_closed_entry_without_executions_leaves_the_leg_idle(leg: TradeId) -> None:
    """It wants an entry from now on, and its other facts stay."""
    world = entered()
    before = world.leg(f"1{leg}")
    world.advance(9)
    world.close(f"1{leg}.entry")
    assert world.leg(f"1{leg}") == replace(before, state=Idle(since=world.now))


@pytest.mark.parametrize("reason", ["cancelled", RejectReason.POST_ONLY])
def test_an_older_word_of_the_exchange_takes_nothing_back(reason: str) -> None:
    """What has executed is a position, though the end of its order tells of less."""
    world = entered()
    world.fill("1B.entry", 5)
    world.close("1B.entry", executed=0, reason=reason)
    assert position_of(world, TradeId.B).volume == 5


@LEGS
def test_operator_hears_what_was_entered_and_what_its_exit_would_earn(leg: TradeId) -> None:
    """After both fees, with its sign; or that the exit is owed."""
    world = entered()
    (told,) = [x for x in of(world.fill(f"1{leg}.entry", fee="0.02"), a.Notify) if x.kind == "fill"]
    exit_ = world.order(f"1{leg}.exit")
    own = position_of(world, leg)
    worth = exit_.price * exit_.volume
    sign = 1 if leg is TradeId.B else -1
    net = sign * (worth - own.cost) - D("0.02") - worth * D("0.0025")
    assert f"exit resting at {exit_.price:f}, expected {net:+.3f} USD after fees" in told.text
    assert f"{own.volume:f} DOGE at {own.average_price:.7f}" in told.text
    assert ("bought" in told.text, "sold" in told.text) == (leg is TradeId.B, leg is TradeId.A)
    assert told.level == "info"
