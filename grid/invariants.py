"""What must always be true of the state (safety), and what should be (liveness).

A safety violation halts new risk; liveness is reported and never halts. Checked after every event.
"""

from accounting import (
    conservation,
    held,
    is_short,
    signed_open_volume,
    slot_orders,
    trial_balance,
)
from core.domain import ZERO, OrderStatus
from core.params import Params
from core.state import BotState, Entering, Exiting, Idle, Leg, LockName, SlotState
from grid.upkeep import owed_since
from grid.watch import imbalance
from leg import OWED_ALERT_SEC
from risk import VETO_WORDS

MISSING_ENTRY_SEC = 60.0


def check_invariants(state: BotState) -> list[str]:
    """Return every safety invariant that is violated, in plain words; empty if all hold."""
    broken: list[str] = []
    ids: set[str] = set()
    for slot in state.slots:
        for leg in slot.legs:
            _leg(slot, leg, broken)
        for order in slot_orders(slot):
            if order.client_order_id in ids:
                broken.append(f"order id {order.client_order_id} is used twice")
            ids.add(order.client_order_id)
            if not ZERO <= order.filled_volume <= order.volume or order.volume <= 0:
                broken.append(
                    f"order {order.client_order_id}: {order.filled_volume} of {order.volume} filled"
                )
    _books(state, broken)
    return broken


def _leg(slot: SlotState, leg: Leg, broken: list[str]) -> None:
    name = f"slot {slot.slot_id} leg {leg.trade_id}"
    if leg.cycle < 1:
        broken.append(f"{name}: cycle {leg.cycle}")
    volume = cost = ZERO
    match leg.state:
        case Entering(order=order):
            volume, cost = order.filled_volume, order.filled_cost
        case Exiting(position=position):
            volume, cost = position.open_volume, position.open_cost
            if position.cost <= 0 or position.open_volume <= 0:
                broken.append(f"{name}: position of {position.volume} at cost {position.cost}")
        case Idle():
            pass
    for recovery in slot.recovery_orders:
        if recovery.trade_id is leg.trade_id:
            volume += recovery.position.open_volume
            cost += recovery.position.open_cost
    if leg.residual is not None:
        volume += leg.residual.volume
        cost += leg.residual.cost
    must = conservation(leg.totals)
    if must.base != volume or must.quote != cost:
        broken.append(
            f"{name}: totals say {must.base} at {must.quote}, it holds {volume} at {cost}"
        )


def _books(state: BotState, broken: list[str]) -> None:
    own = state.balances
    balance = trial_balance(state.accounts)
    if balance != 0:
        broken.append(f"the ledger is off by {balance}")
    if not own.start_mark:
        return
    if state.accounts.cash + state.accounts.reserved != own.quote:
        broken.append("cash and reserved cash do not add up to the quote owned")
    volume = state.accounts.inventory_base + signed_open_volume(state)
    if volume != own.base:
        broken.append(f"inventory and positions hold {volume} base, we own {own.base}")
    if own.base < 0 or own.quote < 0:
        broken.append(f"negative balance: {own.base} base, {own.quote} quote")
    # A shortfall that strangers caused is the lock `funds`, set by the same event.
    is_known = any(lock.name is LockName.FUNDS for lock in state.risk.locks)
    if is_short(state) and not is_known:
        mine = held(state)
        broken.append(
            f"our orders hold {mine.base} base and {mine.quote} quote of {own.base} and {own.quote}"
        )


def liveness(state: BotState, params: Params) -> list[str]:
    """Return what is expected and missing, since when and why; never a reason to halt."""
    missing: list[str] = []
    for slot in state.slots:
        for leg in slot.legs:
            name = f"slot {slot.slot_id} leg {leg.trade_id}"
            if isinstance(leg.state, Idle) and leg.state.veto is not None:
                age = state.now - leg.state.since
                if age >= MISSING_ENTRY_SEC:
                    why = VETO_WORDS.get(leg.state.veto, leg.state.veto)
                    missing.append(f"{name} has no entry for {age:.0f} s: {why}")
        for what, since, why in owed_since(slot):
            if state.now - since >= OWED_ALERT_SEC:
                missing.append(f"{what} is owed for {state.now - since:.0f} s: {why}")
        missing.extend(
            f"order {order.client_order_id} is uncertain"
            for order in slot_orders(slot)
            if order.status is OrderStatus.UNCERTAIN
        )
    limit = params.imbalance_alert_min * 60
    missing.extend(text for since, text in imbalance(state, params) if state.now - since >= limit)
    return missing
