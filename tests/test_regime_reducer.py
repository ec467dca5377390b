"""Regimes through the reducer: asking, hearing, training, withholding entries, booking."""

from decimal import Decimal

import msgspec
import pytest

from core import actions as a
from core import commands as c
from core import events as e
from core.domain import TradeId
from core.params import Params, PausePolicy
from core.record import replace
from core.regime import BEARISH, BULLISH, RANGING
from core.state import BotState, Entering, Idle
from engine.books import refold
from grid.regimes import is_estimate_outstanding
from grid_strategy import entry_distance_pct
from regime_policy import suppressed_side
from tests.regime_world import BOTH_PRESENT, estimate, estimated, model
from tests.world import (
    ACTING_PARAMS,
    HMM_PARAMS,
    StoredWorld,
    World,
    entered,
    of,
    start_again,
)

D = Decimal
ACTING = ACTING_PARAMS


def acting(params: Params = ACTING) -> World:
    """Return a world with both entries resting whose first dwell is over."""
    world = entered(params)
    world.timer(300)
    return world


def hear(world: World, regime: int | None, confidence: float = 0.9) -> list[a.Action]:
    """Let the models say a regime now, with evidence for it."""
    return world.step(estimated(world.now, regime, confidence))


def bull() -> World:
    """Return a world in tier 2, bullish, with both entries still resting, in grace."""
    world = acting()
    hear(world, BULLISH)
    assert world.state.regimes.tiers.tier == 2
    return world


# ---- asking -------------------------------------------------------------------------------------


def test_models_are_asked_at_once_and_then_each_interval() -> None:
    """The state says when it is due; nobody is asked twice for one evaluation."""
    world = World(HMM_PARAMS)
    assert world.state.quiet is not None
    assert world.state.quiet.next_due == world.now
    assert len(of(world.timer(), a.RequestEstimate)) == 1
    asked = world.now
    assert is_estimate_outstanding(world.state)
    hear(world, RANGING)
    assert not is_estimate_outstanding(world.state)
    world.enter()
    assert world.state.quiet.next_due <= asked + 300
    world.now = asked
    assert of(world.timer(299), a.RequestEstimate) == []
    assert len(of(world.timer(1), a.RequestEstimate)) == 1


def test_nobody_is_asked_while_the_models_are_off() -> None:
    """And what they say is not heard."""
    world = World()
    assert of(world.timer(), a.RequestEstimate) == []
    hear(world, BULLISH)
    assert world.state.regime is None
    assert world.state.regimes.policy.label == RANGING


def test_the_operators_word_needs_no_models() -> None:
    """Evaluated at the same pace; positions are not tagged with it."""
    params = replace(ACTING, hmm_enabled=False, regime_manual_override=BEARISH)
    world = World(params)
    world.timer()
    assert world.state.regimes.tiers.held_by == "dwell"
    actions = world.timer(300)
    assert of(actions, a.RequestEstimate) == []
    assert (world.state.regimes.tiers.tier, world.state.regimes.tiers.direction) == (2, BEARISH)
    assert world.state.regime is None
    world.timer(60)
    assert suppressed_side(world.state.regimes, params) is TradeId.B


def test_a_start_in_other_circumstances_begins_in_tier_0() -> None:
    """A restart alone changes nothing; other parameters begin anew, and ask at once."""
    world = bull()
    world.timer(60)

    def start(params: Params) -> None:
        start_again(world, params)

    before = world.state.regimes
    assert before.suppression.side is TradeId.A
    start(ACTING)
    assert world.state.regimes == before
    start(replace(ACTING, regime_evidence_t=2.0))
    made = world.state.regimes
    assert (made.tiers.tier, made.tiers.since, made.suppression.side) == (0, world.now, None)
    assert made.tiers.tier2_left_at == world.now
    assert len(of(world.timer(), a.RequestEstimate)) == 1
    start(replace(ACTING, hmm_enabled=False, regime_directional_enabled=False))
    assert world.state.regimes.primary is None
    assert world.state.regime is not None
    assert world.state.regime.regime is None


