"""The sandbox's order endpoints: parameters to requests, results in the venue's shape.

Each takes the account, the parameters and the time of arrival, and gives the `result`. Raises
SandboxError; a batch may fail order by order.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from core.domain import ZERO, Side
from exchange.rates import ENGINE_LIMITS
from exchange.sandbox_account import USER_REASON, Account
from exchange.sandbox_books import make_id
from exchange.sandbox_errors import SandboxError
from exchange.sandbox_params import Params, client_id, invalid, rfc3339
from exchange.sandbox_reads import USERREF, order_words
from exchange.sandbox_records import OrderRequest, OrderRow

DEADLINE_MIN_SEC, DEADLINE_MAX_SEC = 2.0, 60.0
EXPIRY_MIN_SEC, EXPIRY_MAX_SEC = 5.0, 31 * 86_400.0
BATCH = (2, 15)
CANCELS_MAX = 50
TIMER_MAX_SEC = 86_399
FLAGS = ("post", "fciq", "nompp")
UNSUPPORTED = (
    "price2", "trigger", "leverage", "reduce_only", "displayvol", "starttm", "close[ordertype]",
    "close[price]", "close[price2]", "close",
)  # fmt: skip


def add_order(account: Account, params: Params, now: float) -> dict[str, Any]:
    """Place one limit or market order; with `validate` say only whether it would be taken."""
    account.pair.require(params.required("pair"))
    request = _request(params, now)
    check_deadline(params, now)
    account.check_status(is_post_only=request.is_post_only, is_market=request.price is None)
    words = {"order": order_words(account, request.side, request.volume, request.price or ZERO)}
    if params.flag("validate"):
        account.check(request, now)
        return {"descr": words}
    row = account.place(request, now)
    return {"descr": words, "txid": [row.txid]}


def add_order_batch(account: Account, params: Params, now: float) -> dict[str, Any]:
    """Place 2 to 15 orders: read as a whole, then taken or refused one by one."""
    if params.is_form:
        raise SandboxError("EAPI:Bad request")
    account.pair.require(params.required("pair"))
    requests = [_request(x, now) for x in params.objects("orders", low=BATCH[0], high=BATCH[1])]
    check_deadline(params, now)
    for request in requests:
        account.check_status(is_post_only=request.is_post_only, is_market=request.price is None)
    most, decay = ENGINE_LIMITS[account.config.tier]
    counter = account.engine.state().counter
    if counter.now(now, decay) + len(requests) / 2 > most:
        raise SandboxError("EOrder:Rate limit exceeded")
    told = []
    for request in requests:
        one: dict[str, Any] = {
            "descr": {
                "order": order_words(account, request.side, request.volume, request.price or ZERO)
            }
        }
        try:
            if params.flag("validate"):
                account.check(request, now)
            else:
                one["txid"] = account.place(request, now).txid
        except SandboxError as refusal:
            one = {"error": ", ".join(refusal.errors)}
        told.append(one)
    if not params.flag("validate"):
        account.set_counter(counter.add(len(requests) / 2, now, decay))
    return {"orders": told}


def amend_order(account: Account, params: Params, now: float) -> dict[str, Any]:
    """Change volume or limit of an open order in place; its id stays."""
    volume, price = params.decimal("order_qty"), params.decimal("limit_price")
    if volume is None and price is None:
        raise invalid("order_qty")
    if params.text("display_qty") or params.text("trigger_price"):
        raise invalid("display_qty" if params.text("display_qty") else "trigger_price")
    check_deadline(params, now)
    rows = _named(account, params)
    is_post_only = params.flag("post_only")
    account.check_status(is_post_only=is_post_only or rows[0].is_post_only, is_market=False)
    account.amend(rows[0], now, volume=volume, price=price, is_post_only=is_post_only)
    return {"amend_id": make_id(account.config.seed, "A", len(rows[0].changes) + int(now * 1000))}


def edit_order(_account: Account, _params: Params, _now: float) -> dict[str, Any]:
    """Refuse: what this call does here, AmendOrder or a cancel and a new order do."""
    raise SandboxError("EAPI:Feature disabled")


def cancel_order(account: Account, params: Params, now: float) -> dict[str, Any]:
    """Cancel an order by txid or client id, or all open ones of a userref."""
    _check_is_up(account)
    count = 0
    for row in _named(account, params):
        account.cancel(row.txid, now)
        count += 1
    return {"count": count}


def cancel_order_batch(account: Account, params: Params, now: float) -> dict[str, Any]:
    """Cancel up to 50 orders; those that are not open are not counted."""
    _check_is_up(account)
    if params.is_form:
        raise SandboxError("EAPI:Bad request")
    names = [("txid", x) for x in params.items("orders", most=CANCELS_MAX)]
    names += [("cl_ord_id", x) for x in params.items("cl_ord_ids", most=CANCELS_MAX)]
    if not names or len(names) > CANCELS_MAX:
        raise invalid("orders")
    count = 0
    for kind, name in names:
        try:
            rows = _named(account, Params({kind: name}))
        except SandboxError:
            continue
        for row in rows:
            account.cancel(row.txid, now)
            count += 1
    return {"count": count}


def cancel_all(account: Account, _params: Params, now: float) -> dict[str, Any]:
    """Cancel every open order of the account, whoever placed it."""
    _check_is_up(account)
    return {"count": account.cancel_all(now, USER_REASON)}


def cancel_all_after(account: Account, params: Params, now: float) -> dict[str, Any]:
    """Set, renew or (0) end the timer that cancels every order of the account."""
    timeout = params.whole("timeout", low=0, high=TIMER_MAX_SEC)
    if timeout is None:
        raise invalid("timeout")
    account.cancel_at = now + timeout if timeout else None
    trigger = "0" if account.cancel_at is None else _moment(account.cancel_at)
    return {"currentTime": _moment(now), "triggerTime": trigger}


def check_deadline(params: Params, now: float) -> None:
    """Raise SandboxError for a deadline that has passed, is too near, or too far ahead."""
    deadline = rfc3339(params, "deadline")
    if deadline is None:
        return
    if deadline < now + DEADLINE_MIN_SEC:
        raise SandboxError("EService:Deadline elapsed")
    if deadline > now + DEADLINE_MAX_SEC:
        raise invalid("deadline")


def _check_is_up(account: Account) -> None:
    if account.status == "maintenance":
        raise SandboxError("EService:Unavailable")


def _request(params: Params, now: float) -> OrderRequest:
    for name in UNSUPPORTED:
        if (params.text(name) or "none").lower() not in ("none", "0", "false"):
            raise invalid(name)
    kind = params.required("ordertype")
    if kind not in ("limit", "market"):
        raise invalid("ordertype")
    if params.required("type") not in ("buy", "sell"):
        raise invalid("type")
    volume = params.decimal("volume")
    if volume is None:
        raise invalid("volume")
    price = _limit(params) if kind == "limit" else None
    flags = params.items("oflags", most=len(FLAGS) * 2)
    if set(flags) - set(FLAGS) or (kind == "market" and "post" in flags):
        raise invalid("oflags")
    own, reference = client_id(params), params.whole("userref", low=USERREF[0], high=USERREF[1])
    if own is not None and reference is not None:
        raise invalid("userref")
    if params.text("stptype") not in (None, "cancel-newest", "cancel_newest"):
        raise invalid("stptype")
    force = params.text("timeinforce") or "GTC"
    if force not in ("GTC", "IOC", "GTD") or (force == "IOC" and "post" in flags):
        raise invalid("timeinforce")
    return OrderRequest(
        side=Side(params.required("type")),
        volume=volume,
        price=price,
        is_post_only="post" in flags,
        client_id=own,
        userref=reference,
        time_in_force=force,
        expires_at=_expiry(params, now, is_wanted=force == "GTD"),
    )


def _limit(params: Params) -> Decimal:
    price = params.decimal("price")
    if price is None:
        raise invalid("price")
    return price


def _expiry(params: Params, now: float, *, is_wanted: bool) -> float | None:
    text = params.text("expiretm")
    if text in (None, "0"):
        if is_wanted:
            raise invalid("expiretm")
        return None
    seconds = params.decimal("expiretm")
    if seconds is None or not is_wanted:
        raise invalid("expiretm")
    at = float(seconds) + (now if str(text).startswith("+") else 0.0)
    if not now + EXPIRY_MIN_SEC <= at <= now + EXPIRY_MAX_SEC:
        raise invalid("expiretm")
    return at


def _named(account: Account, params: Params) -> list[OrderRow]:
    """Return the open orders that txid, userref or client id name; never none.

    An id that never was is an invalid order; one whose order is over, an unknown one.
    """
    own, text = client_id(params), params.text("txid")
    books = account.books
    if own is not None:
        rows = books.open_with(own)
    elif text is None:
        reference = params.whole("userref", low=USERREF[0], high=USERREF[1])
        if reference is None:
            raise invalid("txid")
        rows = _of_userref(account, reference)
    elif text in books.orders:
        rows = [books.orders[text]]
    elif text.lstrip("-").isdigit():
        reference = params.whole("txid", low=USERREF[0], high=USERREF[1])
        rows = _of_userref(account, reference or 0)
    else:
        raise SandboxError("EOrder:Invalid order")
    rows = [row for row in rows if row.is_open]
    if not rows:
        raise SandboxError("EOrder:Unknown order")
    return rows


def _of_userref(account: Account, reference: int) -> list[OrderRow]:
    rows = (account.books.orders[txid] for txid in account.books.open)
    return [row for row in rows if row.userref == reference]


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Entry = Callable[[Account, Params, float], dict[str, Any]]
ENTRIES: dict[str, Entry] = {
    "AddOrder": add_order,
    "AddOrderBatch": add_order_batch,
    "AmendOrder": amend_order,
    "EditOrder": edit_order,
    "CancelOrder": cancel_order,
    "CancelOrderBatch": cancel_order_batch,
    "CancelAll": cancel_all,
    "CancelAllOrdersAfter": cancel_all_after,
}
