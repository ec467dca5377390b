"""The work in progress of one `reduce` call: the state being built and the actions so far.

A Reduction lives inside one call and is the only mutable thing in the pure core. It knows how to
replace parts of the state, count, post to the ledger and find orders; it decides nothing.
"""

from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum

from accounting import post
from core.actions import Action, Notify, PostEntries, RecordTransition
from core.domain import ZERO, OrderState, Owed, Position, RecoveryOrder, TradeId
from core.order_id import OrderPlace, encode
from core.params import Params
from core.record import Record, replace
from core.state import BotState, Entering, Exiting, Idle, Leg, SlotState
from grid_strategy import effective


class Duty(StrEnum):
    """What an order of ours is doing right now."""

    ENTRY = "entry"
    EXIT = "exit"
    RECOVERY = "recovery"


class Found(Record, frozen=True, kw_only=True):
    """Where an order stands in the state."""

    slot_id: int
    trade_id: TradeId
    duty: Duty
    order: OrderState
    recovery_id: str | None = None


def live_orders(slot: SlotState) -> Iterator[Found]:
    """Yield every order of the slot that the exchange holds or may hold, and where it stands."""
    for leg in slot.legs:
        match leg.state:
            case Entering(order=order):
                yield Found(
                    slot_id=slot.slot_id, trade_id=leg.trade_id, duty=Duty.ENTRY, order=order
                )
            case Exiting(exit=OrderState() as order):
                yield Found(
                    slot_id=slot.slot_id, trade_id=leg.trade_id, duty=Duty.EXIT, order=order
                )
            case _:
                pass
    for recovery in slot.recovery_orders:
        if isinstance(recovery.exit, OrderState):
            yield Found(
                slot_id=slot.slot_id,
                trade_id=recovery.trade_id,
                duty=Duty.RECOVERY,
                order=recovery.exit,
                recovery_id=recovery.recovery_id,
            )