def test_models_that_fall_silent_are_not_gone_by_any_longer() -> None:
    """Two intervals without a word: the tier ends and positions are tagged with nothing."""
    world = bull()
    world.timer(599)
    assert world.state.regimes.tiers.tier == 2
    world.timer(1)
    assert world.state.regimes.tiers.tier == 0
    assert world.state.regimes.primary is not None
    assert world.state.regimes.primary.why == "the models have not been heard of for too long"
    assert world.state.regime is not None
    assert world.state.regime.regime is None


def test_history_is_of_half_an_hour() -> None:
    """One sample an evaluation, with the label and the confidence that policy goes by."""
    world = World(HMM_PARAMS)
    for n in range(10):
        world.advance(300)
        hear(world, n % 3, 0.5)
    history = world.state.regimes.history
    assert [x.ts for x in history] == [world.now - 300 * n for n in range(5, -1, -1)]
    assert [x.regime for x in history] == [n % 3 for n in range(4, 10)]
    assert {x.conf for x in history} == {0.5}


# ---- tiers --------------------------------------------------------------------------------------


def test_tier_changes_are_recorded_with_their_reasons() -> None:
    """From, to, agreement, confidence, bias and evidence, for who looks later."""
    world = acting()
    (change,) = of(hear(world, BULLISH), a.RecordTransition)
    assert (change.kind, change.name) == ("regime_tier", "tier 2 bullish")
    for part in ("from tier 0", "primary_only", "2 by confidence", "confidence 0.90",
                 "bias +0.90", "evidence present (t +3.1)"):  # fmt: skip
        assert part in change.detail
    world.advance(1)
    changes = of(hear(world, RANGING), a.RecordTransition)
    assert [x.name for x in changes] == ["tier 0"]
    assert "from tier 2 bullish" in changes[0].detail
    # What acts is told to the operator too.
    assert of(world.log, a.Notify)[-1].kind == "regime_tier"


def test_shadow_records_and_does_nothing() -> None:
    """Everything is computed: tier, suppression, its release; no entry is touched."""
    world = acting(HMM_PARAMS)
    actions = hear(world, BULLISH)
    assert of(actions, a.Notify) == []
    assert of(actions, a.RecordTransition)[0].detail.startswith("shadow, nothing acts: from tier 0")
    actions = world.timer(60)
    assert of(actions, a.RecordTransition)[0].name == "begin"
    assert of(actions, a.CancelOrderAction) == []
    assert world.state.regimes.suppression.since == world.now
    slot, leg = world.slot(), world.leg("1A")
    assert entry_distance_pct(world.state, slot, leg, world.params) == D("0.2")


def test_without_evidence_nothing_acts() -> None:
    """Both tiers are kept: 2 by confidence, held at 0."""
    world = acting()
    world.step(e.RegimeEstimated(time=world.now, primary=estimate(BULLISH, 0.9, 0.9)))
    tiers = world.state.regimes.tiers
    assert (tiers.by_confidence, tiers.tier, tiers.held_by) == (2, 0, "no evidence")
    assert of(world.timer(60), a.CancelOrderAction) == []


# ---- what tiers do ------------------------------------------------------------------------------


def test_tier_2_withdraws_entries_against_the_trend_after_the_grace() -> None:
    """In a bullish market the sell entry goes; the buy entry and every exit stay."""
    world = bull()
    assert of(world.timer(59), a.CancelOrderAction) == []
    actions = world.timer(1)
    (cancel,) = of(actions, a.CancelOrderAction)
    assert cancel.client_order_id == world.order("1A.entry").client_order_id
    assert cancel.reason == "withdrawn: suppressed"
    begin = of(actions, a.RecordTransition)[0]
    assert (begin.kind, begin.name) == ("suppression", "begin")
    assert "sell entries are withheld, against the bullish trend" in begin.detail
    world.close("1A.entry")
    assert of(world.timer(), a.PlaceOrderAction) == []
    assert world.leg("1A").state == Idle(since=world.now - 1, veto="suppressed")
    assert world.state.counters["veto:suppressed"] == 1
    world.fill("1B.entry")
    world.accept("1B.exit")
    assert of(world.timer(), a.CancelOrderAction) == []


