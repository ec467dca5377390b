"""The daemon on Kraken's public prices, as its user runs it, against a real server."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import config
from engine.wiring import open_source
from market.public import KrakenFeed
from tests.public_server import PublicServer, serving
from tests.test_daemon import ROOT, Running, environment, run_bot

SETTINGS = {
    "MARKET_DATA": "kraken", "POLL_INTERVAL_SECONDS": "2", "PAIR_ENTRY_PCT": "0.2",
    "PAIR_PROFIT_PCT": "1", "SLOT_COUNT": "1", "ENTRIES_PER_SECOND": "20",
    "STALE_PRICE_MAX_AGE_SEC": "6",
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[PublicServer]:
    """Yield a server that answers."""
    with serving() as made:
        yield made


def env(folder: Path, server: PublicServer, **changes: str) -> dict[str, str]:
    """Return the environment of a daemon on that server."""
    return environment(folder, KRAKEN_API_URL=server.url, **{**SETTINGS, **changes})


def status(daemon: Running) -> dict[str, Any]:
    """Return the status that the page shows."""
    answer: dict[str, Any] = daemon.get("/api/status").json()
    return answer


def until(what: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def cycles(daemon: Running) -> int:
    """Return how many cycles are complete."""
    return sum(slot["cycles"] for slot in status(daemon)["slots"])


def orders(daemon: Running) -> int:
    """Return how many orders are open."""
    count: int = status(daemon)["capacity_fill_health"]["open_orders"]
    return count


@pytest.mark.slow
def test_it_trades_is_killed_goes_on_and_survives_an_outage(
    server: PublicServer, tmp_path: Path
) -> None:
    """A cycle completes; resting orders fill on what printed while the daemon was dead."""
    made = env(tmp_path, server)
    daemon = Running(made)
    try:
        assert daemon.wait("/readyz").status_code == 200
        page = status(daemon)["bot"]
        assert page["exchange_mode"] == "PAPER"
        assert page["market_name"].startswith("Kraken's public prices")
        until(lambda: orders(daemon) == 2)
        server.move("0.0997")
        until(lambda: "exiting" in str(status(daemon)["slots"]))
        daemon.process.kill()
        daemon.process.wait()
        server.move("0.1015")
        server.move("0.1")
        daemon = Running(made)
        assert daemon.wait("/readyz").status_code == 200
        until(lambda: cycles(daemon) == 1)
        server.down()
        until(lambda: "No fresh price" in status(daemon)["bot"]["reasons"])
        before = status(daemon)
        assert before["exchange"]["consecutive_errors"] > 0
        assert daemon.get("/healthz").status_code == 200
        server.up()
        until(lambda: status(daemon)["bot"]["now"] > before["bot"]["now"] + 6)
        until(lambda: status(daemon)["bot"]["condition"] == "ok")
        assert status(daemon)["exchange"]["consecutive_errors"] == 0
        assert daemon.stop() == 0
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
    verify = run_bot(made, "verify")
    assert verify.returncode == 0, verify.stdout + verify.stderr


@pytest.mark.slow
def test_a_start_that_cannot_reach_kraken_waits_and_says_so(
    server: PublicServer, tmp_path: Path
) -> None:
    """The page is up, nothing is created, and it can be stopped; then `check` says the same."""
    server.down()
    port = free_port()
    made = env(tmp_path, server, PORT=str(port))
    process = subprocess.Popen([sys.executable, "bot.py"], cwd=ROOT, env=made)
    try:
        url = f"http://127.0.0.1:{port}/readyz"
        until(lambda: "Connection refused" in text_of(url))
        assert not (tmp_path / "bot.db").exists()
    finally:
        process.terminate()
        assert process.wait(10) == 0
    result = run_bot(made, "check")
    assert result.returncode == 3
    assert "FAILED market" in result.stdout


def test_a_delisted_pair_ends_the_start_with_code_3(server: PublicServer, tmp_path: Path) -> None:
    """In plain words, and without a database left behind."""
    server.pair_status = "delisted"
    result = run_bot(env(tmp_path, server))
    assert result.returncode == 3
    assert "has delisted DOGE/USD" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "bot.db").exists()


@pytest.mark.slow
def test_a_market_that_takes_no_orders_is_waited_for(server: PublicServer, tmp_path: Path) -> None:
    """With cancel_only the daemon runs and shows why it places nothing."""
    server.status = "cancel_only"
    daemon = Running(env(tmp_path, server))
    try:
        assert daemon.wait("/readyz").status_code == 200
        until(lambda: status(daemon)["exchange"]["status"] == "cancel_only")
        until(lambda: "exchange" in str(status(daemon)["entry_vetoes"]))
        assert orders(daemon) == 0
    finally:
        assert daemon.stop() == 0


def test_an_address_that_is_not_allowed_exits_2(tmp_path: Path) -> None:
    """The message names the setting and what is allowed."""
    made = environment(tmp_path, MARKET_DATA="kraken", KRAKEN_API_URL="https://example.com")
    result = run_bot(made)
    assert result.returncode == 2
    assert "KRAKEN_API_URL=https://example.com" in result.stderr
    assert "loopback" in result.stderr


def test_krakens_own_address_has_the_plain_name() -> None:
    """Any other is named on the page, for it is not the real market."""
    source = open_source(config.load({"MARKET_DATA": "kraken"}, Path("/nonexistent")))
    assert isinstance(source, KrakenFeed)
    assert source.name == "Kraken's public prices"
    assert source.price_interval == 5.0


@pytest.mark.parametrize(("models", "asked"), [("false", {"1"}), ("true", {"1", "15"})])
def test_minutes_are_asked_for_without_models_too(models: str, asked: set[str]) -> None:
    """The page's chart needs them; the models' second timeframe nobody else."""
    env = {"MARKET_DATA": "kraken", "HMM_ENABLED": models}
    source = open_source(config.load(env, Path("/nonexistent")))
    assert isinstance(source, KrakenFeed)
    names = [x.name.split() for x in source.schedule]
    assert {x[2] for x in names if x[0] == "candles"} == asked


def free_port() -> int:
    """Return a port that nobody listens on."""
    with serving() as other:
        return other.port


def text_of(url: str) -> str:
    """Return what a page says, nothing while it is not up."""
    try:
        return requests.get(url, timeout=30).text
    except requests.ConnectionError:
        return ""
