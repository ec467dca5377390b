"""Locks, levels, alerts and drift over time (spec: runtime, section 3)."""

from decimal import Decimal
from itertools import pairwise

import pytest

from accounting import held
from core import actions as a
from core import commands as c
from core import events as e
from core.domain import OrderStatus, RejectReason
from core.params import Params, RiskBasis
from core.record import replace
from core.state import Entering, Idle, LockName, RiskLevel
from grid.quiet import is_quiet
from risk import drawdown
from tests.world import GOLDEN_INSTRUMENT, GOLDEN_PARAMS, START, World, entered, holding_both

D = Decimal
CANCELLING = OrderStatus.CANCELLING
LIVE = replace(GOLDEN_PARAMS, is_simulated=False)
MIDNIGHT = (START // 86_400 + 1) * 86_400


def locks(world: World) -> list[LockName]:
    """Return the locks that hold."""
    return [x.name for x in world.state.risk.locks]


def told(world: World, kind: str) -> list[str]:
    """Return what the operator was told of that kind."""
    return [x.text for x in world.log if isinstance(x, a.Notify) and x.kind == kind]


def losing(params: Params = LIVE) -> World:
    """Return a world that has lost more than its daily limit: a long position, a fallen price."""
    world = World(
        replace(params, daily_loss_limit_usd=D(1), price_jump_max_pct=D(90), order_size_usd=D(100),
                max_order_usd=D(200))
    )  # fmt: skip
    world.enter()
    world.fill("1B.entry")
    world.accept("1B.exit")
    world.price("0.095")
    world.timer()
    assert locks(world) == [LockName.DAILY_LOSS]
    return world


# ---- the daily loss lock -----------------------------------------------------------------------


def test_live_daily_lock_needs_midnight_and_a_resume() -> None:
    """Neither midnight alone nor a resume before it clears the lock of a live run."""
    world = losing()
    assert not world.command(c.Resume()).is_accepted
    assert "until UTC midnight" in world.command(c.ResetDailyLock()).message
    world.now = MIDNIGHT
    world.price("0.095")
    world.timer()
    assert locks(world) == [LockName.DAILY_LOSS]
    assert world.command(c.Resume()).is_accepted
    assert locks(world) == []


def test_simulated_daily_lock_clears_at_midnight() -> None:
    """In simulated time the new day is enough."""
    world = losing(GOLDEN_PARAMS)
    world.now = MIDNIGHT
    world.timer()
    assert locks(world) == []


@pytest.mark.parametrize(("limit", "is_cleared"), [(D(2), False), (D(50), True), (D(0), True)])
def test_raised_limit_clears_the_daily_lock_if_it_covers_the_loss(
    limit: Decimal, is_cleared: bool
) -> None:
    """A restart with a higher limit, or without one, lets buying go on."""
    world = losing()
    started = e.Started(
        time=world.now, params=replace(world.params, daily_loss_limit_usd=limit),
        instrument=world.state.instrument, fees=world.state.fees, bot_tag=1, store_epoch=2,
        code_version="test",
    )  # fmt: skip
    world.step(started)
    assert (locks(world) == []) is is_cleared


def test_recovered_loss_does_not_clear_the_daily_lock() -> None:
    """A price that comes back within the day changes nothing."""
    world = losing()
    world.price("0.1")
    world.timer()
    assert locks(world) == [LockName.DAILY_LOSS]


# ---- levels ------------------------------------------------------------------------------------


def fallen(share: str, params: Params = GOLDEN_PARAMS) -> World:
    """Return a world whose price has fallen by that share, measured on the account."""
    world = World(
        replace(params, risk_basis=RiskBasis.ACCOUNT, price_jump_max_pct=D(99),
                daily_loss_limit_usd=D(0)),
        base=D(10_000), quote=D(0),
    )  # fmt: skip
    world.timer()
    world.price(D("0.1") * (1 - D(share)))
    world.timer()
    return world


def test_account_basis_measures_equity_itself() -> None:
    """RISK_BASIS=account: a fall of the asset alone is a drawdown and a daily loss."""
    world = fallen("0.11")
    assert round(drawdown(world.state, world.params), 3) == D("0.11")
    assert world.state.risk.level is RiskLevel.HIGH
    limited = replace(world.params, daily_loss_limit_usd=D(50))
    world.params = limited
    world.timer()
    assert locks(world) == [LockName.DAILY_LOSS]


def test_level_is_left_one_step_an_hour() -> None:
    """However deep the recovery, CRITICAL goes to HIGH first: the hour began higher."""
    world = fallen("0.16")
    assert world.state.risk.level is RiskLevel.CRITICAL
    world.price("0.1")
    levels = []
    for _ in range(7):
        world.timer(1800.5)
        levels.append(world.state.risk.level.value)
    assert levels == ["CRITICAL"] * 2 + ["HIGH"] * 2 + ["MEDIUM"] * 2 + ["LOW"]


@pytest.mark.parametrize("is_simulated", [True, False])
def test_emergency_of_24_hours_is_reset_in_simulated_time_only(is_simulated: bool) -> None:
    """Live it stays until the operator resets the peak."""
    world = fallen("0.21", replace(GOLDEN_PARAMS, is_simulated=is_simulated))
    assert world.state.risk.level is RiskLevel.EMERGENCY
    world.timer(86_401)
    expected = RiskLevel.LOW if is_simulated else RiskLevel.EMERGENCY
    assert world.state.risk.level is expected
    assert world.state.risk.peak_resets == int(is_simulated)


def test_equity_stop_locks_buying_until_equity_is_above_it_again() -> None:
    """EQUITY_STOP_USD is an absolute bound on the account."""
    world = World(replace(GOLDEN_PARAMS, equity_stop_usd=D(1950)))
    world.timer()
    assert locks(world) == []
    world.price("0.094")
    world.timer()
    assert locks(world) == [LockName.EQUITY_STOP]
    world.timer()
    world.price("0.1")
    world.timer()
    assert locks(world) == []


# ---- prices and pace ---------------------------------------------------------------------------


def test_a_jump_is_believed_only_when_a_second_sample_agrees() -> None:
    """Two different absurd prices in a row are two absurd prices."""
    world = entered()
    for price in ("0.2", "0.4", "0.2"):
        world.price(price)
        assert world.state.market is not None
        assert round(world.state.market.bid, 3) == D("0.1")
    world.price("0.2")
    assert round(world.state.market.bid, 3) == D("0.2")


def test_one_entry_a_second_in_the_band_caution_and_none_in_stop() -> None:
    """A limit of 48 makes a safe cap of 36: caution from 32 open orders on, stop from 34."""
    params = replace(GOLDEN_PARAMS, slot_count=18, open_order_limit=48)
    world = World(params)
    placed = [sum(isinstance(x, a.PlaceOrderAction) for x in world.timer()) for _ in range(20)]
    assert placed == [2] * 16 + [1, 1] + [0, 0]


def test_anti_chase_waits_after_two_refreshes_then_counts_anew() -> None:
    """Two at once, the third 300 s after the second; then the count is 0 and two are free again."""
    world = World(replace(GOLDEN_PARAMS, price_jump_max_pct=D(90)))
    world.enter()
    times = []
    price = D("0.1")
    for _ in range(1300):
        price *= D("1.001")
        world.price(price)
        cancels = [x for x in world.timer() if isinstance(x, a.CancelOrderAction)]
        order = world.leg("1B").state
        is_cancelled = isinstance(order, Entering) and order.order.status is CANCELLING
        if cancels and is_cancelled:
            times.append(world.now)
            world.close("1B.entry", executed=0)
            world.timer()
            world.accept("1B.entry")
        order_a = world.leg("1A").state
        if isinstance(order_a, Entering) and order_a.order.status is CANCELLING:
            world.close("1A.entry", executed=0)
            world.timer()
            world.accept("1A.entry")
        if len(times) == 6:
            break
    gaps = [round(later - earlier) for earlier, later in pairwise(times)]
    is_wait = [gap >= 295 for gap in gaps]
    assert is_wait == [False, True, False, False, True], gaps


# ---- alerts ------------------------------------------------------------------------------------


def test_imbalance_alerts_though_entries_are_tried_and_refused_all_the_time() -> None:
    """A side whose entries never come to rest is a side without entries."""
    world = World(replace(GOLDEN_PARAMS, imbalance_alert_min=60.0))
    world.timer()
    world.accept("1A.entry")
    while world.now < START + 7_300 and not told(world, "imbalance"):
        if isinstance(world.leg("1B").state, Entering):
            world.reject("1B.entry", RejectReason.NOT_SENT)
        world.timer(30)
    (text,) = told(world, "imbalance")
    assert text.startswith("no buy entry has rested for 60 min or longer")
    assert world.now - START >= 3600


def test_below_minimum_is_told_at_once_and_daily() -> None:
    """A size that the exchange would refuse is an alert each day, with the least workable size."""
    big = replace(GOLDEN_INSTRUMENT, order_min=D(50))
    world = World(GOLDEN_PARAMS, instrument=big)
    world.timer()
    first = told(world, "below_minimum")
    assert len(first) == 2
    assert "below the minimum of" in first[0]
    for day in range(2):
        world.now = MIDNIGHT + day * 86_400
        world.price("0.1")
        world.timer()
        assert len(told(world, "below_minimum")) == 4 + 2 * day


def test_cut_of_more_than_half_waits_300_seconds_for_the_full_size() -> None:
    """With little free the leg waits; then it takes what there is."""
    world = World(replace(GOLDEN_PARAMS, order_size_usd=D(4)), quote=D("1.5"))
    world.timer()
    began = world.now
    assert isinstance(world.leg("1B").state, Idle)
    while isinstance(world.leg("1B").state, Idle):
        world.timer()
    assert 299 <= world.now - began <= 302


# ---- balances ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("off", "seconds", "executed", "told", "is_locked"), [
    ("300", 31, 0, 0, True),  # 3 %
    ("300", 29, 0, 0, False),  # not long enough
    ("150", 31, 0, 0, False),  # 1.5 %: within tolerance
    ("300", 31, 10, 0, False),  # an execution of ours in flight
    ("300", 31, 10, 10, True),  # one that is in the report too: the difference is not its doing
])  # fmt: skip
def test_drift_locks_beyond_2_percent_in_two_reads_30_s_apart(
    off: str, seconds: float, executed: int, told: int, is_locked: bool
) -> None:
    """One order is 40 USD here; neither read may have an execution of ours in flight."""
    world = World(replace(GOLDEN_PARAMS, order_size_usd=D(40), max_order_usd=D(200)))
    world.enter()

    def report(untold: int = 0) -> None:
        own = world.state.balances
        base = own.base - D(off) - untold
        world.step(e.BalancesReported(time=world.now, base=base, quote=own.quote))

    report()
    world.advance(seconds - 5)
    if executed:
        world.fill("1B.entry", executed)
    world.advance(5)
    report(executed - told)
    assert (locks(world) == [LockName.RECONCILIATION]) is is_locked


