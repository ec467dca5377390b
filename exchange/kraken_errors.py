"""What Kraken's error strings call for: a table, and total functions that apply it.

Pure. A string that is not in the table never proves anything: it is UNKNOWN. The table of
`docs/KRAKEN.md` is generated from `ROWS`; the table grows by review, never by guess.
"""

import re
from collections.abc import Mapping, Sequence
from functools import reduce

from core.domain import RejectReason
from core.record import Record, replace
from exchange.kraken_records import (
    Answer,
    Judgement,
    OrderView,
    Purpose,
    Trouble,
    Verdict,
)

BACKOFF_SEC, RATE_PAUSE_SEC, ADDRESS_PAUSE_SEC = 5.0, 15.0, 60.0
MODE_PAUSE_SEC, KEY_PAUSE_SEC, LOCKOUT_SEC = 30.0, 60.0, 900.0
TABLE_BEGIN, TABLE_END = "<!-- error table: generated -->", "<!-- end of error table -->"
_THROTTLED = re.compile(r"eservice:throttled:([0-9]{1,11})")
# Details of "Invalid arguments" that may speak of an order that is there already.
_EXISTENCE = ("cl_ord_id", "unique", "duplicate", "exist", "already")


class ErrorRow(Record, frozen=True, kw_only=True):
    """One error string: the verdict for each purpose, and what else it says."""

    text: str
    place: Verdict
    cancel: Verdict
    read: Verdict
    takes_detail: bool = False  # `text:anything` is the same error
    reason: RejectReason = RejectReason.OTHER
    trouble: Trouble = Trouble.NONE
    pause_sec: float = 0.0
    advice: str = ""

    def verdict(self, purpose: Purpose) -> Verdict:
        """Return the verdict for `purpose`."""
        return {
            Purpose.PLACE: self.place,
            Purpose.CANCEL: self.cancel,
            Purpose.READ: self.read,
        }[purpose]


def _halts(text: str, advice: str, *, takes_detail: bool = False) -> ErrorRow:
    return ErrorRow(
        text=text,
        place=Verdict.HALT,
        cancel=Verdict.HALT,
        read=Verdict.HALT,
        takes_detail=takes_detail,
        trouble=Trouble.KEY,
        pause_sec=KEY_PAUSE_SEC,
        advice=advice,
    )


def _passes(
    text: str, trouble: Trouble, pause_sec: float, advice: str, *, takes_detail: bool = False
) -> ErrorRow:
    """Return a row for trouble that passes: a read is repeated, an order's outcome is unknown."""
    return ErrorRow(
        text=text,
        place=Verdict.UNKNOWN,
        cancel=Verdict.UNKNOWN,
        read=Verdict.RETRY,
        takes_detail=takes_detail,
        trouble=trouble,
        pause_sec=pause_sec,
        advice=advice,
    )


def _rejects(
    text: str,
    advice: str,
    reason: RejectReason = RejectReason.OTHER,
    *,
    takes_detail: bool = False,
    trouble: Trouble = Trouble.NONE,
    pause_sec: float = 0.0,
) -> ErrorRow:
    """Return a row for a definite refusal of an order; it proves nothing for a cancel."""
    return ErrorRow(
        text=text,
        place=Verdict.REJECT,
        cancel=Verdict.UNKNOWN,
        read=Verdict.UNKNOWN,
        takes_detail=takes_detail,
        reason=reason,
        trouble=trouble,
        pause_sec=pause_sec,
        advice=advice,
    )


def _proves_nothing(text: str, advice: str) -> ErrorRow:
    return ErrorRow(
        text=text,
        place=Verdict.UNKNOWN,
        cancel=Verdict.UNKNOWN,
        read=Verdict.UNKNOWN,
        advice=advice,
    )