def test_a_partly_filled_entry_is_withdrawn_and_its_rest_gets_an_exit() -> None:
    """As pausing treats it: nothing executed is forgotten."""
    world = bull()
    world.fill("1A.entry", 5)
    (cancel,) = of(world.timer(60), a.CancelOrderAction)
    assert cancel.reason == "withdrawn: suppressed"
    world.close("1A.entry")
    assert world.order("1A.exit").volume == 5


def test_paused_entries_that_stay_are_withdrawn_by_suppression() -> None:
    """PAUSE_POLICY=stay keeps them from the pause, not from the regime."""
    world = acting(replace(ACTING, pause_policy=PausePolicy.STAY))
    world.command(c.Pause())
    assert of(world.timer(), a.CancelOrderAction) == []
    hear(world, BEARISH)
    (cancel,) = of(world.timer(60), a.CancelOrderAction)
    assert cancel.client_order_id == world.order("1B.entry").client_order_id


def test_a_suppressed_side_is_released_and_enters_again() -> None:
    """After half an hour, for half an hour, whatever the tier; the due times say when."""
    world = bull()
    world.timer(60)
    world.close("1A.entry")
    began = world.now
    while world.now < began + 1800:
        assert world.state.quiet is not None
        assert world.state.quiet.next_due <= began + 1800
        if world.now % 300 < 1:
            hear(world, BULLISH)
        world.now = min(began + 1799, max(world.now + 1, world.state.quiet.next_due))
        if world.now == began + 1799:
            break
        world.timer(0)
        if of(world.log[-5:], a.RequestEstimate):
            hear(world, BULLISH)
    assert isinstance(world.leg("1A").state, Idle)
    hear(world, BULLISH)
    actions = world.timer(1)
    assert len(of(actions, a.PlaceOrderAction)) == 1
    assert of(actions, a.RecordTransition)[0].name == "release"
    world.accept("1A.entry")
    until = world.state.regimes.suppression.released_until
    assert until == world.now + 1800
    while world.now < until - 300:
        world.timer(300)
        hear(world, BULLISH)
        assert isinstance(world.leg("1A").state, Entering)
    actions = world.timer(300)
    assert of(actions, a.CancelOrderAction)[0].reason == "withdrawn: suppressed"


def test_the_end_of_the_tier_lets_the_side_enter_again_at_once() -> None:
    """The state says that an entry pass is due."""
    world = bull()
    world.timer(60)
    world.close("1A.entry")
    world.timer()
    actions = hear(world, RANGING)
    assert [x.name for x in of(actions, a.RecordTransition)] == ["tier 0", "end"]
    assert world.state.quiet is not None
    assert world.state.quiet.next_due == world.now
    assert len(of(world.timer(0), a.PlaceOrderAction)) == 1


def test_distances_follow_bias_and_direction() -> None:
    """Against the trend wider, with it nearer; entry price and refresh distance agree."""
    params = replace(ACTING, entry_pct=D(1), regime_tier2_confidence=0.99)
    world = World(params)
    world.advance(300)
    hear(world, BULLISH, 0.5)
    assert world.state.regimes.tiers.tier == 1
    slot = world.slot()
    far = [entry_distance_pct(world.state, slot, x, params) for x in slot.legs]
    assert far == [D("1.25"), D("0.85")]
    world.enter()
    assert world.order("1A.entry").price == D("0.101250")
    assert world.order("1B.entry").price == D("0.099150")


