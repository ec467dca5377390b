"""Trainings through the reducer: when they are asked for, told of, given up and tried again."""

from core import actions as a
from core import commands as c
from core import events as e
from core.record import replace
from core.regime import BEARISH, BULLISH, RANGING
from grid.regimes import outstanding_trainings
from tests.regime_world import depth, estimate, model
from tests.test_regime_reducer import hear, of, start_again
from tests.world import HMM_PARAMS, World, entered


def untrained(candles: int, interval_sec: float = 60.0) -> e.Event:
    """Return the event of a primary that has candles but no model."""
    own = depth(candles, modifier=0.70)
    primary = estimate(None, is_trained=False, interval_sec=interval_sec, own=own)
    return e.RegimeEstimated(time=0.0, primary=primary)


def ask_training(world: World, event: e.Event) -> list[a.RequestTraining]:
    """Let the models say something now; return the trainings that are asked for."""
    return of(world.step(replace(event, time=world.now)), a.RequestTraining)


def test_a_first_training_waits_for_its_candles_only() -> None:
    """720 exchange rows train at once; 499 do not; nothing is asked for twice."""
    world = World(HMM_PARAMS)
    assert ask_training(world, untrained(499)) == []
    (asked,) = ask_training(world, untrained(720))
    assert asked == a.RequestTraining(
        interval_sec=60.0, until=world.now, reason="there is no model"
    )
    assert outstanding_trainings(world.state) == (asked,)
    world.advance(300)
    assert ask_training(world, untrained(725)) == []


def test_a_trained_model_is_told_of_and_asked() -> None:
    """In plain words and as a transition; the next look comes at once."""
    world = World(HMM_PARAMS)
    ask_training(world, untrained(720))
    asked = world.now
    world.timer(30)
    trained = replace(model(until=asked, candles=720), changed_share=0.12)
    actions = world.step(e.ModelTrained(time=world.now, model=trained))
    assert outstanding_trainings(world.state) == ()
    (told,) = of(actions, a.Notify)
    assert told.text == (
        "1 min model trained on 720 candles (there is no model); converged after 42 iterations; "
        "12 % of the last day's rows changed their label"
    )
    assert (of(actions, a.RecordTransition)[0].kind, told.level) == ("model", "info")
    assert len(of(world.timer(), a.RequestEstimate)) == 1
    training = world.state.regimes.trainings[0]
    assert (training.model, training.trained_at, training.failures) == (trained, asked, 0)


def trained_world(candles: int = 720) -> World:
    """Return a world whose primary model has been trained on so many candles."""
    world = World(HMM_PARAMS)
    ask_training(world, untrained(candles))
    world.step(e.ModelTrained(time=world.now, model=model(until=world.now, candles=candles)))
    return world


def serving(candles: int, now: float) -> e.Event:
    """Return the event of a trained primary with so many candles at hand."""
    own = depth(candles, modifier=0.70)
    return e.RegimeEstimated(time=now, primary=estimate(RANGING, 0.9, own=own))


def test_a_model_is_trained_anew_each_day() -> None:
    """86,400 s after the training was asked for."""
    world = trained_world()
    world.advance(86_399)
    assert ask_training(world, serving(720, world.now)) == []
    world.advance(1)
    (asked,) = ask_training(world, serving(720, world.now))
    assert asked.reason == "the model is 24 h old"


def test_a_deeper_window_trains_at_once_and_only_once() -> None:
    """When the candles at hand make a better tier than those of the model in use."""
    world = trained_world()
    world.advance(300)
    assert ask_training(world, serving(999, world.now)) == []
    (asked,) = ask_training(world, serving(1000, world.now))
    assert asked.reason == "there are candles for a baseline model"
    # A training that came out shorter is not asked for over and over.
    world.step(e.ModelTrained(time=world.now, model=model(until=world.now, candles=990)))
    world.advance(300)
    assert ask_training(world, serving(1005, world.now)) == []
    (asked,) = ask_training(world, serving(2500, world.now))
    assert asked.reason == "there are candles for a deep model"


