"""The sandbox's reading endpoints: orders, trades, ledger and balances as they were at a time.

Each takes the account, the parameters and the time whose account is told (`at`: now, or earlier
where the endpoint lags) and gives the `result`. Raises SandboxError.
"""

from collections.abc import Callable, Iterable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from core.domain import HUNDRED, ONE, ZERO, Side
from core.record import plain, replace
from exchange.rates import FEE_TIERS, VOLUME_DAYS
from exchange.sandbox_account import Account
from exchange.sandbox_assets import asset_decimals, find_asset
from exchange.sandbox_errors import SandboxError
from exchange.sandbox_params import Bound, Params, bound, client_id, invalid
from exchange.sandbox_records import LedgerRow, OrderChange, OrderRow, TradeRow
from exchange.venue import EngineState

PAGE = 50
IDS_MAX, TRADE_IDS_MAX, LEDGER_IDS_MAX = 50, 20, 20
OFFSET_MAX = 10**9
USERREF = (-(2**31), 2**31 - 1)
TRADE_KINDS = ("all", "any position", "closed position", "closing position", "no position")
LEDGER_KINDS = (
    "all", "deposit", "withdrawal", "trade", "margin", "rollover", "credit", "transfer",
    "settled", "staking", "sale", "adjustment", "spend", "receive",
)  # fmt: skip
DAY_SEC = 86_400


# ---- orders -----------------------------------------------------------------------------------


def open_orders(account: Account, params: Params, at: float) -> dict[str, Any]:
    """Return OpenOrders: all open orders of the account, whoever placed them."""
    keep, has_trades = _order_filter(params), params.flag("trades")
    rows = [(row, change) for row, change in account.books.orders_open(at) if keep(row)]
    return {"open": {row.txid: order_text(account, row, x, at, has_trades) for row, x in rows}}


def closed_orders(account: Account, params: Params, at: float) -> dict[str, Any]:
    """Return ClosedOrders: one page, newest first; it shifts while orders close."""
    keep, has_trades = _order_filter(params), params.flag("trades")
    consolidated = params.flag("consolidate_taker", default=True)
    which = params.text("closetime") or "both"
    if which not in ("open", "close", "both"):
        raise invalid("closetime")
    is_inside, low = _window(account, params), _low(account, params)

    def is_wanted(row: OrderRow, change: OrderChange) -> bool:
        times = {"open": (row.opened_at,), "close": (change.closed_at or change.at,)}
        both = (row.opened_at, change.closed_at or change.at)
        return keep(row) and any(is_inside(x) for x in times.get(which, both))

    found = []
    for row, change in account.books.orders_closed(at, client_id(params)):
        if low is not None and (change.closed_at or change.at) <= low:
            break  # those closed before it were opened before it, too
        if is_wanted(row, change):
            found.append((row, change))
    if which == "open":
        found.sort(key=lambda pair: (pair[0].opened_at, pair[0].number), reverse=True)
    page = _page(found, params, account.page_rows)
    rows = {
        row.txid: order_text(account, row, x, at, has_trades, is_consolidated=consolidated)
        for row, x in page
    }
    return _counted({"closed": rows}, found, params)


def query_orders(account: Account, params: Params, at: float) -> dict[str, Any]:
    """Return QueryOrders: by id; an id that is not known (or not seen yet) refuses them all."""
    ids = params.items("txid", most=IDS_MAX)
    if not ids:
        raise invalid("txid")
    keep, has_trades = _order_filter(params), params.flag("trades")
    consolidated = params.flag("consolidate_taker", default=True)
    told = {}
    for txid in ids:
        row = account.books.orders.get(txid)
        change = None if row is None else row.seen(at)
        if row is None or change is None:
            raise SandboxError("EOrder:Invalid order")
        if keep(row):
            told[txid] = order_text(
                account, row, change, at, has_trades, is_consolidated=consolidated
            )
    return told


