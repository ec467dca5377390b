"""The advisor through the reducer: when it is asked, what is heard, the rails of an override."""

import math
from collections.abc import Callable
from decimal import Decimal

import msgspec
import pytest

from core import actions as a
from core import commands as c
from core import events as e
from core.advice import AdviceParams, Council, Opinion
from core.domain import TradeId
from core.params import Params
from core.record import replace
from core.regime import BEARISH, BULLISH, RANGING
from core.state import BotState, Entering, Idle
from engine.books import refold
from engine.loop import timer_due
from grid.advice import HORIZON_SEC, offered
from regime_policy import distance_factor, suppressed_side
from tests.advice_world import (
    ACTING,
    FAILED,
    LONG1,
    LONG2,
    NONE0,
    ON,
    SHADOW,
    SHORT1,
    applied,
    heard,
    hour_later,
    in_effect,
    tier1_long,
    tier2_long,
    told,
)
from tests.regime_world import estimate, estimated
from tests.world import StoredWorld, World, of, start_again

D = Decimal


def asked(actions: list[a.Action]) -> list[str]:
    """Return the triggers of the questions among the actions."""
    return [x.trigger for x in of(actions, a.RequestOpinion)]


def silenced(world: World) -> None:
    """Let the first questions pass."""
    world.timer(61)
    world.timer(61)


# ---- when it is asked ---------------------------------------------------------------------------


def test_asked_each_interval_once_there_is_a_regime() -> None:
    """Nothing is asked before the models were heard; then at once, and each interval."""
    world = World(ACTING)
    assert asked(world.timer()) == []
    assert asked(world.timer(400)) == []
    world.step(estimated(world.now, RANGING))
    assert asked(world.timer()) == ["agreement: primary_only"]
    assert world.state.quiet is not None
    assert asked(world.timer(299)) == []
    assert asked(world.timer(1)) == ["interval"]


def test_asked_soon_after_a_change_but_never_within_the_debounce() -> None:
    """A change of tier or agreement asks once the debounce is over; the newest reason is told."""
    world = heard()
    assert asked(world.timer()) == ["agreement: primary_only"]
    world.step(estimated(world.now, BULLISH))
    assert world.state.quiet is not None
    assert world.state.quiet.next_due <= world.now + 60
    assert asked(world.timer(59)) == []
    assert asked(world.timer(1)) == ["tier: tier 2 long_bias"]
    world.step(e.RegimeEstimated(time=world.now, primary=estimate(None)))
    assert asked(world.timer(30)) == []
    assert asked(world.timer(30)) == ["tier: tier 0"]


@pytest.mark.parametrize(
    "params", [replace(ACTING, advice=AdviceParams()), replace(ACTING, hmm_enabled=False)]
)
def test_off_nothing_is_asked_and_nothing_heard(params: Params) -> None:
    """Without the switch, or without a regime to have an opinion on."""
    world = World(params)
    world.step(estimated(world.now, BULLISH))
    assert asked(world.timer(301)) == []
    before = world.state
    told(world, LONG2)
    assert world.state.advice == before.advice
    assert world.state.counters["opinions_ignored"] == 1
    switch = "HMM_ENABLED" if params.advice.enabled else "AI_REGIME_ADVISOR_ENABLED"
    for command in (c.AiRegimeOverride(), c.AiRegimeDismiss(), c.AiCouncil()):
        assert f"{switch}=true" in world.command(command).message


def test_a_start_in_other_circumstances_asks_at_once_and_off_forgets() -> None:
    """Scores stay; what was heard does not outlive the switch."""
    world = heard()
    told(world, LONG1)
    world.timer(61)
    start_again(world, replace(ACTING, advice=replace(ON, interval_sec=600.0)))
    assert asked(world.timer(59)) == []
    assert asked(world.timer(1)) == ["start"]
    assert world.state.advice.heard is not None
    start_again(world, replace(ACTING, advice=AdviceParams()))
    assert world.state.advice.heard is None
    assert world.state.advice.opinions == 1
    assert asked(world.timer(1000)) == []


# ---- what is heard ------------------------------------------------------------------------------


def test_an_opinion_is_recorded_with_what_it_stood_against() -> None:
    """Number, agreement, mechanical tier, price; errors and disagreements are counted."""
    world = tier1_long()
    (row,) = of(told(world, LONG2, age=4), a.RecordOpinion)
    assert (row.id, row.agreement, row.asked_at) == (1, "ai_upgrade", world.now - 4)
    assert (row.mechanical_tier, row.mechanical_direction) == (1, "long_bias")
    assert row.price == D("0.1")
    told(world, LONG1)
    told(world, FAILED)
    counters = world.state.counters
    assert [counters[f"ai_{x}"] for x in ("opinions", "errors", "disagreements")] == [2, 1, 1]
    assert len(world.state.advice.pending) == 2


