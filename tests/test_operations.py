"""What an operator may do: commands carried out or refused (spec: dashboard, section 2)."""

from decimal import Decimal

import pytest

from core import actions as a
from core import commands as c
from core import events as e
from core.domain import Audit, OrderStatus, RejectReason, TradeId
from core.record import replace
from core.state import Idle, LockName
from risk import parked
from tests.world import GOLDEN_PARAMS, World, entered, holding_both

D = Decimal


def parked_world() -> World:
    """Return a world whose slot is parked: S2 for long, recoveries at the cap."""
    world = World(replace(GOLDEN_PARAMS, max_recovery_slots=0))
    world.enter()
    for leg in ("A", "B"):
        world.fill(f"1{leg}.entry")
        world.accept(f"1{leg}.exit")
    world.timer(43_201)
    return world


def test_remove_slot_with_positions_keeps_them_as_recoveries_until_they_end() -> None:
    """A slot is removed only once its recoveries have ended; its id is never used again."""
    world = holding_both()
    assert not world.command(c.RemoveSlot(slot=1)).is_accepted
    assert world.command(c.RemoveSlot(slot=1, disposition="keep_recoveries")).is_accepted
    world.timer()
    assert len(world.slot().recovery_orders) == 2
    world.fill("1A.recovery")
    world.fill("1B.recovery")
    world.timer()
    assert world.state.slots == ()
    assert world.command(c.AddSlot()).is_accepted
    assert [x.slot_id for x in world.state.slots] == [2]
    assert world.slot(2).place == 0


def test_cancel_stale_recoveries_moves_what_is_left_to_inventory() -> None:
    """The cancelled recovery's rest is written off at cost, without P&L."""
    world = entered()
    world.fill("1B.entry")
    world.accept("1B.exit")
    world.price("0.0985")
    world.timer(21_601)
    grid_profit = world.state.accounts.grid_profit
    reply = world.command(c.CancelStaleRecoveries(older_than_sec=0, confirm=True))
    assert reply.is_accepted
    world.close("1B.recovery")
    assert world.slot().recovery_orders == ()
    assert world.leg("1B").totals.written_off_volume == 20
    assert world.state.accounts.grid_profit == grid_profit


def test_soft_close_states_the_loss_and_needs_confirm() -> None:
    """A soft close beyond max_loss_pct is refused; a confirmed one re-prices the exit."""
    world = entered()
    world.fill("1B.entry")
    world.accept("1B.exit")
    world.price("0.0985")
    ask = c.SoftClose(slot=1, leg=TradeId.B)
    assert "max_loss_pct" in world.command(ask).message
    allowed = replace(ask, max_loss_pct=D(3))
    assert "confirm" in world.command(allowed).message
    assert world.command(replace(allowed, confirm=True)).is_accepted
    world.close("1B.exit")
    assert D("0.0985") < world.order("1B.exit").price < D("0.0986")


def test_profit_below_break_even_is_refused_with_the_number() -> None:
    """set_profit_pct below break-even plus margin names the least value."""
    reply = World().command(c.SetProfitPct(value=D("0.3")))
    assert not reply.is_accepted
    assert "0.601" in reply.message


def test_lost_fee_tier_vetoes_entries_and_keeps_exits() -> None:
    """When break-even rises above the target, entries are withdrawn and exits stay."""
    world = entered()
    world.fill("1B.entry")
    world.accept("1B.exit")
    fees = replace(world.state.fees, maker=D("0.02"))
    world.step(e.FeesUpdated(time=world.now, fees=fees))
    world.timer()
    assert world.order("1A.entry").status is OrderStatus.CANCELLING
    assert world.order("1B.exit").status is OrderStatus.OPEN


def test_overrides_survive_and_can_be_reset() -> None:
    """An override changes the next entry and goes back to the configuration on request."""
    world = World()
    assert world.command(c.SetEntryPct(value=D("0.5"))).is_accepted
    world.enter()
    assert world.order("1B.entry").price == D("0.0995")
    assert world.command(c.ResetOverride(name="PAIR_ENTRY_PCT")).is_accepted
    assert world.state.overrides == ()
    assert not world.command(c.ResetOverride(name="PAIR_ENTRY_PCT")).is_accepted


