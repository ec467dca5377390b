"""How holdings end, leg by leg and to the last digit: residuals, releases, orphans, refusals."""

from decimal import Decimal

import pytest

from core import actions as a
from core import commands as c
from core import events as e
from core.domain import (
    OrderState,
    OrderStatus,
    Owed,
    Position,
    RecoveryOrder,
    RejectReason,
    Residual,
    TradeId,
)
from core.record import replace
from core.state import AntiChase, Entering, Exiting, Idle, LegTotals
from grid.booking import keep_residual, release, write_off
from grid.endings import adverse_pct, orphan
from grid.reduction import Reduction
from leg import PAIR_OFF, holding, to_residual
from tests.regime_world import estimated
from tests.world import GOLDEN_PARAMS, HMM_PARAMS, World, entered, holding_both

D = Decimal
LEGS = pytest.mark.parametrize("leg", list(TradeId))


def held(leg: TradeId, regime: int = 2) -> World:
    """Return a world whose leg holds a position, bought or sold in that regime; its exit rests."""
    world = entered(HMM_PARAMS)
    world.step(estimated(world.now, regime))
    world.fill(f"1{leg}.entry", fee="0.02")
    world.accept(f"1{leg}.exit")
    return world


def position_of(world: World, leg: TradeId) -> Position:
    """Return the leg's position."""
    state = world.leg(f"1{leg}").state
    assert isinstance(state, Exiting)
    return state.position


def signed(leg: TradeId, amount: Decimal) -> Decimal:
    """Return an amount as the books sign it: what leg A owes is negative."""
    return amount if leg is TradeId.B else -amount


# ---- residuals ------------------------------------------------------------------------------


@LEGS
def test_untouched_position_below_the_minimum_becomes_the_residual(leg: TradeId) -> None:
    """With its cost, fees and tag; the leg is idle in its next cycle and the books follow."""
    world = held(leg)
    own = position_of(world, leg)
    r = Reduction(world.state, world.params)
    assert not to_residual(r, 1, leg)  # large enough
    r.update(instrument=replace(r.state.instrument, order_min=D(1000)))
    assert not to_residual(r, 1, TradeId.B if leg is TradeId.A else TradeId.A)  # holds nothing
    assert to_residual(r, 1, leg)
    now = r.leg(1, leg)
    assert now.residual == Residual(
        volume=own.volume, cost=own.cost, fees=D("0.02"), regime_at_entry=2
    )
    assert (now.state, now.cycle) == (Idle(since=r.now), 2)
    assert r.state.accounts.positions == 0
    assert r.state.accounts.residuals == signed(leg, own.cost)


@LEGS
def test_position_that_is_partly_closed_is_never_made_a_residual(leg: TradeId) -> None:
    """One unit is enough: its cycle has to be booked."""
    world = held(leg)
    world.fill(f"1{leg}.exit", 1)
    r = Reduction(world.state, world.params)
    r.update(instrument=replace(r.state.instrument, order_min=D(1000)))
    before = r.state
    assert not to_residual(r, 1, leg)
    assert r.state == before


@LEGS
@pytest.mark.parametrize(("before", "tag"), [("11", 2), ("12", 2), ("13", 0)])
def test_residuals_add_up_and_the_larger_one_gives_the_tag(
    leg: TradeId, before: str, tag: int
) -> None:
    """Volume, cost and fees; of equal ones the later tag counts."""
    world = held(leg)
    r = Reduction(world.state, world.params)
    old = Residual(volume=D(before), cost=D("1.3"), fees=D("0.005"), regime_at_entry=0)
    r.put_leg(1, replace(r.leg(1, leg), residual=old))
    rest = replace(
        position_of(world, leg), volume=D(20), cost=D("2.2"), closed_volume=D(8), closed_cost=D(1)
    )
    keep_residual(r, holding(r, 1, leg), rest, D("0.007"))
    assert r.leg(1, leg).residual == Residual(
        volume=D(before) + 12, cost=D("2.5"), fees=D("0.012"), regime_at_entry=tag
    )
    assert r.leg(1, leg).cycle == 1
    assert r.state.accounts.residuals == signed(leg, D("1.2"))
    moved = next(x for x in r.actions if isinstance(x, a.PostEntries))
    assert {x.account: x.amount for x in moved.entries} == {
        "positions": -signed(leg, D("1.2")), "residuals": signed(leg, D("1.2")),
    }  # fmt: skip


