"""The page in a real Chromium, from the golden status: shown, acted upon, never fooled."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from core.commands import Pause, RetrainHmm, SetProfitPct
from core.kelly import KellyResult
from dashboard import Reply
from tests.page_world import (
    GOLDEN,
    TOKEN,
    Daemon,
    Visit,
    needs_browser,
    start_browser,
    start_daemon,
)

__all__ = ["start_browser", "start_daemon"]

PAGE = Path(__file__).parent.parent / "static" / "dashboard.html"
WIDTHS = (360, pytest.param(768, marks=pytest.mark.slow), 1440)


def test_page_uses_text_only_and_nothing_from_elsewhere() -> None:
    """The page never makes markup of text, loads nothing from other hosts, evaluates nothing."""
    source = PAGE.read_text()
    for banned in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "//cdn",
        "<img",
        "onclick=",
        'style="',
    ):
        assert banned not in source, banned
    assert source.count('nonce="{{nonce}}"') == 3
    links = re.findall(r"https?://[^\"' ]+", source)
    assert set(links) <= {"http://www.w3.org/2000/svg", "https://www.tradingview.com/"}
    assert len(source) < 132_000


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits_and_is_silent(browser: Any, daemon: Daemon, width: int, scheme: str) -> None:
    """No console message, no foreign request, no horizontal overflow, every card filled."""
    visit = Visit(browser, daemon.url, width=width, scheme=scheme).ready()
    visit.page.wait_for_timeout(1_300)  # one more poll: 304
    sizes = visit.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert sizes[0] <= sizes[1]
    wide = visit.page.evaluate(
        "[...document.querySelectorAll('main *, header *')].filter((x) => "
        "!x.closest('.sr') && x.getBoundingClientRect().right > innerWidth + 0.5).length"
    )
    assert wide == 0
    assert visit.complaints == []
    assert visit.hosts == {daemon.url.removeprefix("http://")}
    empty = "[...document.querySelectorAll('main section:not([hidden])')].filter((x) => "
    assert visit.page.evaluate(empty + "x.innerText.length < 40).length") == 0
    visit.shoot(f"page-{width}-{scheme}")
    visit.close()


@needs_browser
@pytest.mark.browser
def test_page_says_what_matters(browser: Any, daemon: Daemon) -> None:
    """Mode, headline, five lines, parked prices, missing sides and overrides are in plain words."""
    visit = Visit(browser, daemon.url).ready()
    assert visit.text("#mode") == "SIMULATED MARKET"
    assert visit.text("#condition") == "Running · needs a look"
    assert visit.text(".headline") == "+1.43USD"
    assert "ahead of holding the starting balances" in visit.text("#equity")
    for line in ("+5.60", "+4.77", "\u22122.94", "+7.43", "1.69", "32"):
        assert line in visit.text("#equity"), line
    assert visit.page.get_attribute(".headline span", "title") == "exactly 1.43096 USD"
    assert "0.10120" in visit.text("#price")
    parked = visit.text("#parked")
    assert "0.09750" in parked
    assert "0.10800" in parked
    assert "Pair off" in parked
    slots = visit.text("#slots")
    assert "Sell 395 DOGE at 0.10300" in slots
    assert "100 filled" in slots
    assert "the leg rests before its next entry" in slots
    assert "tried again in 10 min" in slots
    assert "2.5 instead of 2" in visit.text("#overrides")
    event = visit.page.locator("#events time").first
    assert event.get_attribute("title") == "2025-10-11 06:53:20 UTC"
    assert event.inner_text() == "Oct 11, 08:53 AM"  # local time in Berlin
    visit.close()


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("width", [360, pytest.param(1440, marks=pytest.mark.slow)])
def test_regime_card_says_what_is_known_and_what_follows(
    browser: Any, daemon: Daemon, width: int
) -> None:
    """Label, probabilities, both timeframes, training depth, tiers, evidence; a training asks."""
    daemon.status = json.loads(GOLDEN.with_name("status_regimes.json").read_bytes())
    visit = Visit(browser, daemon.url, width=width).ready()
    card = visit.text("section[aria-labelledby=t-regime]")
    for words in (
        "bullish 83 %", "ranging 12 %", "bearish 5 %", "both timeframes agree",
        "1,200/4,000 (30 %) \u00b7 baseline \u00b7 full in ~1 d 22 h", "1 min", "15 min",
        "2 directional \u00b7 long bias", "sell entries", "no evidence, 140 of 200 rows",
        "present, t +2.6",
        "last training failed: constant prices", "candles were not told: <b>html</b>",
    ):  # fmt: skip
        assert words in card, (words, card)
    assert visit.page.get_attribute("meter.baseline", "value") == "0.3"
    assert visit.page.locator(".ribbon > span").count() == 3
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.page.click("#retrain")
    visit.page.click("#ask-yes")
    visit.page.wait_for_selector("#toast:not(:empty)")
    assert daemon.submitted == [RetrainHmm()]
    assert visit.complaints == []
    visit.shoot(f"regime-{width}")
    visit.close()


@needs_browser
@pytest.mark.browser
def test_regime_card_without_models(browser: Any, daemon: Daemon) -> None:
    """Off says how to switch it on; untrained and stale say so, and show no label as known."""
    visit = Visit(browser, daemon.url).ready()
    assert "HMM_ENABLED=true" in visit.text("#regime")
    assert visit.page.is_hidden("#retrain")
    daemon.status = json.loads(GOLDEN.with_name("status_regimes.json").read_bytes())
    stale = {"regime": None, "why": "stale: the newest candle closed 400 s ago, 180 s allowed"}
    daemon.status["hmm_regime"] |= stale | {"secondary": None, "model": None}
    visit.page.wait_for_selector("#regime:has-text('stale: the newest candle')")
    assert "unknown" in visit.text("#regime-chips")
    assert visit.complaints == []
    visit.close()


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
def test_rounded_lines_add_up(browser: Any, daemon: Daemon) -> None:
    """Lines that would round to another total are shown so that they add up to the cent."""
    daemon.status["equity"]["change"] = {
        "total": "0.012",
        "grid_profit": "0.004",
        "inventory_pnl": "0.004",
        "fees": "0.004",
        "flows": "0",
        "unexplained": "0",
    }
    visit = Visit(browser, daemon.url).ready()
    shown = visit.page.evaluate(
        "[...document.querySelectorAll('#equity dl[aria-label] dd')].map((x) => "
        "Number(x.innerText.replace('USD', '').replace('\u2212', '-')))"
    )
    assert len(shown) == 6
    assert round(sum(shown[:5]), 2) == shown[5] == 0.01
    visit.close()


@needs_browser
@pytest.mark.browser
def test_pause_asks_then_posts(browser: Any, daemon: Daemon) -> None:
    """Pause asks first; cancel sends nothing; confirm posts once and shows the answer."""
    visit = Visit(browser, daemon.url).ready()
    visit.page.click("#pause")
    visit.page.click("#ask-no")
    assert daemon.submitted == []
    visit.page.keyboard.press("p")
    assert visit.text("#ask-title") == "Pause?"
    daemon.status["bot"] |= {"mode": "paused"}
    visit.page.click("#ask-yes")
    visit.page.wait_for_selector("#toast:not(:empty)")
    assert visit.text("#toast") == "paused: no new entries"
    assert daemon.submitted == [Pause()]
    visit.page.wait_for_selector("#pause:text-is('Resume')")
    assert visit.complaints == []
    visit.close()


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
def test_set_shows_refusal(browser: Any, daemon: Daemon) -> None:
    """A refused value keeps the dialog open with the daemon's reason; typing survives polls."""
    reason = "profit target must be from 0.903 (break-even plus margin) to 50 percent"
    daemon.reply = lambda command_id: Reply(status=409, message=reason, command_id=command_id)
    visit = Visit(browser, daemon.url).ready()
    visit.page.select_option("#scope", "2")
    visit.page.fill("#set-profit_pct", "0.5")
    daemon.status["bot"]["now"] += 60.0
    visit.page.wait_for_timeout(1_300)
    assert visit.page.input_value("#set-profit_pct") == "0.5"
    assert visit.page.input_value("#scope") == "2"
    assert visit.page.evaluate("document.activeElement.id") == "set-profit_pct"
    visit.page.press("#set-profit_pct", "Enter")
    assert "0.5 %" in visit.text("#ask-title")
    assert "slot 2" in visit.text("#ask-text")
    visit.page.click("#ask-yes")
    visit.page.wait_for_selector("#ask-said:not([hidden])")
    assert visit.text("#ask-said") == reason
    (command,) = daemon.submitted
    assert isinstance(command, SetProfitPct)
    assert (str(command.value), command.slot) == ("0.5", 2)
    visit.shoot("refused")
    visit.close()


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
def test_a_value_with_a_separator_is_never_guessed_at(browser: Any, daemon: Daemon) -> None:
    """A comma may mean thousands or decimals: the page says how to write it, and sends nothing."""
    visit = Visit(browser, daemon.url).ready()
    for typed in ("1,000", "0,5", "1,000.50", "1\u202f000", "1_0", "ten", "١"):
        visit.page.evaluate("document.getElementById('toast').textContent = ''")
        visit.page.fill("#set-order_size_usd", typed)
        visit.page.press("#set-order_size_usd", "Enter")
        visit.page.wait_for_selector("#toast:not(:empty)")
        assert "with a point, and no thousands separator" in visit.text("#toast")
        assert visit.page.evaluate("document.activeElement.id") == "set-order_size_usd"
        assert visit.page.input_value("#set-order_size_usd") == typed
        assert not visit.page.evaluate("document.getElementById('ask').open")
        assert daemon.submitted == []
    assert visit.complaints == []
    visit.close()


