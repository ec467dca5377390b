"""The page of a start from an older state: what it waits for, and the operator's answer."""

from collections.abc import Iterator
from typing import Any

import pytest

from core.commands import Adopt, Ignore
from tests.page_world import Daemon, Visit, needs_browser, start_browser, start_daemon

__all__ = ["start_browser", "start_daemon"]

UNBOUND = {
    "order": "OABCDE-FGHIJ-KLMNOP", "slot_id": 3, "trade_id": "B", "role": "exit", "side": "sell",
    "price": "0.1012345", "volume": "250", "why": "no position of cycle 7 is open",
}  # fmt: skip


@pytest.fixture(name="visits", params=[pytest.param(360, marks=pytest.mark.slow), 1440])
def start_visits(request: pytest.FixtureRequest, browser: Any, daemon: Daemon) -> Iterator[Visit]:
    """Yield the page of a daemon that waits for the operator."""
    daemon.status["persistence"]["restore"] = {
        "since": 1_700_000_000.0, "is_told": True, "bound": 4, "unbound": [UNBOUND],
    }  # fmt: skip
    visit = Visit(browser, daemon.url, width=request.param).ready()
    yield visit
    visit.close()


@needs_browser
@pytest.mark.browser
def test_restore_card_lists_and_asks(visits: Visit, daemon: Daemon) -> None:
    """Each order with its place and why it has none; both answers ask before they are sent."""
    page = visits.page
    text = visits.text("#restore")
    for words in ("Slot 3, leg B, exit: sell 250", "0.1012345", "no position of cycle 7 is open"):
        assert words in text
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    visits.shoot(f"restore-{width}")
    for name, kind in (("Adopt", Adopt), ("Leave alone", Ignore)):
        page.click(f"#restore button:has-text('{name}')")
        assert "OABCDE-FGHIJ-KLMNOP" in visits.text("#ask-text")
        page.click("#ask-yes")
        page.wait_for_selector("#ask:not([open])", state="attached")
        assert daemon.submitted[-1] == kind(order="OABCDE-FGHIJ-KLMNOP", confirm=True)
    daemon.status["persistence"]["restore"]["is_told"] = False
    daemon.status["persistence"]["restore"]["unbound"] = []
    page.wait_for_selector("#restore:has-text('is asked what our orders did')")
    daemon.status["persistence"]["restore"] = None
    page.wait_for_selector("#restore", state="hidden")
    assert visits.complaints == []