@LEGS
def test_rest_of_one_unit_is_a_residual_with_the_rest_of_the_fees(leg: TradeId) -> None:
    """The cycle has its share of the entry's fees, rounded; what is left over stays."""
    world = held(leg)
    own = position_of(world, leg)
    small = replace(world.state.instrument, order_min=D(2))
    world.step(e.InstrumentUpdated(time=world.now, instrument=small))
    world.fill(f"1{leg}.exit", int(own.volume) - 1, fee="0.003")
    (booked,) = [x for x in world.close(f"1{leg}.exit") if isinstance(x, a.BookCycleAction)]
    share = (D("0.02") * (own.volume - 1) / own.volume).quantize(D("1e-8"))
    assert (booked.record.entry_fee, booked.record.fees) == (share, share + D("0.003"))
    residual = world.leg(f"1{leg}").residual
    assert residual is not None
    assert (residual.volume, residual.fees) == (1, D("0.02") - share)
    assert world.slot().totals.fees == booked.record.fees
    assert world.slot().totals.net == booked.record.net_profit
    assert world.slot().totals.gross == booked.record.gross_profit


# ---- releases -------------------------------------------------------------------------------


@LEGS
@pytest.mark.parametrize("closed", [1, 7])
def test_recovery_given_up_after_a_part_books_that_part(leg: TradeId, closed: int) -> None:
    """What was executed is a cycle with its share of the fees; the rest is inventory at cost."""
    world = held(leg)
    own = position_of(world, leg)
    assert world.command(c.RemoveSlot(slot=1, disposition="keep_recoveries")).is_accepted
    price = world.order(f"1{leg}.recovery").price
    world.fill(f"1{leg}.recovery", closed, fee="0.003")
    assert world.command(c.CancelStaleRecoveries(older_than_sec=0, confirm=True)).is_accepted
    actions = world.close(f"1{leg}.recovery")
    (booked,) = [x for x in actions if isinstance(x, a.BookCycleAction)]
    record, part = booked.record, D(closed) / own.volume
    assert (booked.resolution, record.volume, record.cycle) == ("partial", closed, 1)
    assert record.entry_fee == (D("0.02") * part).quantize(D("1e-8"))
    cost = (own.cost * part).quantize(D("1e-9"))
    gross = (1 if leg is TradeId.B else -1) * (closed * price - cost)
    assert (record.gross_profit, record.exit_fee) == (gross, D("0.003"))
    is_loss = record.net_profit < 0
    counted = [world.state.counters.get(x, 0) for x in ("cycles", "losses", "wins")]
    assert counted == [1, is_loss, not is_loss]
    assert world.slot().totals.losses == is_loss
    assert record.net_profit == gross - record.entry_fee - D("0.003")
    totals, books = world.leg(f"1{leg}").totals, world.state.accounts
    first = World().state.accounts
    assert (totals.written_off_volume, totals.written_off_cost) == (
        own.volume - closed, own.cost - cost,
    )  # fmt: skip
    assert (totals.exited_volume, totals.exited_cost) == (closed, cost)
    assert (books.positions, books.residuals, books.unbooked) == (0, 0, 0)
    assert books.inventory - first.inventory == signed(leg, own.cost - cost)
    assert books.inventory_base - first.inventory_base == signed(leg, own.volume - closed)
    assert books.grid_profit == -gross
    assert world.slot().recovery_orders == ()


@LEGS
def test_recovery_given_up_untouched_is_inventory_and_no_cycle(leg: TradeId) -> None:
    """Nothing is booked; volume and cost leave the leg for the pool."""
    world = held(leg)
    own = position_of(world, leg)
    r = Reduction(world.state, world.params)
    orphan(r, 1, leg, "slot removed", is_loss=False)
    (kept,) = r.known_slot(1).recovery_orders
    before = r.state.accounts
    release(r, holding(r, 1, leg, kept.recovery_id))
    assert r.known_slot(1).recovery_orders == ()
    assert not [x for x in r.actions if isinstance(x, a.BookCycleAction)]
    totals, books = r.leg(1, leg).totals, r.state.accounts
    assert (totals.written_off_volume, totals.written_off_cost) == (own.volume, own.cost)
    assert books.positions - before.positions == -signed(leg, own.cost)
    assert books.inventory - before.inventory == signed(leg, own.cost)
    assert books.inventory_base - before.inventory_base == signed(leg, own.volume)


