"""Orders that are refused, lost or of unknown fate (spec: grid, section 6; exchange, section 3)."""

from decimal import Decimal

import pytest

from core import actions as a
from core import commands as c
from core import events as e
from core.domain import OrderState, OrderStatus, Owed, RejectReason, TradeId
from core.params import PausePolicy
from core.record import replace
from core.state import BotState, Entering, Exiting, Idle, LockName, SlotState
from grid.invariants import liveness
from leg import ATTEMPTS_MAX, MARKET_AWAY
from tests.world import GOLDEN_PARAMS, World, entered, holding_both

D = Decimal


def owed(world: World, name: str) -> Owed | None:
    """Return the debt of a leg's exit, None while its order exists."""
    state = world.leg(name).state
    assert isinstance(state, Exiting)
    return state.exit if isinstance(state.exit, Owed) else None


def told(world: World, kind: str) -> list[str]:
    """Return what the operator was told of that kind."""
    return [x.text for x in world.log if isinstance(x, a.Notify) and x.kind == kind]


def test_owed_exit_is_retried_after_1_5_15_60_seconds_and_alerts_once() -> None:
    """However often it is placed and refused in between, the debt is as old as the position."""
    world = entered()
    world.fill("1B.entry")
    began, waits = world.now, []
    while len(waits) < 8:
        world.reject("1B.exit", RejectReason.INSUFFICIENT_FUNDS)
        debt = owed(world, "1B")
        assert debt is not None
        waits.append(debt.retry_at - world.now)
        is_late = world.now - began >= 120
        assert bool(told(world, "owed_exit")) is is_late
        assert any("is owed for" in x for x in liveness(world.state, world.params)) is is_late
        while owed(world, "1B") is not None:
            world.timer()
    assert waits == [1, 5, 15, 60, 60, 60, 60, 60]
    (text,) = told(world, "owed_exit")
    assert "insufficient_funds" in text or "pending" in text
    world.accept("1B.exit")
    assert not any("is owed for" in x for x in liveness(world.state, world.params))
    world.close("1B.exit", executed=0)
    world.reject("1B.exit", RejectReason.INSUFFICIENT_FUNDS)
    debt = owed(world, "1B")
    assert debt is not None
    assert debt.retry_at == world.now + 1  # a new debt


@pytest.mark.parametrize("reason", [RejectReason.NOT_SENT, RejectReason.NEVER_ARRIVED])
def test_entry_that_was_never_sent_waits_longer_each_time(reason: RejectReason) -> None:
    """1, 5, 15, then 60 s between tries, until one is acknowledged."""
    world = World()
    world.timer()
    began, waits = world.now, []
    for _ in range(5):
        world.reject("1B.entry", reason)
        state = world.leg("1B").state
        assert isinstance(state, Idle)
        assert state.resume_at is not None
        assert state.since == began - 1  # it has wanted an entry all the while
        waits.append(state.resume_at - world.now)
        while isinstance(world.leg("1B").state, Idle):
            world.timer()
    assert waits == [1, 5, 15, 60, 60]
    world.accept("1B.entry")
    assert world.leg("1B").refusals == 0


def test_used_up_order_numbers_move_an_entry_to_its_next_cycle() -> None:
    """The id has room for 4,095 attempts a cycle; the leg goes on with the next cycle's."""
    world = World()
    leg = replace(world.leg("1B"), entry_attempts=ATTEMPTS_MAX)
    slot = replace(world.slot(), legs=(world.leg("1A"), leg))
    world.state = replace(world.state, slots=(slot,))
    world.timer()
    assert (world.order("1B.entry").cycle, world.order("1B.entry").attempt) == (2, 1)
    assert world.leg("1B").cycle == 2


