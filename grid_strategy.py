"""Prices, volumes and order sizes: the arithmetic of the grid, all pure functions.

Nothing here reads a clock, an environment or an exchange. Percentages are percent, prices and
amounts Decimal in quote. Look next at `leg.py`, which uses these numbers.
"""

from decimal import ROUND_FLOOR, Decimal

from core.domain import (
    HUNDRED,
    ONE,
    ZERO,
    CycleRecord,
    Instrument,
    Position,
    Side,
    SizeStep,
    TradeId,
)
from core.kelly import Bank, KellyResult, Sizing, sizing
from core.params import Params
from core.record import Record, replace
from core.state import BotState, Exiting, Leg, Market, RiskLevel, SlotState
from regime_policy import distance_factor

# Left free beside what a buy needs: covers what rounding adds to 1,000 partial executions.
ROUNDING_ROOM = Decimal("0.00001")
DISTANCE_MAX = Decimal(90)  # percent; a buy 100 % below the market has no price
KELLY_STEP = Decimal("0.000001")  # a multiplier is rounded to this where it enters money
IMPROVE_PCT = Decimal("0.02")  # how much farther an order is put after a post-only rejection
OVERRIDABLE = {
    "entry_pct": "PAIR_ENTRY_PCT",
    "profit_pct": "PAIR_PROFIT_PCT",
    "order_size_usd": "ORDER_SIZE_USD",
    "layers_target": "CAPITAL_LAYERS",
}


class CompletedCycle(CycleRecord, frozen=True, kw_only=True):
    """The stored, analysed form of a cycle: the record plus its slot and how it ended."""

    slot_id: int = 0
    resolution: str = "exit"  # exit, recovery, partial, pair_off
    regime_at_entry: int | None = None


def effective(params: Params, state: BotState, slot_id: int | None) -> Params:
    """Return `params` with the operator's overrides for `slot_id` (None: the bot-wide ones)."""
    if not state.overrides:
        return params
    changes: dict[str, object] = {}
    for override in state.overrides:  # bot-wide ones stand before those of a slot
        if override.slot_id is None or override.slot_id == slot_id:
            is_count = override.name == "layers_target"
            changes[override.name] = int(override.value) if is_count else override.value
    return replace(params, **changes) if changes else params


def mid(market: Market) -> Decimal:
    """Return (bid + ask)/2, or the last price if the quote is crossed."""
    if market.bid < market.ask:
        return (market.bid + market.ask) / 2
    return market.last


def phase(slot: SlotState) -> str:
    """Return S0, S1a, S1b or S2: which legs hold a position."""
    holds_a, holds_b = (isinstance(leg.state, Exiting) for leg in slot.legs)
    if holds_a:
        return "S2" if holds_b else "S1a"
    return "S1b" if holds_b else "S0"


def break_even_pct(maker: Decimal) -> Decimal:
    """Return the price step in percent at which a maker round trip earns nothing.

    `maker` is the fee as a fraction: (1 + f)/(1 − f) − 1, 0.8032 % at 0.40 %.
    """
    return ((ONE + maker) / (ONE - maker) - ONE) * HUNDRED


def net_per_cycle_pct(profit_pct: Decimal, maker: Decimal) -> Decimal:
    """Return what a cycle with target `profit_pct` nets, in percent of the entry's cost."""
    return profit_pct - maker * HUNDRED - maker * (HUNDRED + profit_pct)


def backoff(loss_streak: int, params: Params) -> Decimal:
    """Return the factor on the entry distance after `loss_streak` losses in a row."""
    if loss_streak < params.backoff_after:
        return ONE
    steps = loss_streak - params.backoff_after + 1
    return min(params.backoff_max, ONE + params.backoff_step * steps)


def slot_entry_pct(state: BotState, slot: SlotState, params: Params) -> Decimal:
    """Return the entry distance in force for a slot, in percent.

    One set for the slot stands alone; else the stagger of its place is added.
    """
    own = [o.value for o in state.overrides if o.name == "entry_pct" and o.slot_id == slot.slot_id]
    base = effective(params, state, None).entry_pct + slot.place * params.slot_stagger_pct
    return own[-1] if own else base


def entry_distance_pct(state: BotState, slot: SlotState, leg: Leg, params: Params) -> Decimal:
    """Return the distance of the leg's entry from the market, in percent, at most DISTANCE_MAX.

    Losses widen that of its slot, and so does a trend against the leg.
    """
    distance = slot_entry_pct(state, slot, params) * backoff(leg.loss_streak, params)
    distance *= distance_factor(state.regimes, leg.trade_id, params)
    return min(distance, DISTANCE_MAX)


def _improvement(instrument: Instrument, price: Decimal, rejections: int) -> Decimal:
    return rejections * max(instrument.tick_size, price * IMPROVE_PCT / HUNDRED)


