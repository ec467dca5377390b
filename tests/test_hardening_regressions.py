"""One test for each known way in which grid bots have lost orders, money or their word.

Each test is named for the row it holds: D are fills and orders, L is the rest. Rows that belong to
parts that do not exist yet come with those parts.
"""

from dataclasses import dataclass
from decimal import Decimal

import msgspec
import pytest

from accounting import breakdown, claims, free, held, trial_balance
from core import actions as a
from core import commands as c
from core import events as e
from core.domain import Instrument, OrderStatus, Owed, RejectReason
from core.params import PausePolicy
from core.record import replace
from core.state import BotState, Entering, Exiting, Idle, LockName, Mode
from grid.invariants import check_invariants, liveness
from grid_strategy import break_even_pct
from risk import daily_loss_limit, standing_veto
from state_machine import reduce
from tests.world import GOLDEN_FEES, GOLDEN_INSTRUMENT, GOLDEN_PARAMS, World, entered, holding_both

D = Decimal


def placed(actions: list[a.Action]) -> list[a.PlaceOrderAction]:
    """Return the orders among actions."""
    return [x for x in actions if isinstance(x, a.PlaceOrderAction)]


def cancelled(actions: list[a.Action]) -> list[str]:
    """Return the ids of the cancels among actions."""
    return [x.client_order_id for x in actions if isinstance(x, a.CancelOrderAction)]


def reloaded(world: World) -> BotState:
    """Return the state as a restart reads it from disk."""
    return BotState.from_dict(msgspec.json.decode(msgspec.json.encode(world.state.to_dict())))


def restart(world: World, **changes: object) -> None:
    """Let the process die and begin again with the stored state, perhaps in other circumstances."""
    world.state = reloaded(world)
    params = replace(world.params, **changes)
    facts = (world.state.instrument, world.state.fees)
    world.step(
        e.Started(
            time=world.now, params=params, instrument=facts[0], fees=facts[1], bot_tag=1,
            store_epoch=2, code_version="test",
        )
    )  # fmt: skip
    world.params = params


def worth(world: World) -> Decimal:
    """Return the unexplained part of equity, which must be nothing."""
    parts = breakdown(world.state)
    assert parts is not None
    return parts.unexplained


# ---- fills, orders, identity ------------------------------------------------------------------


@dataclass(frozen=True)
class Trouble:
    """Something that once made a bot forget an exit."""

    name: str
    reason: RejectReason | None = None
    is_stale: bool = False
    is_broke: bool = False


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble("budget used up", reason=RejectReason.RATE_LIMIT),
        Trouble("never sent", reason=RejectReason.NOT_SENT),
        Trouble("never arrived", reason=RejectReason.NEVER_ARRIVED),
        Trouble("no funds", reason=RejectReason.INSUFFICIENT_FUNDS),
        Trouble("stale price", is_stale=True),
        Trouble("balances read before the fill", is_broke=True),
    ],
    ids=lambda x: x.name,
)
def test_d1_a_filled_entry_always_gets_its_exit(trouble: Trouble) -> None:
    """Whatever keeps an exit from being placed, it stays owed and is placed in the end."""
    world = entered()
    if trouble.is_stale:
        world.params = replace(world.params, stale_price_max_age_sec=5.0)
        world.advance(1_000)
    if trouble.is_broke:
        world.step(e.BalancesReported(time=world.now, base=D(0), quote=D(0)))
    world.fill("1B.entry")
    if trouble.reason is not None:
        world.reject("1B.exit", trouble.reason)
        assert isinstance(world.leg("1B").state, Exiting)
    for _ in range(70):
        if isinstance(world.leg("1B").state.exit, Owed):  # type: ignore[union-attr]  # it holds
            world.timer()
    assert world.order("1B.exit").volume == 20


