"""When nothing can happen: the price band and the time until which a tick is quiet.

One function for live, backtest and reducer. A quiet tick changes only price and time, so these
bounds must be sound: every rule that looks at price or time has a line here.
"""

from decimal import Decimal

from accounting import equity
from core.domain import HUNDRED, ONE, ZERO
from core.events import PricesSkipped, PriceTick
from core.params import Params
from core.record import replace
from core.state import BotState, Idle, LockName, Mode, Quiet
from grid import advice
from grid.ghosts import ghost_times
from grid.kelly import ask_due as kelly_due
from grid.reduction import Reduction
from grid.regimes import ask_due
from grid.regimes import due_times as regime_times
from grid.upkeep import due_times, price_bounds
from grid.watch import hour_duty, rhythm_due
from grid_strategy import mid
from risk import (
    EMERGENCY_RESET_SEC,
    LEVEL_DWELL_SEC,
    VetoReason,
    daily_loss_limit,
    drawdown,
    level_after_recovery,
    level_for,
    parked,
    risk_index,
    risk_value,
)

BAND = Decimal("0.08")  # bounds hold for at most this move from the price they were made at
VETOED_BAND = Decimal("0.001")
# These hold at any price within the bounds: locks and level do not change there.
STANDING = (VetoReason.LOCK, VetoReason.RISK_LEVEL, VetoReason.CAPACITY, VetoReason.COOLDOWN)
NARROWEST = Decimal("0.0001")
SHARES = tuple(BAND / 2**n for n in range(8))


def quiet_bounds(state: BotState, params: Params) -> Quiet | None:
    """Return the bands and the time within which a price tick is quiet; None without a market.

    Valid as long as no other event arrives. `next_due` is when a TimerTick is next worth sending.
    """
    market = state.market
    if (
        market is None
        or market.candidate is not None
        or state.market_ended
        or not state.balances.start_mark
    ):
        return None
    bid = market.bid
    if state.pass_due is not None and state.pass_due <= state.now:
        return _nothing(bid, state.now)  # a TimerTick is due first: it will see to the bounds
    r = Reduction(state, params)
    rules_due = _rules_due(state, params)
    duty_due = _with_ages(rules_due, state, params)
    due = _with_questions(duty_due, state, params)
    if _wants_newer_quote(state):
        return replace(_nothing(bid, due), duty_due=duty_due, rules_due=rules_due)
    # Two ticks in the band are at most twice its share apart, and that is no jump.
    share = min(BAND, _risk_room(state, params), params.price_jump_max_pct / HUNDRED / 2)
    if _waits_for_price(state):
        share = min(share, VETOED_BAND)  # a leg wants an entry: look again when the price moves
    m = mid(market)
    low, high = m * (ONE - share), m * (ONE + share)
    for bound in price_bounds(r):
        if bound <= m:
            low = max(low, bound)
        if bound >= m:
            high = min(high, bound)
    return Quiet(
        price_low=bid * (ONE - share),
        price_high=bid * (ONE + share),
        mid_low=low,
        mid_high=high,
        next_due=due,
        duty_due=duty_due,
        rules_due=rules_due,
    )


def _nothing(bid: Decimal, due: float) -> Quiet:
    """Return bounds inside which there is no price."""
    return Quiet(
        price_low=bid, price_high=bid, mid_low=bid, mid_high=bid, next_due=due, duty_due=due,
        rules_due=due,
    )  # fmt: skip


def quiet_aside(state: BotState, quiet: Quiet, params: Params) -> Quiet:
    """Return the bounds after an event that does not act: only when to ask has changed."""
    duty_due = _with_ages(quiet.rules_due, state, params)
    return replace(quiet, duty_due=duty_due, next_due=_with_questions(duty_due, state, params))


def idle_until(state: BotState, params: Params) -> float:
    """Return when something is due but to keep the rhythm; now without bounds."""
    return state.now if state.quiet is None else _with_models(state.quiet.duty_due, state, params)


def _waits_for_price(state: BotState) -> bool:
    """Tell whether another price may let a leg enter that was refused at this one."""
    return (
        state.pass_due is not None
        and state.mode is Mode.RUNNING
        and any(
            isinstance(leg.state, Idle) and leg.state.veto not in STANDING
            for slot in state.slots
            for leg in slot.legs
        )
    )


def _wants_newer_quote(state: BotState) -> bool:
    """Tell whether a leg whose price was refused as crossing waits for the next quote."""
    market = state.market
    return market is not None and any(
        isinstance(leg.state, Idle) and leg.rejected_at and market.time <= leg.rejected_at[-1]
        for slot in state.slots
        for leg in slot.legs
    )


def _risk_room(state: BotState, params: Params) -> Decimal:
    """Return a relative price move within which no level, loss limit or stop can be crossed."""
    return next((share for share in SHARES if _is_safe(state, params, share)), NARROWEST)


