"""The sandbox's private answers have the shapes of recorded and published ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox_client import Caller, make_venue
from tests.wire_shapes import shape

SHARED = Path(__file__).parent.parent.parent / "shared"
FIXTURES = SHARED / "kraken_rest"
pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason="needs the recorded answers")


def recorded(name: str) -> Any:
    """Return the result of a recorded answer."""
    told = json.loads((FIXTURES / name).read_text())
    told = told.get("response", told)
    return told["result"]


def caller_with_history() -> Caller:
    """Return a caller with an open, a filled and a cancelled order."""
    caller = Caller(make_venue(flat_fees=None))
    caller.place()
    caller.trade("0.0890000")
    caller.trade("0.1000000", "60")
    caller.ask("CancelOrder", txid=caller.place())
    caller.place(userref="5")
    return caller


def first(rows: dict[str, Any]) -> dict[str, Any]:
    """Return the first of rows keyed by id."""
    row: dict[str, Any] = next(iter(rows.values()))
    return row


def test_an_open_order_has_exactly_the_recorded_fields() -> None:
    """The recorded XDGUSD order of 2025: same keys, same kinds, same number of decimals."""
    ours = first(caller_with_history().ask("OpenOrders")["open"])
    theirs = first(recorded("recorded/openorders_xdgusd_20251017.json")["open"])
    assert shape(ours) == shape(theirs)
    for name in ("vol", "vol_exec", "cost", "fee", "price", "stopprice", "limitprice"):
        assert len(ours[name].partition(".")[2]) == len(theirs[name].partition(".")[2]), name
    assert ours["descr"]["price"].partition(".")[2] != ""


def fields(value: dict[str, Any]) -> dict[str, Any]:
    """Return the shape of an object, field by field."""
    told: dict[str, Any] = shape(value)
    return told


@pytest.mark.parametrize(
    ("method", "params", "part", "name"),
    [
        ("ClosedOrders", {}, "closed", "jkorf/trading/GetClosedOrders.json"),
        ("TradesHistory", {}, "trades", "jkorf/trading/GetUserTrades.json"),
        ("TradesHistory", {"ledgers": "true"}, "trades", "nautilus/http_trades_history.json"),
        ("Ledgers", {}, "ledger", "jkorf/account/GetLedgerInfo.json"),
        ("TradeVolume", {"pair": "XDGUSD"}, "fees", "jkorf/account/GetTradeVolume.json"),
        ("TradeVolume", {"pair": "XDGUSD"}, "fees_maker", "jkorf/account/GetTradeVolume.json"),
    ],
)
def test_rows_have_the_published_fields(
    method: str, params: dict[str, str], part: str, name: str
) -> None:
    """Every published field is there, of its kind; what we tell beyond is known."""
    ours = fields(first(caller_with_history().ask(method, **params)[part]))
    theirs = fields(first(recorded(name)[part]))
    beyond = {"aclass", "leverage", "trigger"}
    optional = {"refid", "trigger", "reason", "nextfee", "nextvolume", "subtype"}
    for field, kind in theirs.items():
        if field in optional:  # null or told by circumstance
            assert field in ours or field == "trigger", field
        elif field == "descr":
            assert set(kind) <= set(ours[field])
        else:
            assert ours[field] == kind, field
    assert set(ours) - set(theirs) <= beyond


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("GetApiKeyInfo", "jkorf/account/GetApiKeyInfo.json"),
        ("TradeBalance", "nautilus/http_spot_trade_balance.json"),
        ("CancelAll", "jkorf/trading/CancelAllOrders.json"),
    ],
)
def test_single_answers_have_the_published_fields(method: str, name: str) -> None:
    """All of ours are published ones of the same kind; none of the needed is missing."""
    ours, theirs = fields(caller_with_history().ask(method)), fields(recorded(name))
    assert set(theirs) - set(ours) <= {"ml"}
    assert set(ours) <= set(theirs)
    for field, kind in ours.items():
        if field not in ("iban", "api_key", "ip_allowlist"):
            assert kind == theirs[field], field


def test_order_answers_have_the_published_fields() -> None:
    """AddOrder, CancelOrder and the timer, as published."""
    caller = caller_with_history()
    placed = caller.ask("AddOrder", **caller.order(volume="60"))
    theirs = recorded("jkorf/json_responses/PlaceOrderAsync.json")
    assert shape(placed["txid"]) == shape(theirs["txid"])
    assert set(placed["descr"]) <= set(theirs["descr"])
    cancelled = caller.ask("CancelOrder", txid=placed["txid"][0])
    assert shape(cancelled) == shape(recorded("jkorf/trading/CancelOrder.json"))
    timer = caller.ask("CancelAllOrdersAfter", timeout="60")
    assert shape(timer) == shape(recorded("jkorf/trading/CancelAllOrdersAfter.json"))
