"""The automaton of a leg: from an entry to a position, its exit, and the booked cycle.

Idle → Entering → Exiting → Idle, with recoveries beside. Called by `state_machine.reduce` with a
Reduction; it never decides whether a leg may enter (`risk.entry_allowed` does) and reads no clock.
Exits are emitted here, by the event that creates or re-owes them.
"""

from accounting import closed_share, held, sign
from core.actions import PlaceOrderAction, RecordExecution
from core.domain import (
    ONE,
    ZERO,
    OrderState,
    OrderStatus,
    Owed,
    Position,
    RecoveryOrder,
    RejectReason,
    Residual,
    Role,
    TradeId,
)
from core.events import FillEvent
from core.order_id import LIMITS, OrderPlace
from core.record import replace
from core.state import AntiChase, Exiting, Idle, Leg
from grid.booking import book_cycle, keep_residual, leave, release, write_off
from grid.reduction import Duty, Found, Reduction
from grid_strategy import exit_price
from risk import (
    CLOCK_OFFSET_MAX_SEC,
    PLACING_STATUSES,
    Approved,
    Draft,
    Refused,
    VetoReason,
    review,
)

DEADLINE_SEC = 10.0
RETRY_AFTER_SEC = (1.0, 5.0, 15.0, 60.0)
OWED_ALERT_SEC = 120.0
FILL_SECS_KEPT = 100
ATTEMPTS_MAX = LIMITS["attempt"] - 1
MARKET_AWAY = (RejectReason.POST_ONLY, RejectReason.SELF_TRADE)
IMPROVEMENTS_MAX = 3  # so often a refused exit moves farther from the market
PAIR_OFF = "pair_off"


# ---- executions -------------------------------------------------------------------------------


def apply_fill(r: Reduction, event: FillEvent) -> None:
    """Apply one execution, exactly once, and what follows from it."""
    found = r.find(event.client_order_id)
    if found is None:
        r.count("unknown_fills")
        return
    order = found.order
    if event.execution_id in order.execution_ids:
        r.count("duplicate_fills")
        return
    first = order.first_execution_at
    if found.duty is Duty.ENTRY and (first is None or event.executed_at < first):
        # Reports may come out of order: the tag is that of the first execution.
        order = replace(order, regime_at_entry=_regime_tag(r, event.executed_at))
    order = replace(
        order,
        txid=event.txid,
        status=OrderStatus.OPEN
        if order.status in (OrderStatus.PENDING, OrderStatus.UNCERTAIN)
        else order.status,
        filled_volume=order.filled_volume + event.volume,
        filled_cost=order.filled_cost + event.cost,
        fees=order.fees + event.fee,
        execution_ids=(*order.execution_ids, event.execution_id),
        first_execution_at=min(first or event.executed_at, event.executed_at),
        last_execution_at=max(order.last_execution_at or event.executed_at, event.executed_at),
    )
    r.count("fills")
    if order.remaining > 0:
        r.count("partial_fills")
    else:
        took = event.executed_at - order.placed_at
        r.update(fill_secs=(*r.state.fill_secs[1 - FILL_SECS_KEPT :], took))
    _record(r, found, event)
    found = replace(found, order=order)
    if found.duty is Duty.ENTRY:
        _entry_executed(r, found, event)
    else:
        _exit_executed(r, found, event)


def _record(r: Reduction, found: Found, event: FillEvent) -> None:
    order = found.order
    own = r.state.balances
    r.update(
        balances=replace(
            own,
            base=own.base + (event.volume if order.side == "buy" else -event.volume),
            quote=own.quote + (event.cost if order.side == "sell" else -event.cost) - event.fee,
            last_execution_at=r.now,
        )
    )
    r.act(
        RecordExecution(
            execution_id=event.execution_id,
            client_order_id=order.client_order_id,
            txid=event.txid,
            slot_id=found.slot_id,
            trade_id=found.trade_id,
            role=Role.RECOVERY if found.duty is Duty.RECOVERY else order.role,
            cycle=order.cycle,
            side=order.side,
            price=event.price,
            volume=event.volume,
            cost=event.cost,
            fee=event.fee,
            executed_at=event.executed_at,
            is_maker=event.is_maker,
        )
    )


