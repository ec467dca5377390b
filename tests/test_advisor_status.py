"""The advisor's block of the status, and its lines in the daily report."""

import json
from typing import Any

import msgspec
import pytest

from core import commands as c
from core import events as e
from core.advice import AdviceParams, Council, Score, Tally, Voice, Vote
from core.advisor_status import AdvisorBlock, ProviderBlock, WorkerBlock
from core.kelly import KellyResult, KellyState
from core.plain_text import TEXT_MAX
from core.record import replace
from core.regime import LABELS, RANGING
from core.state import BotState
from core.status import AccountBlock, CandleCopyBlock, ReplicaBlock
from engine.advisor_view import AdvisorFacts, advisor_block
from engine.regime_view import RegimeFacts
from engine.report import Day, daily_report
from engine.status_view import build_status
from tests.advice_world import (
    ACTING,
    FAILED,
    LONG1,
    LONG2,
    NONE0,
    ON,
    SHADOW,
    applied,
    heard,
    tier1_long,
    tier2_long,
    told,
)
from tests.regime_world import estimate, estimated
from tests.test_regime_status import MATRIX, PARAMS, PIPELINE, TRAINER, sample_regimes
from tests.test_status import EVENTS, sample_facts, sample_state, sample_status, thirty_slots
from tests.world import World

ALL_ON = {"advice": ON, "kelly_enabled": True, "regime_directional_enabled": True}
PAST = {
    "id": 7, "at": 1_700_000_000.0, "panelist": "local", "error": None, "recommended_tier": 1,
    "recommended_direction": "long_bias", "conviction": 60, "agreement": "ai_upgrade",
    "mechanical_tier": 0, "mechanical_direction": "symmetric", "change_pct": "0.9",
    "advised_outcome": "right", "mechanical_outcome": "wrong",
}  # fmt: skip
FACTS = AdvisorFacts(
    providers=(
        ProviderBlock(
            name="local", model="m", host="127.0.0.1", is_reasoning=False, state="ok", answered=3,
            failed=1, failures_in_row=0, last_error=None, last_sec=0.2, rests_sec=None,
        ),
    ),
    worker=WorkerBlock(is_asking=False, waiting=0, asked=4, replaced=1),
    history=(PAST,),
)  # fmt: skip


def block(world: World) -> dict[str, Any]:
    """Return the block as it is sent; it decodes to what was encoded."""
    made = advisor_block(world.state, world.params, FACTS)
    body = msgspec.json.encode(made)
    assert msgspec.json.decode(body, type=AdvisorBlock) == made
    return dict(json.loads(body))


def test_off_is_said_in_two_words() -> None:
    """Switched off, or nothing to have an opinion on."""
    off = {"enabled": False, "state": "off"}
    assert block(heard(params=replace(ACTING, advice=AdviceParams()))) == off
    shown = block(World(replace(ACTING, hmm_enabled=False)))
    assert shown.pop("why").startswith("there is no regime to have an opinion on: HMM_ENABLED=true")
    assert shown == off


def test_the_states_of_the_card() -> None:
    """Waiting, unavailable, agrees, disagrees, dismissed, override; then the other way."""
    world = heard(RANGING)
    states = [block(world)["state"]]
    for opinion in (FAILED, NONE0, LONG2):
        told(world, opinion)
        states.append(block(world)["state"])
    world.command(c.AiRegimeDismiss())
    states.append(block(world)["state"])
    world.command(c.AiRegimeOverride())
    states.append(block(world)["state"])
    world.command(c.AiRegimeRevert())
    told(world, LONG1)
    states.append(block(world)["state"])
    assert states == [
        "waiting", "unavailable", "agrees", "disagrees", "dismissed", "override", "disagrees",
    ]  # fmt: skip


def test_what_apply_would_do_is_said_beforehand() -> None:
    """Tier after the clamp, the wished life within the cap, evidence; or the rail that refuses."""
    world = heard(RANGING)
    assert block(world)["apply"]["why"] == "there is no opinion yet"
    told(world, replace(LONG2, suggested_ttl_minutes=55))
    assert block(world)["apply"] == {
        "why": None, "tier": 1, "direction": "long_bias", "ttl_sec": 3300.0, "ttl_max_sec": 3600.0,
        "evidence": "present",
        "effect": "nothing changes while the models' bias is 0.00",
    }  # fmt: skip
    told(world, replace(LONG1, suggested_ttl_minutes=0, conviction=3))
    shown = block(world)["apply"]
    assert shown["ttl_sec"] == 1800.0
    assert "AI_OVERRIDE_MIN_CONVICTION" in shown["why"]
    world = heard(RANGING, SHADOW)
    told(world, LONG1)
    assert "REGIME_DIRECTIONAL_ENABLED" in block(world)["apply"]["why"]


