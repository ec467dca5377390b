"""Opinions through the reducer: dismissed, voted on, scored an hour later."""

from decimal import Decimal

import pytest

from core import actions as a
from core import commands as c
from core import events as e
from core.advice import Council, Opinion, Tally, Vote
from core.record import replace
from core.regime import RANGING
from grid.advice import HORIZON_SEC
from tests.advice_world import (
    ACTING,
    FAILED,
    LONG1,
    NONE0,
    SHORT1,
    heard,
    hour_later,
    told,
)
from tests.regime_world import estimated
from tests.world import of

D = Decimal


def test_a_disagreement_is_dismissed_until_the_next_opinion() -> None:
    """Refused where there is none: no opinion, an error, agreement, dismissed already."""
    world = heard(RANGING)
    assert not world.command(c.AiRegimeDismiss()).is_accepted
    for opinion in (FAILED, NONE0):
        told(world, opinion)
        assert not world.command(c.AiRegimeDismiss()).is_accepted
    told(world, LONG1)
    assert world.command(c.AiRegimeDismiss()).message == "disagreement dismissed"
    text = world.command(c.AiRegimeDismiss()).message
    assert text == "there is no disagreement to dismiss"
    assert world.state.counters["ai_dismissed"] == 1
    told(world, LONG1)
    assert world.state.advice.heard is not None
    assert not world.state.advice.heard.is_dismissed


def test_a_council_is_asked_by_the_operator_and_shown() -> None:
    """Never twice within the debounce; its answer changes nothing but what is shown."""
    world = heard(RANGING)
    actions = world.step(e.CommandReceived(time=world.now, command_id="c", command=c.AiCouncil()))
    assert [(x.trigger, x.is_council) for x in of(actions, a.RequestOpinion)] == [("council", True)]
    world.advance(10)
    assert world.command(c.AiCouncil()).message.endswith("again in 50 s")
    votes = (Vote(panelist="x", action="pause"),)
    council = Council(action=None, why="1 of 3 votes", votes=votes)
    world.step(e.CouncilHeld(time=world.now, asked_at=world.now - 10, council=council))
    assert world.state.advice.sitting is not None
    assert world.state.advice.sitting.council == council


# ---- the score ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opinion", "price", "advised", "mechanical"),
    [
        (LONG1, "0.1006", "right", "wrong"),
        (LONG1, "0.0994", "wrong", "wrong"),
        (LONG1, "0.1004", "inside", "right"),
        (SHORT1, "0.0994", "right", "wrong"),
        (NONE0, "0.1004", "right", "right"),
        (NONE0, "0.0990", "wrong", "wrong"),
    ],
)
def test_scored_an_hour_later_beyond_a_round_trip_of_fees(
    opinion: Opinion, price: str, advised: str, mechanical: str
) -> None:
    """At 0.25 % maker a round trip takes 0.501 %: 0.4 % up pays for nothing."""
    world = heard(RANGING)
    told(world, opinion)
    (row,) = of(hour_later(world, price), a.RecordScore)
    assert (row.id, row.price, row.advised, row.mechanical) == (1, D(price), advised, mechanical)
    score = world.state.advice.score
    assert getattr(score.advised.all, advised) == getattr(score.mechanical.all, mechanical) == 1
    is_directional = opinion is not NONE0
    assert getattr(score.advised.directional, advised) == is_directional
    assert score.mechanical.directional == Tally()
    assert (score.count, score.differed) == (1, is_directional)
    assert score.better == (is_directional and advised == "right")
    assert score.worse == (is_directional and advised == "wrong")
    assert world.state.advice.pending == ()


def test_overlapping_hours_count_as_one_window() -> None:
    """Thirteen opinions, five minutes apart: two windows."""
    world = heard(RANGING)
    for _ in range(13):
        told(world, NONE0)
        world.timer(300)
        world.step(estimated(world.now, RANGING))
        world.price("0.1")
    hour_later(world, "0.1")
    score = world.state.advice.score
    assert (score.count, score.advised.all.right, score.advised.all.windows) == (13, 13, 2)


def test_without_a_fresh_price_an_opinion_stays_unscored() -> None:
    """A price of hours later says something else; it is counted, not guessed."""
    world = heard(RANGING, replace(ACTING, stale_price_max_age_sec=120.0))
    world.price("0.1")
    told(world, LONG1)
    world.timer(HORIZON_SEC)
    assert world.state.advice.score.count == 0
    assert world.state.advice.score_due == world.now + 60
    world.advance(HORIZON_SEC)
    world.price("0.12")
    world.timer(1)
    assert (world.state.advice.score.count, world.state.advice.score.unscored) == (0, 1)
    world.advance(200)
    told(world, LONG1)
    assert world.state.advice.pending == ()
    assert world.state.advice.score.unscored == 2


def test_every_opinion_of_a_busy_hour_is_scored() -> None:
    """Half a minute apart, as near as questions can be: none is pushed out."""
    world = heard(RANGING)
    for n in range(130):
        told(world, LONG1)
        world.timer(30)
        if n % 10 == 9:
            world.step(estimated(world.now, RANGING))
            world.price("0.1")
    score = world.state.advice.score
    assert (score.unscored, len(world.state.advice.pending)) == (0, 119)
    assert score.count == 11


def test_an_answer_that_was_bent_is_shown_and_not_scored() -> None:
    """Else a model that writes "long" would be right whenever nothing happens."""
    world = heard(RANGING)
    told(world, replace(NONE0, is_mended=True))
    advice = world.state.advice
    assert (advice.pending, advice.score.unscored) == ((), 1)
    assert world.state.counters["ai_mended"] == 1


def test_a_panel_at_rest_is_told_of_once() -> None:
    """Nobody is asked, so nothing is counted or kept again until somebody is."""
    world = heard(RANGING)
    resting = Opinion(error="resting")
    assert len(of(told(world, resting), a.RecordOpinion)) == 1
    assert told(world, resting) == []
    assert told(world, FAILED) != []
    assert told(world, FAILED) != []
    assert told(world, resting) != []
    assert world.state.counters["ai_errors"] == 4
