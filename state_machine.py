"""The reducer: the only place where state changes.

`reduce(state, event, params) -> (state, actions)` is pure and total: it never raises on a
well-typed event, reads no clock and knows no exchange. The automaton of a leg is in `leg.py`; what
else serves it is in `grid/`; the diagrams are in `docs/STATE_MACHINE.md`.
"""

from decimal import Decimal
from typing import assert_never

import core.events as e
from accounting import slot_orders
from core.actions import Action, RequestReconcile
from core.domain import HUNDRED, ZERO, OrderStatus
from core.params import Params
from core.record import replace
from core.state import BotState, LockName, Market
from grid import advice, kelly, regimes, restoring, watch
from grid.endings import ask_about, close_order, reject_order
from grid.entries import entry_pass, refill_tokens
from grid.ghosts import cancel_ghosts, ghost_closed, ghost_filled, ghost_found, ghost_refused
from grid.invariants import check_invariants
from grid.operations import carry_out, new_slot
from grid.pairing import pair_when_ready
from grid.quiet import are_quiet, is_quiet, quiet_aside, quiet_bounds
from grid.reduction import Reduction
from grid.upkeep import retry_owed, upkeep
from grid_strategy import mid
from leg import acknowledge, apply_fill
from risk import daily_loss_limit

# Beyond these a quote is no price; the arithmetic of money stays exact between them.
FEE_MAX = Decimal("0.5")  # a fraction of the value; no exchange asks that
PRICE_MIN, PRICE_MAX = Decimal("1e-12"), Decimal(10) ** 9

# Facts after which the entry pass need not look again.
_UNHURRIED = (e.MarketEnded, e.Started)

__all__ = ["check_invariants", "quiet_bounds", "reduce", "take_note"]


def reduce(state: BotState, event: e.Event, params: Params) -> tuple[BotState, tuple[Action, ...]]:
    """Return the state after `event`, and what is to be done.

    `params` are those of the latest `Started` before `event` (its own for the first); operator
    overrides are part of the state.
    """
    if type(event) is e.PriceTick and is_quiet(state, event, params):
        return take_note(state, event), ()
    if type(event) is e.PricesSkipped and are_quiet(state, event, params):
        return skip_prices(state, event, params)
    cursor = max(state.exchange_cursor, event.message)
    r = Reduction(replace(state, now=max(state.now, event.time), exchange_cursor=cursor), params)
    if _is_news(r, event):
        quiet = state.quiet if _is_aside(state, event) else None
        if quiet is not None and isinstance(event, e.TimerTick):
            advice.tend(r)
            regimes.tend(r)
            kelly.tend(r)
            if watch.rhythm_due(r.state, params) <= r.now:
                idle(r)
        else:
            _apply(r, event)
        if r.state.regimes is not state.regimes:
            advice.notice(r, state.regimes)
        is_hurried = r.state.pass_due != state.pass_due
        if quiet is None or is_hurried or regimes.has_acted(r, state.regimes):
            watch.track_stints(r)
            if _has_new_books(state, r.state):
                watch.settle_reserved(r)
                _check(r)
            r.update(quiet=None)
            r.update(quiet=quiet_bounds(r.state, r.params))
        else:
            r.update(quiet=quiet_aside(r.state, quiet, r.params))
    return r.state, tuple(r.actions)


def _has_new_books(old: BotState, new: BotState) -> bool:
    """Tell whether anything has changed of what reserved cash and invariants depend on."""
    return (
        new.slots is not old.slots
        or new.accounts is not old.accounts
        or new.balances is not old.balances
        or new.fees is not old.fees
        or new.risk.locks is not old.risk.locks
    )


def _is_aside(state: BotState, event: e.Event) -> bool:
    """Tell whether the event is one of models, sizer or advisor, or a timer that only asks them.

    Unless what it says acts, it leaves everything as it would be without it: the bounds of quiet
    ticks, and when the rules are next looked at.
    """
    quiet = state.quiet
    if quiet is None:
        return False
    match event:
        case e.TimerTick():
            return quiet.next_due <= event.time < quiet.duty_due
        case (
            e.OpinionGiven()
            | e.CouncilHeld()
            | e.RegimeEstimated()
            | e.ModelTrained()
            | e.TrainingFailed()
        ):
            return True
        case e.KellyUpdated():
            return event.results == state.kelly.results
        case _:
            return False


