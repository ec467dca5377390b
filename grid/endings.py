"""How orders end other than by filling: closed, refused, cancelled, orphaned.

A cancel is a request; an order leaves the state only by its executions or by the exchange's word.
What follows from an ended order is in `leg.py`.
"""

from decimal import Decimal

from accounting import sign
from core.actions import CancelOrderAction, OrphanOrderAction, RequestReconcile
from core.domain import (
    ZERO,
    OrderState,
    OrderStatus,
    Owed,
    Position,
    RecoveryOrder,
    RejectReason,
    TradeId,
)
from core.events import OrderClosed, OrderRejected
from core.record import replace
from core.state import Entering, Exiting, Idle
from grid.booking import next_cycle
from grid.reduction import Duty, Found, Reduction
from grid_strategy import mid
from leg import MARKET_AWAY, PAIR_OFF, RETRY_AFTER_SEC, end_exit, finish_entry, keep_owed

ABSENT_AGAIN_SEC = 6.0
CANCELLED = "cancelled"  # how an order ended
REJECTION_WINDOW_SEC = 60.0
REJECTIONS_MAX = 3
REST_AFTER_REJECTION_SEC = 60.0
REST_AFTER_REFUSAL_SEC = 300.0
NEVER_WAS = (RejectReason.NOT_SENT, RejectReason.NEVER_ARRIVED, RejectReason.DEADLINE)


def close_order(r: Reduction, found: Found, event: OrderClosed) -> None:
    """Take the exchange's word that an order is over; final once the executions add up to it.

    One that the exchange took, and ended as it refuses others, counts as refused if it never
    executed: placed again at once at the same price, it would be ended again.
    """
    executed = event.executed
    _tell_of_strange_cancel(r, found, event.reason)
    # Executed volume never falls: an older view is ignored.
    executed = max(executed, found.order.filled_volume, found.order.closed_executed or ZERO)
    order = replace(found.order, closed_executed=executed)
    found = replace(found, order=order)
    r.put_order(found, order)
    if order.filled_volume < executed:
        ask_about(r, found, "executions missing")
        return
    refused = next((x for x in MARKET_AWAY if x == event.reason and not executed), None)
    if refused is not None:
        _refused(r, found, refused)
    elif found.duty is Duty.ENTRY:
        leg = r.leg(found.slot_id, found.trade_id)
        finish_entry(r, found.slot_id, leg, order)
    else:
        end_exit(r, found)


def _tell_of_strange_cancel(r: Reduction, found: Found, reason: str) -> None:
    """Tell the operator, once, that somebody else has cancelled an order of ours."""
    order = found.order
    is_ours = order.cancel_requested_at is not None or order.closed_executed is not None
    if reason != CANCELLED or is_ours:
        return
    text = f"{order.role} order {order.client_order_id} was cancelled at the exchange"
    r.notify(
        "warning",
        "cancelled",
        f"slot {found.slot_id} leg {found.trade_id}: {text}, not by the bot, which places it "
        "again; to have fewer orders use the bot's commands",
    )


def reject_order(r: Reduction, event: OrderRejected) -> None:
    """Take an order out that does not exist at the exchange, and say when to try again.

    A refusal that contradicts what is known (the order was acknowledged, or an order of that id is
    open) is no proof: the exchange is asked, and nothing takes the order's place before it answers.
    """
    found = r.find(event.client_order_id)
    if found is None:
        return
    r.count(f"rejected:{event.reason}")
    if found.order.closed_executed is not None:
        return  # it is over, and waits for its last executions
    is_known = found.order.txid is not None or event.reason is RejectReason.DUPLICATE_ID
    if is_known and not _is_surely_absent(r, found, event.reason):
        _doubt(r, found, event.reason)
        return
    if event.reason not in (*MARKET_AWAY, *NEVER_WAS):
        text = f"slot {found.slot_id} leg {found.trade_id}: {found.order.role} order refused: "
        r.notify("warning", "rejected", text + f"{event.reason} {event.detail}".strip())
    if event.reason is RejectReason.INSUFFICIENT_FUNDS:
        r.act(RequestReconcile(reason="funds refused"))
    _refused(r, found, event.reason)


def _refused(r: Reduction, found: Found, reason: RejectReason) -> None:
    if found.duty is Duty.ENTRY:
        _entry_rejected(r, found, reason)
    else:
        _exit_rejected(r, found, reason)


def _doubt(r: Reduction, found: Found, reason: RejectReason) -> None:
    """Hold an order uncertain whose refusal contradicts what is known of it."""
    order = found.order
    if reason is RejectReason.NEVER_ARRIVED:
        order = replace(order, absent_at=order.absent_at or r.now)
    if order.status is OrderStatus.UNCERTAIN:
        r.put_order(found, order)
        return  # asked already, and asked again from time to time
    found = replace(found, order=replace(order, status=OrderStatus.UNCERTAIN))
    r.count("uncertain")
    ask_about(r, found, f"refused as {reason}, but it may be open")
    r.notify(
        "error",
        "uncertain",
        f"slot {found.slot_id} leg {found.trade_id}: {order.role} order {order.client_order_id} "
        f"was refused as {reason} although it may be open; the exchange is asked",
    )


