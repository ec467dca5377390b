"""Pair-off: an A and a B position of one slot set against each other, from their executions.

The operator asks for it; both exits are withdrawn first, and only what is still open when both
are gone is set off. No order, no fee, no price but those that were really paid.
"""

from decimal import Decimal

from core.domain import ONE, ZERO, OrderState, OrderStatus, Owed, Position, TradeId
from core.record import Record, replace
from core.state import Exiting, SlotState
from grid.booking import book_cycle, leave, next_cycle
from grid.endings import request_cancel
from grid.reduction import Duty, Found, Reduction
from leg import PAIR_OFF, holding, place_exit, to_residual


class PairOffPreview(Record, frozen=True, kw_only=True):
    """What a pair-off would book: volume, the two average prices, gross, fees and net in quote."""

    volume: Decimal
    sold_at: Decimal
    bought_at: Decimal
    gross: Decimal
    fees: Decimal
    net: Decimal


def _open_positions(slot: SlotState) -> tuple[Position, Position] | None:
    a, b = (leg.state for leg in slot.legs)
    if isinstance(a, Exiting) and isinstance(b, Exiting):
        return a.position, b.position
    return None


def _share(total: Decimal, part: Decimal, whole: Decimal, decimals: int) -> Decimal:
    if part == whole:
        return total
    return (total * part / whole).quantize(ONE.scaleb(-decimals))


def preview(r: Reduction, slot: SlotState) -> PairOffPreview | None:
    """Return what setting the slot's two positions off would book, or None without two."""
    both = _open_positions(slot)
    if both is None:
        return None
    a, b = both
    volume = min(a.open_volume, b.open_volume)
    sold, bought, fees_a, fees_b = _parts(r, a, b, volume)
    gross, fees = sold - bought, fees_a + fees_b
    return PairOffPreview(
        volume=volume,
        sold_at=sold / volume,
        bought_at=bought / volume,
        gross=gross,
        fees=fees,
        net=gross - fees,
    )


def _parts(
    r: Reduction, a: Position, b: Position, volume: Decimal
) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    cost_decimals, fee_decimals = r.state.instrument.cost_decimals, r.state.instrument.fee_decimals
    return (
        _share(a.open_cost, volume, a.open_volume, cost_decimals),
        _share(b.open_cost, volume, b.open_volume, cost_decimals),
        _share(a.fees, volume, a.volume, fee_decimals),
        _share(b.fees, volume, b.volume, fee_decimals),
    )


def begin_pairing(r: Reduction, slot_id: int) -> None:
    """Withdraw both exits of the slot, so that the positions can be set off."""
    r.put_slot(replace(r.known_slot(slot_id), pairing=True))
    for leg in r.known_slot(slot_id).legs:
        state = leg.state
        if not isinstance(state, Exiting):
            continue
        if isinstance(state.exit, Owed):
            owed = replace(state.exit, reason=PAIR_OFF)
            r.put_leg(slot_id, replace(leg, state=replace(state, exit=owed)))
        elif state.exit.status is OrderStatus.OPEN:
            found = Found(slot_id=slot_id, trade_id=leg.trade_id, duty=Duty.EXIT, order=state.exit)
            request_cancel(r, found, "pair_off")
    pair_when_ready(r, slot_id)


def pair_when_ready(r: Reduction, slot_id: int) -> None:
    """Set the positions off once neither exit is at the exchange, or give up if one has filled."""
    slot = r.slot(slot_id)
    if slot is None or not slot.pairing:
        return
    states = [leg.state for leg in slot.legs]
    exits = [s.exit for s in states if isinstance(s, Exiting)]
    for leg in slot.legs:
        state = leg.state
        if isinstance(state, Exiting) and isinstance(state.exit, OrderState):
            if state.exit.status is OrderStatus.OPEN:
                begin = Found(
                    slot_id=slot_id, trade_id=leg.trade_id, duty=Duty.EXIT, order=state.exit
                )
                request_cancel(r, begin, "pair_off")
            return
    r.put_slot(replace(slot, pairing=False))
    if len(exits) == 2:
        _set_off(r, slot_id)
    for trade_id in TradeId:
        state = r.leg(slot_id, trade_id).state
        if isinstance(state, Exiting) and isinstance(state.exit, Owed):
            if len(exits) == 2 and to_residual(r, slot_id, trade_id):
                continue
            owed = replace(state.exit, reason="rest", retry_at=r.now)
            leg, position = r.leg(slot_id, trade_id), replace(state.position, owed_since=r.now)
            r.put_leg(slot_id, replace(leg, state=Exiting(position=position, exit=owed)))
            place_exit(r, slot_id, trade_id, None)


