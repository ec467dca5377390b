"""The entry pass: the one place where entries are emitted.

Run by `TimerTick`. It walks the legs that want an entry, the one longest without first, asks
`risk.entry_allowed`, sizes with what is still free, and spends a token per entry.
"""

from decimal import Decimal

from accounting import free
from core.actions import PlaceOrderAction
from core.domain import SizeStep, TradeId
from core.params import Params
from core.record import replace
from core.state import Entering, Idle, Leg, SlotState
from grid.endings import REJECTION_WINDOW_SEC
from grid.kelly import facts_of
from grid.reduction import Reduction
from grid_strategy import (
    Size,
    SizeFacts,
    effective,
    entry_distance_pct,
    entry_price,
    entry_size,
    slot_profit,
)
from leg import ATTEMPTS_MAX, DEADLINE_SEC, entry_order
from risk import (
    Approved,
    Draft,
    Veto,
    VetoReason,
    capacity,
    entry_allowed,
    portfolio_room,
    review,
)

FULL_SIZE_WAIT_SEC = 300.0
RECHECK_SEC = 300.0


def entry_pass(r: Reduction) -> None:
    """Place what entries may be placed now, and say when the next pass is worth running."""
    refill_tokens(r)
    wanting = sorted(
        (
            (leg.state.since, slot.slot_id, leg.trade_id)
            for slot in r.state.slots
            for leg in slot.legs
            if isinstance(leg.state, Idle)
        ),
        key=lambda item: item,
    )
    due = None
    for _, slot_id, trade_id in wanting:
        again = _try_entry(r, slot_id, trade_id)
        if again is not None:
            due = again if due is None else min(due, again)
    r.update(pass_due=due)


def entries_per_second(r: Reduction) -> float:
    """Return how many entries a second the capacity band allows."""
    band = capacity(r.state, r.params).band
    return {"normal": r.params.entries_per_second, "caution": 1, "stop": 0}[band]


def refill_tokens(r: Reduction) -> None:
    """Refill the token bucket in bot time; it holds at most one second's worth."""
    rate = entries_per_second(r)
    elapsed = max(0.0, r.now - r.state.entry_tokens_at)
    tokens = min(float(rate), r.state.entry_tokens + elapsed * rate)
    r.update(entry_tokens=tokens, entry_tokens_at=r.now)


def _try_entry(r: Reduction, slot_id: int, trade_id: TradeId) -> float | None:
    """Place the leg's entry or note why not; return when to try again."""
    slot, leg = r.known_slot(slot_id), r.leg(slot_id, trade_id)
    idle = leg.state
    if not isinstance(idle, Idle):
        return None
    verdict = entry_allowed(r.state, slot, leg, r.params)
    if isinstance(verdict, Veto):
        again = r.now + RECHECK_SEC
        if verdict.reason is VetoReason.COOLDOWN:
            again = max(r.now + 1.0, idle.resume_at or 0.0)
        return _veto(r, slot_id, leg, verdict.reason, again=again)
    params = effective(r.params, r.state, slot_id)
    price = _price(r, slot, leg)
    if price <= 0:  # a tick is all there is
        return _veto(r, slot_id, leg, VetoReason.INSANE_PRICE, again=r.now + RECHECK_SEC)
    size = _sized(r, slot, leg, price, params)
    if size.veto is not None:
        return _veto(
            r, slot_id, leg, VetoReason(size.veto), again=r.now + RECHECK_SEC, chain=size.chain
        )
    if size.usd * 2 < size.wanted_usd:
        since = idle.short_funds_since if idle.short_funds_since is not None else r.now
        if r.now - since < FULL_SIZE_WAIT_SEC:
            waiting = replace(leg, state=replace(idle, short_funds_since=since))
            r.put_leg(slot_id, waiting)
            until = since + FULL_SIZE_WAIT_SEC
            return _veto(r, slot_id, waiting, VetoReason.FUNDS, again=until, chain=size.chain)
    draft = Draft(trade_id=trade_id, price=price, volume=size.volume, is_entry=True)
    room = portfolio_room(r.state, r.params) if trade_id is TradeId.B else None
    approved = review(draft, r.state.instrument, params, room=room)
    if not isinstance(approved, Approved):
        return _veto(r, slot_id, leg, approved.reason, again=r.now + RECHECK_SEC, chain=size.chain)
    if r.state.entry_tokens < 1:
        rate = entries_per_second(r) or 1
        wait = (1 - r.state.entry_tokens) / rate
        return _veto(r, slot_id, leg, VetoReason.THROTTLE, again=r.now + wait, chain=size.chain)
    _place(r, slot_id, leg, approved, size.chain)
    if size.kelly is not None and size.kelly.bucket is not None:
        r.count("kelly_sizes")
        if size.kelly.is_capped:
            r.count("kelly_sizes_capped")
    return None


