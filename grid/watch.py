"""The watch over money: marks, balances, drawdown levels, locks, the day's and hour's turn.

Runs inside `reduce`; facts come from the state and the event alone. The rules are those of
`risk.py`; here they are applied to the state and recorded.
"""

from collections.abc import Iterator
from decimal import Decimal

from accounting import (
    benchmarks,
    equity,
    first_benchmarks,
    held,
    is_short,
    orders,
    rebalanced,
    with_flow,
)
from core.actions import RecordEquity, RequestReconcile
from core.domain import ZERO, OrderStatus
from core.events import BalancesReported, ExternalFlow
from core.params import Params, RiskBasis
from core.record import replace
from core.state import BotState, Entering, Idle, Lock, LockName, Mode, RiskLevel, Stint
from grid.reduction import Reduction
from risk import (
    EMERGENCY_RESET_SEC,
    LEVEL_DWELL_SEC,
    LEVEL_RANK,
    VETO_WORDS,
    VetoReason,
    capacity,
    daily_loss,
    daily_loss_limit,
    drawdown,
    level_after_recovery,
    level_for,
    parked,
    risk_index,
    risk_value,
)

DAY_SEC = 86_400
GHOST_WAIT_SEC = 600.0  # so long a ghost may explain that the balances differ
HOUR_SEC = 3_600
RESTING = (OrderStatus.OPEN, OrderStatus.CANCELLING)
DRIFT_SHARE = Decimal("0.02")
DRIFT_CONFIRM_SEC = 30.0
EQUITY_STEP = Decimal("1e-8")
LEDGER = "ledger "  # begins the reference of a flow that the exchange itself has told
FLOWS_KEPT_SEC = 600.0  # longer than clocks and the exchange's ledger may be behind


def open_books(r: Reduction) -> None:
    """Open the ledger at the first moment both balances and a mark are known."""
    own, market = r.state.balances, r.state.market
    if own.start_mark or own.reported_at is None or market is None:
        return
    mark = market.bid
    # What was recorded as a deposit before is a flow, not a starting balance.
    base, quote = own.base - own.flow_base, own.quote - own.flow_quote
    value, flow = quote + base * mark, own.flow_quote + own.flow_base * mark
    r.update(
        balances=replace(own, start_base=base, start_quote=quote, start_mark=mark),
        benchmarks=first_benchmarks(value + flow, mark),
    )
    inventory = own.base * mark
    r.post("opening", cash=own.quote, inventory=inventory, capital=-value, flows=-flow)
    r.move_inventory(own.base)


def fold_peak(r: Reduction) -> None:
    """Let the peak of the risk index see the price range since the last time it was folded."""
    market, own = r.state.market, r.state.balances
    if market is None or not own.start_mark:
        return
    # With constant holdings the index is monotone in the price: its maximum is at an end.
    highest = max(
        risk_index(r.state, r.params, market.bid_high),
        risk_index(r.state, r.params, market.bid_low),
    )
    if highest > r.state.risk.peak:
        r.update(risk=replace(r.state.risk, peak=highest))
    if market.bid_high != market.bid or market.bid_low != market.bid:
        r.update(market=replace(market, bid_high=market.bid, bid_low=market.bid))


def watch(r: Reduction) -> None:
    """Bring peak, day, locks, level and the equity curve up to date."""
    fold_peak(r)
    if r.state.market is None or not r.state.balances.start_mark:
        return
    turn_hour(r)
    _daily_loss(r)
    _equity_stop(r)
    _api_errors(r)
    _shortfall(r)
    _level(r)