def test_used_up_order_numbers_of_an_exit_go_on_in_the_next_cycle() -> None:
    """The exit is placed under the leg's next cycle number, and the cycle is booked under it."""
    world = entered()
    world.fill("1B.entry")
    world.reject("1B.exit", RejectReason.INSUFFICIENT_FUNDS)
    state = world.leg("1B").state
    assert isinstance(state, Exiting)
    spent = replace(state, position=replace(state.position, exit_attempts=ATTEMPTS_MAX))
    slot = replace(world.slot(), legs=(world.leg("1A"), replace(world.leg("1B"), state=spent)))
    world.state = replace(world.state, slots=(slot,))
    world.timer(60)
    order = world.order("1B.exit")
    assert (order.cycle, order.attempt) == (2, 1)
    world.accept("1B.exit")
    (record,) = [x.record for x in world.fill("1B.exit") if isinstance(x, a.BookCycleAction)]
    assert (record.cycle, world.leg("1B").cycle) == (2, 3)


def test_crossing_refusals_of_the_last_minute_alone_move_the_price() -> None:
    """Each refusal puts the next entry 0.02 % farther away; a minute later it counts no more."""
    world = World()
    world.timer()
    near = world.order("1B.entry").price
    world.reject("1B.entry", RejectReason.POST_ONLY)
    world.timer()
    world.price("0.1")
    world.timer()
    assert world.order("1B.entry").price < near
    world.accept("1B.entry")
    world.timer(61)
    world.close("1B.entry", executed=0)
    world.price("0.1")
    world.timer()
    assert world.order("1B.entry").price == near


@pytest.mark.parametrize("reason", MARKET_AWAY)
def test_entry_that_the_exchange_ends_as_crossing_counts_as_refused(reason: RejectReason) -> None:
    """Taken first and ended a moment later: the next is farther away, after three it rests."""
    world, seen = World(), []
    for _ in range(3):
        world.advance(1)
        world.price("0.1")
        world.timer()
        seen.append(world.order("1B.entry").price)
        world.accept("1B.entry")
        world.close("1B.entry", reason=reason)
    assert seen[0] > seen[1] > seen[2]
    state = world.leg("1B").state
    assert isinstance(state, Idle)
    assert state.resume_at == world.now + 60


def test_exit_that_the_exchange_ends_as_crossing_counts_as_refused() -> None:
    """It is tried farther away after 1, 5, 15 and 60 s, however often it is taken first."""
    world = entered()
    world.fill("1B.entry")
    world.price("0.12")
    prices, waits = [], []
    for _ in range(5):
        world.accept("1B.exit")
        prices.append(world.order("1B.exit").price)
        world.close("1B.exit", reason="post_only")
        state = world.leg("1B").state
        assert isinstance(state, Exiting)
        assert isinstance(state.exit, Owed)
        waits.append(state.exit.retry_at - world.now)
        world.advance(waits[-1])
        world.price("0.12")
        world.timer()
    assert waits == [1, 5, 15, 60, 60]
    assert prices[1] < prices[2] < prices[3] == prices[4]


def test_order_that_has_executed_before_it_is_ended_is_booked_as_ever() -> None:
    """What it executed becomes a position; the rest of an exit is placed again at once."""
    world = entered()
    world.fill("1B.entry", 10)
    world.close("1B.entry", reason="self_trade")
    assert world.order("1B.exit").volume == 10
    world.accept("1B.exit")
    world.fill("1B.exit", 4)
    world.close("1B.exit", reason="self_trade")
    assert world.order("1B.exit").volume == 6


@pytest.mark.parametrize("name", ["1B.entry", "1A.exit"])
def test_refusal_of_an_acknowledged_order_is_doubted_not_believed(name: str) -> None:
    """An order with an exchange id is never dropped on a refusal: it is asked about."""
    world = holding_both() if name == "1A.exit" else entered()
    actions = world.reject(name, RejectReason.OTHER)
    assert world.order(name).status is OrderStatus.UNCERTAIN
    assert [x for x in actions if isinstance(x, a.RequestReconcile)]
    assert told(world, "uncertain")
    assert not [x for x in world.reject(name, RejectReason.NEVER_ARRIVED)]
    assert world.order(name).status is OrderStatus.UNCERTAIN
    world.step(
        e.OrderFound(
            time=world.now,
            client_order_id=world.order(name).client_order_id,
            txid=world.order(name).txid or "",
            executed=D(0),
        )
    )
    assert world.order(name).status is OrderStatus.OPEN


