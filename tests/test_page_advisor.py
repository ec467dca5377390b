"""The advisor's card in a real Chromium: each state, each button, and text that stays text."""

import json
from typing import Any

import pytest

from core import advisor_status as s
from core.commands import AiCouncil, AiRegimeDismiss, AiRegimeOverride, AiRegimeRevert, Command
from core.record import replace
from dashboard import Reply
from tests.page_world import GOLDEN, Daemon, Visit, needs_browser, start_browser, start_daemon
from tests.test_page import CONTRAST

__all__ = ["start_browser", "start_daemon"]

NOW = json.loads(GOLDEN.read_bytes())["bot"]["now"]
CARD = "#advisor-card"
WIDE = (
    "[...document.querySelectorAll('#advisor *')].filter((x) => !x.closest('.scroll') && "
    "x.getBoundingClientRect().right > innerWidth).map((x) => x.outerHTML.slice(0, 200))"
)
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"></p></script><script>document.title='owned'"
    "</script> \x1b[31mred\x1b[0m \u202edrawkcab\u2066 javascript:alert(1) " + "W" * 180
)

OPINION = s.OpinionBlock(
    id=41, recommended_tier=1, recommended_direction="long_bias", conviction=72,
    rationale="Both timeframes lean bullish and the last hour's fills were mostly buys; "
    "the long timeframe's confidence has risen for twenty minutes.",
    watch_for="a close of the 15 min candle below 0.0990", suggested_ttl_minutes=30,
    panelist="Kimi", error=None, agreement="ai_upgrade", is_reversed=False,
    is_mended=False, is_dismissed=False, asked_at=NOW - 190, at=NOW - 171, age_sec=190.0,
    trigger="interval",
)  # fmt: skip
AGREES = replace(OPINION, recommended_tier=0, recommended_direction="symmetric", agreement="agree")
FAILED = replace(
    OPINION, recommended_tier=0, recommended_direction="symmetric", conviction=0, rationale="",
    watch_for="", panelist="", error="http_429", agreement="error",
)  # fmt: skip
APPLY = s.ApplyBlock(
    why=None, tier=1, direction="long_bias", ttl_sec=1_800.0, ttl_max_sec=3_600.0,
    evidence="no evidence", effect="distance of sell entries × 1.1, of buy entries × 0.94",
)  # fmt: skip
OVERRIDE = s.OverrideStateBlock(
    active=True, tier=1, direction="long_bias", tier_effective=1, direction_effective="long_bias",
    applied_at=NOW - 139, expires_at=NOW + 1_661, remaining_sec=1_661.0, source_conviction=72,
    recommended_tier=2, panelist="Kimi", blocked=None, evidence="no evidence",
    effect="distance of sell entries × 1.1, of buy entries × 0.94",
)  # fmt: skip
PAST = s.PastOpinion(
    id=40, at=NOW - 490, panelist="Llama 70B", error=None, recommended_tier=1,
    recommended_direction="long_bias", conviction=64, agreement="ai_upgrade", mechanical_tier=0,
    mechanical_direction="symmetric", change_pct=None, advised_outcome=None,
    mechanical_outcome=None,
)  # fmt: skip
HISTORY = (
    PAST,
    replace(PAST, id=39, at=NOW - 790, error="timeout", agreement="error", panelist=""),
    *(
        replace(PAST, id=38 - n, at=NOW - 3_900 - 300 * n, change_pct=move,
                advised_outcome=outcome, mechanical_outcome=other)
        for n, (move, outcome, other) in enumerate(
            [("0.8123", "right", "wrong"), ("-0.61", "wrong", "right"), ("0.2", "inside", "right")]
        )
    ),
)  # fmt: skip
TALLY = s.TallyBlock(
    right=12, wrong=13, inside=8, windows=25, hit_rate=0.48, low=0.30, high=0.67
)  # fmt: skip


def voice(directional: s.TallyBlock, **all_calls: Any) -> s.VoiceBlock:
    """Return one voice's tally."""
    return s.VoiceBlock(**{**directional.to_dict(), **all_calls}, directional=directional)


