"""Kraken's REST wire: signing, forms, the answer's envelope, and what the account's answers say.

Pure: bytes and values in, values out. Parsers take `Answer.result` and return what it says or raise
WireError; an answer of another shape than the documented one is unknown, never empty. The market's
answers are read in `exchange/kraken_public.py` and offered here too. What an error string calls for
is in `exchange/kraken_errors.py`; sockets and nonces are in `exchange/kraken.py`.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any, TypeVar

from core.domain import ZERO, FeeRates
from core.record import plain
from exchange.kraken_public import (
    asset_names,
    candles,
    depth,
    pair_facts,
    public_trades,
    server_time,
    suffixed,
    system_status,
    ticker,
)
from exchange.kraken_records import (
    Answer,
    KeyFacts,
    LedgerView,
    OrderView,
    Page,
    TradeView,
    WireError,
)
from exchange.kraken_values import (
    among_pairs,
    as_amount,
    as_client_id,
    as_count,
    as_flag,
    as_id,
    as_ids,
    as_mapping,
    as_note,
    as_number,
    as_positive,
    as_rows,
    as_side,
    as_text,
    as_time,
    part,
)

__all__ = [
    "asset_names",
    "balances",
    "balances_ex",
    "cancelled",
    "candles",
    "closed_orders",
    "decode_secret",
    "depth",
    "fee_rates",
    "form",
    "key_facts",
    "ledgers",
    "open_orders",
    "pair_facts",
    "placed",
    "public_trades",
    "queried_orders",
    "queried_trades",
    "read_answer",
    "server_time",
    "sign",
    "suffixed",
    "system_status",
    "ticker",
    "trades_history",
]

T = TypeVar("T")

SECRET_BYTES_MIN = 32
ERRORS_MAX, ERROR_TEXT_MAX = 50, 300
FEE_PCT_MAX = Decimal(10)
ORDER_STATUSES = frozenset(("pending", "open", "closed", "canceled", "expired"))
_ORDER_ID = re.compile(r"O[A-Z0-9]{5}-[A-Z0-9]{5}-[A-Z0-9]{6}")


# ---- out ------------------------------------------------------------------------------------


def decode_secret(text: str) -> bytes:
    """Return the bytes of the private key `text`. Raises ValueError; it never repeats the key."""
    bare = text.strip()
    if not bare:
        raise ValueError("the private key is empty: copy it from Kraken's API settings")
    try:
        secret = base64.b64decode(bare, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(
            "the private key is not base64 text: copy it whole, without spaces or quotes"
        ) from None
    if len(secret) < SECRET_BYTES_MIN:
        raise ValueError(
            f"the private key is too short ({len(secret)} bytes, at least {SECRET_BYTES_MIN} are "
            "expected): copy it whole; it is not the shorter of the key's two parts"
        )
    return secret


def sign(secret: bytes, path: str, nonce: str, body: str) -> str:
    """Return the header API-Sign for `body`, the exact text that is sent and contains `nonce`."""
    inner = hashlib.sha256((nonce + body).encode()).digest()
    return base64.b64encode(hmac.digest(secret, path.encode() + inner, "sha512")).decode()


def form(params: Mapping[str, object]) -> dict[str, str]:
    """Return `params` as texts for a form: plain decimals, `true`; None and False are left out.

    Lists and tuples are joined by commas. Raises ValueError for what has no such form.
    """
    texts: dict[str, str] = {}
    for name, value in params.items():
        if value is None or value is False:
            continue
        items = value if isinstance(value, list | tuple) else (value,)
        texts[name] = ",".join(_form_text(name, item) for item in items)
    return texts


def _form_text(name: str, value: object) -> str:
    if isinstance(value, str):
        return str(value)
    if value is True:
        return "true"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        value = Decimal(repr(value))
    if isinstance(value, Decimal) and value.is_finite():
        return plain(value)
    raise ValueError(
        f"{name}: a {type(value).__name__} cannot be sent; text, true, whole numbers, finite "
        "decimals and lists of them can"
    )


# ---- the envelope ---------------------------------------------------------------------------


class _Unreadable(Exception):
    """The body is no answer; the text says why."""


def read_answer(status: int, body: bytes) -> Answer:
    """Return what `body` says, whatever it is; `status` is HTTP's.

    Errors of an answer with another status than 200 are kept, its result is not.
    """
    try:
        envelope = _envelope(body)
        errors, warnings = _messages(envelope)
    except _Unreadable as error:
        why = str(error) if status == 200 else f"HTTP status {status}, {error}"
        return Answer(status=status, fault=why)
    result = envelope.get("result")
    if status != 200:
        return Answer(
            status=status, errors=errors, warnings=warnings, fault=f"HTTP status {status}"
        )
    if result is None and not errors:
        return Answer(status=status, warnings=warnings, fault="neither an error nor a result")
    return Answer(status=status, errors=errors, warnings=warnings, result=result)


def _envelope(body: bytes) -> dict[str, Any]:
    if not body.strip():
        raise _Unreadable("an empty body")
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_float=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_object,
        )
    except UnicodeDecodeError:
        raise _Unreadable("the body is not UTF-8") from None
    except (ValueError, ArithmeticError, RecursionError):
        kind = "HTML" if body.lstrip()[:1] == b"<" else "no JSON, or not all of it"
        raise _Unreadable(f"the body is {kind} ({len(body)} bytes)") from None
    if not isinstance(value, dict):
        raise _Unreadable("the body is JSON but no object")
    return value


def _refuse_constant(name: str) -> Any:
    raise _Unreadable(f"the body holds {name}, which is no number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Unreadable("the body names one thing twice")
    return found


def _messages(envelope: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    told = envelope.get("error")
    if not isinstance(told, list) or not all(isinstance(item, str) for item in told):
        raise _Unreadable("the body has no list of error texts")
    if len(told) > ERRORS_MAX:
        raise _Unreadable(f"the body lists {len(told)} errors")
    texts = [_message(item) for item in told]
    is_warning = [text.startswith("W") for text in texts]
    errors = tuple(x for x, warns in zip(texts, is_warning, strict=True) if not warns)
    return errors, tuple(x for x, warns in zip(texts, is_warning, strict=True) if warns)


def _message(text: str) -> str:
    shown = "".join(x if x.isprintable() else "\N{REPLACEMENT CHARACTER}" for x in text)
    # The mark at the end keeps a cut text from being taken for a known one.
    return shown if len(shown) <= ERROR_TEXT_MAX else shown[:ERROR_TEXT_MAX] + "…"


# ---- orders and executions ------------------------------------------------------------------


def placed(result: object) -> str:
    """Return the one order id that AddOrder tells. Raises WireError if it is not exactly one."""
    ids = as_rows(part(as_mapping(result, "AddOrder"), "txid", "AddOrder"), "AddOrder txid")
    if len(ids) != 1 or not isinstance(ids[0], str) or not _ORDER_ID.fullmatch(ids[0]):
        raise WireError("AddOrder txid: exactly one order id is expected")
    return ids[0]


def cancelled(result: object) -> tuple[int, bool]:
    """Return how many orders a cancel counts, and whether it is only pending. Raises WireError.

    It says that the request was taken, not what became of the order.
    """
    told = as_mapping(result, "CancelOrder")
    count = as_count(part(told, "count", "CancelOrder"), "CancelOrder count")
    return count, as_flag(told.get("pending", False), "CancelOrder pending")


def open_orders(result: object) -> tuple[OrderView, ...]:
    """Return all open orders of the account, foreign ones too. Raises WireError."""
    told = as_mapping(result, "OpenOrders")
    return _all(part(told, "open", "OpenOrders"), "OpenOrders", _order)


def closed_orders(result: object) -> Page[OrderView]:
    """Return one page of closed orders, newest first. Raises WireError."""
    return _page(result, "closed", "ClosedOrders", _order)


def queried_orders(result: object) -> tuple[OrderView, ...]:
    """Return the orders that were asked for. Raises WireError."""
    return _all(result, "QueryOrders", _order)


def trades_history(result: object) -> Page[TradeView]:
    """Return one page of the account's executions, newest first. Raises WireError."""
    return _page(result, "trades", "TradesHistory", _trade)