@needs_browser
@pytest.mark.browser
def test_hostile_text_stays_text(browser: Any, daemon: Daemon) -> None:
    """Markup in aliases, events, reasons and market names is shown, never run."""
    attack = "<img src=x onerror='document.title=\"owned\"'><script>document.title='owned'</script>"
    status = daemon.status
    status["slots"][0]["alias"] = status["bot"]["market_name"] = attack
    status["bot"]["reasons"] = [attack, "word" * 300]
    status["recent_events"][0]["text"] = attack + "x" * 400
    status["slots"][2]["legs"][0]["missing"]["why"] = attack
    status["overrides"][0]["name"] = attack
    visit = Visit(browser, daemon.url, width=360).ready()
    for selector in ("#slots", "#events", "#reasons", "#price", "#overrides"):
        assert attack in visit.text(selector), selector
    assert visit.page.evaluate("document.querySelectorAll('img, main script').length") == 0
    assert "owned" not in visit.page.title()
    sizes = visit.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert sizes[0] <= sizes[1]
    assert visit.complaints == []
    visit.close()


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
def test_stale_status_greys_the_page(browser: Any, daemon: Daemon) -> None:
    """When nothing new comes the page says since when and greys; news brings it back."""
    daemon.status["bot"]["stale_after_sec"] = 1.5
    visit = Visit(browser, daemon.url).ready()
    visit.page.wait_for_selector("body.stale")
    assert "The daemon sends nothing new since" in visit.text("#stale")
    visit.shoot("stale")
    daemon.status["bot"] |= {"stale_after_sec": 60.0, "uptime_sec": 1.0}
    visit.page.wait_for_selector("body:not(.stale)")
    visit.close()


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
def test_page_survives_a_restart(browser: Any) -> None:
    """The page says that the daemon is gone, and goes on by itself when it is back."""
    first = Daemon()
    visit = Visit(browser, first.url).ready()
    first.app.stop()
    visit.page.wait_for_selector("body.stale")
    assert "No connection to the daemon" in visit.text("#stale")
    second = Daemon(port=first.app.port)
    second.status["market"]["pair"] = "XBT/USD"
    visit.page.wait_for_selector("#pair:text-is('XBT/USD')")
    visit.page.wait_for_selector("body:not(.stale)")
    visit.close()
    second.app.stop()


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
def test_login_and_read_only(browser: Any) -> None:
    """With a token the page asks for it; a read-only dashboard has no buttons."""
    daemon = Daemon(token=TOKEN, read_only=True)
    daemon.status["bot"]["read_only"] = True
    visit = Visit(browser, daemon.url)
    visit.page.wait_for_selector("#login[open]")
    visit.page.fill("#token", "not the token at all")
    visit.page.click("#login button")
    visit.page.wait_for_selector("#login-said:not([hidden])")
    assert visit.text("#login-said") == "that is not the token"
    visit.page.fill("#token", TOKEN)
    visit.page.click("#login button")
    visit.ready()
    assert not visit.page.is_visible("#login")
    assert not visit.page.is_visible("#controls")
    assert visit.page.query_selector("#settings button") is None
    visit.page.click("#logout")
    visit.page.wait_for_selector("#login[open]")
    visit.close()
    daemon.app.stop()


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
def test_page_before_the_first_price(browser: Any, daemon: Daemon) -> None:
    """A status full of nulls is shown without errors."""
    status = daemon.status
    for name in ("bid", "ask", "last", "mid", "spread_pct", "change_pct", "time"):
        status["market"][name] = None
    for name in ("equity", "inventory", "start_equity", "change", "change_pct", "holding"):
        status["equity"][name] = None
    status["market"]["is_stale"] = True
    status["settings"]["order_size_usd_min"] = None
    status["slots"], status["recent_events"], status["overrides"] = [], [], []
    visit = Visit(browser, daemon.url).ready()
    assert "Waiting for the first price" in visit.text("#equity")
    assert "There is no slot yet" in visit.text("#slots")
    assert visit.complaints == []
    visit.close()


