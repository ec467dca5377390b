"""Locks, risk levels, capacity, and the one decision whether a leg may enter.

All pure: facts arrive as events and stand in the state. A veto has a name; an order that was not
approved does not exist. Look next at `state_machine.py`, which applies the answers.
"""

from decimal import Decimal
from enum import StrEnum

from accounting import equity, held_value, net_equity, orders
from core.domain import HUNDRED, ONE, ZERO, Instrument, OrderState, OrderStatus, TradeId
from core.params import Params, RiskBasis
from core.record import Record
from core.state import BotState, Entering, Exiting, Idle, Leg, LockName, Mode, RiskLevel, SlotState
from grid_strategy import break_even_pct, effective
from regime_policy import suppressed_side

LEVELS = (
    (RiskLevel.EMERGENCY, Decimal("0.20")),
    (RiskLevel.CRITICAL, Decimal("0.15")),
    (RiskLevel.HIGH, Decimal("0.10")),
    (RiskLevel.MEDIUM, Decimal("0.05")),
)
LEVEL_RANK = {level: rank for rank, level in enumerate(RiskLevel)}
HYSTERESIS = Decimal("0.01")
LEVEL_DWELL_SEC = 3600.0
EMERGENCY_RESET_SEC = 86_400.0
CLOCK_OFFSET_MAX_SEC = 2.0
PLACING_STATUSES = ("online", "limit_only", "post_only")  # in which our orders are taken
SAFE_SHARE = Decimal("0.75")
STOP_SHARE = Decimal("0.06")
CAUTION_SHARE = Decimal("0.12")
# Locks that stop only what adds exposure: leg A's sells of inventory reduce it.
_EXPOSURE_LOCKS = (LockName.DAILY_LOSS, LockName.EQUITY_STOP)


class VetoReason(StrEnum):
    """Why a leg gets no entry, in the order in which it is asked."""

    HALTED = "halted"
    PAUSED = "paused"
    CLOSING = "closing"
    LOCK = "lock"
    RISK_LEVEL = "risk_level"
    STALE_PRICE = "stale_price"
    INSANE_PRICE = "insane_price"
    SPREAD = "spread"
    EXCHANGE = "exchange"
    CLOCK = "clock"
    CAPACITY = "capacity"
    PORTFOLIO = "portfolio"
    UNCERTAIN = "uncertain"
    COOLDOWN = "cooldown"
    ANTI_CHASE = "anti_chase"
    SUPPRESSED = "suppressed"
    BELOW_BREAK_EVEN = "below_break_even"
    FUNDS = "funds"
    BELOW_MINIMUM = "below_minimum"
    THROTTLE = "throttle"


VETO_WORDS: dict[str, str] = {
    VetoReason.HALTED: "the bot is halted",
    VetoReason.PAUSED: "the bot is paused",
    VetoReason.CLOSING: "the slot is closing",
    VetoReason.LOCK: "a safety lock holds",
    VetoReason.RISK_LEVEL: "the drawdown is too deep for new risk",
    VetoReason.STALE_PRICE: "the last price is too old",
    VetoReason.INSANE_PRICE: "the price jumped; waiting for a second one that agrees",
    VetoReason.SPREAD: "the spread is too wide",
    VetoReason.EXCHANGE: "the exchange is not fully online",
    VetoReason.CLOCK: "the clock differs from the exchange's",
    VetoReason.CAPACITY: "too many orders are open",
    VetoReason.PORTFOLIO: "enough money is committed to buying already",
    VetoReason.UNCERTAIN: "the outcome of an order is not known yet",
    VetoReason.COOLDOWN: "the leg rests before its next entry",
    VetoReason.ANTI_CHASE: "the price keeps running; not chasing it",
    VetoReason.SUPPRESSED: "the market regime speaks against this side",
    VetoReason.BELOW_BREAK_EVEN: "the profit target would not pay the fees",
    VetoReason.FUNDS: "not enough free funds",
    VetoReason.BELOW_MINIMUM: "the order would be below the exchange's minimum",
    VetoReason.THROTTLE: "waiting its turn; entries are placed a few a second",
}


# While one of these holds, a resting entry is withdrawn, not only kept from being placed.
WITHDRAWING = frozenset(
    {
        VetoReason.HALTED,
        VetoReason.PAUSED,
        VetoReason.CLOSING,
        VetoReason.LOCK,
        VetoReason.RISK_LEVEL,
        VetoReason.SUPPRESSED,
        VetoReason.BELOW_BREAK_EVEN,
    }
)


class Allow(Record, frozen=True, kw_only=True, gc=False):
    """The leg may enter."""


class Veto(Record, frozen=True, kw_only=True, gc=False):
    """The leg may not enter, and why."""

    reason: VetoReason


class Capacity(Record, frozen=True, kw_only=True, gc=False):
    """How many orders fit: the band is normal, caution or stop."""

    open_orders: int
    limit: int
    safe_cap: Decimal
    headroom: Decimal
    band: str


class Parked(Record, frozen=True, kw_only=True, gc=False):
    """A slot whose legs both wait for a price: time frees neither."""

    since: float
    low_price: Decimal
    high_price: Decimal