def _is_safe(state: BotState, params: Params, share: Decimal) -> bool:
    """Tell whether locks and level stay as they are, wherever the bid goes within that move."""
    market, risk = state.market, state.risk
    if market is None:
        return False
    ends = (market.bid * (ONE - share), market.bid * (ONE + share))
    # With constant holdings each of these is monotone in the price: its extremes are at the ends.
    low, high = sorted(risk_index(state, params, x) for x in ends)
    top = max(risk.peak, high)
    falls = (max(ZERO, ONE - high / risk.peak), ONE - low / top) if risk.peak > 0 else (ZERO, ZERO)
    if level_for(falls[0]) is not level_for(falls[1]):
        return False
    if len({level_after_recovery(risk.level, x) for x in falls}) > 1:
        return False
    limit = daily_loss_limit(state, params)
    is_locked = any(lock.name is LockName.DAILY_LOSS for lock in risk.locks)
    if limit is not None and not is_locked and risk.day >= 0:
        worst = min(risk_value(state, params, x) for x in ends)
        if risk.day_start - worst > limit:
            return False
    value, stop = equity(state), params.equity_stop_usd
    if not stop or value is None:
        return True
    moved = state.balances.base * market.bid * share
    return value - moved >= stop or value + moved < stop


def next_due(state: BotState, params: Params) -> float:
    """Return the earliest time at which a TimerTick may do something; never in the past."""
    duty_due = _with_ages(_rules_due(state, params), state, params)
    return _with_questions(duty_due, state, params)


def _with_models(duty_due: float, state: BotState, params: Params) -> float:
    seen = state.timer_at
    times = [at for at in regime_times(state, params) if at > seen or at > state.now]
    times.append(duty_due)
    asked = (ask_due(state, params), advice.due(state, params), kelly_due(state, params))
    return max(state.now, min(times + [at for at in asked if at is not None]))


def _with_questions(duty_due: float, state: BotState, params: Params) -> float:
    return _with_models(min(duty_due, rhythm_due(state, params)), state, params)


def _with_ages(rules_due: float, state: BotState, params: Params) -> float:
    """Return that, or when models that act are next too old, or what they withhold is freed."""
    if not params.regime_directional_enabled:
        return rules_due
    times = [at for at in regime_times(state, params) if at > state.timer_at or at > state.now]
    asking = None if params.hmm_enabled else ask_due(state, params)  # the answer is at hand
    due = min([rules_due, *times])
    return max(state.now, due if asking is None else min(due, asking))


def _rules_due(state: BotState, params: Params) -> float:
    """Return when rules may next act, but for what models ask for or say."""
    now, seen = state.now, state.timer_at
    times = list(hour_duty(state, params))
    asked, filled = state.balances.requested_at, state.balances.last_execution_at
    if filled is not None and (asked is None or filled >= asked):
        times.append(filled + 1.0)
    times.extend(due_times(Reduction(state, params)))
    times.extend(ghost_times(Reduction(state, params)))
    times.extend(_risk_times(state, params))
    ahead = replace(state, now=now + params.s2_orphan_after_sec)
    for slot in state.slots:
        waiting = parked(ahead, slot, params)
        if waiting is not None:
            times.append(waiting.since)
    # Every rule is level-triggered: what was due at the last TimerTick has been looked at then.
    due = min(at for at in times if at > seen or at > now)
    for wanted in (state.pass_due, advice.acting_due(state)):
        due = due if wanted is None else min(due, wanted)
    return max(now, due)


def _risk_times(state: BotState, params: Params) -> list[float]:
    times: list[float] = []
    risk = state.risk
    if risk.below_since is not None:
        times.append(risk.below_since + LEVEL_DWELL_SEC)
    elif level_after_recovery(risk.level, drawdown(state, params)) is not risk.level:
        times.append(state.now + 1.0)
    if risk.emergency_since is not None and params.is_simulated:
        times.append(risk.emergency_since + EMERGENCY_RESET_SEC)
    return times


def is_quiet(state: BotState, tick: PriceTick, params: Params) -> bool:
    """Tell whether a tick changes nothing but price and time."""
    quiet, market = state.quiet, state.market
    bid, ask, time = tick.bid, tick.ask, tick.time
    return (
        quiet is not None
        and market is not None
        and bid.is_finite()
        and ask.is_finite()
        and tick.last.is_finite()
        and tick.last > ZERO
        and quiet.price_low < bid < quiet.price_high
        and quiet.mid_low < (bid + ask) / 2 < quiet.mid_high
        and time < quiet.duty_due
        and ZERO < bid < ask
        and (ask - bid) * HUNDRED <= params.max_spread_pct * bid
        and (market.ask - market.bid) * HUNDRED <= params.max_spread_pct * market.bid
        and time - market.time <= params.stale_price_max_age_sec
    )


def are_quiet(state: BotState, skipped: PricesSkipped, params: Params) -> bool:
    """Tell whether all ticks of a skip change nothing but price and time.

    Who skips has seen to it that none of them came too late, was too wide, or had its mid outside.
    """
    quiet, market = state.quiet, state.market
    bids = [skipped.low, skipped.bid, skipped.high]
    if (rhythm := skipped.rhythm) is not None:
        bids += [rhythm.low, rhythm.high, *(x.bid for x in rhythm.turns)]
    prices = (*bids, skipped.ask, skipped.last)
    return (
        quiet is not None
        and market is not None
        and skipped.time < quiet.duty_due
        and all(x.is_finite() and x > ZERO for x in prices)
        and skipped.bid < skipped.ask
        and quiet.price_low < min(bids)
        and max(bids) < quiet.price_high
        and quiet.mid_low < (skipped.bid + skipped.ask) / 2 < quiet.mid_high
        and (skipped.ask - skipped.bid) * HUNDRED <= params.max_spread_pct * skipped.bid
    )
