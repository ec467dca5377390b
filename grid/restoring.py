"""After a restore: orders of ours that the state does not know get their place in the grid again.

The exchange tells, in the order in which it happened, what our orders did since the state was
copied. An order's id says where it belongs. What fits there is bound, and its executions are booked
as ever; what does not fit waits for an operator. Meanwhile nothing is placed.
"""

from core.commands import Adopt, Ignore
from core.domain import OrderState, OrderStatus, Owed, RecoveryOrder, Role
from core.events import GhostFound, OrderRestored, RestoreBegun
from core.order_id import OrderPlace, decode
from core.record import replace
from core.state import Entering, Exiting, Idle, LockName, Restoring, Unbound
from grid import watch
from grid.endings import orphan
from grid.ghosts import ghost_found
from grid.reduction import Reduction
from grid.upkeep import retry_owed
from leg import acknowledge, holding

EPOCHS_KEPT = 16


def begin(r: Reduction, event: RestoreBegun) -> None:
    """Place nothing until the exchange has told what happened since."""
    known = (*r.state.former_epochs, *event.epochs)
    others = tuple(x for x in dict.fromkeys(known) if x != r.state.store_epoch)
    r.update(restoring=Restoring(since=event.since), former_epochs=others[-EPOCHS_KEPT:])
    watch.set_lock(r, LockName.RESTORE, "what happened since the restored state is not settled yet")


def order_restored(r: Reduction, event: OrderRestored) -> None:
    """Give an order its place, or list it for the operator."""
    restoring, place = r.state.restoring, decode(event.client_order_id)
    is_listed = restoring is not None and any(
        x.client_order_id == event.client_order_id for x in restoring.unbound
    )
    if restoring is None or place is None or is_listed or r.find(event.client_order_id):
        return
    why = _bind(r, event, place)
    if why is None:
        r.update(restoring=replace(restoring, bound=restoring.bound + 1))
        return
    unbound = Unbound(
        client_order_id=event.client_order_id,
        txid=event.txid,
        side=event.side,
        price=event.price,
        volume=event.volume,
        opened_at=event.opened_at,
        why=why,
    )
    r.update(restoring=replace(restoring, unbound=(*restoring.unbound, unbound)))
    text = (
        f"slot {place.slot} leg {place.trade_id}: {place.role} order {event.txid} "
        f"({event.side} {event.volume:f} at {event.price:f}) has no place: {why}"
    )
    r.notify("error", "restore", f"{text}. Trading waits for adopt or ignore")


def rebind(r: Reduction) -> None:
    """Look again at what had no place: an order may have ended that stood there."""
    restoring = r.state.restoring
    if restoring is None or not restoring.is_told:
        return
    for x in restoring.unbound:
        place = decode(x.client_order_id)
        if place is not None and _bind(r, x, place) is None:
            restoring = r.state.restoring or restoring
            left = tuple(y for y in restoring.unbound if y is not x)
            r.update(restoring=replace(restoring, bound=restoring.bound + 1, unbound=left))
    _end_if_done(r)


def _bind(r: Reduction, event: OrderRestored | Unbound, place: OrderPlace) -> str | None:
    """Put the order where its id says; return why that cannot be, or None."""
    is_entry = place.role is Role.ENTRY
    slot = r.slot(place.slot)
    if slot is None:
        return f"there is no slot {place.slot}"
    if event.side is not (place.trade_id.entry_side if is_entry else place.trade_id.exit_side):
        return "its side is not the one that its id names"
    order = OrderState(
        client_order_id=event.client_order_id,
        trade_id=place.trade_id,
        role=place.role,
        side=event.side,
        price=event.price,
        volume=event.volume,
        cycle=place.cycle,
        attempt=place.attempt,
        placed_at=event.opened_at,
        status=OrderStatus.OPEN,
        txid=event.txid,
        fee_rate=r.state.fees.maker,
    )
    return _bind_entry(r, place, order) if is_entry else _bind_exit(r, place, order)


def _bind_entry(r: Reduction, place: OrderPlace, order: OrderState) -> str | None:
    leg = r.leg(place.slot, place.trade_id)
    if isinstance(leg.state, Exiting) and leg.cycle < place.cycle:
        # The leg has entered again: its exit had become a recovery.
        orphan(r, place.slot, place.trade_id, "restored", is_loss=True)
        leg = r.leg(place.slot, place.trade_id)
    if not isinstance(leg.state, Idle):
        return "its leg is at another order or position"
    if place.cycle < leg.cycle:
        return f"its cycle {place.cycle} is over"
    entering = Entering(order=order, idle_since=leg.state.since)
    leg = replace(leg, state=entering, cycle=place.cycle, entry_attempts=place.attempt)
    r.put_leg(place.slot, leg)
    return None


def _bind_exit(r: Reduction, place: OrderPlace, order: OrderState) -> str | None:
    leg = r.leg(place.slot, place.trade_id)
    holder: Exiting | RecoveryOrder
    recovery_id: str | None = None
    if isinstance(leg.state, Exiting) and leg.cycle == place.cycle:
        holder = leg.state
    else:
        of_cycle = [
            x
            for x in r.known_slot(place.slot).recovery_orders
            if (x.trade_id, x.cycle) == (place.trade_id, place.cycle)
        ]
        if not of_cycle:
            return f"no position of cycle {place.cycle} is open"
        holder, recovery_id = of_cycle[0], of_cycle[0].recovery_id
    if not isinstance(holder.exit, Owed):
        return "its position has another exit"
    if order.volume > holder.position.open_volume:
        return f"its position holds {holder.position.open_volume:f} only"
    found = holding(r, place.slot, place.trade_id, recovery_id)
    tag = holder.position.regime_at_entry
    attempts = max(holder.position.exit_attempts, place.attempt)
    r.put_holding(found, replace(holder.position, exit_attempts=attempts), order)
    acknowledge(r, replace(found, order=order), replace(order, regime_at_entry=tag))
    return None


def told(r: Reduction) -> None:
    """Take note that all has been told; trade again, unless an operator has to decide."""
    if r.state.restoring is not None:
        r.update(restoring=replace(r.state.restoring, is_told=True))
        _end_if_done(r)


def resolve(r: Reduction, command: Adopt | Ignore) -> int | None:
    """Do as the operator decides of one listed order, or of all; return how many, None: no such."""
    restoring = r.state.restoring
    if restoring is None or not restoring.is_told:
        return None
    chosen = [x for x in restoring.unbound if command.order in (None, x.txid)]
    if not chosen:
        return None
    left = tuple(x for x in restoring.unbound if x not in chosen)
    r.update(restoring=replace(restoring, unbound=left))
    for x in chosen:
        if isinstance(command, Adopt):
            found = GhostFound(time=r.now, client_order_id=x.client_order_id, txid=x.txid)
            ghost_found(r, found, since=x.opened_at)
        else:
            r.update(ignored=(*r.state.ignored, x.client_order_id))
    _end_if_done(r)
    return len(chosen)


def _end_if_done(r: Reduction) -> None:
    restoring = r.state.restoring
    if restoring is None or not restoring.is_told or restoring.unbound:
        return
    r.update(restoring=None)
    watch.clear_lock(r, LockName.RESTORE, "all that happened since the restored state is known")
    r.notify("info", "restore", f"restored; {restoring.bound} orders found their place again")
    retry_owed(r, at_once=True)