def test_external_flow_changes_no_profit() -> None:
    """A deposit is a flow: equity rises, grid profit, drawdown and unexplained do not."""
    world = entered()
    books, own = world.state.accounts, world.state.balances
    seen = e.BalancesReported(time=world.now, base=own.base + 50, quote=own.quote + 100)
    world.step(seen)
    assert world.command(c.RecordFlow(quote=D(100), base=D(50))).is_accepted
    assert world.state.accounts.grid_profit == books.grid_profit
    assert world.state.balances.quote == 1100
    assert world.state.risk.peak == 1


@pytest.mark.parametrize(("base", "quote", "words"), [
    ("0", "100", "the exchange reports +0 quote against our books"),
    ("0", "1e11", "up to 100,000,000 in size"),
    ("0.000000001", "0", "at most 8 decimals"),
    ("-20000", "0", "more base than we own"),
])  # fmt: skip
def test_flow_that_explains_nothing_is_refused(base: str, quote: str, words: str) -> None:
    """A mistyped deposit cannot enter the books."""
    world = entered()
    before = world.state.balances
    reply = world.command(c.RecordFlow(base=D(base), quote=D(quote)))
    assert not reply.is_accepted
    assert words in reply.message
    assert world.state.balances == before


def test_drift_locks_after_two_reads_and_audit_clears_it_once_it_is_explained() -> None:
    """A difference in two reads 30 s apart locks; audit_pnl clears it when the books agree."""
    world = entered()
    own = world.state.balances
    wrong = e.BalancesReported(time=world.now, base=own.base - 5000, quote=own.quote)
    world.step(wrong)
    assert world.state.risk.locks == ()
    world.advance(31)
    world.step(replace(wrong, time=world.now))
    assert [x.name for x in world.state.risk.locks] == [LockName.RECONCILIATION]
    audit = c.AuditPnl(audit=Audit(seq=1, executions=0, cycles=0))
    message = world.command(audit).message
    agreed = "the books agree with 0 executions and 0 cycles: balances, ledger and cycles; "
    assert message.startswith(f"{agreed}the exchange's balances differ from the books by -5000")
    assert "the lock stays" in message
    assert world.state.risk.locks != ()
    assert world.command(c.RecordFlow(base=D(-5000))).is_accepted
    assert world.command(audit).message == f"{agreed}the exchange's balances agree with the books"
    assert world.state.risk.locks == ()


def test_pair_off_needs_confirm_and_books_only_real_executions() -> None:
    """Both exits are withdrawn, then A and B are set off at their entry prices without a fee."""
    world = parked_world()
    refused = world.command(c.PairOff(slot=1))
    assert not refused.is_accepted
    assert "net" in refused.message
    assert world.command(c.PairOff(slot=1, confirm=True)).is_accepted
    world.close("1A.exit")
    actions = world.close("1B.exit")
    booked = next(x for x in actions if isinstance(x, a.BookCycleAction))
    assert booked.resolution == "pair_off"
    assert booked.record.volume == 19
    assert booked.record.gross_profit == 19 * (D("0.1002") - D("0.0998"))
    assert isinstance(world.leg("1A").state, Idle)
    residual = world.leg("1B").residual
    assert residual is not None
    assert residual.volume == 1


def test_pair_off_after_a_part_of_an_exit_books_that_part_once() -> None:
    """What the exit has executed was unbooked until now; the ledger has the gross of all of it."""
    world = parked_world()
    price = world.order("1A.exit").price
    world.fill("1A.exit", 4)
    assert world.state.accounts.unbooked == -4 * (D("0.1002") - price)
    assert world.command(c.PairOff(slot=1, confirm=True)).is_accepted
    world.close("1A.exit")
    actions = world.close("1B.exit")
    booked = next(x for x in actions if isinstance(x, a.BookCycleAction))
    gross = 19 * D("0.1002") - 4 * price - 15 * D("0.0998")
    assert (booked.record.volume, booked.record.gross_profit) == (19, gross)
    books = world.state.accounts
    assert (books.unbooked, books.grid_profit) == (0, -gross)
    assert world.state.counters["wins"] == world.state.counters["cycles"] == 1


