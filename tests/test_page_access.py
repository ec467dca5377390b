"""The page by keyboard alone, and by the rules of axe-core."""

import json
from typing import Any

import pytest

from core.commands import Pause, SetProfitPct
from dashboard import Reply
from tests.page_world import GOLDEN, Daemon, Visit, needs_browser, start_browser, start_daemon
from tests.test_page_advisor import STATES, put
from tests.test_page_cards import all_wrong

__all__ = ["start_browser", "start_daemon"]

pytestmark = [needs_browser, pytest.mark.browser, pytest.mark.slow]


def findings(visit: Visit) -> list[str]:
    """Return what axe-core finds serious or critical: its rule, the places."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    found = axe.Axe().run(visit.page).response["violations"]
    return [
        f"{x['id']}: {[node['html'][:120] for node in x['nodes'][:3]]}"
        for x in found
        if x["impact"] in ("serious", "critical")
    ]


def shown(name: str) -> dict[str, Any]:
    """Return a status that shows much."""
    if name == "wrong":
        return all_wrong()
    status: dict[str, Any] = json.loads(GOLDEN.with_name(f"{name}.json").read_bytes())
    return status


@pytest.mark.parametrize("name", ["status", "status_regimes", "wrong"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_axe_finds_nothing_serious(
    browser: Any, daemon: Daemon, width: int, scheme: str, name: str
) -> None:
    """Page, a slot in full and a question pass, in both themes, on a phone and on a desk."""
    daemon.status = shown(name)
    visit = Visit(browser, daemon.url, width=width, scheme=scheme).ready()
    visit.page.wait_for_selector("#chart canvas")
    assert findings(visit) == []
    visit.page.click("[data-slot-open]")
    assert findings(visit) == []
    visit.page.keyboard.press("Escape")
    visit.page.click("#acts [data-do=record_flow]")
    assert findings(visit) == []
    visit.close()


@pytest.mark.parametrize("state", ["disagrees", "override"])
def test_axe_finds_nothing_serious_in_an_opinion(browser: Any, daemon: Daemon, state: str) -> None:
    """A disagreement and an override that is active pass too."""
    put(daemon, STATES[state])
    visit = Visit(browser, daemon.url).ready()
    visit.page.wait_for_selector(f"[data-state={state}]")
    assert findings(visit) == []
    visit.close()


def reached(visit: Visit, selector: str, most: int = 120) -> None:
    """Press Tab until an element has the focus, and see that its focus can be seen."""
    for _ in range(most):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate("(x) => document.activeElement.matches(x)", selector):
            seen = "getComputedStyle(document.activeElement).outlineStyle"
            assert visit.page.evaluate(seen) != "none"
            return
    raise AssertionError(f"Tab never came to {selector}")


def test_keyboard_alone_is_enough(browser: Any, daemon: Daemon) -> None:
    """Pause, look into a slot, set a target that is refused, find help: no mouse."""
    visit = Visit(browser, daemon.url).ready()
    keys = visit.page.keyboard
    reached(visit, "a.sr")  # the way past the header
    reached(visit, "#pause")
    keys.press("Enter")
    assert visit.page.evaluate("document.querySelector('#ask').open")
    reached(visit, "#ask-no", most=3)
    keys.press("Enter")
    assert visit.page.evaluate("document.activeElement.id") == "pause"  # back where it began
    keys.press("p")
    reached(visit, "#ask-yes", most=3)
    keys.press("Enter")
    visit.page.wait_for_selector("#toast:not(:empty)")
    assert daemon.submitted == [Pause()]
    keys.press("2")
    assert visit.page.evaluate("document.activeElement.id") == "slot-2"
    keys.press("Enter")
    assert "Slot 2" in visit.text("#slot-title")
    keys.press("Escape")
    reason = "profit target must be from 0.9032 (break-even plus margin) to 50 percent"
    daemon.reply = lambda command_id: Reply(status=409, message=reason, command_id=command_id)
    reached(visit, "#set-profit_pct")
    keys.type("0.5")
    keys.press("Enter")
    reached(visit, "#ask-yes", most=3)
    keys.press("Enter")
    visit.page.wait_for_selector("#ask-said:not([hidden])")
    assert visit.text("#ask-said") == reason
    assert isinstance(daemon.submitted[-1], SetProfitPct)
    keys.press("Escape")
    keys.press("Escape")
    visit.page.evaluate("document.activeElement.blur()")
    keys.press("?")
    assert "Pause or resume" in visit.text("#help")
    visit.close()


def test_charts_are_told_in_words_too(browser: Any, daemon: Daemon) -> None:
    """Who cannot see a chart is told what it shows."""
    visit = Visit(browser, daemon.url).ready()
    visit.page.wait_for_selector("#chart canvas")
    words = str(visit.page.text_content("#chart-words"))
    assert "1 buy order rests, the highest at 0.09750; 4 sell orders rest" in words, words
    assert "the largest drawdown was" in str(visit.page.text_content("#curve-words"))
    visit.close()