def test_a_factor_that_changes_has_entries_looked_at() -> None:
    """An entry that rests too far for its new distance is refreshed without a new price."""
    params = replace(ACTING, entry_pct=D(3), refresh_pct=D("0.1"), regime_tier2_confidence=0.99)
    world = World(params)
    world.advance(300)
    hear(world, BULLISH)
    world.enter()
    assert world.order("1A.entry").price == D("0.104350")
    world.price("0.0975")  # 7 % below the sell entry: within twice its distance of 4.35 %
    assert of(world.timer(), a.CancelOrderAction) == []
    hear(world, RANGING)
    assert world.state.quiet is not None
    assert world.state.quiet.next_due == world.now
    assert [x.reason for x in of(world.timer(), a.CancelOrderAction)] == ["refresh"]


# ---- booking and storing ------------------------------------------------------------------------


@pytest.mark.parametrize(("leg", "is_against"), [("A", True), ("B", False)])
def test_a_booking_says_what_the_policy_said(leg: str, is_against: bool) -> None:
    """Confidence, bias, side and tier at the time of the booking; nothing when nothing is known."""
    world = bull()
    world.fill(f"1{leg}.entry")
    world.accept(f"1{leg}.exit")
    (booked,) = of(world.fill(f"1{leg}.exit"), a.BookCycleAction)
    assert (booked.regime_confidence, booked.regime_bias_signal) == (0.9, 0.9)
    assert (booked.against_trend, booked.regime_tier) == (is_against, 2)
    assert booked.record.regime_at_entry == BULLISH
    world = acting()
    hear(world, BULLISH)
    world.fill(f"1{leg}.entry")
    world.accept(f"1{leg}.exit")
    world.advance(601)
    (booked,) = of(world.fill(f"1{leg}.exit"), a.BookCycleAction)
    assert booked.regime_confidence is booked.against_trend is booked.regime_tier is None


def test_state_with_regimes_survives_its_stored_form() -> None:
    """Estimates, clocks, history and trainings come back as they were; an old state loads too."""
    world = bull()
    world.step(
        e.RegimeEstimated(
            time=world.now, primary=estimate(BULLISH, 0.8, 0.7),
            secondary=estimate(None, is_trained=False, interval_sec=900.0), evidence=BOTH_PRESENT,
            horizon_sec=14_400.0,
        )
    )  # fmt: skip
    world.step(e.ModelTrained(time=world.now, model=model()))
    world.timer(60)
    stored = msgspec.json.decode(msgspec.json.encode(world.state.to_dict()))
    assert BotState.from_dict(stored) == world.state
    del stored["regimes"]
    old = BotState.from_dict(stored)
    assert old.regimes.estimate_due is None
    world.state = old
    assert len(of(world.timer(), a.RequestEstimate)) == 1


def test_journal_and_outcomes_hold_what_the_models_said() -> None:
    """Events and actions fold anew from the journal, and the outcome of a cycle has its regime."""
    world = StoredWorld(ACTING)
    world.enter()
    world.timer(300)
    world.step(
        e.RegimeEstimated(
            time=world.now, primary=estimate(BEARISH, 0.8, -0.7),
            secondary=estimate(BEARISH, 0.4, -0.3, interval_sec=900.0), evidence=BOTH_PRESENT,
            horizon_sec=14_400.0,
        )
    )  # fmt: skip
    world.step(e.ModelTrained(time=world.now, model=model()))
    world.step(e.TrainingFailed(time=world.now, interval_sec=900.0, reason="too few candles"))
    world.fill("1B.entry")
    world.accept("1B.exit")
    world.timer(60)
    world.fill("1B.exit")
    columns = "regime_at_entry, regime_confidence, regime_bias_signal, against_trend, regime_tier"
    rows = world.store._db.execute(f"SELECT {columns} FROM exit_outcomes").fetchall()
    assert rows == [(BEARISH, 0.8, pytest.approx(-0.42), 1, 2)]
    kinds = [x["kind"] for x in world.store.export()["transitions"]]
    assert kinds == ["regime_tier", "model", "model", "suppression"]
    folded = refold(world.store)
    assert (folded.count, folded.differences) == (world.runtime.seq, ())
