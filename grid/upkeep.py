"""Upkeep of what exists: owed exits, partial entries, refresh, withdrawal, orphans, pairing.

Level-triggered: every rule looks at the state as it is and is safe to run again. `due_times` and
`price_bounds` tell when a rule could next do something; they must stay beside the rules.
"""

from collections.abc import Iterator
from decimal import Decimal

from accounting import slot_orders
from core.actions import RequestReconcile
from core.domain import HUNDRED, ONE, OrderState, OrderStatus, Owed, RecoveryOrder, TradeId
from core.params import PausePolicy
from core.record import replace
from core.state import AntiChase, Entering, Exiting, Idle, Leg, SlotState
from grid.booking import write_off
from grid.endings import adverse_pct, orphan, request_cancel
from grid.pairing import pair_when_ready
from grid.reduction import Duty, Found, Reduction, live_orders
from grid_strategy import effective, entry_distance_pct, entry_price, mid
from leg import OWED_ALERT_SEC, PAIR_OFF, has_fresh_price, place_exit
from risk import (
    WITHDRAWING,
    Allow,
    VetoReason,
    break_even_veto,
    entry_allowed,
    standing_veto,
    suppression_veto,
)

CANCEL_REPEAT_SEC = 10.0
ASK_AGAIN_SEC = 30.0
ANTI_CHASE_REFRESHES = 2
ANTI_CHASE_SEC = 300.0


def upkeep(r: Reduction) -> None:
    """Do everything that is due on existing orders and positions."""
    retry_owed(r, at_once=False)
    _alert_owed(r)
    _tend_orders(r)
    for slot in r.state.slots:
        for leg in slot.legs:
            if isinstance(leg.state, Entering):
                _keep_entry(r, slot, leg, leg.state.order)
        _orphans(r, slot.slot_id)
        pair_when_ready(r, slot.slot_id)
    _close_slots(r)


def retry_owed(r: Reduction, *, at_once: bool) -> None:
    """Place owed exits whose time has come, or all of them `at_once`."""
    for slot in r.state.slots:
        for leg in slot.legs:
            if isinstance(leg.state, Exiting) and _is_due(r, leg.state.exit, at_once):
                place_exit(r, slot.slot_id, leg.trade_id, None)
        for recovery in slot.recovery_orders:
            if _is_due(r, recovery.exit, at_once):
                place_exit(r, slot.slot_id, recovery.trade_id, recovery.recovery_id)


def _is_due(r: Reduction, exit_: OrderState | Owed, at_once: bool) -> bool:
    if not isinstance(exit_, Owed) or exit_.reason == PAIR_OFF:
        return False
    return at_once or exit_.retry_at <= r.now


def owed_since(slot: SlotState) -> Iterator[tuple[str, float, str]]:
    """Yield what is owed, since when and why, of each exit of the slot that does not rest yet."""
    holders = [
        (f"slot {slot.slot_id} leg {leg.trade_id}", leg.state.position, leg.state.exit)
        for leg in slot.legs
        if isinstance(leg.state, Exiting)
    ]
    holders += [(f"recovery {x.recovery_id}", x.position, x.exit) for x in slot.recovery_orders]
    for name, position, exit_ in holders:
        if position.owed_since is not None:
            why = exit_.reason if isinstance(exit_, Owed) else f"its order is {exit_.status}"
            yield f"{name}: its exit of {position.open_volume:f}", position.owed_since, why


def _alert_owed(r: Reduction) -> None:
    """Tell the operator, once, of an exit that has been owed for OWED_ALERT_SEC."""
    for slot in r.state.slots:
        for what, since, why in owed_since(slot):
            if r.state.timer_at < since + OWED_ALERT_SEC <= r.now:
                text = f"{what} {r.state.instrument.base} is not at the exchange ({why}); tried on"
                r.notify("error", "owed_exit", text)


def _asked_at(order: OrderState) -> float | None:
    """Return when the exchange was last asked about, or sent, an order whose fate is unknown."""
    unsure = (OrderStatus.PENDING, OrderStatus.UNCERTAIN)
    if order.status not in unsure and order.closed_executed is None:
        return None
    return order.placed_at if order.asked_at is None else order.asked_at


def _tend_orders(r: Reduction) -> None:
    """Ask again about orders whose fate is unknown, repeat cancels, withdraw unwanted exits."""
    unknown = []
    for slot in r.state.slots:
        for found in live_orders(slot):
            order, asked = found.order, _asked_at(found.order)
            repeated = _cancel_repeated_at(order)
            if asked is not None and r.now - asked >= ASK_AGAIN_SEC:
                r.put_order(found, replace(order, asked_at=r.now))
                unknown.append(order.client_order_id)
            elif repeated is not None and r.now >= repeated:
                request_cancel(r, found, "repeated")
            elif order.status is OrderStatus.OPEN and found.duty is not Duty.ENTRY:
                _withdraw_exit(r, found)
    if unknown:
        r.act(RequestReconcile(reason="still unknown", client_order_ids=tuple(unknown)))