_KEY_ROWS = (
    _halts(
        "EAPI:Invalid key",
        "the API key is wrong, revoked or expired: make a new one, set it, restart the daemon",
    ),
    _halts("EAPI:Invalid signature", "the private key does not belong to the API key"),
    _halts(
        "EGeneral:Permission denied",
        "the API key lacks a permission: docs/KRAKEN.md lists those it needs",
    ),
    _halts(
        "EAccount:Invalid permissions",
        "the account may not trade this: ask Kraken's support",
        takes_detail=True,
    ),
    _halts("EBM:limit exceeded:CAL", "the account has reached a legal limit: ask Kraken's support"),
    _halts("EAuth:Account temporary disabled", "the account is disabled: ask Kraken's support"),
    _halts("EAuth:Account unconfirmed", "the account is not confirmed: log in at Kraken"),
    replace(
        _halts("EAuth:Rate limit exceeded", "too many log-ins failed: stop other programs"),
        trouble=Trouble.LOCKOUT,
        pause_sec=LOCKOUT_SEC,
    ),
    replace(
        _halts("EAuth:Too many requests", "too many log-ins: stop other programs"),
        trouble=Trouble.LOCKOUT,
        pause_sec=LOCKOUT_SEC,
    ),
)
_PASSING_ROWS = (
    _passes(
        "EAPI:Invalid nonce",
        Trouble.NONCE,
        0.0,
        "if it comes again: another program uses this key, its last database was lost a moment ago "
        "(wait a minute), or the clock was set back",
    ),
    _passes(
        "EAPI:Rate limit exceeded",
        Trouble.RATE,
        RATE_PAUSE_SEC,
        "if it comes again: KRAKEN_TIER is too high, or another program uses the account",
    ),
    _passes(
        "EGeneral:Too many requests",
        Trouble.RATE,
        ADDRESS_PAUSE_SEC,
        "too many calls from this address: stop other programs",
    ),
    _passes(
        "EService:Throttled",
        Trouble.RATE,
        RATE_PAUSE_SEC,
        "Kraken asks for a pause until the time it names",
        takes_detail=True,
    ),
    _passes(
        "EGeneral:Temporary lockout",
        Trouble.LOCKOUT,
        LOCKOUT_SEC,
        "do nothing: every call prolongs it; if it comes again: check the API key",
    ),
    _passes(
        "EGeneral:Internal error",
        Trouble.DOWN,
        BACKOFF_SEC,
        "Kraken's trouble: nothing to do",
        takes_detail=True,
    ),
    _passes(
        "EService:Unavailable", Trouble.DOWN, BACKOFF_SEC, "Kraken's trouble: see status.kraken.com"
    ),
    _passes("EService:Busy", Trouble.DOWN, BACKOFF_SEC, "Kraken's trouble: nothing to do"),
    _passes("EService:Timeout", Trouble.DOWN, BACKOFF_SEC, "Kraken's trouble: nothing to do"),
)
_MODE_ROWS = tuple(
    _rejects(
        f"EService:Market in {mode} mode",
        "nothing is placed until the market is online again: nothing to do",
        RejectReason.MARKET_MODE,
        trouble=Trouble.MARKET_MODE,
        pause_sec=MODE_PAUSE_SEC,
    )
    for mode in ("cancel_only", "post_only", "limit_only")
)
_ENGINE_RATE_ROWS = tuple(
    _rejects(
        text,
        "if it comes again: KRAKEN_TIER is too high, or another program trades the pair",
        RejectReason.RATE_LIMIT,
        trouble=Trouble.ENGINE_RATE,
        pause_sec=RATE_PAUSE_SEC,
    )
    for text in ("EOrder:Rate limit exceeded", "EOrder:Domain rate limit exceeded")
)
_BUG = "a fault of this program: report it with the log"
_REFUSING_ROWS = (
    _rejects(
        "EService:Deadline elapsed",
        "the order came too late, as wanted; if it comes often: check the connection",
        RejectReason.DEADLINE,
    ),
    _rejects(
        "EOrder:Post only order", "the price ran past it: nothing to do", RejectReason.POST_ONLY
    ),
    _rejects(
        "EOrder:Insufficient funds",
        "compare the balances; deposit, or make the slots smaller",
        RejectReason.INSUFFICIENT_FUNDS,
    ),
    _rejects(
        "EOrder:Order minimum not met",
        "make the slots larger than the pair's order minimum",
        RejectReason.ORDER_MINIMUM,
    ),
    _rejects(
        "EOrder:Cost minimum not met",
        "make the slots larger than the pair's cost minimum",
        RejectReason.COST_MINIMUM,
    ),
    _rejects("EOrder:Tick size check failed", _BUG, RejectReason.TICK_SIZE),
    _rejects("EOrder:Invalid price", _BUG, RejectReason.TICK_SIZE, takes_detail=True),
    _rejects(
        "EOrder:Orders limit exceeded",
        "too many orders rest at Kraken: use fewer slots, or cancel orders of other programs",
        RejectReason.ORDERS_LIMIT,
    ),
    _rejects("EOrder:Scheduled orders limit exceeded", _BUG, RejectReason.ORDERS_LIMIT),
    *(
        _rejects(f"EOrder:{text}", _BUG)
        for text in (
            "Margin allowance exceeded",
            "Margin level too low",
            "Margin position size exceeded",
            "Insufficient margin",
            "Cannot open position",
            "Positions limit exceeded",
            "Reduce only:No position exists",
            "Trading agreement required",
        )
    ),
    _rejects("EAPI:Bad request", _BUG),
    _rejects("EGeneral:Unknown method", _BUG),
    _rejects("EGeneral:Invalid arguments", _BUG, takes_detail=True),
    _rejects("EQuery:Unknown asset pair", "the pair is not known to Kraken: check its name"),
    _rejects("EQuery:Invalid asset pair", "the pair is not known to Kraken: check its name"),
    _rejects("EQuery:Unknown asset", "the asset is not known to Kraken: check its name"),
)
_OTHER_ROWS = (
    ErrorRow(
        text="EGeneral:Invalid arguments:cl_ord_id not unique",
        place=Verdict.EXISTS,
        cancel=Verdict.UNKNOWN,
        read=Verdict.UNKNOWN,
        reason=RejectReason.DUPLICATE_ID,
        advice="an open order has this id: the daemon looks it up and adopts it",
    ),
    _proves_nothing(
        "EOrder:Unknown order", "filled or cancelled meanwhile: the daemon asks which of the two"
    ),
    ErrorRow(
        text="EOrder:Invalid order",
        place=Verdict.UNKNOWN,
        cancel=Verdict.HALT,
        read=Verdict.UNKNOWN,
        advice="Kraken does not know an order of ours: compare the open orders with the page",
    ),
    _proves_nothing("EAPI:Feature disabled", "Kraken has switched this off: see status.kraken.com"),
    _proves_nothing("ETrade:Invalid request", _BUG),
    _proves_nothing("EFunding:Max fee exceeded", _BUG),
    _proves_nothing("EFunding:No funding method", _BUG),
    _proves_nothing("EFunding:Too many addresses", _BUG),
)
ROWS: tuple[ErrorRow, ...] = (
    *_KEY_ROWS,
    *_PASSING_ROWS,
    *_MODE_ROWS,
    *_ENGINE_RATE_ROWS,
    *_REFUSING_ROWS,
    *_OTHER_ROWS,
)


