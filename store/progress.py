"""What has become of a command that was accepted: what it still waits for, and its orders.

Read from what is committed: the state, the journal row of the command, the orders. Nothing is kept
for it, so nothing can disagree. What accepts commands is `grid/operations.py`.
"""

from collections.abc import Callable, Iterator
from typing import Any, assert_never

import msgspec

import core.commands as c
from core.actions import Action, CancelOrderAction, PlaceOrderAction, ReplyToOperator
from core.params import Params, PausePolicy
from core.state import BotState, Entering, Exiting, Idle, Mode, SlotState
from store import codec

Rows = Callable[[str, tuple[Any, ...]], list[dict[str, Any]]]
_ORDER = "client_order_id, role, side, price, volume, status, detail, placed_at, closed_at"
# The order that was touched, and those that took its place since.
_ORDERS = (
    f"SELECT {_ORDER} FROM orders WHERE (slot_id, trade_id, cycle) IN (SELECT slot_id, trade_id, "
    "cycle FROM orders WHERE client_order_id IN ({})) AND (placed_at >= ? OR client_order_id IN "
    "({})) AND role <> 'entry' ORDER BY placed_at"
)


def followed(rows: Rows, reply: dict[str, Any]) -> dict[str, Any]:
    """Return a reply with what has followed from the command. Raises StoreError.

    `waits_for`: in words, what is not done yet, by the state as committed last; `is_done`: there is
    no such thing. A refused command is done. `orders`: those that the command's own step withdrew
    or placed, and exits that took their place, oldest first; None once the journal row is pruned.
    """
    reply = dict(reply)
    seq, at = reply.pop("seq"), reply["time"]
    command = msgspec.json.decode(reply["command"], type=c.Command)
    waits: list[str] = []
    found = rows("SELECT seq, state, params FROM state", ())
    if found and reply["is_accepted"]:
        where = f"at {found[0]['seq']}"
        state = codec.decode_state(found[0]["state"], f"the state {where}")
        params = codec.decode_params(found[0]["params"], f"the parameters {where}")
        waits = list(_waits_for(command, at, state))
        if isinstance(command, c.Pause | c.Halt) and _withdraws(state, params):
            waits = [text for slot in state.slots for text in _withdrawing(slot)]
    return {
        **reply,
        "is_accepted": bool(reply["is_accepted"]),
        "is_done": not waits,
        "waits_for": waits,
        "orders": _orders(rows, seq, at),
    }


def answered(rows: Rows, seq: int) -> dict[str, Any]:
    """Return what the reply of a step has beside its words: `changed` and `field`.

    Of a journal row that is pruned nothing is known: both are empty.
    """
    replies = [x for x in _actions(rows, seq) or () if isinstance(x, ReplyToOperator)]
    reply = replies[0] if replies else ReplyToOperator(command_id="", is_accepted=True, message="")
    return {"changed": dict(reply.changed), "field": reply.field}


def _actions(rows: Rows, seq: int) -> tuple[Action, ...] | None:
    found = rows("SELECT actions FROM journal WHERE seq = ?", (seq,))
    where = f"the actions of journal row {seq}"
    return codec.decode_actions(found[0]["actions"], where) if found else None


def _orders(rows: Rows, seq: int, at: float) -> list[dict[str, Any]] | None:
    actions = _actions(rows, seq)
    if actions is None:
        return None
    ids: list[str] = []
    for action in actions:
        if isinstance(action, CancelOrderAction):
            ids.append(action.client_order_id)
        elif isinstance(action, PlaceOrderAction):
            ids.append(action.order.client_order_id)
    marks = ", ".join("?" * len(ids))
    return rows(_ORDERS.format(marks, marks), (*ids, at, *ids)) if ids else []


