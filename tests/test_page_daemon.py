"""The page of a running daemon: charts from its history, commands, a kill under an open page."""

import csv
import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.llm_server import LlmServer, advice, chat
from tests.page_world import Visit, needs_browser, start_browser
from tests.test_advisor_daemon import Model, env_of
from tests.test_daemon import Running, environment

__all__ = ["start_browser"]

pytestmark = [needs_browser, pytest.mark.browser, pytest.mark.slow]

DRAWN = """({
  lines: [...board.lines.values()].map((x) => x.line.options().price).sort(),
  orders: openOrders().map((x) => x.price).sort(), candles: board.candles.data(),
  end: board.rows.at(-1).time,
  marks: board.marks.markers(), equity: curve.series.equity.data().map((x) => x.value),
  drawdown: curve.drawdown.data().map((x) => x.value),
  payoff: payoff.line.data().map((x) => x.value)})"""
FRAMES = "document.querySelectorAll('#chart canvas').length"


@pytest.fixture(name="bot")
def start_bot(tmp_path: Path) -> Iterator[Running]:
    """Start a daemon on the synthetic market, ten simulated minutes a second."""
    bot = Running(environment(tmp_path, LOG_LEVEL="WARNING"))
    bot.wait("/readyz")
    yield bot
    if bot.process.poll() is None:
        bot.stop()


def until(visit: Visit, condition: str, seconds: float = 60) -> None:
    """Wait until an expression of the page is true; its policy lets nobody else evaluate text."""
    deadline = time.monotonic() + seconds
    while not visit.page.evaluate(f"Boolean({condition})"):
        assert time.monotonic() < deadline, (condition, visit.page.text_content("#ask-said"))
        visit.page.wait_for_timeout(100)