def _set_off(r: Reduction, slot_id: int) -> None:
    slot = r.known_slot(slot_id)
    both, offer = _open_positions(slot), preview(r, slot)
    if both is None or offer is None:
        return
    a, b = both
    sold, bought, fees_a, fees_b = _parts(r, a, b, offer.volume)
    r.post("pair off", positions=sold - bought, grid_profit=bought - sold)
    r.notify(
        "info",
        "pair_off",
        f"slot {slot_id}: {offer.volume:f} {r.state.instrument.base} sold at {offer.sold_at:.7f} "
        f"set against bought at {offer.bought_at:.7f}, net {offer.net:+.4f} after fees",
    )
    for trade_id, cost in ((TradeId.A, sold), (TradeId.B, bought)):
        leave(r, slot_id, trade_id, volume=offer.volume, cost=cost)
    _close_a(r, slot_id, a, (offer.volume, sold, fees_a), (bought, fees_b))
    _close_b(r, slot_id, b, (offer.volume, bought, fees_b))


def _close_a(
    r: Reduction,
    slot_id: int,
    position: Position,
    part: tuple[Decimal, Decimal, Decimal],
    exit_part: tuple[Decimal, Decimal],
) -> None:
    """Book leg A's cycle: what its own exit closed already, plus the part set off against B."""
    volume, cost, fees = part
    closed_fees = ZERO
    if position.closed_volume > 0:
        closed_fees = _share(
            position.fees,
            position.closed_volume,
            position.volume,
            r.state.instrument.fee_decimals,
        )
    rest_volume = position.open_volume - volume
    if rest_volume == 0:
        closed_fees = position.fees - fees
    done = replace(
        position,
        volume=position.closed_volume + volume,
        cost=position.closed_cost + cost,
        fees=closed_fees + fees,
        closed_volume=position.closed_volume + volume,
        closed_cost=position.closed_cost + cost,
        exit_cost=position.exit_cost + exit_part[0],
        exit_fees=position.exit_fees + exit_part[1],
        closed_at=r.now,
    )
    leg = r.leg(slot_id, TradeId.A)
    owed = Owed(reason="rest", retry_at=r.now)
    r.put_leg(slot_id, replace(leg, state=Exiting(position=done, exit=owed)))
    # The part set off went straight to grid_profit; booking moves only what was unbooked.
    book_cycle(r, holding(r, slot_id, TradeId.A), PAIR_OFF, set_off_gross=cost - exit_part[0])
    if rest_volume > 0:
        rest = Position(
            volume=rest_volume,
            cost=position.open_cost - cost,
            fees=position.fees - done.fees,
            entered_at=position.entered_at,
            filled_at=position.filled_at,
            regime_at_entry=position.regime_at_entry,
        )
        leg = r.leg(slot_id, TradeId.A)
        r.put_leg(slot_id, replace(leg, state=Exiting(position=rest, exit=owed)))


def _close_b(
    r: Reduction, slot_id: int, position: Position, part: tuple[Decimal, Decimal, Decimal]
) -> None:
    """Take the part set off out of leg B: its purchase was the exit of leg A's cycle."""
    volume, cost, fees = part
    leg = r.leg(slot_id, TradeId.B)
    rest = replace(
        position,
        volume=position.volume - volume,
        cost=position.cost - cost,
        fees=position.fees - fees,
    )
    owed = Owed(reason="rest", retry_at=r.now)
    r.put_leg(slot_id, replace(leg, state=Exiting(position=rest, exit=owed)))
    if rest.open_volume > 0:
        return
    if rest.closed_volume > 0:
        book_cycle(r, holding(r, slot_id, TradeId.B), "partial")
    else:
        r.put_leg(slot_id, next_cycle(r, r.leg(slot_id, TradeId.B), is_loss=False))