@LEGS
def test_writing_off_adds_to_what_was_written_off(leg: TradeId) -> None:
    """From positions or, of a slot that closes, from residuals."""
    r = Reduction(entered().state, GOLDEN_PARAMS)
    start_ = r.state.accounts
    write_off(r, 1, leg, volume=D(3), cost=D("0.3"))
    write_off(r, 1, leg, volume=D(2), cost=D("0.1"), account="residuals")
    wanted = LegTotals(written_off_volume=D(5), written_off_cost=D("0.4"))
    assert r.leg(1, leg).totals == wanted
    books = r.state.accounts
    assert books.positions - start_.positions == -signed(leg, D("0.3"))
    assert books.residuals - start_.residuals == -signed(leg, D("0.1"))
    assert books.inventory - start_.inventory == signed(leg, D("0.4"))
    assert books.inventory_base - start_.inventory_base == signed(leg, D(5))


# ---- orphans --------------------------------------------------------------------------------


@LEGS
@pytest.mark.parametrize("is_owed", [False, True])
def test_orphan_keeps_everything_of_the_exit_and_frees_the_leg(leg: TradeId, is_owed: bool) -> None:
    """Its order, tag and cycle go on in the recovery, which counts attempts of its own."""
    world = held(leg)
    r = Reduction(world.state, world.params)
    found = r.find(world.order(f"1{leg}.exit").client_order_id)
    assert found is not None
    own, exit_ = replace(r.position(found), exit_attempts=3), found.order
    debt = Owed(reason="funds", retry_at=r.now)
    r.put_holding(found, own, debt if is_owed else exit_)
    orphan(r, 1, leg, "S1 timeout", is_loss=True)
    (kept,) = r.known_slot(1).recovery_orders
    assert kept == RecoveryOrder(
        recovery_id=f"1-{leg}-1", trade_id=leg, cycle=1, position=replace(own, exit_attempts=0),
        exit=debt if is_owed else exit_, orphaned_at=r.now, reason="S1 timeout",
        regime_at_entry=2,
    )  # fmt: skip
    assert (r.leg(1, leg).cycle, r.leg(1, leg).loss_streak) == (2, 1)
    assert isinstance(r.leg(1, leg).state, Idle)
    assert r.known_slot(1).totals.orphans == r.state.counters["orphans"] == 1
    told = next(x for x in r.actions if isinstance(x, a.OrphanOrderAction))
    order_id = "" if is_owed else exit_.client_order_id
    assert told == a.OrphanOrderAction(
        slot_id=1, recovery_id=kept.recovery_id, client_order_id=order_id, reason="S1 timeout"
    )


@pytest.mark.parametrize(("leg", "expected"), [("A", "10"), ("B", "-10")])
def test_adverse_is_how_far_the_market_stands_against_the_entry(leg: str, expected: str) -> None:
    """In percent of the entry: what was sold is hurt by a rise, what was bought by a fall."""
    r = Reduction(World().state, GOLDEN_PARAMS)
    own = Position(volume=D(20), cost=D(10), fees=D(0), entered_at=0.0, filled_at=0.0)
    market = r.state.market
    assert market is not None
    r.update(market=replace(market, bid=D("0.5"), ask=D("0.6")))
    assert adverse_pct(r, own, TradeId(leg)) == D(expected)
    r.update(market=None)
    assert adverse_pct(r, own, TradeId(leg)) == 0


@pytest.mark.parametrize(
    ("loss_streak", "is_loss", "wait"),
    [(0, False, 30), (0, True, 30), (1, True, 900), (5, True, 900), (5, False, 30)],
)
def test_leg_rests_after_losses_and_else_only_cools_down(
    loss_streak: int, is_loss: bool, wait: float
) -> None:
    """The longer of both waits; a win ends the streak."""
    params = replace(
        GOLDEN_PARAMS, loss_streak_rest_at=2, loss_rest_sec=900.0, reentry_cooldown_sec=30.0
    )
    world = held(TradeId.A)
    r = Reduction(world.state, params)
    before = replace(r.leg(1, TradeId.A), loss_streak=loss_streak, entry_attempts=4)
    r.put_leg(1, replace(before, anti_chase=AntiChase(direction=1, refreshes=2, last_at=5.0)))
    orphan(r, 1, TradeId.A, "old", is_loss=is_loss)
    now = r.leg(1, TradeId.A)
    assert now.state == Idle(since=r.now, resume_at=r.now + wait)
    assert (now.loss_streak, now.entry_attempts) == (loss_streak + 1 if is_loss else 0, 0)
    assert now.anti_chase == AntiChase()