def test_charts_show_market_orders_and_fills(browser: Any, bot: Running) -> None:
    """Candles, a line for each resting order, marks of fills, equity and payoff; no complaint."""
    visit = Visit(browser, bot.url).ready()
    until(visit, "board.rows.length > 60 && board.fills.length > 0", 40.0)
    until(visit, "curve.points.length > 1 && payoff.found !== null")
    assert visit.page.evaluate(FRAMES) > 0
    shown = visit.page.evaluate(DRAWN)
    assert shown["lines"] == shown["orders"]
    told = bot.get("/api/candles?interval=1&limit=500").json()["candles"]
    own = {x["time"]: [float(x[key]) for key in ("open", "high", "low", "close")] for x in told}
    drawn = {x["time"]: [x["open"], x["high"], x["low"], x["close"]]
             for x in shown["candles"] if "open" in x and x["time"] <= shown["end"]}  # fmt: skip
    alike = own.keys() & drawn.keys()
    assert len(alike) > 30
    assert all(own[time] == drawn[time] for time in alike)
    times = [x["time"] for x in shown["candles"] if x["time"] <= shown["end"]]
    assert {b - a for a, b in itertools.pairwise(times)} == {60}
    fills = bot.get("/api/executions").json()["executions"]
    marks = {(x["time"], x["shape"]) for x in shown["marks"]}
    assert marks
    shapes = {"buy": "arrowUp", "sell": "arrowDown"}
    assert marks <= {(x["time"] // 60 * 60, shapes[x["side"]]) for x in fills}
    points = bot.get("/api/equity").json()["points"]
    assert shown["equity"][: len(points) - 1] == [float(x["equity"]) for x in points[:-1]]
    assert shown["drawdown"][:2] == [-float(x["drawdown_pct"]) for x in points[:2]]
    assert len(shown["payoff"]) == 101
    assert min(shown["payoff"]) > 0
    for button, words in (("15 min", "15"), ("1 h", "60")):
        visit.page.click(f"#chart-choice button:has-text('{button}')")
        until(visit, f"board.rows.length > 0 && board.length === {words} * 60")
    visit.page.click("#curve-legend [data-value=usd]")
    assert visit.page.get_attribute("#curve-legend [data-value=usd]", "aria-pressed") == "true"
    assert "left" in visit.text("#payoff-words") or "at" in visit.text("#payoff-words")
    visit.shoot("daemon-1440-light")
    visit.page.select_option("#theme", "dark")
    until(visit, "document.querySelectorAll('#chart canvas').length > 0")
    visit.shoot("daemon-1440-dark")
    assert visit.complaints == []
    assert visit.hosts == {bot.url.removeprefix("http://").rstrip("/")}
    visit.close()


def test_the_stream_carries_the_page(browser: Any, bot: Running) -> None:
    """After the first status changes come by the stream: the page hardly asks by itself."""
    visit = Visit(browser, bot.url)
    asked: list[str] = []
    visit.page.on("request", lambda x: asked.append(x.url.removeprefix(bot.url)))
    visit.ready()
    until(visit, "stream !== null && stream.readyState === 1")
    asked.clear()
    began = visit.page.evaluate("status.bot.now")
    visit.page.wait_for_timeout(3_500)
    assert visit.page.evaluate("status.bot.now") > began + 600
    assert [x for x in asked if "api/status" in x] == []
    visit.close()


def test_a_kill_under_an_open_page(browser: Any, tmp_path: Path) -> None:
    """Killed, the page greys and says since when; started again, it goes on by itself."""
    env = environment(tmp_path, LOG_LEVEL="WARNING")
    bot = Running(env)
    bot.wait("/readyz")
    port = bot.url.rstrip("/").rpartition(":")[2]
    visit = Visit(browser, bot.url).ready()
    until(visit, "stream !== null")
    bot.stop(signal.SIGKILL)
    until(visit, "document.body.classList.contains('stale')")
    assert "No connection to the daemon since" in visit.text("#stale")
    again = Running(env | {"PORT": port})
    until(visit, "!document.body.classList.contains('stale') && stream !== null", 40.0)
    assert visit.text("#condition").startswith("Running")
    visit.page.click("#pause")
    visit.page.click("#ask-yes")
    expect(visit.page.locator("#pause")).to_have_text("Resume", timeout=30_000)
    again.stop(signal.SIGKILL)
    third = Running(env | {"PORT": port})
    until(visit, "!document.body.classList.contains('stale') && status.bot.uptime_sec < 30", 40.0)
    assert visit.text("#condition").startswith("Paused")  # the operator's word outlives a kill
    visit.page.click("#pause")
    visit.page.click("#ask-yes")
    expect(visit.page.locator("#pause")).to_have_text("Pause", timeout=30_000)
    visit.close()
    third.stop()


def test_the_path_of_a_first_time_user(browser: Any, bot: Running, tmp_path: Path) -> None:
    """docs/DASHBOARD.md, step by step: look, pause, set, be refused, find a size, export."""
    visit = Visit(browser, bot.url).ready()
    assert visit.text("#mode") == "SIMULATED MARKET"
    until(visit, "status.equity.economics.cycles > 0", 60.0)
    visit.page.keyboard.press("p")
    visit.page.click("#ask-yes")
    expect(visit.page.locator("#condition")).to_contain_text("Paused", timeout=30_000)
    visit.page.fill("#set-profit_pct", "0.5")
    visit.page.click("form[data-key=profit_pct] button")
    visit.page.click("#ask-yes")
    visit.page.wait_for_selector("#ask-said:not([hidden])")
    assert "0.90" in visit.text("#ask-said")
    visit.page.click("#ask-no")
    visit.page.fill("#set-profit_pct", "2.5")
    visit.page.click("form[data-key=profit_pct] button")
    visit.page.click("#ask-yes")
    expect(visit.page.locator("#overrides")).to_contain_text("2.5 instead of 2", timeout=30_000)
    visit.page.click("#overrides button")
    visit.page.click("#ask-yes")
    expect(visit.page.locator("#overrides")).to_be_empty(timeout=30_000)
    visit.page.click("[data-slot-open='1']")
    visit.page.wait_for_selector("#slot details")
    assert "Why this size" in visit.text("#slot-body")
    assert "40.00" in visit.text("#slot-body")
    visit.shoot("slot-1440")
    visit.page.keyboard.press("Escape")
    with visit.page.expect_download() as started:
        visit.page.click("#exports a >> nth=0")
    file = tmp_path / "cycles.csv"
    started.value.save_as(file)
    rows = list(csv.DictReader(file.open()))
    assert len(rows) == bot.get("/api/status").json()["equity"]["economics"]["cycles"]
    visit.close()


def test_an_override_is_applied_and_reverted(browser: Any, tmp_path: Path) -> None:
    """A model disagrees; the operator applies it for a while, sees it act, and goes back."""
    model = Model()
    model.manner = chat(advice())
    with LlmServer(model) as server:
        slowly = {"AI_REGIME_INTERVAL_SEC": "1800", "REPLAY_SPEED": "10"}  # 3 min for half an hour
        bot = Running(env_of(tmp_path, server) | slowly)
        bot.wait("/readyz")
        visit = Visit(browser, bot.url).ready()
        visit.page.wait_for_selector("[data-state=disagrees] [data-do=ai_regime_override]:enabled")
        for name, button in (("override", "override"), ("disagrees", "revert")):
            visit.page.click(f"#advisor [data-do=ai_regime_{button}]")
            visit.shoot(f"advisor-{button}")
            visit.page.click("#ask-yes")
            until(visit, "!document.querySelector('#ask').open")
            visit.page.wait_for_selector(f"#advisor-card[data-state={name}]", timeout=60_000)
        assert "Your last override" in visit.text("#advisor")
        assert visit.complaints == []
        visit.close()
        bot.stop()