def queried_trades(result: object) -> tuple[TradeView, ...]:
    """Return the executions that were asked for. Raises WireError."""
    return _all(result, "QueryTrades", _trade)


def _all(told: object, field: str, read: Callable[[str, object, str], T]) -> tuple[T, ...]:
    return tuple(read(key, value, field) for key, value in as_mapping(told, field).items())


def _page(result: object, key: str, field: str, read: Callable[[str, object, str], T]) -> Page[T]:
    told = as_mapping(result, field)
    rows = _all(part(told, key, field), field, read)
    count = told.get("count")
    return Page(rows=rows, count=None if count is None else as_count(count, f"{field} count"))


def _order(key: str, value: object, field: str) -> OrderView:
    txid = as_id(key, f"{field} id")
    where = f"{field} {txid}"
    told = as_mapping(value, where)
    terms = as_mapping(part(told, "descr", where), f"{where} descr")
    status = part(told, "status", where)
    if status not in ORDER_STATUSES:
        raise WireError(f"{where} status: one of {', '.join(sorted(ORDER_STATUSES))} is expected")
    # Only a plain limit order has its limit in `price`; others (never ours) may even tell a
    # percentage there, and one of them must not hide the rest of the account.
    is_limit = part(terms, "ordertype", where) == "limit"
    volume = as_amount(part(told, "vol", where), f"{where} vol")
    closed = told.get("closetm")
    closed_at = as_time(closed, f"{where} closetm") if closed is not None else None
    return OrderView(
        txid=txid,
        client_order_id=as_client_id(told.get("cl_ord_id"), f"{where} cl_ord_id"),
        status=str(status),
        pair=as_text(part(terms, "pair", where), f"{where} pair"),
        side=as_side(part(terms, "type", where), f"{where} type"),
        price=as_positive(part(terms, "price", where), f"{where} price") if is_limit else ZERO,
        volume=volume,
        executed=as_amount(part(told, "vol_exec", where), f"{where} vol_exec"),
        cost=as_amount(part(told, "cost", where), f"{where} cost"),
        fee=as_number(part(told, "fee", where), f"{where} fee"),
        opened_at=as_time(part(told, "opentm", where), f"{where} opentm"),
        closed_at=closed_at or None,
        reason=as_note(told.get("reason"), f"{where} reason"),
        trade_ids=as_ids(told.get("trades"), f"{where} trades"),
    )