def canonical(text: str) -> str:
    """Return `text` in lower case with single spaces and none around colons; "" if not ASCII."""
    if not text.isascii():
        return ""
    single = re.sub(r"[ \t\r\n]+", " ", text).strip(" ").lower()
    return re.sub(r" ?: ?", ":", single)


_BY_TEXT: Mapping[str, ErrorRow] = {canonical(row.text): row for row in ROWS}
_CAUTION = (Verdict.RETRY, Verdict.REJECT, Verdict.EXISTS, Verdict.UNKNOWN, Verdict.HALT)
_GRAVITY = (
    Trouble.NONE,
    Trouble.MARKET_MODE,
    Trouble.DOWN,
    Trouble.ENGINE_RATE,
    Trouble.RATE,
    Trouble.NONCE,
    Trouble.KEY,
    Trouble.LOCKOUT,
)
_ENDINGS = {"closed": "filled", "canceled": "cancelled"}
_NOT_KNOWN = "an answer this version does not know: look at the log and at Kraken's status page"


def ending(view: OrderView) -> str:
    """Return why an order that is over is so: filled, cancelled, expired, or a refusal's reason.

    An order that was taken may still be ended by the engine for what another is refused for at
    once. The words are matched loosely: which of them Kraken uses is not documented.
    """
    words = canonical(view.reason or "").replace("-", " ")
    if view.status == "canceled" and "post only" in words:
        return RejectReason.POST_ONLY
    if view.status == "canceled" and "self trade" in words:
        return RejectReason.SELF_TRADE
    return _ENDINGS.get(view.status, view.status)


def is_unknown_order(answer: Answer) -> bool:
    """Tell whether Kraken has answered that the account has no such order."""
    words = ("EOrder:Unknown order", "EOrder:Invalid order")
    return bool(answer.errors) and all(x.startswith(words) for x in answer.errors)


def find_row(text: str) -> ErrorRow | None:
    """Return the row of the error string `text`, None if it is not in the table."""
    known = canonical(text)
    row = _BY_TEXT.get(known)
    if row is not None:
        return row
    while ":" in known:
        known = known.rpartition(":")[0]
        row = _BY_TEXT.get(known)
        if row is not None and row.takes_detail:
            detail = canonical(text).removeprefix(known)
            may_exist = row.place is Verdict.REJECT and any(x in detail for x in _EXISTENCE)
            return None if may_exist else row
    return None