def _entry_executed(r: Reduction, found: Found, event: FillEvent) -> None:
    order = found.order
    leg = r.leg(found.slot_id, found.trade_id)
    totals = replace(
        leg.totals,
        entered_volume=leg.totals.entered_volume + event.volume,
        entered_cost=leg.totals.entered_cost + event.cost,
    )
    leg = replace(leg, totals=totals, anti_chase=AntiChase(), refusals=0)
    r.put_leg(found.slot_id, leg)
    r.put_order(found, order)
    leg = r.leg(found.slot_id, found.trade_id)
    cost = r.set_off(found.trade_id, event.cost)
    r.post("entry execution", cash=-cost - event.fee, positions=cost, fees=event.fee)
    if order.remaining <= 0 or order.closed_executed == order.filled_volume:
        finish_entry(r, found.slot_id, leg, order)


def _regime_tag(r: Reduction, executed_at: float) -> int | None:
    for estimate in (r.state.regime, r.state.regime_before):
        if estimate is None:
            continue
        since = estimate.time if estimate.since is None else estimate.since
        if since <= executed_at:
            is_fresh = executed_at - estimate.time <= 2 * estimate.interval_sec
            return estimate.regime if is_fresh else None
    return None


def finish_entry(r: Reduction, slot_id: int, leg: Leg, order: OrderState) -> None:
    """Turn a finished entry order into a position with its exit, a residual, or nothing."""
    if order.filled_volume == 0:
        idle = Idle(since=r.now)
        r.put_leg(slot_id, replace(leg, state=idle))
        return
    position = Position(
        volume=order.filled_volume,
        cost=order.filled_cost,
        fees=order.fees,
        entered_at=order.first_execution_at or r.now,
        filled_at=order.last_execution_at or r.now,
        owed_since=r.now,
        regime_at_entry=order.regime_at_entry,
    )
    if leg.residual is not None:
        position = _joined(position, leg.residual)
        cost = r.set_off(leg.trade_id, leg.residual.cost)
        r.post("residual joins", residuals=-cost, positions=cost)
        leg = replace(leg, residual=None)
    average = position.average_price
    is_partial = order.filled_volume < order.volume
    if is_partial and r.state.instrument.is_below_minimum(volume=position.volume, price=average):
        residual = Residual(
            volume=position.volume,
            cost=position.cost,
            fees=position.fees,
            regime_at_entry=position.regime_at_entry,
        )
        cost = r.set_off(leg.trade_id, position.cost)
        r.post("residual", positions=-cost, residuals=cost)
        r.put_leg(slot_id, replace(leg, residual=residual, state=Idle(since=r.now)))
        return
    r.count("entries_filled")
    owed = Owed(reason="new", retry_at=r.now)
    r.put_leg(slot_id, replace(leg, state=Exiting(position=position, exit=owed)))
    place_exit(r, slot_id, leg.trade_id, None)
    _tell_entry(r, slot_id, leg.trade_id, position)


def _tell_entry(r: Reduction, slot_id: int, trade_id: TradeId, position: Position) -> None:
    """Tell the operator of a complete entry and what its exit would earn."""
    base, quote = r.state.instrument.base, r.state.instrument.quote
    verb = "bought" if trade_id is TradeId.B else "sold"
    text = (
        f"slot {slot_id} {verb} {position.volume.normalize():f} {base} "
        f"at {position.average_price:.7f}"
    )
    state = r.leg(slot_id, trade_id).state
    if isinstance(state, Exiting) and isinstance(state.exit, OrderState):
        exit_cost = state.exit.price * position.volume
        fees = position.fees + exit_cost * r.state.fees.maker
        net = sign(trade_id) * (exit_cost - position.cost) - fees
        text += f", exit resting at {state.exit.price:f}, expected {net:+.3f} {quote} after fees"
    else:
        text += ", its exit is owed"
    r.notify("info", "fill", text)