def test_a_cycle_that_breaks_even_is_no_loss() -> None:
    """To the last digit: fees that take exactly the gross."""
    world = entered()
    world.fill("1B.entry")
    world.accept("1B.exit")
    gross = 20 * (world.order("1B.exit").price - D("0.0998"))
    world.fill("1B.exit", fee=str(gross))
    assert world.slot().totals.net == 0
    assert (world.slot().totals.losses, world.leg("1B").loss_streak) == (0, 0)
    assert world.state.counters["wins"] == 1
    assert "losses" not in world.state.counters


# ---- refusals -------------------------------------------------------------------------------


@LEGS
@pytest.mark.parametrize(
    ("reason", "wait"),
    [
        (RejectReason.ORDER_MINIMUM, 300), (RejectReason.COST_MINIMUM, 300),
        (RejectReason.TICK_SIZE, 300), (RejectReason.OTHER, 60),
        (RejectReason.INSUFFICIENT_FUNDS, 60), (RejectReason.POST_ONLY, None),
        (RejectReason.NOT_SENT, 1),
    ],
)  # fmt: skip
def test_refused_entry_waits_as_its_reason_asks(
    leg: TradeId, reason: RejectReason, wait: float | None
) -> None:
    """A limit of the pair five minutes, anything else one; a price that ran past it not at all."""
    world = World()
    world.timer()
    order = world.order(f"1{leg}.entry")
    state = world.leg(f"1{leg}").state
    assert isinstance(state, Entering)
    since = state.idle_since
    world.advance(2)
    world.step(
        e.OrderRejected(time=world.now, client_order_id=order.client_order_id, reason=reason)
    )
    resume_at = None if wait is None else world.now + wait
    assert world.leg(f"1{leg}").state == Idle(since=since, resume_at=resume_at)
    assert world.state.counters[f"rejected:{reason}"] == 1


@LEGS
def test_three_crossing_refusals_within_a_minute_rest_the_leg(leg: TradeId) -> None:
    """One exactly a minute old counts no more; after the rest one refusal is remembered."""
    world = World()
    world.timer()
    for after, remembered in ((0, 1), (60, 1), (59, 2), (0.5, 1)):
        world.advance(after)
        world.price("0.1")
        world.timer(0)
        began = world.now
        world.reject(f"1{leg}.entry", RejectReason.POST_ONLY)
        now = world.leg(f"1{leg}")
        assert len(now.rejected_at) == remembered
        assert now.rejected_at[-1] == began
        assert isinstance(now.state, Idle)
    assert now.state.resume_at == world.now + 60


@LEGS
def test_exit_refused_while_pairing_waits_for_its_pair(leg: TradeId) -> None:
    """It is not tried again: once the other exit is withdrawn both are set off."""
    world = holding_both()
    other = TradeId.A if leg is TradeId.B else TradeId.B
    state = world.leg(f"1{leg}").state
    assert isinstance(state, Exiting)
    assert isinstance(state.exit, OrderState)
    pending = replace(state, exit=replace(state.exit, status=OrderStatus.PENDING, txid=None))
    legs = tuple(replace(x, state=pending) if x.trade_id is leg else x for x in world.slot().legs)
    slot = replace(world.slot(), legs=legs, pairing=True)
    world.state = replace(world.state, slots=(slot,))
    world.advance(5)
    world.reject(f"1{leg}.exit", RejectReason.INSUFFICIENT_FUNDS)
    state = world.leg(f"1{leg}").state
    assert isinstance(state, Exiting)
    assert state == Exiting(position=state.position, exit=Owed(reason=PAIR_OFF, retry_at=world.now))
    assert world.order(f"1{other}.exit").status is OrderStatus.CANCELLING


def test_refusal_of_a_known_order_is_doubted_until_it_is_said_twice() -> None:
    """Six seconds apart; the first asks the exchange, the second frees the leg."""
    world = entered()
    first = world.reject("1B.entry", RejectReason.NEVER_ARRIVED)
    order = world.order("1B.entry")
    assert (order.status, order.absent_at) == (OrderStatus.UNCERTAIN, world.now)
    asked = [x.client_order_ids for x in first if isinstance(x, a.RequestReconcile)]
    assert asked == [(order.client_order_id,)]
    assert world.state.counters["uncertain"] == 1
    world.advance(5)
    world.reject("1B.entry", RejectReason.NEVER_ARRIVED)
    assert world.order("1B.entry").absent_at == world.now - 5
    assert world.state.counters["uncertain"] == 1
    world.advance(1)
    world.reject("1B.entry", RejectReason.NEVER_ARRIVED)
    assert isinstance(world.leg("1B").state, Idle)