@pytest.mark.parametrize("params", [ACTING, SHADOW])
def test_an_opinion_acts_on_nothing(params: Params) -> None:
    """State and bounds of quiet ticks stay as they were, but for the advisor's own."""
    world = heard(BULLISH, params)
    world.timer(1)
    before = world.state
    actions = [*told(world, LONG2), *told(world, SHORT1), *told(world, FAILED)]
    actions += world.step(
        e.CouncilHeld(time=world.now, asked_at=world.now, council=Council(action="pause", why=""))
    )
    assert {type(x) for x in actions} == {a.RecordOpinion}
    after = world.state
    assert after.quiet == before.quiet
    assert replace(after, advice=before.advice, counters=before.counters) == before


def test_asking_and_scoring_leave_the_rules_as_they_were() -> None:
    """A TimerTick that comes for the advisor alone touches nothing else."""
    world = heard(BULLISH)
    world.timer(1)
    told(world, LONG1)
    aside, began = 0, world.now
    while world.now < began + HORIZON_SEC + 100:
        quiet = world.state.quiet
        assert quiet is not None
        before = world.state.timer_at
        world.now = max(quiet.next_due, before + 1)
        actions = world.timer(0)
        kinds = {type(x) for x in actions}
        if quiet.next_due < quiet.duty_due and not kinds & {a.RecordEquity, a.RequestReconcile}:
            aside += len(actions)
            assert kinds <= {a.RequestOpinion, a.RecordScore}
            assert world.state.timer_at == before
        if of(actions, a.RequestEstimate):
            world.step(estimated(world.now, BULLISH))
    assert asked(world.log)[:3] == ["tier: tier 2 long_bias", "interval", "interval"]
    assert world.state.advice.score.count == 1
    assert aside >= 4


# ---- applying and its rails ---------------------------------------------------------------------


def test_applied_within_the_evidence_gate_and_the_clocks() -> None:
    """It passes gate, dwell and cooldown: they are the mechanical tier's."""
    world = heard(RANGING)
    reply = applied(world).log[-1]
    assert isinstance(reply, a.Notify | a.ReplyToOperator)
    assert in_effect(world) == (1, BULLISH)
    assert world.state.regimes.tiers.tier == 0
    texts = [x.message for x in of(world.log, a.ReplyToOperator)]
    assert texts == ["override applied: tier 1 long_bias for 1800 s"]
    assert world.state.counters["ai_applied"] == 1


def test_farther_than_one_tier_is_applied_at_one_tiers_distance() -> None:
    """And the answer says so; downwards too, with the mechanical direction."""
    world = heard(RANGING)
    told(world, LONG2)
    text = world.command(c.AiRegimeOverride(ttl_sec=600)).message
    assert text == (
        "override applied: tier 1 long_bias for 600 s; the advisor recommends tier 2, one tier "
        "from the mechanical 0 is allowed, and none above 1 against its direction"
    )
    world = tier2_long()
    applied(world, NONE0)
    assert in_effect(world) == (1, BULLISH)


def test_against_the_mechanical_direction_it_is_tier_1_at_most() -> None:
    """From withholding one side to withholding the other is farther than any tier."""
    world = applied(tier2_long(), replace(SHORT1, recommended_tier=2))
    assert in_effect(world) == (1, BEARISH)
    assert suppressed_side(world.state.regimes, world.params) is None
    world = applied(heard(RANGING), SHORT1, ttl=3600)
    world.timer(300)
    world.step(estimated(world.now, BULLISH))
    assert in_effect(world) == (1, BEARISH)


def test_paused_the_answer_says_that_nothing_follows() -> None:
    """The override is in effect; its time runs."""
    world = heard(RANGING)
    told(world, LONG1)
    world.command(c.Pause())
    text = world.command(c.AiRegimeOverride()).message
    assert text.endswith("; the bot is paused: no entry follows until it runs")


def refused(world: World, *, ttl: float | None = None) -> str:
    """Return why an override is refused; nothing has changed."""
    before = replace(world.state, pass_due=None, quiet=None, stints={})
    reply = world.command(c.AiRegimeOverride(ttl_sec=ttl))
    assert not reply.is_accepted
    assert replace(world.state, pass_due=None, quiet=None, stints={}) == before
    assert offered(world.state, world.params)[1] == reply.message or reply.field
    return reply.message