def _withdraw_exit(r: Reduction, found: Found) -> None:
    """Withdraw a resting exit that is to be priced anew or given up."""
    if found.order.closed_executed is not None:
        return
    if r.position(found).is_repricing and has_fresh_price(r):
        request_cancel(r, found, "soft_close")
    elif found.duty is Duty.RECOVERY and r.recovery(found).releasing:
        request_cancel(r, found, "released by the operator")


def _keep_entry(r: Reduction, slot: SlotState, leg: Leg, order: OrderState) -> None:
    if order.status is not OrderStatus.OPEN or order.closed_executed is not None:
        return
    found = Found(slot_id=slot.slot_id, trade_id=leg.trade_id, duty=Duty.ENTRY, order=order)
    suppressed = suppression_veto(r.state, leg, r.params)
    veto = standing_veto(r.state, slot, leg) or suppressed
    veto = veto or break_even_veto(r.state, slot, r.params)
    if veto is VetoReason.PAUSED and r.params.pause_policy is PausePolicy.STAY:
        veto = suppressed
    if veto in WITHDRAWING:
        request_cancel(r, found, f"withdrawn: {veto}")
    elif order.first_execution_at is not None:
        is_old = r.now - order.first_execution_at >= r.params.partial_entry_max_sec
        if is_old or _is_far(r, slot, leg, order):
            request_cancel(r, found, "partial entry too old" if is_old else "partial entry too far")
    elif _is_far(r, slot, leg, order) and isinstance(
        entry_allowed(r.state, slot, leg, r.params), Allow
    ):  # where no entry may be placed now, none is withdrawn to be placed anew
        _refresh(r, slot, leg, found)


def refresh_distance_pct(r: Reduction, slot: SlotState, leg: Leg) -> Decimal:
    """Return how far from the market, in percent, the leg's entry may rest."""
    distance = entry_distance_pct(r.state, slot, leg, r.params)
    return max(effective(r.params, r.state, slot.slot_id).refresh_pct, 2 * distance)


def _is_far(r: Reduction, slot: SlotState, leg: Leg, order: OrderState) -> bool:
    if r.state.market is None:
        return False
    m = mid(r.state.market)
    return abs(order.price - m) * HUNDRED > refresh_distance_pct(r, slot, leg) * m


def _refresh(r: Reduction, slot: SlotState, leg: Leg, found: Found) -> None:
    market = r.state.market
    if market is None:
        return
    distance = entry_distance_pct(r.state, slot, leg, r.params)
    wanted = entry_price(r.state.instrument, market, leg.trade_id, distance_pct=distance)
    direction = 1 if wanted > found.order.price else -1
    chase = leg.anti_chase
    count = chase.refreshes if chase.direction == direction else 0
    if count >= ANTI_CHASE_REFRESHES:
        if r.now < chase.last_at + ANTI_CHASE_SEC:
            return
        count = -1  # done, and the count is 0 again
    chase = AntiChase(direction=direction, refreshes=count + 1, last_at=r.now)
    if chase.refreshes == ANTI_CHASE_REFRESHES:
        r.count(f"veto:{VetoReason.ANTI_CHASE}")
    r.put_leg(slot.slot_id, replace(leg, anti_chase=chase))
    request_cancel(r, found, "refresh")


def _cancel_repeated_at(order: OrderState) -> float | None:
    """Return when the cancel of an order is to be repeated, or None."""
    is_waiting = order.status is OrderStatus.CANCELLING and order.closed_executed is None
    if not is_waiting or order.cancel_requested_at is None:
        return None
    return order.cancel_requested_at + CANCEL_REPEAT_SEC


def _orphans(r: Reduction, slot_id: int) -> None:
    slot = r.known_slot(slot_id)
    candidate = orphan_candidate(r, slot)
    if candidate is None or slot.closing or slot.pairing:
        return
    leg, since, limit, reason = candidate
    if r.now - since < limit or not isinstance(leg.state, Exiting):
        return
    exit_ = leg.state.exit
    if not isinstance(exit_, OrderState) or exit_.status is not OrderStatus.OPEN:
        return
    if exit_.closed_executed is not None:
        return  # over already; its last executions are on their way
    if adverse_pct(r, leg.state.position, leg.trade_id) < orphan_adverse_pct(r, slot_id):
        return
    if len(slot.recovery_orders) < r.params.max_recovery_slots:
        orphan(r, slot_id, leg.trade_id, reason, is_loss=True)