def order_text(
    account: Account,
    row: OrderRow,
    change: OrderChange,
    at: float,
    has_trades: bool,
    *,
    is_consolidated: bool = True,
) -> dict[str, Any]:
    """Return one order as the venue tells it; numbers are texts, times are floats."""
    average = change.cost / change.executed if change.executed else ZERO
    told: dict[str, Any] = {
        "refid": None,
        "userref": row.userref or 0,
        "status": change.status,
        "opentm": row.opened_at,
        "starttm": 0,
        "expiretm": 0 if row.expires_at is None else row.expires_at,
        "descr": {
            "pair": account.instrument.symbol,
            "aclass": "forex",
            "type": row.side.value,
            "ordertype": "market" if row.is_market else "limit",
            "price": "0" if row.is_market else fixed(change.price, account.pair.price_decimals),
            "price2": "0",
            "leverage": "none",
            "order": order_words(account, row.side, change.volume, change.price),
            "close": "",
        },
        "vol": fixed(change.volume, account.pair.lot_decimals),
        "vol_exec": fixed(change.executed, account.pair.lot_decimals),
        "cost": _money(account, change.cost),
        "fee": _money(account, change.fee),
        "price": _money(account, average),
        "stopprice": _money(account, ZERO),
        "limitprice": _money(account, ZERO),
        "misc": "",
        "oflags": "fciq,post" if row.is_post_only else "fciq",
    }
    if row.client_id is not None:
        told["cl_ord_id"] = row.client_id
    if change.status != "open":
        told["closetm"] = change.closed_at
        told["reason"] = change.reason
    trades = account.books.trades_of_order(row.txid, at)
    if has_trades and trades:
        told["trades"] = [x.trade_id for x in _merged(trades, is_consolidated)]
    return told


def order_words(account: Account, side: Side, volume: Decimal, price: Decimal) -> str:
    """Return an order in the venue's words; a price of 0 is a market order."""
    words = f"{side} {fixed(volume, account.pair.lot_decimals)} {account.instrument.symbol} @ "
    return words + (f"limit {fixed(price, account.pair.price_decimals)}" if price else "market")


# ---- trades -----------------------------------------------------------------------------------


def trades_history(account: Account, params: Params, at: float) -> dict[str, Any]:
    """Return TradesHistory: one page, newest first."""
    kind = params.text("type") or "all"
    if kind not in TRADE_KINDS:
        raise invalid("type")
    is_inside, has_ledgers = _window(account, params), params.flag("ledgers")
    consolidated = params.flag("consolidate_taker", default=True)
    size = params.whole("limit", low=1, high=100) or account.page_rows
    low, seen = _low(account, params), []
    for trade in reversed(account.books.trades):
        if low is not None and trade.time <= low:
            break
        if trade.seen_at <= at:
            seen.append(trade)
    rows = _merged(seen[::-1], consolidated) if kind in ("all", "no position") else []
    found = [trade for trade in reversed(rows) if is_inside(trade.time)]
    page = {x.trade_id: trade_text(account, x, has_ledgers) for x in _page(found, params, size)}
    return _counted({"trades": page}, found, params)


def query_trades(account: Account, params: Params, at: float) -> dict[str, Any]:
    """Return QueryTrades: executions by their ids."""
    ids = params.items("txid", most=TRADE_IDS_MAX)
    if not ids:
        raise invalid("txid")
    told = {}
    for trade_id in ids:
        trade = account.books.trade.get(trade_id)
        if trade is None or trade.seen_at > at:
            raise invalid("txid")
        told[trade_id] = trade_text(account, trade, params.flag("ledgers"))
    return told


def trade_text(account: Account, trade: TradeRow, has_ledgers: bool) -> dict[str, Any]:
    """Return one execution as the venue tells it."""
    told: dict[str, Any] = {
        "ordertxid": trade.txid,
        "postxid": "TKH2SE-M7IF5-CFI7LT",
        "pair": account.instrument.symbol,
        "aclass": "forex",
        "time": trade.time,
        "type": trade.side.value,
        "ordertype": "market" if trade.is_market else "limit",
        "price": _money(account, trade.price),
        "cost": _money(account, trade.cost),
        "fee": _money(account, trade.fee),
        "vol": fixed(trade.volume, account.pair.lot_decimals),
        "margin": _money(account, ZERO),
        "leverage": "0",
        "misc": "",
        "trade_id": trade.number,
        "maker": trade.is_maker,
    }
    return told | {"ledgers": list(trade.ledger_ids)} if has_ledgers else told