def test_failures_back_off_and_are_told_once() -> None:
    """300 s, doubling to an hour; the operator is warned of the first."""
    world = World(HMM_PARAMS)
    levels = []
    for wait in (300, 600, 1200, 2400, 3600, 3600):
        assert len(ask_training(world, untrained(720))) == 1
        actions = world.step(
            e.TrainingFailed(time=world.now, interval_sec=60.0, reason="constant prices")
        )
        (told,) = of(actions, a.Notify)
        levels.append(told.level)
        assert "could not be trained: constant prices; there is none," in told.text
        assert of(actions, a.RecordTransition)[0].name == "training_failed"
        world.advance(wait - 1)
        assert ask_training(world, untrained(720)) == []
        world.advance(1)
    assert levels == ["warning"] + ["info"] * 5
    ask_training(world, untrained(720))
    world.step(e.ModelTrained(time=world.now, model=model(candles=720)))
    assert world.state.regimes.trainings[0].failures == 0


def test_a_training_without_an_answer_has_failed_after_an_hour() -> None:
    """It does not stand in the way for ever; a late model is taken nevertheless."""
    world = World(HMM_PARAMS)
    ask_training(world, untrained(720))
    world.advance(3599)
    assert ask_training(world, untrained(720)) == []
    assert world.state.regimes.trainings[0].failures == 0
    world.advance(1)
    ask_training(world, untrained(720))
    assert world.state.regimes.trainings[0].error == "no answer for 60 min"
    world.step(e.ModelTrained(time=world.now, model=model(candles=720)))
    assert world.state.regimes.trainings[0].model == model(candles=720)


def test_each_timeframe_is_trained_by_its_own_minimum() -> None:
    """The second model needs 200 candles; without a second timeframe it is not asked for."""
    primary = estimate(RANGING, 0.9, own=depth(499, modifier=0.70), is_trained=False)
    second = estimate(
        None, is_trained=False, interval_sec=900.0, own=depth(200, 1440, modifier=0.70)
    )
    event = e.RegimeEstimated(time=0.0, primary=primary, secondary=second)
    assert [x.interval_sec for x in ask_training(World(HMM_PARAMS), event)] == [900.0]
    alone = replace(HMM_PARAMS, hmm_multi_timeframe_enabled=False)
    world = World(alone)
    assert ask_training(world, event) == []
    assert world.state.regimes.secondary is None


def test_retrain_hmm_is_refused_with_the_reason_or_carried_out() -> None:
    """Off, unheard, too few candles, under way; else both timeframes are trained."""
    assert "HMM_ENABLED=true" in World().command(c.RetrainHmm()).message
    world = World(HMM_PARAMS)
    assert "not been heard of yet" in world.command(c.RetrainHmm()).message
    ask_training(world, untrained(499))
    assert world.command(c.RetrainHmm()).message == (
        "499 candles are too few to train on; 500 are needed"
    )
    world = trained_world()
    ask_training(world, serving(720, world.now))
    world.step(e.TrainingFailed(time=world.now, interval_sec=60.0, reason="x"))
    reply = world.command(c.RetrainHmm())
    assert reply.is_accepted
    assert reply.message == "training 1 min (720 candles); the old model serves until it is done"
    (asked,) = outstanding_trainings(world.state)
    assert (asked.until, asked.reason) == (world.now, "asked for by the operator")
    reply = world.command(c.RetrainHmm())
    assert (reply.is_accepted, reply.message) == (
        False, "the 1 min model is being trained already",
    )  # fmt: skip


def test_settings_that_change_are_trained_with_at_once() -> None:
    """The shell says that the model was made with others; the old one serves meanwhile."""
    world = trained_world()
    outdated = serving(720, world.now)
    outdated = replace(outdated, primary=replace(outdated.primary, is_outdated=True))
    (asked,) = ask_training(world, outdated)
    assert asked.reason == "the settings have changed"
    assert world.state.regimes.policy.tag == RANGING


def test_a_result_that_was_given_up_is_as_old_as_its_candles() -> None:
    """After days without the daemon the late model is no fresh one."""
    world = World(HMM_PARAMS)
    ask_training(world, untrained(720))
    old = world.now
    world.advance(3 * 86_400)
    ask_training(world, untrained(720))  # no answer for an hour: failed
    world.step(e.ModelTrained(time=world.now, model=model(until=old, candles=720)))
    assert world.state.regimes.trainings[0].trained_at == old
    (asked,) = ask_training(world, serving(720, world.now))
    assert asked.reason == "the model is 72 h old"


