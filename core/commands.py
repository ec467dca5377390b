"""What an operator may ask for: one variant a command, with its bounds.

`parse` turns untrusted JSON into a command or raises CommandError naming the field. The reducer
decides whether a command is accepted. Where a command picks its targets itself, `expects` names
those that `confirm` is meant for, as the refusal told them.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from types import NoneType
from typing import Any, get_args

import msgspec

from core.domain import Audit, Listing, TradeId
from core.record import Record, replace


class CommandError(ValueError):
    """A command that cannot be read; `field` is the one at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Pause(Record, frozen=True, kw_only=True, tag="pause", tag_field="action"):
    """No new entries."""


class Resume(Record, frozen=True, kw_only=True, tag="resume", tag_field="action"):
    """Trade again."""


class Halt(Record, frozen=True, kw_only=True, tag="halt", tag_field="action"):
    """Nothing new but owed exits."""


class AddSlot(Record, frozen=True, kw_only=True, tag="add_slot", tag_field="action"):
    """One more slot, in the lowest free place."""


class RemoveSlot(Record, frozen=True, kw_only=True, tag="remove_slot", tag_field="action"):
    """Close a slot; one that holds a position needs `disposition` "keep_recoveries"."""

    slot: int
    disposition: str | None = None


class SetEntryPct(Record, frozen=True, kw_only=True, tag="set_entry_pct", tag_field="action"):
    """Entry distance in percent, for one slot or all."""

    value: Decimal
    slot: int | None = None


class SetProfitPct(Record, frozen=True, kw_only=True, tag="set_profit_pct", tag_field="action"):
    """Profit target in percent, for one slot or all."""

    value: Decimal
    slot: int | None = None


class SetOrderSize(Record, frozen=True, kw_only=True, tag="set_order_size", tag_field="action"):
    """Order size in quote, for one slot or all."""

    value: Decimal
    slot: int | None = None


class AddLayer(Record, frozen=True, kw_only=True, tag="add_layer", tag_field="action"):
    """Raise the target number of capital layers by one."""


class RemoveLayer(Record, frozen=True, kw_only=True, tag="remove_layer", tag_field="action"):
    """Lower the target number of capital layers by one."""


class SoftClose(Record, frozen=True, kw_only=True, tag="soft_close", tag_field="action"):
    """Re-price a recovery, or a parked exit when `leg` is given, near the market."""

    slot: int
    recovery: str | None = None
    leg: TradeId | None = None
    max_loss_pct: Decimal = Decimal(0)
    confirm: bool = False
    expects: str | None = None


class SoftCloseNext(Record, frozen=True, kw_only=True, tag="soft_close_next", tag_field="action"):
    """The same for the recovery nearest the market, over all slots."""

    max_loss_pct: Decimal = Decimal(0)
    confirm: bool = False
    expects: str | None = None


class PairOff(Record, frozen=True, kw_only=True, tag="pair_off", tag_field="action"):
    """Set an A and a B position of one slot against each other."""

    slot: int
    confirm: bool = False
    expects: str | None = None


class RecordFlow(Record, frozen=True, kw_only=True, tag="record_flow", tag_field="action"):
    """Book a deposit (positive) or withdrawal (negative) the bot could not see."""

    base: Decimal = Decimal(0)
    quote: Decimal = Decimal(0)
    note: str = ""


class ResetRiskPeak(Record, frozen=True, kw_only=True, tag="reset_risk_peak", tag_field="action"):
    """Measure drawdown from today's index on."""

    confirm: bool = False


class ResetDailyLock(Record, frozen=True, kw_only=True, tag="reset_daily_lock", tag_field="action"):
    """Clear the daily loss lock once its day is over or the limit was raised."""


class CancelStaleRecoveries(
    Record, frozen=True, kw_only=True, tag="cancel_stale_recoveries", tag_field="action"
):
    """Cancel recoveries older than `older_than_sec`; what they held becomes inventory."""

    older_than_sec: float
    confirm: bool = False
    expects: str | None = None


class Adopt(Record, frozen=True, kw_only=True, tag="adopt", tag_field="action"):
    """Take orders that a restored state has no place for: they end, what they did is booked.

    `order` is the exchange's id of one; None: all of them.
    """

    order: str | None = None
    confirm: bool = False


class Ignore(Record, frozen=True, kw_only=True, tag="ignore", tag_field="action"):
    """Leave such orders alone, as a stranger's."""

    order: str | None = None
    confirm: bool = False


