"""The sandbox's server over real sockets, and its program, killed and started again."""

import base64
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import krakenex
import pytest

from engine.clock import monotonic, wall_now
from exchange.sandbox import Sandbox
from exchange.sandbox_faults import Fault, FaultKind
from exchange.sandbox_file import read_truth
from sim.sandbox import DEMO_KEY, DEMO_SECRET
from tests.sandbox_client import KEY, Caller, make_venue, sign

ROOT = Path(__file__).parent.parent


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Yield a running sandbox over a market fed by hand."""
    venue = make_venue(now=wall_now())
    with Sandbox(venue, clock=wall_now, has_door=True) as running:
        yield running


def client(sandbox: Sandbox) -> krakenex.API:
    """Return a real client pointed at the sandbox by address only."""
    api = krakenex.API(key=KEY.key, secret=KEY.secret)
    api.uri = sandbox.url
    nonce = iter(range(10**6))
    api._nonce = lambda: next(nonce) + 1
    return api


def post(sandbox: Sandbox, body: Any, **headers: str) -> tuple[int, Any]:
    """Knock at the door; return status and answer."""
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=30)
    connection.request("POST", "/sandbox/faults", json.dumps(body), headers)
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    return answer.status, told


def test_the_documented_doors_open(sandbox: Sandbox) -> None:
    """What the document tells to send is understood, and it names every kind of fault."""
    text = (ROOT / "docs" / "OPERATION.md").read_text()
    for body in re.findall(r"^    door '(.+?)'", text, re.MULTILINE):
        status, told = post(sandbox, json.loads(body))
        assert status == 200, (body, told)
    assert [x for x in FaultKind if f"`{x}`" not in text] == []


def test_make_sandbox_hands_on_what_it_is_given() -> None:
    """A PORT in the environment is the page's, not the sandbox's."""
    if shutil.which("make") is None:
        pytest.skip("no make")
    env = {"PATH": os.environ["PATH"], "PORT": "9000"}
    command = ["make", "--dry-run", "sandbox", "FAULTS=1", "SPEED=9", "DB=a.db"]
    for more, port in (([], "8090"), (["SANDBOX_PORT=9001"], "9001")):
        said = subprocess.check_output([*command, *more], cwd=ROOT, env=env, text=True)
        line = " ".join(said.replace("\\\n", " ").split())
        assert f'--speed 9 --port {port} --db "a.db" --faults' in line


def test_a_real_client_trades(sandbox: Sandbox) -> None:
    """Place, see open, cancel, see closed, by a client nobody here wrote."""
    api = client(sandbox)
    assert api.query_public("SystemStatus")["result"]["status"] == "online"
    order = Caller(sandbox.venue).order()
    (txid,) = api.query_private("AddOrder", order)["result"]["txid"]
    assert list(api.query_private("OpenOrders")["result"]["open"]) == [txid]
    assert api.query_private("CancelOrder", {"txid": txid})["result"] == {"count": 1}
    assert list(api.query_private("ClosedOrders")["result"]["closed"]) == [txid]
    assert api.query_private("AddOrder", order | {"volume": "1"})["error"] == [
        "EOrder:Order minimum not met"
    ]


def test_a_connection_is_kept_and_bodies_are_bounded(sandbox: Sandbox) -> None:
    """Many calls on one connection; a body too long or of unknown length is refused."""
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=30)
    held = None
    for _ in range(3):
        connection.request("GET", "/0/public/Time")
        assert json.loads(connection.getresponse().read())["error"] == []
        held = held or connection.sock
        assert connection.sock is held
    connection.request("POST", "/0/private/Balance", headers={"Content-Length": "99999999"})
    answer = connection.getresponse()
    assert answer.status == 413
    answer.read()
    connection.close()
    connection.putrequest("POST", "/0/private/Balance")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()  # the answer does not wait for a body that it refuses
    assert connection.getresponse().status == 411
    connection.close()


def test_json_bodies_are_signed_as_they_are(sandbox: Sandbox) -> None:
    """A JSON body with spaces of its own is verified over its exact bytes."""
    body = b'{ "nonce" : 5,  "pair":"XDGUSD" }'
    headers = {
        "API-Key": KEY.key,
        "API-Sign": sign(KEY.secret, "/0/private/TradeVolume", "5", body),
        "Content-Type": "application/json",
    }
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=30)
    connection.request("POST", "/0/private/TradeVolume", body, headers)
    assert json.loads(connection.getresponse().read())["result"]["currency"] == "ZUSD"
    connection.close()


def test_lost_answers_close_the_connection(sandbox: Sandbox) -> None:
    """The client gets nothing at all, the order rests."""
    fault = Fault(kind=FaultKind.LOST_RESPONSE, methods=("AddOrder",), count=1)
    with sandbox.lock:
        sandbox.venue.faults.add(fault)
    path, headers, body = Caller(sandbox.venue).request("AddOrder", **Caller(sandbox.venue).order())
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=30)
    connection.request("POST", path, body, headers)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        connection.getresponse()
    with sandbox.lock:
        assert len(sandbox.venue.truth().orders) == 1


def test_a_delayed_request_is_processed_later_and_others_meanwhile(sandbox: Sandbox) -> None:
    """While one request waits, another is answered; then the first is executed."""
    assert post(sandbox, {"faults": [{"kind": "delayed", "count": 1, "seconds": 0.5}]})[0] == 200
    api = client(sandbox)
    answers: list[Any] = []
    order = Caller(sandbox.venue).order()
    late = threading.Thread(target=lambda: answers.append(api.query_private("AddOrder", order)))
    late.start()
    while not sandbox.venue.faults.drawn:
        threading.Event().wait(0.005)
    assert krakenex_time(sandbox)
    assert not sandbox.venue.truth().orders
    late.join(10)
    assert answers[0]["error"] == []
    assert len(sandbox.venue.truth().orders) == 1


def krakenex_time(sandbox: Sandbox) -> int:
    """Return the server's time, asked on a connection of its own."""
    return int(client(sandbox).query_public("Time")["result"]["unixtime"])