def _is_news(r: Reduction, event: e.Event) -> bool:
    """Tell whether the event may change a decision; a report that all is as known is only noted.

    So a restart in the same circumstances leaves the bounds of quiet ticks, and with them every
    later decision, as they were.
    """
    if isinstance(event, e.BalancesReported):
        return not watch.note_agreement(r, event)
    if isinstance(event, e.Started):
        is_same = (
            bool(r.state.started_at)
            and event.params == r.params
            and event.code_version == r.state.code_version
            and event.instrument == r.state.instrument
            and event.fees == r.state.fees
            and event.bot_tag == r.state.bot_tag
            and event.store_epoch == r.state.store_epoch
        )
        is_due = advice.is_over(r.state) or any(_unsettled(s.slot_id, r) for s in r.state.slots)
        return not is_same or is_due
    return True


def take_note(state: BotState, event: e.Event) -> BotState:
    """Return what a quiet event leaves behind: time, cursor and, of a tick, the price."""
    now, cursor = max(state.now, event.time), event.message or state.exchange_cursor
    market = state.market
    if not isinstance(event, e.PriceTick) or market is None:
        return replace(state, now=now, exchange_cursor=cursor)
    bid = event.bid
    return replace(
        state,
        now=now,
        exchange_cursor=cursor,
        market=Market(
            bid=bid,
            ask=event.ask,
            last=event.last,
            time=event.time,
            bid_high=max(bid, market.bid_high),
            bid_low=min(bid, market.bid_low),
        ),
    )


def skip_prices(
    state: BotState, event: e.PricesSkipped, params: Params
) -> tuple[BotState, tuple[Action, ...]]:
    """Return what many quiet ticks leave behind, and the idle timers between them.

    Of what those ask for, only the equity that they note: whoever skips has read the balances.
    """
    old = state.market
    if old is None:
        raise AssertionError("nothing is quiet without a market")
    low, high = min(event.low, old.bid_low), max(event.high, old.bid_high)
    actions: tuple[Action, ...] = ()
    if event.rhythm is not None:
        state, actions = _keep_rhythm(state, old, event.rhythm, params)
        low, high = event.low, event.high
    market = Market(
        bid=event.bid, ask=event.ask, last=event.last, time=event.time, bid_low=low, bid_high=high
    )
    cursor = event.message or state.exchange_cursor
    return replace(state, now=event.time, exchange_cursor=cursor, market=market), actions


def _keep_rhythm(
    state: BotState, old: Market, rhythm: e.Rhythm, params: Params
) -> tuple[BotState, tuple[Action, ...]]:
    r = Reduction(state, params)
    for turn in rhythm.turns:
        r.update(now=turn.time, market=replace(old, bid=turn.bid))
        watch.note_equity(r)
    low, high = min(rhythm.low, old.bid_low), max(rhythm.high, old.bid_high)
    r.update(now=rhythm.time, market=replace(old, bid_low=low, bid_high=high))
    watch.fold_peak(r)
    refill_tokens(r)  # once is enough: timers are a second apart, and it holds a second's worth
    r.update(timer_at=r.now)
    if rhythm.asked_at is not None:
        own = r.state.balances
        r.update(
            balances=replace(own, requested_at=rhythm.asked_at, reported_at=rhythm.reported_at)
        )
    if r.state.quiet is not None:
        r.update(quiet=quiet_aside(r.state, r.state.quiet, params))
    return r.state, tuple(r.actions)


def _apply(r: Reduction, event: e.Event) -> None:
    match event:
        case e.PriceTick() | e.PricesSkipped():
            _price(r, event)
        case e.TimerTick():
            _timer(r)
        case e.FillEvent():
            watch.fold_peak(r)
            if not ghost_filled(r, event):
                apply_fill(r, event)
            _after_order_news(r)
        case (
            e.OrderAccepted()
            | e.OrderRejected()
            | e.OrderUncertain()
            | e.OrderFound()
            | e.OrderAmended()
            | e.OrderClosed()
            | e.CancelRefused()
        ):
            _order_news(r, event)
            _after_order_news(r)
        case e.GhostFound():
            ghost_found(r, event)
        case e.RestoreBegun():
            restoring.begin(r, event)
        case e.OrderRestored():
            restoring.order_restored(r, event)
        case e.RestoreTold():
            restoring.told(r)
        case e.BalancesReported():
            known = (r.state.balances.reported_base, r.state.balances.reported_quote)
            watch.report_balances(r, event)
            retry_owed(r, at_once=(event.base, event.quote) != known)
            if r.state.pass_due is not None:
                r.update(pass_due=min(r.state.pass_due, r.now + 1.0))
        case e.CommandReceived():
            carry_out(r, event)
        case (
            e.RegimeEstimated()
            | e.ModelTrained()
            | e.TrainingFailed()
            | e.KellyUpdated()
            | e.OpinionGiven()
            | e.CouncilHeld()
        ):
            _listen(r, event)
        case _:
            _facts(r, event)