def test_rails_refuse_with_their_reason() -> None:
    """Off, no opinion, error, age, conviction, agreement, capacity, one at a time."""
    world = heard(RANGING, SHADOW)
    told(world, LONG1)
    assert "REGIME_DIRECTIONAL_ENABLED=true" in refused(world)
    world = heard(RANGING)
    assert refused(world) == "there is no opinion yet"
    told(world, FAILED)
    assert refused(world) == "the newest opinion is an error: http_429"
    told(world, LONG1, age=900.5)
    assert refused(world) == "the opinion is 901 s old; AI_OPINION_MAX_AGE_SEC allows 900 s"
    told(world, replace(LONG1, conviction=49))
    assert refused(world) == "conviction 49 is below AI_OVERRIDE_MIN_CONVICTION 50"
    told(world, NONE0)
    assert "agrees with the mechanical tier" in refused(world)
    told(world, replace(LONG1, conviction=50), age=900)
    assert offered(world.state, ACTING)[1] is None
    applied(world)
    assert refused(world) == "an override is active (tier 1 long_bias); revert it first"


def test_the_stop_band_refuses_upgrades_only() -> None:
    """Where there is no room for more orders, a lower tier or another direction still may be."""
    world = tier1_long()
    world.params = replace(world.params, open_order_limit=2)
    told(world, LONG2)
    assert refused(world) == "capacity: the open orders are in the stop band"
    told(world, SHORT1)
    assert offered(world.state, world.params)[1] is None
    applied(world, NONE0)
    assert in_effect(world) == (0, None)


def test_only_the_opinion_that_was_read_is_applied() -> None:
    """A command that names an opinion is refused once there is a newer one."""
    world = heard(RANGING)
    told(world, LONG1)
    told(world, SHORT1)
    reply = world.command(c.AiRegimeOverride(opinion=1))
    assert (reply.is_accepted, reply.field) == (False, "")
    assert reply.message == "the newest opinion is 2, not 1; read it first"
    assert world.command(c.AiRegimeOverride(opinion=2)).is_accepted


@pytest.mark.parametrize("ttl", [-1.0, 0.0, 0.5, 3600.5, 1e9, math.inf, math.nan])
def test_a_bad_ttl_is_the_commands_fault(ttl: float) -> None:
    """The answer names the field and what is allowed."""
    world = heard(RANGING)
    told(world, LONG1)
    before = world.state.regimes
    reply = world.command(c.AiRegimeOverride(ttl_sec=ttl))
    assert (reply.is_accepted, reply.field) == (False, "ttl_sec")
    assert reply.message == "ttl_sec must be from 1 to 3600 (AI_OVERRIDE_MAX_TTL_SEC)"
    assert world.state.regimes == before


# ---- acting at once -----------------------------------------------------------------------------


def test_an_override_withholds_and_frees_entries_as_a_tier_does() -> None:
    """Grace first; the revert frees the side at once."""
    world = tier1_long()
    applied(world, LONG2)
    assert in_effect(world) == (2, BULLISH)
    assert of(world.timer(59), a.CancelOrderAction) == []
    (cancel,) = of(world.timer(1), a.CancelOrderAction)
    assert cancel.client_order_id == world.order("1A.entry").client_order_id
    world.close("1A.entry")
    world.timer()
    assert isinstance(world.leg("1A").state, Idle)
    assert suppressed_side(world.state.regimes, world.params) is TradeId.A
    assert world.command(c.AiRegimeRevert()).message == "reverted to mechanical"
    assert in_effect(world) == (1, BULLISH)
    assert world.state.quiet is not None
    assert world.state.quiet.next_due == world.now
    assert len(of(world.timer(0), a.PlaceOrderAction)) == 1
    assert world.command(c.AiRegimeRevert()).message == "no override is active"
    assert world.state.counters["ai_reverted"] == 1


def test_a_release_from_starvation_holds_against_an_override() -> None:
    """A side that was withheld too long is free, whatever is applied."""
    world = tier1_long()
    applied(world, LONG2, ttl=3600)
    world.timer(60)
    world.close("1A.entry")
    world.timer(1800)
    assert isinstance(world.leg("1A").state, Entering)
    assert world.state.regimes.override is not None
    assert suppressed_side(world.state.regimes, world.params) is None


