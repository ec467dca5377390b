"""The chaos proxy over real sockets: what each kind of fault does to client and server."""

import http.client
import json
from collections import Counter
from contextlib import suppress
from random import Random

import pytest

from benchmarks import chaos
from benchmarks.chaos import AFTER, BEFORE, KINDS, ChaosProxy
from tests.attack import wait_until
from tests.bad_server import GOOD, BadServer, answer

BROKEN = (OSError, http.client.HTTPException)
CUT = {"cut_before", "cut_after", "noise", "black_hole", "swallowed"}
PAGES = {"error_502": 502, "error_520": 520}
WHOLE = {"delayed", "trickled", "late"}


def ask(proxy: ChaosProxy, timeout_sec: float = 5.0) -> tuple[int, bytes]:
    """Post through a proxy; return status and body. Raises one of `BROKEN`."""
    line = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=timeout_sec)
    try:
        line.request("POST", "/0/private/AddOrder", b"nonce=1&volume=5")
        told = line.getresponse()
        return told.status, told.read()
    finally:
        line.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let delays be short."""
    monkeypatch.setattr(chaos, "LATE_SEC", (0.05, 0.1))
    monkeypatch.setattr(chaos, "TRICKLE_SEC", (0.05, 0.1))
    monkeypatch.setattr(chaos, "HOLD_SEC", 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_befalls_a_request_before_or_after_it_was_carried_out(kind: str) -> None:
    """The server has it or has it not, the client hears what the kind says; both are counted."""
    with BadServer(answer()) as server, ChaosProxy(server.port, Random(1), rate=1.0) as proxy:
        proxy.kinds = (kind,)
        if kind in CUT:
            with pytest.raises(BROKEN):
                ask(proxy)
        elif kind == "truncated":  # in the midst of the head a client may take it for an answer
            with suppress(*BROKEN):
                assert ask(proxy)[1] != GOOD
        else:
            status, body = ask(proxy)
            assert status == PAGES.get(kind, 200)
            assert (body == GOOD) == (kind in WHOLE)
        assert len(server.requests) == (kind not in BEFORE)
        assert proxy.drawn == {kind: 1}
        if kind in AFTER:
            assert server.requests[0].form == {"nonce": "1", "volume": "5"}


def test_what_nothing_befalls_is_carried_as_it_is_over_one_connection() -> None:
    """Requests and answers are the same bytes; the client's connection is kept."""
    with BadServer(answer()) as server, ChaosProxy(server.port, Random(1)) as proxy:
        line = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=5)
        for n in range(3):
            line.request("POST", "/path", json.dumps(n))
            assert line.getresponse().read() == GOOD
        line.close()
        assert [x.body for x in server.requests] == [b"0", b"1", b"2"]
        assert proxy.drawn == {"": 3}


def test_a_server_that_is_gone_is_a_connection_that_closes() -> None:
    """The client hears so at once, each time."""
    with BadServer(answer()) as gone:
        port = gone.port
    with ChaosProxy(port, Random(1)) as proxy:
        for _ in range(2):
            with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
                ask(proxy)


def test_the_end_does_not_wait_for_connections_that_are_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that waits in a black hole is let go."""
    monkeypatch.setattr(chaos, "HOLD_SEC", 60.0)
    with BadServer(answer()) as server:
        with ChaosProxy(server.port, Random(1), rate=1.0) as proxy:
            proxy.kinds = ("black_hole",)
            with pytest.raises(TimeoutError):
                ask(proxy, timeout_sec=0.2)
            line = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=5)
            line.request("GET", "/")
            assert wait_until(lambda: proxy.drawn["black_hole"] == 2, 5)
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            line.getresponse()
        line.close()


def test_the_same_seed_draws_the_same_faults() -> None:
    """A run can be had again, as far as the requests are the same; the rate is kept."""
    drawn = []
    for _ in range(2):
        with BadServer(answer()) as server, ChaosProxy(server.port, Random(7), rate=0.5) as proxy:
            proxy.kinds = ("error_502", "html")
            drawn.append([ask(proxy)[0:2] for _ in range(40)])
        assert set(proxy.drawn) == {"", "error_502", "html"}
    assert drawn[0] == drawn[1]
    assert 10 < Counter(body == GOOD for _, body in drawn[0])[True] < 30