def _listen(
    r: Reduction,
    event: e.RegimeEstimated
    | e.ModelTrained
    | e.TrainingFailed
    | e.KellyUpdated
    | e.OpinionGiven
    | e.CouncilHeld,
) -> None:
    """Take in what models, sizer and advisor say."""
    match event:
        case e.RegimeEstimated():
            regimes.hear(r, event)
        case e.ModelTrained():
            regimes.trained(r, event)
        case e.TrainingFailed():
            regimes.training_failed(r, event)
        case e.KellyUpdated():
            kelly.hear(r, event)
        case e.OpinionGiven():
            advice.hear(r, event)
        case e.CouncilHeld():
            advice.hear_council(r, event)
        case _:
            assert_never(event)


def _after_order_news(r: Reduction) -> None:
    """Go on with a pair-off, and have the entry pass look again: an order has changed."""
    for slot in r.state.slots:
        pair_when_ready(r, slot.slot_id)
    restoring.rebind(r)
    r.update(pass_due=r.now)


def _facts(
    r: Reduction,
    event: e.Started
    | e.MarketEnded
    | e.ExternalFlow
    | e.InstrumentUpdated
    | e.FeesUpdated
    | e.HealthChanged
    | e.TradingHalted,
) -> None:
    match event:
        case e.Started():
            _started(r, event)
        case e.MarketEnded():
            r.update(market_ended=True)
        case e.ExternalFlow():
            watch.external_flow(r, event)
            retry_owed(r, at_once=True)
        case e.InstrumentUpdated():
            # Of assets, which a pair's own limits do not tell.
            own = r.state.instrument
            units = {"base_unit": own.base_unit, "quote_unit": own.quote_unit}
            r.update(instrument=replace(event.instrument, **units))
            retry_owed(r, at_once=True)
        case e.FeesUpdated(fees=f) if not (f.maker.is_finite() and ZERO <= f.maker <= FEE_MAX):
            r.notify("error", "fees", f"a maker fee of {event.fees.maker} is ignored")
        case e.FeesUpdated():
            r.update(fees=event.fees)
            r.notify("info", "fees", f"maker fee {event.fees.maker * HUNDRED:f} %")
        case e.HealthChanged():
            health = replace(
                r.state.health,
                system_status=event.system_status,
                clock_offset_sec=event.clock_offset_sec,
                consecutive_errors=event.consecutive_errors,
            )
            is_back = health.system_status != r.state.health.system_status
            r.update(health=health)
            retry_owed(r, at_once=is_back)
        case e.TradingHalted():
            watch.halt(r, event.reason)
        case _:
            assert_never(event)
    if not isinstance(event, _UNHURRIED):
        r.update(pass_due=r.now)


def _started(r: Reduction, event: e.Started) -> None:
    is_first = not r.state.started_at
    is_changed = (
        is_first
        or event.params != r.params
        or event.instrument != r.state.instrument
        or event.fees != r.state.fees
    )
    is_other = is_changed or event.code_version != r.state.code_version
    old_limit = daily_loss_limit(r.state, r.params)
    r.params = event.params
    watch.daily_limit_changed(r, old_limit)
    r.update(
        instrument=event.instrument,
        fees=event.fees,
        code_version=event.code_version,
        bot_tag=event.bot_tag,
        store_epoch=event.store_epoch,
        started_at=r.state.started_at or event.time,
    )
    if is_first:
        r.update(mode_since=event.time, entry_tokens_at=event.time)
        for _ in range(r.params.slot_count):
            new_slot(r)
    advice.review(r)
    if is_other:
        advice.begin(r)
        regimes.begin(r)
        kelly.begin(r)
    if is_changed:
        r.update(pass_due=r.now)
    for slot in r.state.slots:
        for order in _unsettled(slot.slot_id, r):
            r.act(RequestReconcile(reason="start", client_order_ids=(order,)))


