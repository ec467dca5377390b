"""Every card of the page in a real Chromium: with all well, with nothing known, with all wrong."""

import json
from typing import Any

import msgspec
import pytest

from core.advisor_status import VoteBlock
from core.commands import (
    AuditPnl,
    CancelStaleRecoveries,
    PairOff,
    RecordFlow,
    RemoveSlot,
    ResetDailyLock,
    SoftClose,
)
from core.params import Params
from core.record import replace
from core.state import BotState
from dashboard import Reply
from engine.status_view import build_status
from tests.page_world import GOLDEN, Daemon, Visit, needs_browser, start_browser, start_daemon
from tests.test_page_advisor import BLOCK, COUNCIL, HOSTILE, OPINION
from tests.test_status import sample_facts

__all__ = ["start_browser", "start_daemon"]

pytestmark = [needs_browser, pytest.mark.browser, pytest.mark.slow]

LOCKS = ("daily_loss", "api_errors", "reconciliation", "funds", "equity_stop", "safety", "restore")


def all_wrong() -> dict[str, Any]:
    """Return a status in which every block has something to complain about."""
    status: dict[str, Any] = json.loads(GOLDEN.with_name("status_regimes.json").read_bytes())
    status["bot"] |= {
        "mode": "halted",
        "mode_reason": HOSTILE,
        "condition": "alarm",
        "reasons": ["Safety check: 3 orders too many", "12.34 USD are unexplained", HOSTILE],
        "waiting_for": "the exchange",
        "exchange_mode": "LIVE",
        "speed": None,
        "market_ended": True,
    }
    status["market"] |= {"is_stale": True, "candidate": "0.2000000"}
    status["equity"]["change"] |= {"unexplained": "-12.34"}
    status["equity"] |= {"drawdown_pct": "21.5"}
    lock = {"since": 1760000000.0, "reason": HOSTILE, "clears": "see the book"}
    status["risk"] |= {
        "level": "EMERGENCY",
        "drawdown_pct": "21.5",
        "daily_loss": "99.5",
        "locks": [{"name": name} | lock for name in LOCKS],
        "violations": [HOSTILE],
        "missing": [HOSTILE],
    }
    status["capacity_fill_health"] |= {
        "open_orders": 160, "headroom": "8.75", "band": "stop", "rejected": {"post_only": 7},
    }  # fmt: skip
    status["exchange"] |= {
        "status": "maintenance",
        "consecutive_errors": 26,
        "ghosts": 2,
        "account": {
            "foreign_orders": 3, "in_doubt": 2, "rest_used_pct": "98", "engine_used_pct": "77",
            "paused_until": 1760172900.0, "pause_reason": HOSTILE, "last_error": HOSTILE,
        },
    }  # fmt: skip
    status["ledger"] |= {"agrees": False, "drift_base": "-12", "drift_quote": "3.5"}
    status["persistence"]["replica"] = {
        "is_checked": False, "queue": 12345, "lag_sec": 86400.0, "sent": 0, "dropped": 9,
        "attempts": 40, "last_error": HOSTILE, "failing": [], "candles": None,
    }  # fmt: skip
    status["recent_events"] = [
        {"time": 1760172000.0, "kind": "lock", "level": level, "text": HOSTILE}
        for level in ("error", "warning", "info")
    ]
    for slot in status["slots"]:
        slot["ending"] = "closing"
    votes = (VoteBlock(panelist=HOSTILE, action=HOSTILE, error=None),)
    said = replace(OPINION, rationale=HOSTILE, watch_for=HOSTILE, panelist=HOSTILE)
    block = replace(BLOCK, opinion=said, council=replace(COUNCIL, why=HOSTILE, votes=votes))
    status["ai_regime_advisor"] = block.to_dict()
    return status


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_with_everything_wrong(browser: Any, daemon: Daemon, width: int, scheme: str) -> None:
    """Mode, locks with their ways out, differences and waits are said; hostile text stays text."""
    daemon.status = all_wrong()
    visit = Visit(browser, daemon.url, width=width, scheme=scheme).ready()
    assert visit.text("#mode") == "LIVE"
    assert visit.text("#condition") == "Halted \u00b7 alarm"
    assert visit.text("#pause") == "Resume"
    assert "A jump to 0.20000 waits" in visit.text("#price")
    risk = visit.text("#risk")
    for name in LOCKS:
        assert f"Locked: {name.replace('_', ' ')}" in risk, name
    assert visit.page.locator("#risk [data-do=reset_daily_lock]").count() == 1
    assert visit.page.locator("#risk [data-do=audit_pnl]").count() == 1
    books = visit.text("#capacity")
    for words in ("160 of 225", "stop", "maintenance", "12,345 rows wait", "9 rows were dropped"):
        assert words in books, words
    assert visit.page.evaluate("document.querySelectorAll('img, main script').length") == 0
    assert "owned" not in visit.page.title()
    assert visit.overflow() == []
    visit.shoot(f"wrong-{width}-{scheme}")
    assert visit.complaints == []
    visit.close()


