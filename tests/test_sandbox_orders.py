"""The sandbox's order entry: every documented check with the venue's words, and no effect."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sandbox_client import START, UUID, Caller, make_venue


def moment(seconds: float) -> str:
    """Return a time so many seconds after the start, RFC 3339."""
    return (datetime.fromtimestamp(START, UTC) + timedelta(seconds=seconds)).isoformat()


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"pair": "XDG/USD"}, "EQuery:Unknown asset pair"),
    ({"pair": "XBTUSD"}, "EQuery:Unknown asset pair"),
    ({"volume": "49"}, "EOrder:Order minimum not met"),
    ({"volume": "0"}, "EGeneral:Invalid arguments:volume"),
    ({"volume": "-100"}, "EGeneral:Invalid arguments:volume"),
    ({"volume": "1e3"}, "EGeneral:Invalid arguments:volume"),
    ({"volume": "NaN"}, "EGeneral:Invalid arguments:volume"),
    ({"volume": "100.123456789"}, "EGeneral:Invalid arguments:volume"),
    ({"price": "0.00900"}, "ok"),
    ({"price": "0.004"}, "EOrder:Cost minimum not met"),
    ({"price": "0"}, "EGeneral:Invalid arguments:price"),
    ({"price": ""}, "EGeneral:Invalid arguments:price"),
    (
        {"price": "0.09000001"},
        "EOrder:Invalid price:XDGUSD price can only be specified up to 7 decimals.",
    ),
    ({"volume": "20000"}, "EOrder:Insufficient funds"),
    ({"type": "sell", "price": "0.11", "volume": "5000.1"}, "EOrder:Insufficient funds"),
    ({"price": "0.1001"}, "EOrder:Post only order"),
    ({"type": "sell", "price": "0.0999"}, "EOrder:Post only order"),
    ({"type": "hold"}, "EGeneral:Invalid arguments:type"),
    ({"ordertype": "stop-loss"}, "EGeneral:Invalid arguments:ordertype"),
    ({"oflags": "post,fcib"}, "EGeneral:Invalid arguments:oflags"),
    ({"leverage": "2"}, "EGeneral:Invalid arguments:leverage"),
    ({"leverage": "none"}, "ok"),
    ({"timeinforce": "FOK"}, "EGeneral:Invalid arguments:timeinforce"),
    ({"timeinforce": "IOC"}, "EGeneral:Invalid arguments:timeinforce"),
    ({"timeinforce": "GTD"}, "EGeneral:Invalid arguments:expiretm"),
    ({"timeinforce": "GTD", "expiretm": "+4"}, "EGeneral:Invalid arguments:expiretm"),
    ({"stptype": "cancel-both"}, "EGeneral:Invalid arguments:stptype"),
    ({"userref": "7", "cl_ord_id": UUID}, "EGeneral:Invalid arguments:userref"),
    ({"userref": str(2**31)}, "EGeneral:Invalid arguments:userref"),
    ({"cl_ord_id": "x" * 19}, "EGeneral:Invalid arguments:cl_ord_id"),
    ({"cl_ord_id": "grid-1"}, "ok"),
    ({"deadline": moment(-1)}, "EService:Deadline elapsed"),
    ({"deadline": moment(1.9)}, "EService:Deadline elapsed"),
    ({"deadline": moment(10).replace("+00:00", "Z")}, "ok"),
    ({"deadline": moment(61)}, "EGeneral:Invalid arguments:deadline"),
    ({"deadline": "tomorrow"}, "EGeneral:Invalid arguments:deadline"),
    ({"deadline": "2026-09-21T10:00:00"}, "EGeneral:Invalid arguments:deadline"),
]


@pytest.mark.parametrize(("change", "expected"), REFUSALS)
def test_each_check_has_the_venues_words(change: dict[str, Any], expected: str) -> None:
    """An order is refused with its string and leaves nothing behind, or rests."""
    caller = Caller(make_venue())
    _, body = caller.raw("AddOrder", **(caller.order() | change))
    told = json.loads(body)
    assert told["error"] == ([] if expected == "ok" else [expected])
    assert len(caller.ask("OpenOrders")["open"]) == (expected == "ok")
    held = caller.ask("BalanceEx")["ZUSD"]["hold_trade"]
    assert (held == "0.0000") is (expected != "ok")


@pytest.mark.parametrize("name", ["XDGUSD", "DOGEUSD", "DOGE/USD"])
def test_the_pair_goes_by_its_documented_names(name: str) -> None:
    """All accepted names lead to the same book."""
    caller = Caller(make_venue())
    caller.place(pair=name)
    (order,) = caller.ask("OpenOrders")["open"].values()
    assert order["descr"]["pair"] == "XDGUSD"


@pytest.mark.parametrize("word", ["true", "True", "1", "yes"])
def test_validate_never_places(word: str) -> None:
    """Every text but 0 and false validates only, with the checks of a real order."""
    caller = Caller(make_venue())
    result = caller.ask("AddOrder", **caller.order(validate=word))
    assert result == {"descr": {"order": "buy 100.00000000 XDGUSD @ limit 0.0900000"}}
    refused = caller.refusal("AddOrder", **caller.order(validate=word, volume="20000"))
    assert refused == ["EOrder:Insufficient funds"]
    assert caller.ask("OpenOrders") == {"open": {}}
    assert caller.ask("AddOrder", **caller.order(validate="false"))["txid"]


@pytest.mark.parametrize("word", ["false", "False", "0", ""])
def test_validate_said_to_be_false_places(word: str) -> None:
    """False as Python writes it is sent with every order by a client whose orders are placed."""
    caller = Caller(make_venue())
    assert "txid" in caller.ask("AddOrder", **caller.order(validate=word, reduce_only=word))


def test_the_number_of_open_orders_is_limited() -> None:
    """The order after the last one allowed is refused."""
    caller = Caller(make_venue(open_order_limit=2))
    caller.place()
    caller.place()
    assert caller.refusal("AddOrder", **caller.order()) == ["EOrder:Orders limit exceeded"]


def test_young_cancels_fill_the_engines_counter() -> None:
    """Starter: six orders cost 6, their cancels at once 8 each; the seventh finds no room."""
    caller = Caller(make_venue(tier="starter"))
    ids = [caller.place() for _ in range(7)]
    for txid in ids[:6]:
        caller.ask("CancelOrder", txid=txid)
    assert caller.refusal("CancelOrder", txid=ids[6]) == ["EOrder:Rate limit exceeded"]
    caller.now += 300
    assert caller.ask("CancelOrder", txid=ids[6]) == {"count": 1}


def test_an_order_that_meets_our_own_is_cancelled_on_arrival() -> None:
    """Self-trade prevention takes the newest: it has a txid and is over at once."""
    caller = Caller(make_venue())
    caller.place("sell", "0.1000500", oflags="fciq")
    newest = caller.place("buy", "0.1000500", oflags="fciq")
    assert newest in caller.ask("ClosedOrders")["closed"]
    assert len(caller.ask("OpenOrders")["open"]) == 1


def test_a_market_order_takes_and_leaves_nothing() -> None:
    """It pays the touch and a tick more, with the taker's fee."""
    caller = Caller(make_venue())
    order = caller.order(oflags="fciq", ordertype="market")
    txid = caller.ask("AddOrder", **order)["txid"][0]
    told = caller.ask("QueryOrders", txid=txid)[txid]
    assert (told["status"], told["vol_exec"]) == ("closed", "100.00000000")
    (trade,) = caller.ask("TradesHistory")["trades"].values()
    assert (trade["maker"], trade["ordertype"]) == (False, "market")