def judge(errors: Sequence[str], purpose: Purpose) -> Judgement:
    """Return what the error strings of one answer call for; total.

    Several strings: the most cautious verdict, the gravest trouble, the longest pause. No string
    at all is UNKNOWN, for there is no such answer.
    """
    if not errors:
        return Judgement(verdict=Verdict.UNKNOWN, advice=_NOT_KNOWN)
    return reduce(_merged, (_judge_one(text, purpose) for text in errors))


def _judge_one(text: str, purpose: Purpose) -> Judgement:
    row = find_row(text)
    if row is None:
        return Judgement(verdict=Verdict.UNKNOWN, advice=_NOT_KNOWN)
    throttled = _THROTTLED.fullmatch(canonical(text))
    return Judgement(
        verdict=row.verdict(purpose),
        trouble=row.trouble,
        reason=row.reason,
        pause_sec=row.pause_sec,
        until=float(throttled[1]) if throttled else None,
        advice=row.advice,
    )


def _merged(a: Judgement, b: Judgement) -> Judgement:
    verdict = max(a.verdict, b.verdict, key=_CAUTION.index)
    advices = dict.fromkeys(x for x in (*a.advice.split("; also: "), b.advice) if x)
    untils = [x.until for x in (a, b) if x.until is not None]
    return Judgement(
        verdict=verdict,
        trouble=max(a.trouble, b.trouble, key=_GRAVITY.index),
        reason=a.reason if a.reason == b.reason else RejectReason.OTHER,
        pause_sec=max(a.pause_sec, b.pause_sec),
        until=max(untils, default=None),
        advice="; also: ".join(advices),
    )


def judge_answer(answer: Answer, purpose: Purpose) -> Judgement | None:
    """Return what `answer` calls for, None where it is good; total.

    A fault never proves that an order does not exist, whatever errors come with it; only a request
    that surely was not sent does.
    """
    if answer.is_good:
        return None
    if not answer.was_sent and not answer.status and not answer.errors:
        return Judgement(
            verdict=Verdict.REJECT if purpose is Purpose.PLACE else _failed(purpose),
            trouble=Trouble.DOWN,
            reason=RejectReason.NOT_SENT,
            pause_sec=BACKOFF_SEC,
            advice="the call was not sent: check the network of this machine",
        )
    if answer.fault is None and answer.errors:
        return judge(answer.errors, purpose)
    by_fault = _judge_fault(answer.status, purpose)
    return _merged(by_fault, judge(answer.errors, purpose)) if answer.errors else by_fault


def _failed(purpose: Purpose) -> Verdict:
    return Verdict.RETRY if purpose is Purpose.READ else Verdict.UNKNOWN


def _judge_fault(status: int, purpose: Purpose) -> Judgement:
    verdict, trouble, pause_sec = _failed(purpose), Trouble.DOWN, BACKOFF_SEC
    advice = "Kraken's trouble or the network's: see status.kraken.com"
    if status in (403, 429):
        trouble, pause_sec = Trouble.RATE, ADDRESS_PAUSE_SEC
        advice = "Kraken's edge refuses this address for now: stop other programs that call it"
    elif 300 <= status < 400:
        pause_sec = ADDRESS_PAUSE_SEC
        advice = "something redirects the calls: check proxy and network of this machine"
    elif 400 <= status < 500:
        verdict = Verdict.UNKNOWN
        advice = f"HTTP status {status} is not expected: check KRAKEN_API_URL"
    elif not status:
        advice = "no answer: check the network of this machine and status.kraken.com"
    return Judgement(verdict=verdict, trouble=trouble, pause_sec=pause_sec, advice=advice)


def error_table() -> str:
    """Return the table of `docs/KRAKEN.md`, between its markers, as Markdown."""
    lines = [
        TABLE_BEGIN,
        "| Kraken says | placing | cancelling | reading | pause | what you can do |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        detail = "[:…]" if row.takes_detail else ""
        place = f"{row.place} ({row.reason})" if row.place is Verdict.REJECT else str(row.place)
        pause = f"{row.pause_sec:g} s" if row.pause_sec else "–"
        lines.append(
            f"| `{row.text}{detail}` | {place} | {row.cancel} | {row.read} | {pause} "
            f"| {row.advice} |"
        )
    lines.append("| anything else | unknown | unknown | unknown | – | " + _NOT_KNOWN + " |")
    return "\n".join((*lines, TABLE_END))