@pytest.mark.parametrize(("off", "agrees"), [("0.0002", True), ("0.0003", False)])
def test_rounding_of_balances_kept_in_units_is_no_news_and_no_drift(
    off: str, *, agrees: bool
) -> None:
    """Two units of the quote asset for one execution, and the pair's new limits keep them."""
    world = World(GOLDEN_PARAMS)
    world.enter()
    limits = world.state.instrument
    world.state = replace(world.state, instrument=replace(limits, quote_unit=D("0.0001")))
    world.step(e.InstrumentUpdated(time=world.now, instrument=limits))
    assert world.state.instrument.quote_unit == D("0.0001")
    world.fill("1B.entry")
    own = world.state.balances
    # Nearly all is in the base asset: 2 % of the rest are less than the rounding.
    world.step(
        e.ExternalFlow(time=world.now, base=D(0), quote=D("0.0001") - own.quote, reference="all")
    )
    report = e.BalancesReported(time=world.now, base=own.base, quote=D("0.0001") + D(off))
    before = world.state.quiet
    world.step(report)
    assert (world.state.quiet is before) is agrees  # only noted
    assert (world.state.balances.drift_since is None) is agrees
    assert world.state.balances.reported_quote == report.quote


def test_rounding_of_an_execution_between_two_reads_is_no_excuse_for_a_drift() -> None:
    """The difference is the same but for rounding: it is not the execution's doing."""
    world = World(replace(GOLDEN_PARAMS, order_size_usd=D(40), max_order_usd=D(200)))
    world.enter()
    limits = replace(world.state.instrument, quote_unit=D("0.0001"))
    world.state = replace(world.state, instrument=limits)

    def report(rounded: Decimal) -> None:
        own = world.state.balances
        base, quote = own.base - 300, own.quote + rounded
        world.step(e.BalancesReported(time=world.now, base=base, quote=quote))

    report(D(0))
    world.advance(26)
    world.fill("1B.entry", 10)
    world.advance(5)
    report(D("0.0001"))
    assert locks(world) == [LockName.RECONCILIATION]