def _unsettled(slot_id: int, r: Reduction) -> list[str]:
    """Return the ids of the slot's orders whose fate the last run may not have learned."""
    slot = r.known_slot(slot_id)
    return [
        order.client_order_id
        for order in slot_orders(slot)
        if order.status is not OrderStatus.OPEN or order.closed_executed is not None
    ]


def _price(r: Reduction, event: e.PriceTick | e.PricesSkipped) -> None:
    prices = (event.bid, event.ask, event.last)
    is_sane = all(p.is_finite() and PRICE_MIN <= p <= PRICE_MAX for p in prices)
    if not is_sane or event.bid >= event.ask:
        r.count("insane_prices")
        return
    market = Market(
        bid=event.bid,
        ask=event.ask,
        last=event.last,
        time=event.time,
        bid_high=event.bid,
        bid_low=event.bid,
    )
    old = r.state.market
    if old is not None:
        new_mid = mid(market)
        if _is_jump(mid(old), new_mid, r.params) and (
            old.candidate is None or _is_jump(old.candidate, new_mid, r.params)
        ):
            r.count("insane_prices")
            r.update(market=replace(old, candidate=new_mid), pass_due=r.now)
            return
        market = replace(
            market,
            bid_high=max(event.bid, old.bid_high),
            bid_low=min(event.bid, old.bid_low),
        )
    r.update(market=market, pass_due=r.now, market_ended=False)
    watch.open_books(r)


def _is_jump(old: object, new: object, params: Params) -> bool:
    return abs(new - old) * HUNDRED > params.price_jump_max_pct * old  # type: ignore[operator, no-any-return]  # Decimals


def _timer(r: Reduction) -> None:
    watch.watch(r)
    advice.tend(r)  # first: an override that is over acts no more
    regimes.tend(r)
    kelly.tend(r)
    cancel_ghosts(r)
    upkeep(r)
    entry_pass(r)
    watch.ask_reconcile(r)
    r.update(timer_at=r.now)


def idle(r: Reduction) -> None:
    """Do what a TimerTick does that is sent only to read balances or as the hour turns."""
    watch.fold_peak(r)
    watch.turn_hour(r)
    refill_tokens(r)
    watch.ask_reconcile(r)
    r.update(timer_at=r.now)


def _order_news(
    r: Reduction,
    event: e.OrderAccepted
    | e.OrderRejected
    | e.OrderUncertain
    | e.OrderFound
    | e.OrderAmended
    | e.OrderClosed
    | e.CancelRefused,
) -> None:
    if isinstance(event, e.OrderRejected):
        reject_order(r, event)
        return
    found = r.find(event.client_order_id)
    if found is None:
        if isinstance(event, e.OrderClosed):
            ghost_closed(r, event)
        elif isinstance(event, e.CancelRefused):
            ghost_refused(r, event.client_order_id)
        return
    order = found.order
    is_new = order.status in (OrderStatus.PENDING, OrderStatus.UNCERTAIN)
    match event:
        case e.OrderAccepted() | e.OrderFound():
            status = OrderStatus.OPEN if is_new else order.status
            acknowledge(r, found, replace(order, status=status, txid=event.txid))
        case e.OrderUncertain():
            if order.status is OrderStatus.PENDING:
                r.count("uncertain")
                doubtful = replace(found, order=replace(order, status=OrderStatus.UNCERTAIN))
                ask_about(r, doubtful, "uncertain")
                text = f"slot {found.slot_id} leg {found.trade_id}: whether its {order.role} order"
                r.notify("warning", "uncertain", f"{text} exists is being found out {event.detail}")
        case e.OrderAmended():
            text = f"{order.role} order {order.client_order_id} was amended by somebody else to"
            r.notify(
                "warning",
                "amended",
                f"slot {found.slot_id} leg {found.trade_id}: {text} {event.volume:f} at "
                f"{event.price:f}; it is followed, but shown here as it was placed. Cancel it at "
                "the exchange to have it placed anew",
            )
        case e.OrderClosed():
            r.count(f"closed:{event.reason}")
            close_order(r, found, event)
        case e.CancelRefused():
            ask_about(r, found, "cancel refused")
        case _:
            assert_never(event)


def _check(r: Reduction) -> None:
    """Halt new risk when a safety invariant is violated; accounting goes on."""
    broken = check_invariants(r.state)
    if broken:
        r.count("violations")
        watch.set_lock(r, LockName.SAFETY, "; ".join(broken)[:500])
