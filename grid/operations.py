"""Operator commands: each is accepted with its effect, or refused with the reason.

Called by the reducer with a Reduction; the reply is an action. Commands never bypass a rule: they
change intent, overrides and wishes, and the ordinary rules do the rest.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import assert_never

import core.commands as c
from accounting import sign
from core.actions import ReplyToOperator
from core.domain import (
    HUNDRED,
    ONE,
    ZERO,
    Audit,
    Listing,
    OrderState,
    OrderStatus,
    Owed,
    Position,
    RecoveryOrder,
    TradeId,
)
from core.events import CommandReceived, ExternalFlow
from core.order_id import LIMITS
from core.record import replace
from core.state import BotState, Exiting, Idle, Leg, LockName, Mode, Override, SlotState
from grid import advice, auditing, reconciling, regimes, restoring, watch
from grid.endings import orphan, request_cancel
from grid.pairing import begin_pairing, preview
from grid.reduction import Duty, Found, Reduction
from grid_strategy import OVERRIDABLE, break_even_pct, effective, exit_price, net_per_cycle_pct
from leg import holding, place_exit
from risk import daily_loss, daily_loss_limit, slots_max

ENTRY_PCT_RANGE = (Decimal("0.05"), Decimal(20))
PROFIT_PCT_MAX = Decimal(50)
LAYERS_MAX = 100
FLOW_MAX = 10**8
FLOW_STEP = Decimal("1e-8")
LISTED_MAX = 5  # orders told in a sentence; the reply lists them all


class _Refusal(Exception):
    """The command is refused; the text says why, `targets` what a confirmation would be for."""

    field = ""  # the command itself is well formed

    def __init__(self, why: str, targets: str = "") -> None:
        super().__init__(why)
        self.targets = targets


def carry_out(r: Reduction, event: CommandReceived) -> None:
    """Carry out a command, or refuse it; either way with one reply."""
    before = r.state
    count = len(r.actions)
    field = ""
    told = list(_found(before, event.command))
    try:
        message = _dispatch(r, event.command)
        is_accepted = True
    except (_Refusal, advice.RailError) as refusal:
        r.state = before
        del r.actions[count:]
        message, is_accepted, field = str(refusal), False, refusal.field
        if isinstance(refusal, _Refusal) and refusal.targets:
            told.insert(0, ("expects", refusal.targets))
    r.act(
        ReplyToOperator(
            command_id=event.command_id,
            is_accepted=is_accepted,
            message=message,
            field=field,
            changed=(*_changed(before, r.state), *told),
        )
    )
    if is_accepted:
        r.update(pass_due=r.now)
        is_halt = isinstance(event.command, c.Halt)
        r.notify("warning" if is_halt else "info", "halt" if is_halt else "command", message)


def _changed(before: BotState, after: BotState) -> tuple[tuple[str, str], ...]:
    """Return the names and new values of what a command has changed: overrides and the mode."""
    changed = [("mode", after.mode.value)] if after.mode is not before.mode else []
    for override in after.overrides:
        if override not in before.overrides:
            where = "" if override.slot_id is None else f" of slot {override.slot_id}"
            changed.append((OVERRIDABLE[override.name] + where, f"{override.value:f}"))
    kept = {(o.name, o.slot_id) for o in after.overrides}
    for override in before.overrides:
        if (override.name, override.slot_id) not in kept:
            where = "" if override.slot_id is None else f" of slot {override.slot_id}"
            changed.append((OVERRIDABLE[override.name] + where, "as configured"))
    return tuple(changed)


def _found(before: BotState, command: c.Command) -> Iterable[tuple[str, str]]:
    """Return what the shell has found out for a command: told where that is refused, too.

    Of `reconcile_drift` the orders that it is about, of `audit_pnl` the figures.
    """
    match command:
        case c.ReconcileDrift(listing=Listing() as listing):
            return reconciling.differences(reconciling.compare(before, listing))
        case c.AuditPnl(audit=Audit() as audit):
            return auditing.figures(audit)
        case _:
            return ()


def _dispatch(r: Reduction, command: c.Command) -> str:
    match command:
        case c.Pause() | c.Resume() | c.Halt():
            return _mode(r, command)
        case c.AddSlot():
            return _add_slot(r)
        case c.RemoveSlot():
            return _remove_slot(r, command)
        case c.SetEntryPct() | c.SetProfitPct() | c.SetOrderSize():
            return _set_value(r, command)
        case c.AddLayer():
            return _layers(r, 1)
        case c.RemoveLayer():
            return _layers(r, -1)
        case c.SoftClose() | c.SoftCloseNext():
            return _soft_close(r, command)
        case c.PairOff():
            return _pair_off(r, command)
        case c.RecordFlow():
            return _flow(r, command)
        case c.ResetRiskPeak():
            _confirmed(command.confirm, "measures drawdown from the present index on")
            watch.reset_peak(r, "reset by the operator")
            return "risk peak reset"
        case c.ResetDailyLock():
            return _reset_daily_lock(r)
        case c.CancelStaleRecoveries():
            return _cancel_stale(r, command)
        case c.Adopt() | c.Ignore():
            return _resolve(r, command)
        case c.ResetOverride():
            return _reset_override(r, command)
        case c.AuditPnl():
            return _audit(r, command)
        case c.ReconcileDrift():
            return _reconcile(r, command)
        case c.RetrainHmm():
            return _retrain(r)
        case c.AiRegimeOverride():
            return advice.apply(r, command)
        case c.AiRegimeRevert():
            return advice.revert(r)
        case c.AiRegimeDismiss():
            return advice.dismiss(r)
        case c.AiCouncil():
            return advice.ask_council(r)
        case _:
            assert_never(command)


def _confirmed(confirm: bool, effect: str, expects: str | None = None, *targets: str) -> None:
    """Refuse what is not confirmed, or was confirmed for others than `targets`, with its effect."""
    present = ",".join(sorted(targets))
    if expects not in (None, present):
        raise _Refusal(f"needs confirm: the target is another now: {effect}", present)
    if not confirm:
        raise _Refusal(f"needs confirm: {effect}", present)


def _resolve(r: Reduction, command: c.Adopt | c.Ignore) -> str:
    is_adopted = isinstance(command, c.Adopt)
    effect = (
        "ends these orders and books what they have executed as inventory"
        if is_adopted
        else "leaves these orders alone; what they do to the balances will show as a difference"
    )
    restored = r.state.restoring
    if restored is None:
        raise _Refusal(
            "no start waits for this: it is for orders a restored state has no place for"
        )
    if not restored.is_told:
        raise _Refusal("what happened since the restored state is still being read")
    _confirmed(command.confirm, effect)
    count = restoring.resolve(r, command)
    if count is None:
        known = ", ".join(x.txid for x in restored.unbound)
        raise _Refusal(f"no order {command.order} waits; these do: {known}")
    return f"{count} {'adopted' if is_adopted else 'ignored'}"


def _mode(r: Reduction, command: c.Pause | c.Resume | c.Halt) -> str:
    wanted, text = {
        c.Pause: (Mode.PAUSED, "paused: no new entries; exits and fills go on"),
        c.Resume: (Mode.RUNNING, "resumed"),
        c.Halt: (Mode.HALTED, "halted: nothing new but owed exits"),
    }[type(command)]
    if wanted is r.state.mode and not (wanted is Mode.RUNNING and _clearable(r)):
        raise _Refusal(f"the bot is {wanted} already")
    if wanted is Mode.RUNNING:
        for name in _clearable(r):
            watch.clear_lock(r, name, "resumed by the operator")
    r.update(mode=wanted, mode_since=r.now, mode_reason="operator")
    r.transition("mode", wanted, "operator")
    return text


def _clearable(r: Reduction) -> list[LockName]:
    """Return the locks that hold and that the operator's resume clears."""
    names = [LockName.API_ERRORS, LockName.SAFETY]
    if _is_day_over(r):
        names.append(LockName.DAILY_LOSS)
    return [lock.name for lock in r.state.risk.locks if lock.name in names]