def _is_surely_absent(r: Reduction, found: Found, reason: RejectReason) -> bool:
    """Tell whether the exchange says twice, some seconds apart, that it has no such order."""
    order = found.order
    is_second = order.absent_at is not None and r.now - order.absent_at >= ABSENT_AGAIN_SEC
    return reason is RejectReason.NEVER_ARRIVED and is_second and not order.filled_volume


def ask_about(r: Reduction, found: Found, reason: str) -> None:
    """Ask the exchange what became of an order; upkeep asks again until it is known."""
    order = replace(found.order, asked_at=r.now)
    r.put_order(found, order)
    r.act(RequestReconcile(reason=reason, client_order_ids=(order.client_order_id,)))


def _entry_rejected(r: Reduction, found: Found, reason: RejectReason) -> None:
    leg = r.leg(found.slot_id, found.trade_id)
    since = leg.state.idle_since if isinstance(leg.state, Entering) else r.now
    resume_at: float | None = None
    if reason in MARKET_AWAY:
        recent = (*(t for t in leg.rejected_at if t > r.now - REJECTION_WINDOW_SEC), r.now)
        if len(recent) >= REJECTIONS_MAX:
            resume_at = r.now + REST_AFTER_REJECTION_SEC
            recent = recent[-1:]
        leg = replace(leg, rejected_at=recent)
    elif reason in (RejectReason.ORDER_MINIMUM, RejectReason.COST_MINIMUM, RejectReason.TICK_SIZE):
        resume_at = r.now + REST_AFTER_REFUSAL_SEC
    elif reason in NEVER_WAS:
        resume_at = r.now + RETRY_AFTER_SEC[min(leg.refusals, len(RETRY_AFTER_SEC) - 1)]
        leg = replace(leg, refusals=leg.refusals + 1)
    else:
        resume_at = r.now + REST_AFTER_REJECTION_SEC
    r.put_leg(found.slot_id, replace(leg, state=Idle(since=since, resume_at=resume_at)))


def _exit_rejected(r: Reduction, found: Found, reason: RejectReason) -> None:
    position = r.position(found)
    holder = r.known_slot(found.slot_id)
    if found.duty is Duty.EXIT and holder.pairing:
        r.put_holding(found, position, Owed(reason=PAIR_OFF, retry_at=r.now))
    else:
        keep_owed(r, found, position, reason)


def request_cancel(r: Reduction, found: Found, reason: str) -> None:
    """Ask the exchange to end an order; nothing is placed in its stead before that is a fact."""
    order = replace(found.order, status=OrderStatus.CANCELLING, cancel_requested_at=r.now)
    r.put_order(found, order)
    r.count(f"cancels:{reason}")
    r.act(CancelOrderAction(client_order_id=order.client_order_id, txid=order.txid, reason=reason))


def orphan(r: Reduction, slot_id: int, trade_id: TradeId, reason: str, *, is_loss: bool) -> None:
    """Detach a leg's resting exit as a recovery order, so that the leg can enter again."""
    slot = r.known_slot(slot_id)
    leg = slot.leg(trade_id)
    if not isinstance(leg.state, Exiting):
        raise KeyError(f"slot {slot_id} leg {trade_id} holds no position")
    recovery_id = f"{slot_id}-{trade_id}-{leg.cycle}"
    recovery = RecoveryOrder(
        recovery_id=recovery_id,
        trade_id=trade_id,
        cycle=leg.cycle,
        position=replace(leg.state.position, exit_attempts=0),  # recoveries count their own
        exit=leg.state.exit,
        orphaned_at=r.now,
        reason=reason,
        regime_at_entry=leg.state.position.regime_at_entry,
    )
    totals = replace(slot.totals, orphans=slot.totals.orphans + 1)
    recoveries = (*slot.recovery_orders, recovery)
    r.put_slot(replace(slot, recovery_orders=recoveries, totals=totals))
    r.put_leg(slot_id, next_cycle(r, leg, is_loss=is_loss))
    r.count("orphans")
    client_order_id = (
        leg.state.exit.client_order_id if isinstance(leg.state.exit, OrderState) else ""
    )
    r.act(
        OrphanOrderAction(
            slot_id=slot_id,
            recovery_id=recovery_id,
            client_order_id=client_order_id,
            reason=reason,
        )
    )
    r.notify(
        "info",
        "orphan",
        f"slot {slot_id} leg {trade_id}: exit waits as recovery {recovery_id} ({reason}); "
        "the leg may enter again",
    )


def adverse_pct(r: Reduction, position: Position, trade_id: TradeId) -> Decimal:
    """Return how far the market stands against the entry, in percent; negative is in favour."""
    if r.state.market is None:
        return ZERO
    average = position.average_price
    return sign(trade_id) * (average - mid(r.state.market)) / average * 100
