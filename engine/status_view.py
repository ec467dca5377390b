"""The status as a pure function of state, parameters and what the shell knows besides.

Numbers are rounded here for reading; the lines of the equity change are not, so that they add up
exactly. Nothing here decides, reads a clock or waits. The contract is `core/status.py`.
"""

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import core.status as s
from accounting import benchmarks, breakdown, equity, trial_balance
from core.domain import HUNDRED, ONE, ZERO, OrderState, Owed, Position, TradeId
from core.params import Params
from core.plain_text import clean_text, in_words
from core.record import Record, plain, replace
from core.state import BotState, Entering, Exiting, Idle, Leg, Mode, RiskLevel, SlotState
from engine import regime_view
from engine.advisor_view import AdvisorFacts, advisor_block
from engine.kelly_view import kelly_block
from engine.restore_view import CLEARS, restore_block
from grid.invariants import check_invariants, liveness
from grid.watch import beyond_rounding
from grid_strategy import (
    OVERRIDABLE,
    break_even_pct,
    effective,
    marked_profit,
    mid,
    net_per_cycle_pct,
    phase,
    slot_profit,
)
from risk import (
    VETO_WORDS,
    VetoReason,
    capacity,
    daily_loss,
    daily_loss_limit,
    drawdown,
    parked,
    portfolio_room,
)

EVENTS_MAX = 24
_RESTING = (VetoReason.COOLDOWN, VetoReason.CLOSING, VetoReason.SUPPRESSED)
_WAYS_OUT = {  # of vetoes that time does not lift
    VetoReason.BELOW_MINIMUM: "raise the order size (set_order_size)",
    VetoReason.BELOW_BREAK_EVEN: "raise the profit target (set_profit_pct)",
}
_NEUTRAL = ("off", "0 layers", "funded", "level LOW, × 1")


class Facts(Record, frozen=True, kw_only=True):
    """What the shell knows and the state does not.

    `speed` None: as fast as possible; `waiting_for` is why the bot is not ready; wall times are the
    machine's; a status older than `stale_after_sec` is greyed out; events are newest first.
    """

    version: str
    exchange_mode: str
    market_name: str
    speed: float | None
    started_wall: float
    now_wall: float
    journal_seq: int = 0
    state_seq: int = 0
    waiting_for: str | None = None
    read_only: bool = False
    stale_after_sec: float = 15.0
    is_real_time: bool = False  # the market's time is the wall's
    recent_events: tuple[Mapping[str, Any], ...] = ()
    account: s.AccountBlock | None = None
    replica: s.ReplicaBlock | None = None
    regimes: regime_view.RegimeFacts = regime_view.RegimeFacts()
    advisor: AdvisorFacts = AdvisorFacts()


def build_status(state: BotState, params: Params, facts: Facts) -> s.Status:
    """Return the status of `state` under `params`: pure, and total on any valid state."""
    own = effective(params, state, None)
    return s.Status(
        version=facts.state_seq,
        bot=_bot(state, params, facts),
        market=_market(state, params, facts),
        equity=_equity(state, own),
        slots=tuple(_slot(state, slot, params) for slot in state.slots),
        capacity_fill_health=_capacity(state, params),
        risk=_risk(state, params),
        sizing=tuple(_sizing(state)),
        entry_vetoes=_vetoes(state),
        ledger=_ledger(state),
        persistence=s.PersistenceBlock(
            journal_seq=facts.journal_seq,
            state_seq=facts.state_seq,
            replica=facts.replica,
            restore=restore_block(state),
        ),
        exchange=s.ExchangeBlock(
            status=state.health.system_status,
            clock_offset_sec=state.health.clock_offset_sec,
            consecutive_errors=state.health.consecutive_errors,
            maker_pct=_text(state.fees.maker * HUNDRED, 4),
            taker_pct=_text(state.fees.taker * HUNDRED, 4),
            ghosts=len(state.ghosts),
            account=facts.account,
        ),
        settings=_settings(state, own),
        overrides=tuple(_overrides(state, params)),
        recent_events=tuple(_event(event) for event in facts.recent_events[:EVENTS_MAX]),
        hmm_regime=regime_view.hmm_block(state, params, facts.regimes),
        hmm_consensus=regime_view.consensus_block(state, params),
        hmm_data_pipeline=regime_view.pipeline_block(facts.regimes.pipeline),
        hmm_data_pipeline_secondary=regime_view.pipeline_block(facts.regimes.pipeline_secondary),
        regime_history_30m=regime_view.history_block(state),
        regime_directional=regime_view.directional_block(state, params),
        kelly=kelly_block(state, params),
        ai_regime_advisor=advisor_block(state, params, facts.advisor),
    )