def test_rounding_is_counted_where_an_asset_is_coarser_than_its_lot() -> None:
    """Volume by a unit, cost and fee by a unit each; none where every digit is kept."""
    exact = GOLDEN_INSTRUMENT
    assert exact.rounding(9) == (0, 0)
    fine = replace(exact, lot_size=D("1e-8"), base_unit=D("1e-8"), quote_unit=D("1e-4"))
    assert fine.rounding(3) == (0, D("6e-4"))
    assert replace(fine, base_unit=D("1e-5")).rounding(3) == (D("3e-5"), D("6e-4"))
    assert (fine.kept(D("23.20466385")), exact.kept(D("1.23456789"))) == (
        D("23.2047"),
        D("1.23456789"),
    )


def test_order_placed_between_the_reads_is_no_excuse_for_a_drift() -> None:
    """One that was on its way at both is: it may have executed all the time."""
    for is_placed_between in (True, False):
        world = World(replace(GOLDEN_PARAMS, order_size_usd=D(40), max_order_usd=D(200)))
        own = world.state.balances
        wrong = e.BalancesReported(time=world.now, base=own.base - 300, quote=own.quote)
        if not is_placed_between:
            world.timer()
        world.step(wrong)
        world.advance(31)
        world.price("0.1")
        world.timer()
        assert world.order("1B.entry").status is OrderStatus.PENDING
        world.step(replace(wrong, time=world.now))
        assert bool(locks(world)) is is_placed_between


