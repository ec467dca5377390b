"""Orders of ours that no intent owns, halts by the adapter, and flows told by the exchange."""

from decimal import Decimal

import pytest

from accounting import breakdown
from core import actions as a
from core import events as e
from core.commands import Halt, Resume
from core.domain import Role, Side, TradeId
from core.order_id import OrderPlace, decode, encode
from core.state import Idle, LockName, Mode
from risk import VetoReason
from tests.world import World, entered

D = Decimal


def ghost_id(world: World, *, trade_id: TradeId = TradeId.B, role: Role = Role.ENTRY) -> str:
    """Return an id of the world's bot that no order of its state has."""
    return encode(
        OrderPlace(
            tag=world.state.bot_tag, epoch=world.state.store_epoch, slot=1, trade_id=trade_id,
            role=role, cycle=1, attempt=77,
        )
    )  # fmt: skip


def found(world: World, order_id: str) -> list[a.Action]:
    """Let the exchange show an order of ours that the books do not know."""
    return world.step(e.GhostFound(time=world.now, client_order_id=order_id, txid="OGHOST"))


def fill(world: World, order_id: str, execution_id: str, volume: str) -> list[a.Action]:
    """Let the ghost execute at 0.1, with a fee of 0.01."""
    world.advance(1)
    return world.step(
        e.FillEvent(
            time=world.now, client_order_id=order_id, txid="OGHOST", execution_id=execution_id,
            price=D("0.1"), volume=D(volume), cost=D(volume) * D("0.1"), fee=D("0.01"),
            executed_at=world.now,
        )
    )  # fmt: skip


@pytest.mark.parametrize(("trade_id", "side"), [(TradeId.B, Side.BUY), (TradeId.A, Side.SELL)])
def test_a_ghost_is_cancelled_and_its_executions_booked_once(trade_id: TradeId, side: Side) -> None:
    """The alarm is raised, the cancel repeated, volume and fee are booked to the slot named."""
    world = World()
    order_id = ghost_id(world, trade_id=trade_id)
    before = world.state.balances
    actions = found(world, order_id)
    assert [x.txid for x in actions if isinstance(x, a.CancelOrderAction)] == ["OGHOST"]
    assert any(isinstance(x, a.Notify) and x.level == "error" for x in actions)
    (record,) = [
        x for x in fill(world, order_id, "T1", "30") if isinstance(x, a.RecordExecution)
    ]  # fmt: skip
    assert (record.slot_id, record.trade_id, record.side) == (1, trade_id, side)
    again = fill(world, order_id, "T1", "30")
    assert not [x for x in again if isinstance(x, a.RecordExecution)]
    world.advance(10)
    repeated = world.step(e.TimerTick(time=world.now))
    assert [x.reason for x in repeated if isinstance(x, a.CancelOrderAction)] == ["ghost"]
    sign = 1 if side is Side.BUY else -1
    after = world.state.balances
    assert after.base - before.base == 30 * sign
    assert after.quote - before.quote == -3 * sign - D("0.01")
    parts = breakdown(world.state)
    assert parts is not None
    assert parts.unexplained == 0
    world.step(
        e.OrderClosed(time=world.now, client_order_id=order_id, reason="x", executed=D(50))
    )  # fmt: skip
    assert len(world.state.ghosts) == 1  # 20 are still to be told
    fill(world, order_id, "T2", "20")
    assert world.state.ghosts == ()


def test_a_leg_with_a_ghost_gets_no_entry() -> None:
    """The other leg goes on; the ghost's leg enters again once it is over."""
    world = World(price=None)
    order_id = ghost_id(world)
    found(world, order_id)
    world.price("0.1")
    world.enter()
    leg_a, leg_b = world.state.slots[0].legs
    assert isinstance(leg_b.state, Idle)
    assert leg_b.state.veto == VetoReason.UNCERTAIN
    assert not isinstance(leg_a.state, Idle)
    world.advance(1)
    world.step(e.OrderClosed(time=world.now, client_order_id=order_id, reason="x", executed=D(0)))
    world.enter()
    assert not isinstance(world.state.slots[0].legs[1].state, Idle)


def test_orders_of_others_and_live_orders_are_no_ghosts() -> None:
    """Another tag or epoch, an unreadable id and an order that lives are left alone."""
    world = entered()
    live = world.order("1B.entry").client_order_id
    place = decode(live)
    assert place is not None
    other = OrderPlace(
        tag=place.tag, epoch=place.epoch + 1, slot=1, trade_id=TradeId.B, role=Role.ENTRY,
        cycle=1, attempt=1,
    )  # fmt: skip
    for order_id in (live, encode(other), "no id of ours"):
        assert found(world, order_id) == []
    assert world.state.ghosts == ()
    unknown = fill(world, encode(other), "T9", "10")
    assert not [x for x in unknown if isinstance(x, a.RecordExecution)]


def test_the_adapter_halts_until_the_operator_resumes() -> None:
    """A halt keeps its first reason, survives more of them, and is undone by resume only."""
    world = World()
    actions = world.step(e.TradingHalted(time=world.now, reason="the key is refused"))
    assert world.state.mode is Mode.HALTED
    assert "the key is refused" in world.state.mode_reason
    assert [x.kind for x in actions if isinstance(x, a.Notify)] == ["halt"]
    assert world.step(e.TradingHalted(time=world.now, reason="again")) == []
    assert "the key is refused" in world.state.mode_reason
    world.command(Resume())
    assert world.state.mode is Mode.RUNNING
    world.command(Halt())
    assert world.state.mode_reason == "operator"


def test_a_flow_told_by_the_exchange_is_booked_once() -> None:
    """The same ledger line may be read many times; its deposit joins once."""
    world = World()
    before = world.state.balances
    for reference in ("ledger LA", "ledger LA", "ledger LB"):
        world.step(
            e.ExternalFlow(time=world.now, base=D(0), quote=D(25), reference=reference)
        )  # fmt: skip
    assert world.state.balances.quote - before.quote == 50
    parts = breakdown(world.state)
    assert parts is not None
    assert (parts.flows, parts.unexplained) == (50, 0)


def test_a_crossed_quote_is_no_price() -> None:
    """A bid at or above the ask is refused and counted."""
    world = World()
    market = world.state.market
    for bid, ask in (("0.1002", "0.1001"), ("0.1001", "0.1001")):
        world.advance(1)
        world.quote(D(bid), D(ask))
    assert world.state.market == market
    assert world.state.counters["insane_prices"] == 2
    assert not any(lock.name is LockName.SAFETY for lock in world.state.risk.locks)