class Reduction:
    """The state being built, and the actions it calls for."""

    def __init__(self, state: BotState, params: Params) -> None:
        self.state = state
        self.params = params
        self.actions: list[Action] = []

    @property
    def now(self) -> float:
        """Return the time of the event."""
        return self.state.now

    def update(self, **changes: object) -> None:
        """Replace fields of the state."""
        self.state = replace(self.state, **changes)

    def act(self, action: Action) -> None:
        """Add an action."""
        self.actions.append(action)

    def notify(self, level: str, kind: str, text: str) -> None:
        """Tell the operator something."""
        self.act(Notify(level=level, kind=kind, text=text))

    def transition(self, kind: str, name: str, detail: str) -> None:
        """Record a change of level, lock or mode."""
        self.act(RecordTransition(kind=kind, name=name, detail=detail))

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        counters = dict(self.state.counters)
        counters[name] = counters.get(name, 0) + by
        self.update(counters=counters)

    def post(self, reason: str, **amounts: Decimal) -> None:
        """Post to the ledger; the amounts must balance."""
        accounts, lines = post(self.state.accounts, **amounts)
        if lines:
            self.update(accounts=accounts)
            self.act(PostEntries(reason=reason, entries=lines))

    def move_inventory(self, volume: Decimal) -> None:
        """Change the base volume behind the inventory account."""
        books = self.state.accounts
        self.update(accounts=replace(books, inventory_base=books.inventory_base + volume))

    def slot(self, slot_id: int) -> SlotState | None:
        """Return the slot, or None if there is none of that id."""
        for slot in self.state.slots:
            if slot.slot_id == slot_id:
                return slot
        return None

    def known_slot(self, slot_id: int) -> SlotState:
        """Return the slot; it must exist."""
        slot = self.slot(slot_id)
        if slot is None:
            raise KeyError(f"no slot {slot_id}")
        return slot

    def leg(self, slot_id: int, trade_id: TradeId) -> Leg:
        """Return a leg of a slot that exists."""
        return self.known_slot(slot_id).leg(trade_id)

    def put_slot(self, slot: SlotState) -> None:
        """Replace the slot of that id."""
        slots = tuple(slot if s.slot_id == slot.slot_id else s for s in self.state.slots)
        self.update(slots=slots)

    def put_leg(self, slot_id: int, leg: Leg) -> None:
        """Replace a leg of a slot."""
        slot = self.known_slot(slot_id)
        legs = (leg, slot.legs[1]) if leg.trade_id is TradeId.A else (slot.legs[0], leg)
        self.put_slot(replace(slot, legs=legs))

    def put_recovery(self, slot_id: int, recovery: RecoveryOrder) -> None:
        """Replace the recovery of that id."""
        slot = self.known_slot(slot_id)
        kept = tuple(
            recovery if r.recovery_id == recovery.recovery_id else r for r in slot.recovery_orders
        )
        self.put_slot(replace(slot, recovery_orders=kept))

    def drop_recovery(self, slot_id: int, recovery_id: str) -> None:
        """Take a recovery out of its slot."""
        slot = self.known_slot(slot_id)
        kept = tuple(r for r in slot.recovery_orders if r.recovery_id != recovery_id)
        self.put_slot(replace(slot, recovery_orders=kept))

    def find(self, client_order_id: str) -> Found | None:
        """Return where the order stands, or None if no order of that id is alive."""
        for slot in self.state.slots:
            for found in live_orders(slot):
                if found.order.client_order_id == client_order_id:
                    return found
        return None

    def put_order(self, found: Found, order: OrderState) -> None:
        """Replace an order where it stands."""
        if found.duty is Duty.RECOVERY:
            recovery = self.recovery(found)
            self.put_recovery(found.slot_id, replace(recovery, exit=order))
            return
        leg = self.leg(found.slot_id, found.trade_id)
        match leg.state:
            case Entering() as entering:
                self.put_leg(found.slot_id, replace(leg, state=replace(entering, order=order)))
            case Exiting(position=position):
                exiting = Exiting(position=position, exit=order)
                self.put_leg(found.slot_id, replace(leg, state=exiting))
            case Idle():
                raise KeyError(f"no order {order.client_order_id}")

    def recovery(self, found: Found) -> RecoveryOrder:
        """Return the recovery that `found` names."""
        slot = self.known_slot(found.slot_id)
        return next(r for r in slot.recovery_orders if r.recovery_id == found.recovery_id)

    def position(self, found: Found) -> Position:
        """Return the position that the exit `found` closes."""
        if found.duty is Duty.RECOVERY:
            return self.recovery(found).position
        state = self.leg(found.slot_id, found.trade_id).state
        if not isinstance(state, Exiting):
            raise KeyError(f"{found.order.client_order_id} is not an exit")
        return state.position

    def cycle(self, found: Found) -> int:
        """Return the cycle that the order `found` works for."""
        if found.duty is Duty.RECOVERY:
            return self.recovery(found).cycle
        return self.leg(found.slot_id, found.trade_id).cycle

    def put_holding(self, found: Found, position: Position, exit_: OrderState | Owed) -> None:
        """Replace position and exit of a leg or recovery."""
        if found.duty is Duty.RECOVERY:
            recovery = replace(self.recovery(found), position=position, exit=exit_)
            self.put_recovery(found.slot_id, recovery)
            return
        leg = self.leg(found.slot_id, found.trade_id)
        self.put_leg(found.slot_id, replace(leg, state=Exiting(position=position, exit=exit_)))

    def effective(self, slot_id: int) -> Params:
        """Return the parameters in force for a slot, operator overrides included."""
        return effective(self.params, self.state, slot_id)

    def order_id(self, place: OrderPlace) -> str:
        """Return the client order id of `place`."""
        return encode(replace(place, tag=self.state.bot_tag, epoch=self.state.store_epoch))

    def set_off(self, trade_id: TradeId, cost: Decimal) -> Decimal:
        """Return `cost` signed as the ledger books it for the leg: leg A negative."""
        return cost if trade_id is TradeId.B else ZERO - cost
