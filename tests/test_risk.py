"""Locks, levels, capacity and the one decision about entries (spec: runtime, section 3)."""

from decimal import Decimal

import pytest

from accounting import benchmarks, breakdown, equity
from core import actions as a
from core import commands as c
from core import events as e
from core.domain import OrderStatus, Role, TradeId
from core.order_id import OrderPlace, decode, encode
from core.record import replace
from core.state import Entering, Idle, Leg, LockName, RiskLevel, SlotState
from risk import (
    Approved,
    Draft,
    Refused,
    Veto,
    VetoReason,
    capacity,
    daily_loss,
    drawdown,
    entry_allowed,
    level_after_recovery,
    level_for,
    review,
    slots_max,
)
from tests.world import GOLDEN_INSTRUMENT, GOLDEN_PARAMS, START, World

D = Decimal


def test_veto_reasons_stand_in_the_order_of_the_specification() -> None:
    """The order in which reasons are asked is part of the contract."""
    assert [str(x) for x in VetoReason] == [
        "halted", "paused", "closing", "lock", "risk_level", "stale_price", "insane_price",
        "spread", "exchange", "clock", "capacity", "portfolio", "uncertain", "cooldown",
        "anti_chase", "suppressed", "below_break_even", "funds", "below_minimum", "throttle",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("orders", "band"), [(148, "normal"), (149, "caution"), (158, "caution"), (159, "stop")]
)
def test_capacity_bands_are_golden(orders: int, band: str) -> None:
    """At a limit of 225 the safe cap is 168.75: 148 normal, 149 and 158 caution, 159 stop."""
    world = World()
    world.enter()
    order = world.order("1B.entry")
    slots = []
    for n in range(orders):
        own = replace(order, client_order_id=f"id{n}")
        leg = Leg(trade_id=TradeId.B, state=Entering(order=own))
        idle = world.leg("1A")
        slots.append(SlotState(slot_id=n, place=n, alias="x", legs=(_idle(idle), leg)))
    state = replace(world.state, slots=tuple(slots))
    room = capacity(state, replace(world.params, open_order_limit=225))
    assert (room.safe_cap, room.band) == (D("168.75"), band)


def _idle(leg: Leg) -> Leg:
    return replace(leg, state=Idle(since=0.0))


@pytest.mark.parametrize(
    ("fall", "level"),
    [
        ("0.0499", RiskLevel.LOW),
        ("0.05", RiskLevel.MEDIUM),
        ("0.1", RiskLevel.HIGH),
        ("0.15", RiskLevel.CRITICAL),
        ("0.2", RiskLevel.EMERGENCY),
    ],
)
def test_levels_begin_at_their_thresholds(fall: str, level: RiskLevel) -> None:
    """5, 10, 15 and 20 % drawdown."""
    assert level_for(D(fall)) is level


@pytest.mark.parametrize(
    ("level", "fall", "after"),
    [
        (RiskLevel.MEDIUM, "0.045", RiskLevel.MEDIUM),
        (RiskLevel.MEDIUM, "0.04", RiskLevel.LOW),
        (RiskLevel.EMERGENCY, "0.12", RiskLevel.HIGH),
    ],
)
def test_a_level_is_left_one_point_below_its_threshold(
    level: RiskLevel, fall: str, after: RiskLevel
) -> None:
    """Hysteresis is one percentage point."""
    assert level_after_recovery(level, D(fall)) is after


def losing_world(**changes: object) -> World:
    """Return a world that has bought 9,000 DOGE at 0.1, so that a fall of the price hurts."""
    params = replace(
        GOLDEN_PARAMS,
        order_size_usd=D(900),
        max_order_usd=D(1000),
        max_equity_share=D(1),
        **changes,
    )
    world = World(params)
    world.enter()
    world.fill("1B.entry")
    world.accept("1B.exit")
    return world


def test_a_fall_of_the_coin_alone_is_no_drawdown() -> None:
    """On the strategy basis holding the starting balances loses nothing."""
    world = World()
    for price in ("0.09", "0.081", "0.073", "0.066"):
        world.advance(1)
        world.price(price)
    world.timer()
    assert drawdown(world.state, world.params) == 0
    assert world.state.risk.level is RiskLevel.LOW


