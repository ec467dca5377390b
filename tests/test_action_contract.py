"""What every action promises: bounds, scope, confirm, a way back (spec: dashboard, section 2)."""

from decimal import Decimal

import pytest

from core import actions as a
from core import commands as c
from core.domain import Audit, Difference, TradeId
from core.record import replace
from core.state import LockName
from grid import watch
from grid.reduction import Reduction
from tests.world import GOLDEN_PARAMS, World, entered, of

D = Decimal


def with_recoveries() -> World:
    """Return a world whose leg B has been orphaned at a loss."""
    world = entered()
    world.fill("1B.entry")
    world.accept("1B.exit")
    world.price("0.0985")
    world.timer(21_601)
    assert len(world.slot().recovery_orders) == 1
    world.log.clear()
    return world


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (c.SetEntryPct(value=D("0.5"), slot=1), "PAIR_ENTRY_PCT"),
        (c.SetProfitPct(value=D(2), slot=1), "PAIR_PROFIT_PCT"),
        (c.SetOrderSize(value=D(5), slot=1), "ORDER_SIZE_USD"),
    ],
)
def test_a_value_is_set_for_one_slot_or_all_and_each_has_its_way_back(
    command: c.SetEntryPct, name: str
) -> None:
    """Both stand side by side; resetting one leaves the other; an unknown slot is refused."""
    world = World(replace(GOLDEN_PARAMS, slot_count=2))
    assert world.command(command).changed[0][0] == f"{name} of slot 1"
    assert world.command(replace(command, slot=None)).is_accepted
    assert [x.slot_id for x in world.state.overrides] == [None, 1]
    assert "there is no slot 9" in world.command(replace(command, slot=9)).message
    assert world.command(c.ResetOverride(name=name)).changed == ((name, "as configured"),)
    assert [x.slot_id for x in world.state.overrides] == [1]
    assert world.command(c.ResetOverride(name=name, slot=1)).is_accepted
    assert world.state.overrides == ()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (c.SetEntryPct(value=D("0.01")), "from 0.05 to 20 percent"),
        (c.SetProfitPct(value=D(51)), "to 50 percent"),
        (c.SetOrderSize(value=D("0.01")), "the exchange's minimum"),
        (c.SetOrderSize(value=D(201)), "to 200 USD"),
        (c.RemoveSlot(slot=1, disposition="sell"), "keep_recoveries"),
        (c.ResetOverride(name="nothing"), "name must be one of"),
        (c.SoftCloseNext(confirm=True), "there is no recovery"),
    ],
)
def test_what_is_out_of_bounds_changes_nothing(command: c.Command, words: str) -> None:
    """The refusal says what is allowed, and lists no change."""
    world = entered()
    before = world.state
    reply = world.command(command)
    assert (reply.is_accepted, reply.changed) == (False, ())
    assert words in reply.message
    assert (world.state.overrides, world.state.slots) == (before.overrides, before.slots)


def test_soft_close_next_states_its_loss_and_keeps_to_the_bound() -> None:
    """Beyond the bound it is refused even when confirmed; inside it needs the confirmation."""
    world = with_recoveries()
    assert "above the 0 % you allow" in world.command(c.SoftCloseNext(confirm=True)).message
    inside = c.SoftCloseNext(max_loss_pct=D(3))
    refused = world.command(inside)
    assert refused.message.startswith("needs confirm: slot 1 recovery 1-B-1: 20 DOGE near ")
    assert "expected -" in refused.message
    assert not of(world.log, a.CancelOrderAction)
    assert world.command(replace(inside, confirm=True)).is_accepted
    world.close("1B.recovery")
    assert D("0.0985") < world.order("1B.recovery").price < D("0.0986")


def test_giving_recoveries_up_lists_what_becomes_inventory_first() -> None:
    """Volume and cost are told without confirm, and nothing is cancelled."""
    world = with_recoveries()
    reply = world.command(c.CancelStaleRecoveries(older_than_sec=0))
    assert not reply.is_accepted
    recovery = world.slot().recovery_orders[0]
    cost = f"{recovery.position.average_price:.7f}"
    assert f"{recovery.recovery_id}: 20 DOGE at {cost}" in reply.message
    assert not of(world.log, a.CancelOrderAction)


def test_the_peak_is_reset_with_confirm_only() -> None:
    """Drawdown is measured from the present index on."""
    world = entered()
    world.state = replace(world.state, risk=replace(world.state.risk, peak=D(2)))
    assert "needs confirm" in world.command(c.ResetRiskPeak()).message
    assert world.state.risk.peak == 2
    assert world.command(c.ResetRiskPeak(confirm=True)).is_accepted
    assert (world.state.risk.peak, world.state.risk.peak_resets) == (1, 1)


def test_only_an_audit_clears_the_reconciliation_lock() -> None:
    """Resuming, resetting the day or the peak, and settling orders leave it."""
    world = entered()
    r = Reduction(world.state, world.params)
    watch.set_lock(r, LockName.RECONCILIATION, "test")
    world.state = r.state
    world.command(c.Pause())
    for command in (c.Resume(), c.ResetDailyLock(), c.ResetRiskPeak(confirm=True)):
        world.command(command)
        assert [x.name for x in world.state.risk.locks] == [LockName.RECONCILIATION]
    agreed = Audit(seq=1, executions=0, cycles=0)
    differs = replace(agreed, in_balances=(Difference(name="base", amount=D(1)),))
    assert world.command(c.AuditPnl(audit=differs)).is_accepted
    assert world.state.risk.locks != ()
    assert world.command(c.AuditPnl(audit=agreed)).is_accepted
    assert world.state.risk.locks == ()


def test_a_position_is_not_soft_closed_where_there_is_none() -> None:
    """The leg and the recoveries that there are, are named."""
    world = entered()
    assert "holds no position" in world.command(c.SoftClose(slot=1, leg=TradeId.A)).message
    assert "recoveries: none" in world.command(c.SoftClose(slot=1, recovery="1-A-1")).message
