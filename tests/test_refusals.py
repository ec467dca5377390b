"""Orders that are refused, lost or of unknown fate (spec: grid, section 6; exchange, section 3)."""

from decimal import Decimal

import pytest

from core import actions as a
from core import commands as c
from core import events as e
from core.domain import OrderStatus, Owed, RejectReason
from core.params import PausePolicy
from core.record import replace
from core.state import BotState, Entering, Exiting, Idle, SlotState
from grid.invariants import liveness
from leg import ATTEMPTS_MAX
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


def test_used_up_order_numbers_keep_an_exit_owed_and_an_orphan_counts_anew() -> None:
    """The exit stays owed with its reason; as a recovery it has numbers of its own."""
    world = entered()
    world.fill("1B.entry")
    world.reject("1B.exit", RejectReason.INSUFFICIENT_FUNDS)
    state = world.leg("1B").state
    assert isinstance(state, Exiting)
    spent = replace(state, position=replace(state.position, exit_attempts=ATTEMPTS_MAX))
    slot = replace(world.slot(), legs=(world.leg("1A"), replace(world.leg("1B"), state=spent)))
    world.state = replace(world.state, slots=(slot,))
    world.timer(60)
    debt = owed(world, "1B")
    assert debt is not None
    assert debt.reason == "its order numbers are used up"
    assert world.command(c.RemoveSlot(slot=1, disposition="keep_recoveries")).is_accepted
    world.timer(60)
    order = world.order("1B.recovery")
    assert (order.role, order.attempt) == ("recovery", 1)


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


@pytest.mark.parametrize("name", ["1B.entry", "1A.exit"])
def test_refusal_of_an_acknowledged_order_is_doubted_not_believed(name: str) -> None:
    """An order with an exchange id is never dropped on a refusal: it is asked about."""
    world = holding_both() if name == "1A.exit" else entered()
    actions = world.reject(name, RejectReason.OTHER)
    assert world.order(name).status is OrderStatus.UNCERTAIN
    assert [x for x in actions if isinstance(x, a.RequestReconcile)]
    assert told(world, "uncertain")
    assert not [x for x in world.reject(name, RejectReason.NEVER_ARRIVED)]
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
