"""The sandbox's queries: pages that shift, windows, filters, consolidation, lags, fees."""

from decimal import Decimal
from typing import Any

import pytest

from core.market import Book
from tests.sandbox_client import START, UUID, Caller, make_venue


def cancelled(caller: Caller, count: int) -> list[str]:
    """Place and cancel so many orders, one a second; return their ids, oldest first."""
    ids = []
    for _ in range(count):
        caller.now += 0.5
        ids.append(caller.place())
        caller.now += 0.5
        caller.ask("CancelOrder", txid=ids[-1])
        caller.now += 10.0
    return ids


def test_closed_orders_come_in_pages_newest_first_that_shift() -> None:
    """50 a page with the count of all; an order closed between two pages shifts the second."""
    caller = Caller(make_venue())
    ids = cancelled(caller, 60)
    first = caller.ask("ClosedOrders")
    assert list(first["closed"]) == ids[:9:-1]
    assert first["count"] == 60
    (more,) = cancelled(caller, 1)
    second = caller.ask("ClosedOrders", ofs="50", without_count="true")
    assert list(second["closed"]) == ids[10::-1]
    assert "count" not in second
    assert next(iter(caller.ask("ClosedOrders")["closed"])) == more
    assert caller.ask("ClosedOrders", ofs="100")["closed"] == {}


def test_a_window_excludes_its_start_and_includes_its_end() -> None:
    """Times of opening, closing or both; an id stands for the time its order was opened."""
    caller = Caller(make_venue())
    ids = cancelled(caller, 3)
    told = caller.ask("ClosedOrders")["closed"]
    close = told[ids[1]]["closetm"]

    def found(**window: Any) -> list[str]:
        return list(caller.ask("ClosedOrders", **window)["closed"])

    assert found(closetime="close", start=close) == [ids[2]]
    assert found(closetime="close", start=close - 0.1, end=close) == [ids[1]]
    assert found(closetime="open", end=ids[1]) == ids[1::-1]
    assert found(closetime="both", start=close - 0.1, end=close) == [ids[1]]
    assert found(closetime="open", start=ids[1]) == [ids[2]]
    for bad in ({"closetime": "never"}, {"start": "soon"}, {"ofs": "-1"}, {"end": ids[0][::-1]}):
        name = next(iter(bad))
        assert caller.refusal("ClosedOrders", **bad) == [f"EGeneral:Invalid arguments:{name}"]


def test_orders_are_filtered_by_reference() -> None:
    """Userref and client id filter open, closed and queried orders."""
    caller = Caller(make_venue())
    own, ref = caller.place(cl_ord_id=UUID), caller.place(userref="5")
    for method, name in (("OpenOrders", "open"), ("QueryOrders", None)):
        more = {} if name else {"txid": f"{own},{ref}"}
        for filter_, txid in (({"cl_ord_id": UUID.upper()}, own), ({"userref": "5"}, ref)):
            told = caller.ask(method, **more, **filter_)
            assert list(told[name] if name else told) == [txid]
    assert caller.refusal("QueryOrders") == ["EGeneral:Invalid arguments:txid"]
    many = ",".join([own] * 51)
    assert caller.refusal("QueryOrders", txid=many) == ["EGeneral:Invalid arguments:txid"]


def book(at: float) -> Book:
    """Return a book of two small levels a side."""
    levels = [Decimal("0.0999"), Decimal("0.0998")], [Decimal("0.1001"), Decimal("0.1002")]
    bids, asks = (tuple((price, Decimal(60)) for price in side) for side in levels)
    return Book(time=at, bids=bids, asks=asks)


def test_takers_are_consolidated_unless_asked_otherwise() -> None:
    """One taking order that walked two levels is one trade by default, two when asked."""
    caller = Caller(make_venue())
    caller.now += 1
    caller.venue.feed(book(caller.now))
    txid = caller.place(price="0.1002000", oflags="fciq")
    (merged,) = caller.ask("TradesHistory")["trades"].values()
    single = caller.ask("TradesHistory", consolidate_taker="false")["trades"]
    assert merged["vol"] == "100.00000000"
    assert sorted(x["vol"] for x in single.values()) == ["40.00000000", "60.00000000"]
    order = caller.ask("QueryOrders", txid=txid, trades="true", consolidate_taker="false")[txid]
    assert set(order["trades"]) == set(single)
    assert Decimal(merged["cost"]) == sum(Decimal(x["cost"]) for x in single.values())
    asked = caller.ask("QueryTrades", txid=",".join(single))
    assert asked == single
    assert caller.refusal("QueryTrades", txid=txid) == ["EGeneral:Invalid arguments:txid"]


def test_trades_come_in_pages_of_any_size() -> None:
    """`limit` sets the page, `ofs` its place, the count is of all."""
    caller = Caller(make_venue())
    for _ in range(5):
        caller.place()
        caller.trade("0.0890000")
        caller.trade("0.1000000", "60")
    told = caller.ask("TradesHistory", limit="2", ofs="3")
    times = [x["time"] for x in told["trades"].values()]
    assert (len(times), told["count"]) == (2, 5)
    assert times == sorted(times, reverse=True)
    assert caller.refusal("TradesHistory", limit="101") == ["EGeneral:Invalid arguments:limit"]
    assert caller.ask("TradesHistory", type="any position")["trades"] == {}


