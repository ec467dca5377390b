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
from core.events import OrderRejected
from core.record import replace
from core.state import Exiting, Idle
from grid.reduction import Duty, Found, Reduction
from grid_strategy import mid
from leg import MARKET_AWAY, PAIR_OFF, end_exit, finish_entry, keep_owed, next_cycle, place_exit

REJECTION_WINDOW_SEC = 60.0
REJECTIONS_MAX = 3
REST_AFTER_REJECTION_SEC = 60.0
REST_AFTER_REFUSAL_SEC = 300.0
NEVER_WAS = (RejectReason.NOT_SENT, RejectReason.NEVER_ARRIVED, RejectReason.DEADLINE)


def close_order(r: Reduction, found: Found, executed: Decimal) -> None:
    """Take the exchange's word that an order is over; final once the executions add up to it."""
    executed = max(executed, found.order.filled_volume)
    order = replace(found.order, closed_executed=executed)
    found = replace(found, order=order)
    r.put_order(found, order)
    if order.filled_volume < executed:
        ids = (order.client_order_id,)
        r.act(RequestReconcile(reason="executions missing", client_order_ids=ids))
        return
    if found.duty is Duty.ENTRY:
        leg = r.leg(found.slot_id, found.trade_id)
        finish_entry(r, found.slot_id, leg, order)
    else:
        end_exit(r, found)


def reject_order(r: Reduction, event: OrderRejected) -> None:
    """Take an order out that does not exist at the exchange, and say when to try again."""
    found = r.find(event.client_order_id)
    if found is None:
        return
    r.count(f"rejected:{event.reason}")
    if found.order.filled_volume > 0:  # it has executed, so it existed: the end, not a refusal
        close_order(r, found, found.order.filled_volume)
        return
    if event.reason not in (*MARKET_AWAY, *NEVER_WAS):
        text = f"slot {found.slot_id} leg {found.trade_id}: {found.order.role} order refused: "
        r.notify("warning", "rejected", text + f"{event.reason} {event.detail}".strip())
    if event.reason is RejectReason.INSUFFICIENT_FUNDS:
        r.act(RequestReconcile(reason="funds refused"))
    if found.duty is Duty.ENTRY:
        _entry_rejected(r, found, event.reason)
    else:
        _exit_rejected(r, found, event.reason)


def _entry_rejected(r: Reduction, found: Found, reason: RejectReason) -> None:
    leg = r.leg(found.slot_id, found.trade_id)
    resume_at: float | None = None
    if reason in MARKET_AWAY:
        recent = (*(t for t in leg.rejected_at if t > r.now - REJECTION_WINDOW_SEC), r.now)
        if len(recent) >= REJECTIONS_MAX:
            resume_at = r.now + REST_AFTER_REJECTION_SEC
            recent = recent[-1:]
        leg = replace(leg, rejected_at=recent)
    elif reason in (RejectReason.ORDER_MINIMUM, RejectReason.COST_MINIMUM, RejectReason.TICK_SIZE):
        resume_at = r.now + REST_AFTER_REFUSAL_SEC
    elif reason not in NEVER_WAS:
        resume_at = r.now + REST_AFTER_REJECTION_SEC
    r.put_leg(found.slot_id, replace(leg, state=Idle(since=r.now, resume_at=resume_at)))


def _exit_rejected(r: Reduction, found: Found, reason: RejectReason) -> None:
    position = r.position(found)
    holder = r.known_slot(found.slot_id)
    owed = Owed(since=r.now, reason=reason, retry_at=r.now)
    if holder.pairing and found.duty is Duty.EXIT:
        r.put_holding(found, position, replace(owed, reason=PAIR_OFF))
        return
    if reason in NEVER_WAS:
        r.put_holding(found, position, owed)
        place_exit(r, found.slot_id, found.trade_id, found.recovery_id)
        return
    failures = found.order.attempt - 1
    keep_owed(r, found, position, replace(owed, failures=min(failures, 3)), reason)


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
        position=leg.state.position,
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