def _trade(key: str, value: object, field: str) -> TradeView:
    execution_id = as_id(key, f"{field} id")
    where = f"{field} {execution_id}"
    told = as_mapping(value, where)
    return TradeView(
        execution_id=execution_id,
        txid=as_id(part(told, "ordertxid", where), f"{where} ordertxid"),
        pair=as_text(part(told, "pair", where), f"{where} pair"),
        side=as_side(part(told, "type", where), f"{where} type"),
        price=as_amount(part(told, "price", where), f"{where} price"),
        volume=as_amount(part(told, "vol", where), f"{where} vol"),
        cost=as_amount(part(told, "cost", where), f"{where} cost"),
        fee=as_number(part(told, "fee", where), f"{where} fee"),
        time=as_time(part(told, "time", where), f"{where} time"),
        # Not told by older answers: the costlier of the two is assumed.
        is_maker=as_flag(told.get("maker", False), f"{where} maker"),
    )


# ---- the account ----------------------------------------------------------------------------


def balances(result: object) -> dict[str, Decimal]:
    """Return the total balance by asset id, what orders hold included. Raises WireError."""
    return {
        as_text(asset, "Balance asset"): as_number(value, f"Balance {asset}")
        for asset, value in as_mapping(result, "Balance").items()
    }


def balances_ex(result: object) -> dict[str, tuple[Decimal, Decimal]]:
    """Return total balance and the part that orders hold, by asset id. Raises WireError.

    Lines of credit are not counted. The held part may be above the total where the exchange
    earns with the asset under another name (`suffixed`).
    """
    found: dict[str, tuple[Decimal, Decimal]] = {}
    for asset, value in as_mapping(result, "BalanceEx").items():
        where = f"BalanceEx {as_text(asset, 'BalanceEx asset')}"
        told = as_mapping(value, where)
        total = as_number(part(told, "balance", where), f"{where} balance")
        found[asset] = total, as_amount(part(told, "hold_trade", where), f"{where} hold_trade")
    return found