def test_funds_lock_follows_a_stranger_and_clears_by_itself() -> None:
    """A foreign order takes what our orders hold: lock, withdrawal, and on we go."""
    world = World(quote=D(5))
    world.enter()
    own = world.state.balances
    world.step(
        e.BalancesReported(time=world.now, base=own.base, quote=own.quote, foreign_quote=D(4))
    )
    assert locks(world) == [LockName.FUNDS]
    world.timer()
    for name in ("1A.entry", "1B.entry"):
        world.close(name, executed=0)
    world.timer()
    assert locks(world) == []


def test_shortfall_without_a_stranger_is_a_violation_even_after_a_flow() -> None:
    """A deposit long ago does not switch the check off."""
    world = holding_both()
    own = world.state.balances
    world.step(e.ExternalFlow(time=world.now, base=D(0), quote=D(5), reference="deposit"))
    broken = replace(
        world.state, balances=replace(own, base=D(1)), risk=replace(world.state.risk, locks=())
    )
    texts = World.violations(broken)
    assert any("our orders hold" in text for text in texts)


def test_lost_fee_tier_is_no_violation() -> None:
    """Dearer fees on what rests leave less than nothing free, and no lock."""
    world = World(quote=D("2.005"))
    world.enter()
    world.step(e.FeesUpdated(time=world.now, fees=replace(world.state.fees, maker=D("0.009"))))
    world.timer()
    assert locks(world) == []


def test_deposit_before_the_first_price_counts_once() -> None:
    """It is a flow, and no part of the starting balances."""
    world = World(price=None)
    world.step(e.ExternalFlow(time=world.now, base=D(100), quote=D(50), reference="deposit"))
    world.price("0.1")
    world.timer()
    own = world.state.balances
    assert (own.start_base, own.start_quote) == (10_000, 1_000)
    assert (own.base, own.quote) == (10_100, 1_050)
    assert drawdown(world.state, world.params) == 0
    assert world.state.accounts.flows == -(50 + 100 * world.state.market.bid)