def _is_day_over(r: Reduction) -> bool:
    """Tell whether the daily loss lock holds since an earlier day and not for today's loss."""
    held = [x for x in r.state.risk.locks if x.name is LockName.DAILY_LOSS]
    limit = daily_loss_limit(r.state, r.params)
    is_lost = limit is not None and daily_loss(r.state, r.params) > limit
    return bool(held) and held[0].since // watch.DAY_SEC < r.now // watch.DAY_SEC and not is_lost


def new_slot(r: Reduction) -> SlotState:
    """Return a fresh slot in the lowest free place and add it to the state."""
    taken = {slot.place for slot in r.state.slots}
    place = next(n for n in range(len(taken) + 1) if n not in taken)
    pool = r.params.slot_aliases
    used = {slot.alias for slot in r.state.slots}
    slot_id = r.state.next_slot_id
    alias = next((name for name in pool if name not in used), f"slot {slot_id}")
    legs = (
        Leg(trade_id=TradeId.A, state=Idle(since=r.now)),
        Leg(trade_id=TradeId.B, state=Idle(since=r.now)),
    )
    slot = SlotState(slot_id=slot_id, place=place, alias=alias, legs=legs)
    r.update(slots=(*r.state.slots, slot), next_slot_id=slot_id + 1)
    return slot