def orphan_adverse_pct(r: Reduction, slot_id: int) -> Decimal:
    """Return how far, in percent, the market must stand against an entry to orphan its exit."""
    own = r.params.orphan_min_adverse_pct
    return own if own is not None else r.effective(slot_id).profit_pct


def orphan_candidate(r: Reduction, slot: SlotState) -> tuple[Leg, float, float, str] | None:
    """Return the leg whose exit may be orphaned, since when it ages, its limit and the rule."""
    holding = [leg for leg in slot.legs if isinstance(leg.state, Exiting)]
    if not holding:
        return None
    filled = [leg.state.position.filled_at for leg in holding if isinstance(leg.state, Exiting)]
    if len(holding) == 1:
        return holding[0], filled[0], r.params.s1_orphan_after_sec, "S1 timeout"
    far = holding[1]  # tie: B
    if r.state.market is not None:
        m = mid(r.state.market)
        gaps = [
            abs(leg.state.exit.price - m)
            for leg in holding
            if isinstance(leg.state, Exiting) and isinstance(leg.state.exit, OrderState)
        ]
        if len(gaps) < 2:
            return None  # an owed exit has no price to compare
        if gaps[0] > gaps[1]:
            far = holding[0]
    return far, max(filled), r.params.s2_orphan_after_sec, "S2 timeout"


def _close_slots(r: Reduction) -> None:
    for slot in r.state.slots:
        if not slot.closing or slot.recovery_orders:
            continue
        if all(isinstance(leg.state, Idle) for leg in slot.legs):
            for leg in slot.legs:
                if leg.residual is not None:
                    rest = leg.residual
                    r.put_leg(slot.slot_id, replace(leg, residual=None))
                    write_off(
                        r,
                        slot.slot_id,
                        leg.trade_id,
                        volume=rest.volume,
                        cost=rest.cost,
                        account="residuals",
                    )
            _retire(r, slot.slot_id)


def _retire(r: Reduction, slot_id: int) -> None:
    slot = r.known_slot(slot_id)
    r.update(slots=tuple(s for s in r.state.slots if s.slot_id != slot_id))
    r.notify("info", "slot_removed", f"slot {slot_id} ({slot.alias}) is closed")


# ---- when could any of this next happen? -------------------------------------------------------


def due_times(r: Reduction) -> Iterator[float]:
    """Yield the times at which a rule of this module may next do something."""
    for slot in r.state.slots:
        for leg in slot.legs:
            if isinstance(leg.state, Entering):
                if leg.state.order.first_execution_at is not None:
                    yield leg.state.order.first_execution_at + r.params.partial_entry_max_sec
                yield leg.anti_chase.last_at + ANTI_CHASE_SEC
        holders: list[Exiting | RecoveryOrder] = [*slot.recovery_orders]
        holders += [leg.state for leg in slot.legs if isinstance(leg.state, Exiting)]
        for holder in holders:
            if isinstance(holder.exit, Owed) and holder.exit.reason != PAIR_OFF:
                yield holder.exit.retry_at
        for _, since, _ in owed_since(slot):
            yield since + OWED_ALERT_SEC
        for order in slot_orders(slot):
            repeated, asked = _cancel_repeated_at(order), _asked_at(order)
            if repeated is not None:
                yield repeated
            if asked is not None:
                yield asked + ASK_AGAIN_SEC
        candidate = orphan_candidate(r, slot)
        if candidate is not None:
            yield candidate[1] + candidate[2]


def price_bounds(r: Reduction) -> Iterator[Decimal]:
    """Yield prices of the mid at which a rule of this module may next do something."""
    for slot in r.state.slots:
        for leg in slot.legs:
            if isinstance(leg.state, Entering):
                order = leg.state.order
                if order.status is OrderStatus.OPEN:
                    share = refresh_distance_pct(r, slot, leg) / HUNDRED
                    yield order.price / (ONE + share)
                    yield order.price / (ONE - min(share, Decimal("0.99")))
        candidate = orphan_candidate(r, slot)
        if candidate is None or len(slot.recovery_orders) >= r.params.max_recovery_slots:
            continue
        leg, since, limit, _ = candidate
        if r.now >= since + limit and isinstance(leg.state, Exiting):
            average = leg.state.position.average_price
            share = orphan_adverse_pct(r, slot.slot_id) / HUNDRED
            yield average * (ONE - share if leg.trade_id is TradeId.B else ONE + share)
            yield from _swap_price(slot)


def _swap_price(slot: SlotState) -> Iterator[Decimal]:
    prices = [
        leg.state.exit.price
        for leg in slot.legs
        if isinstance(leg.state, Exiting) and isinstance(leg.state.exit, OrderState)
    ]
    if len(prices) == 2:
        yield (prices[0] + prices[1]) / 2  # here the farther exit becomes the other one