class ResetOverride(Record, frozen=True, kw_only=True, tag="reset_override", tag_field="action"):
    """Back to the configured value."""

    name: str
    slot: int | None = None


class AuditPnl(Record, frozen=True, kw_only=True, tag="audit_pnl", tag_field="action"):
    """Compare ledger, cycles and balances; clears the reconciliation lock when they agree.

    The shell recomputes them from its store before the command is journaled.
    """

    audit: Audit | None = None


class ReconcileDrift(Record, frozen=True, kw_only=True, tag="reconcile_drift", tag_field="action"):
    """Set the open orders at the exchange against ours: lists first, then ends and asks.

    The shell fills the listing from its exchange before the command is journaled.
    """

    confirm: bool = False
    expects: str | None = None
    listing: Listing | None = None


class RetrainHmm(Record, frozen=True, kw_only=True, tag="retrain_hmm", tag_field="action"):
    """Train the regime models anew on the candles at hand."""


class AiRegimeOverride(
    Record, frozen=True, kw_only=True, tag="ai_regime_override", tag_field="action"
):
    """Put the advisor's newest opinion in the mechanical tier's place, for a limited time.

    With `opinion`, its number, only if that still is the newest.
    """

    ttl_sec: float | None = None
    opinion: int | None = None


class AiRegimeRevert(Record, frozen=True, kw_only=True, tag="ai_regime_revert", tag_field="action"):
    """End the override: back to the mechanical tier."""


class AiRegimeDismiss(
    Record, frozen=True, kw_only=True, tag="ai_regime_dismiss", tag_field="action"
):
    """Hide the disagreement until the next opinion."""


class AiCouncil(Record, frozen=True, kw_only=True, tag="ai_council", tag_field="action"):
    """Ask all panelists for a vote on one action; it is shown, nothing follows from it."""


Command = (
    Pause
    | Resume
    | Halt
    | AddSlot
    | RemoveSlot
    | SetEntryPct
    | SetProfitPct
    | SetOrderSize
    | AddLayer
    | RemoveLayer
    | SoftClose
    | SoftCloseNext
    | PairOff
    | RecordFlow
    | ResetRiskPeak
    | ResetDailyLock
    | CancelStaleRecoveries
    | Adopt
    | Ignore
    | ResetOverride
    | AuditPnl
    | ReconcileDrift
    | RetrainHmm
    | AiRegimeOverride
    | AiRegimeRevert
    | AiRegimeDismiss
    | AiCouncil
)