def _add_slot(r: Reduction) -> str:
    most = slots_max(r.params)
    if len(r.state.slots) >= most:
        raise _Refusal(
            f"{len(r.state.slots)} slots; an open-order limit of {r.params.open_order_limit} "
            f"carries at most {most}"
        )
    if r.state.next_slot_id >= LIMITS["slot"]:
        raise _Refusal("all slot numbers are used up")
    slot = new_slot(r)
    name = f"slot {slot.slot_id}"
    return f"{name} added" if slot.alias == name else f"{name} ({slot.alias}) added"


def _slot(r: Reduction, slot_id: int) -> SlotState:
    slot = r.slot(slot_id)
    if slot is None:
        known = ", ".join(str(s.slot_id) for s in r.state.slots) or "none"
        raise _Refusal(f"there is no slot {slot_id}; slots: {known}")
    return slot


def _remove_slot(r: Reduction, command: c.RemoveSlot) -> str:
    slot = _slot(r, command.slot)
    if slot.closing:
        raise _Refusal(f"slot {slot.slot_id} is closing already")
    if slot.pairing:
        raise _Refusal(f"slot {slot.slot_id} is being paired off")
    holds = [leg for leg in slot.legs if isinstance(leg.state, Exiting)]
    if command.disposition not in (None, "keep_recoveries"):
        raise _Refusal('disposition must be "keep_recoveries"')
    if (holds or slot.recovery_orders) and command.disposition is None:
        raise _Refusal(
            f'slot {slot.slot_id} holds a position; say disposition "keep_recoveries" to leave '
            "its exits on the book until they fill"
        )
    for leg in holds:
        orphan(r, slot.slot_id, leg.trade_id, "slot removed", is_loss=False)
    r.put_slot(replace(r.known_slot(slot.slot_id), closing=True))
    return f"slot {slot.slot_id} is closing"


def _set_value(r: Reduction, command: c.SetEntryPct | c.SetProfitPct | c.SetOrderSize) -> str:
    name = {
        c.SetEntryPct: "entry_pct",
        c.SetProfitPct: "profit_pct",
        c.SetOrderSize: "order_size_usd",
    }[type(command)]
    if command.slot is not None:
        _slot(r, command.slot)
    value = command.value
    text = f"{OVERRIDABLE[name]} {value}"
    match command:
        case c.SetEntryPct():
            low, high = ENTRY_PCT_RANGE
            if not low <= value <= high:
                raise _Refusal(f"entry distance must be from {low} to {high} percent")
            round_trip = break_even_pct(r.state.fees.maker)
            if 2 * value < round_trip:
                text += f"; in S2 two entries earn less than a round trip of {round_trip:.3f} %"
        case c.SetProfitPct():
            least = break_even_pct(r.state.fees.maker) + r.params.min_net_profit_pct
            if value < least or value > PROFIT_PCT_MAX:
                raise _Refusal(
                    f"profit target must be from {least:.3f} (break-even plus margin) to "
                    f"{PROFIT_PCT_MAX} percent"
                )
            text += f"; nets {net_per_cycle_pct(value, r.state.fees.maker):.3f} % a cycle"
        case c.SetOrderSize():
            least = _least_usd(r)
            if not least <= value <= r.params.max_order_usd:
                raise _Refusal(
                    f"order size must be from {least:.2f} (the exchange's minimum) to "
                    f"{r.params.max_order_usd} USD"
                )
    _override(r, name, value, command.slot)
    where = "all slots" if command.slot is None else f"slot {command.slot}"
    return f"{text} for {where}"