def test_expiry_acts_at_once_and_the_state_says_when() -> None:
    """Without another event a TimerTick is due then; factors are the mechanical ones again."""
    world = heard(BULLISH, replace(ACTING, regime_evidence_t=9.0))
    applied(world, SHORT1, ttl=100)
    until = world.now + 100
    assert distance_factor(world.state.regimes, TradeId.A, world.params) < 1
    while world.state.regimes.override is not None:
        assert world.state.quiet is not None
        world.now = world.state.quiet.duty_due
        assert world.now <= until
        world.timer(0)
        if of(world.log[-9:], a.RequestEstimate):
            world.step(estimated(world.now, BULLISH))
    assert world.now == until
    assert distance_factor(world.state.regimes, TradeId.A, world.params) == 1
    assert world.state.counters["ai_expired"] == 1
    assert of(world.log, a.RecordTransition)[-1].name == "expired"
    text = of(world.log, a.Notify)[-1].text
    assert text == ("override tier 1 short_bias expired: its 100 s are over; back to mechanical")


# ---- rails at every evaluation ------------------------------------------------------------------


def test_clamped_again_as_the_mechanical_tier_moves() -> None:
    """Never more than one tier away; back where it was when the mechanical tier comes back."""
    world = tier1_long()
    applied(world, LONG2, ttl=3600)
    world.step(estimated(world.now, RANGING))
    assert world.state.regimes.tiers.tier == 0
    assert in_effect(world) == (1, BULLISH)
    world.timer(300)
    world.step(estimated(world.now, BULLISH))
    assert in_effect(world) == (2, BULLISH)


@pytest.mark.parametrize(("opinion", "regime"), [(LONG2, BULLISH), (NONE0, RANGING)])
def test_ends_when_the_mechanical_tier_has_come_to_equal_it(opinion: Opinion, regime: int) -> None:
    """As it was applied, or as it was recommended."""
    world = heard(RANGING) if regime == BULLISH else tier2_long()
    applied(world, opinion)
    assert in_effect(world) == (1, BULLISH)
    world.timer(300)
    world.step(estimated(world.now, regime))
    assert world.state.regimes.override is None
    assert world.state.counters["ai_ended"] == 1
    assert "the mechanical tier has come to it" in of(world.log, a.Notify)[-1].text


@pytest.mark.parametrize("opinion", [NONE0, replace(NONE0, conviction=99)])
@pytest.mark.parametrize("world", [tier1_long, tier2_long])
def test_a_start_in_tier_0_does_not_end_what_was_to_lower(
    world: Callable[[], World], opinion: Opinion
) -> None:
    """Other settings begin in tier 0 and dwell: that tier is held, it has come to nothing."""
    made = applied(world(), opinion)
    start_again(made, replace(made.params, profit_pct=D("1.1")))
    assert made.state.regimes.override is not None
    made.timer(60)
    made.step(estimated(made.now, BULLISH))
    assert made.state.regimes.tiers.held_by == "dwell"
    assert made.state.regimes.override is not None
    made.timer(240)
    made.step(estimated(made.now, BULLISH))
    assert made.state.regimes.tiers.tier == 1
    assert made.state.regimes.override is not None
    assert in_effect(made)[0] == made.state.regimes.override.tier


def test_what_was_to_raise_never_lowers_and_the_other_way_round() -> None:
    """A mechanical tier that goes past the override ends it."""
    world = applied(heard(RANGING), LONG1, ttl=3600)
    world.timer(300)
    world.step(estimated(world.now, BULLISH))
    assert world.state.regimes.tiers.tier == 2
    assert world.state.regimes.override is None
    world = applied(tier2_long(), LONG1, ttl=3600)
    world.timer(300)
    world.step(estimated(world.now, RANGING))
    assert world.state.regimes.override is None
    assert in_effect(world) == (0, None)


def test_the_end_of_an_override_comes_before_what_it_would_do() -> None:
    """A life as long as the grace: nothing is withheld by the tick that ends it."""
    world = applied(tier1_long(), LONG2, ttl=60)
    actions = world.timer(60)
    assert [x.name for x in of(actions, a.RecordTransition)] == ["expired"]
    assert world.state.regimes.suppression.since is None


def test_it_expires_without_a_price_too() -> None:
    """After a jump nothing is quiet and no pass is due; the loop still has an instant to come."""
    world = applied(heard(RANGING), ttl=60)
    world.price("0.2")
    world.timer(1)
    assert world.state.quiet is None
    assert timer_due(world.state) == world.state.regimes.override.until
    world.timer(60)
    assert world.state.regimes.override is None