_VARIANTS: dict[str, type[Record]] = {
    str(variant.__struct_config__.tag): variant for variant in Command.__args__
}
ACTION_NAMES = tuple(sorted(_VARIANTS))
_SHELL_ONLY = {"audit", "listing"}
_MAX_ABS = Decimal(10**12)
_NOT_NEGATIVE = {"max_loss_pct", "older_than_sec"}
_POSITIVE = {"opinion", "slot", "value"}
_WHOLE_MAX = 10**9
EXPECTS_MAX = 12_000  # characters: the ids of two full lists of open orders, inside a request
_WHOLE = re.compile(r"-?\d{1,10}", re.ASCII)
_TARGETS = re.compile(rf"[A-Za-z0-9_,-]{{1,{EXPECTS_MAX}}}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def _fields(variant: type[Record]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the fields of a command that are the operator's to set."""
    return {f.name: f for f in msgspec.structs.fields(variant) if f.name not in _SHELL_ONLY}


def _number(field: str, value: object) -> Decimal:
    if isinstance(value, int) and abs(value) > _MAX_ABS:
        value = "1e99"  # longer ones may not even be written out
    text = str(value).strip() if isinstance(value, int | float | Decimal | str) else ""
    if isinstance(value, bool) or len(text) > 64 or not _NUMBER.fullmatch(text):
        raise CommandError(
            field, f"{field} must be a number with a point for decimals, such as 1250.5"
        )
    number = Decimal(text)
    if abs(number) > _MAX_ABS:
        raise CommandError(field, f"{field} must not be beyond ±{_MAX_ABS:f}")
    if int(number.as_tuple().exponent) < -12:
        raise CommandError(field, f"{field} may have at most 12 decimals")
    _check_sign(field, number)
    return number


def _check_sign(field: str, number: Decimal | int) -> None:
    if field in _POSITIVE and number <= 0:
        raise CommandError(field, f"{field} must be above 0")
    if field in _NOT_NEGATIVE and number < 0:
        raise CommandError(field, f"{field} must not be negative")


def _value(field: str, kind: Any, value: object) -> object:
    """Return `value` as `field` of type `kind` takes it. Raises CommandError."""
    wanted, *others = get_args(kind) or (kind,)
    if value is None and NoneType in others:
        return None
    if wanted is Decimal:
        return str(_number(field, value))
    if wanted is float:
        return float(_number(field, value))
    if wanted is int:
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _WHOLE_MAX:
            raise CommandError(field, f"{field} must be a whole number, such as 1")
        _check_sign(field, value)
    elif wanted is bool:
        if not isinstance(value, bool):
            raise CommandError(field, f"{field} must be true or false")
    elif not isinstance(value, str):
        raise CommandError(field, f"{field} must be text")
    elif field == "expects" and not _TARGETS.fullmatch(value):
        raise CommandError(field, f"{field} must be ids with commas between, as they were told")
    elif issubclass(wanted, StrEnum) and value not in list(wanted):
        raise CommandError(field, f"{field} must be one of: {', '.join(wanted)}")
    return value


def parse(body: Mapping[str, Any]) -> Command:
    """Return the command that the JSON object `body` asks for.

    Numbers may be JSON numbers or decimal text, whole ones JSON numbers only. Unknown
    fields are refused. Raises CommandError naming the field and saying what is allowed.
    """
    name = body.get("action")
    if not isinstance(name, str) or name not in _VARIANTS:
        raise CommandError("action", f"action must be one of: {', '.join(ACTION_NAMES)}")
    variant = _VARIANTS[name]
    fields = _fields(variant)
    values: dict[str, Any] = {"action": name}
    for key, value in body.items():
        if key == "action":
            continue
        if key not in fields:
            allowed = ", ".join(fields) or "none"
            raise CommandError(key, f"{name} has no field {key[:40]!r}; allowed: {allowed}")
        values[key] = _value(key, fields[key].type, value)
    for key, field in fields.items():
        if field.required and key not in values:
            raise CommandError(key, f"{name} needs {key}")
    try:
        command: Command = msgspec.convert(values, Command)
    except msgspec.ValidationError as error:
        text = str(error)
        at = text.rsplit("`$.", 1)[-1].rstrip("`") if "`$." in text else "action"
        raise CommandError(at, f"{at}: {text.split(' - at ', maxsplit=1)[0]}") from None
    return command


def usage() -> dict[str, str]:
    """Return per command its fields as a person would type them, optional ones in brackets."""
    return {
        name: " ".join(
            f"{f.name}={_kind(f.type)}" if f.required else f"[{f.name}={_kind(f.type)}]"
            for f in _fields(variant).values()
        )
        for name, variant in sorted(_VARIANTS.items())
    }


def _kind(kind: Any) -> str:
    wanted = (get_args(kind) or (kind,))[0]
    if issubclass(wanted, StrEnum):
        return "|".join(wanted)
    return {bool: "true", int: "N", str: "text"}.get(wanted, "number")


def parse_words(name: str, words: Mapping[str, str]) -> Command:
    """Return the command `name` with its fields as typed text: `slot=1`, `confirm=true`.

    As `parse`, which decides; only whole numbers and true or false are read from text before.
    Raises CommandError.
    """
    fields = _fields(_VARIANTS[name]) if name in _VARIANTS else {}
    body: dict[str, Any] = {"action": name}
    for key, text in words.items():
        if key == "action":
            raise CommandError(key, "action is no field: it is the first word")
        wanted = (get_args(fields[key].type) or (fields[key].type,))[0] if key in fields else str
        body[key] = text
        if wanted is int and _WHOLE.fullmatch(text):
            body[key] = int(text)
        elif wanted is bool and text.lower() in ("true", "false"):
            body[key] = text.lower() == "true"
    return parse(body)


def is_same(command: Command, journaled: str) -> bool:
    """Tell whether `command`, as asked for, is what was journaled as the JSON `journaled`."""
    try:
        known = msgspec.json.decode(journaled, type=Command)
    except msgspec.DecodeError:
        return False
    match known:
        case AuditPnl():
            return command == replace(known, audit=None)
        case ReconcileDrift():
            return command == replace(known, listing=None)
        case _:
            return bool(command == known)
