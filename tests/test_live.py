"""The daemon at the sandbox as a user would run it: cycles, restarts, refusals, bad answers, flows.

Real processes on real sockets and files. Where nothing else is said there is no lag and no fault.
"""

import sqlite3
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests

from core.domain import Role, TradeId
from core.order_id import OrderPlace, bot_tag, encode
from exchange.sandbox_file import read_truth
from exchange.sandbox_records import TRADING_PERMISSIONS
from tests.attack import (
    KEY,
    SECRET,
    Daemon,
    Sandbox,
    come_to_rest,
    is_open,
    wait_until,
    write_lively_market,
    wrong,
)
from tests.sandbox_client import sign

FUNDS = ("--start-quote", "2000", "--start-base-usd", "2000")
RIGHTS = list(TRADING_PERMISSIONS)
BAD = ("html", "truncated", "null_result", "huge", "text")
STRANGE = "EWeather:Cloudy with a chance of orders"


def lively(folder: Path, *options: str) -> Sandbox:
    """Return a sandbox whose market moves much, not yet started."""
    write_lively_market(folder / "market.csv", seed=5)
    market = ("--market", f"replay:{folder / 'market.csv'}", "--speed", "240")
    return Sandbox(folder, *market, *FUNDS, *options)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Yield a running sandbox that tests share; each test has a database of its own."""
    sandbox = lively(tmp_path_factory.mktemp("shared"))
    sandbox.start()
    yield sandbox
    sandbox.kill()


@pytest.fixture
def daemon(tmp_path: Path, shared: Sandbox) -> Iterator[Daemon]:
    """Yield a daemon at the shared sandbox, not yet started; the account is left without orders."""
    made = Daemon(tmp_path, shared)
    yield made
    made.kill()
    shared.ask(clear=True, status="online")
    call(shared, "CancelAll")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Daemon, Sandbox]]:
    """Yield a daemon and a sandbox of its own, not yet started."""
    sandbox = lively(tmp_path)
    made = Daemon(tmp_path, sandbox)
    yield made, sandbox
    made.kill()
    sandbox.kill()


def call(sandbox: Sandbox, method: str, **params: str) -> Any:
    """Make a private call as the account's owner would, while no daemon does."""
    nonce, path = str(time.time_ns()), f"/0/private/{method}"
    body = urlencode({"nonce": nonce, **params}).encode()
    headers = {
        "API-Key": KEY,
        "API-Sign": sign(SECRET, path, nonce, body),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    told = requests.post(sandbox.url + path, data=body, headers=headers, timeout=30).json()
    assert told["error"] == [], told
    return told["result"]


def place(sandbox: Sandbox, **more: str) -> str:
    """Place a buy far below the market; return its txid."""
    order = {"pair": "XDGUSD", "type": "buy", "ordertype": "limit", "price": "0.05"}
    txid: str = call(sandbox, "AddOrder", **order, volume="200", oflags="post", **more)["txid"][0]
    return txid


def booked(daemon: Daemon, table: str) -> int:
    """Return how many rows a table of the daemon's database has."""
    rows = daemon.rows(f"SELECT count(*) FROM {table}")
    return int(rows[0][0]) if rows else 0


def verified(daemon: Daemon) -> None:
    """Every proof over the books must hold."""
    result = daemon.run("verify")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "FAILED" not in result.stdout


# ---- trading --------------------------------------------------------------------------------


@pytest.mark.slow(seconds=115)
def test_cycles_complete_and_a_kill_and_flows_lose_nothing(own: tuple[Daemon, Sandbox]) -> None:
    """Killed amid cycles, with a deposit and a withdrawal before it is back."""
    daemon, sandbox = own
    sandbox.start()
    daemon.start()
    assert wait_until(lambda: booked(daemon, "cycles") >= 2, 180, 0.3), daemon.said()
    daemon.kill()
    sandbox.ask(deposit={"asset": "ZUSD", "amount": "100"})
    sandbox.ask(deposit={"asset": "XXDG", "amount": "-50"})
    daemon.start()
    assert daemon.wait_ready(60), daemon.said()
    come_to_rest(daemon, sandbox)

    def change(name: str) -> Decimal:
        status = daemon.status()
        return Decimal(0) if status is None else Decimal(status["equity"]["change"][name])

    # The ledger is judged when the youngest trade in it is a minute old.
    assert wait_until(lambda: change("flows") != 0, 120, 0.5), daemon.said()
    assert change("unexplained") == 0
    assert daemon.stop() == 0
    verified(daemon)
    state = daemon.state()
    assert (state.balances.flow_quote, state.balances.flow_base) == (100, -50)
    assert sandbox.stop() == 0
    assert wrong(daemon, sandbox) == []


@pytest.mark.slow(seconds=45)
def test_bad_answers_while_it_runs_lose_nothing(own: tuple[Daemon, Sandbox]) -> None:
    """Health shows the errors, the log what they were; then it goes on, its books are whole."""
    daemon, sandbox = own
    sandbox.start()
    daemon.start()
    assert wait_until(lambda: booked(daemon, "executions") > 0, 90, 0.2)
    seen = 0
    for kind, words in (("html", "the body is HTML"), ("huge", "longer than"), ("text", STRANGE)):
        sandbox.fault(kind, text=STRANGE if kind == "text" else "")
        assert wait_until(lambda: words in daemon.said(), 90), words  # noqa: B023 - waited for here
        status = daemon.status()
        seen = max(seen, status["exchange"]["consecutive_errors"] if status else 0)
    assert seen > 0
    come_to_rest(daemon, sandbox)
    assert daemon.stop() == 0
    verified(daemon)
    assert sandbox.stop() == 0
    assert wrong(daemon, sandbox) == []


@pytest.mark.slow
def test_foreign_orders_are_shown_and_never_touched(own: tuple[Daemon, Sandbox]) -> None:
    """An order of the owner's own hand rests on through start, trading and end."""
    daemon, sandbox = own
    sandbox.start()
    txid = place(sandbox)
    checked = daemon.run("check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "1 open, never touched; 0 are ours" in checked.stdout
    daemon.start()
    assert wait_until(lambda: booked(daemon, "orders") > 0, 90, 0.1), daemon.said()
    sandbox.ask(is_still=True)  # its balances and executions are read one after the other
    assert daemon.stop() == 0
    sandbox.ask(is_still=True)
    verified(daemon)
    assert call(sandbox, "Balance")  # no nonce ahead of the clock is left used
    (order,) = [x for x in read_truth(sandbox.file).orders if x.txid == txid]
    assert order.is_open


@pytest.mark.slow
def test_a_second_daemon_is_refused_with_code_5(daemon: Daemon) -> None:
    """It says who holds the database, and sends nothing."""
    daemon.start()
    assert wait_until(lambda: is_open(daemon.status()), 90)
    second = daemon.run("check")
    assert second.returncode == 5, second.stdout + second.stderr
    assert "process" in second.stderr


# ---- what check refuses ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(["--permissions", ",".join(x for x in RIGHTS if x != "modify-trades")],
                     "it lacks modify-trades", marks=pytest.mark.slow),
        (["--permissions", ",".join([*RIGHTS, "withdraw-funds"])], "it may WITHDRAW funds"),
        pytest.param(["--permissions", ",".join([*RIGHTS, "earn-funds"])],
                     "more than is needed: earn-funds", marks=pytest.mark.slow),
        pytest.param(["--nonce-window", "10"], "set the key's custom nonce window to 0",
                     marks=pytest.mark.slow),
        pytest.param(["--clock-offset", "5"], "set the machine's clock", marks=pytest.mark.slow),
        pytest.param(["--clock-offset", "-5"], "set the machine's clock", marks=pytest.mark.slow),
        pytest.param(["--status", "cancel_only"], "cancel_only: orders are not taken",
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_check_refuses_and_says_why(tmp_path: Path, options: list[str], words: str) -> None:
    """Key, clock and pair: exit code 3, the reason, and no database is made."""
    sandbox = lively(tmp_path, *options)
    daemon = Daemon(tmp_path, sandbox)
    try:
        sandbox.start()
        result = daemon.run("check")
        started = daemon.run("run") if "--nonce-window" in options else None
    finally:
        sandbox.kill()
    assert result.returncode == 3, result.stdout + result.stderr
    (line,) = [x for x in result.stdout.splitlines() if words in x]
    assert line.startswith("FAILED")
    if started is None:
        assert not daemon.file.exists()
    else:
        assert started.returncode == 3, started.stdout + started.stderr
        assert words in started.stderr
    assert read_truth(sandbox.file).orders == ()


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"KRAKEN_API_KEY": "another-key-than-the-right-one-0123456789"}, 3, "Invalid key"),
        pytest.param(
            {"KRAKEN_API_SECRET": "bm90IHRoZSByaWdodCBvbmUsIGJ1dCBiYXNlNjQgYWxsIHRoZSBzYW1l"}, 3,
            "Invalid signature", marks=pytest.mark.slow),
        pytest.param({"KRAKEN_API_SECRET": "this-is-no-base64-at-all!-this-is-no-base64"}, 2,
                     "KRAKEN_API_SECRET", marks=pytest.mark.slow),
        pytest.param({"KRAKEN_API_URL": "", "LIVE_TRADING": ""}, 2, "trades real money",
                     marks=pytest.mark.slow),
        ({"KRAKEN_API_URL": "", "LIVE_TRADING": "yes"}, 2, "trades real money"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(
    tmp_path: Path, shared: Sandbox, settings: dict[str, str], code: int, words: str
) -> None:
    """A key Kraken does not know, a secret that is none, real money that was not meant."""
    daemon = Daemon(tmp_path, shared, **settings)
    result = daemon.run("check")
    assert result.returncode == code, result.stdout + result.stderr
    assert words in result.stdout + result.stderr
    for value in (settings.get("KRAKEN_API_SECRET"), settings.get("KRAKEN_API_KEY"), SECRET):
        assert value is None or value not in result.stdout + result.stderr
    if code == 2:
        started = daemon.run()
        assert started.returncode == 2, started.stderr
        assert words in started.stderr
    assert not daemon.file.exists()


@pytest.mark.slow
def test_a_pair_that_is_delisted_is_refused(daemon: Daemon, shared: Sandbox) -> None:
    """Kraken knows no such pair any more: check and run end with 3 and say so."""
    fault = {"kind": "text", "text": "EQuery:Unknown asset pair", "side": "public"}
    shared.ask(faults=[{**fault, "methods": ["AssetPairs"]}])
    words = {"check": "Unknown asset pair", "run": "cannot be traded there any more"}
    for command, expected in words.items():
        result = daemon.run(command)
        assert result.returncode == 3, result.stdout + result.stderr
        assert expected in result.stdout + result.stderr


def test_orders_of_another_database_are_refused(daemon: Daemon, shared: Sandbox) -> None:
    """An open order with this bot's tag from elsewhere: the database is not the one that placed."""
    place_ = OrderPlace(
        tag=bot_tag("grid", "DOGE/USD"), epoch=77, slot=1, trade_id=TradeId.A, role=Role.ENTRY,
        cycle=1, attempt=1,
    )  # fmt: skip
    place(shared, cl_ord_id=encode(place_))
    result = daemon.run("check")
    assert result.returncode == 3, result.stdout + result.stderr
    assert "1 open orders of this bot were placed from another database" in result.stdout


@pytest.mark.slow(seconds=35)
def test_the_key_of_another_account_is_refused(own: tuple[Daemon, Sandbox]) -> None:
    """An account that has never heard of the database's orders: nothing is sent, nothing waits."""
    daemon, sandbox = own
    sandbox.start()
    daemon.start()
    assert wait_until(lambda: booked(daemon, "executions") > 0, 90, 0.2), daemon.said()
    assert daemon.stop() == 0
    assert "it knows the orders of this database" not in daemon.run("check").stdout  # so young
    make_older(daemon, 120.0)
    assert "it knows the orders of this database" in daemon.run("check").stdout
    sandbox.kill()
    for path in sandbox.file.parent.glob(f"{sandbox.file.name}*"):
        path.unlink()
    sandbox.start()
    for command in ("check", "run"):
        result = daemon.run(command)
        assert result.returncode == 3, result.stdout + result.stderr
        assert "the key is another account's" in result.stdout + result.stderr
    assert read_truth(sandbox.file).orders == ()


def make_older(daemon: Daemon, seconds: float) -> None:
    """Let what the daemon has booked have happened earlier."""
    db = sqlite3.connect(daemon.file)
    with db:
        db.execute("UPDATE executions SET executed_at = executed_at - ?", (seconds,))
    db.close()


@pytest.mark.slow
def test_a_database_of_paper_is_not_used_live(daemon: Daemon, tmp_path: Path) -> None:
    """Exit code 4, what it belongs to, and what to do."""
    live = dict(daemon.env)
    for name in [x for x in daemon.env if x.startswith(("MODE", "KRAKEN"))]:
        del daemon.env[name]
    daemon.start()
    assert wait_until(lambda: daemon.status() is not None, 60)
    assert daemon.stop() == 0
    daemon.env.update(live)
    for command in ("check", "run"):
        result = daemon.run(command)
        assert result.returncode == 4, result.stdout + result.stderr
        assert "belongs to paper, not to a sandbox" in result.stderr
        assert "set STATE_DB to another file" in result.stderr


# ---- answers that are none ------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [x if x == "huge" else pytest.param(x, marks=pytest.mark.slow) for x in BAD]
)
def test_bad_answers_at_the_start_are_waited_out(
    daemon: Daemon, shared: Sandbox, kind: str
) -> None:
    """It says what it waits for, with the page up and not ready; nothing is placed meanwhile."""
    fault = {"kind": kind, "text": STRANGE if kind == "text" else ""}
    shared.ask(faults=[{**fault, "methods": ["TradeVolume"]}])
    daemon.start()
    words = f"waiting for Kraken to tell of the account ({shared.url}: TradeVolume: "
    assert wait_until(lambda: words in daemon.said(), 60), daemon.said()
    assert daemon.is_running
    told = requests.get(daemon.url + "/readyz", timeout=30)
    assert told.status_code == 503
    assert "TradeVolume" in told.text
    assert requests.get(daemon.url + "/healthz", timeout=30).status_code == 200
    if kind == "html":
        shared.ask(clear=True)
        assert daemon.wait_ready(30), daemon.said()


def test_bad_public_answers_at_the_start_are_waited_out(daemon: Daemon, shared: Sandbox) -> None:
    """The market does not answer: waited for, page up; SIGTERM ends it in good order."""
    shared.ask(faults=[{"kind": "html", "side": "public"}])
    daemon.start()
    assert wait_until(lambda: "the body is HTML" in daemon.said(), 60), daemon.said()
    assert requests.get(daemon.url + "/readyz", timeout=30).status_code == 503
    assert daemon.stop() == 0