def _waits_for(command: c.Command, at: float, state: BotState) -> Iterator[str]:
    """Yield what an accepted command still waits for, in words."""
    match command:
        case c.SoftClose():
            yield from _repricing(state, command.slot, command.leg, command.recovery)
        case c.SoftCloseNext():
            for slot in state.slots:
                for recovery in slot.recovery_orders:
                    yield from _repricing(state, slot.slot_id, None, recovery.recovery_id)
        case c.RemoveSlot():
            for slot in _slots(state, command.slot):
                yield from _closing(slot)
        case c.PairOff():
            if any(slot.pairing for slot in _slots(state, command.slot)):
                yield f"slot {command.slot}: its exits to be withdrawn, then both are set off"
        case c.CancelStaleRecoveries():
            for slot in state.slots:
                for recovery in slot.recovery_orders:
                    if at - recovery.orphaned_at >= command.older_than_sec:
                        yield f"slot {slot.slot_id}: recovery {recovery.recovery_id} to be released"
        case c.Adopt():
            for ghost in state.ghosts:
                if ghost.found_at == at and command.order in (None, ghost.txid):
                    yield f"order {ghost.txid} to end, and what it executed to be booked"
        case c.ReconcileDrift():
            for ghost in state.ghosts:
                if ghost.found_at == at:
                    yield f"order {ghost.txid} to end, and what it executed to be booked"
        case c.RetrainHmm():
            for training in state.regimes.trainings:
                if training.requested_at == at:
                    yield f"the model of {training.interval_sec / 60:g} min to be trained"
        case (
            c.Pause() | c.Resume() | c.Halt() | c.AddSlot() | c.SetEntryPct() | c.SetProfitPct()
            | c.SetOrderSize() | c.AddLayer() | c.RemoveLayer() | c.RecordFlow()
            | c.ResetRiskPeak() | c.ResetDailyLock() | c.Ignore() | c.ResetOverride()
            | c.AuditPnl() | c.AiRegimeOverride() | c.AiRegimeRevert() | c.AiRegimeDismiss()
            | c.AiCouncil()
        ):  # fmt: skip
            pass
        case _:
            assert_never(command)


def _slots(state: BotState, slot_id: int) -> Iterator[SlotState]:
    return (slot for slot in state.slots if slot.slot_id == slot_id)


def _repricing(
    state: BotState, slot_id: int, leg: str | None, recovery_id: str | None
) -> Iterator[str]:
    """Yield that an exit is being withdrawn and placed anew."""
    for slot in _slots(state, slot_id):
        for own in slot.legs:
            is_meant = recovery_id is None and own.trade_id == leg
            if is_meant and isinstance(own.state, Exiting) and own.state.position.is_repricing:
                yield f"slot {slot_id} leg {leg}: its exit to be withdrawn and placed anew"
        for x in slot.recovery_orders:
            if x.recovery_id == recovery_id and x.position.is_repricing:
                yield f"slot {slot_id}: recovery {recovery_id} to be withdrawn and placed anew"


def _withdraws(state: BotState, params: Params) -> bool:
    is_withdrawn = params.pause_policy is PausePolicy.WITHDRAW
    return state.mode is Mode.HALTED or (state.mode is Mode.PAUSED and is_withdrawn)


def _withdrawing(slot: SlotState) -> Iterator[str]:
    """Yield the entries that are not withdrawn yet."""
    for leg in slot.legs:
        if isinstance(leg.state, Entering):
            yield f"slot {slot.slot_id} leg {leg.trade_id}: its entry to be withdrawn"


def _closing(slot: SlotState) -> Iterator[str]:
    """Yield what keeps a closing slot."""
    for leg in slot.legs:
        if not isinstance(leg.state, Idle):
            what = "exit to fill" if isinstance(leg.state, Exiting) else "entry to be withdrawn"
            yield f"slot {slot.slot_id} leg {leg.trade_id}: its {what}"
    for recovery in slot.recovery_orders:
        yield f"slot {slot.slot_id}: recovery {recovery.recovery_id} to fill"
    if all(isinstance(leg.state, Idle) for leg in slot.legs) and not slot.recovery_orders:
        yield f"slot {slot.slot_id} to be closed"
