"""The sandbox's faults: what was executed, and what the client gets to see of it."""

import json
from typing import Any

import pytest

from exchange.sandbox_faults import Fault, FaultKind, Faults, read_faults
from exchange.sandbox_venue import CLOSED, HUGE_BYTES
from tests.sandbox_client import START, Caller, make_venue

K = FaultKind
# By kind: HTTP status, a piece of the body, and how many orders there are afterwards.
CASES: list[tuple[FaultKind, int, bytes, int]] = [
    (K.LOST_REQUEST, CLOSED, b"", 0),
    (K.LOST_RESPONSE, CLOSED, b"", 1),
    (K.REPLAYED, 200, b"EAPI:Invalid nonce", 1),
    (K.ERROR_BEFORE, 502, b"<html>", 0),
    (K.ERROR_AFTER, 502, b"<html>", 1),
    (K.HTML, 200, b"<html>", 1),
    (K.TRUNCATED, 200, b'{"error":[],"result":{"descr"', 1),
    (K.NULL_RESULT, 200, b'"result":null', 1),
    (K.HUGE, 200, b" " * HUGE_BYTES, 1),
    (K.UNAVAILABLE_BEFORE, 200, b"EService:Unavailable", 0),
    (K.UNAVAILABLE_AFTER, 200, b"EService:Unavailable", 1),
    (K.RATE_LIMIT, 200, b"EAPI:Rate limit exceeded", 0),
    (K.LOCKOUT, 200, b"EGeneral:Temporary lockout", 0),
    (K.NONCE, 200, b"EAPI:Invalid nonce", 0),
    (K.TEXT, 200, b"EService:Busy", 0),
    (K.ENDED, 200, b'"txid"', 1),
]


@pytest.mark.parametrize(("kind", "status", "piece", "orders"), CASES)
def test_each_fault_does_what_its_name_says(
    kind: FaultKind, status: int, piece: bytes, orders: int
) -> None:
    """One order meets the fault; the truth tells whether it was executed."""
    venue = make_venue()
    text = {K.TEXT: "EService:Busy", K.ENDED: "Post only order"}.get(kind, "")
    venue.faults.add(Fault(kind=kind, methods=("AddOrder",), count=1, text=text))
    caller = Caller(venue)
    caller.ask("Balance")
    told = caller.raw("AddOrder", **caller.order())
    assert told[0] == status
    assert piece in told[1]
    assert len(venue.truth().orders) == orders
    assert venue.faults.drawn == {kind.value: 1}
    assert venue.faults.active() == ()
    if kind is K.TRUNCATED:
        with pytest.raises(json.JSONDecodeError):
            json.loads(told[1])


def test_an_order_may_be_taken_and_ended_by_the_venue() -> None:
    """It has its id, it is over at once, and says why; a request without order passes."""
    venue = make_venue()
    venue.faults.add(Fault(kind=K.ENDED, count=2, text="Post only order"))
    caller = Caller(venue)
    caller.ask("Balance")
    (txid,) = caller.ask("AddOrder", **caller.order())["txid"]
    told = caller.ask("QueryOrders", txid=txid)[txid]
    assert (told["status"], told["reason"]) == ("canceled", "Post only order")
    assert venue.account.engine.orders() == []


def test_faults_that_take_time_are_drawn_for_the_carrier() -> None:
    """A delayed request waits before, a slow one after it is processed; never both at once."""
    venue = make_venue()
    venue.faults.add(Fault(kind=K.DELAYED, count=1, seconds=7.0))
    venue.faults.add(Fault(kind=K.SLOW, count=1, seconds=3.0))
    path = "/0/private/AddOrder"
    assert [venue.waits(path) for _ in range(3)] == [(7.0, 0.0), (0.0, 3.0), (0.0, 0.0)]
    assert venue.waits("/0/public/Time") == (0.0, 0.0)


def test_a_delayed_order_misses_its_deadline() -> None:
    """Processed after the deadline it is refused for good."""
    caller = Caller(make_venue())
    request = caller.request("AddOrder", **caller.order(deadline="2026-09-21T14:13:30+00:00"))
    late = START + 60
    told = json.loads(caller.venue.answer("POST", *request, late)[1])
    assert told["error"] == ["EService:Deadline elapsed"]


def test_probability_is_seeded_and_sides_are_apart() -> None:
    """Half of the calls fail, the same ones for the same seed; public calls are not touched."""

    def draws(seed: int) -> list[bool]:
        faults = Faults(seed, [Fault(kind=K.NONCE, probability=0.5)])
        assert faults.draw("public", "Time") is None
        return [faults.draw("private", "Balance") is not None for _ in range(200)]

    assert draws(1) == draws(1) != draws(2)
    assert 60 < sum(draws(1)) < 140
    both = Faults(1, [Fault(kind=K.HTML, side="")])
    assert both.draw("public", "Time")
    both.clear()
    assert both.draw("private", "Balance") is None


BAD: list[tuple[Any, str]] = [
    ({"kind": "nonsense"}, "kinds are"),
    ({"kind": "html", "probability": 2}, "probability"),
    ({"kind": "html", "count": 0}, "count"),
    ({"kind": "slow", "seconds": -1}, "seconds"),
    ({"kind": "html", "side": "upper"}, "side"),
    ({"kind": "error_before", "status": 200}, "status"),
    ({"kind": "text"}, "needs a text"),
    ({"kind": "html", "nonsense": 1}, "nonsense"),
    ("html", "Expected"),
]


@pytest.mark.parametrize(("told", "words"), BAD)
def test_a_bad_fault_is_refused_in_words(told: Any, words: str) -> None:
    """What is wrong is named, and nothing is switched on."""
    faults = Faults(1)
    with pytest.raises(ValueError, match=words):
        faults.add(read_faults([told])[0])
    assert faults.active() == ()
    with pytest.raises(ValueError, match="must be a list"):
        read_faults(told)