def entry_price(
    instrument: Instrument,
    market: Market,
    trade_id: TradeId,
    *,
    distance_pct: Decimal,
    rejections: int = 0,
) -> Decimal:
    """Return the leg's entry price on the tick grid, never touching the opposite side.

    `rejections` is how often the exchange has just refused it as crossing; each moves it by
    max(1 tick, 0.02 %) away from the market.
    """
    m = mid(market)
    tick = instrument.tick_size
    if trade_id is TradeId.A:
        wanted = m * (ONE + distance_pct / HUNDRED) + _improvement(instrument, m, rejections)
        return max(instrument.price_up(wanted), instrument.price_up(market.bid + tick))
    wanted = m * (ONE - distance_pct / HUNDRED) - _improvement(instrument, m, rejections)
    return min(instrument.price_down(wanted), instrument.price_down(market.ask - tick))


def exit_price(
    instrument: Instrument,
    position: Position,
    trade_id: TradeId,
    market: Market | None,
    *,
    profit_pct: Decimal,
    entry_pct: Decimal,
    rejections: int = 0,
) -> Decimal:
    """Return the limit price that closes `position`, on the tick grid.

    `profit_pct` is percent of the average entry, gross of fees; `entry_pct` keeps the price away
    from a market that has run past it (no market: no such guard). Sells round up and buys round
    down, so the rounded price never earns less. Raises ValueError if the result is not positive.
    """
    average = position.average_price
    if position.soft_limit is not None and market is not None:
        price = _soft_price(instrument, position.soft_limit, trade_id, market)
    elif trade_id is TradeId.B:
        price = average * (ONE + profit_pct / HUNDRED)
        if market is not None:
            price = max(price, mid(market) * (ONE + entry_pct / HUNDRED))
        price += _improvement(instrument, price, rejections)
    else:
        price = average * (ONE - profit_pct / HUNDRED)
        if market is not None:
            price = min(price, mid(market) * (ONE - entry_pct / HUNDRED))
        price -= _improvement(instrument, price, rejections)
    price = instrument.price_for(trade_id.exit_side, price)
    if price <= 0:
        raise ValueError(f"exit price {price} of an entry at {average} is not positive")
    return price


def _soft_price(
    instrument: Instrument, limit: Decimal, trade_id: TradeId, market: Market
) -> Decimal:
    tick = instrument.tick_size
    if trade_id is TradeId.B:
        return max(limit, market.ask, market.bid + tick)
    return min(limit, market.bid, market.ask - tick)


def order_volume(instrument: Instrument, *, usd: Decimal, price: Decimal) -> Decimal:
    """Return the volume in base that `usd` buys at `price`, rounded down to the lot."""
    return instrument.volume_down(usd / price)


def slot_profit(slot: SlotState, market: Market | None) -> Decimal:
    """Return what the slot has realised plus its open positions at mark, in quote."""
    profit = slot.totals.net
    if market is None:
        return profit
    for leg in slot.legs:
        if isinstance(leg.state, Exiting):
            profit += marked_profit(leg.state.position, leg.trade_id, market.bid)
    for recovery in slot.recovery_orders:
        profit += marked_profit(recovery.position, recovery.trade_id, market.bid)
    return profit


def marked_profit(position: Position, trade_id: TradeId, mark: Decimal) -> Decimal:
    """Return the unrealised profit of the open part of `position` at `mark`, before fees."""
    value = position.open_volume * mark
    gain = value - position.open_cost
    return gain if trade_id is TradeId.B else -gain


class KellyFacts(Record, frozen=True, kw_only=True):
    """What the sizer has said, the regime now, and the account."""

    results: dict[str, KellyResult]
    label: str | None
    bank: Bank | None


class SizeFacts(Record, frozen=True, kw_only=True):
    """What the size of one entry depends on; funds are free of all other claims."""

    instrument: Instrument
    side: Side
    price: Decimal
    slot_profit: Decimal
    free_quote: Decimal
    free_base: Decimal
    maker_fee: Decimal
    slots: int
    risk_level: RiskLevel
    is_band_normal: bool
    kelly: KellyFacts | None = None  # None: off


class Size(Record, frozen=True, kw_only=True):
    """The outcome of the size pipeline; `veto` is why there is no order, else None."""

    chain: tuple[SizeStep, ...]
    volume: Decimal
    usd: Decimal
    veto: str | None = None
    wanted_usd: Decimal = ZERO  # before the fund guard
    kelly: Sizing | None = None  # None: off


RISK_MULTIPLIER = {
    RiskLevel.LOW: ONE,
    RiskLevel.MEDIUM: Decimal("0.8"),
    RiskLevel.HIGH: Decimal("0.5"),
    RiskLevel.CRITICAL: Decimal("0.25"),
    RiskLevel.EMERGENCY: ZERO,
}