def _price(r: Reduction, slot: SlotState, leg: Leg) -> Decimal:
    market = r.state.market
    if market is None:
        raise ValueError("an entry needs a market")
    return entry_price(
        r.state.instrument,
        market,
        leg.trade_id,
        distance_pct=entry_distance_pct(r.state, slot, leg, r.params),
        rejections=sum(1 for at in leg.rejected_at if at > r.now - REJECTION_WINDOW_SEC),
    )


def _sized(r: Reduction, slot: SlotState, leg: Leg, price: Decimal, params: Params) -> Size:
    funds = free(r.state)
    facts = SizeFacts(
        instrument=r.state.instrument,
        side=leg.trade_id.entry_side,
        price=price,
        slot_profit=slot_profit(slot, r.state.market),
        free_quote=funds.quote,
        free_base=funds.base,
        maker_fee=r.state.fees.maker,
        slots=len(r.state.slots),
        risk_level=r.state.risk.level,
        is_band_normal=capacity(r.state, r.params).band == "normal",
        kelly=facts_of(r.state, r.params),
    )
    return entry_size(facts, params)


def _place(
    r: Reduction, slot_id: int, leg: Leg, approved: Approved, chain: tuple[SizeStep, ...]
) -> None:
    if leg.entry_attempts >= ATTEMPTS_MAX:  # the order numbers of this cycle are used up
        leg = replace(leg, cycle=leg.cycle + 1, entry_attempts=0)
    order = entry_order(r, slot_id, leg, approved)
    if approved.was_reduced:
        reduced = SizeStep(
            stage="review",
            amount_usd=order.volume * order.price,
            reason="was_reduced to MAX_ORDER_USD or MAX_EQUITY_SHARE",
        )
        chain = (*chain, reduced)
    since = leg.state.since if isinstance(leg.state, Idle) else r.now
    entering = replace(
        leg,
        state=Entering(order=order, idle_since=since),
        entry_attempts=leg.entry_attempts + 1,
        last_chain=chain,
    )
    r.put_leg(slot_id, entering)
    r.update(entry_tokens=r.state.entry_tokens - 1)
    r.count("orders")
    r.act(
        PlaceOrderAction(slot_id=slot_id, order=order, chain=chain, deadline=r.now + DEADLINE_SEC)
    )


def _veto(
    r: Reduction,
    slot_id: int,
    leg: Leg,
    reason: VetoReason,
    *,
    again: float,
    chain: tuple[SizeStep, ...] = (),
) -> float:
    idle = leg.state
    if isinstance(idle, Idle) and (idle.veto != reason or (chain and chain != leg.last_chain)):
        if idle.veto != reason and r.state.market is not None:
            r.count(f"veto:{reason}")
        since = idle.short_funds_since if reason is VetoReason.FUNDS else None
        noted_idle = replace(idle, veto=reason, short_funds_since=since)
        noted = replace(leg, state=noted_idle, last_chain=chain or leg.last_chain)
        r.put_leg(slot_id, noted)
        if reason is VetoReason.BELOW_MINIMUM and idle.veto != reason:
            least = chain[-1].reason if chain else ""
            r.notify("warning", "below_minimum", f"slot {slot_id} leg {leg.trade_id}: {least}")
    return again