def test_d2_a_fill_during_a_refresh_is_kept_and_not_placed_twice() -> None:
    """The replacement waits for the end of the old order; a fill in between is a position."""
    world = entered()
    world.price("0.105")
    ids = cancelled(world.timer())
    assert world.order("1B.entry").client_order_id in ids
    world.fill("1B.entry")
    world.close("1B.entry", 20) if isinstance(world.leg("1B").state, Entering) else None
    assert world.order("1B.exit").volume == 20
    assert world.leg("1B").totals.entered_volume == 20


def test_d3_a_part_filled_entry_that_ends_keeps_its_coins() -> None:
    """What was executed before the cancel gets an exit of just that volume."""
    world = entered()
    world.fill("1B.entry", 7)
    world.close("1B.entry", 7)
    assert world.order("1B.exit").volume == 7
    assert worth(world) == 0


def test_d3_a_part_too_small_for_an_exit_joins_the_next() -> None:
    """Below the minimum it is a residual with its cost, and is sold with the next cycle."""
    world = World(instrument=replace(GOLDEN_INSTRUMENT, order_min=D(5)))
    world.enter()
    world.fill("1B.entry", 3)
    world.close("1B.entry", 3)
    residual = world.leg("1B").residual
    assert residual is not None
    assert (residual.volume, residual.cost) == (3, D("0.2994"))
    world.enter()
    world.fill("1B.entry")
    assert world.order("1B.exit").volume == 23
    assert world.leg("1B").residual is None


def test_d4_at_a_restart_a_part_filled_order_is_still_working() -> None:
    """Nothing is decided about an order until the exchange has said what became of it."""
    world = entered()
    world.fill("1B.entry", 7)
    restart(world)
    order = world.order("1B.entry")
    assert (order.filled_volume, order.status) == (7, OrderStatus.OPEN)
    world.fill("1B.entry", 13)
    assert world.order("1B.exit").volume == 20


def test_d5_an_old_fill_told_again_changes_nothing() -> None:
    """An execution id counts once, while its order lives and after."""
    world = entered()
    world.fill("1B.entry", 7)
    event = e.FillEvent(
        time=world.now, client_order_id=world.order("1B.entry").client_order_id, txid="T",
        execution_id="E1", price=D("0.0998"), volume=D(7), cost=D("0.6986"), fee=D(0),
        executed_at=world.now,
    )  # fmt: skip
    before = world.state.balances
    world.step(event)
    world.fill("1B.entry", 13)
    world.step(event)
    assert world.state.balances.base - before.base == 13
    assert world.leg("1B").totals.entered_volume == 20


def test_d6_a_halted_bot_can_be_resumed() -> None:
    """Halt and resume are ordinary events, and a safety lock says what set it."""
    world = entered()
    assert world.command(c.Halt()).is_accepted
    assert world.command(c.Resume()).is_accepted
    assert world.state.mode is Mode.RUNNING
    world.timer()
    assert isinstance(world.leg("1B").state, Entering)


def test_d8_orders_never_add_up_to_more_than_is_owned() -> None:
    """A 44 USD account with ten slots of 40 USD places what it can fund and no more."""
    world = World(
        replace(GOLDEN_PARAMS, slot_count=10, order_size_usd=D(40)), quote=D(44), base=D(0)
    )
    for _ in range(50):
        world.timer()
    assert held(world.state).quote <= 44
    assert free(world.state).quote >= 0
    assert all(x.order.volume * x.order.price <= 44 for x in placed(world.log))


def test_d9_an_order_of_unknown_fate_is_looked_up_not_repeated() -> None:
    """After a death between intent and answer the id is asked for; nothing goes beside."""
    world = World()
    world.timer()
    order = world.order("1B.entry")
    restart(world)
    asked = [x for x in world.log if isinstance(x, a.RequestReconcile)]
    assert (order.client_order_id,) in [x.client_order_ids for x in asked]
    assert not [x for x in placed(world.timer(5)) if x.order.trade_id == "B"]
    found = e.OrderFound(
        time=world.now, client_order_id=order.client_order_id, txid="T", executed=D(0)
    )
    world.step(found)
    assert world.order("1B.entry").client_order_id == order.client_order_id