def _merged(trades: list[TradeRow], is_consolidated: bool) -> list[TradeRow]:
    """Return the executions with those of one taking order made into one, if so asked."""
    if not is_consolidated:
        return trades
    merged: dict[str, TradeRow] = {}
    for trade in trades:
        key = trade.trade_id if trade.is_maker else trade.txid
        known = merged.get(key)
        merged[key] = trade if known is None else _joined(known, trade)
    return list(merged.values())


def _joined(first: TradeRow, more: TradeRow) -> TradeRow:
    volume, cost = first.volume + more.volume, first.cost + more.cost
    return replace(
        first,
        volume=volume,
        cost=cost,
        fee=first.fee + more.fee,
        price=cost / volume,
        ledger_ids=(*first.ledger_ids, *more.ledger_ids),
    )


# ---- ledger and balances ----------------------------------------------------------------------


def ledgers(account: Account, params: Params, at: float) -> dict[str, Any]:
    """Return Ledgers: one page, newest first."""
    kind = params.text("type") or "all"
    if kind not in LEDGER_KINDS:
        raise invalid("type")
    names = [x for x in params.items("asset", most=PAGE) if x != "all"]
    assets = {_asset_id(x) for x in names}
    is_inside = _window(account, params)
    found = [
        row
        for row in reversed(account.books.ledger)
        if row.time <= at
        and is_inside(row.time)
        and kind in ("all", row.kind)
        and (not assets or row.asset in assets)
    ]
    page = {row.ledger_id: _ledger_text(row) for row in _page(found, params, account.page_rows)}
    return _counted({"ledger": page}, found, params)


def query_ledgers(account: Account, params: Params, at: float) -> dict[str, Any]:
    """Return QueryLedgers: rows by their ids."""
    ids = params.items("id", most=LEDGER_IDS_MAX)
    rows = [account.books.entry.get(x) for x in ids]
    found = [row for row in rows if row is not None and row.time <= at]
    if not ids or len(found) != len(ids):
        raise invalid("id")
    return {row.ledger_id: _ledger_text(row) for row in found}


def balance(account: Account, _params: Params, at: float) -> dict[str, Any]:
    """Return Balance: totals, what orders hold included."""
    found = account.books.balances(at)
    return {asset: _amount(asset, total) for asset, total in found.items()}


def balance_ex(account: Account, _params: Params, at: float) -> dict[str, Any]:
    """Return BalanceEx: total and held."""
    held = _held(account, at)
    return {
        asset: {
            "balance": _amount(asset, total),
            "hold_trade": _amount(asset, held.get(asset, ZERO)),
        }
        for asset, total in account.books.balances(at).items()
    }


def trade_balance(account: Account, params: Params, at: float) -> dict[str, Any]:
    """Return TradeBalance in the quote asset: equity at the last price, no margin."""
    asset = params.text("asset")
    if asset is not None and _asset_id(asset) != account.pair.quote_id:
        raise SandboxError("EQuery:Unknown asset")
    quote, found = account.engine.quote(), account.books.balances(at)
    last = ZERO if quote is None else quote.last
    cash = found.get(account.pair.quote_id, ZERO)
    equity = fixed(cash + found.get(account.pair.base_id, ZERO) * last, 4)
    none, bound_cash = fixed(ZERO, 4), fixed(_held(account, at)[account.pair.quote_id], 4)
    return {
        "eb": equity, "tb": fixed(cash, 4), "m": none, "uv": bound_cash, "n": none, "c": none,
        "v": none, "e": fixed(cash, 4), "mf": fixed(cash, 4),
    }  # fmt: skip


def trade_volume(account: Account, params: Params, at: float) -> dict[str, Any]:
    """Return TradeVolume: 30-day volume and, for the pairs asked for, fees in percent."""
    volume = recent_volume(account.engine.state(), at)
    told: dict[str, Any] = {"currency": account.pair.quote_id, "volume": fixed(volume, 4)}
    names = params.items("pair", most=PAGE)
    for name in names:
        account.pair.require(name)
    if not names:
        return told
    rates, symbol = account.engine.fees(at), account.instrument.symbol
    is_flat = account.config.flat_fees is not None
    return told | {
        "fees": {symbol: _fee_text(account, volume, rates.taker, is_flat, "taker")},
        "fees_maker": {symbol: _fee_text(account, volume, rates.maker, is_flat, "maker")},
    }


