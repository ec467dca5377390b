"""Opinions, and worlds in which they are heard, as tests of the advisor need them."""

from core import actions as a
from core import commands as c
from core import events as e
from core.advice import AdviceParams, Opinion
from core.params import Params
from core.record import replace
from core.regime import BULLISH, RANGING
from grid.advice import HORIZON_SEC
from regime_policy import stance
from tests.regime_world import estimated
from tests.world import ACTING_PARAMS, World, entered

ON = AdviceParams(enabled=True)
ACTING = replace(ACTING_PARAMS, advice=ON, regime_evidence_gate=True)
SHADOW = replace(ACTING, regime_directional_enabled=False)
LONG2 = Opinion(
    recommended_tier=2, recommended_direction="long_bias", conviction=80, panelist="local",
    rationale="because", suggested_ttl_minutes=20,
)  # fmt: skip
LONG1 = replace(LONG2, recommended_tier=1)
SHORT1 = replace(LONG1, recommended_direction="short_bias")
NONE0 = replace(LONG2, recommended_tier=0, recommended_direction="symmetric")
FAILED = Opinion(error="http_429")


def told(world: World, opinion: Opinion, *, age: float = 0.0) -> list[a.Action]:
    """Let the advisor say something now of what it was told `age` seconds ago."""
    return world.step(
        e.OpinionGiven(
            time=world.now, asked_at=world.now - age, trigger="interval", opinion=opinion
        )
    )


def heard(regime: int = RANGING, params: Params = ACTING, confidence: float = 0.9) -> World:
    """Return a world whose models have said this, after its first dwell."""
    world = entered(params)
    world.timer(300)
    world.step(estimated(world.now, regime, confidence))
    return world


def tier1_long() -> World:
    """Return a world in mechanical tier 1, bullish."""
    world = heard(BULLISH, replace(ACTING, regime_tier2_confidence=0.99))
    assert (world.state.regimes.tiers.tier, world.state.regimes.tiers.direction) == (1, BULLISH)
    return world


def tier2_long() -> World:
    """Return a world in mechanical tier 2, bullish."""
    world = heard(BULLISH)
    assert world.state.regimes.tiers.tier == 2
    return world


def applied(world: World, opinion: Opinion = LONG1, ttl: float | None = None) -> World:
    """Return the world with an override applied."""
    told(world, opinion)
    reply = world.command(c.AiRegimeOverride(ttl_sec=ttl))
    assert reply.is_accepted, reply.message
    return world


def in_effect(world: World) -> tuple[int, int | None]:
    """Return tier and direction in effect."""
    now = stance(world.state.regimes)
    return now.tier, now.direction


def hour_later(world: World, price: str) -> list[a.Action]:
    """Let an hour pass and the price become this; the models go on as before."""
    for _ in range(int(HORIZON_SEC / 300) - 1):
        world.timer(300)
        world.step(estimated(world.now, RANGING))
    world.advance(300)
    world.price(price)
    return world.timer(0)