class Draft(Record, frozen=True, kw_only=True, gc=False):
    """An order somebody would like to place."""

    trade_id: TradeId
    price: Decimal
    volume: Decimal
    is_entry: bool


class Approved(Record, frozen=True, kw_only=True, gc=False):
    """A reviewed order; the only thing an order can be made of."""

    price: Decimal
    volume: Decimal
    was_reduced: bool = False


class Refused(Record, frozen=True, kw_only=True, gc=False):
    """An order that may not exist, and why."""

    reason: VetoReason
    detail: str


def entry_allowed(state: BotState, slot: SlotState, leg: Leg, params: Params) -> Allow | Veto:
    """Decide whether `leg` may enter now, apart from its size: the only place that does.

    Size (`funds`, `below_minimum`) and the token bucket (`throttle`) are asked afterwards.
    """
    reason = (
        standing_veto(state, slot, leg)
        or _market_veto(state, params)
        or _leg_veto(state, slot, leg, params)
        or suppression_veto(state, leg, params)
        or break_even_veto(state, slot, params)
    )
    return Veto(reason=reason) if reason else Allow()


def standing_veto(state: BotState, slot: SlotState, leg: Leg) -> VetoReason | None:
    """Return the first veto that operator, locks or risk level hold against the leg, or None."""
    if state.mode is Mode.HALTED:
        return VetoReason.HALTED
    if state.mode is Mode.PAUSED:
        return VetoReason.PAUSED
    if slot.closing or slot.pairing or state.market_ended:
        return VetoReason.CLOSING
    adds_exposure = leg.trade_id is TradeId.B
    for lock in state.risk.locks:
        if lock.name is LockName.RESTORE:
            continue  # entries that rest stay where they are; new ones wait as for a price
        if adds_exposure or lock.name not in _EXPOSURE_LOCKS:
            return VetoReason.LOCK
    if state.risk.level is RiskLevel.EMERGENCY and adds_exposure:
        return VetoReason.RISK_LEVEL
    return None


def suppression_veto(state: BotState, leg: Leg, params: Params) -> VetoReason | None:
    """Return SUPPRESSED while the regime withholds the entries of this side, or None."""
    is_withheld = suppressed_side(state.regimes, params) is leg.trade_id
    return VetoReason.SUPPRESSED if is_withheld else None


def break_even_veto(state: BotState, slot: SlotState, params: Params) -> VetoReason | None:
    """Return BELOW_BREAK_EVEN when the slot's target would not pay the fees, or None."""
    own = effective(params, state, slot.slot_id)
    is_below = own.profit_pct <= break_even_pct(state.fees.maker)
    return VetoReason.BELOW_BREAK_EVEN if is_below else None


def _market_veto(state: BotState, params: Params) -> VetoReason | None:
    market = state.market
    if state.restoring is not None:
        return VetoReason.LOCK
    if market is None or state.now - market.time > params.stale_price_max_age_sec:
        return VetoReason.STALE_PRICE
    if market.candidate is not None:
        return VetoReason.INSANE_PRICE
    if is_wide(market.bid, market.ask, params):
        return VetoReason.SPREAD
    if state.health.system_status not in PLACING_STATUSES:
        return VetoReason.EXCHANGE
    if abs(state.health.clock_offset_sec) >= CLOCK_OFFSET_MAX_SEC:
        return VetoReason.CLOCK
    return None


def _leg_veto(state: BotState, slot: SlotState, leg: Leg, params: Params) -> VetoReason | None:
    if capacity(state, params).band == "stop":
        return VetoReason.CAPACITY
    if leg.trade_id is TradeId.B and portfolio_room(state, params) <= 0:
        return VetoReason.PORTFOLIO
    if any(
        isinstance(r.exit, OrderState)
        and r.exit.status is OrderStatus.UNCERTAIN
        and r.trade_id is leg.trade_id
        for r in slot.recovery_orders
    ):
        return VetoReason.UNCERTAIN
    if any(x.slot_id == slot.slot_id and x.trade_id is leg.trade_id for x in state.ghosts):
        return VetoReason.UNCERTAIN
    if isinstance(leg.state, Idle):
        if leg.state.resume_at is not None and leg.state.resume_at > state.now:
            return VetoReason.COOLDOWN
        if leg.rejected_at and state.market and state.market.time <= leg.rejected_at[-1]:
            return VetoReason.COOLDOWN  # a refused price is computed anew from a newer quote
    return None


def is_wide(bid: Decimal, ask: Decimal, params: Params) -> bool:
    """Tell whether the spread is wider than MAX_SPREAD_PCT of the bid."""
    return (ask - bid) * HUNDRED > params.max_spread_pct * bid