LAGGING = ["OpenOrders", "ClosedOrders", "QueryOrders", "TradesHistory", "Balance", "Ledgers"]


@pytest.mark.parametrize("endpoint", LAGGING)
def test_each_endpoint_lags_on_its_own(endpoint: str) -> None:
    """It tells the account of 3 s ago, all others that of now; 3 s later it has caught up."""
    venue = make_venue(lags={endpoint: 3.0})
    caller = Caller(venue)
    resting = caller.place(price="0.0800000")
    caller.now += 10
    filled = caller.place()
    caller.now += 5
    caller.trade("0.0890000")

    def seen() -> dict[str, bool]:
        orders = caller.raw("QueryOrders", txid=filled)[1]
        return {
            "OpenOrders": list(caller.ask("OpenOrders")["open"]) == [resting],
            "ClosedOrders": filled in caller.ask("ClosedOrders")["closed"],
            "QueryOrders": b'"status":"closed"' in orders,
            "TradesHistory": len(caller.ask("TradesHistory")["trades"]) == 1,
            "Balance": caller.ask("Balance")["XXDG"].startswith("5100."),
            "Ledgers": len(caller.ask("Ledgers", type="trade")["ledger"]) == 2,
        }

    expected = {name: name != endpoint for name in LAGGING}
    assert seen() == expected
    caller.now += 3.1
    assert all(seen().values())


def test_a_random_lag_is_seeded_and_bounded() -> None:
    """The same seed sees the same; nothing lags longer than the bound."""

    def watch(seed: int) -> list[int]:
        caller = Caller(make_venue(lags={"": 4.0}, is_lag_random=True, seed=seed))
        caller.now += 10
        caller.place()
        seen = []
        for _ in range(10):
            caller.now += 0.5
            seen.append(len(caller.ask("OpenOrders")["open"]))
        return seen

    assert watch(1) == watch(1)
    assert watch(1) != watch(2)
    assert all(watch(seed)[-2:] == [1, 1] for seed in range(5))


def test_lags_out_of_bounds_are_refused() -> None:
    """An endpoint without lag, and one longer than the past that is kept."""
    for lags, words in (({"AddOrder": 1.0}, "has no lag"), ({"Balance": 1e6}, "must be from 0")):
        with pytest.raises(ValueError, match=words):
            make_venue(lags=lags)


def test_fees_follow_the_volume() -> None:
    """TradeVolume tells the tier in percent, what comes next, and flat fees as they are."""
    caller = Caller(make_venue(flat_fees=None))
    told = caller.ask("TradeVolume", pair="DOGE/USD")
    assert told["fees_maker"]["XDGUSD"] == {
        "fee": "0.4000",
        "minfee": "0.0000",
        "maxfee": "0.4000",
        "nextfee": "0.3000",
        "nextvolume": "2500.0000",
        "tiervolume": "0.0000",
    }
    assert told["fees"]["XDGUSD"]["fee"] == "0.8000"
    assert caller.ask("TradeVolume") == {"currency": "ZUSD", "volume": "0.0000"}
    assert caller.refusal("TradeVolume", pair="XBTUSD") == ["EQuery:Unknown asset pair"]
    flat = Caller(make_venue()).ask("TradeVolume", pair="XDGUSD")
    assert flat["fees_maker"]["XDGUSD"]["fee"] == "0.4000"
    assert flat["fees_maker"]["XDGUSD"]["nextfee"] is None


def test_the_ledger_adds_up_to_the_balance() -> None:
    """Amounts less fees of all rows are the balance, and each row tells the one after it."""
    caller = Caller(make_venue())
    for _ in range(3):
        caller.place()
        caller.place("sell", "0.1200000")
        caller.trade("0.0890000", "70")
        caller.trade("0.1210000", "80", "buy")
        caller.trade("0.1000000", "60")
    for asset, total in caller.ask("Balance").items():
        rows = list(caller.ask("Ledgers", asset=asset)["ledger"].values())
        moved = sum(Decimal(x["amount"]) - Decimal(x["fee"]) for x in rows)
        assert moved == Decimal(total) == Decimal(rows[0]["balance"])
    some = list(caller.ask("Ledgers")["ledger"])[:2]
    assert list(caller.ask("QueryLedgers", id=",".join(some))) == some
    assert caller.refusal("QueryLedgers", id="nope") == ["EGeneral:Invalid arguments:id"]


def test_equity_is_at_the_last_price() -> None:
    """TradeBalance values the base; the token call gives a token."""
    caller = Caller(make_venue())
    caller.place()
    told = caller.ask("TradeBalance", asset="USD")
    assert (told["eb"], told["tb"], told["uv"]) == ("1500.0000", "1000.0000", "9.0360")
    assert caller.refusal("GetWebSocketsToken") == ["EGeneral:Permission denied"]


def test_time_is_the_callers_and_never_goes_back() -> None:
    """The venue tells the time of the question, or the latest it has seen."""
    caller = Caller(make_venue())
    assert caller.public("Time")["unixtime"] == int(START)
    caller.now += 100
    caller.public("Time")
    caller.now -= 50
    assert caller.public("Time")["unixtime"] == int(START + 100)