def test_an_override_shows_what_is_in_effect_beside_the_mechanical_tier() -> None:
    """And what holds it back."""
    world = applied(heard(RANGING), LONG1, ttl=600)
    world.advance(45)
    world.price("0.1")
    shown = block(world)
    assert shown["mechanical"] == {"tier": 0, "direction": "symmetric"}
    own = shown["override"]
    assert (own["active"], own["tier"], own["direction"]) == (True, 1, "long_bias")
    assert (own["tier_effective"], own["direction_effective"]) == (1, "long_bias")
    assert (own["remaining_sec"], own["source_conviction"]) == (555.0, 80)
    tiers = build_status(world.state, world.params, sample_facts()).regime_directional
    assert (tiers.tier_mechanical, tiers.tier_effective, tiers.direction) == (0, 1, "long_bias")
    world.params = replace(world.params, open_order_limit=2)
    world.step(estimated(world.now, RANGING))
    own = block(world)["override"]
    assert (own["tier"], own["tier_effective"]) == (1, 0)
    assert own["blocked"] == "capacity: the open orders are in the stop band"
    world.timer(600)
    ended = {"last_end": "expired: its 600 s are over", "last_ended_at": world.now}
    assert block(world)["override"] == {"active": False} | dict.fromkeys(list(own)[1:]) | ended


def test_what_a_tier_does_is_said_in_words() -> None:
    """Distances follow the models' own bias; in tier 2 a side is withheld."""
    world = heard(RANGING)
    told(world, LONG1)
    world.step(e.RegimeEstimated(time=world.now, primary=estimate(RANGING, 0.9, 0.2), evidence=()))
    tier1 = "distance of sell entries × 1.1, of buy entries × 0.94"
    assert block(world)["apply"]["effect"] == tier1
    world = tier2_long()
    told(world, NONE0)
    assert block(world)["apply"]["effect"] == (
        "distance of sell entries × 1.45, of buy entries × 0.73"
    )
    told(world, replace(LONG2, recommended_direction="short_bias"))
    assert block(world)["apply"]["effect"].endswith(
        "though the models lean the other way (bias +0.90)"
    )
    world.command(c.AiRegimeOverride())
    assert block(world)["override"]["tier_effective"] == 1
    world = tier1_long()
    told(world, LONG2)
    assert block(world)["apply"]["effect"].startswith("sell entries are withheld after 60 s; ")
    world.command(c.AiRegimeOverride())
    tiers = build_status(world.state, world.params, sample_facts()).regime_directional
    assert str(tiers.hint).endswith("; set aside by your override")


def test_hostile_text_is_harmless_and_short() -> None:
    """Control and direction marks are gone, everything is at most so long, and names no action."""
    evil = "\x1b[31m<script>alert(1)</script>\u202e" + "x" * 10_000
    world = heard(RANGING)
    told(world, replace(LONG2, rationale=evil, watch_for=evil, panelist=evil, error=""))
    shown = block(world)["opinion"]
    for name in ("rationale", "watch_for", "panelist"):
        assert len(shown[name]) == TEXT_MAX
        assert not {"\x1b", "\u202e"} & set(shown[name])
    assert "<script>" in shown["rationale"]