def test_parked_slot_says_the_two_prices_that_would_free_it() -> None:
    """A parked slot is recognised, with the prices of both exits, and time is accounted for."""
    world = parked_world()
    state = parked(world.state, world.slot(), world.params)
    assert state is not None
    assert (state.low_price, state.high_price) == (
        world.order("1A.exit").price,
        world.order("1B.exit").price,
    )
    assert world.state.stints["parked:1"].since is not None


def lonely_exit(state: str) -> World:
    """Return a world whose leg B holds a position, with its exit in that state."""
    world = entered()
    world.fill("1B.entry")
    order = world.order("1B.exit")
    if state == "owed":
        world.reject("1B.exit", RejectReason.INSUFFICIENT_FUNDS)
    elif state == "uncertain":
        world.step(e.OrderUncertain(time=world.now, client_order_id=order.client_order_id))
    elif state == "cancelling":
        world.accept("1B.exit")
        close = c.SoftClose(slot=1, leg=TradeId.B, max_loss_pct=D(5), confirm=True)
        assert world.command(close).is_accepted
        assert world.order("1B.exit").status is OrderStatus.CANCELLING
    return world


EXIT_STATES = ["owed", "pending", "uncertain", "cancelling"]


@pytest.mark.parametrize("state", EXIT_STATES)
def test_soft_close_reaches_an_exit_in_any_state(state: str) -> None:
    """Owed: placed near the market at once. Else: withdrawn as soon as it is known to rest."""
    world = lonely_exit(state)
    world.price("0.102")
    close = c.SoftClose(slot=1, leg=TradeId.B, max_loss_pct=D(1), confirm=True)
    assert world.command(close).is_accepted
    if state in ("pending", "uncertain"):
        world.accept("1B.exit")
        assert [x for x in world.timer() if isinstance(x, a.CancelOrderAction)]
    if state != "owed":
        world.close("1B.exit", executed=0)
    market = world.state.market
    assert market is not None
    assert world.order("1B.exit").price == world.state.instrument.price_up(market.ask)
    world.accept("1B.exit")
    world.timer()
    assert world.order("1B.exit").status is OrderStatus.OPEN


@pytest.mark.parametrize("state", EXIT_STATES)
def test_cancel_stale_recoveries_reaches_an_exit_in_any_state(state: str) -> None:
    """The removed slot's recovery is given up whatever its exit is doing, and the slot closes."""
    world = lonely_exit(state)
    assert world.command(c.RemoveSlot(slot=1, disposition="keep_recoveries")).is_accepted
    assert world.command(c.CancelStaleRecoveries(older_than_sec=0, confirm=True)).is_accepted
    if state in ("pending", "uncertain"):
        world.accept("1B.recovery")
        assert [x for x in world.timer() if isinstance(x, a.CancelOrderAction)]
    if state != "owed":
        world.close("1B.recovery", executed=0)
    world.timer()
    world.close("1A.entry", executed=0)
    world.timer()
    assert world.state.slots == ()
    assert world.state.accounts.grid_profit == 0


def test_refused_recovery_that_is_given_up_is_released_not_retried() -> None:
    """What the operator gives up is not placed again after a refusal."""
    world = lonely_exit("pending")
    assert world.command(c.RemoveSlot(slot=1, disposition="keep_recoveries")).is_accepted
    assert world.command(c.CancelStaleRecoveries(older_than_sec=0, confirm=True)).is_accepted
    world.reject("1B.recovery", RejectReason.INSUFFICIENT_FUNDS)
    world.timer()
    assert world.slot().recovery_orders == ()