def test_d10_giving_up_a_recovery_realises_nothing() -> None:
    """Only executions change profit; what is released stays on the books as inventory."""
    world = entered()
    world.fill("1B.entry")
    world.accept("1B.exit")
    world.price("0.0985")
    world.timer(21_601)
    world.command(c.CancelStaleRecoveries(older_than_sec=0, confirm=True))
    world.close("1B.recovery")
    assert world.state.accounts.grid_profit == 0
    assert world.slot().totals.cycles == 0
    assert worth(world) == 0


@pytest.mark.parametrize("mode", ["paused", "halted", "locked"])
def test_d11_what_stopped_the_bot_survives_a_restart(mode: str) -> None:
    """A pause, a halt and a daily loss lock hold after the process has died."""
    world = entered()
    if mode == "locked":
        world.params = replace(world.params, daily_loss_limit_usd=D("0.5"))
        world.fill("1B.entry")
        for price in ("0.092", "0.085", "0.078", "0.072"):
            world.price(price)
            world.timer()
        assert [x.name for x in world.state.risk.locks] == [LockName.DAILY_LOSS]
    else:
        world.command(c.Pause() if mode == "paused" else c.Halt())
    restart(world)
    world.timer()
    if mode == "locked":
        assert [x.name for x in world.state.risk.locks] == [LockName.DAILY_LOSS]
    else:
        assert world.state.mode == mode
    assert not [x for x in placed(world.timer()) if x.order.role == "entry"]


def test_l2_l6_an_order_is_known_by_its_id_never_by_price_or_side() -> None:
    """A fill of a stranger's order at our price is counted and changes nothing."""
    world = entered()
    before = world.state.balances
    world.step(
        e.FillEvent(
            time=world.now, client_order_id="stranger", txid="X", execution_id="X1",
            price=D("0.0998"), volume=D(20), cost=D("1.996"), fee=D(0), executed_at=world.now,
        )
    )  # fmt: skip
    assert world.state.balances == before
    assert world.state.counters["unknown_fills"] == 1


@pytest.mark.parametrize("order", ["AB", "BA"])
def test_l3_both_legs_filled_between_two_looks(order: str) -> None:
    """Each leg gets its own exit, whichever is told first."""
    world = entered()
    for leg in order:
        world.fill(f"1{leg}.entry")
    assert world.order("1A.exit").side == "buy"
    assert world.order("1B.exit").side == "sell"


def test_l4_fees_are_counted_once_and_are_those_of_the_exchange() -> None:
    """The ledger's fees are the sum over executions; the cycle's net takes them once."""
    world = entered()
    world.fill("1B.entry", fee="0.005")
    world.accept("1B.exit")
    world.fill("1B.exit", fee="0.00504")
    assert world.state.accounts.fees == D("0.01004")
    record = next(x.record for x in world.log if isinstance(x, a.BookCycleAction))
    assert record.net_profit == record.gross_profit - D("0.01004")


def test_l5_no_leg_ever_has_two_orders() -> None:
    """After an entry fill nothing is placed on the same leg but its exit."""
    world = entered()
    world.fill("1B.entry")
    for _ in range(20):
        world.timer()
    legs = [x.order.trade_id for x in placed(world.log) if x.order.role == "entry"]
    assert sorted(legs) == ["A", "B"]


def test_l7_the_exit_has_the_executed_volume_whatever_the_configuration_says() -> None:
    """A new order size between entry and exit does not change the exit."""
    world = entered()
    assert world.command(c.SetOrderSize(value=D(10))).is_accepted
    world.fill("1B.entry")
    assert world.order("1B.exit").volume == 20


def test_l8_prices_come_from_cost_and_volume() -> None:
    """A cycle's prices are cost over volume, so an order that tells a price of 0 cannot matter."""
    world = holding_both()
    world.fill("1B.exit")
    record = next(x.record for x in world.log if isinstance(x, a.BookCycleAction))
    assert (record.entry_price, record.exit_price) == (D("0.0998"), D("0.100798"))