def test_level_rises_at_once_and_falls_after_an_hour() -> None:
    """Upwards at once; downwards when one point below for an hour; each transition recorded."""
    world = losing_world(daily_loss_limit_usd=D(0))
    for price in ("0.092", "0.085"):
        world.advance(1)
        world.price(price)
        world.timer()
    assert world.state.risk.level is RiskLevel.MEDIUM
    for price in ("0.092", "0.1"):
        world.advance(1)
        world.price(price)
        world.timer()
    assert world.state.risk.level is RiskLevel.MEDIUM
    world.timer(3601)
    assert world.state.risk.level is RiskLevel.LOW
    names = [x.name for x in world.log if isinstance(x, a.RecordTransition)]
    assert names == ["MEDIUM", "LOW"]


def test_emergency_stops_buying_and_resets_after_a_day_in_simulated_time() -> None:
    """EMERGENCY vetoes what adds exposure; after 24 h the peak is reset and counted."""
    world = losing_world(daily_loss_limit_usd=D(0))
    for price in ("0.092", "0.084", "0.076", "0.069", "0.063", "0.057", "0.052"):
        world.advance(1)
        world.price(price)
        world.timer()
    assert world.state.risk.level is RiskLevel.EMERGENCY
    slot = world.slot()
    verdict = entry_allowed(world.state, slot, _idle(slot.legs[1]), world.params)
    assert verdict == Veto(reason=VetoReason.RISK_LEVEL)
    assert entry_allowed(world.state, slot, _idle(slot.legs[0]), world.params) != verdict
    world.timer(86_401)
    assert world.state.risk.peak_resets == 1
    assert world.state.risk.level is RiskLevel.LOW


def test_daily_loss_locks_buying_and_clears_at_midnight_in_simulated_time() -> None:
    """Beyond the limit leg B is locked and its entry withdrawn; leg A goes on."""
    world = losing_world(daily_loss_limit_usd=D(20))
    world.advance(1)
    world.price("0.097")
    world.timer()
    assert daily_loss(world.state, world.params) > 20
    assert [x.name for x in world.state.risk.locks] == [LockName.DAILY_LOSS]
    assert world.state.counters.get("cancels:withdrawn: lock", 0) == 0
    world.close("1A.entry")
    world.enter()
    assert world.order("1A.entry").status is OrderStatus.OPEN
    midnight = (START // 86_400 + 1) * 86_400
    world.now = midnight
    world.timer(1)
    assert world.state.risk.locks == ()
    assert world.state.counters["lock:daily_loss"] == 1


def test_daily_loss_default_is_five_percent_of_equity_at_midnight() -> None:
    """Unset means 5 %; a reset is refused while the loss stands."""
    world = losing_world()
    for price in ("0.095", "0.088"):
        world.advance(1)
        world.price(price)
        world.timer()
    assert world.state.risk.day_start_equity > 1900
    assert [x.name for x in world.state.risk.locks] == [LockName.DAILY_LOSS]
    reply = world.command(c.ResetDailyLock())
    assert not reply.is_accepted
    assert "UTC midnight" in reply.message


def test_api_errors_lock_until_the_operator_resumes() -> None:
    """MAX_CONSECUTIVE_ERRORS sets a lock that only resume clears."""
    world = World()
    errors = e.HealthChanged(time=world.now, system_status="online", consecutive_errors=25)
    world.step(errors)
    world.timer()
    assert [x.name for x in world.state.risk.locks] == [LockName.API_ERRORS]
    world.step(replace(errors, consecutive_errors=0))
    world.timer()
    assert world.state.risk.locks != ()
    assert world.command(c.Resume()).is_accepted
    assert world.state.risk.locks == ()


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        ({"system_status": "maintenance"}, "exchange"),
        ({"system_status": "online", "clock_offset_sec": 2.5}, "clock"),
    ],
)
def test_unhealthy_exchange_vetoes_entries(health: dict[str, object], reason: str) -> None:
    """No entry while the exchange is not online or its clock differs."""
    world = World()
    world.step(e.HealthChanged(time=world.now, **health))
    world.timer()
    assert world.state.counters[f"veto:{reason}"] == 2


def test_wide_spread_vetoes_entries() -> None:
    """Wider than MAX_SPREAD_PCT: no entries."""
    world = World()
    world.price("0.1", spread="0.006")
    world.timer()
    assert world.state.counters["veto:spread"] == 2