@pytest.mark.parametrize("width", [360, 1440])
def test_with_nothing_known(browser: Any, daemon: Daemon, width: int) -> None:
    """The very first status, before any price: each card says what it waits for."""
    first = build_status(BotState(), Params(), sample_facts())
    daemon.status = json.loads(msgspec.json.encode(first))
    visit = Visit(browser, daemon.url, width=width).ready()
    assert "Waiting for the first price" in visit.text("#equity")
    assert "no price yet" in visit.text("#price")
    assert visit.overflow() == []
    empty = "[...document.querySelectorAll('main section:not([hidden])')].filter((x) => "
    assert visit.page.evaluate(empty + "x.innerText.length < 20).length") == 0
    visit.shoot(f"first-{width}")
    assert visit.complaints == []
    visit.close()


def sent(visit: Visit, daemon: Daemon, button: str, *, is_told: bool = False, **fields: str) -> Any:
    """Press a button, fill its question, confirm (twice where it tells first); return the last."""
    visit.page.click(button)
    for name, value in fields.items():
        visit.page.fill(f"#ask-{name}", value)
    if is_told and fields:
        visit.page.click("#ask-yes")
    if is_told:
        visit.page.wait_for_selector("#ask-note:not([hidden])")
    visit.page.click("#ask-yes:enabled")
    visit.page.wait_for_selector("#ask:not([open])", state="attached")
    return daemon.submitted[-1]


def test_every_operation_asks_and_sends(browser: Any, daemon: Daemon) -> None:
    """What needs confirming is told by the daemon first, and only then sent with confirm."""
    tells = ("soft_close", "pair_off", "cancel_stale_recoveries", "reset_risk_peak")

    def reply(command_id: str) -> Reply:
        command = daemon.submitted[-1]
        name = str(command.__struct_config__.tag)
        if name in tells and not getattr(command, "confirm", True):
            said = "needs confirm: 12 DOGE near 0.1, expected -0.5 USD"
            told = {"expects": "2-B-1"} if name == "soft_close" else {}
            return Reply(status=409, message=said, command_id=command_id, changed=told)
        return Reply(status=200, message="done", command_id=command_id)

    daemon.reply = reply
    daemon.status = json.loads(GOLDEN.with_name("status_regimes.json").read_bytes())
    daemon.status["slots"][1]["recoveries"] = [
        {
            "id": "2-B-1", "leg": "B", "orphaned_at": 1760000000.0, "reason": "S1 timeout",
            "order": daemon.status["slots"][0]["legs"][1]["order"], "missing": None,
            "position": daemon.status["slots"][0]["legs"][1]["position"],
        }
    ]  # fmt: skip
    daemon.status["risk"]["locks"] = [
        {"name": "daily_loss", "since": 1.0, "reason": "50 USD", "clears": "tomorrow"}
    ]
    visit = Visit(browser, daemon.url).ready()
    flow = sent(visit, daemon, "#acts [data-do=record_flow]", quote="-25.5", remark="rent")
    assert flow == RecordFlow(base=flow.base, quote=flow.quote, note="rent")
    assert str(flow.quote) == "-25.5"
    assert sent(visit, daemon, "#acts [data-do=audit_pnl]") == AuditPnl()
    assert sent(visit, daemon, "#risk [data-do=reset_daily_lock]") == ResetDailyLock()
    stale = sent(
        visit, daemon, "#acts [data-do=cancel_stale_recoveries]", is_told=True, hours="2.5"
    )
    assert stale == CancelStaleRecoveries(older_than_sec=9000.0, confirm=True)
    visit.page.click("[data-slot-open='2']")
    assert "Recovery 2-B-1" in visit.text("#slot")
    closed = sent(visit, daemon, "#slot [data-recovery='2-B-1']", is_told=True, max_loss_pct="1.5")
    assert (closed.slot, closed.recovery, closed.confirm) == (2, "2-B-1", True)
    assert isinstance(closed, SoftClose)
    assert closed.expects == "2-B-1"
    assert str(closed.max_loss_pct) == "1.5"
    removed = sent(visit, daemon, "#slot [data-do=remove_slot]")
    assert removed == RemoveSlot(slot=2, disposition="keep_recoveries")
    paired = sent(visit, daemon, "#slot [data-do=pair_off]", is_told=True)
    assert paired == PairOff(slot=2, confirm=True)
    visit.close()