def turn_hour(r: Reduction) -> None:
    """Note the equity once an hour, and what begins with a day; repeat what goes on waiting."""
    hour = int(r.now // HOUR_SEC)
    _alert_imbalance(r, is_hourly=hour != r.state.hour)
    if hour == r.state.hour:
        return
    day = int(r.now // DAY_SEC)
    is_new_day = day != r.state.risk.day
    if is_new_day:
        _turn_day(r, day)
    note_equity(r, is_daily=is_new_day)


def note_equity(r: Reduction, *, is_daily: bool = False) -> None:
    """Note what is owned, and what doing nothing would be worth; once an hour."""
    r.update(hour=int(r.now // HOUR_SEC))
    value, others = equity(r.state), benchmarks(r.state)
    if value is None or others is None or r.state.market is None:
        return
    r.act(
        RecordEquity(
            time=r.now,
            equity=value,
            hold=others.hold,
            usd=others.usd,
            doge=others.doge.quantize(EQUITY_STEP),
            half=others.half.quantize(EQUITY_STEP),
            grid_profit=-(r.state.accounts.grid_profit + r.state.accounts.unbooked),
            fees=r.state.accounts.fees,
            mark=r.state.market.bid,
            is_daily=is_daily,
        )
    )


def _turn_day(r: Reduction, day: int) -> None:
    market = r.state.market
    if market is None:
        return
    is_first = r.state.risk.day < 0
    if not is_first:
        r.update(benchmarks=rebalanced(r.state.benchmarks, market.bid))
        if r.params.is_simulated:
            clear_lock(r, LockName.DAILY_LOSS, "a new day")
    r.update(
        risk=replace(
            r.state.risk,
            day=day,
            day_start=risk_value(r.state, r.params, market.bid),
            day_start_equity=equity(r.state) or ZERO,
        )
    )
    _tell_of_the_day(r)


def _tell_of_the_day(r: Reduction) -> None:
    """Repeat, once a day, what goes on waiting for the operator: sizes that are too small."""
    for slot in r.state.slots:
        for leg in slot.legs:
            if isinstance(leg.state, Idle) and leg.state.veto == VetoReason.BELOW_MINIMUM:
                least = leg.last_chain[-1].reason if leg.last_chain else "see the size chain"
                r.notify(
                    "warning", "below_minimum", f"slot {slot.slot_id} leg {leg.trade_id}: {least}"
                )


def imbalance(state: BotState, params: Params) -> list[tuple[float, str]]:
    """Return the sides without a resting entry: since when, and what to say of it.

    The operator is told after IMBALANCE_ALERT_MIN, and then hourly.
    """
    found: list[tuple[float, str]] = []
    for side, name in ((0, "sell"), (1, "buy")):
        legs = [slot.legs[side].state for slot in state.slots]
        if any(isinstance(x, Entering) and x.order.status in RESTING for x in legs):
            continue
        waiting = [x for x in legs if isinstance(x, Idle | Entering)]
        if not waiting:
            continue
        since = min(x.since if isinstance(x, Idle) else x.idle_since for x in waiting)
        vetoes = {x.veto for x in waiting if isinstance(x, Idle) and x.veto}
        words = sorted(VETO_WORDS.get(veto, veto) for veto in vetoes)
        reasons = ", ".join(words) or "its order is not acknowledged"
        minutes = f"{params.imbalance_alert_min:g} min or longer"
        found.append((since, f"no {name} entry has rested for {minutes}: {reasons}"))
    return found


def _alert_imbalance(r: Reduction, *, is_hourly: bool) -> None:
    for since, text in imbalance(r.state, r.params):
        at = since + r.params.imbalance_alert_min * 60
        if r.now >= at and (is_hourly or r.state.timer_at < at):
            r.notify("warning", "imbalance", text)


def set_lock(r: Reduction, name: LockName, reason: str) -> None:
    """Set a lock unless it holds already."""
    risk = r.state.risk
    if any(lock.name is name for lock in risk.locks):
        return
    locks = (*risk.locks, Lock(name=name, since=r.now, reason=reason))
    r.update(risk=replace(risk, locks=locks), pass_due=r.now)
    r.count(f"lock:{name}")
    r.transition("lock", name, reason)
    r.notify("error", "lock", f"entries locked ({name}): {reason}")


def clear_lock(r: Reduction, name: LockName, reason: str) -> bool:
    """Clear a lock; tell whether it held."""
    risk = r.state.risk
    kept = tuple(lock for lock in risk.locks if lock.name is not name)
    if len(kept) == len(risk.locks):
        return False
    r.update(risk=replace(risk, locks=kept), pass_due=r.now)
    r.transition("unlock", name, reason)
    r.notify("info", "unlock", f"lock {name} cleared: {reason}")
    return True


def _daily_loss(r: Reduction) -> None:
    limit = daily_loss_limit(r.state, r.params)
    loss = daily_loss(r.state, r.params)
    if limit is not None and loss > limit:
        against = " against holding" if r.params.risk_basis is RiskBasis.STRATEGY else ""
        text = f"lost {loss:.2f} USD today{against}, the limit is {limit:.2f}"
        set_lock(r, LockName.DAILY_LOSS, text)


def daily_limit_changed(r: Reduction, old: Decimal | None) -> None:
    """Clear the daily loss lock when its limit was raised, by a restart, above today's loss."""
    new = daily_loss_limit(r.state, r.params)
    is_raised = new is None or (old is not None and new > old)
    if is_raised and (new is None or daily_loss(r.state, r.params) <= new):
        text = "off" if new is None else f"{new:.2f} USD"
        clear_lock(r, LockName.DAILY_LOSS, f"DAILY_LOSS_LIMIT_USD is now {text}")


def _equity_stop(r: Reduction) -> None:
    stop, value = r.params.equity_stop_usd, equity(r.state)
    if value is None or not stop:
        return
    if value < stop:
        set_lock(r, LockName.EQUITY_STOP, f"equity {value:.2f} USD is below {stop} USD")
    else:
        clear_lock(r, LockName.EQUITY_STOP, f"equity {value:.2f} USD is above {stop} USD again")


def _api_errors(r: Reduction) -> None:
    errors = r.state.health.consecutive_errors
    if errors >= r.params.max_consecutive_errors:
        set_lock(r, LockName.API_ERRORS, f"{errors} API errors in a row")


def _level(r: Reduction) -> None:
    risk, fall = r.state.risk, drawdown(r.state, r.params)
    wanted = level_for(fall)
    if LEVEL_RANK[wanted] > LEVEL_RANK[risk.level]:
        _enter_level(r, wanted, f"drawdown {fall * 100:.2f} %")
        return
    lower = level_after_recovery(risk.level, fall)
    if lower is risk.level:
        if risk.below_since is not None:
            r.update(risk=replace(risk, below_since=None))
    elif risk.below_since is None:
        r.update(risk=replace(risk, below_since=r.now))
    elif r.now - risk.below_since >= LEVEL_DWELL_SEC:
        # One level an hour: how low the drawdown was at the beginning of the hour is not known.
        lower = next(x for x in RiskLevel if LEVEL_RANK[x] == LEVEL_RANK[risk.level] - 1)
        _enter_level(r, lower, f"drawdown {fall * 100:.2f} %, below its threshold for an hour")
        if level_after_recovery(lower, fall) is not lower:
            r.update(risk=replace(r.state.risk, below_since=r.now))
    since = r.state.risk.emergency_since
    if since is not None and r.now - since >= EMERGENCY_RESET_SEC and r.params.is_simulated:
        reset_peak(r, "EMERGENCY for 24 h: reset as an operator would")


def _enter_level(r: Reduction, level: RiskLevel, reason: str) -> None:
    old = r.state.risk
    emergency = r.now if level is RiskLevel.EMERGENCY else None
    r.update(
        risk=replace(
            old, level=level, level_since=r.now, below_since=None, emergency_since=emergency
        ),
        pass_due=r.now,
    )
    r.count(f"level:{level}")
    r.transition("risk_level", level, f"from {old.level}: {reason}")
    is_worse = LEVEL_RANK[level] > LEVEL_RANK[old.level]
    r.notify("warning" if is_worse else "info", "risk_level", f"risk level {level}: {reason}")


def reset_peak(r: Reduction, reason: str) -> None:
    """Measure drawdown from now on."""
    market = r.state.market
    if market is None:
        return
    peak = risk_index(r.state, r.params, market.bid)
    risk = r.state.risk
    r.update(risk=replace(risk, peak=max(peak, Decimal("1e-9")), peak_resets=risk.peak_resets + 1))
    _enter_level(r, RiskLevel.LOW, reason)


def report_balances(r: Reduction, event: BalancesReported) -> None:
    """Check our books against the exchange's balances; the first report opens them."""
    own = r.state.balances
    is_first = own.reported_at is None
    own = replace(
        own,
        base=event.base if is_first else own.base,
        quote=event.quote if is_first else own.quote,
        foreign_base=event.foreign_base,
        foreign_quote=event.foreign_quote,
        reported_base=event.base,
        reported_quote=event.quote,
        reported_at=r.now,
        flows_until=event.flows_until,
    )
    r.update(balances=own)
    open_books(r)
    if not is_first:
        _drift(r)
    _shortfall(r)


def note_agreement(r: Reduction, event: BalancesReported) -> bool:
    """Note a report that agrees with our books, but for rounding; tell whether it did."""
    own = r.state.balances
    beyond = beyond_rounding(r.state, event.base - own.base, event.quote - own.quote)
    agrees = (
        own.reported_at is not None
        and own.drift_since is None
        and not any(beyond)
        and (event.foreign_base, event.foreign_quote) == (own.foreign_base, own.foreign_quote)
    )
    if agrees:
        r.update(
            balances=replace(
                own,
                reported_base=event.base,
                reported_quote=event.quote,
                reported_at=r.now,
                flows_until=event.flows_until,
            )
        )
    return agrees


def _drift(r: Reduction) -> None:
    own = r.state.balances
    if not is_drifting(r):
        if own.drift_since is not None:
            r.update(balances=replace(own, drift_since=None))
        return
    base, quote = own.reported_base - own.base, own.reported_quote - own.quote
    since = r.now if own.drift_since is None else own.drift_since
    if not any(beyond_rounding(r.state, base - own.drift_base, quote - own.drift_quote)):
        # What has come between the two reads has left it as it was: it is not of their making.
        is_moving = _is_in_flight(r, since)
    else:
        executed_at = own.last_execution_at
        is_recent = executed_at is not None and executed_at >= since - DRIFT_CONFIRM_SEC
        is_moving = is_recent or _is_in_flight(r, r.now)
    if own.drift_since is None or is_moving:
        r.update(balances=replace(own, drift_since=r.now, drift_base=base, drift_quote=quote))
    elif r.now - own.drift_since >= DRIFT_CONFIRM_SEC:
        set_lock(
            r,
            LockName.RECONCILIATION,
            f"the exchange reports {base:+f} {r.state.instrument.base} and {quote:+f} "
            f"{r.state.instrument.quote} against our books; see audit_pnl in docs/OPERATION.md",
        )


def _is_in_flight(r: Reduction, placed_by: float) -> bool:
    """Tell whether an order of then may have executed without our having heard of it yet."""
    return any(
        order.placed_at <= placed_by
        and (
            order.status in (OrderStatus.PENDING, OrderStatus.UNCERTAIN)
            or order.closed_executed is not None
        )
        for order in orders(r.state)
    ) or any(
        ghost.closed_executed != ghost.executed and r.now < ghost.found_at + GHOST_WAIT_SEC
        for ghost in r.state.ghosts
    )


def is_drifting(r: Reduction) -> bool:
    """Tell whether books and exchange differ by more than 2 % or more than one order."""
    own = r.state.balances
    mark = r.state.market.bid if r.state.market else ZERO
    differ = own.reported_base - own.base, own.reported_quote - own.quote
    base, quote = beyond_rounding(r.state, *differ)
    worth = max(base * mark, quote)
    if worth > r.params.order_size_usd:
        return True
    return base > DRIFT_SHARE * own.base or quote > DRIFT_SHARE * own.quote


def beyond_rounding(state: BotState, base: Decimal, quote: Decimal) -> tuple[Decimal, Decimal]:
    """Return by how much differences are more than rounding of all our executions explains."""
    least = state.instrument.rounding(state.counters.get("fills", 0))
    return max(ZERO, abs(base) - least[0]), max(ZERO, abs(quote) - least[1])


def _shortfall(r: Reduction) -> None:
    own = r.state.balances
    if not is_short(r.state):
        clear_lock(r, LockName.FUNDS, "funds suffice again")
    elif own.foreign_base or own.foreign_quote or own.flow_base or own.flow_quote:
        set_lock(r, LockName.FUNDS, "our orders hold more than is left after foreign claims")


def halt(r: Reduction, reason: str) -> None:
    """Halt until the operator resumes; a halt that holds keeps its first reason."""
    if r.state.mode is Mode.HALTED:
        return
    r.update(mode=Mode.HALTED, mode_since=r.now, mode_reason=reason)
    r.transition("mode", Mode.HALTED, reason)
    r.notify("error", "halt", f"halted: {reason}; look, then resume")


def external_flow(r: Reduction, event: ExternalFlow) -> None:
    """Book a deposit or withdrawal, once; it changes equity and every benchmark alike."""
    if event.reference.startswith(LEDGER):
        if event.reference in r.state.flows_told:
            return
        oldest = r.state.balances.flows_until - FLOWS_KEPT_SEC
        kept = {x: at for x, at in r.state.flows_told.items() if at >= oldest}
        r.update(flows_told=kept | {event.reference: r.now})
    own, market = r.state.balances, r.state.market
    r.update(
        balances=replace(
            own,
            base=own.base + event.base,
            quote=own.quote + event.quote,
            flow_base=own.flow_base + event.base,
            flow_quote=own.flow_quote + event.quote,
        )
    )
    if market is not None and own.start_mark:
        worth = event.base * market.bid
        value = event.quote + worth
        r.post("external flow", cash=event.quote, inventory=worth, flows=-value)
        r.move_inventory(event.base)
        r.update(benchmarks=with_flow(r.state.benchmarks, value=value, mark=market.bid))
    r.notify(
        "info",
        "flow",
        f"{event.base:+f} {r.state.instrument.base}, {event.quote:+f} "
        f"{r.state.instrument.quote} ({event.reference})",
    )
    _shortfall(r)


def settle_reserved(r: Reduction) -> None:
    """Move between cash and reserved cash what resting buys hold."""
    if not r.state.balances.start_mark:
        return
    difference = held(r.state).quote - r.state.accounts.reserved
    if difference:
        accounts = r.state.accounts
        r.update(
            accounts=replace(
                accounts,
                cash=accounts.cash - difference,
                reserved=accounts.reserved + difference,
            )
        )


def rhythm_due(state: BotState, params: Params) -> float:
    """Return when balances are read or the hour turns next."""
    asked = state.balances.requested_at
    hour_at = float((state.hour + 1) * HOUR_SEC)
    return state.now if asked is None else min(asked + params.recon_interval_sec, hour_at)


def hour_duty(state: BotState, params: Params) -> Iterator[float]:
    """Yield when the turn of an hour does more than to note the equity."""
    day = int(state.now // DAY_SEC)
    if day != state.risk.day:
        yield state.now
    yield (day + 1.0) * DAY_SEC
    hour_at = (state.now // HOUR_SEC + 1) * HOUR_SEC
    limit = params.imbalance_alert_min * 60
    for since, _ in imbalance(state, params):
        yield since + limit
        if since + limit <= hour_at:
            yield hour_at


def ask_reconcile(r: Reduction) -> None:
    """Ask for balances when they are due, or at once after a fill."""
    own = r.state.balances
    asked = own.requested_at
    is_due = asked is None or r.now >= asked + r.params.recon_interval_sec
    has_filled = own.last_execution_at is not None and (
        asked is None or own.last_execution_at >= asked
    )
    if is_due or (has_filled and r.now > (asked or 0.0)):
        r.update(balances=replace(own, requested_at=r.now))
        r.act(RequestReconcile(reason="fill" if has_filled else "interval"))


def track_stints(r: Reduction) -> None:
    """Account for how long slots are parked and under which lock, level and band the bot runs."""
    active = {f"level:{r.state.risk.level}", f"mode:{r.state.mode}"}
    active |= {f"lock:{lock.name}" for lock in r.state.risk.locks}
    active.add(f"band:{capacity(r.state, r.params).band}")
    for slot in r.state.slots:
        if parked(r.state, slot, r.params):
            active.add(f"parked:{slot.slot_id}")
    stints = r.state.stints
    running = {name for name, stint in stints.items() if stint.since is not None}
    if active == running:
        return
    changed = dict(stints)
    for name in active - running:
        old = changed.get(name, Stint())
        changed[name] = replace(old, since=r.now, spans=old.spans + 1)
    for name in running - active:
        old = changed[name]
        changed[name] = replace(
            old, since=None, total_sec=old.total_sec + r.now - (old.since or r.now)
        )
    r.update(stints=changed)