# ---- rounding and words -------------------------------------------------------------------------


def _text(value: Decimal, decimals: int) -> str:
    """Return `value` rounded half even, as plain text without superfluous zeros."""
    return _exact(value.quantize(ONE.scaleb(-decimals), ROUND_HALF_EVEN))


def _exact(value: Decimal) -> str:
    text = plain(value)
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _maybe(value: Decimal | None, decimals: int) -> str | None:
    return None if value is None else _text(value, decimals)


def _share_pct(part: Decimal, whole: Decimal, decimals: int = 3) -> str | None:
    return _text(part * HUNDRED / whole, decimals) if whole > 0 else None


def _event(event: Mapping[str, Any]) -> s.EventBlock:
    return s.EventBlock(
        time=float(event.get("time", 0.0)),
        kind=clean_text(event.get("kind", "")),
        level=clean_text(event.get("level", "info")),
        text=clean_text(event.get("text", "")),
    )


# ---- the bot as a whole -------------------------------------------------------------------------


def _bot(state: BotState, params: Params, facts: Facts) -> s.BotBlock:
    condition, reasons = _condition(state, params, facts)
    return s.BotBlock(
        mode=state.mode,
        mode_since=state.mode_since,
        mode_reason=clean_text(state.mode_reason),
        condition=condition,
        reasons=tuple(reasons),
        waiting_for=facts.waiting_for,
        version=facts.version,
        uptime_sec=round(max(0.0, facts.now_wall - facts.started_wall), 1),
        started_wall=round(facts.started_wall, 3),
        published_wall=round(facts.now_wall, 3),
        stale_after_sec=facts.stale_after_sec,
        now=round(state.now, 3),
        running_since=state.started_at or None,
        exchange_mode=facts.exchange_mode,
        market_name=clean_text(facts.market_name),
        speed=facts.speed,
        market_ended=state.market_ended,
        read_only=facts.read_only,
    )


def _condition(state: BotState, params: Params, facts: Facts) -> tuple[str, list[str]]:
    """Return ok, attention, stopped or alarm, and everything that speaks against ok."""
    alarms = [f"Safety check: {text}" for text in check_invariants(state)]
    lines = breakdown(state)
    if lines is not None and lines.unexplained:
        alarms.append(f"{_exact(lines.unexplained)} {state.instrument.quote} are unexplained")
    stops = [f"Locked ({in_words(lock.name)}): {lock.reason}" for lock in state.risk.locks]
    if state.mode is Mode.HALTED:
        stops.insert(0, f"Halted: {state.mode_reason}; nothing new but owed exits")
    if state.risk.level is RiskLevel.EMERGENCY:
        stops.append("Drawdown at EMERGENCY: no new risk")
    if state.market_ended:
        stops.append("The market has ended")
    notes = []
    if state.mode is Mode.PAUSED:
        notes.append("Paused: no new entries; exits and fills go on")
    if facts.waiting_for is not None:
        notes.append(f"Not ready: {facts.waiting_for}")
    if is_stale(state, params, facts):
        notes.append("No fresh price")
    if state.health.system_status != "online":
        notes.append(f"Exchange status: {state.health.system_status}")
    if state.risk.level not in (RiskLevel.LOW, RiskLevel.EMERGENCY):
        notes.append(f"Drawdown at {state.risk.level}: smaller orders")
    notes.extend(_hopeless(state))
    waiting = [slot.alias for slot in state.slots if parked(state, slot, params) is not None]
    if waiting:
        notes.append(f"Parked, waiting for a price: {', '.join(waiting)}")
    if not (alarms or stops or notes):
        return "ok", []
    condition = "alarm" if alarms else "stopped" if stops else "attention"
    return condition, [clean_text(text) for text in alarms + stops + notes]


def _hopeless(state: BotState) -> list[str]:
    """Return why no leg that wants an entry can have one until a setting is changed, if so."""
    vetoes = {leg.state.veto for x in state.slots for leg in x.legs if isinstance(leg.state, Idle)}
    wanting = vetoes - set(_RESTING)
    if not wanting or not wanting <= set(_WAYS_OUT):
        return []
    return [
        f"No entry can be placed: {VETO_WORDS[reason]}; {way}"
        for reason, way in _WAYS_OUT.items()
        if reason in wanting
    ]


