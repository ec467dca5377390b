"""What the books say when a holding ends: cycles, residuals, releases. All pure.

Called by the automaton (`leg.py`) and by the pair-off. A cycle is booked once, from executions;
what is left becomes a residual of its leg or, given up by the operator, inventory.
"""

from decimal import Decimal

from accounting import sign
from core.actions import BookCycleAction
from core.domain import ONE, ZERO, CycleRecord, Position, Residual, TradeId
from core.record import replace
from core.state import AntiChase, Idle, Leg, LegTotals
from grid.reduction import Duty, Found, Reduction
from grid.regimes import with_policy


def book_cycle(
    r: Reduction, found: Found, resolution: str, *, set_off_gross: Decimal = ZERO
) -> None:
    """Book the cycle for what was executed; a rest becomes the leg's residual.

    `set_off_gross` is the part of the gross that a pair-off has booked to the ledger already.
    """
    position, trade_id = r.position(found), found.trade_id
    is_recovery = found.duty is Duty.RECOVERY
    entry_fee = position.fees
    rest = position.open_volume
    if rest > 0:
        share = position.fees * position.closed_volume / position.volume
        entry_fee = share.quantize(ONE.scaleb(-r.state.instrument.fee_decimals))
    gross = sign(trade_id) * (position.exit_cost - position.closed_cost)
    fees = entry_fee + position.exit_fees
    record = CycleRecord(
        trade_id=trade_id,
        cycle=r.cycle(found),
        entry_price=position.closed_cost / position.closed_volume,
        exit_price=position.exit_cost / position.closed_volume,
        volume=position.closed_volume,
        gross_profit=gross,
        entry_fee=entry_fee,
        exit_fee=position.exit_fees,
        fees=fees,
        net_profit=gross - fees,
        entry_time=position.entered_at,
        exit_time=position.closed_at or r.now,
        from_recovery=is_recovery,
        regime_at_entry=position.regime_at_entry,
    )
    orphaned_at = r.recovery(found).orphaned_at if is_recovery else None
    unbooked = gross - set_off_gross
    r.post("cycle booked", unbooked=unbooked, grid_profit=-unbooked)
    if rest > 0:
        keep_residual(r, found, position, position.fees - entry_fee)
    _end_holding(r, found, is_loss=record.net_profit < 0)
    _count_cycle(r, found.slot_id, record)
    action = BookCycleAction(
        slot_id=found.slot_id, record=record, orphaned_at=orphaned_at, resolution=resolution
    )
    r.act(with_policy(r, action))


def keep_residual(r: Reduction, found: Found, position: Position, fees: Decimal) -> None:
    """Keep what is open of `position`, with that much of its fees, as a residual of its leg."""
    leg = r.leg(found.slot_id, found.trade_id)
    residual = Residual(
        volume=position.open_volume,
        cost=position.open_cost,
        fees=fees,
        regime_at_entry=position.regime_at_entry,
    )
    if (old := leg.residual) is not None:
        is_larger = old.volume > residual.volume
        residual = Residual(
            volume=residual.volume + old.volume,
            cost=residual.cost + old.cost,
            fees=residual.fees + old.fees,
            regime_at_entry=old.regime_at_entry if is_larger else residual.regime_at_entry,
        )
    r.put_leg(found.slot_id, replace(leg, residual=residual))
    cost = r.set_off(found.trade_id, position.open_cost)
    r.post("residual", positions=-cost, residuals=cost)


def _count_cycle(r: Reduction, slot_id: int, record: CycleRecord) -> None:
    slot = r.known_slot(slot_id)
    old = slot.totals
    is_loss = record.net_profit < 0
    totals = replace(
        old,
        cycles=old.cycles + 1,
        gross=old.gross + record.gross_profit,
        fees=old.fees + record.fees,
        net=old.net + record.net_profit,
        losses=old.losses + is_loss,
    )
    r.put_slot(replace(slot, totals=totals))
    r.count("cycles")
    r.count("losses" if is_loss else "wins")
    base, quote = r.state.instrument.base, r.state.instrument.quote
    r.notify(
        "info",
        "cycle",
        f"slot {slot_id} leg {record.trade_id} closed cycle {record.cycle}: {record.volume:f} "
        f"{base}, entry {record.entry_price:.7f}, exit {record.exit_price:.7f}, "
        f"net {record.net_profit:+.4f} {quote} after {record.fees:.4f} {quote} of fees",
    )


def _end_holding(r: Reduction, found: Found, *, is_loss: bool) -> None:
    if found.duty is Duty.RECOVERY:
        r.drop_recovery(found.slot_id, found.recovery_id or "")
        return
    leg = r.leg(found.slot_id, found.trade_id)
    r.put_leg(found.slot_id, next_cycle(r, leg, is_loss=is_loss))


def next_cycle(r: Reduction, leg: Leg, *, is_loss: bool) -> Leg:
    """Return the leg idle in its next cycle, with loss streak and rest applied."""
    streak = leg.loss_streak + 1 if is_loss else 0
    wait = r.params.reentry_cooldown_sec
    if is_loss and streak >= r.params.loss_streak_rest_at:
        wait = max(wait, r.params.loss_rest_sec)
    return replace(
        leg,
        state=Idle(since=r.now, resume_at=r.now + wait if wait else None),
        cycle=leg.cycle + 1,
        entry_attempts=0,
        loss_streak=streak,
        anti_chase=AntiChase(),
    )


def release(r: Reduction, found: Found) -> None:
    """Give up what a recovery still holds: it becomes inventory, at cost, without P&L."""
    position = r.position(found)
    if position.closed_volume > 0:
        volume, cost = position.open_volume, position.open_cost
        fees = position.fees * position.closed_volume / position.volume
        kept = replace(
            position,
            volume=position.closed_volume,
            cost=position.closed_cost,
            fees=fees.quantize(ONE.scaleb(-r.state.instrument.fee_decimals)),
        )
        r.put_holding(found, kept, found.order)
        write_off(r, found.slot_id, found.trade_id, volume=volume, cost=cost)
        book_cycle(r, found, "partial")
        return
    volume, cost = position.open_volume, position.open_cost
    write_off(r, found.slot_id, found.trade_id, volume=volume, cost=cost)
    r.drop_recovery(found.slot_id, found.recovery_id or "")
    r.notify(
        "warning",
        "released",
        f"slot {found.slot_id} leg {found.trade_id}: {position.open_volume:f} "
        f"{r.state.instrument.base} released to inventory",
    )


def write_off(
    r: Reduction,
    slot_id: int,
    trade_id: TradeId,
    *,
    volume: Decimal,
    cost: Decimal,
    account: str = "positions",
) -> None:
    """Move volume at cost from a leg to the inventory pool."""
    leg = r.leg(slot_id, trade_id)
    old: LegTotals = leg.totals
    totals = replace(
        old,
        written_off_volume=old.written_off_volume + volume,
        written_off_cost=old.written_off_cost + cost,
    )
    r.put_leg(slot_id, replace(leg, totals=totals))
    signed = r.set_off(trade_id, cost)
    r.post("released to inventory", **{account: -signed, "inventory": signed})
    r.move_inventory(sign(trade_id) * volume)


def leave(r: Reduction, slot_id: int, trade_id: TradeId, *, volume: Decimal, cost: Decimal) -> None:
    """Add to what the leg has exited in all."""
    leg = r.leg(slot_id, trade_id)
    totals = replace(
        leg.totals,
        exited_volume=leg.totals.exited_volume + volume,
        exited_cost=leg.totals.exited_cost + cost,
    )
    r.put_leg(slot_id, replace(leg, totals=totals))