SCORE = s.ScoreBlock(
    count=33, waiting=4, unscored=1, horizon_sec=3_600.0, threshold_pct="0.52",
    advised=voice(TALLY, right=20, wrong=15, windows=30, hit_rate=0.5714, low=0.39, high=0.73),
    mechanical=voice(
        s.TallyBlock(right=30, wrong=22, inside=3, windows=41, hit_rate=0.5769, low=0.42, high=0.72)
    ),
    differed=9, better=4, worse=3, better_rate=0.5714, better_low=0.25, better_high=0.84,
)  # fmt: skip
NOTHING = voice(
    s.TallyBlock(right=0, wrong=0, inside=0, windows=0, hit_rate=None, low=None, high=None)
)
COUNCIL = s.CouncilBlock(
    is_asked=False, action="widen_entry", why=None, at=NOW - 1_200,
    votes=(
        s.VoteBlock(panelist="Kimi", action="widen_entry", error=None),
        s.VoteBlock(panelist="Llama 70B", action="widen_entry", error=None),
        s.VoteBlock(panelist="Llama 8B", action="pause", error=None),
        s.VoteBlock(panelist="own", action=None, error="http_503"),
    ),
)  # fmt: skip
PROVIDER = s.ProviderBlock(
    name="Kimi", model="moonshotai/kimi-k2-thinking", host="integrate.api.nvidia.com",
    is_reasoning=True, state="ok", answered=31, failed=2, failures_in_row=0, last_error="timeout",
    last_sec=18.7, rests_sec=None,
)  # fmt: skip
PROVIDERS = (
    PROVIDER,
    replace(PROVIDER, name="Llama 70B", model="llama-3.3-70b-versatile", host="api.groq.com",
            is_reasoning=False, state="resting", failures_in_row=3, last_error="http_429",
            rests_sec=2_580.0),
    replace(PROVIDER, name="own", model="none", host="localhost", state="no_key", answered=0,
            failed=0, last_error=None, last_sec=None),
    replace(PROVIDER, name="own model", model="local", host="127.0.0.1", is_reasoning=False),
)  # fmt: skip
BLOCK = s.AdvisorBlock(
    enabled=True, state="disagrees", interval_sec=300.0, last_run=NOW - 190,
    last_trigger="interval", next_run=NOW + 110,
    counters=s.AdvisorCounters(opinions=40, errors=3, disagreements=9, applied=2, expired=1,
                               reverted=1, ended=0, dismissed=3, mended=0),
    mechanical=s.MechanicalBlock(tier=0, direction="symmetric"), opinion=OPINION, apply=APPLY,
    override=s.OverrideStateBlock(active=False), history=HISTORY, scored=(),
    score=SCORE, council=COUNCIL, providers=PROVIDERS,
    worker=s.WorkerBlock(is_asking=False, waiting=0, asked=41, replaced=2),
)  # fmt: skip
NO_APPLY = replace(APPLY, why="nothing to apply", tier=None, direction=None, evidence=None)
STATES = {
    "waiting": replace(
        BLOCK, state="waiting", opinion=None, last_run=None, apply=NO_APPLY, history=(),
        score=replace(SCORE, count=0, waiting=0, unscored=0, advised=NOTHING, mechanical=NOTHING,
                      differed=0),
        council=s.CouncilBlock(is_asked=False, action=None, why=None, votes=(), at=None),
    ),
    "unavailable": replace(BLOCK, state="unavailable", opinion=FAILED, apply=NO_APPLY),
    "agrees": replace(BLOCK, state="agrees", opinion=AGREES, apply=NO_APPLY),
    "disagrees": BLOCK,
    "override": replace(BLOCK, state="override", override=OVERRIDE),
    "dismissed": replace(
        BLOCK, state="dismissed", opinion=replace(OPINION, is_dismissed=True)
    ),
}  # fmt: skip
WORDS = {
    "off": ("AI_REGIME_ADVISOR_ENABLED=true", "AI_BASE_URL"),
    "waiting": ("No opinion yet; the next question is in 1 min.", "Nothing said.", "Not asked"),
    "unavailable": ("No opinion: the provider asks to wait (429). The mechanical tier rules.",),
    "agrees": ("It agrees with the mechanical tier 0 symmetric.", "agrees"),
    "disagrees": (
        "It would go higher: tier 1 long, not tier 0 symmetric.", "of 100", "Kimi, 3 min ago",
        "Both timeframes lean bullish", "Watch for: a close of the 15 min candle", "interval",
        "in 1 min", "Directions right 12 of 25 (48 %, 95 % interval 30–67 %)",
        "25 windows, 8 calls inside",
        "With symmetric calls right 20 of 35 (57 %, 95 % interval 39–73 %)",
        "Directions right 30 of 52 (58 %, 95 % interval 42–72 %)",
        "the advisor better in 4, worse in 3, no move in 2: better 4 of 7", "4 wait",
        "overlap count once", "widen entry, 2 of 3 votes", "is in trouble (503)",
        "applied by nobody but you", "History: 5 opinions", "Providers: 2 of 3 that are set up ok",
    ),
    "override": ("Override active: tier 1 long", "no statistical evidence", "conviction 72 of"),
    "dismissed": ("hidden until the next opinion", "Tier 1 long"),
}  # fmt: skip