def to_residual(r: Reduction, slot_id: int, trade_id: TradeId) -> bool:
    """Turn an untouched, owed position below the exchange's minimum into the leg's residual.

    Tells whether it was one.
    """
    leg = r.leg(slot_id, trade_id)
    if not isinstance(leg.state, Exiting) or leg.state.position.closed_volume > 0:
        return False
    position = leg.state.position
    price = position.average_price
    if not r.state.instrument.is_below_minimum(volume=position.volume, price=price):
        return False
    found = holding(r, slot_id, trade_id)
    keep_residual(r, found, position, position.fees)
    leg = r.leg(slot_id, trade_id)
    r.put_leg(slot_id, replace(leg, state=Idle(since=r.now), cycle=leg.cycle + 1))
    return True


def _joined(position: Position, residual: Residual) -> Position:
    is_larger = residual.volume > position.volume
    return replace(
        position,
        volume=position.volume + residual.volume,
        cost=position.cost + residual.cost,
        fees=position.fees + residual.fees,
        regime_at_entry=residual.regime_at_entry if is_larger else position.regime_at_entry,
    )


# ---- exits ------------------------------------------------------------------------------------


def place_exit(r: Reduction, slot_id: int, trade_id: TradeId, recovery_id: str | None) -> None:
    """Place the exit that a leg or recovery owes, or keep it owed with the reason.

    A rest too small for an order of its own is booked with what was executed, and a recovery that
    the operator gives up is released.
    """
    found, position, owed, cycle = _owed(r, slot_id, trade_id, recovery_id)
    if recovery_id is not None and r.recovery(found).releasing:
        release(r, found)
        return
    draft = _exit_draft(r, found, position, is_crossing=owed.reason in MARKET_AWAY)
    if isinstance(draft, str):
        keep_owed(r, found, position, draft)
        return
    verdict = review(draft, r.state.instrument, r.effective(slot_id))
    if isinstance(verdict, Refused):
        if verdict.reason is VetoReason.BELOW_MINIMUM and position.closed_volume > 0:
            book_cycle(r, found, "partial")
        else:
            keep_owed(r, found, position, verdict.reason)
        return
    attempt = position.exit_attempts + 1
    if attempt > ATTEMPTS_MAX:  # the order numbers of this cycle are used up
        if recovery_id is not None:
            keep_owed(r, found, position, "its order numbers are used up")
            return
        leg = r.leg(slot_id, trade_id)
        r.put_leg(slot_id, replace(leg, cycle=leg.cycle + 1))
        cycle, attempt = cycle + 1, 1
    role = Role.EXIT if recovery_id is None else Role.RECOVERY
    place = OrderPlace(
        tag=0,
        epoch=0,
        slot=slot_id,
        trade_id=trade_id,
        role=role,
        cycle=cycle,
        attempt=attempt,
    )
    order = _order(r, place, verdict, position.regime_at_entry)
    # A soft close without a fresh price is put off: the exit rests at its target meanwhile.
    is_repricing = position.is_repricing and not has_fresh_price(r)
    r.put_holding(found, replace(position, exit_attempts=attempt, is_repricing=is_repricing), order)
    r.count("orders")
    r.act(PlaceOrderAction(slot_id=slot_id, order=order, chain=(), deadline=r.now + DEADLINE_SEC))


def _exit_draft(
    r: Reduction, found: Found, position: Position, *, is_crossing: bool
) -> Draft | str:
    """Return the exit as it should be placed now, or why it cannot be."""
    place, cycle = (found.slot_id, found.trade_id), r.cycle(found)
    if any(
        (x.slot_id, x.trade_id) == place and x.cycle == cycle and x.role is not Role.ENTRY
        for x in r.state.ghosts
    ):
        return "ghost"  # an exit of this position that may still execute
    params = r.effective(found.slot_id)
    try:
        price = exit_price(
            r.state.instrument,
            position,
            found.trade_id,
            r.state.market if has_fresh_price(r) else None,
            profit_pct=params.profit_pct,
            entry_pct=params.entry_pct,
            rejections=min(position.exit_failures, IMPROVEMENTS_MAX) if is_crossing else 0,
        )
    except ValueError:
        return "price"
    volume = r.state.instrument.volume_down(position.open_volume)  # the lot may have grown
    draft = Draft(trade_id=found.trade_id, price=price, volume=volume, is_entry=False)
    return _exit_obstacle(r, draft) or draft