def _least_usd(r: Reduction) -> Decimal:
    market = r.state.market
    if market is None:
        return r.state.instrument.cost_min
    return r.state.instrument.least_volume(market.bid) * market.ask


def _override(r: Reduction, name: str, value: Decimal, slot_id: int | None) -> None:
    kept = [o for o in r.state.overrides if not (o.name == name and o.slot_id == slot_id)]
    kept.append(Override(name=name, value=value, at=r.now, slot_id=slot_id))
    # Bot-wide overrides first, so that those of a slot win.
    kept.sort(key=lambda o: (o.slot_id is not None, o.slot_id or 0, o.name))
    r.update(overrides=tuple(kept))


def _layers(r: Reduction, step: int) -> str:
    wanted = effective(r.params, r.state, None).layers_target + step
    if not 0 <= wanted <= LAYERS_MAX:
        raise _Refusal(f"layers must be from 0 to {LAYERS_MAX}")
    _override(r, "layers_target", Decimal(wanted), None)
    return f"capital layers target {wanted}"


def _reset_override(r: Reduction, command: c.ResetOverride) -> str:
    names = {**{v: k for k, v in OVERRIDABLE.items()}, **{k: k for k in OVERRIDABLE}}
    name = names.get(command.name)
    if name is None:
        raise _Refusal(f"name must be one of: {', '.join(OVERRIDABLE.values())}")
    kept = tuple(o for o in r.state.overrides if not (o.name == name and o.slot_id == command.slot))
    if len(kept) == len(r.state.overrides):
        raise _Refusal(f"{OVERRIDABLE[name]} is not overridden there")
    r.update(overrides=kept)
    return f"{OVERRIDABLE[name]} is back to the configuration"


# ---- closing positions by hand ------------------------------------------------------------------


def _soft_close(r: Reduction, command: c.SoftClose | c.SoftCloseNext) -> str:
    market = r.state.market
    if market is None:
        raise _Refusal("there is no price yet")
    found, position, exit_ = _target(r, command)
    target = found.recovery_id or _position_id(r.known_slot(found.slot_id), found.trade_id)
    if found.duty is Duty.EXIT and r.known_slot(found.slot_id).pairing:
        raise _Refusal("the slot is being paired off")
    way = sign(found.trade_id)
    average = position.average_price
    try:
        near = exit_price(
            r.state.instrument,
            replace(position, soft_limit=ZERO if way > 0 else average * HUNDRED),
            found.trade_id,
            market,
            profit_pct=ZERO,
            entry_pct=ZERO,
        )
    except ValueError:
        raise _Refusal(f"there is no price near {market.bid:f} / {market.ask:f}") from None
    volume = position.open_volume
    fees = position.fees * volume / position.volume + near * volume * r.state.fees.maker
    net = way * (near * volume - position.open_cost) - fees
    loss_pct = max(ZERO, -net) / position.open_cost * HUNDRED
    where = f"leg {found.trade_id}" if found.recovery_id is None else f"recovery {target}"
    outcome = (
        f"slot {found.slot_id} {where}: {volume:f} {r.state.instrument.base} near {near}, "
        f"expected {net:+.4f} USD"
    )
    if loss_pct > command.max_loss_pct:
        raise _Refusal(
            f"{outcome}: a loss of {loss_pct:.2f} %, above the {command.max_loss_pct} % you allow "
            "(max_loss_pct)"
        )
    _confirmed(command.confirm, outcome, command.expects, target)
    slack = command.max_loss_pct / HUNDRED
    limit = average * (ONE - slack if way > 0 else ONE + slack)
    limit = min(limit, near) if way > 0 else max(limit, near)
    r.put_holding(found, replace(position, soft_limit=limit, is_repricing=True), exit_)
    if isinstance(exit_, Owed):
        place_exit(r, found.slot_id, found.trade_id, found.recovery_id)
    elif exit_.status is OrderStatus.OPEN:
        request_cancel(r, found, "soft_close")  # else upkeep does, once it is known to rest
    return f"soft close: {outcome}"


