"""Recorded answers of Kraken, and which parser reads each."""

import gzip
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from exchange import kraken_wire as wire
from exchange.kraken_records import Answer

D = Decimal
FOLDER = Path(__file__).parent.parent.parent / "shared" / "kraken_rest"
recorded = pytest.mark.skipif(not FOLDER.exists(), reason=f"no recorded answers at {FOLDER}")
DOGE = {"XDGUSD", "DOGEUSD", "DOGE/USD", "XDG/USD"}
BTC = {"XXBTZUSD", "XBTUSD", "BTC/USD"}

Parser = Callable[[Any], object]


def of_pair(parser: Callable[..., object], *names: str) -> Parser:
    """Return `parser` for the pair of these names."""
    extra = {wire.depth: (5.0,), wire.candles: (60.0,)}.get(parser, ())
    return lambda result: parser(result, set(names), *extra)


def nothing(result: object) -> object:
    """Read an answer of a method that the daemon does not use: only its envelope is read."""
    return result


# File → its parser. The folders beside these hold other things than answers of this wire.
PARSERS: Mapping[str, Parser] = {
    "recorded/assetpairs_20260925.json": wire.pair_facts,
    "recorded/assets_20260925.json": wire.asset_names,
    "recorded/ohlc_btcusd_60_20260925.json": of_pair(wire.candles, *BTC),
    "recorded/openorders_xdgusd_20251017.json": wire.open_orders,
    **{
        f"recorded/ticker_assetversion1_{day}_{part}": of_pair(wire.ticker, *DOGE)
        for day in ("20260624a", "20260624b", "20260723")
        for part in ("doge.json", "full.json.gz")
    },
    "recorded/trades_btcusd_20260925.json": of_pair(wire.public_trades, *BTC),
    "jkorf/account/GetApiKeyInfo.json": wire.key_facts,
    "jkorf/account/GetAvailableBalances.json": wire.balances_ex,
    "jkorf/account/GetBalances.json": wire.balances,
    "jkorf/account/GetLedgerInfo.json": wire.ledgers,
    "jkorf/account/GetLedgersEntry.json": nothing,
    "jkorf/account/GetOpenPositions.json": nothing,
    "jkorf/account/GetTradeBalance.json": nothing,
    "jkorf/account/GetTradeVolume.json": of_pair(wire.fee_rates, *BTC),
    "jkorf/exchangedata/GetAssets.json": wire.asset_names,
    "jkorf/exchangedata/GetKlines.json": of_pair(wire.candles, *BTC),
    "jkorf/exchangedata/GetOrderBook.json": of_pair(wire.depth, *BTC),
    "jkorf/exchangedata/GetRecentSpread.json": nothing,
    "jkorf/exchangedata/GetSymbols.json": wire.pair_facts,
    "jkorf/exchangedata/GetSystemStatus.json": wire.system_status,
    "jkorf/exchangedata/GetTicker.json": of_pair(wire.ticker, *BTC),
    "jkorf/exchangedata/GetTradeHistory.json": of_pair(wire.public_trades, *BTC),
    "jkorf/json_responses/CancelOrderAsync.json": wire.cancelled,
    "jkorf/json_responses/GetAssetsAsync.json": wire.asset_names,
    "jkorf/json_responses/GetBalancesAsync.json": wire.balances,
    "jkorf/json_responses/GetClosedOrdersAsync.json": wire.closed_orders,
    "jkorf/json_responses/GetLedgerInfoAsync.json": wire.ledgers,
    "jkorf/json_responses/GetLedgersEntryAsync.json": nothing,
    "jkorf/json_responses/GetOpenOrdersAsync.json": wire.open_orders,
    "jkorf/json_responses/GetOpenPositionsAsync.json": nothing,
    "jkorf/json_responses/GetOrderAsync.json": wire.queried_orders,
    "jkorf/json_responses/GetOrderBookAsync.json": of_pair(wire.depth, *BTC),
    "jkorf/json_responses/GetSystemStatusAsync.json": wire.system_status,
    "jkorf/json_responses/GetTickerAsync.json": of_pair(wire.ticker, *BTC),
    "jkorf/json_responses/GetTickersAsync.json": of_pair(wire.ticker, *BTC),
    "jkorf/json_responses/GetTradeBalanceAsync.json": nothing,
    "jkorf/json_responses/GetTradeVolumeAsync.json": of_pair(wire.fee_rates, *BTC),
    "jkorf/json_responses/GetUserTradeDetailsAsync.json": wire.queried_trades,
    "jkorf/json_responses/GetUserTradesAsync.json": wire.trades_history,
    "jkorf/json_responses/PlaceOrderAsync.json": wire.placed,
    "jkorf/trading/CancelAllOrders.json": wire.cancelled,
    "jkorf/trading/CancelAllOrdersAfter.json": nothing,
    "jkorf/trading/CancelMultipleOrders.json": wire.cancelled,
    "jkorf/trading/CancelOrder.json": wire.cancelled,
    "jkorf/trading/EditOrder.json": nothing,
    "jkorf/trading/GetClosedOrders.json": wire.closed_orders,
    "jkorf/trading/GetOpenOrders.json": wire.open_orders,
    "jkorf/trading/GetOrders.json": wire.queried_orders,
    "jkorf/trading/GetOrders2.json": wire.queried_orders,
    "jkorf/trading/GetUserTradeDetails.json": wire.queried_trades,
    "jkorf/trading/GetUserTrades.json": wire.trades_history,
    "jkorf/trading/PlaceMultipleOrders.json": nothing,
    "jkorf/trading/PlaceOrder.json": wire.placed,
    "nautilus/http_add_order_spot.json": wire.placed,
    "nautilus/http_asset_pairs.json": wire.pair_facts,
    "nautilus/http_asset_pairs_tokenized.json": wire.pair_facts,
    "nautilus/http_cancel_order_spot.json": wire.cancelled,
    "nautilus/http_closed_orders.json": wire.closed_orders,
    "nautilus/http_ohlc.json": of_pair(wire.candles, "XBTUSDT"),
    "nautilus/http_open_orders.json": wire.open_orders,
    "nautilus/http_order_book.json": of_pair(wire.depth, "XBTUSDT"),
    "nautilus/http_server_time.json": wire.server_time,
    "nautilus/http_spot_balance.json": wire.balances,
    "nautilus/http_spot_open_positions.json": nothing,
    "nautilus/http_spot_trade_balance.json": nothing,
    "nautilus/http_system_status.json": wire.system_status,
    "nautilus/http_ticker.json": of_pair(wire.ticker, "XBTUSDT"),
    "nautilus/http_trades.json": of_pair(wire.public_trades, "XBTUSDT"),
    "nautilus/http_trades_history.json": wire.trades_history,
    "xchange/addorder-response-data.json": wire.placed,
    "xchange/assets-data.json": wire.asset_names,
    "xchange/balance-data.json": wire.balances,
    "xchange/cancelorder-data.json": wire.cancelled,
    "xchange/depth-data.json": of_pair(wire.depth, "XXBTZEUR"),
    "xchange/krakenWebsocketToken-data.json": nothing,
    "xchange/ledgerinfo-data.json": wire.ledgers,
    "xchange/market-ask-order.json": wire.queried_orders,
    "xchange/ohlc-data.json": of_pair(wire.candles, *BTC),
    "xchange/openorders-data.json": wire.open_orders,
    "xchange/openorders-in-transaction-currency-data.json": wire.open_orders,
    "xchange/order-data.json": wire.placed,
    "xchange/servertime-data.json": wire.server_time,
    "xchange/spreads-data.json": nothing,
    "xchange/ticker-data.json": of_pair(wire.ticker, "XXBTZEUR"),
    "xchange/tradebalanceinfo-data.json": nothing,
    "xchange/tradehistory-data.json": wire.trades_history,
    "xchange/tradehistory-icn.json": wire.trades_history,
    "xchange/trades-data.json": of_pair(wire.public_trades, *BTC),
    "xchange/tradevolume-data-2.json": of_pair(wire.fee_rates, *BTC),
    "xchange/tradevolume-data.json": of_pair(wire.fee_rates, *BTC),
}
# Answers of years ago that do not tell every limit of a pair: a limit not told is not "no limit".
REFUSED: Mapping[str, str] = {
    "recorded/assetpairs_20210417_doge.json": "is missing",
    "recorded/assetpairs_20210417_full.json.gz": "is missing",
    "jkorf/json_responses/GetSymbolsAsync.json": "is missing",
    "xchange/assetpairs-data.json": "is missing",
}
ERRORS: Mapping[str, str] = {"recorded/unknown_pair_20260925.json": "EQuery:Unknown asset pair"}


def is_other(name: str) -> str:
    """Return why a file is no answer of this wire, "" if it is one."""
    if name.startswith("openapi/"):
        return "a description of the interface, not an answer"
    if name.startswith("python_kraken_sdk/") or "/ws_" in name:
        return "a message of the websocket, whose wire is another"
    if name.startswith("errors/"):
        return "error answers and catalogues: test_kraken_errors.py"
    return ""


def read(name: str) -> Answer:
    """Return the answer in a file; some files hold it beside the request it belongs to."""
    raw = (FOLDER / name).read_bytes()
    body = gzip.decompress(raw) if name.endswith(".gz") else raw
    whole = json.loads(body, parse_float=D)
    if "response" in whole:
        body = json.dumps(whole["response"], default=float).encode()
    return wire.read_answer(200, body)


PAIR: dict[str, Any] = {
    "altname": "XDGUSD", "wsname": "XDG/USD", "base": "XXDG", "quote": "ZUSD", "lot_multiplier": 1,
    "cost_decimals": 9, "pair_decimals": 7, "lot_decimals": 8, "ordermin": "50", "costmin": "0.5",
    "tick_size": "0.0000001", "status": "online",
}  # fmt: skip