def is_stale(state: BotState, params: Params, facts: Facts) -> bool:
    """Tell whether the price is too old; while a live market is silent only the wall goes on."""
    wall = facts.now_wall + state.health.clock_offset_sec if facts.is_real_time else 0.0
    now, most = max(state.now, wall), params.stale_price_max_age_sec
    return state.market is None or now - state.market.time > most


def _market(state: BotState, params: Params, facts: Facts) -> s.MarketBlock:
    instrument, market = state.instrument, state.market
    decimals = max(0, -int(instrument.tick_size.normalize().as_tuple().exponent))
    block = s.MarketBlock(
        pair=instrument.pair,
        base=instrument.base,
        quote=instrument.quote,
        price_decimals=decimals,
    )
    if market is None:
        return block
    start = state.balances.start_mark
    return replace(
        block,
        bid=plain(market.bid),
        ask=plain(market.ask),
        last=plain(market.last),
        mid=_text(mid(market), decimals + 1),
        spread_pct=_share_pct(market.ask - market.bid, market.bid),
        change_pct=_share_pct(market.bid - start, start),
        time=round(market.time, 3),
        is_stale=is_stale(state, params, facts),
        candidate=None if market.candidate is None else plain(market.candidate),
    )


# ---- money --------------------------------------------------------------------------------------


def _equity(state: BotState, own: Params) -> s.EquityBlock:
    now, lines = equity(state), breakdown(state)
    start = None if lines is None or now is None else now - lines.change
    mark = None if state.market is None else state.market.bid
    return s.EquityBlock(
        equity=_maybe(now, 8),
        cash=_text(state.balances.quote, 8),
        base=_exact(state.balances.base),
        inventory=None if mark is None else _text(state.balances.base * mark, 8),
        start_equity=_maybe(start, 8),
        drawdown_pct=_text(drawdown(state, own) * HUNDRED, 3),
        change=None
        if lines is None
        else s.Change(
            total=_exact(lines.change),
            grid_profit=_exact(lines.grid_profit),
            inventory_pnl=_exact(lines.inventory_pnl),
            fees=_exact(lines.fees),
            flows=_exact(lines.flows),
            unexplained=_exact(lines.unexplained),
        ),
        change_pct=None if lines is None or start is None else _share_pct(lines.change, start),
        holding=_holding(state, now),
        liquidation_cost=None if lines is None else _text(lines.liquidation_cost, 8),
        economics=_economics(state, own),
    )


def _holding(state: BotState, now: Decimal | None) -> s.Holding | None:
    values = benchmarks(state)
    if values is None or now is None:
        return None

    def against(value: Decimal) -> s.Comparison:
        ahead = now - value
        return s.Comparison(
            value=_text(value, 8), ahead=_text(ahead, 8), ahead_pct=_share_pct(ahead, value)
        )

    return s.Holding(
        start=against(values.hold),
        usd=against(values.usd),
        doge=against(values.doge),
        half=against(values.half),
    )


def _economics(state: BotState, own: Params) -> s.Economics:
    maker, target = state.fees.maker, own.profit_pct
    net = net_per_cycle_pct(target, maker)
    gross = -(state.accounts.grid_profit + state.accounts.unbooked)
    counters = state.counters
    return s.Economics(
        profit_pct=_text(target, 4),
        break_even_pct=_text(break_even_pct(maker), 4),
        net_per_cycle_pct=_text(net, 4),
        net_per_cycle_usd=_text(own.order_size_usd * net / HUNDRED, 4),
        fee_share_pct=_share_pct(target - net, target, 1),
        paid_fee_share_pct=_share_pct(state.accounts.fees, gross, 1),
        cycles=counters.get("cycles", 0),
        wins=counters.get("wins", 0),
        losses=counters.get("losses", 0),
    )


def _ledger(state: BotState) -> s.LedgerBlock:
    own = state.balances
    at = own.reported_at  # an older report than the last execution says nothing of it
    is_known = at is not None and at >= (own.last_execution_at or 0.0)
    base, quote = own.reported_base - own.base, own.reported_quote - own.quote
    return s.LedgerBlock(
        drift_base=_exact(base) if is_known else None,
        drift_quote=_exact(quote) if is_known else None,
        agrees=not any(beyond_rounding(state, base, quote)) if is_known else None,
        drift_since=own.drift_since,
        reported_at=own.reported_at,
        is_balanced=trial_balance(state.accounts) == 0,
    )


# ---- slots --------------------------------------------------------------------------------------