def put(daemon: Daemon, block: s.AdvisorBlock) -> None:
    """Let the daemon publish `block`, at the pace of a clock."""
    daemon.status["bot"]["speed"] = 1.0
    daemon.status["ai_regime_advisor"] = block.to_dict()


def wait_for(visit: Visit, state: str) -> str:
    """Poll now, wait until the card is in `state` and return its text."""
    visit.page.evaluate("poll()")
    visit.page.wait_for_selector(f"{CARD}[data-state={state}]")
    return visit.text(CARD)


def fits(visit: Visit) -> bool:
    """Return whether nothing is wider than the window."""
    return bool(visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def shoot(visit: Visit, name: str, selector: str = CARD) -> None:
    """Keep a picture of the card, clear of the header, where SHOTS says."""
    visit.page.set_viewport_size({"width": visit.page.viewport_size["width"], "height": 2_800})
    visit.shoot_part(selector, name)
    visit.page.set_viewport_size({"width": visit.page.viewport_size["width"], "height": 900})


def confirm(visit: Visit, daemon: Daemon, expected: Command) -> None:
    """Confirm the open dialog and see that `expected` was sent."""
    visit.page.click("#ask-yes")
    visit.page.wait_for_selector("#ask:not([open])", state="attached")
    assert daemon.submitted[-1] == expected


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize(
    ("width", "scheme"),
    [(360, "light"), (360, "dark"), (768, "dark"), (1440, "light"), (1440, "dark")],
)
def test_advisor_card_in_each_state(browser: Any, daemon: Daemon, width: int, scheme: str) -> None:
    """Each state says its words, fits, reaches the contrast and offers its buttons only."""
    daemon.status["ai_regime_advisor"] = {"enabled": False, "state": "off"}
    visit = Visit(browser, daemon.url, width=width, scheme=scheme).ready()
    for state, words in WORDS.items():
        if state != "off":
            put(daemon, STATES[state])
        text = wait_for(visit, state)
        for word in words:
            assert word in text, (state, word, text)
        assert fits(visit), state
        buttons = visit.page.locator("#advisor .verdict button").all_inner_texts()
        assert buttons == {
            "disagrees": ["Apply tier 1 long for 30 min", "Dismiss"],
            "override": ["Revert to mechanical"],
        }.get(state, []), state
        assert "too few to tell" in text or state == "off"
        if state in ("disagrees", "override"):
            assert visit.page.evaluate(CONTRAST) == []
        shoot(visit, f"adv_{state}_{width}_{scheme}")
    assert visit.complaints == []
    visit.close()


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1440])
def test_advisor_details_open_and_stay_open(browser: Any, daemon: Daemon, width: int) -> None:
    """History and providers are at hand, say what came of it, and stay open over a poll."""
    put(daemon, BLOCK)
    visit = Visit(browser, daemon.url, width=width).ready()
    for n in (0, 1):
        visit.page.locator("#advisor summary").nth(n).focus()
        visit.page.keyboard.press("Enter")
    text = visit.text(CARD)
    for words in ("right +0.81 %", "wrong −0.61 %", "inside fees", "waits",
                  "no opinion: no answer in time", "2 overrides: 1 expired, 1 reverted",
                  "kimi-k2-thinking at integrate", "asked again in 43 min", "no key",
                  "2 overtaken"):  # fmt: skip
        assert words in text, (words, text)
    put(daemon, STATES["override"])
    wait_for(visit, "override")
    assert visit.page.locator("#advisor details[open]").count() == 2
    assert fits(visit), visit.page.evaluate(WIDE)
    shoot(visit, f"adv_details_{width}")
    assert visit.complaints == []
    visit.close()