def test_duplicate_id_means_the_order_may_be_open() -> None:
    """The exchange knows an open order of that id: it is asked about, never doubled."""
    world = World()
    world.timer()
    first = world.order("1B.entry").client_order_id
    actions = world.reject("1B.entry", RejectReason.DUPLICATE_ID)
    assert world.order("1B.entry").status is OrderStatus.UNCERTAIN
    asked = [x for x in actions if isinstance(x, a.RequestReconcile)]
    assert [x.client_order_ids for x in asked] == [(first,)]
    world.reject("1B.entry", RejectReason.NEVER_ARRIVED)
    world.timer()
    assert world.order("1B.entry").client_order_id != first


def unsettled(world: World, kind: str) -> str:
    """Bring an order into the state `kind` and return its id."""
    client_order_id = world.order("1B.entry").client_order_id
    if kind == "uncertain":
        world.step(e.OrderUncertain(time=world.now, client_order_id=client_order_id))
    elif kind == "executions missing":
        world.accept("1B.entry")
        world.close("1B.entry", executed=7)
    return client_order_id


@pytest.mark.parametrize("kind", ["pending", "uncertain", "executions missing"])
def test_unknown_fate_is_asked_about_every_30_seconds_and_at_every_start(kind: str) -> None:
    """No answer is no answer; the question is repeated, and again after a restart."""
    world = World()
    world.timer()
    world.accept("1A.entry")
    client_order_id = unsettled(world, kind)
    for _ in range(2):
        asked = []
        for _ in range(30):
            asked += [x for x in world.timer() if isinstance(x, a.RequestReconcile)]
        assert [x.client_order_ids for x in asked if x.client_order_ids] == [(client_order_id,)]
    started = e.Started(
        time=world.now, params=world.params, instrument=world.state.instrument,
        fees=world.state.fees, bot_tag=1, store_epoch=2, code_version="test",
    )  # fmt: skip
    again = [x for x in world.step(started) if isinstance(x, a.RequestReconcile)]
    assert (client_order_id,) in [x.client_order_ids for x in again]


def test_start_under_another_name_is_no_repetition() -> None:
    """A new bot tag or store epoch takes effect: later orders carry it."""
    world = World()
    started = e.Started(
        time=world.now, params=world.params, instrument=world.state.instrument,
        fees=world.state.fees, bot_tag=9, store_epoch=2, code_version="test",
    )  # fmt: skip
    world.step(started)
    assert world.state.bot_tag == 9


def test_cancel_is_repeated_every_10_seconds() -> None:
    """A cancel without an answer is asked for again; it stays one request after another."""
    world = entered()
    world.command(c.Pause())
    world.timer()
    cancels = []
    for _ in range(21):
        cancels += [x.reason for x in world.timer() if isinstance(x, a.CancelOrderAction)]
    assert cancels == ["repeated"] * 4  # two entries, at 10 and 20 s


def test_owed_exit_is_retried_at_once_only_when_the_balances_change() -> None:
    """A report that differs from our books, but says what it said before, calls for no hurry."""
    world = entered()
    world.fill("1B.entry")
    world.reject("1B.exit", RejectReason.INSUFFICIENT_FUNDS)
    own = world.state.balances
    low = e.BalancesReported(time=world.now, base=own.base - 5, quote=own.quote)
    world.step(low)
    assert owed(world, "1B") is None
    world.reject("1B.exit", RejectReason.INSUFFICIENT_FUNDS)
    world.step(low)
    assert owed(world, "1B") is not None


def resting_far(state: BotState) -> SlotState:
    """Return the only slot of a state."""
    return state.slots[0]


@pytest.mark.parametrize("why", ["cancel_only", "spread", "insane", "paused"])
def test_entry_is_not_refreshed_where_none_may_be_placed(why: str) -> None:
    """Far from the market or not: what could not be put back is not taken away."""
    world = World(replace(GOLDEN_PARAMS, pause_policy=PausePolicy.STAY))
    world.enter()
    world.price("0.105")
    if why == "cancel_only":
        world.step(e.HealthChanged(time=world.now, system_status="cancel_only"))
    elif why == "spread":
        world.price("0.105", spread="0.02")
    elif why == "insane":
        world.price("0.2")
    else:
        world.command(c.Pause())
    assert not [x for x in world.timer() if isinstance(x, a.CancelOrderAction)]
    assert isinstance(resting_far(world.state).legs[1].state, Entering)


