"""Ghosts: orders of ours at the exchange that no live intent owns.

They can only come of a broken promise of the exchange (an order said never to have arrived
appears). A ghost stops its leg, is cancelled until the exchange says it is over, and its executions
are booked, once, to the slot that its id names: the volume joins the inventory at what it cost.
"""

from collections.abc import Iterator

from core.actions import CancelOrderAction, RecordExecution, RequestReconcile
from core.domain import Role, Side
from core.events import FillEvent, GhostFound, OrderClosed
from core.order_id import decode
from core.record import replace
from core.state import Ghost
from grid.reduction import Reduction

CANCEL_AGAIN_SEC = 10.0


def ghost_found(r: Reduction, event: GhostFound, *, since: float | None = None) -> None:
    """Take note of a ghost, alarm, and ask for its end; `since`: when it was opened, if known."""
    place = decode(event.client_order_id)
    known = r.find(event.client_order_id) is not None or _ghost(r, event.client_order_id)
    if place is None or known:
        return
    epochs = (r.state.store_epoch, *r.state.former_epochs)
    if place.tag != r.state.bot_tag or place.epoch not in epochs:
        return
    is_entry = place.role is Role.ENTRY
    ghost = Ghost(
        client_order_id=event.client_order_id,
        txid=event.txid,
        slot_id=place.slot,
        trade_id=place.trade_id,
        role=place.role,
        cycle=place.cycle,
        side=place.trade_id.entry_side if is_entry else place.trade_id.exit_side,
        found_at=r.now,
        since=since,
    )
    r.update(ghosts=(*r.state.ghosts, ghost))
    r.count("ghosts")
    text = (
        f"slot {place.slot} leg {place.trade_id}: the exchange has {place.role} order {event.txid} "
        "that the books do not know; it is cancelled, the leg waits"
    )
    r.notify("error", "ghost", text)
    _cancel(r, ghost)


def ghost_filled(r: Reduction, event: FillEvent) -> bool:
    """Book one execution of a ghost, exactly once; tell whether the order is one."""
    ghost = _ghost(r, event.client_order_id)
    if ghost is None:
        return False
    if event.execution_id in ghost.execution_ids:
        r.count("duplicate_fills")
        return True
    is_buy = ghost.side is Side.BUY
    own, base = r.state.balances, event.volume if is_buy else -event.volume
    cost = event.cost if is_buy else -event.cost
    r.update(
        balances=replace(
            own,
            base=own.base + base,
            quote=own.quote - cost - event.fee,
            last_execution_at=r.now,
        )
    )
    r.count("fills")
    r.post("ghost execution", cash=-cost - event.fee, inventory=cost, fees=event.fee)
    r.move_inventory(base)
    r.act(
        RecordExecution(
            execution_id=event.execution_id,
            client_order_id=ghost.client_order_id,
            txid=event.txid,
            slot_id=ghost.slot_id,
            trade_id=ghost.trade_id,
            role=ghost.role,
            cycle=ghost.cycle,
            side=ghost.side,
            price=event.price,
            volume=event.volume,
            cost=event.cost,
            fee=event.fee,
            executed_at=event.executed_at,
            is_maker=event.is_maker,
        )
    )
    text = f"{event.volume:f} at {event.price:f} of order {ghost.txid} joined the inventory"
    r.notify("error", "ghost", f"slot {ghost.slot_id} leg {ghost.trade_id}: {text}")
    _put(
        r,
        replace(
            ghost,
            executed=ghost.executed + event.volume,
            execution_ids=(*ghost.execution_ids, event.execution_id),
        ),
    )
    return True


def ghost_closed(r: Reduction, event: OrderClosed) -> None:
    """Take the exchange's word that a ghost is over; it goes once its executions add up."""
    ghost = _ghost(r, event.client_order_id)
    if ghost is not None:
        _put(r, replace(ghost, closed_executed=max(event.executed, ghost.executed)))


def ghost_refused(r: Reduction, client_order_id: str) -> None:
    """Ask what became of a ghost whose cancel was refused: it may have ended by itself."""
    if _ghost(r, client_order_id) is not None:
        r.act(RequestReconcile(reason="ghost", client_order_ids=(client_order_id,)))


def cancel_ghosts(r: Reduction) -> None:
    """Repeat the cancels of ghosts that are not over."""
    for ghost in r.state.ghosts:
        if ghost.closed_executed is None and r.now >= ghost.cancelled_at + CANCEL_AGAIN_SEC:
            _cancel(r, ghost)


def ghost_times(r: Reduction) -> Iterator[float]:
    """Yield the times at which a cancel of a ghost is repeated."""
    for ghost in r.state.ghosts:
        if ghost.closed_executed is None:
            yield ghost.cancelled_at + CANCEL_AGAIN_SEC


def _ghost(r: Reduction, client_order_id: str) -> Ghost | None:
    return next((x for x in r.state.ghosts if x.client_order_id == client_order_id), None)


def _put(r: Reduction, ghost: Ghost) -> None:
    is_over = ghost.closed_executed is not None and ghost.executed >= ghost.closed_executed
    others = tuple(
        ghost if x.client_order_id == ghost.client_order_id else x
        for x in r.state.ghosts
        if x.client_order_id != ghost.client_order_id or not is_over
    )
    r.update(ghosts=others)
    if is_over:
        text = f"slot {ghost.slot_id} leg {ghost.trade_id}: order {ghost.txid} is over"
        r.notify("warning", "ghost", f"{text}, {ghost.executed:f} executed")


def _cancel(r: Reduction, ghost: Ghost) -> None:
    _put(r, replace(ghost, cancelled_at=r.now))
    r.act(CancelOrderAction(client_order_id=ghost.client_order_id, txid=ghost.txid, reason="ghost"))