def entry_size(facts: SizeFacts, params: Params) -> Size:
    """Return the volume of an entry with the chain base → … → final that explains it."""
    instrument, price = facts.instrument, facts.price
    least = instrument.least_volume(price) * price
    steps = [_base(facts, params)]
    if steps[0].amount_usd < least:
        steps.append(
            SizeStep(stage="final", amount_usd=ZERO, reason=f"below the minimum of {least:.2f} USD")
        )
        return Size(chain=tuple(steps), volume=ZERO, usd=ZERO, veto="below_minimum")
    steps.append(_layers(facts, params, steps[-1].amount_usd))
    kelly = _kelly_sizing(facts, params, steps[-1].amount_usd)
    steps.append(_kelly(kelly, steps[-1].amount_usd, least))
    steps.append(_rebalancer(facts, params, steps[-1].amount_usd, least))
    steps.append(_risk(facts, steps[-1].amount_usd, least))
    wanted = min(steps[-1].amount_usd, params.max_order_usd)
    free = _free_usd(facts)
    guarded = min(wanted, free)
    reason = "funded" if guarded == wanted else f"free funds {free:.2f} USD"
    if wanted < steps[-1].amount_usd:
        reason += f", cap {params.max_order_usd} USD"
    steps.append(SizeStep(stage="fund_guard", amount_usd=guarded, reason=reason))
    volume = order_volume(instrument, usd=guarded, price=price)
    if guarded == wanted == least:
        volume = instrument.least_volume(price)
    veto = None
    if wanted < least:
        veto = "below_minimum"
    elif instrument.is_below_minimum(volume=volume, price=price):
        veto = "funds"
    usd = volume * price
    steps.append(SizeStep(stage="final", amount_usd=usd, reason=f"{volume} at {price}"))
    return Size(
        chain=tuple(steps), volume=volume, usd=usd, veto=veto, wanted_usd=wanted, kelly=kelly
    )


def _base(facts: SizeFacts, params: Params) -> SizeStep:
    size = params.order_size_usd
    amount = min(size + max(ZERO, facts.slot_profit), size * 2)
    reason = f"size {size} USD"
    if amount != size:
        reason += f" + slot profit {amount - size:.4f}"
    return SizeStep(stage="base", amount_usd=amount, reason=reason)


def _layers(facts: SizeFacts, params: Params, amount: Decimal) -> SizeStep:
    if not params.layers_target:
        return SizeStep(stage="layers", amount_usd=amount, reason="0 layers")
    # One layer must be affordable for every slot, on both sides.
    per_layer = params.layer_base_per_order * max(1, facts.slots)
    free = max(ZERO, min(facts.free_base, facts.free_quote / facts.price))
    funded = int((free / per_layer).to_integral_value(ROUND_FLOOR))
    layers = min(params.layers_target, funded)
    added = layers * params.layer_base_per_order * facts.price
    reason = f"{layers} of {params.layers_target} layers"
    return SizeStep(stage="layers", amount_usd=amount + added, reason=reason)


def _kelly_sizing(facts: SizeFacts, params: Params, amount: Decimal) -> Sizing | None:
    kelly = facts.kelly
    if kelly is None:
        return None
    base = float(amount)
    return sizing(kelly.results, kelly.label, params.kelly, base_usd=base, bank=kelly.bank)


def _kelly(made: Sizing | None, amount: Decimal, least: Decimal) -> SizeStep:
    if made is None:
        return SizeStep(stage="kelly", amount_usd=amount, reason="off")
    # The one door by which a statistic becomes money.
    after = amount * Decimal(repr(made.multiplier)).quantize(KELLY_STEP)
    if after < least <= amount:
        reason = f"{made.reason}, held_at_minimum"
        return SizeStep(stage="kelly", amount_usd=least, reason=reason)
    return SizeStep(stage="kelly", amount_usd=after, reason=made.reason)


def _rebalancer(facts: SizeFacts, params: Params, amount: Decimal, least: Decimal) -> SizeStep:
    def step(after: Decimal, reason: str) -> SizeStep:
        return SizeStep(stage="rebalancer", amount_usd=after, reason=reason)

    if not params.rebalance_enabled:
        return step(amount, "off")
    if not facts.is_band_normal:
        return step(amount, "off near capacity")
    total = facts.free_quote + facts.free_base * facts.price
    if total <= 0:
        return step(amount, "no free assets")
    share = facts.free_quote / total
    needed = Side.BUY if share > params.rebalance_target else Side.SELL
    excess = abs(share - params.rebalance_target) - params.rebalance_band
    if facts.side is not needed or excess <= 0:
        return step(amount, f"quote share {share:.2f}")
    factor = ONE + min(Decimal("0.5"), 2 * excess)
    return step(max(amount * factor, least), f"quote share {share:.2f}, × {factor:.3f}")


def _risk(facts: SizeFacts, amount: Decimal, least: Decimal) -> SizeStep:
    level = facts.risk_level
    factor = RISK_MULTIPLIER[level]
    if level is RiskLevel.EMERGENCY and facts.side is Side.SELL:
        factor = RISK_MULTIPLIER[RiskLevel.CRITICAL]  # selling inventory reduces exposure
    after = amount * factor
    reason = f"level {level}, × {factor}"
    if after < least <= amount and level in (RiskLevel.MEDIUM, RiskLevel.HIGH):
        return SizeStep(stage="risk", amount_usd=least, reason=reason + ", held_at_minimum")
    return SizeStep(stage="risk", amount_usd=after, reason=reason)


def _free_usd(facts: SizeFacts) -> Decimal:
    if facts.side is Side.BUY:
        return max(ZERO, (facts.free_quote - ROUNDING_ROOM) / (ONE + facts.maker_fee))
    return max(ZERO, facts.free_base * facts.price)