def test_two_negatives_some_seconds_apart_are_proof_against_an_exchange_id() -> None:
    """One is a view that lags; after the second the exit is owed, and placed again."""
    world = entered()
    world.fill("1B.entry")
    world.accept("1B.exit")
    first = world.order("1B.exit").client_order_id
    world.reject("1B.exit", RejectReason.NEVER_ARRIVED)
    world.advance(5)
    world.reject("1B.exit", RejectReason.NEVER_ARRIVED)
    assert world.order("1B.exit").client_order_id == first
    world.advance(25)
    world.reject("1B.exit", RejectReason.NEVER_ARRIVED)
    assert owed(world, "1B") is not None
    world.timer()
    assert world.order("1B.exit").client_order_id != first


def execution(world: World, order: OrderState, volume: int, name: str) -> None:
    """Tell of an execution of an order, alive or not."""
    world.step(
        e.FillEvent(
            time=world.now, client_order_id=order.client_order_id, txid="T", execution_id=name,
            price=order.price, volume=D(volume), cost=order.price * volume, fee=D(0),
            executed_at=world.now,
        )
    )  # fmt: skip


@pytest.mark.parametrize("older", ["closed 5", "never_arrived", "duplicate_id"])
def test_executed_volume_never_falls(older: str) -> None:
    """A later word that says less, or that it never was, does not end the wait for executions."""
    world = entered()
    order = world.order("1B.entry")
    world.fill("1B.entry", 5)
    world.close("1B.entry", executed=10)
    if older == "closed 5":
        world.close("1B.entry", executed=5)
    else:
        world.reject("1B.entry", RejectReason(older))
    execution(world, order, 5, "late")
    assert world.state.counters.get("unknown_fills", 0) == 0
    assert world.order("1B.exit").volume == 10


@pytest.mark.parametrize("reason", [RejectReason.DUPLICATE_ID, RejectReason.NEVER_ARRIVED])
def test_refusal_of_what_has_executed_is_doubted(reason: RejectReason) -> None:
    """It existed; what it executes further is booked."""
    world = entered()
    order = world.order("1B.entry")
    world.fill("1B.entry", 5)
    world.reject("1B.entry", reason)
    world.advance(60)
    world.reject("1B.entry", reason)
    assert world.order("1B.entry").status is OrderStatus.UNCERTAIN
    execution(world, order, 15, "rest")
    assert world.order("1B.exit").volume == 20


def test_ended_exit_is_not_orphaned_while_its_executions_are_missing() -> None:
    """It is over: neither a loss nor a recovery."""
    world = holding_both()
    world.close("1B.exit", executed=7)
    world.price("0.08")
    world.price("0.08")
    world.timer(50_000)
    assert world.slot().recovery_orders == ()
    assert world.state.counters.get("orphans", 0) == 0


# ---- exits that the exchange would surely refuse ----------------------------------------------


def test_exit_that_cannot_be_paid_for_is_owed_and_breaks_nothing() -> None:
    """A soft close of leg A above its funds waits for them instead of violating the hold check."""
    world = World(quote=D("2.1"))
    world.enter()
    world.fill("1A.entry")
    world.accept("1A.exit")
    for price in ("0.12", "0.12"):
        world.price(price)
    world.timer()
    close = c.SoftClose(slot=1, leg=TradeId.A, max_loss_pct=D(60), confirm=True)
    assert world.command(close).is_accepted
    world.close("1A.exit", executed=0)
    if owed(world, "1A") is not None:
        assert owed(world, "1A") == Owed(reason="funds", retry_at=world.now + 1)
    assert world.state.risk.locks == ()


def test_withdrawal_while_an_exit_is_owed_is_the_funds_lock_alone() -> None:
    """Nothing is placed that is not there; a deposit places it."""
    world = World(base=D(0))
    world.enter()
    world.fill("1B.entry")
    world.reject("1B.exit", RejectReason.MARKET_MODE)
    world.step(e.ExternalFlow(time=world.now, base=D(-15), quote=D(0), reference="withdrawn"))
    world.timer(60)
    assert LockName.SAFETY not in [x.name for x in world.state.risk.locks]
    debt = owed(world, "1B")
    assert debt is not None
    assert debt.reason == "funds"
    world.step(e.ExternalFlow(time=world.now, base=D(15), quote=D(0), reference="back"))
    assert world.order("1B.exit").volume == 20