def test_l9_a_stop_and_start_leaves_the_grid_on_the_book() -> None:
    """A restart cancels nothing and places nothing."""
    world = entered()
    world.log.clear()
    restart(world)
    world.timer()
    assert placed(world.log) == []
    assert cancelled(world.log) == []


def test_l10_a_refused_cancel_leaves_the_order_where_it_is() -> None:
    """Nothing is dropped on a request; the fate is asked for."""
    world = entered()
    world.price("0.105")
    world.timer()
    order = world.order("1B.entry")
    actions = world.step(
        e.CancelRefused(time=world.now, client_order_id=order.client_order_id, reason="unknown")
    )
    assert world.order("1B.entry").client_order_id == order.client_order_id
    assert [x.client_order_ids for x in actions if isinstance(x, a.RequestReconcile)] == [
        (order.client_order_id,)
    ]


def test_l11_ids_never_repeat_across_restarts() -> None:
    """Every order ever placed has its own id, restarts or not."""
    world = World()
    for _ in range(5):
        world.enter()
        restart(world)
        for leg in ("A", "B"):
            world.close(f"1{leg}.entry")
    ids = [x.order.client_order_id for x in placed(world.log)]
    assert len(set(ids)) == len(ids) == 10


def test_l12_l42_sizes_and_prices_sit_on_the_grid_rounded_in_our_favour() -> None:
    """Also for a pair whose unit is worth 60,000, where two decimals would be nothing."""
    coin = Instrument(
        tick_size=D("0.1"), lot_size=D("0.00000001"), order_min=D("0.00005"), cost_min=D("0.5")
    )
    world = World(replace(GOLDEN_PARAMS, order_size_usd=D(20)), instrument=coin, price=D(60_000))
    world.enter()
    for leg in ("A", "B"):
        order = world.order(f"1{leg}.entry")
        assert 0 < order.volume * order.price <= 20
        assert order.price % coin.tick_size == 0
        assert order.volume % coin.lot_size == 0


def test_l15_two_slots_never_spend_the_same_dollar() -> None:
    """What one order holds, and what an unfinished entry still needs, is gone for the next."""
    world = World(
        replace(GOLDEN_PARAMS, slot_count=5, order_size_usd=D(10)), quote=D(25), base=D(0)
    )
    for _ in range(30):
        world.timer()
    assert 0 < held(world.state).quote <= 25
    assert claims(world.state).quote <= world.state.balances.quote


# ---- money and risk ---------------------------------------------------------------------------


def test_l18_a_target_the_fees_eat_is_vetoed_at_the_point_of_use() -> None:
    """When the fee tier is lost no entry is placed, whatever was configured."""
    world = World()
    world.step(e.FeesUpdated(time=world.now, fees=replace(GOLDEN_FEES, maker=D("0.006"))))
    world.timer()
    assert placed(world.log) == []
    assert break_even_pct(D("0.006")) > world.params.profit_pct


def test_l19_l20_a_restart_buys_nothing_again_and_configuration_is_the_authority() -> None:
    """Positions are kept, sizes come from the new configuration."""
    world = entered()
    world.fill("1B.entry")
    restart(world, order_size_usd=D(3))
    world.timer()
    assert [x.order.role for x in placed(world.log)].count("entry") == 2
    world.accept("1B.exit")
    world.fill("1B.exit")
    world.enter()
    assert world.order("1B.entry").volume == 30


def test_l21_an_orphan_counts_as_a_loss_for_the_streak() -> None:
    """The leg's streak grows though nothing was realised."""
    world = entered()
    world.fill("1B.entry")
    world.accept("1B.exit")
    world.price("0.0985")
    world.timer(21_601)
    assert world.leg("1B").loss_streak == 1


def test_l22_orphaning_is_patient_by_default() -> None:
    """Hours, not minutes."""
    assert GOLDEN_PARAMS.s1_orphan_after_sec >= 6 * 3600
    assert GOLDEN_PARAMS.s2_orphan_after_sec >= 12 * 3600