def test_history_score_and_council_are_shown() -> None:
    """Rates with intervals on windows; votes with their errors."""
    world = heard(RANGING)
    score = Score(
        advised=Voice(
            all=Tally(right=30, wrong=30, inside=40, windows=6),
            directional=Tally(right=10, wrong=5, inside=40, windows=3),
        ),
        mechanical=Voice(all=Tally(right=60, wrong=40, windows=10)),
        differed=50, better=20, worse=20,
    )  # fmt: skip
    world.state = replace(world.state, advice=replace(world.state.advice, score=score))
    world.command(c.AiCouncil())
    assert not block(world)["council"]["is_asked"]
    busy = replace(FACTS, worker=WorkerBlock(is_asking=True, waiting=0, asked=4, replaced=1))
    assert advisor_block(world.state, world.params, busy).council.is_asked
    votes = (Vote(panelist="a", action="pause"), Vote(panelist="b", action=None, error="timeout"))
    council = Council(action=None, why="1 of 3 votes", votes=votes)
    world.step(e.CouncilHeld(time=world.now, asked_at=world.now, council=council))
    shown = block(world)
    own = shown["score"]["advised"]
    assert (own["hit_rate"], own["windows"]) == (0.5, 6)
    assert (own["low"], own["high"]) == (0.1876, 0.8124)
    assert (own["directional"]["hit_rate"], own["directional"]["windows"]) == (0.6667, 3)
    assert shown["score"]["mechanical"]["hit_rate"] == 0.6
    assert shown["score"]["mechanical"]["directional"]["hit_rate"] is None
    assert (shown["score"]["better_rate"], shown["score"]["differed"]) == (0.5, 50)
    assert (shown["score"]["better_low"], shown["score"]["better_high"]) == (0.352, 0.648)
    assert shown["score"]["threshold_pct"] == "0.5013"
    assert shown["history"] == [PAST]
    assert not shown["council"]["is_asked"]
    assert [x["error"] for x in shown["council"]["votes"]] == [None, "timeout"]
    assert shown["providers"][0]["state"] == "ok"
    assert shown["worker"]["replaced"] == 1


def test_the_status_with_everything_on_fits_64_kib() -> None:
    """Thirty full slots, both timeframes, Kelly, an override, a replica, longest texts."""
    world = applied(heard(RANGING), replace(LONG2, rationale="r" * 500, watch_for="w" * 200))
    votes = tuple(Vote(panelist="Llama 70B", action=None, error="timeout") for _ in range(4))
    council = Council(action=None, why="0 of 3 votes needed for a quorum", votes=votes)
    world.step(e.CouncilHeld(time=world.now, asked_at=world.now, council=council))
    results = {x: KellyResult(n_total=500, reason="ok") for x in (*LABELS, "aggregate")}
    state = replace(
        sample_state(),
        slots=thirty_slots(),
        regimes=replace(sample_regimes(), override=world.state.regimes.override),
        advice=world.state.advice,
        kelly=KellyState(results=results),
    )
    facts = replace(
        sample_facts(),
        recent_events=tuple(EVENTS[0] for _ in range(24)),
        regimes=RegimeFacts(
            transmat=MATRIX, transmat_secondary=MATRIX, pipeline=PIPELINE,
            pipeline_secondary=PIPELINE, trainer=TRAINER,
        ),
        advisor=replace(FACTS, providers=4 * FACTS.providers, history=16 * (PAST,)),
        account=AccountBlock(
            foreign_orders=12, in_doubt=3, rest_used_pct="100", engine_used_pct="100",
            paused_until=1_700_000_000.123, pause_reason="12 s until the call limit has room",
            last_error="e" * 200,
        ),
        replica=ReplicaBlock(
            is_checked=True, queue=10_000, lag_sec=86_400.0, sent=100_000, dropped=10, attempts=30,
            last_error="e" * 200, failing=("cycles", "equity"),
            candles=CandleCopyBlock(
                queue=10_000, sent=10_000, read=10_000, attempts=3, last_error="e" * 200
            ),
        ),
    )  # fmt: skip
    made = msgspec.json.encode(build_status(state, replace(PARAMS, **ALL_ON), facts))
    assert len(made) <= 64 * 1024, len(made)
    assert len(made) > 60_000  # all of it is there


def test_the_block_is_total_on_a_state_without_anything() -> None:
    """Before the first price, before the first estimate."""
    shown = advisor_block(BotState(), ACTING, AdvisorFacts())
    assert shown.state == "waiting"
    assert shown.opinion is None


@pytest.mark.parametrize(
    ("score", "end"),
    [
        (Score(), "not scored yet"),
        (
            Score(advised=Voice(all=Tally(right=3, wrong=1, windows=2))),
            "right 3 of 4 (75 %, 95 % interval 20 to 97)",
        ),
    ],
)
def test_the_daily_report_tells_of_the_advisor(score: Score, end: str) -> None:
    """One line: how it stands, what it said, whether it has been right."""
    world = heard(RANGING)
    told(world, LONG1)
    world.state = replace(world.state, advice=replace(world.state.advice, score=score))
    own = advisor_block(world.state, world.params, FACTS)
    day = Day(start=0.0, cycles=0, gross=0, net=0, fees=None, change=None, locks=())
    text = daily_report(replace(sample_status(), ai_regime_advisor=own), day)
    said = "advisor: disagrees; tier 1 long_bias, conviction 80 (ai_upgrade); "
    assert text.splitlines()[-1] == said + end