def fee_rates(result: object, names: Collection[str]) -> FeeRates:
    """Return the account's rates for the pair of `names`, from TradeVolume. Raises WireError.

    Where no maker's rate is told the taker's counts for both; a rebate counts as no fee.
    """
    told = as_mapping(result, "TradeVolume")
    taker = _fee_rate(part(told, "fees", "TradeVolume"), names, "TradeVolume fees")
    makers = told.get("fees_maker")
    is_told = isinstance(makers, dict) and any(name in makers for name in names)
    if makers is None or (isinstance(makers, dict) and not is_told):
        return FeeRates(maker=taker, taker=taker)
    return FeeRates(maker=_fee_rate(makers, names, "TradeVolume fees_maker"), taker=taker)


def _fee_rate(told: object, names: Collection[str], field: str) -> Decimal:
    tier = as_mapping(among_pairs(as_mapping(told, field), names, field), field)
    percent = as_number(part(tier, "fee", field), field)
    if abs(percent) > FEE_PCT_MAX:
        raise WireError(f"{field}: {percent} % is not plausible, {FEE_PCT_MAX} % is the most")
    return max(percent, ZERO) / 100


def ledgers(result: object) -> Page[LedgerView]:
    """Return one page of the account's ledger, newest first. Raises WireError."""
    return _page(result, "ledger", "Ledgers", _ledger)


def _ledger(key: str, value: object, field: str) -> LedgerView:
    ledger_id = as_id(key, f"{field} id")
    where = f"{field} {ledger_id}"
    told = as_mapping(value, where)
    return LedgerView(
        ledger_id=ledger_id,
        reference=as_note(told.get("refid"), f"{where} refid") or "",
        time=as_time(part(told, "time", where), f"{where} time"),
        kind=as_text(part(told, "type", where), f"{where} type"),
        asset=as_text(part(told, "asset", where), f"{where} asset"),
        amount=as_number(part(told, "amount", where), f"{where} amount"),
        fee=as_number(part(told, "fee", where), f"{where} fee"),
        balance=as_number(part(told, "balance", where), f"{where} balance"),
    )


def key_facts(result: object) -> KeyFacts:
    """Return what GetApiKeyInfo says of the key, without the key itself. Raises WireError.

    Both spellings of the field names are read (`nonceWindow`, `nonce_window`).
    """
    told = as_mapping(result, "GetApiKeyInfo")
    nonce = _either(told, "nonce", "nonce")
    until = _either(told, "valid_until", "validUntil")
    allowed = as_rows(_either(told, "ip_allowlist", "ipAllowlist") or [], "GetApiKeyInfo allowlist")
    permissions = as_rows(part(told, "permissions", "GetApiKeyInfo"), "GetApiKeyInfo permissions")
    window = _either(told, "nonce_window", "nonceWindow")
    valid_until = as_time(until, "GetApiKeyInfo valid until") if until not in (None, "") else 0.0
    return KeyFacts(
        name=as_note(_either(told, "api_key_name", "apiKeyName"), "GetApiKeyInfo name") or "",
        permissions=frozenset(as_text(x, "GetApiKeyInfo permission") for x in permissions),
        nonce=None if nonce in (None, "") else as_count(nonce, "GetApiKeyInfo nonce"),
        nonce_window=as_count(window, "GetApiKeyInfo nonce window"),
        valid_until=valid_until or None,
        allowlist=tuple(as_text(x, "GetApiKeyInfo allowlist") for x in allowed if x != ""),
    )


def _either(told: Mapping[str, Any], name: str, other: str) -> Any:
    return told.get(name, told.get(other))