def test_flow_joins_every_benchmark_at_its_own_time() -> None:
    """100 quote and 50 base at a bid of 0.1: 105 more in each, in its own mixture."""
    world = entered()
    before, market = world.state.benchmarks, world.state.market
    assert market is not None
    world.step(e.ExternalFlow(time=world.now, base=D(50), quote=D(100), reference="deposit"))
    after, value = world.state.benchmarks, 100 + 50 * market.bid
    assert after.usd - before.usd == value
    assert after.doge - before.doge == pytest.approx(value / market.bid)
    assert after.half_quote - before.half_quote == value / 2
    assert after.half_base - before.half_base == pytest.approx(value / 2 / market.bid)


def test_a_gained_fee_tier_frees_nothing_that_rests() -> None:
    """The exchange goes on holding a buy with the fee of its placing; so do we."""
    world = World(quote=D(100))
    world.enter()
    before = held(world.state)
    world.step(e.FeesUpdated(time=world.now, fees=replace(world.state.fees, maker=D("0.001"))))
    assert held(world.state) == before


def test_imbalance_is_told_when_it_is_due_and_then_hourly() -> None:
    """IMBALANCE_ALERT_MIN=5: after five minutes, not at the turn of the hour."""
    world = World(replace(GOLDEN_PARAMS, imbalance_alert_min=5.0))
    world.command(c.Pause())
    began = world.now
    while not told(world, "imbalance"):
        quiet = world.state.quiet
        world.now = max(world.now + 1, quiet.next_due if quiet else 0.0)
        world.timer(0)
    assert 300 <= world.now - began <= 302
    assert len(told(world, "imbalance")) == 2


def test_a_new_shortage_waits_anew_for_the_full_size() -> None:
    """What was short an hour ago does not count against a shortage of now."""
    world = World(quote=D("0.9"))
    world.timer()
    world.command(c.Pause())
    world.step(e.ExternalFlow(time=world.now, base=D(0), quote=D(100), reference="in"))
    world.timer(3600)
    world.step(e.ExternalFlow(time=world.now, base=D(0), quote=D(-100), reference="out"))
    world.price("0.1")
    world.command(c.Resume())
    assert not [x for x in world.timer() if isinstance(x, a.PlaceOrderAction)]
    state = world.leg("1B").state
    assert isinstance(state, Idle)
    assert (state.veto, state.short_funds_since) == ("funds", world.now)


def is_quiet_tick(world: World, bid: Decimal, spread: str) -> bool:
    """Tell whether a quote counts as quiet."""
    ask = bid * (1 + D(spread))
    return is_quiet(world.state, e.PriceTick(time=world.now, bid=bid, ask=ask, last=bid),
                    world.params)  # fmt: skip


def test_a_wider_spread_moves_the_mid_out_of_the_quiet_band() -> None:
    """The same bid with a wider spread may call for a refresh."""
    world = entered()
    world.price("0.1012")
    for _ in range(2):
        world.timer()
    market = world.state.market
    assert market is not None
    assert is_quiet_tick(world, market.bid, "0.0002")
    assert not is_quiet_tick(world, market.bid, "0.0049")


def test_no_quiet_tick_is_a_jump() -> None:
    """With PRICE_JUMP_MAX_PCT below the widest band the band is narrower."""
    params = replace(GOLDEN_PARAMS, price_jump_max_pct=D("0.5"), refresh_pct=D(10), entry_pct=D(3))
    world = World(params)
    world.enter()
    for _ in range(2):
        world.timer()
    market = world.state.market
    assert market is not None
    assert is_quiet_tick(world, market.bid * D("1.002"), "0.0002")
    assert not is_quiet_tick(world, market.bid * D("1.0051"), "0.0002")


def test_the_equity_stop_and_the_hysteresis_bound_what_is_quiet() -> None:
    """No price beyond the stop, or across a level's way back, is quiet."""
    world = World(replace(GOLDEN_PARAMS, equity_stop_usd=D(1995)))
    world.timer()
    world.timer()
    market = world.state.market
    assert market is not None
    assert is_quiet_tick(world, market.bid * D("0.9999"), "0.0002")
    assert not is_quiet_tick(world, market.bid * D("0.9949"), "0.0002")
    world = fallen("0.0595")  # MEDIUM; the way back begins below 4 %
    world.price(D("0.09595"))
    world.timer()
    world.timer()
    assert world.state.risk.below_since is None
    assert not is_quiet_tick(world, D("0.09605"), "0.0002")