@needs_browser
@pytest.mark.browser
def test_live_mode_is_red(browser: Any, daemon: Daemon) -> None:
    """LIVE stands out, and a lock says how it clears."""
    daemon.status["bot"] |= {"exchange_mode": "LIVE", "condition": "stopped", "reasons": ["Locked"]}
    daemon.status["risk"]["locks"] = [
        {"name": "daily_loss", "since": 1.0, "reason": "lost 51 USD", "clears": "at UTC midnight"}
    ]
    visit = Visit(browser, daemon.url).ready()
    assert visit.page.evaluate("document.body.classList.contains('live')")
    assert visit.text("#condition") == "Running · no new risk"
    assert "Clears: at UTC midnight" in visit.text("#risk")
    visit.shoot("live")
    visit.close()


CONTRAST = """
(() => {
  const lum = (c) => { const f = c.map((v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const back = (node) => { for (let n = node; n; n = n.parentElement) { const c = rgb(getComputedStyle(n).backgroundColor); if (c.length < 4 || c[3] > .99) return c.slice(0, 3); } return [255, 255, 255]; };
  const poor = [];
  for (const node of document.querySelectorAll('body *')) {
    if (![...node.childNodes].some((x) => x.nodeType === 3 && x.data.trim()) || !node.checkVisibility() || node.closest('script, style, .sr, option')) continue;
    const [a, b] = [lum(rgb(getComputedStyle(node).color).slice(0, 3)), lum(back(node))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) poor.push(node.className + ' ' + node.textContent.slice(0, 30) + ' ' + ratio.toFixed(2));
  }
  return poor;
})()
"""  # noqa: E501