def test_a_changed_field_is_told_of_anew(browser: Any, daemon: Daemon) -> None:
    """Between what was told and what is confirmed nothing can change unseen."""
    daemon.reply = lambda command_id: Reply(
        status=409, message="needs confirm: at a loss of 1 %", command_id=command_id
    )
    visit = Visit(browser, daemon.url).ready()
    visit.page.click("[data-slot-open='1']")
    visit.page.click("#slot [data-leg=B]")
    visit.page.click("#ask-yes")
    visit.page.wait_for_selector("#ask-yes.danger")
    assert visit.text("#ask-note") == "At a loss of 1 %"
    visit.page.fill("#ask-max_loss_pct", "50")
    assert visit.text("#ask-yes") == "What would it do?"
    assert visit.page.is_hidden("#ask-note")
    assert not any(x.confirm for x in daemon.submitted)
    visit.close()


def test_a_button_that_cannot_be_used_says_why(browser: Any, daemon: Daemon) -> None:
    """It stays in reach of the keyboard, and pressing it tells the reason; nothing is sent."""
    daemon.status["bot"]["mode"] = "halted"
    for slot in daemon.status["slots"]:
        slot["recoveries"] = []
    visit = Visit(browser, daemon.url).ready()
    for button, why in (
        ("#halt", "halted already"),
        ("#acts [data-do=soft_close_next]", "no recovery"),
        ("#acts [data-do=reset_daily_lock]", "does not hold"),
    ):
        assert visit.page.get_attribute(button, "aria-disabled") == "true"
        visit.page.focus(button)
        visit.page.keyboard.press("Enter")
        assert why in visit.text("#toast"), button
    assert daemon.submitted == []
    visit.close()


def test_filter_finds_slots_and_events(browser: Any, daemon: Daemon) -> None:
    """Words narrow down slots and events, Escape shows all again."""
    visit = Visit(browser, daemon.url).ready()
    every = visit.page.locator(".slots tbody tr").count()
    visit.page.keyboard.press("/")
    visit.page.keyboard.type("mars")
    assert visit.page.locator(".slots tbody tr").count() == 1
    assert f"1 of {every} shown" in visit.text("#slots-note")
    visit.page.keyboard.press("Escape")
    assert visit.page.locator(".slots tbody tr").count() == every
    visit.close()


def test_what_was_closed_stays_closed(browser: Any, daemon: Daemon) -> None:
    """A new status does not open again what a person has closed."""
    visit = Visit(browser, daemon.url).ready()
    visit.page.click("[data-slot-open='1']")
    visit.page.wait_for_selector("#slot details[open]")
    visit.page.click("#slot summary >> nth=0")
    daemon.status["slots"][0]["cycles"] = 99
    visit.page.wait_for_selector("#slot-body:has-text('99 cycles')")
    assert visit.page.locator("#slot details").first.get_attribute("open") is None
    visit.close()


def test_a_lost_answer_is_asked_for_again_under_the_same_id(browser: Any, daemon: Daemon) -> None:
    """The command that was sent, unchanged, so that it is done once whatever happened to it."""
    visit = Visit(browser, daemon.url).ready()
    bodies: list[str] = []

    def lose(route: Any) -> None:
        bodies.append(route.request.post_data)
        if len(bodies) == 1:
            route.abort()
        else:
            route.continue_()

    visit.page.route("**/api/action", lose)
    visit.page.click("#acts [data-do=record_flow]")
    visit.page.fill("#ask-quote", "25")
    visit.page.click("#ask-yes")
    visit.page.wait_for_selector("#ask-said:not([hidden])")
    assert "did not answer" in visit.text("#ask-said")
    assert visit.text("#ask-yes") == "Ask again"
    visit.page.click("#ask-yes")
    visit.page.wait_for_selector("#ask:not([open])", state="attached")
    assert bodies[0] == bodies[1]
    assert len(daemon.submitted) == 1
    visit.close()