def _slot(state: BotState, slot: SlotState, params: Params) -> s.SlotBlock:
    a, b = (_leg(state, leg, params) for leg in slot.legs)
    return s.SlotBlock(
        slot_id=slot.slot_id,
        alias=clean_text(slot.alias),
        phase=phase(slot),
        ending="closing" if slot.closing else "pairing" if slot.pairing else None,
        cycles=slot.totals.cycles,
        net=_text(slot.totals.net, 4),
        profit=_text(slot_profit(slot, state.market), 4),
        legs=(a, b),
        recoveries=tuple(
            s.RecoveryBlock(
                id=recovery.recovery_id,
                leg=recovery.trade_id,
                orphaned_at=round(recovery.orphaned_at, 3),
                reason=clean_text(recovery.reason),
                order=_exit_order(state, recovery.exit),
                position=_position(state, recovery.position, recovery.trade_id, recovery.exit),
                missing=_missing_exit(recovery.position, recovery.exit),
            )
            for recovery in slot.recovery_orders
        ),
        parked=_parked(state, slot, params),
    )


def _leg(state: BotState, leg: Leg, params: Params) -> s.LegBlock:
    order: OrderState | None = None
    position: s.PositionBlock | None = None
    missing: s.MissingBlock | None = None
    match leg.state:
        case Idle():
            name = "idle"
            missing = _missing_entry(leg.state, state, params)
        case Entering():
            name, order = "entering", leg.state.order
        case Exiting(position=held, exit=exit_):
            name = "exiting"
            position = _position(state, held, leg.trade_id, exit_)
            missing = _missing_exit(held, exit_)
            order = exit_ if isinstance(exit_, OrderState) else None
    return s.LegBlock(
        leg=leg.trade_id,
        cycle=leg.cycle,
        state=name,
        order=None if order is None else _order(state, order),
        position=position,
        missing=missing,
        loss_streak=leg.loss_streak,
    )


def _missing_entry(idle: Idle, state: BotState, params: Params) -> s.MissingBlock:
    why = "its entry is about to be placed"
    if idle.veto is not None:
        why = VETO_WORDS.get(idle.veto) or clean_text(in_words(idle.veto))
    until = idle.resume_at
    withheld_since = state.regimes.suppression.since
    if idle.veto == VetoReason.SUPPRESSED and withheld_since is not None:
        until = withheld_since + params.regime_max_suppression_sec
    return s.MissingBlock(why=why, veto=idle.veto, since=idle.since, until=until)


def _missing_exit(position: Position, exit_: OrderState | Owed) -> s.MissingBlock | None:
    if isinstance(exit_, OrderState):
        return None
    why = f"its exit is owed and could not be placed: {clean_text(in_words(exit_.reason))}"
    since = position.filled_at if position.owed_since is None else position.owed_since
    return s.MissingBlock(why=why, veto=None, since=since, until=exit_.retry_at)


def _order(state: BotState, order: OrderState) -> s.OrderBlock:
    distance = None
    if state.market is not None:
        at = mid(state.market)
        distance = _text((order.price / at - ONE) * HUNDRED, 2)
    return s.OrderBlock(
        id=order.client_order_id,
        side=order.side,
        price=plain(order.price),
        volume=_exact(order.volume),
        filled=_exact(order.filled_volume),
        distance_pct=distance,
        placed_at=round(order.placed_at, 3),
        status=order.status,
    )


def _exit_order(state: BotState, exit_: OrderState | Owed) -> s.OrderBlock | None:
    return _order(state, exit_) if isinstance(exit_, OrderState) else None


def _position(
    state: BotState, position: Position, trade_id: TradeId, exit_: OrderState | Owed
) -> s.PositionBlock:
    mark = None if state.market is None else state.market.bid
    expected: Decimal | None = None
    if isinstance(exit_, OrderState):
        volume = position.open_volume
        fees = position.fees * volume / position.volume
        fees += exit_.price * volume * state.fees.maker
        expected = marked_profit(position, trade_id, exit_.price) - fees
    return s.PositionBlock(
        volume=_exact(position.open_volume),
        price=_text(position.average_price, 8),
        since=round(position.filled_at, 3),
        unrealised=None if mark is None else _text(marked_profit(position, trade_id, mark), 4),
        expected_net=_maybe(expected, 4),
    )


def _parked(state: BotState, slot: SlotState, params: Params) -> s.ParkedBlock | None:
    found = parked(state, slot, params)
    if found is None:
        return None
    quote = state.instrument.quote
    stint = state.stints.get(f"parked:{slot.slot_id}")
    total = 0.0
    if stint is not None:
        total = stint.total_sec + (0.0 if stint.since is None else state.now - stint.since)
    low, high = plain(found.low_price), plain(found.high_price)
    return s.ParkedBlock(
        since=round(found.since, 3),
        total_sec=round(total, 3),
        low_price=low,
        high_price=high,
        text=f"waits until the price falls to {low} or rises to {high} {quote}",
        ways_out=("wait", "soft_close", "pair_off"),
    )