@needs_browser
@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_names(browser: Any, daemon: Daemon, scheme: str) -> None:
    """All text reaches 4.5 to 1, every control has a name, headings do not skip."""
    visit = Visit(browser, daemon.url, scheme=scheme).ready()
    assert visit.page.evaluate(CONTRAST) == []
    unnamed = visit.page.evaluate(
        "[...document.querySelectorAll('button, input, select, meter')].filter((x) => "
        "!x.closest('[aria-hidden]') && !(x.textContent.trim() || x.ariaLabel || "
        "(x.labels && x.labels.length))).length"
    )
    assert unnamed == 0
    assert visit.page.evaluate("document.querySelectorAll('h1').length") == 1
    visit.close()


KELLY = {
    "enabled": True, "mode": "tilt", "active_regime": "bullish", "kelly_fraction": 0.25,
    "floor_mult": 0.5, "ceiling_mult": 2.0, "unknown_count": 3, "fallback": "bullish",
    "multiplier_now": 1.123, "reason_now": "kelly_bullish(f=0.1226,m=1.123)", "last_update_n": 91,
    "updated_at": 1.0, "next_update": 2.0, "sizes": 12, "capped_share": 0.25,
    "open_losers": {"count": 2, "marked_usd": "-3.17"},
}  # fmt: skip


def bucket(reason: str, **more: object) -> dict[str, Any]:
    """Return one row of the Kelly table."""
    counts = {"n_total": 40, "n_wins": 28, "n_losses": 12} if reason != "no_data" else {}
    found = KellyResult.from_dict({"win_rate": 0.7, "payoff_ratio": 0.8, "edge": 0.26,
                                   "f_star": 0.325, "multiplier": 1.081, "reason": reason,
                                   "sufficient_data": reason in ("ok", "no_edge", "all_wins"),
                                   **counts, **more})  # fmt: skip
    return found.to_dict()


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("width", [pytest.param(360, marks=pytest.mark.slow), 1440])
def test_kelly_card_in_its_states(browser: Any, daemon: Daemon, width: int) -> None:
    """Off says how to switch it on; then each regime's verdict, and always what is still open."""
    visit = Visit(browser, daemon.url, width=width).ready()
    assert "KELLY_ENABLED=true" in visit.text("#kelly")
    rows = {
        "bullish": bucket("ok"), "ranging": bucket("insufficient_samples", n_total=4),
        "bearish": bucket("no_edge", edge=-0.3), "aggregate": bucket("all_wins", n_losses=0),
    }  # fmt: skip
    daemon.status["kelly"] = KELLY | rows
    visit.page.wait_for_selector("#kelly table")
    text = visit.text("section[aria-labelledby=t-kelly]")
    for words in (
        "tilt", "sizes × 1.123", "70 %", *(["0.80", "+0.325"] if width > 600 else []),
        "counts", "too few cycles", "no edge", "only wins",
        "Closed cycles only; 2 open losers, marked −3.17", "Decides now: bullish.",
    ):  # fmt: skip
        assert words in text, (words, text)
    assert "set by the caps" not in text
    assert visit.page.locator("#kelly tr.muted").count() == 1
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.shoot(f"kelly-{width}")
    few = {"reason_now": "kelly_inactive", "capped_share": 0.95, "active_regime": None,
           "fallback": "base size: 4 of 30 cycles", "aggregate": bucket("no_data")}  # fmt: skip
    daemon.status["kelly"] = KELLY | rows | few
    visit.page.wait_for_selector("#kelly:has-text('set by the caps, not by Kelly: 95 %')")
    assert "sizes as configured" in visit.text("#kelly-chips")
    assert visit.complaints == []
    visit.close()