def test_an_answer_that_was_overtaken_changes_nothing(browser: Any, daemon: Daemon) -> None:
    """A status older than the one on the page is dropped; one of a new process is not."""
    visit = Visit(browser, daemon.url).ready()
    asked = "(x) => { const s = structuredClone(status); Object.assign(s.bot, x); take(s, 'x'); "
    asked += "return status.bot.mode; }"
    newest = daemon.status["bot"]["published_wall"]
    older = {"mode": "halted", "published_wall": newest - 1}
    assert visit.page.evaluate(asked, older) == "running"
    assert visit.page.evaluate(asked, older | {"started_wall": newest - 2}) == "halted"
    visit.close()


def test_the_chosen_slot_stays_the_chosen_one(browser: Any, daemon: Daemon) -> None:
    """When another slot goes the choice does not move to its neighbour; keys go by number."""
    visit = Visit(browser, daemon.url).ready()
    visit.page.select_option("#scope", "2")
    gone = daemon.status["slots"].pop(0)
    visit.page.wait_for_selector("#slot-1", state="detached")
    assert visit.page.input_value("#scope") == "2"
    visit.page.keyboard.press("Escape")
    visit.page.evaluate("document.activeElement.blur()")
    visit.page.keyboard.press("2")
    assert visit.page.evaluate("document.activeElement.id") == "slot-2"
    daemon.status["slots"] = [gone]
    visit.page.wait_for_selector("#slot-2", state="detached")
    assert visit.page.input_value("#scope") == ""
    assert "Slot 2 is gone" in visit.text("#toast")
    visit.close()


def test_history_that_cannot_be_read_is_said(browser: Any, daemon: Daemon) -> None:
    """Nothing is claimed of what is not known, and it is tried again."""
    visit = Visit(browser, daemon.url)
    for path in ("candles", "equity", "executions"):
        visit.page.route(f"**/api/{path}*", lambda route: route.fulfill(status=503, body="{}"))
    visit.page.reload()
    visit.ready()
    visit.page.wait_for_selector("#chart-note:has-text('cannot be read now')")
    assert "cannot be read now" in visit.text("#curve-note")
    assert str(visit.page.text_content("#curve-words")) == "No point is known yet."
    visit.page.unroute_all()
    visit.page.wait_for_timeout(3_200)  # the pause before it is tried again
    daemon.status["bot"]["uptime_sec"] = 1.0
    visit.page.wait_for_selector("#chart-note:empty", state="attached")
    visit.close()


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", "UTC"])
def test_labels_of_the_time_axis_are_local(browser: Any, daemon: Daemon, zone: str) -> None:
    """A day's mark of the library stands at midnight UTC; its label says what that is here."""
    visit = Visit(browser, daemon.url, zone=zone).ready()
    visit.page.wait_for_selector("#chart canvas")
    label = visit.page.evaluate("tick(Date.UTC(2025, 9, 6) / 1000, 2)")
    assert label == {"America/New_York": "Oct 5, 20:00", "Asia/Kolkata": "Oct 6, 05:30",
                     "UTC": "Oct 6"}[zone]  # fmt: skip
    visit.close()


def test_settings_show_what_is_in_force_for_the_chosen_slot(browser: Any, daemon: Daemon) -> None:
    """Further places enter further out: nobody confirms a distance of another slot."""
    visit = Visit(browser, daemon.url).ready()
    assert "0.5 to 1 %" in visit.text("form[data-key=entry_pct]")
    visit.page.select_option("#scope", "3")
    visit.page.fill("#set-entry_pct", "0.7")
    visit.page.click("form[data-key=entry_pct] button")
    assert "In force now: 0.8 %" in visit.text("#ask-text")
    visit.close()


def test_the_curve_shows_all_until_somebody_looks_closer(browser: Any, daemon: Daemon) -> None:
    """Later points do not push the first out of sight; a zoom is left alone."""
    visit = Visit(browser, daemon.url).ready()
    visit.page.wait_for_selector("#curve canvas")
    visit.page.wait_for_timeout(500)
    seen = "(() => { const x = curve.chart.timeScale().getVisibleLogicalRange(); "
    seen += "return [Math.round(x.from), Math.round(x.to)]; })()"
    assert visit.page.evaluate(seen) == [0, 24]
    visit.page.evaluate(
        "curve.points.push({...curve.points.at(-1), time: curve.points.at(-1).time + 1800});"
        "drawCurve()"
    )
    visit.page.wait_for_timeout(200)
    assert visit.page.evaluate(seen) == [0, 25]
    visit.page.evaluate("curve.chart.timeScale().setVisibleLogicalRange({from: 5, to: 12})")
    visit.page.wait_for_timeout(200)
    visit.page.evaluate("drawCurve()")
    visit.page.wait_for_timeout(200)
    assert visit.page.evaluate(seen) == [5, 12]
    visit.close()