def test_the_door_switches_what_it_is_told(sandbox: Sandbox) -> None:
    """Faults, status, lags and deposits; nonsense and browsers are refused in words."""
    status, told = post(sandbox, {"faults": [{"kind": "html", "methods": ["Balance"]}]})
    assert (status, told["faults"][0]["kind"]) == (200, "html")
    with pytest.raises(json.JSONDecodeError):
        client(sandbox).query_private("Balance")
    assert post(sandbox, {})[0] == 400
    more = {
        "clear": True,
        "status": "post_only",
        "lags": {"Balance": 0},
        "deposit": {"asset": "ZUSD", "amount": "5"},
    }
    status, told = post(sandbox, more)
    assert (status, told) == (200, {"faults": [], "drawn": {"html": 1}})
    assert sandbox.venue.account.status == "post_only"
    assert str(sandbox.venue.truth().balances["ZUSD"]) == "1005"
    for bad, words in (
        ({"status": "closed"}, "must be one of"),
        ({"faults": [{"kind": "x"}]}, "kinds are"),
        ({"lags": {"Balance": "x"}}, "lags"),
        ({"deposit": {"asset": "ZUSD"}}, "deposit must be"),
        ({"nonsense": 1}, "must be an object"),
    ):
        status, told = post(sandbox, bad)
        assert status == 400
        assert words in told["error"]
    assert post(sandbox, {"clear": True}, Origin="http://evil.example")[0] == 403


def test_without_the_door_there_is_none() -> None:
    """The path is a method the venue does not know."""
    with Sandbox(make_venue(now=wall_now()), clock=wall_now) as sandbox:
        assert post(sandbox, {"clear": True}) == (200, {"error": ["EGeneral:Unknown method"]})


def test_a_taken_port_is_an_error_and_a_stopped_one_is_free(sandbox: Sandbox) -> None:
    """The second server is refused; after the first has stopped its port can be used."""
    venue = make_venue(now=wall_now())
    with pytest.raises(OSError, match="in use"):
        Sandbox(venue, clock=wall_now, port=sandbox.port)
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=30)
    connection.request("GET", "/0/public/Time")
    connection.getresponse().read()
    held = connection.sock
    sandbox.stop()
    sandbox.stop()
    assert held.recv(1) == b""
    connection.close()
    with Sandbox(venue, clock=wall_now, port=sandbox.port) as again:
        assert krakenex_time(again)


def test_many_clients_at_once_are_answered_one_by_one(sandbox: Sandbox) -> None:
    """Sixteen threads with keys of their own order; every answer is right, ids are unique."""
    ids: list[str] = []
    guard = threading.Lock()
    nonces = iter(range(1, 10**6))

    def trade() -> None:
        api = krakenex.API(key=KEY.key, secret=KEY.secret)
        api.uri = sandbox.url
        for _ in range(5):
            with guard:
                api._nonce = lambda: next(nonces)
                (txid,) = api.query_private("AddOrder", order)["result"]["txid"]
                ids.append(txid)
            api.query_public("Time")

    order = Caller(sandbox.venue).order(volume="50")
    threads = [threading.Thread(target=trade) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(ids)) == 80
    assert len(sandbox.venue.truth().orders) == 80


# ---- the program ------------------------------------------------------------------------------


