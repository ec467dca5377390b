"""The open orders at the exchange against ours, as an operator asks for it.

What carries our id there and nobody owns becomes a ghost (`grid/ghosts.py`): it ends, what it has
executed is booked. What we hold as open and the listing does not show is asked for again. Orders of
strangers, of another database, and those the operator ignores are counted and left alone.
"""

from core.domain import ListedOrder, Listing, OrderStatus
from core.events import GhostFound
from core.order_id import decode
from core.record import Record
from core.state import BotState
from grid.endings import ask_about
from grid.ghosts import ghost_found
from grid.reduction import Found, Reduction, live_orders

SHOWN_SEC = 10.0  # an order placed less than this before a listing may not be part of it yet


class Drift(Record, frozen=True, kw_only=True):
    """How a listing differs from the state; `others` are open orders that are not to be touched."""

    unowned: tuple[ListedOrder, ...]
    unseen: tuple[Found, ...]
    alike: int
    others: int


def compare(state: BotState, listing: Listing) -> Drift:
    """Return how the listing differs from what the state holds."""
    live = [found for slot in state.slots for found in live_orders(slot)]
    owned = {x.order.client_order_id for x in live} | {x.client_order_id for x in state.ghosts}
    shown = {x.client_order_id for x in listing.orders}
    strange = [x for x in listing.orders if x.client_order_id not in owned]
    unowned = tuple(x for x in strange if _is_ours(state, x.client_order_id))
    return Drift(
        unowned=unowned,
        unseen=tuple(
            x
            for x in live
            if x.order.status is OrderStatus.OPEN
            and x.order.closed_executed is None
            and x.order.placed_at < listing.at - SHOWN_SEC
            and x.order.client_order_id not in shown
        ),
        alike=len(owned & shown),
        others=listing.strangers + len(strange) - len(unowned),
    )


def _is_ours(state: BotState, client_order_id: str) -> bool:
    """Tell whether an id is of this bot and database, and the operator has not set it aside."""
    place = decode(client_order_id)
    return (
        place is not None
        and place.tag == state.bot_tag
        and place.epoch in (state.store_epoch, *state.former_epochs)
        and client_order_id not in state.ignored
    )


def settle(r: Reduction, drift: Drift) -> None:
    """End what nobody owns, and ask for what was not shown."""
    for order in drift.unowned:
        found = GhostFound(time=r.now, client_order_id=order.client_order_id, txid=order.txid)
        ghost_found(r, found)
    for unseen in drift.unseen:
        ask_about(r, unseen, "not listed")


def targets(drift: Drift) -> list[str]:
    """Return the ids, at the exchange, of the orders that differ."""
    unseen = [x.order.txid or x.order.client_order_id for x in drift.unseen]
    return [x.txid for x in drift.unowned] + unseen


def differences(drift: Drift) -> list[tuple[str, str]]:
    """Return per order that differs its name and, in words, what is wrong and what follows."""
    listed = []
    for x in drift.unowned:
        place = decode(x.client_order_id)
        where = "" if place is None else f", by its id slot {place.slot} leg {place.trade_id}"
        text = f"{x.side} {x.volume:f} at {x.price:f}{where}: nobody owns it, it is cancelled"
        listed.append((f"order {x.txid}", text))
    for found in drift.unseen:
        order = found.order
        listed.append(
            (
                f"order {order.txid}",
                f"{order.side} {order.volume:f} at {order.price:f}, slot {found.slot_id} leg "
                f"{found.trade_id}: held as open but not listed, it is asked for again",
            )
        )
    return listed