def test_a_good_till_date_order_expires_in_time() -> None:
    """Until its date it rests, then it is expired, its hold gone."""
    caller = Caller(make_venue())
    txid = caller.place(timeinforce="GTD", expiretm="+30")
    caller.now += 29
    assert txid in caller.ask("OpenOrders")["open"]
    caller.now += 1
    told = caller.ask("QueryOrders", txid=txid)[txid]
    assert (told["status"], told["closetm"]) == ("expired", START + 30)
    assert caller.ask("BalanceEx")["ZUSD"]["hold_trade"] == "0.0000"


def test_an_immediate_order_cancels_what_it_cannot_take() -> None:
    """IOC away from the market takes nothing and is cancelled."""
    caller = Caller(make_venue())
    txid = caller.place(oflags="fciq", timeinforce="IOC")
    assert caller.ask("QueryOrders", txid=txid)[txid]["status"] == "canceled"


STATUS_CASES = [
    ("cancel_only", "post,fciq", "EService:Market in cancel_only mode", True),
    ("post_only", "fciq", "EService:Market in post_only mode", True),
    ("post_only", "post,fciq", None, True),
    ("limit_only", "post,fciq", None, True),
    ("maintenance", "post,fciq", "EService:Unavailable", False),
]


@pytest.mark.parametrize(("status", "flags", "expected", "cancels"), STATUS_CASES)
def test_the_status_says_what_is_taken(
    status: str, flags: str, expected: str | None, cancels: bool
) -> None:
    """Each status refuses what the venue documents; in maintenance nothing goes at all."""
    venue = make_venue()
    caller = Caller(venue)
    txid = caller.place()
    venue.set_status(status)
    assert caller.public("SystemStatus")["status"] == status
    _, body = caller.raw("AddOrder", **caller.order(oflags=flags))
    assert json.loads(body)["error"] == ([] if expected is None else [expected])
    _, body = caller.raw("CancelOrder", txid=txid)
    assert json.loads(body)["error"] == ([] if cancels else ["EService:Unavailable"])