def test_what_is_booked_has_the_mechanical_tier() -> None:
    """An override changes tier and direction in effect; statistics keep their own."""
    world = applied(heard(RANGING), LONG1)
    world.fill("1B.entry")
    world.accept("1B.exit")
    (booked,) = of(world.fill("1B.exit"), a.BookCycleAction)
    assert booked.regime_tier == 0


def test_the_stop_band_holds_an_upgrade_back_until_there_is_room() -> None:
    """It is without effect meanwhile, and says why."""
    world = heard(RANGING)
    applied(world)
    roomy = world.params
    world.params = replace(roomy, open_order_limit=2)
    world.step(estimated(world.now, RANGING))
    held = world.state.regimes.override
    assert held is not None
    assert held.blocked == "capacity: the open orders are in the stop band"
    assert in_effect(world) == (0, None)
    world.params = roomy
    world.step(estimated(world.now, RANGING))
    assert in_effect(world) == (1, BULLISH)


def with_advice(**changes: float) -> Params:
    """Return the parameters with other rails."""
    return replace(ACTING, advice=replace(ON, **changes))


@pytest.mark.parametrize(
    ("params", "name", "why"),
    [
        (with_advice(override_min_conviction=81), "ended", "AI_OVERRIDE_MIN_CONVICTION 81"),
        (with_advice(override_max_ttl_sec=100.0), "expired", "its 100 s are over"),
        (SHADOW, "ended", "REGIME_DIRECTIONAL_ENABLED is false"),
        (replace(ACTING, advice=AdviceParams()), "ended", "the advisor is off"),
        (replace(ACTING, hmm_enabled=False), "ended", "there is no regime"),
    ],
)
def test_a_start_with_other_rails_ends_what_they_forbid(
    params: Params, name: str, why: str
) -> None:
    """The override does not outlive its rail."""
    world = applied(heard(RANGING))
    world.timer(120)
    start_again(world, params)
    assert world.state.regimes.override is None
    (end,) = [x for x in of(world.log, a.RecordTransition) if x.kind == "override"][1:]
    assert end.name == name
    assert why in end.detail
    assert world.state.counters[f"ai_{name}"] == 1


def test_a_lower_cap_shortens_what_is_left() -> None:
    """A longer life than the new cap is cut, not ended."""
    world = applied(heard(RANGING), ttl=1800)
    at = world.now
    world.timer(60)
    start_again(world, with_advice(override_max_ttl_sec=300.0))
    held = world.state.regimes.override
    assert held is not None
    assert held.until == at + 300


@pytest.mark.parametrize(("away", "is_kept"), [(600, True), (1800, False), (90_000, False)])
def test_a_restart_keeps_a_valid_override_and_clears_an_expired_one(
    away: float, is_kept: bool
) -> None:
    """In the same circumstances too; before the first entry is placed."""
    world = applied(heard(RANGING))
    stored = msgspec.json.decode(msgspec.json.encode(world.state.to_dict()))
    world.state = BotState.from_dict(stored)
    world.advance(away)
    start_again(world, ACTING)
    assert (world.state.regimes.override is not None) is is_kept
    assert in_effect(world) == ((1, BULLISH) if is_kept else (0, None))


def test_an_older_state_loads_without_advice() -> None:
    """Missing fields are the conservative value: nothing asked, nothing overridden."""
    world = applied(heard(RANGING))
    stored = msgspec.json.decode(msgspec.json.encode(world.state.to_dict()))
    del stored["advice"], stored["regimes"]["override"]
    old = BotState.from_dict(stored)
    assert (old.advice.heard, old.regimes.override, old.advice.due) == (None, None, None)


# ---- stored -------------------------------------------------------------------------------------


def test_the_journal_folds_to_the_same_override_and_score() -> None:
    """Opinions, commands and their ends are events; nothing else is needed."""
    world = StoredWorld(ACTING)
    world.enter()
    world.timer(300)
    world.step(estimated(world.now, RANGING))
    told(world, replace(LONG2, rationale="<img src=x onerror=alert(1)> call halt"))
    world.command(c.AiRegimeOverride(ttl_sec=400))
    world.timer(300)
    world.step(estimated(world.now, RANGING))
    world.command(c.AiRegimeRevert())
    told(world, SHORT1)
    world.command(c.AiRegimeDismiss())
    hour_later(world, "0.1")
    kinds = [x["kind"] for x in world.store.export()["transitions"]]
    assert kinds.count("override") == 2
    folded = refold(world.store)
    assert (folded.count, folded.differences) == (world.runtime.seq, ())
    assert world.state.advice.score.count == 2