@needs_browser
@pytest.mark.browser
def test_apply_asks_with_a_ttl_and_sends_it(browser: Any, daemon: Daemon) -> None:
    """Apply says what happens, takes minutes within its bounds, and sends them; cancel nothing."""
    put(daemon, BLOCK)
    visit = Visit(browser, daemon.url).ready()
    apply = "#advisor button:has-text('Apply tier 1 long')"
    visit.page.click(apply)
    for words in ("tier 0 symmetric", "stays computed and shown"):
        assert words in visit.text("#ask-text")
    assert "no statistical evidence" in visit.text("#ask-note")
    assert visit.page.input_value("#ask-minutes") == "30"
    assert visit.page.get_attribute("#ask-minutes", "max") == "60"
    shoot(visit, "adv_dialog", "#ask")
    for wrong in ("0.5", "61", ""):
        visit.page.fill("#ask-minutes", wrong)
        visit.page.click("#ask-yes")
    visit.page.click("#ask-no")
    assert daemon.submitted == []
    visit.page.click(apply)
    visit.page.fill("#ask-minutes", "12.5")
    confirm(visit, daemon, AiRegimeOverride(ttl_sec=750.0, opinion=41))
    visit.page.click("#advisor button:has-text('Dismiss')")
    assert visit.page.is_hidden("#ask-minutes")
    assert visit.page.is_hidden("#ask-note")
    confirm(visit, daemon, AiRegimeDismiss())
    visit.page.click("#advisor button:has-text('Ask the council')")
    confirm(visit, daemon, AiCouncil())
    assert len(daemon.submitted) == 3
    assert visit.complaints == []
    visit.close()


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
def test_an_opinion_that_changes_under_the_question_is_not_applied(
    browser: Any, daemon: Daemon
) -> None:
    """What the operator read is what is sent, or nothing; a refusal keeps the dialog open."""
    put(daemon, BLOCK)
    visit = Visit(browser, daemon.url).ready()
    visit.page.click("#advisor button.primary")
    other = replace(OPINION, id=42, recommended_direction="short_bias")
    put(daemon, replace(BLOCK, opinion=other, apply=replace(APPLY, direction="short_bias")))
    visit.page.wait_for_selector("#advisor button:has-text('tier 1 short')")
    visit.page.click("#ask-yes")
    visit.page.wait_for_selector("#ask-said:not([hidden])")
    assert "Nothing was sent" in visit.text("#ask-said")
    assert daemon.submitted == []
    visit.page.click("#ask-no")
    daemon.reply = lambda command_id: Reply(
        status=409, message="the opinion is 901 s old, 900 s allowed", command_id=command_id
    )
    visit.page.click("#advisor button.primary")
    visit.page.click("#ask-yes")
    visit.page.wait_for_selector("#ask-said:has-text('901 s old')")
    assert daemon.submitted == [AiRegimeOverride(ttl_sec=1_800.0, opinion=42)]
    visit.close()


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1440])
def test_apply_is_disabled_with_its_reason(browser: Any, daemon: Daemon, width: int) -> None:
    """A rail's reason is text beside the button and tied to it; a nearer tier is announced."""
    why = "conviction 35 is below the floor of 50 (AI_OVERRIDE_MIN_CONVICTION)"
    reversed_ = replace(OPINION, recommended_tier=2, recommended_direction="short_bias",
                        conviction=35, is_reversed=True)  # fmt: skip
    put(daemon, replace(
        BLOCK, opinion=reversed_, mechanical=s.MechanicalBlock(tier=1, direction="long_bias"),
        apply=replace(APPLY, why=why, direction="short_bias"),
    ))  # fmt: skip
    visit = Visit(browser, daemon.url, width=width).ready()
    text = wait_for(visit, "disagrees")
    for words in (f"Cannot be applied: {why}", "the reversed direction",
                  "would go higher, reversed direction"):  # fmt: skip
        assert words in text, (words, text)
    apply = visit.page.locator("#advisor button.primary")
    assert apply.is_disabled()
    assert apply.get_attribute("aria-describedby") == "advisor-why"
    assert visit.page.locator("#advisor-why").count() == 1
    shoot(visit, f"adv_refused_{width}")
    put(daemon, replace(BLOCK, apply=replace(APPLY, evidence="present")))
    visit.page.wait_for_selector("#advisor button.primary:enabled")
    assert "no statistical evidence" not in visit.text(CARD)
    visit.close()


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
def test_override_counts_down_and_reverts(browser: Any, daemon: Daemon) -> None:
    """Its time goes down every second without news; what holds it back is said; Revert asks."""
    blocked = replace(OVERRIDE, tier=2, tier_effective=1, blocked="the mechanical tier is 0")
    put(daemon, replace(STATES["override"], override=blocked))
    visit = Visit(browser, daemon.url).ready()
    text = wait_for(visit, "override")
    assert "Applied as tier 2 long; in effect: tier 1 long, because: the mechanical" in text

    def left() -> int:
        minutes, seconds = visit.text("#advisor-left").split(":")
        return 60 * int(minutes) + int(seconds)

    first = left()
    assert 1_650 < first <= 1_661
    visit.page.wait_for_timeout(2_100)
    assert 1 <= first - left() <= 4
    visit.page.click("#advisor button:has-text('Revert to mechanical')")
    assert "Tier 0 symmetric is in effect again" in visit.text("#ask-text")
    confirm(visit, daemon, AiRegimeRevert())
    put(daemon, replace(STATES["override"], override=replace(OVERRIDE, remaining_sec=0.0)))
    visit.page.wait_for_selector("#advisor-left:text-is('0:00')")
    assert visit.complaints == []
    visit.close()


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
def test_hostile_opinion_stays_text(browser: Any, daemon: Daemon) -> None:
    """Markup, escapes and bidirectional marks of a model are shown as text and break nothing."""
    votes = (s.VoteBlock(panelist=HOSTILE, action=HOSTILE, error=None),)
    put(daemon, replace(
        BLOCK,
        opinion=replace(OPINION, rationale=HOSTILE, watch_for=HOSTILE, panelist=HOSTILE,
                        trigger=HOSTILE),
        apply=replace(APPLY, why=HOSTILE),
        council=replace(COUNCIL, action=None, why=HOSTILE, votes=votes),
        history=(replace(PAST, panelist=HOSTILE), replace(PAST, error=HOSTILE)),
        providers=(replace(PROVIDER, name=HOSTILE, model=HOSTILE, state=HOSTILE),),
    ))  # fmt: skip
    visit = Visit(browser, daemon.url, width=360).ready()
    wait_for(visit, "disagrees")
    visit.page.evaluate("document.querySelectorAll('#advisor details').forEach(x => x.open = 1)")
    shown = str(visit.page.text_content("#advisor"))
    assert shown.count("onerror=\"document.title='owned'\"") == 12
    assert HOSTILE in shown
    assert visit.page.evaluate("document.querySelectorAll('img, main script').length") == 0
    assert "owned" not in visit.page.title()
    assert fits(visit), visit.page.evaluate(WIDE)
    shoot(visit, "adv_hostile_360")
    assert visit.complaints == []
    visit.close()


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
def test_read_only_advisor_has_no_buttons(browser: Any, daemon: Daemon) -> None:
    """A read-only page shows the opinion and offers nothing; a question under way is said."""
    asked = s.WorkerBlock(is_asking=True, waiting=0, asked=1, replaced=0)
    put(daemon, replace(STATES["waiting"], worker=asked))
    visit = Visit(browser, daemon.url).ready()
    assert "the next question is being asked now." in wait_for(visit, "waiting")
    put(daemon, replace(BLOCK, council=replace(COUNCIL, is_asked=True)))
    wait_for(visit, "disagrees")
    assert visit.page.is_disabled("#advisor button:has-text('The council is being asked')")
    daemon.status["bot"]["read_only"] = True
    visit.page.wait_for_selector("#advisor button", state="detached")
    visit.close()