@pytest.mark.parametrize("status", ["cancel_only", "post_only", "maintenance"])
def test_nothing_matches_unless_the_market_is_online(status: str) -> None:
    """A print through the limit fills nothing; the price is shown; online the next one fills."""
    venue = make_venue()
    caller = Caller(venue)
    caller.place()
    venue.set_status(status)
    caller.trade("0.0890000")
    assert venue.truth().trades == ()
    assert caller.public("Ticker", "?pair=XDGUSD")["XDGUSD"]["c"][0] == "0.089000000"
    venue.set_status("online")
    caller.trade("0.0890000")
    assert len(venue.truth().trades) == 1


def test_a_limit_only_market_takes_no_market_order() -> None:
    """It says so in its own words."""
    venue = make_venue(status="limit_only")
    caller = Caller(venue)
    order = caller.order(oflags="fciq", ordertype="market")
    assert caller.refusal("AddOrder", **order) == ["EService:Market in limit_only mode"]


def test_a_batch_may_fail_order_by_order() -> None:
    """Two are taken, one is refused with its own string; forms and single orders are refused."""
    caller = Caller(make_venue())
    good = {"ordertype": "limit", "type": "buy", "volume": "100", "price": "0.09", "oflags": "post"}
    orders = [good, good | {"price": "0.2"}, good | {"cl_ord_id": UUID}]
    told = caller.ask("AddOrderBatch", is_json=True, pair="XDGUSD", orders=orders)["orders"]
    assert told[1] == {"error": "EOrder:Post only order"}
    assert set(caller.ask("OpenOrders")["open"]) == {told[0]["txid"], told[2]["txid"]}
    refusal = caller.refusal("AddOrderBatch", is_json=True, pair="XDGUSD", orders=[good])
    assert refusal == ["EGeneral:Invalid arguments:orders"]
    assert caller.refusal("AddOrderBatch", pair="XDGUSD") == ["EAPI:Bad request"]


def test_cancelling_many_counts_those_that_were_open() -> None:
    """A batch by txid and client id, and then all the rest."""
    caller = Caller(make_venue())
    first, _ = caller.place(), caller.place(cl_ord_id=UUID)
    caller.place()
    orders = [first, "OAAAAA-AAAAA-AAAAAA"]
    told = caller.ask("CancelOrderBatch", is_json=True, orders=orders, cl_ord_ids=[UUID])
    assert told == {"count": 2}
    assert caller.ask("CancelAll") == {"count": 1}
    assert caller.ask("OpenOrders") == {"open": {}}


def test_a_userref_names_many_orders() -> None:
    """It is never unique; filters and cancels find all of its orders."""
    caller = Caller(make_venue())
    ids = {caller.place(userref="7"), caller.place(userref="7")}
    caller.place(userref="8")
    assert set(caller.ask("OpenOrders", userref="7")["open"]) == ids
    assert caller.ask("CancelOrder", txid="7") == {"count": 2}
    assert caller.refusal("CancelOrder", userref="7") == ["EOrder:Unknown order"]


