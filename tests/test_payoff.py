"""Equity at other prices: golden numbers by hand, and what must hold of any set of orders."""

import json
import urllib.request
from decimal import Decimal
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.params import Params
from core.state import BotState
from core.status import Published
from dashboard import Dashboard
from engine.status_view import build_status
from tests.test_status import sample_facts, sample_state
from web.payoff import payoff

D = Decimal
Order = tuple[str, str, str]  # side, price, volume


def status(
    orders: list[Order], *, bid: str | None = "0.1", cash: str = "100", base: str = "1000",
    fee: str = "0.4", **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return as much of a status as the curve is made of; every order in a leg or a recovery."""
    told = [
        {"order": {"side": s, "price": p, "volume": v, "filled": "0", "status": "open"} | more}
        for s, p, v in orders
    ]
    slots = [{"legs": [*told[:1], {"order": None}], "recoveries": told[1:]}]
    equity = {"cash": cash, "base": base, "holding_base": "1200", "holding_quote": "80"}
    market, exchange = {"bid": bid, "price_decimals": 4}, {"maker_pct": fee}
    return {"market": market, "equity": equity, "exchange": exchange, "slots": slots}


def at(curve: dict[str, Any], price: str) -> dict[str, Any]:
    """Return the point at a price."""
    return next(x for x in curve["points"] if x["price"] == price)


def test_golden_numbers() -> None:
    """Two buys and two sells, computed by hand; 101 points of a percent and four of orders."""
    curve = payoff(
        status(
            [("buy", "0.0955", "200"), ("sell", "0.1045", "300"), ("buy", "0.0705", "400"),
             ("sell", "0.1205", "500")]
        )
    )  # fmt: skip
    assert curve["mark"] == "0.1"
    assert at(curve, "0.1") == {
        "price": "0.1", "change_pct": "0", "equity": "200", "cash": "100", "base": "1000",
        "holding": "200",
    }  # fmt: skip
    # 100 − 200 · 0.0955 · 1.004 = 80.8236
    assert at(curve, "0.0955") == {
        "price": "0.0955", "change_pct": "-4.5", "equity": "195.4236", "cash": "80.8236",
        "base": "1200", "holding": "194.6",
    }  # fmt: skip
    # 80.8236 − 400 · 0.0705 · 1.004 = 52.5108
    assert at(curve, "0.05") == {
        "price": "0.05", "change_pct": "-50", "equity": "132.5108", "cash": "52.5108",
        "base": "1600", "holding": "140",
    }  # fmt: skip
    # 100 + 300 · 0.1045 · 0.996 = 131.2246; + 500 · 0.1205 · 0.996 = 191.2336
    assert at(curve, "0.1045")["equity"] == "204.3746"
    assert at(curve, "0.15") == {
        "price": "0.15", "change_pct": "50", "equity": "221.2336", "cash": "191.2336",
        "base": "200", "holding": "260",
    }  # fmt: skip
    assert len(curve["points"]) == 105
    prices = [D(x["price"]) for x in curve["points"]]
    assert prices == sorted(prices)
    ends = ("cash_exhausted_at", "all_sold_at", "cash_after_all_buys", "base_after_all_sells")
    assert [curve[x] for x in ends] == [None, None, "52.5108", "200"]
    assert "nothing new is placed" in curve["note"]


def test_what_does_not_suffice_executes_as_far_as_it_can() -> None:
    """The order at which cash or base ends is named, also beyond the range; later ones get none."""
    curve = payoff(
        status(
            [("buy", "0.08", "2000"), ("buy", "0.06", "500"), ("sell", "0.12", "800"),
             ("sell", "0.2", "800"), ("sell", "0.3", "1")]
        )
    )  # fmt: skip
    # 100 / (0.08 · 1.004) = 1245.01992031…
    assert curve["cash_exhausted_at"] == "0.08"
    assert curve["cash_after_all_buys"] == "0"
    assert at(curve, "0.08")["base"] == at(curve, "0.05")["base"] == "2245.01992031"
    assert curve["all_sold_at"] == "0.2"
    assert curve["base_after_all_sells"] == "0"
    assert at(curve, "0.15")["base"] == "200"
    exact = payoff(status([("buy", "0.05", "200")], cash="10.04"))
    assert (exact["cash_exhausted_at"], exact["cash_after_all_buys"]) == ("0.05", "0")


@pytest.mark.parametrize("state", ["pending", "uncertain", "cancelling"])
def test_an_order_in_doubt_is_the_worse_case(state: str) -> None:
    """It counts as open: without it every point is as good or better."""
    orders = [("buy", "0.09", "300"), ("sell", "0.11", "300")]
    doubtful, without = payoff(status(orders, status=state)), payoff(status([]))
    for point in without["points"]:
        assert D(at(doubtful, point["price"])["equity"]) <= D(point["equity"])
    assert D(at(doubtful, "0.05")["equity"]) < D(at(without, "0.05")["equity"])
    assert at(doubtful, "0.1") == at(without, "0.1")


def test_only_the_rest_of_an_order_and_nothing_without_a_price() -> None:
    """What is filled is owned already; an order that waits for its end has no rest."""
    curve = payoff(status([("buy", "0.09", "300"), ("buy", "0.08", "100")], filled="100"))
    assert at(curve, "0.05")["base"] == "1200"
    assert at(curve, "0.08")["base"] == "1200"
    none = payoff(status([("buy", "0.09", "300")], bid=None))
    assert none["points"] == []
    assert none["mark"] is none["cash_exhausted_at"] is none["cash_after_all_buys"] is None
    assert none["note"] == "there is no price yet"


prices = st.integers(400, 2000).map(lambda n: D(n) / 10_000)
volumes = st.integers(1, 5_000).map(D)
money = st.integers(0, 10**6).map(lambda n: D(n) / 100)


@given(
    st.lists(st.tuples(prices, volumes), max_size=25), st.integers(600, 1500), money, money,
    st.sampled_from(["0", "0.16", "0.4"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_equity_moves_with_the_price_and_falls_by_fees_alone(
    found: list[tuple[Decimal, Decimal]], bid: int, cash: Decimal, base: Decimal, fee: str
) -> None:
    """Between two points it changes by base × price, at an order besides by the order's fee."""
    mark = D(bid) / 10_000
    orders = [("buy" if p <= mark else "sell", str(p), str(v)) for p, v in found]
    shown = status(orders, bid=str(mark), cash=str(cash), base=str(base), fee=fee)
    curve = payoff(shown)
    points = [{k: D(v) for k, v in x.items()} for x in curve["points"]]
    middle = next(n for n, x in enumerate(points) if x["price"] == mark)
    assert points[middle]["equity"] == cash + base * mark
    for way in (points[middle::-1], points[middle:]):
        for before, after in pairwise(way):
            here = [o for o in orders if D(o[1]) == after["price"]]
            # An order at the mark itself fills on the first step away from it.
            here += [o for o in orders if before["price"] == mark == D(o[1])]
            moved = before["base"] * (after["price"] - before["price"])
            gap = before["equity"] + moved - after["equity"]
            most = sum((D(p) * D(v) for _, p, v in here), D(0)) * D(fee) / 100
            if before["price"] == mark:  # what it buys there loses the first step
                most += sum((D(v) for _, p, v in here if D(p) == mark), D(0)) * abs(
                    after["price"] - mark
                )
            assert D("-0.0000001") <= gap <= most + D("0.0000001")
            assert after["cash"] >= 0
            assert after["base"] >= 0


def test_it_is_served_from_the_published_status() -> None:
    """Over HTTP; at today's mark the curve is the status' own equity and holding."""
    shown: list[Published] = []
    app = Dashboard(
        "127.0.0.1", 0, token=None, read_only=False, allowed_hosts=(),
        published=lambda: shown[-1] if shown else None, readiness=lambda: None,
        liveness=lambda: True, submit=lambda *_: None,  # type: ignore[arg-type, return-value]
        history=None, monotonic=lambda: float(len(shown)),  # type: ignore[arg-type]  # not asked
    )  # fmt: skip
    app.start()
    url = f"http://127.0.0.1:{app.port}/api/payoff"
    try:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url, timeout=30)
        assert refused.value.code == 503
        answers = []
        for state in (sample_state(), BotState()):
            body = msgspec.json.encode(build_status(state, Params(), sample_facts()))
            shown.append(Published(body=body, gzip_body=b"", etag="x", version=1))
            with urllib.request.urlopen(url, timeout=30) as answer:
                answers.append((json.loads(body), json.loads(answer.read())))
    finally:
        app.stop()
    (told, curve), (_, empty) = answers
    now = at(curve, told["market"]["bid"].rstrip("0"))
    assert now["equity"] == told["equity"]["equity"]
    assert now["holding"] == told["equity"]["holding"]["start"]["value"]
    resting = {
        x["order"]["price"].rstrip("0")
        for slot in told["slots"]
        for x in (*slot["legs"], *slot["recoveries"])
        if x["order"]
    }
    assert resting <= {x["price"] for x in curve["points"]}
    assert empty["points"] == []