def _position_id(slot: SlotState, trade_id: TradeId) -> str:
    """Return what names the position of a leg, this cycle's alone, as a recovery's id does."""
    return f"{slot.slot_id}-{trade_id}-{slot.leg(trade_id).cycle}"


def _target(
    r: Reduction, command: c.SoftClose | c.SoftCloseNext
) -> tuple[Found, Position, OrderState | Owed]:
    if isinstance(command, c.SoftClose):
        slot = _slot(r, command.slot)
        if command.recovery is None and command.leg is not None:
            leg = slot.leg(command.leg)
            if not isinstance(leg.state, Exiting):
                raise _Refusal(f"slot {slot.slot_id} leg {command.leg} holds no position")
            return _holder(r, slot.slot_id, command.leg, leg.state)
        for recovery in slot.recovery_orders:
            if recovery.recovery_id == command.recovery:
                return _holder(r, slot.slot_id, recovery.trade_id, recovery, recovery.recovery_id)
        known = ", ".join(x.recovery_id for x in slot.recovery_orders) or "none"
        raise _Refusal(f"slot {slot.slot_id} has no such recovery; recoveries: {known}")
    near: list[tuple[Decimal, str, tuple[Found, Position, OrderState | Owed]]] = []
    mark = r.state.market.bid if r.state.market else ZERO
    for slot in r.state.slots:
        for x in slot.recovery_orders:
            price = x.exit.price if isinstance(x.exit, OrderState) else x.position.average_price
            holder = _holder(r, slot.slot_id, x.trade_id, x, x.recovery_id)
            near.append((abs(price - mark), x.recovery_id, holder))
    if not near:
        raise _Refusal("there is no recovery")
    return min(near, key=lambda item: item[:2])[2]


def _holder(
    r: Reduction,
    slot_id: int,
    trade_id: TradeId,
    holder: Exiting | RecoveryOrder,
    recovery_id: str | None = None,
) -> tuple[Found, Position, OrderState | Owed]:
    found = holding(r, slot_id, trade_id, recovery_id)
    if isinstance(holder.exit, OrderState):
        found = replace(found, order=holder.exit)
    return found, holder.position, holder.exit


def _pair_off(r: Reduction, command: c.PairOff) -> str:
    slot = _slot(r, command.slot)
    if slot.pairing:
        raise _Refusal(f"slot {slot.slot_id} is being paired off already")
    offer = preview(r, slot)
    if offer is None:
        raise _Refusal(f"slot {slot.slot_id} does not hold a position on both legs")
    outcome = (
        f"slot {slot.slot_id} legs A and B: {offer.volume:f} {r.state.instrument.base} sold at "
        f"{offer.sold_at:.7f}, bought at {offer.bought_at:.7f}, net {offer.net:+.4f} USD after fees"
    )
    both = [_position_id(slot, leg.trade_id) for leg in slot.legs]
    _confirmed(command.confirm, outcome, command.expects, *both)
    begin_pairing(r, slot.slot_id)
    return f"pairing off {outcome}"


def _cancel_stale(r: Reduction, command: c.CancelStaleRecoveries) -> str:
    stale = [
        (slot, recovery)
        for slot in r.state.slots
        for recovery in slot.recovery_orders
        if r.now - recovery.orphaned_at >= command.older_than_sec
    ]
    if not stale:
        raise _Refusal("no recovery is that old")
    listed = "; ".join(
        f"{x.recovery_id}: {x.position.open_volume:f} {r.state.instrument.base} at "
        f"{x.position.average_price:.7f}"
        for _, x in stale
    )
    effect = f"becomes inventory without P&L: {listed}"
    _confirmed(command.confirm, effect, command.expects, *(x.recovery_id for _, x in stale))
    for slot, recovery in stale:
        r.put_recovery(slot.slot_id, replace(recovery, releasing=True))
        found, _, exit_ = _holder(
            r, slot.slot_id, recovery.trade_id, recovery, recovery.recovery_id
        )
        if isinstance(exit_, Owed):
            place_exit(r, slot.slot_id, recovery.trade_id, recovery.recovery_id)
        elif exit_.status is OrderStatus.OPEN:
            request_cancel(r, found, "released by the operator")
    return f"cancelling {len(stale)}: {listed}"