def test_portfolio_share_bounds_what_is_committed_to_buying() -> None:
    """A buy beyond MAX_EQUITY_SHARE of equity is cut to what is left, or vetoed below minimum."""
    world = World(replace(GOLDEN_PARAMS, max_equity_share=D("0.0005")))
    world.timer()
    order = world.order("1B.entry")
    assert order.volume * order.price <= 1 < (order.volume + 1) * order.price
    chain = world.leg("1B").last_chain
    assert chain[-1].reason == "was_reduced to MAX_ORDER_USD or MAX_EQUITY_SHARE"
    least = replace(GOLDEN_INSTRUMENT, order_min=D(11))
    world = World(replace(GOLDEN_PARAMS, max_equity_share=D("0.0005")), instrument=least)
    world.timer()
    assert world.state.counters["veto:portfolio"] == 1
    assert isinstance(world.leg("1A").state, Entering)


def test_review_reduces_to_the_cap_and_says_so() -> None:
    """The largest admissible size is used; a nonsensical price is refused."""
    instrument = World().state.instrument
    draft = Draft(trade_id=TradeId.B, price=D("0.1"), volume=D(5000), is_entry=True)
    params = replace(GOLDEN_PARAMS, max_order_usd=D(200))
    assert review(draft, instrument, params) == Approved(
        price=D("0.1"), volume=D(2000), was_reduced=True
    )
    exit_ = replace(draft, is_entry=False)
    assert review(exit_, instrument, params) == Approved(price=D("0.1"), volume=D(5000))
    assert isinstance(review(replace(draft, price=D(0)), instrument, params), Refused)


def test_slots_are_bounded_by_the_open_order_limit() -> None:
    """add_slot refuses more than (safe cap − 10)/4."""
    params = replace(GOLDEN_PARAMS, open_order_limit=60, slot_count=1)
    assert slots_max(params) == 8
    world = World(params)
    for _ in range(7):
        assert world.command(c.AddSlot()).is_accepted
    reply = world.command(c.AddSlot())
    assert not reply.is_accepted
    assert "at most 8" in reply.message


def test_refused_commands_change_nothing() -> None:
    """A refusal leaves the state as it was, apart from the clock."""
    world = World()
    before = world.state
    assert not world.command(c.RemoveSlot(slot=9)).is_accepted
    assert world.state.slots == before.slots
    assert world.state.overrides == before.overrides


def test_equity_lines_add_up_and_benchmarks_start_equal() -> None:
    """At the first mark all benchmarks are worth the equity; later the five lines explain it."""
    world = losing_world()
    world.price("0.099")
    parts, value = breakdown(world.state), equity(world.state)
    others = benchmarks(world.state)
    assert parts is not None
    assert value is not None
    assert others is not None
    assert parts.unexplained == 0
    assert parts.change == parts.grid_profit + parts.inventory_pnl + parts.fees + parts.flows
    assert others.usd > others.hold > others.doge
    assert others.usd > others.half > others.doge


def test_half_and_half_is_rebalanced_at_midnight() -> None:
    """The fourth benchmark puts half in each asset again every day at 00:00 UTC."""
    world = World()
    world.timer()
    world.price("0.105")
    before = world.state.benchmarks
    world.now = (START // 86_400 + 1) * 86_400
    world.timer(1)
    after, mark = world.state.benchmarks, D("0.105") * (1 - D("0.0001"))
    assert before.half_base != after.half_base
    assert abs(after.half_quote - after.half_base * mark) < D("1e-9")


@pytest.mark.parametrize("text", ["", "x", "0" * 32, "5dfb58d3-0000-0500-0680-00018011f0e6"])
def test_foreign_order_ids_decode_to_nothing(text: str) -> None:
    """Decoding is total: whatever is not ours is None."""
    assert decode(text) is None


def test_order_ids_out_of_range_are_refused() -> None:
    """A cycle that does not fit raises instead of wrapping around."""
    place = OrderPlace(
        tag=1, epoch=2, slot=3, trade_id=TradeId.A, role=Role.EXIT, cycle=1 << 24, attempt=1
    )
    with pytest.raises(ValueError, match="cycle"):
        encode(place)
    assert decode(encode(replace(place, cycle=5))) == replace(place, cycle=5)