def test_l23_l25_the_recovery_cap_holds_and_forces_no_loss() -> None:
    """At the cap exits stay where they are, however old; nothing is realised."""
    world = holding_both()
    for _ in range(6):
        world.price("0.097") if world.state.now % 2 else world.price("0.0975")
        world.timer(43_201)
    assert len(world.slot().recovery_orders) <= 1
    assert world.state.accounts.grid_profit == 0


def test_l24_the_daily_limit_is_on_by_default_and_off_only_in_words() -> None:
    """Unset means 5 % of the equity at midnight; nothing but "off" is no limit."""
    world = entered()
    world.timer()
    limit = daily_loss_limit(world.state, world.params)
    assert limit is not None
    assert limit == world.state.risk.day_start_equity * D("0.05")
    assert daily_loss_limit(world.state, replace(world.params, daily_loss_limit_usd=D(0))) is None


def test_l26_l27_deployed_idle_and_claimed_add_up_to_the_balance() -> None:
    """Free, held by orders and claimed are what is owned, in both assets; the ledger balances."""
    world = entered()
    world.fill("1B.entry", 7)
    own = world.state.balances
    parts = (free(world.state), held(world.state), claims(world.state))
    assert sum(x.quote for x in parts) == own.quote
    assert sum(x.base for x in parts) == own.base
    assert trial_balance(world.state.accounts) == 0


def test_l28_a_deposit_is_no_profit() -> None:
    """Flows have an account of their own."""
    world = entered()
    world.step(e.ExternalFlow(time=world.now, base=D(0), quote=D(500), reference="deposit"))
    assert worth(world) == 0
    assert world.state.accounts.grid_profit == 0
    assert world.state.accounts.flows != 0


def test_l35_l58_reductions_never_push_an_order_below_the_minimum() -> None:
    """At HIGH a size near the minimum is held there, so that shrinking cannot stop the grid."""
    world = World(replace(GOLDEN_PARAMS, order_size_usd=D("2.1")), instrument=replace(
        GOLDEN_INSTRUMENT, order_min=D(20)))  # fmt: skip
    world.state = replace(world.state, risk=replace(world.state.risk, level="HIGH", peak=D(1)))
    world.enter()
    assert world.order("1B.entry").volume >= 20


def test_l37_one_function_says_why_a_side_is_quiet_and_counts_it() -> None:
    """A leg that may not enter carries the reason, the status counts it, and time is reported."""
    world = World(quote=D("0.05"))
    world.enter()
    world.timer(400)
    state = world.leg("1B").state
    assert isinstance(state, Idle)
    assert state.veto == "funds"
    assert world.state.counters["veto:funds"] >= 1
    assert standing_veto(world.state, world.slot(), world.leg("1A")) is None
    assert any("1B" in text or "leg B" in text for text in liveness(world.state, world.params))


def test_l37a_the_leg_that_waited_longest_goes_first() -> None:
    """With funds for one buy at a time, slots take turns."""
    params = replace(GOLDEN_PARAMS, slot_count=2, max_equity_share=D(1))
    world = World(params, quote=D("2.01"), base=D(0))
    for _ in range(5):
        world.timer()
    first = next(s.slot_id for s in world.state.slots if isinstance(s.legs[1].state, Entering))
    world.accept(f"{first}B.entry")
    world.price("0.105")
    world.timer()
    world.close(f"{first}B.entry")
    for _ in range(5):
        world.timer(400)
    now = next(s.slot_id for s in world.state.slots if isinstance(s.legs[1].state, Entering))
    assert now != first


def test_l40_a_slot_without_funds_stops_no_other() -> None:
    """One slot waits; the others trade, and the bot stays running."""
    world = World(replace(GOLDEN_PARAMS, slot_count=3), quote=D("4.1"))
    for _ in range(20):
        world.timer()
    buys = [s for s in world.state.slots if isinstance(s.legs[1].state, Entering)]
    assert len(buys) == 2
    assert world.state.mode is Mode.RUNNING


