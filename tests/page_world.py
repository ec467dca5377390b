"""A browser before a dashboard: a daemon that tells what a test gives it, a visit to its page.

The dashboard, the page and the browser are real; status and history are the test's.
"""

import gzip
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.commands import Command
from core.regime import LABELS
from core.status import Published
from dashboard import Dashboard, Reply

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
GOLDEN = Path(__file__).parent / "golden" / "status.json"
GOLDEN_NOW = float(json.loads(GOLDEN.read_bytes())["bot"]["now"])
TOKEN = "Zq3vT9-kLm2x_Wp8sR4y-7hNc5dFj1bGe"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_WIDE = """(document.documentElement.scrollWidth > innerWidth ? ["page"] : []).concat(
  [...document.querySelectorAll("main *, header *, footer *")]
    .filter((x) => !x.closest(".sr, .scroll") && x.getBoundingClientRect().right > innerWidth + 0.5)
    .map((x) => x.outerHTML.slice(0, 120)))"""
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium; set CHROMIUM to its path")


class Daemon:
    """A dashboard that publishes what a test puts into `status`."""

    def __init__(self, *, port: int = 0, token: str | None = None, read_only: bool = False) -> None:
        self.status: dict[str, Any] = json.loads(GOLDEN.read_text())
        self.submitted: list[Command] = []
        self.reply: Callable[[str], Reply] = lambda command_id: Reply(
            status=200, message="paused: no new entries", command_id=command_id
        )
        self.app = Dashboard(
            "127.0.0.1",
            port,
            token=token,
            read_only=read_only,
            allowed_hosts=(),
            published=self.published,
            readiness=lambda: None,
            liveness=lambda: True,
            submit=self.submit,
            history=GoldenHistory(),
            monotonic=time.monotonic,
        )
        self.url = f"http://127.0.0.1:{self.app.port}"
        self.app.start()

    def published(self) -> Published:
        """Return the status as bytes, with an ETag of its content."""
        body = json.dumps(self.status).encode()
        etag = f'W/"{hash(body)}"'
        return Published(body=body, gzip_body=gzip.compress(body), etag=etag, version=1)

    def submit(self, command_id: str, command: Command, _version: int | None) -> Reply:
        """Take the command down and answer as told."""
        self.submitted.append(command)
        return self.reply(command_id)


class GoldenHistory:
    """The history that goes with the golden status: an hour of candles, three fills, a day."""

    def candles(
        self, interval: float, limit: int, before: float | None
    ) -> tuple[float, list[dict[str, Any]]]:
        """Return candles that go up and down by a tenth of a percent, labelled in turn."""
        made = []
        for n in range(min(limit, 90)):
            price = 0.1 + 0.0001 * ((n * 7) % 13)
            made.append(
                {
                    "time": GOLDEN_NOW - GOLDEN_NOW % interval - (90 - n) * interval,
                    "open": f"{price:.7f}", "high": f"{price + 2e-4:.7f}",
                    "low": f"{price - 2e-4:.7f}", "close": f"{price + 1e-4:.7f}",
                    "volume": "12.5", "regime": (None, *LABELS)[n // 20 % 4],
                }
            )  # fmt: skip
        return interval, made

    def executions(self, since: float | None, limit: int) -> list[dict[str, Any]]:
        """Return a purchase and two sales."""
        rows = ((300.0, "buy", "0.1001000"), (240.0, "sell", "0.1012000"), (235.0, "sell", "0.1"))
        return [
            {
                "time": GOLDEN_NOW - ago, "side": side, "price": price, "volume": "200",
                "cost": "20.02", "fee": "0.08", "fee_asset": "quote", "is_maker": 1, "slot_id": 1,
                "trade_id": "B", "role": "entry", "client_order_id": "x", "execution_id": str(ago),
            }
            for ago, side, price in rows
        ]  # fmt: skip

    def equity_curve(self, since: float | None, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """Return a day of hourly points."""
        points = [
            {
                "time": GOLDEN_NOW - 3600.0 * (24 - n), "equity": str(1000 + n % 7), "hold": "1003",
                "usd": "1000", "doge": str(1000 + n), "half": str(1000 + n / 2), "mark": "0.1",
                "grid_profit": "1", "fees": "0.1", "drawdown_pct": str(n % 7 / 10),
            }
            for n in range(24)
        ]  # fmt: skip
        return points, False

    def order(self, client_order_id: str) -> dict[str, Any] | None:
        """Return the life of an entry of the base size, whatever the id."""
        return {
            "client_order_id": client_order_id, "attempt": 1, "placed_at": GOLDEN_NOW - 900.0,
            "detail": None, "executions": [], "entry": None,
            "chain": [{"stage": "base", "amount_usd": "40", "reason": "ORDER_SIZE_USD"}],
        }  # fmt: skip


@pytest.fixture(name="browser", scope="module")
def start_browser() -> Iterator[Any]:
    """Start one Chromium for the module."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(name="daemon")
def start_daemon() -> Iterator[Daemon]:
    """Start a dashboard with the golden status."""
    daemon = Daemon()
    yield daemon
    daemon.app.stop()


class Visit:
    """One page in a browser, with everything it complained about and asked for."""

    def __init__(
        self,
        browser: Any,
        url: str,
        *,
        width: int = 1440,
        scheme: str = "light",
        zone: str = "Europe/Berlin",
    ) -> None:
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            locale="en-US",
            timezone_id=zone,
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(5_000)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(url)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def ready(self) -> "Visit":
        """Wait for the first status to be shown."""
        self.page.wait_for_selector("#main:not([hidden])")
        return self

    def text(self, selector: str) -> str:
        """Return the visible text of an element."""
        return str(self.page.inner_text(selector)).replace("\u00a0", " ")

    def overflow(self) -> list[str]:
        """Return what is wider than the window, but for what scrolls on its own."""
        return list(self.page.evaluate(_WIDE))

    def shoot(self, name: str) -> None:
        """Keep a picture where SHOTS says, for a person to look at."""
        if folder := os.environ.get("SHOTS"):
            self.page.screenshot(path=f"{folder}/{name}.png", full_page=True)

    def shoot_part(self, selector: str, name: str) -> None:
        """Keep a picture of one element where SHOTS says."""
        if folder := os.environ.get("SHOTS"):
            self.page.locator(selector).screenshot(path=f"{folder}/{name}.png")

    def close(self) -> None:
        """Close the page."""
        self.context.close()
