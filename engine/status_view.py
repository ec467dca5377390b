"""The status as a pure function of state, parameters and what the shell knows besides.

Numbers are rounded here for reading; the lines of the equity change are not, so that they add up
exactly. Nothing here decides, reads a clock or waits. The contract is `core/status.py`.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Any

import core.status as s
from accounting import breakdown
from core.domain import HUNDRED, ONE, ZERO, OrderState, Owed, Position, TradeId
from core.params import Params
from core.plain_text import clean_text, in_words
from core.record import Record, exact, plain, replace, rounded
from core.state import BotState, Entering, Exiting, Idle, Leg, Mode, RiskLevel, SlotState
from engine import regime_view
from engine.advisor_view import AdvisorFacts, advisor_block
from engine.kelly_view import kelly_block
from engine.money_view import equity_block, ledger_block, rounded_or_null, share_pct
from engine.restore_view import CLEARS, restore_block
from grid.invariants import check_invariants, liveness
from grid_strategy import (
    OVERRIDABLE,
    break_even_pct,
    effective,
    marked_profit,
    mid,
    phase,
    slot_entry_pct,
    slot_profit,
)
from risk import (
    LEVELS,
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
        equity=equity_block(state, own),
        slots=tuple(_slot(state, slot, params) for slot in state.slots),
        capacity_fill_health=_capacity(state, params),
        risk=_risk(state, params),
        sizing=tuple(_sizing(state)),
        entry_vetoes=_vetoes(state),
        ledger=ledger_block(state),
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
            maker_pct=rounded(state.fees.maker * HUNDRED, 4),
            taker_pct=rounded(state.fees.taker * HUNDRED, 4),
            ghosts=len(state.ghosts),
            account=facts.account,
        ),
        settings=_settings(state, params, own),
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
        alarms.append(f"{exact(lines.unexplained)} {state.instrument.quote} are unexplained")
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
        mid=rounded(mid(market), decimals + 1),
        spread_pct=share_pct(market.ask - market.bid, market.bid),
        change_pct=share_pct(market.bid - start, start),
        time=round(market.time, 3),
        is_stale=is_stale(state, params, facts),
        candidate=None if market.candidate is None else plain(market.candidate),
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
        net=rounded(slot.totals.net, 4),
        profit=rounded(slot_profit(slot, state.market), 4),
        legs=(a, b),
        recoveries=tuple(
            s.RecoveryBlock(
                id=recovery.recovery_id,
                leg=recovery.trade_id,
                orphaned_at=int(recovery.orphaned_at),
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
    return _missing(why, idle.veto, idle.since, until)


def _missing_exit(position: Position, exit_: OrderState | Owed) -> s.MissingBlock | None:
    if isinstance(exit_, OrderState):
        return None
    why = f"its exit is owed and could not be placed: {clean_text(in_words(exit_.reason))}"
    since = position.filled_at if position.owed_since is None else position.owed_since
    return _missing(why, None, since, exit_.retry_at)


def _missing(why: str, veto: str | None, since: float, until: float | None) -> s.MissingBlock:
    until = None if until is None else math.ceil(until)
    return s.MissingBlock(why=why, veto=veto, since=int(since), until=until)


def _order(state: BotState, order: OrderState) -> s.OrderBlock:
    distance = None
    if state.market is not None:
        at = mid(state.market)
        distance = rounded((order.price / at - ONE) * HUNDRED, 2)
    return s.OrderBlock(
        id=order.client_order_id,
        side=order.side,
        price=plain(order.price),
        volume=exact(order.volume),
        filled=exact(order.filled_volume),
        distance_pct=distance,
        placed_at=int(order.placed_at),
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
        volume=exact(position.open_volume),
        price=rounded(position.average_price, 8),
        since=int(position.filled_at),
        unrealised=None if mark is None else rounded(marked_profit(position, trade_id, mark), 4),
        expected_net=rounded_or_null(expected, 4),
        tag=position.regime_at_entry,
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
    return s.ParkedBlock(
        since=int(found.since),
        total_sec=round(total, 3),
        low_price=plain(found.low_price),
        high_price=plain(found.high_price),
        text=f"waits for {exact(found.low_price)} or {exact(found.high_price)} {quote}",
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
        safe_cap=rounded(room.safe_cap, 2),
        headroom=rounded(room.headroom, 2),
        band=room.band,
        orders=counters.get("orders", 0),
        fills=counters.get("fills", 0),
        partial_fills=counters.get("partial_fills", 0),
        orphans=counters.get("orphans", 0),
        rejected=rejected,
        fill_sec_median=percentile(state.fill_secs, 50),
        fill_sec_p95=percentile(state.fill_secs, 95),
    )


def percentile(values: Sequence[float], pct: int) -> float | None:
    """Return the nearest-rank percentile (1 to 100) to a tenth, or None without values."""
    if not values:
        return None
    return round(sorted(values)[math.ceil(pct * len(values) / 100) - 1], 1)


def _risk(state: BotState, params: Params) -> s.RiskBlock:
    midnight = "at UTC midnight, by itself" if params.is_simulated else "after UTC midnight: resume"
    return s.RiskBlock(
        level=state.risk.level,
        level_since=state.risk.level_since,
        drawdown_pct=rounded(drawdown(state, params) * HUNDRED, 3),
        basis=params.risk_basis,
        daily_loss=rounded(daily_loss(state, params), 4),
        daily_loss_limit=rounded_or_null(daily_loss_limit(state, params), 4),
        portfolio_room=rounded(portfolio_room(state, params), 4),
        limits=s.LimitsBlock(
            levels_pct={
                level.value: exact(share * HUNDRED)
                for level, share in sorted(LEVELS, key=itemgetter(1))
            },
            equity_share_pct=exact(params.max_equity_share * HUNDRED),
            equity_stop=exact(params.equity_stop_usd) if params.equity_stop_usd else None,
            errors_in_a_row=params.max_consecutive_errors,
            spread_pct=exact(params.max_spread_pct),
            price_age_sec=params.stale_price_max_age_sec,
        ),
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
                s.SizeStage(
                    stage=step.stage, amount=rounded(step.amount_usd, 4), reason=step.reason
                )
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


def _settings(state: BotState, params: Params, own: Params) -> s.SettingsBlock:
    market, least = state.market, None
    if market is not None:
        least = state.instrument.least_volume(market.bid) * market.ask
    return s.SettingsBlock(
        entry_pct=rounded(own.entry_pct, 4),
        entry_pct_of={x.slot_id: rounded(slot_entry_pct(state, x, params), 4) for x in state.slots},
        layers=own.layers_target,
        profit_pct=rounded(own.profit_pct, 4),
        order_size_usd=rounded(own.order_size_usd, 4),
        profit_pct_min=rounded(break_even_pct(state.fees.maker) + own.min_net_profit_pct, 4),
        order_size_usd_min=rounded_or_null(least, 2),
        order_size_usd_max=rounded(own.max_order_usd, 4),
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
                configured=exact(configured),
                current=exact(override.value),
                at=override.at,
                way_back=f"reset_override {name}{where}",
            )
        )
    return blocks
