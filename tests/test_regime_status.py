"""The regime blocks of the status: what is sent when on, off, untrained, stale, in shadow."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain import TradeId
from core.params import Params
from core.record import replace
from core.regime import BEARISH, BULLISH, RANGING, Depth, Estimate, Evidence
from core.regime_status import PipelineBlock, TrainerBlock
from core.state import BotState
from core.status import Status
from core.tiers import Regimes, Sample, Suppression, Tiers, Training
from engine.regime_view import RegimeFacts
from engine.status_view import build_status
from regime_policy import policy
from tests.regime_world import depth, estimate, model
from tests.test_status import NOW, sample_facts, sample_state

GOLDEN = Path(__file__).parent / "golden" / "status_regimes.json"
PARAMS = Params(hmm_enabled=True, regime_directional_enabled=True)
PIPELINE = PipelineBlock(
    enabled=True, interval_sec=60.0, samples=1200, target=4000, coverage=0.297,
    newest_age_sec=42.0, freshness_limit_sec=180.0, volume_coverage=0.98, is_ready=True,
    is_fresh=True, gaps=("2025-10-10 04:10 to 04:31: 21 bars are missing",), filled_bars=3,
    sequences=2, ema_restarts=0, last_sync=NOW - 30.0, sources={"store": 480, "kraken": 720},
    minimum=500, gap_count=1, refused=0, errors=1, trouble="candles were not told: <b>html</b>",
)  # fmt: skip
TRAINER = TrainerBlock(
    is_running=True, submitted=3, trained=2, failed=1, started=2, died=1, hung=0, garbled=0,
    last_sec=0.31, last_error="the worker died (signal 9)",
)  # fmt: skip
MATRIX = ((0.95, 0.04, 0.01), (0.03, 0.94, 0.03), (0.01, 0.05, 0.94))


def primary() -> Estimate:
    """Return what the primary of the sample says: bullish, from a model of 1,200 candles."""
    own = Depth(
        candles=1200, target=4000, tier="baseline", modifier=0.85, full_at=NOW + 2800 * 60.0
    )
    return replace(
        estimate(BULLISH, 0.71, 0.64, own=own),
        probabilities=(0.05, 0.12, 0.83), entropy=0.4812, leaving=0.06, candle_time=NOW - 42.0,
    )  # fmt: skip


def sample_regimes() -> Regimes:
    """Return regimes in tier 2, bullish, with sell entries withheld."""
    second = estimate(BULLISH, 0.62, 0.51, interval_sec=900.0, own=depth(1440, 1440, modifier=1.00))
    return Regimes(
        estimate_due=NOW + 240.0,
        asked_at=NOW - 60.0,
        heard_at=NOW - 60.0,
        primary=primary(),
        secondary=second,
        evidence=(
            Evidence(label=BEARISH, rows=140, mean=None, t=None),
            Evidence(label=BULLISH, rows=860, mean=0.0021, t=2.61),
        ),
        horizon_sec=14_400.0,
        policy=policy(primary(), second, PARAMS),
        tiers=Tiers(
            tier=2, direction=BULLISH, since=NOW - 360.0, by_confidence=2,
            tier2_left_at=NOW - 9_000.0,
        ),
        suppression=Suppression(side=TradeId.A, begins_at=NOW - 300.0, since=NOW - 300.0),
        history=tuple(
            Sample(ts=NOW - 60.0 - 300.0 * n, regime=label, conf=conf)
            for n, label, conf in ((2, RANGING, 0.31), (1, BULLISH, 0.55), (0, BULLISH, 0.71))
        ),
        trainings=(
            Training(
                interval_sec=60.0, model=model(until=NOW - 7200.0, candles=1200),
                trained_at=NOW - 7200.0, reason="there are candles for a baseline model",
                candles=1200,
            ),
            Training(
                interval_sec=900.0, requested_at=NOW - 20.0, reason="there is no model",
                candles=1440, failures=1, error="constant prices",
            ),
        ),
    )  # fmt: skip


def shown(
    regimes: Regimes | None = None, params: Params = PARAMS, facts: RegimeFacts | None = None
) -> dict[str, Any]:
    """Return the status as it is sent."""
    state = replace(sample_state(), regimes=sample_regimes() if regimes is None else regimes)
    own = replace(sample_facts(), regimes=facts or RegimeFacts())
    body = msgspec.json.encode(build_status(state, params, own))
    assert msgspec.json.encode(msgspec.json.decode(body, type=Status)) == body
    plain: dict[str, Any] = json.loads(body)
    return plain


def test_regime_status_golden() -> None:
    """The status with regimes is the golden file; WRITE_GOLDEN=1 rewrites it."""
    facts = RegimeFacts(transmat=MATRIX, pipeline=PIPELINE, trainer=TRAINER)
    made = shown(facts=facts)
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_what_is_off_says_only_so() -> None:
    """Without models every block is off, and the history is empty."""
    made = shown(Regimes(), Params())
    for name in (
        "hmm_regime", "hmm_consensus", "hmm_data_pipeline", "hmm_data_pipeline_secondary",
        "regime_directional",
    ):  # fmt: skip
        assert made[name] == {"enabled": False}, name
    assert made["regime_history_30m"] == []
    one = replace(PARAMS, hmm_multi_timeframe_enabled=False)
    assert shown(params=one)["hmm_consensus"] == {"enabled": False}


def test_the_training_depth_is_told_as_it_is_specified() -> None:
    """Candles, target, tier, modifier, percent and when it will be full, null when it is."""
    made = shown()["hmm_regime"]
    assert made["training_depth"] == {
        "current_candles": 1200, "target_candles": 4000, "quality_tier": "baseline",
        "confidence_modifier": 0.85, "pct_complete": 30.0,
        "estimated_full_at": "2025-10-13T07:33:20Z",
    }  # fmt: skip
    assert made["training_depth_secondary"]["estimated_full_at"] is None
    assert (made["confidence"], made["confidence_effective"]) == (0.71, 0.6035)


def test_untrained_is_ranging_and_stale_is_nothing() -> None:
    """Neither has confidence; both say why."""
    made = shown(Regimes())["hmm_regime"]
    assert (made["regime"], made["why"]) == ("ranging", "the models have not been heard of yet")
    new = replace(primary(), is_trained=False, regime=None, why="480 of 500 candles")
    made = shown(replace(sample_regimes(), primary=new))["hmm_regime"]
    assert (made["regime"], made["confidence"], made["bias"]) == ("ranging", 0.0, 0.0)
    assert (made["probabilities"], made["model"]) == (None, None)
    assert made["why"] == "480 of 500 candles"
    old = replace(primary(), regime=None, why="the newest candle is 400 s old")
    made = shown(replace(sample_regimes(), primary=old))["hmm_regime"]
    assert (made["regime"], made["confidence"]) == (None, 0.0)
    assert made["why"] == "the newest candle is 400 s old"


def test_both_tiers_are_always_shown() -> None:
    """By confidence, mechanical and in effect, with why they differ."""
    held = replace(sample_regimes(), tiers=Tiers(by_confidence=2, held_by="no evidence", since=NOW))
    made = shown(held)["regime_directional"]
    assert (made["tier_by_confidence"], made["tier_mechanical"], made["tier_effective"]) == (
        2,
        0,
        0,
    )
    assert made["hint"] == "2 by confidence, held at 0: no evidence"
    assert (made["direction"], made["tier_name"]) == ("symmetric", "symmetric")
    assert made["dwell_until"] == NOW + 300.0
    assert [x["word"] for x in made["evidence"]] == ["no evidence", "present"]


def test_shadow_shows_what_would_act() -> None:
    """Not enabled, in shadow; factors and suppression as they would be."""
    shadow = replace(PARAMS, regime_directional_enabled=False)
    made, acting = (shown(params=x)["regime_directional"] for x in (shadow, PARAMS))
    assert (made["enabled"], made["shadow"]) == (False, True)
    assert (acting["enabled"], acting["shadow"]) == (True, False)
    assert made["sell_entry_factor"] == acting["sell_entry_factor"] == "1.2745"
    assert made["suppression"] == {**acting["suppression"], "is_acting": False}
    assert acting["suppression"]["side"] == "sell"
    assert acting["suppression"]["until"] == NOW + 1500.0


def test_the_operators_word_is_named() -> None:
    """Also where no model runs."""
    params = Params(regime_manual_override=BEARISH)
    said = policy(None, None, params)
    made = shown(Regimes(policy=said), params)["regime_directional"]
    assert (made["manual_override"], made["source"], made["regime"]) == (
        "bearish", "manual", "bearish",
    )  # fmt: skip
    assert made["hint"].endswith(", by your own word")


def test_clocks_that_do_not_run_are_null() -> None:
    """Dwell, grace and cooldown only while they last; a release is told with its end."""
    made = shown()["regime_directional"]
    assert (made["dwell_until"], made["grace_until"], made["cooldown_until"]) == (None, None, None)
    held = Suppression(
        side=TradeId.A, begins_at=NOW + 30.0, released=TradeId.B, released_until=NOW + 900.0
    )
    left = Tiers(tier=1, direction=BULLISH, since=NOW - 10.0, tier2_left_at=NOW - 100.0)
    made = shown(replace(sample_regimes(), suppression=held, tiers=left))["regime_directional"]
    assert (made["dwell_until"], made["grace_until"], made["cooldown_until"]) == (
        NOW + 290.0, NOW + 30.0, NOW + 500.0,
    )  # fmt: skip
    assert made["suppression"]["side"] is None
    assert made["suppression"]["released_side"] == "buy"


def test_texts_of_models_are_harmless() -> None:
    """What a training or a file says is shown as text, without control characters."""
    bad = "no\x1b[31m\u202ee"
    pipeline = replace(PIPELINE, gaps=(bad,))
    trainings = (Training(interval_sec=60.0, error=bad, reason=bad),)
    regimes = replace(sample_regimes(), primary=replace(primary(), why=bad), trainings=trainings)
    text = json.dumps(shown(regimes, facts=RegimeFacts(pipeline=pipeline)), ensure_ascii=False)
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_regimes_take_little_of_the_status() -> None:
    """With both timeframes and the longest history: 8 KiB of the 64 that there are for 30 slots."""
    samples = tuple(Sample(ts=NOW - 30.0 * n, regime=BULLISH, conf=0.1234) for n in range(61))
    facts = RegimeFacts(
        transmat=MATRIX, transmat_secondary=MATRIX, pipeline=PIPELINE, pipeline_secondary=PIPELINE
    )
    made = shown(replace(sample_regimes(), history=samples), facts=facts)
    blocks = {name: x for name, x in made.items() if name.startswith(("hmm", "regime"))}
    assert len(json.dumps(blocks, separators=(",", ":"))) <= 8 * 1024


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(numbers, numbers, st.sampled_from([None, 0, 1, 2]), numbers)
@settings(max_examples=60, deadline=None)
def test_the_status_is_total(confidence: float, bias: float, regime: int | None, at: float) -> None:
    """Whatever number a model comes up with, what is sent is valid and readable."""
    own = Depth(candles=0, target=0, tier="shallow", modifier=0.7, full_at=at)
    said = replace(estimate(regime, confidence, bias, own=own), candle_time=at, entropy=bias)
    known = (Evidence(label=BULLISH, rows=300, mean=bias, t=confidence),)
    regimes = Regimes(primary=said, evidence=known, policy=policy(said, said, PARAMS))
    made = shown(regimes)
    assert made["hmm_regime"]["enabled"] is True
    assert BotState().regimes == Regimes()