def test_a_timeframe_that_is_switched_off_keeps_no_training_waiting() -> None:
    """Its result will never come; the other one may be trained."""
    world = trained_world()
    second = estimate(
        None, is_trained=False, interval_sec=900.0, own=depth(200, 1440, modifier=0.70)
    )
    event = replace(serving(720, world.now), secondary=second)
    assert [x.interval_sec for x in ask_training(world, event)] == [900.0]
    alone = replace(HMM_PARAMS, hmm_multi_timeframe_enabled=False)
    start_again(world, alone)
    assert outstanding_trainings(world.state) == ()
    world.timer()
    ask_training(world, serving(720, world.now))
    assert world.command(c.RetrainHmm()).is_accepted


def test_nothing_is_tagged_while_the_models_are_off() -> None:
    """Whatever the operator's own word is, the models' last one is not theirs any more."""
    world = World(HMM_PARAMS)
    hear(world, BULLISH)
    assert world.state.regime is not None
    assert world.state.regime.regime == BULLISH
    by_hand = replace(HMM_PARAMS, hmm_enabled=False, regime_manual_override=BEARISH)
    start_again(world, by_hand)
    assert world.state.regime.regime is None


def test_estimates_in_quick_succession_leave_the_one_before_them() -> None:
    """New models are asked at once; an execution of before is still tagged."""
    world = World(HMM_PARAMS)
    hear(world, BULLISH)
    first = world.now
    world.advance(300)
    for _ in range(3):
        hear(world, BULLISH)
        world.advance(5)
    before = world.state.regime_before
    assert before is not None
    assert (before.time, before.regime) == (first, BULLISH)


def test_an_execution_between_like_estimates_has_their_tag() -> None:
    """Told late, after a model's first word said the same again: not the tag of before."""
    world = entered(HMM_PARAMS)
    hear(world, RANGING)
    world.advance(300)
    hear(world, BULLISH)
    world.advance(35)
    hear(world, BULLISH)
    world.advance(5)
    world.fill("1B.entry", late=20)
    assert world.leg("1B").state.position.regime_at_entry == BULLISH
    world.fill("1A.entry", late=45)
    assert world.leg("1A").state.position.regime_at_entry == RANGING


def test_a_failed_training_for_a_better_tier_is_tried_again() -> None:
    """After 5 min, not when the model is a day old; one given up by a restart likewise."""
    world = trained_world(720)
    (asked,) = ask_training(world, serving(1000, world.now))
    assert asked.reason == "there are candles for a baseline model"
    (told,) = of(
        world.step(e.TrainingFailed(time=world.now, interval_sec=60.0, reason="it died")), a.Notify
    )
    assert "the old one serves on, next try in 5 min" in told.text
    world.advance(299)
    assert ask_training(world, serving(1004, world.now)) == []
    world.advance(1)
    assert len(ask_training(world, serving(1005, world.now))) == 1
    start_again(world, replace(HMM_PARAMS, hmm_enabled=False))
    start_again(world, HMM_PARAMS)
    world.step(replace(untrained(0), time=world.now))
    assert len(ask_training(world, serving(1100, world.now))) == 1


def test_a_long_absence_is_no_failure_of_the_worker() -> None:
    """A training asked for before it is asked again by the start; its hour begins then."""
    world = World(HMM_PARAMS)
    ask_training(world, untrained(720))
    world.advance(7_200)
    world.step(replace(untrained(840), time=world.now))
    assert world.state.regimes.trainings[0].failures == 0
    world.advance(300)
    world.step(replace(untrained(845), time=world.now))
    assert world.state.regimes.trainings[0].failures == 1


def test_a_failure_does_not_claim_that_a_damaged_model_serves() -> None:
    """What the estimate says counts, not what was trained once."""
    world = trained_world(720)
    ask_training(world, untrained(720))
    (told,) = of(
        world.step(e.TrainingFailed(time=world.now, interval_sec=60.0, reason="it died")), a.Notify
    )
    assert "there is none, next try" in told.text