def test_exit_waits_for_a_closed_exchange_without_using_up_numbers() -> None:
    """In maintenance nothing is tried; the word that it is over places the exit at once."""
    world = entered()
    world.step(e.HealthChanged(time=world.now, system_status="maintenance"))
    world.fill("1B.entry")
    for _ in range(10):
        world.timer(60)
    state = world.leg("1B").state
    assert isinstance(state, Exiting)
    assert state.position.exit_attempts == 0
    world.step(e.HealthChanged(time=world.now, system_status="online"))
    assert world.order("1B.exit").attempt == 1


def test_exit_stays_on_a_lot_grid_that_has_grown() -> None:
    """Position 13, lot 10: an exit of 10; the 3 become the leg's residual."""
    world = entered()
    world.fill("1B.entry", 13)
    coarse = replace(world.state.instrument, lot_size=D(10), order_min=D(10))
    world.step(e.InstrumentUpdated(time=world.now, instrument=coarse))
    world.close("1B.entry")
    assert world.order("1B.exit").volume == 10
    world.accept("1B.exit")
    world.fill("1B.exit")
    residual = world.leg("1B").residual
    assert residual is not None
    assert residual.volume == 3


def test_soft_close_waits_for_a_fresh_price() -> None:
    """With a stale price the exit rests at its target; with the next one it is priced anew."""
    world = World(replace(GOLDEN_PARAMS, stale_price_max_age_sec=60.0))
    world.enter()
    world.fill("1B.entry")
    world.accept("1B.exit")
    close = c.SoftClose(slot=1, leg=TradeId.B, max_loss_pct=D(5), confirm=True)
    assert world.command(close).is_accepted
    world.advance(100)
    world.close("1B.exit", executed=0)
    world.accept("1B.exit")
    world.timer()
    assert world.order("1B.exit").status is OrderStatus.OPEN
    target = world.order("1B.exit").price
    world.price("0.1")
    world.timer()
    world.close("1B.exit", executed=0)
    assert world.order("1B.exit").price < target


def test_soft_close_without_a_price_near_the_market_is_refused() -> None:
    """Below one tick there is nothing."""
    world = entered()
    world.fill("1A.entry")
    world.accept("1A.exit")
    for _ in range(2):
        world.quote(D("0.0000004"), D("0.0000009"))
    reply = world.command(c.SoftClose(slot=1, leg=TradeId.A, max_loss_pct=D(99), confirm=True))
    assert not reply.is_accepted
    assert "there is no price near" in reply.message


def test_break_even_is_asked_after_the_price() -> None:
    """The reasons are asked in the order of the contract."""
    world = World(replace(GOLDEN_PARAMS, stale_price_max_age_sec=60.0))
    dear = replace(world.state.fees, maker=D("0.02"))
    world.step(e.FeesUpdated(time=world.now, fees=dear))
    world.timer(1000)
    state = world.leg("1B").state
    assert isinstance(state, Idle)
    assert state.veto == "stale_price"
    world.step(e.FeesUpdated(time=world.now, fees=replace(dear, maker=D(1))))
    assert world.state.fees.maker == D("0.02")  # that is no fee


@pytest.mark.parametrize("name", ["1A.exit", "1B.entry"])
def test_a_cancel_that_is_not_the_bots_is_told_and_the_order_placed_again(name: str) -> None:
    """Somebody cancels by hand: the operator hears which order it was; our own cancels are none."""
    world = entered()
    if name == "1A.exit":
        world.fill("1A.entry")
        world.accept("1A.exit")
    order = world.order(name)
    world.close(name)
    (text,) = told(world, "cancelled")
    what = f"{order.role} order {order.client_order_id} was cancelled at the exchange, not by the"
    assert what in text
    world.timer()
    assert world.order(name).client_order_id != order.client_order_id
    world.accept(name)
    world.command(c.Pause())
    world.timer()
    if name == "1B.entry":
        world.close(name)
    assert len(told(world, "cancelled")) == 1