def has_fresh_price(r: Reduction) -> bool:
    """Tell whether the last accepted price is not too old."""
    market, most = r.state.market, r.params.stale_price_max_age_sec
    return market is not None and r.now - market.time <= most


def _exit_obstacle(r: Reduction, draft: Draft) -> str | None:
    """Return why the exchange would surely refuse the exit, or None: it is not even tried."""
    if r.state.restoring is not None:
        return "restore"
    status = r.state.health.system_status
    if status not in PLACING_STATUSES:
        return f"exchange {status}"
    if abs(r.state.health.clock_offset_sec) >= CLOCK_OFFSET_MAX_SEC:
        return "clock"
    own, mine = r.state.balances, held(r.state)
    if draft.trade_id is TradeId.B:
        short = draft.volume > own.base - own.foreign_base - mine.base
    else:
        need = draft.volume * draft.price * (ONE + r.state.fees.maker)
        short = need > own.quote - own.foreign_quote - mine.quote
    return "funds" if short else None


def _owed(
    r: Reduction, slot_id: int, trade_id: TradeId, recovery_id: str | None
) -> tuple[Found, Position, Owed, int]:
    """Return holder, position, debt and cycle of an owed exit; the order in Found is a blank."""
    slot = r.known_slot(slot_id)
    leg = slot.leg(trade_id)
    holder: Exiting | RecoveryOrder
    if recovery_id is None:
        if not isinstance(leg.state, Exiting):
            raise KeyError(f"slot {slot_id} leg {trade_id} holds no position")
        holder, cycle = leg.state, leg.cycle
    else:
        holder = next(x for x in slot.recovery_orders if x.recovery_id == recovery_id)
        cycle = holder.cycle
    if not isinstance(holder.exit, Owed):
        raise KeyError(f"slot {slot_id} leg {trade_id} owes no exit")
    found = holding(r, slot_id, trade_id, recovery_id)
    return found, holder.position, holder.exit, cycle


def holding(r: Reduction, slot_id: int, trade_id: TradeId, recovery_id: str | None = None) -> Found:
    """Return the holder of a position whose exit is owed; the order in it is a blank."""
    blank = OrderState(
        client_order_id="",
        trade_id=trade_id,
        role=Role.EXIT,
        side=trade_id.exit_side,
        price=ZERO,
        volume=ZERO,
        cycle=r.leg(slot_id, trade_id).cycle,
        attempt=0,
        placed_at=r.now,
    )
    return Found(
        slot_id=slot_id,
        trade_id=trade_id,
        duty=Duty.EXIT if recovery_id is None else Duty.RECOVERY,
        order=blank,
        recovery_id=recovery_id,
    )


def _order(r: Reduction, place: OrderPlace, approved: Approved, tag: int | None) -> OrderState:
    is_entry = place.role is Role.ENTRY
    return OrderState(
        client_order_id=r.order_id(place),
        trade_id=place.trade_id,
        role=place.role,
        side=place.trade_id.entry_side if is_entry else place.trade_id.exit_side,
        price=approved.price,
        volume=approved.volume,
        cycle=place.cycle,
        attempt=place.attempt,
        placed_at=r.now,
        regime_at_entry=tag,
        fee_rate=r.state.fees.maker,
    )