def review(
    draft: Draft, instrument: Instrument, params: Params, *, room: Decimal | None = None
) -> Approved | Refused:
    """Approve an order, with the largest admissible volume, or refuse it with the reason.

    `room` is what the portfolio still allows to be committed, in quote (None: no limit). Exits pass
    whatever their size: an exit owed is placed. Raises nothing.
    """
    if draft.price <= 0 or not draft.price.is_finite():
        return Refused(reason=VetoReason.INSANE_PRICE, detail=f"price {draft.price}")
    volume, reason = draft.volume, VetoReason.BELOW_MINIMUM
    most = params.max_order_usd if room is None else min(params.max_order_usd, room)
    if draft.is_entry and volume * draft.price > most:
        volume = max(ZERO, instrument.volume_down(most / draft.price))
        if most < params.max_order_usd:
            reason = VetoReason.PORTFOLIO
    if instrument.is_below_minimum(volume=volume, price=draft.price):
        return Refused(
            reason=reason,
            detail=f"{volume} at {draft.price}; the least is "
            f"{instrument.least_volume(draft.price)} {instrument.base}",
        )
    return Approved(price=draft.price, volume=volume, was_reduced=volume != draft.volume)


def capacity(state: BotState, params: Params) -> Capacity:
    """Return how many of our orders are open, pending or uncertain, and the room left."""
    count = len(orders(state))
    safe_cap = SAFE_SHARE * params.open_order_limit
    headroom = safe_cap - count
    band = "normal"
    if headroom < STOP_SHARE * safe_cap or count >= params.open_order_limit:
        band = "stop"
    elif headroom < CAUTION_SHARE * safe_cap:
        band = "caution"
    return Capacity(
        open_orders=count,
        limit=params.open_order_limit,
        safe_cap=safe_cap,
        headroom=headroom,
        band=band,
    )


def slots_max(params: Params) -> int:
    """Return how many slots the open-order limit can carry."""
    return int((SAFE_SHARE * params.open_order_limit - 10) / 4)


def portfolio_room(state: BotState, params: Params) -> Decimal:
    """Return how much quote may still be committed to buying, under MAX_EQUITY_SHARE."""
    total = equity(state)
    if total is None:
        return ZERO
    committed = ZERO
    for slot in state.slots:
        for leg in slot.legs:
            if leg.trade_id is TradeId.A:
                continue
            if isinstance(leg.state, Entering):
                order = leg.state.order
                committed += order.remaining * order.price + order.filled_cost
            elif isinstance(leg.state, Exiting):
                committed += leg.state.position.open_cost
        for recovery in slot.recovery_orders:
            if recovery.trade_id is TradeId.B:
                committed += recovery.position.open_cost
    return params.max_equity_share * total - committed


def risk_value(state: BotState, params: Params, mark: Decimal) -> Decimal:
    """Return the amount in quote whose fall since midnight is the daily loss."""
    value = net_equity(state, mark)
    return value - held_value(state, mark) if params.risk_basis is RiskBasis.STRATEGY else value


def risk_index(state: BotState, params: Params, mark: Decimal) -> Decimal:
    """Return the index whose fall from its peak is the drawdown, net of flows.

    RISK_BASIS strategy: equity against the value of the starting balances held; account: against
    the starting equity.
    """
    basis = mark if params.risk_basis is RiskBasis.STRATEGY else state.balances.start_mark
    start = held_value(state, basis)
    return net_equity(state, mark) / start if start > 0 else ONE


def drawdown(state: BotState, params: Params) -> Decimal:
    """Return the fall of the risk index from its peak, a fraction; 0 before the first mark."""
    if state.market is None or state.risk.peak <= 0:
        return ZERO
    return max(ZERO, ONE - risk_index(state, params, state.market.bid) / state.risk.peak)


def daily_loss(state: BotState, params: Params) -> Decimal:
    """Return the loss since UTC midnight in quote; negative is a gain."""
    if state.market is None or state.risk.day < 0:
        return ZERO
    return state.risk.day_start - risk_value(state, params, state.market.bid)


def daily_loss_limit(state: BotState, params: Params) -> Decimal | None:
    """Return the daily loss limit in force, or None when it is off."""
    if params.daily_loss_limit_usd is None:
        return state.risk.day_start_equity * Decimal("0.05")
    return params.daily_loss_limit_usd or None


def level_for(fall: Decimal) -> RiskLevel:
    """Return the level that a drawdown of `fall` (a fraction) calls for."""
    for level, threshold in LEVELS:
        if fall >= threshold:
            return level
    return RiskLevel.LOW


def level_after_recovery(level: RiskLevel, fall: Decimal) -> RiskLevel:
    """Return the lowest level that a drawdown of `fall` would let `level` fall back to."""
    for candidate, threshold in LEVELS:
        if LEVEL_RANK[candidate] <= LEVEL_RANK[level] and fall > threshold - HYSTERESIS:
            return candidate
    return RiskLevel.LOW


def parked(state: BotState, slot: SlotState, params: Params) -> Parked | None:
    """Return the two prices that would free a slot that time frees no more, or None."""
    legs = [leg.state for leg in slot.legs if isinstance(leg.state, Exiting)]
    exits = [leg.exit for leg in legs if isinstance(leg.exit, OrderState)]
    if len(exits) < 2 or len(slot.recovery_orders) < params.max_recovery_slots:
        return None
    both = max(leg.position.filled_at for leg in legs)
    since = both + params.s2_orphan_after_sec
    if state.now < since:
        return None
    return Parked(since=since, low_price=exits[0].price, high_price=exits[1].price)