# ---- money --------------------------------------------------------------------------------------


def _flow(r: Reduction, command: c.RecordFlow) -> str:
    if not command.base and not command.quote:
        raise _Refusal("base or quote must be other than 0")
    own = r.state.balances
    for name, amount, ours, theirs in (
        ("base", command.base, own.base, own.reported_base),
        ("quote", command.quote, own.quote, own.reported_quote),
    ):
        if abs(amount) > FLOW_MAX or amount != amount.quantize(FLOW_STEP):
            raise _Refusal(f"{name} may be up to {FLOW_MAX:,} in size, with at most 8 decimals")
        if ours + amount < 0:
            raise _Refusal(f"more {name} than we own ({ours:f})")
        if amount and abs(theirs - ours - amount) >= abs(theirs - ours):
            raise _Refusal(
                f"the exchange reports {theirs - ours:+f} {name} against our books; a flow of "
                f"{amount:+f} does not explain it"
            )
    if len(command.note) > 200:
        raise _Refusal("note may have at most 200 characters")
    flow = ExternalFlow(
        time=r.now, base=command.base, quote=command.quote, reference=command.note or "operator"
    )
    watch.external_flow(r, flow)
    return f"flow of {command.base:+f} base, {command.quote:+f} quote recorded"


def _reset_daily_lock(r: Reduction) -> str:
    held = next((x for x in r.state.risk.locks if x.name is LockName.DAILY_LOSS), None)
    if held is None:
        raise _Refusal("the daily loss lock does not hold")
    if not _is_day_over(r):
        loss, limit = daily_loss(r.state, r.params), daily_loss_limit(r.state, r.params) or ZERO
        raise _Refusal(
            f"{loss:.2f} USD down today, the limit is {limit:.2f}: the lock holds until UTC "
            "midnight, or until a restart with a higher DAILY_LOSS_LIMIT_USD"
        )
    watch.clear_lock(r, LockName.DAILY_LOSS, "reset by the operator")
    return "daily loss lock cleared"


def _audit(r: Reduction, command: c.AuditPnl) -> str:
    audit = command.audit
    if audit is None:
        raise _Refusal("the audit needs the store; send it through the daemon")
    own = r.state.balances
    base, quote = own.reported_base - own.base, own.reported_quote - own.quote
    text = auditing.in_words(audit) + "; the exchange's balances "
    if base == 0 and quote == 0:
        text += "agree with the books"
    else:
        text += f"differ from the books by {base:+f} base and {quote:+f} quote"
    if audit.agrees and not watch.is_drifting(r):
        watch.clear_lock(r, LockName.RECONCILIATION, "audited by the operator")
    elif any(lock.name is LockName.RECONCILIATION for lock in r.state.risk.locks):
        text += "; the lock stays until all agree: a deposit or withdrawal is told by record_flow"
    return text


def _reconcile(r: Reduction, command: c.ReconcileDrift) -> str:
    listing = command.listing
    if listing is None:
        raise _Refusal("the exchange has not listed its open orders yet; ask again")
    if r.state.restoring is not None:
        raise _Refusal("a restored state is still learning what happened; adopt and ignore decide")
    drift = reconciling.compare(r.state, listing)
    seen = f"{drift.alike} of our orders rest there as in the books"
    if drift.others:
        seen += f", {drift.others} of others are left alone"
    seen += f" (listed {max(0.0, r.now - listing.at):.0f} s ago)"
    listed = [f"{name}: {text}" for name, text in reconciling.differences(drift)]
    if not listed:
        return f"nothing to reconcile: {seen}"
    if len(listed) > LISTED_MAX:
        listed[LISTED_MAX:] = [f"and {len(listed) - LISTED_MAX} more"]
    outcome = f"{'; '.join(listed)}; {seen}"
    _confirmed(command.confirm, outcome, command.expects, *reconciling.targets(drift))
    reconciling.settle(r, drift)
    return f"reconciling: {outcome}"


def _retrain(r: Reduction) -> str:
    obstacle = regimes.retrain_obstacle(r)
    if obstacle is not None:
        raise _Refusal(obstacle)
    return regimes.retrain(r)