def entry_order(r: Reduction, slot_id: int, leg: Leg, approved: Approved) -> OrderState:
    """Return a new entry order of the leg; its attempt is one above the last."""
    place = OrderPlace(
        tag=0,
        epoch=0,
        slot=slot_id,
        trade_id=leg.trade_id,
        role=Role.ENTRY,
        cycle=leg.cycle,
        attempt=leg.entry_attempts + 1,
    )
    return _order(r, place, approved, None)


def keep_owed(r: Reduction, found: Found, position: Position, reason: str) -> None:
    """Keep an exit owed that could not be placed, with the reason and the time of the next try."""
    wait = RETRY_AFTER_SEC[min(position.exit_failures, len(RETRY_AFTER_SEC) - 1)]
    position = replace(
        position,
        owed_since=r.now if position.owed_since is None else position.owed_since,
        exit_failures=position.exit_failures + 1,
    )
    r.put_holding(found, position, Owed(reason=reason, retry_at=r.now + wait))


def acknowledge(r: Reduction, found: Found, order: OrderState) -> None:
    """Put an order that the exchange surely has: the debt is paid.

    An exit's refusals are not forgotten yet: the exchange may take an order and end it at once.
    """
    r.put_order(found, order)
    if found.duty is Duty.ENTRY:
        leg = r.leg(found.slot_id, found.trade_id)
        r.put_leg(found.slot_id, replace(leg, refusals=0))
        return
    position = replace(r.position(found), owed_since=None)
    r.put_holding(found, position, order)


def _exit_executed(r: Reduction, found: Found, event: FillEvent) -> None:
    position = _widened(r, found, event)
    share = closed_share(position, event.volume, r.state.instrument.cost_decimals)
    position = replace(
        position,
        closed_volume=position.closed_volume + event.volume,
        closed_cost=position.closed_cost + share,
        exit_cost=position.exit_cost + event.cost,
        exit_fees=position.exit_fees + event.fee,
        closed_at=max(position.closed_at or event.executed_at, event.executed_at),
        owed_since=None,
        exit_failures=0,
    )
    r.put_holding(found, position, found.order)
    leave(r, found.slot_id, found.trade_id, volume=event.volume, cost=share)
    way = sign(found.trade_id)
    gross = way * (event.cost - share)
    r.post(
        "exit execution",
        cash=way * event.cost - event.fee,
        positions=-way * share,
        unbooked=-gross,
        fees=event.fee,
    )
    order = found.order
    if order.remaining <= 0 or order.closed_executed == order.filled_volume:
        end_exit(r, found)


def _widened(r: Reduction, found: Found, event: FillEvent) -> Position:
    """Return the position, with what its exit executes beyond it.

    Somebody has made the order larger at the exchange: the surplus comes out of the inventory, at
    the price at which it goes.
    """
    position = r.position(found)
    surplus = event.volume - position.open_volume
    if surplus <= 0:
        return position
    cost = r.state.instrument.cost(event.price, surplus)
    write_off(r, found.slot_id, found.trade_id, volume=-surplus, cost=-cost)
    text = f"{surplus:f} {r.state.instrument.base} more than the position held"
    r.notify("warning", "amended", f"slot {found.slot_id} leg {found.trade_id}: exit of {text}")
    return replace(position, volume=position.volume + surplus, cost=position.cost + cost)


def end_exit(r: Reduction, found: Found) -> None:
    """Go on after an exit order has ended: book, place the rest again, or keep a residual."""
    position = r.position(found)
    recovery = r.recovery(found) if found.duty is Duty.RECOVERY else None
    if position.open_volume <= 0:
        book_cycle(r, found, "recovery" if recovery else "exit")
        return
    if recovery is not None and recovery.releasing:
        release(r, found)
        return
    position = replace(position, owed_since=r.now, exit_failures=0)
    owed = Owed(reason="rest", retry_at=r.now)
    if r.known_slot(found.slot_id).pairing and recovery is None:
        owed = replace(owed, reason=PAIR_OFF)
        r.put_holding(found, position, owed)
        return
    r.put_holding(found, position, owed)
    place_exit(r, found.slot_id, found.trade_id, found.recovery_id)