def test_l41_the_largest_order_is_capped_outside_the_strategy() -> None:
    """However much a slot has earned, MAX_ORDER_USD holds and says so."""
    world = World(replace(GOLDEN_PARAMS, order_size_usd=D(100), max_order_usd=D(50)))
    world.enter()
    order = world.order("1B.entry")
    assert order.volume * order.price <= 50


# ---- halts, availability, persistence ---------------------------------------------------------


def test_l39_an_old_snapshot_without_a_field_loads_as_the_careful_value() -> None:
    """What a snapshot lacks is never the dangerous choice: locks stay, nothing is orphaned."""
    world = holding_both()
    stored = world.state.to_dict()
    for name in ("stints", "counters", "fill_secs", "retired_base", "code_version"):
        stored.pop(name, None)
    for slot in stored["slots"]:
        for name in ("closing", "pairing", "recovery_orders"):
            slot.pop(name, None)
    state = BotState.from_dict(stored)
    state, actions = reduce(state, e.TimerTick(time=world.now + 1), world.params)
    assert not [x for x in actions if isinstance(x, a.OrphanOrderAction | a.CancelOrderAction)]
    assert check_invariants(state) == []


def test_l38_l43_waiting_is_never_a_violation() -> None:
    """One-sided, without funds, without a price, below the minimum: reported, never halted."""
    for world in (
        World(price=None),
        World(quote=D(0)),
        World(base=D(0), quote=D(0)),
        World(replace(GOLDEN_PARAMS, order_size_usd=D("0.05"))),
    ):
        world.enter()
        world.timer(10_000)
        assert world.state.mode is Mode.RUNNING
        assert world.state.risk.locks == ()


def test_l29_numbers_that_are_none_cannot_reach_a_snapshot() -> None:
    """Prices that are no numbers are refused at the door, and a state is plain JSON."""
    world = entered()
    for text in ("NaN", "Infinity", "-1", "0"):
        world.step(e.PriceTick(time=world.now, bid=D(text), ask=D(text), last=D(text)))
    assert world.state.counters["insane_prices"] == 4
    assert "NaN" not in msgspec.json.encode(world.state.to_dict()).decode()


def test_l52_the_state_does_not_grow_with_history() -> None:
    """After forty cycles it is about as large as after ten."""
    sizes = []
    world = World()
    for n in range(1, 41):
        world.enter()
        for leg in ("A", "B"):
            world.fill(f"1{leg}.entry")
            world.accept(f"1{leg}.exit")
            world.fill(f"1{leg}.exit")
        if n in (10, 40):
            sizes.append(len(msgspec.json.encode(world.state.to_dict())))
    assert world.slot().totals.cycles == 80
    assert sizes[1] - sizes[0] < 2_000


@pytest.mark.parametrize("policy", list(PausePolicy))
def test_l56_a_pause_says_what_happens_to_resting_entries(policy: PausePolicy) -> None:
    """Withdrawn or kept, as configured; exits stay either way."""
    world = World(replace(GOLDEN_PARAMS, pause_policy=policy))
    world.enter()
    world.fill("1B.entry")
    world.accept("1B.exit")
    world.log.clear()
    world.command(c.Pause())
    world.timer()
    ids = cancelled(world.log)
    assert (world.order("1A.entry").client_order_id in ids) is (policy is PausePolicy.WITHDRAW)
    assert world.order("1B.exit").client_order_id not in ids


def test_l57_a_halt_does_not_stop_accounting() -> None:
    """Executions of a halted bot are booked, cycles too, and owed exits are placed."""
    world = entered()
    world.command(c.Halt())
    world.fill("1B.entry")
    world.accept("1B.exit")
    world.fill("1B.exit")
    assert world.slot().totals.cycles == 1
    assert world.state.accounts.grid_profit == D("-0.01996")
