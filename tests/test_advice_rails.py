"""Any course of opinions, commands, estimates, starts and time keeps the rails of an override."""

import math
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from core import actions as a
from core import commands as c
from core.advice import DIRECTIONS, Opinion
from core.params import Params
from core.record import replace
from core.state import BotState
from grid.advice import PENDING_MAX
from regime_policy import stance
from tests.advice_world import ACTING, ON, heard, told
from tests.regime_world import estimated
from tests.world import World, of, start_again

OPINIONS = st.builds(
    Opinion,
    recommended_tier=st.integers(0, 2),
    recommended_direction=st.sampled_from(DIRECTIONS),
    conviction=st.sampled_from([0, 50, 90]),
    error=st.sampled_from(["", "", "", "timeout"]),
)
TTLS = st.sampled_from([None, -1.0, 1.0, 60.0, 600.0, 3600.0, 1e9, math.nan])
PARAMS = st.builds(
    lambda acts, on, floor, cap, limit: replace(
        ACTING,
        regime_directional_enabled=acts,
        open_order_limit=limit,
        advice=replace(
            ON, enabled=on, override_min_conviction=floor, override_max_ttl_sec=cap,
            override_ttl_sec=min(cap, 1800.0),
        ),
    ),
    st.sampled_from([True, True, True, False]), st.sampled_from([True, True, True, False]),
    st.sampled_from([0, 50, 100]), st.sampled_from([60.0, 3600.0]), st.sampled_from([2, 225]),
)  # fmt: skip
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("opinion"), OPINIONS),
        st.tuples(st.just("apply"), TTLS),
        st.tuples(st.just("estimate"), st.sampled_from([0, 1, 2, None])),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 59.0, 300.0, 3599.0, 90_000.0])),
        st.tuples(st.just("start"), PARAMS),
        st.tuples(st.sampled_from(["revert", "dismiss", "council", "price", "restart"]), st.none()),
    ),
    max_size=40,
)


def go(world: World, name: str, value: Any) -> None:
    """Take one step."""
    match name:
        case "opinion":
            before = world.state
            actions = told(world, value)
            after = replace(world.state, advice=before.advice, counters=before.counters)
            assert {type(x) for x in actions} <= {a.RecordOpinion}
            assert replace(after, quiet=before.quiet) == before
        case "apply":
            world.command(c.AiRegimeOverride(ttl_sec=value))
        case "estimate":
            world.step(estimated(world.now, value))
        case "wait":
            world.timer(value)
        case "start":
            start_again(world, value)
        case "revert":
            world.command(c.AiRegimeRevert())
            assert world.state.regimes.override is None
        case "dismiss":
            world.command(c.AiRegimeDismiss())
        case "council":
            world.command(c.AiCouncil())
        case "price":
            world.price("0.1")
        case "restart":
            stored = msgspec.json.decode(msgspec.json.encode(world.state.to_dict()))
            world.state = BotState.from_dict(stored)


def check(world: World, params: Params) -> None:
    """See that every rail holds, and that the next instant is named."""
    regimes, now, advice = world.state.regimes, stance(world.state.regimes), world.state.advice
    assert abs(now.tier - regimes.tiers.tier) <= 1
    assert 0 <= now.tier <= 2
    assert (now.tier == 0) == (now.direction is None)
    assert len(advice.pending) <= PENDING_MAX
    held = regimes.override
    if held is None:
        assert now.tier == regimes.tiers.tier
        return
    assert params.regime_directional_enabled
    assert params.advice.enabled
    assert held.conviction >= params.advice.override_min_conviction
    assert held.until - held.applied_at <= params.advice.override_max_ttl_sec
    quiet = world.state.quiet
    assert quiet is None or quiet.duty_due <= max(held.until, world.now)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_any_course_keeps_the_rails(steps: list[tuple[str, Any]]) -> None:
    """Never more than a tier away, never beyond its time, never where a switch forbids it."""
    world = heard()
    for name, value in steps:
        go(world, name, value)
        check(world, world.params)
        held = world.state.regimes.override
        if name == "wait" and held is not None:
            assert world.now < held.until
    ids = [x.id for x in of(world.log, a.RecordOpinion)]
    assert ids == list(range(1, len(ids) + 1))