# ---- orders, risk, sizes ------------------------------------------------------------------------


def _capacity(state: BotState, params: Params) -> s.CapacityBlock:
    room, counters = capacity(state, params), state.counters
    rejected = {
        name.removeprefix("rejected:"): count
        for name, count in sorted(counters.items())
        if name.startswith("rejected:")
    }
    return s.CapacityBlock(
        open_orders=room.open_orders,
        limit=room.limit,
        safe_cap=_text(room.safe_cap, 2),
        headroom=_text(room.headroom, 2),
        band=room.band,
        orders=counters.get("orders", 0),
        fills=counters.get("fills", 0),
        partial_fills=counters.get("partial_fills", 0),
        orphans=counters.get("orphans", 0),
        rejected=rejected,
        fill_sec_median=_quantile(state.fill_secs, 0.5),
        fill_sec_p95=_quantile(state.fill_secs, 0.95),
    )


def _quantile(values: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank quantile of `values`, or None without any."""
    if not values:
        return None
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 1)


def _risk(state: BotState, params: Params) -> s.RiskBlock:
    midnight = "at UTC midnight, by itself" if params.is_simulated else "after UTC midnight: resume"
    return s.RiskBlock(
        level=state.risk.level,
        level_since=state.risk.level_since,
        drawdown_pct=_text(drawdown(state, params) * HUNDRED, 3),
        basis=params.risk_basis,
        daily_loss=_text(daily_loss(state, params), 4),
        daily_loss_limit=_maybe(daily_loss_limit(state, params), 4),
        portfolio_room=_text(portfolio_room(state, params), 4),
        locks=tuple(
            s.LockBlock(
                name=lock.name,
                since=lock.since,
                reason=clean_text(lock.reason),
                clears=CLEARS.get(lock.name, midnight),
            )
            for lock in state.risk.locks
        ),
        violations=tuple(clean_text(text) for text in check_invariants(state)),
        missing=tuple(clean_text(text) for text in liveness(state, params)),
    )


def _sizing(state: BotState) -> list[s.SizingBlock]:
    return [
        s.SizingBlock(
            slot_id=slot.slot_id,
            leg=leg.trade_id,
            chain=tuple(
                s.SizeStage(stage=step.stage, amount=_text(step.amount_usd, 4), reason=step.reason)
                for step in leg.last_chain
                if step.reason not in _NEUTRAL
            ),
        )
        for slot in state.slots
        for leg in slot.legs
        if leg.last_chain and not isinstance(leg.state, Exiting)
    ]


def _vetoes(state: BotState) -> tuple[s.VetoBlock, ...]:
    return tuple(
        s.VetoBlock(reason=reason, count=count, text=VETO_WORDS[reason])
        for reason in VetoReason
        if (count := state.counters.get(f"veto:{reason}", 0))
    )


def _settings(state: BotState, own: Params) -> s.SettingsBlock:
    market, least = state.market, None
    if market is not None:
        least = state.instrument.least_volume(market.bid) * market.ask
    return s.SettingsBlock(
        entry_pct=_text(own.entry_pct, 4),
        profit_pct=_text(own.profit_pct, 4),
        order_size_usd=_text(own.order_size_usd, 4),
        profit_pct_min=_text(break_even_pct(state.fees.maker) + own.min_net_profit_pct, 4),
        order_size_usd_min=_maybe(least, 2),
        order_size_usd_max=_text(own.max_order_usd, 4),
    )


def _overrides(state: BotState, params: Params) -> list[s.OverrideBlock]:
    blocks = []
    for override in state.overrides:
        configured = Decimal(getattr(params, override.name, ZERO))
        if override.name == "entry_pct" and override.slot_id is not None:
            place = next((x.place for x in state.slots if x.slot_id == override.slot_id), 0)
            configured += place * params.slot_stagger_pct
        name = OVERRIDABLE.get(override.name, override.name)
        where = "" if override.slot_id is None else f" for slot {override.slot_id}"
        blocks.append(
            s.OverrideBlock(
                name=name,
                slot=override.slot_id,
                configured=_exact(configured),
                current=_exact(override.value),
                at=override.at,
                way_back=f"reset_override {name}{where}",
            )
        )
    return blocks