def test_the_dead_mans_switch_cancels_everything_in_time() -> None:
    """Renewed it waits, ended it does nothing, lapsed it cancels, after maintenance too."""
    venue = make_venue()
    caller = Caller(venue)
    caller.place()
    told = caller.ask("CancelAllOrdersAfter", timeout="60")
    assert told["currentTime"] == moment(0).replace("+00:00", "Z")
    assert told["triggerTime"] == moment(60).replace("+00:00", "Z")
    caller.now += 50
    caller.ask("CancelAllOrdersAfter", timeout="60")
    caller.now += 50
    assert len(caller.ask("OpenOrders")["open"]) == 1
    venue.set_status("maintenance")
    caller.now += 50
    caller.refusal("Balance")
    assert not venue.truth().orders[0].last.closed_at
    venue.set_status("online")
    assert caller.ask("OpenOrders") == {"open": {}}
    caller.place()
    caller.ask("CancelAllOrdersAfter", timeout="60")
    caller.ask("CancelAllOrdersAfter", timeout="0")
    caller.now += 100
    assert len(caller.ask("OpenOrders")["open"]) == 1


def test_an_amendment_keeps_the_id_and_is_refused_whole() -> None:
    """Price and volume change in place; what would cross or is too dear changes nothing."""
    caller = Caller(make_venue())
    txid = caller.place(cl_ord_id=UUID)
    caller.ask("AmendOrder", cl_ord_id=UUID, limit_price="0.0950000", order_qty="200")
    order = caller.ask("OpenOrders")["open"][txid]
    assert (order["descr"]["price"], order["vol"]) == ("0.0950000", "200.00000000")
    for change, words in (
        ({"limit_price": "0.11"}, "EOrder:Post only order"),
        ({"order_qty": "90000"}, "EOrder:Insufficient funds"),
        ({"order_qty": "10"}, "EOrder:Order minimum not met"),
        ({}, "EGeneral:Invalid arguments:order_qty"),
    ):
        assert caller.refusal("AmendOrder", txid=txid, **change) == [words]
        assert caller.ask("OpenOrders")["open"][txid] == order
    caller.ask("AmendOrder", txid=txid, order_qty="60")
    assert caller.ask("BalanceEx")["ZUSD"]["hold_trade"] == "5.7228"
    caller.trade("0.0890000", "55")
    caller.trade("0.0890000", "55")
    assert caller.ask("QueryOrders", txid=txid)[txid]["status"] == "closed"
    assert caller.refusal("EditOrder", txid=txid) == ["EAPI:Feature disabled"]


def test_an_amendment_below_what_is_executed_cancels_the_rest() -> None:
    """The order is over with what it had."""
    caller = Caller(make_venue())
    txid = caller.place()
    caller.trade("0.0890000", "70")
    caller.ask("AmendOrder", txid=txid, order_qty="60")
    told = caller.ask("QueryOrders", txid=txid)[txid]
    assert (told["status"], told["vol_exec"]) == ("canceled", "70.00000000")


def test_deposits_and_withdrawals_are_ledger_rows() -> None:
    """Funds move by hand: never more than is free, and trading uses them."""
    venue = make_venue()
    caller = Caller(venue)
    caller.place(volume="9000")
    with pytest.raises(ValueError, match="are free"):
        venue.deposit("USD", -venue.truth().balances["ZUSD"])
    venue.deposit("ZUSD", venue.truth().balances["ZUSD"])
    venue.deposit("XDG.F", venue.truth().balances["XXDG"])
    caller.place(volume="9000")
    rows = list(caller.ask("Ledgers", type="deposit")["ledger"].values())
    assert [x["asset"] for x in rows] == ["XDG.F", "ZUSD", "XXDG", "ZUSD"]
    assert caller.ask("Balance")["XDG.F"] == "5000.00000000"
    with pytest.raises(ValueError, match="knows no asset"):
        venue.deposit("NOPE", venue.truth().balances["ZUSD"])