def recent_volume(state: EngineState, at: float) -> Decimal:
    """Return the volume in quote of the last 30 days."""
    day = int(at // DAY_SEC)
    return sum((v for d, v in state.daily_volume if d > day - VOLUME_DAYS), ZERO)


def _fee_text(
    account: Account, volume: Decimal, rate: Decimal, is_flat: bool, kind: str
) -> dict[str, Any]:
    def percent(value: Decimal) -> str:
        return fixed(value * HUNDRED, 4)

    if is_flat:
        told = percent(rate)
        return {
            "fee": told, "minfee": told, "maxfee": told, "nextfee": None, "nextvolume": None,
            "tiervolume": fixed(ZERO, 4),
        }  # fmt: skip
    factor = account.config.fee_factor
    tiers = [(least, getattr(rates, kind) * factor) for least, rates in FEE_TIERS]
    reached = max(n for n, (least, _) in enumerate(tiers) if volume >= least)
    following = tiers[reached + 1] if reached + 1 < len(tiers) else None
    return {
        "fee": percent(rate),
        "minfee": percent(tiers[-1][1]),
        "maxfee": percent(tiers[0][1]),
        "nextfee": None if following is None else percent(following[1]),
        "nextvolume": None if following is None else fixed(following[0], 4),
        "tiervolume": fixed(tiers[reached][0], 4),
    }


def _ledger_text(row: LedgerRow) -> dict[str, Any]:
    return {
        "refid": row.reference,
        "time": row.time,
        "type": row.kind,
        "subtype": "tradespot" if row.kind == "trade" else "",
        "aclass": "currency",
        "asset": row.asset,
        "amount": _amount(row.asset, row.amount),
        "fee": _amount(row.asset, row.fee),
        "balance": _amount(row.asset, row.balance),
    }


def _held(account: Account, at: float) -> dict[str, Decimal]:
    base, quote = account.books.held(at)
    return {account.pair.base_id: base, account.pair.quote_id: quote}


def _asset_id(name: str) -> str:
    return name if "." in name else find_asset(name).id


# ---- paging and numbers -----------------------------------------------------------------------


def _order_filter(params: Params) -> Callable[[OrderRow], bool]:
    reference = params.whole("userref", low=USERREF[0], high=USERREF[1])
    own = client_id(params)

    def keep(row: OrderRow) -> bool:
        if reference is not None and row.userref != reference:
            return False
        return own is None or row.client_id == own

    return keep


def _low(account: Account, params: Params) -> float | None:
    """Return the time after which a window begins, None for no bound."""
    start = bound(params, "start")
    return None if start is None else _time_of(account, start, "start")


def _window(account: Account, params: Params) -> Callable[[float], bool]:
    """Return what tells whether a time lies in (start, end]."""
    low, end = _low(account, params), bound(params, "end")
    high = None if end is None else _time_of(account, end, "end")

    def is_inside(time: float) -> bool:
        return (low is None or time > low) and (high is None or time <= high)

    return is_inside


def _time_of(account: Account, end: Bound, name: str) -> float:
    """Return the time of a bound: that of the row, for an order when it was opened."""
    if end.time is not None:
        return end.time
    reference, books = end.reference or "", account.books
    if reference in books.orders:
        return books.orders[reference].opened_at
    if reference in books.trade:
        return books.trade[reference].time
    if reference in books.entry:
        return books.entry[reference].time
    raise invalid(name)


def _page(found: list[Any], params: Params, size: int) -> Iterable[Any]:
    offset = params.whole("ofs", low=0, high=OFFSET_MAX) or 0
    return found[offset : offset + size]


def _counted(result: dict[str, Any], found: list[Any], params: Params) -> dict[str, Any]:
    return result if params.flag("without_count") else result | {"count": len(found)}


def fixed(value: Decimal, places: int) -> str:
    """Return a number with that many decimals; more where it has more, so that nothing is lost."""
    exact = value.normalize().as_tuple().exponent
    if isinstance(exact, int) and -exact > places and -exact <= 12:
        return plain(value.normalize())
    return plain(value.quantize(ONE.scaleb(-places), ROUND_HALF_UP))


def _money(account: Account, value: Decimal) -> str:
    return fixed(value, account.instrument.cost_decimals)


def _amount(asset: str, value: Decimal) -> str:
    return fixed(value, asset_decimals(asset))
