"""The sandbox's private side: orders, queries and balances behave as the venue documents."""

import re
from decimal import Decimal

from core.domain import Side
from exchange.sandbox_assets import ASSETS
from tests.sandbox_client import KEY, START, UUID, Caller, make_venue


def test_an_order_rests_and_is_told_as_recorded() -> None:
    """A post-only buy appears in OpenOrders with the recorded order's keys and forms."""
    caller = Caller(make_venue())
    result = caller.ask("AddOrder", **caller.order(cl_ord_id=UUID))
    assert result["descr"] == {"order": "buy 100.00000000 XDGUSD @ limit 0.0900000"}
    (txid,) = result["txid"]
    assert re.fullmatch(r"O[A-Z0-9]{5}-[A-Z0-9]{5}-[A-Z0-9]{6}", txid)
    (order,) = caller.ask("OpenOrders")["open"].values()
    assert order["vol"] == "100.00000000"
    assert order["vol_exec"] == "0.00000000"
    assert order["cl_ord_id"] == UUID
    assert order["opentm"] == START
    assert order["descr"]["pair"] == "XDGUSD"
    assert "closetm" not in order


def test_a_fill_is_told_everywhere_exactly() -> None:
    """Order, trade, ledger and balances of one execution agree to the last digit."""
    caller = Caller(make_venue())
    txid = caller.place()
    caller.trade("0.0890000")
    order = caller.ask("QueryOrders", txid=txid, trades="true")[txid]
    history = caller.ask("TradesHistory", ledgers="true")
    ((trade_id, trade),) = history["trades"].items()
    assert order["status"] == "closed"
    assert order["trades"] == [trade_id]
    assert (order["vol_exec"], order["cost"]) == ("100.00000000", "9.000000000")
    assert (trade["cost"], trade["fee"], trade["maker"]) == ("9.000000000", "0.036000000", True)
    assert caller.ask("Balance") == {"ZUSD": "990.9640", "XXDG": "5100.00000000"}
    rows = caller.ask("Ledgers", type="trade")["ledger"]
    assert sorted(rows) == sorted(trade["ledgers"])
    assert {(x["asset"], x["amount"], x["fee"]) for x in rows.values()} == {
        ("ZUSD", "-9.0000", "0.0360"),
        ("XXDG", "100.00000000", "0.00000000"),
    }


def test_balances_hold_what_orders_reserve() -> None:
    """A buy holds its cost with the fee, a sell its volume."""
    caller = Caller(make_venue())
    caller.place()
    caller.place("sell", "0.1100000")
    told = caller.ask("BalanceEx")
    assert told["ZUSD"] == {"balance": "1000.0000", "hold_trade": "9.0360"}
    assert told["XXDG"]["hold_trade"] == "100.00000000"


def test_cancelled_and_unknown_orders_answer_as_documented() -> None:
    """A second cancel is an unknown order, an invented id an invalid one."""
    caller = Caller(make_venue())
    txid = caller.place()
    assert caller.ask("CancelOrder", txid=txid) == {"count": 1}
    assert caller.refusal("CancelOrder", txid=txid) == ["EOrder:Unknown order"]
    assert caller.refusal("CancelOrder", txid="OAAAAA-AAAAA-AAAAAA") == ["EOrder:Invalid order"]
    order = caller.ask("ClosedOrders")["closed"][txid]
    assert (order["status"], order["reason"]) == ("canceled", "User requested")
    assert caller.refusal("QueryOrders", txid="OAAAAA-AAAAA-AAAAAA") == ["EOrder:Invalid order"]


def test_a_client_id_is_unique_among_open_orders_only_and_by_value() -> None:
    """Another spelling of the same 128 bits is refused while open, taken again afterwards."""
    caller = Caller(make_venue())
    txid = caller.place(cl_ord_id=UUID)
    spelled = UUID.replace("-", "").upper()
    refusal = caller.refusal("AddOrder", **caller.order(cl_ord_id=spelled))
    assert refusal == ["EGeneral:Invalid arguments:cl_ord_id not unique"]
    caller.ask("CancelOrder", cl_ord_id=spelled)
    second = caller.place(cl_ord_id=UUID)
    assert list(caller.ask("OpenOrders", cl_ord_id=spelled)["open"]) == [second]
    assert list(caller.ask("ClosedOrders", cl_ord_id=spelled)["closed"]) == [txid]


def test_the_account_belongs_to_every_key() -> None:
    """A second key sees and trades the same account."""
    other = KEY.__class__(name="other", key="other", secret=KEY.secret)
    venue = make_venue(keys=(KEY, other))
    txid = Caller(venue).place()
    assert list(Caller(venue, other).ask("OpenOrders")["open"]) == [txid]


def test_truth_agrees_with_the_engine() -> None:
    """The ledger's balances are those of the matching engine."""
    caller = Caller(make_venue())
    caller.place()
    caller.place("sell", "0.1100000")
    caller.trade("0.0890000", "60")
    caller.trade("0.1110000", "70", "buy")
    truth, totals = caller.venue.truth(), caller.venue.account.engine.totals()
    assert (truth.balances["XXDG"], truth.balances["ZUSD"]) == totals
    assert [x.side for x in truth.trades] == [Side.BUY, Side.SELL]
    assert {x.id for x in ASSETS} >= set(truth.balances)
    assert truth.balances["XXDG"] == Decimal(5000) + 60 - 70