class Program:
    """`python -m sim.sandbox` as a process; killed by its id at the end."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "sim.sandbox", "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if line.startswith("KRAKEN_API_URL"):
                break
        found = re.search(r"KRAKEN_API_URL=http://127\.0\.0\.1:(\d+)", self.said)
        assert found, self.said
        self.port = int(found.group(1))

    def call(self, method: str, nonce: int, **params: str) -> Any:
        """Return the answer to a private call with the demo key."""
        path, body = f"/0/private/{method}", urlencode({"nonce": nonce, **params}).encode()
        headers = {
            "API-Key": DEMO_KEY,
            "API-Sign": sign(DEMO_SECRET, path, str(nonce), body),
            "Content-Type": "application/x-www-form-urlencoded",
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", path, body, headers)
        told = json.loads(connection.getresponse().read())
        connection.close()
        return told

    def end(self, number: int) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.said += self.process.stdout.read()
        self.process.stdout.close()
        return code


@pytest.mark.slow
def test_the_program_killed_and_started_again_has_lost_nothing(tmp_path: Path) -> None:
    """SIGKILL amid orders: everything answered is on disk, nonces go on, ids stay unique."""
    db = tmp_path / "sandbox.db"
    arguments = ("--db", str(db), "--speed", "1", "--tier", "pro", "--start-quote", "5000")
    order = {
        "ordertype": "limit", "type": "buy", "pair": "XDGUSD", "volume": "60", "price": "0.05",
        "oflags": "post,fciq",
    }  # fmt: skip
    first = Program(*arguments)
    ids = [first.call("AddOrder", n, **order)["result"]["txid"][0] for n in range(1, 21)]
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert [x.txid for x in read_truth(db).orders] == ids
    second = Program(*arguments)
    try:
        assert second.call("OpenOrders", 20)["error"] == ["EAPI:Invalid nonce"]
        assert set(second.call("OpenOrders", 21)["result"]["open"]) == set(ids)
        (more,) = second.call("AddOrder", 22, **order)["result"]["txid"]
        assert more not in ids
    finally:
        assert second.end(signal.SIGTERM) == 0
    assert "the sandbox has stopped" in second.said
    assert len(read_truth(db).orders) == 21


@pytest.mark.slow
def test_the_program_says_what_it_is_and_its_market_lives() -> None:
    """The lines for .env are there; at speed 6000 the price moves within seconds."""
    program = Program("--market", "synthetic:3", "--speed", "6000", "--fees", "0.25,0.40")
    try:
        for line in ("MODE=live", "KRAKEN_API_URL=http://127.0.0.1:"):
            assert line in program.said
        assert len(base64.b64decode(DEMO_SECRET)) == 64
        fees = program.call("TradeVolume", 1, pair="XDGUSD")["result"]
        assert fees["fees_maker"]["XDGUSD"]["fee"] == "0.2500"
        seen = set()
        until = monotonic() + 60
        while len(seen) < 3 and monotonic() < until:
            connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=30)
            connection.request("GET", "/0/public/Ticker?pair=XDGUSD")
            told = json.loads(connection.getresponse().read())
            seen.add(told["result"]["XDGUSD"]["c"][0])
            connection.close()
        assert len(seen) == 3
    finally:
        program.end(signal.SIGTERM)


def test_the_end_of_a_replay_is_said(tmp_path: Path) -> None:
    """After its last candle the price stays, and orders are still taken."""
    file = tmp_path / "short.csv"
    rows = "".join(f"{1_700_000_000 + 60 * n},0.1,0.11,0.09,0.1,1000\n" for n in range(5))
    file.write_text("time,open,high,low,close,volume\n" + rows)
    program = Program("--market", f"replay:{file}", "--speed", "6000")
    try:
        assert program.process.stdout is not None
        line = program.process.stdout.readline()
        assert "come to its end" in line
        order = {"ordertype": "limit", "type": "buy", "pair": "XDGUSD", "volume": "60"}
        assert program.call("AddOrder", 1, **order, price="0.05")["error"] == []
    finally:
        program.end(signal.SIGTERM)


BAD = [
    (["--speed", "0"], "must be from 0.01"),
    (["--port", "99999"], "0 to 65535"),
    (["--market", "moon"], "replay:FILE"),
    (["--market", "replay:/nope.csv"], "does not exist"),
    (["--fees", "0.4"], "maker and taker in percent"),
    (["--start-quote", "-1"], "must be an amount"),
    (["--permissions", "fly"], "withdraw-funds"),
    (["--status", "closed"], "cancel_only"),
    (["--secret-file", "/nope"], "cannot be read"),
    (["--tier", "gold"], "starter"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_arguments_are_refused_with_what_is_allowed(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code says failure, the message what is wrong."""
    from sim.sandbox import main  # noqa: PLC0415 - only here is it run in this process

    try:
        code = main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    assert code in (2, 4)
    assert words in capsys.readouterr().err
