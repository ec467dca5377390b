"""The policy regime and its tiers: golden tables, every clock, and what must hold on any input."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain import TradeId
from core.params import Params, RegimeSource
from core.record import replace
from core.regime import BEARISH, BULLISH, RANGING, Estimate, Evidence
from core.tiers import Policy, Regimes, Suppression, Tiers
from regime_policy import (
    DWELL,
    NO_EVIDENCE,
    PRESENT,
    WEAK,
    against,
    consensus,
    depth_rank,
    distance_factor,
    evidence_word,
    hint,
    hold,
    policy,
    suppressed_side,
    suppression_after,
    suppression_times,
    wanted_tier,
)
from tests.regime_world import BOTH_PRESENT, depth, estimate

PARAMS = Params(hmm_enabled=True, regime_directional_enabled=True)
A, B = TradeId.A, TradeId.B
T0 = 1_700_000_000.0


def said(label: int, confidence: float = 0.9, bias: float | None = None, **more: object) -> Policy:
    """Return a policy regime; the bias fits the label unless given."""
    size = (label - RANGING) * confidence if bias is None else bias
    return Policy(label=label, confidence=confidence, bias=size, source="consensus", **more)


# ---- consensus ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("primary", "secondary", "expected"),
    [
        ((BULLISH, 0.42, 0.35), (BULLISH, 0.62, 0.51), ("full", BULLISH, 0.62, 0.462)),
        ((RANGING, 0.12, 0.0), (BULLISH, 0.55, 0.44), ("1m_cooling", BULLISH, 0.275, 0.22)),
        ((RANGING, 0.977, 0.011), (RANGING, 0.96, -0.019), ("full", RANGING, 0.977, -0.01)),
        ((BULLISH, 0.9, 0.8), (RANGING, 0.5, 0.1), ("15m_neutral", RANGING, 0.0, 0.0)),
        ((BEARISH, 0.9, -0.8), (RANGING, 0.5, 0.1), ("15m_neutral", RANGING, 0.0, 0.0)),
        ((RANGING, 0.5, 0.0), (BEARISH, 0.8, -0.6), ("1m_cooling", BEARISH, 0.4, -0.3)),
        ((BEARISH, 0.5, -0.4), (BEARISH, 0.3, -0.2), ("full", BEARISH, 0.5, -0.26)),
        ((BULLISH, 0.9, 0.8), (BEARISH, 0.9, -0.8), ("conflict", RANGING, 0.0, 0.0)),
        ((BEARISH, 0.9, -0.8), (BULLISH, 0.9, 0.8), ("conflict", RANGING, 0.0, 0.0)),
        # Below the confidence of tier 1 the label is ranging.
        ((RANGING, 0.5, 0.0), (BULLISH, 0.3, 0.3), ("1m_cooling", RANGING, 0.15, 0.15)),
        ((BULLISH, 0.19, 0.2), (BULLISH, 0.15, 0.2), ("full", RANGING, 0.19, 0.2)),
        ((BULLISH, 0.20, 0.2), (BULLISH, 0.15, 0.2), ("full", BULLISH, 0.20, 0.2)),
        # The first three cases: what there is of primary and secondary.
        ((None, 0.0, 0.0), (BULLISH, 0.9, 0.9), ("primary_untrained", RANGING, 0.0, 0.0)),
        ((BULLISH, 0.42, 0.35), (None, 0.0, 0.0), ("primary_only", BULLISH, 0.42, 0.35)),
        ((BULLISH, 0.42, 0.35), None, ("primary_only", BULLISH, 0.42, 0.35)),
        ((None, 0.0, 0.0), None, ("primary_untrained", RANGING, 0.0, 0.0)),
    ],
)
def test_consensus_table(
    primary: tuple[int | None, float, float],
    secondary: tuple[int | None, float, float] | None,
    expected: tuple[str, int, float, float],
) -> None:
    """Agreement, label, confidence and bias of the cases, golden values among them."""
    second = None if secondary is None else estimate(*secondary, interval_sec=900.0)
    made = consensus(estimate(*primary), second, PARAMS)
    assert (made.agreement, made.label) == expected[:2]
    assert (made.confidence, made.bias) == pytest.approx(expected[2:])
    assert made.tag == (None if primary[0] is None else made.label)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((0.3, 0.7), 0.462), ((3, 7), 0.462), ((0.0, 0.0), 0.462), ((1.0, 0.0), 0.35)],
)
def test_consensus_weights_are_normalised(weights: tuple[float, float], expected: float) -> None:
    """Only their ratio counts; both zero means the defaults."""
    params = replace(PARAMS, consensus_1m_weight=weights[0], consensus_15m_weight=weights[1])
    made = consensus(estimate(2, 0.42, 0.35), estimate(2, 0.62, 0.51), params)
    assert made.bias == pytest.approx(expected)


def test_consensus_goes_by_the_shallower_model() -> None:
    """The smaller modifier of the two counts, where both are heard."""
    deep, shallow = estimate(2, 0.5, 0.5, own=depth(2500, modifier=0.95)), depth(300, modifier=0.70)
    assert consensus(deep, estimate(2, 0.5, 0.5, own=shallow), PARAMS).modifier == 0.70
    assert consensus(deep, estimate(None, own=shallow), PARAMS).modifier == 0.95


# ---- one policy regime --------------------------------------------------------------------------


def test_policy_takes_the_source_that_is_set() -> None:
    """Consensus by default; the primary where it is set or there is no second timeframe."""
    primary, secondary = estimate(2, 0.42, 0.35), estimate(1, 0.9, 0.0, interval_sec=900.0)
    made = policy(primary, secondary, PARAMS)
    assert (made.source, made.agreement, made.label, made.tag) == ("consensus", "15m_neutral", 1, 1)
    for changes in (
        {"hmm_multi_timeframe_source": RegimeSource.PRIMARY},
        {"hmm_multi_timeframe_enabled": False},
    ):
        made = policy(primary, secondary, replace(PARAMS, **changes))
        assert (made.source, made.agreement, made.label) == ("primary", "primary_only", BULLISH)
        assert (made.confidence, made.bias, made.tag) == (0.42, 0.35, BULLISH)


def test_policy_confidence_that_decides_is_less_the_depth() -> None:
    """The raw value stays what the models say."""
    made = policy(estimate(2, 0.6, 0.5, own=depth(1200, modifier=0.85)), None, PARAMS)
    assert made.confidence == 0.6
    assert made.effective == pytest.approx(0.51)


@pytest.mark.parametrize(("word", "sign"), [(BULLISH, 1), (BEARISH, -1)])
def test_policy_manual_override_is_the_operators_word(word: int, sign: int) -> None:
    """Label, confidence and bias are the operator's; the tag stays that of the models."""
    params = replace(PARAMS, regime_manual_override=word, regime_manual_confidence=0.55)
    for primary, tag in ((None, None), (estimate(None), None), (estimate(1, 0.9, 0.0), RANGING)):
        made = policy(primary, None, params)
        assert (made.label, made.effective, made.bias) == (word, 0.55, sign * 0.55)
        assert (made.source, made.tag) == ("manual", tag)


def test_policy_of_nothing_is_unknown() -> None:
    """Without any word of the models: ranging, no confidence, no tag."""
    assert policy(None, None, PARAMS) == Policy()
    assert policy(estimate(None), None, PARAMS).tag is None


# ---- tiers: thresholds, hysteresis, gate --------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "confidence", "bias", "held", "expected"),
    [
        (BULLISH, 0.19, 0.9, 0, 0),
        (BULLISH, 0.20, 0.10, 0, 1),
        (BULLISH, 0.20, 0.09, 0, 0),
        (BULLISH, 0.49, 0.9, 0, 1),
        (BULLISH, 0.50, 0.25, 0, 2),
        (BULLISH, 0.50, 0.24, 0, 1),
        (BEARISH, 0.50, -0.25, 0, 2),
        (RANGING, 0.99, 0.99, 0, 0),
        # Hysteresis on the way down only, and above threshold − 0.05.
        (BULLISH, 0.46, 0.25, 2, 2),
        (BULLISH, 0.46, 0.25, 1, 1),
        (BULLISH, 0.45, 0.25, 2, 1),
        (BULLISH, 0.16, 0.10, 1, 1),
        (BULLISH, 0.16, 0.10, 2, 1),
        (BULLISH, 0.15, 0.10, 1, 0),
        # The gate beats it.
        (RANGING, 0.99, 0.99, 2, 0),
        (BULLISH, 0.60, 0.24, 2, 1),
        (BULLISH, 0.60, 0.09, 2, 0),
    ],
)
def test_tier_thresholds(
    label: int, confidence: float, bias: float, held: int, expected: int
) -> None:
    """The table of tiers at and beside each threshold."""
    assert wanted_tier(said(label, confidence, bias), PARAMS, held=held) == expected


def test_tier_takes_the_effective_confidence() -> None:
    """0.55 of a shallow model is 0.385: tier 1."""
    assert wanted_tier(said(BULLISH, 0.55, modifier=0.7), PARAMS, held=0) == 1
    assert wanted_tier(said(BULLISH, 0.55, modifier=0.95), PARAMS, held=0) == 2


def at(old: Tiers, label: int, now: float, confidence: float = 0.9, **more: object) -> Tiers:
    """Return the tiers after an evaluation that says so, with evidence for both directions."""
    return hold(old, said(label, confidence, **more), BOTH_PRESENT, PARAMS, T0 + now)


def test_dwell_keeps_the_first_tier_and_each_that_follows() -> None:
    """The daemon starts in tier 0 and stays for 300 s; so does each tier while its gate holds."""
    tiers = at(Tiers(since=T0), BULLISH, 299)
    assert (tiers.tier, tiers.by_confidence, tiers.held_by) == (0, 2, DWELL)
    tiers = at(tiers, BULLISH, 300)
    assert (tiers.tier, tiers.direction, tiers.since, tiers.held_by) == (2, BULLISH, T0 + 300, "")
    tiers = at(tiers, BULLISH, 599, 0.3, bias=0.3)
    assert (tiers.tier, tiers.by_confidence, hint(tiers)) == (
        2, 1, "1 by confidence, held at 2: dwell",
    )  # fmt: skip
    tiers = at(tiers, BULLISH, 600, 0.3, bias=0.3)
    assert (tiers.tier, tiers.held_by) == (1, "")


def test_the_gate_beats_dwell_and_hysteresis() -> None:
    """Ranging is tier 0 at once; a bias too small for tier 2 is tier 1 at once."""
    two = Tiers(tier=2, direction=BULLISH, since=T0)
    gone = at(two, RANGING, 1)
    assert (gone.tier, gone.direction, gone.since, gone.tier2_left_at) == (0, None, T0 + 1, T0 + 1)
    less = at(two, BULLISH, 1, bias=0.2)
    assert (less.tier, less.direction) == (1, BULLISH)
    # Within the dwell it falls no lower than the gate says, whatever the confidence.
    assert at(two, BULLISH, 1, 0.05, bias=0.2).tier == 1


def test_a_flip_of_direction_takes_effect_at_once() -> None:
    """No clock keeps a direction the models have turned against; no hysteresis carries over."""
    two = Tiers(tier=2, direction=BULLISH, since=T0)
    flipped = at(two, BEARISH, 1)
    assert (flipped.tier, flipped.direction, flipped.since) == (2, BEARISH, T0 + 1)
    assert flipped.tier2_left_at is None
    assert at(two, BEARISH, 1, 0.47).tier == 1
    # In the dwell it may not rise either.
    assert at(Tiers(tier=1, direction=BULLISH, since=T0), BEARISH, 1).tier == 1
    assert at(Tiers(tier=1, direction=BULLISH, since=T0), BEARISH, 301).tier == 2


def test_cooldown_keeps_tier_2_from_being_entered_again() -> None:
    """600 s after it was left; tier 1 may be entered meanwhile."""
    tiers = at(Tiers(tier=2, direction=BULLISH, since=T0), RANGING, 100)
    tiers = at(tiers, BULLISH, 400)
    assert (tiers.tier, hint(tiers)) == (1, "2 by confidence, held at 1: cooldown")
    tiers = at(tiers, BULLISH, 699)
    assert tiers.tier == 1
    tiers = at(tiers, BULLISH, 700)
    assert (tiers.tier, tiers.held_by) == (2, "")


@pytest.mark.parametrize(
    ("rows", "t", "word"),
    [
        (900, 2.3, PRESENT), (900, 2.29, WEAK), (900, -5.0, WEAK), (200, 2.3, PRESENT),
        (199, 9.0, NO_EVIDENCE), (900, None, NO_EVIDENCE),
    ],
)  # fmt: skip
def test_evidence_has_three_words(rows: int, t: float | None, word: str) -> None:
    """At least 200 rows and t ≥ 2.3 in the label's direction."""
    known = (Evidence(label=BULLISH, rows=rows, mean=0.0, t=t),)
    assert evidence_word(BULLISH, known, PARAMS) == word
    assert evidence_word(BEARISH, known, PARAMS) == NO_EVIDENCE
    held = hold(Tiers(), said(BULLISH), known, PARAMS, T0)
    assert held.by_confidence == 2
    assert held.tier == (2 if word == PRESENT else 0)
    if word == NO_EVIDENCE:
        assert hint(held) == "2 by confidence, held at 0: no evidence"


def test_evidence_gate_passes_the_operators_word_and_may_be_off() -> None:
    """A manual override needs no statistics; REGIME_EVIDENCE_GATE=false restores the plain gate."""
    assert hold(Tiers(), said(BULLISH), (), PARAMS, T0).tier == 0
    off = replace(PARAMS, regime_evidence_gate=False)
    assert hold(Tiers(), said(BULLISH), (), off, T0).tier == 2
    manual = policy(None, None, replace(PARAMS, regime_manual_override=BEARISH))
    assert hold(Tiers(), manual, (), PARAMS, T0).tier == 2


def test_evidence_that_is_lost_ends_the_tier_at_once() -> None:
    """As ranging does: neither dwell nor hysteresis keeps a tier without evidence."""
    two = Tiers(tier=2, direction=BULLISH, since=T0)
    assert hold(two, said(BULLISH), (), PARAMS, T0 + 1).tier == 0


# ---- distances ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tier", "direction", "bias", "a", "b"),
    [
        (0, None, 0.9, "1", "1"),
        (1, BULLISH, 0.4, "1.2000", "0.8800"),
        (2, BEARISH, -0.4, "0.8800", "1.2000"),
        (2, BULLISH, 1.0, "1.5000", "0.7000"),
        (1, BULLISH, 7.0, "1.5000", "0.7000"),
        (1, BULLISH, 0.12345, "1.0617", "0.9630"),
    ],
)
def test_distance_factor(tier: int, direction: int | None, bias: float, a: str, b: str) -> None:
    """Wider against the trend, nearer with it, on a fixed grid of decimals; 1 in shadow."""
    regimes = Regimes(policy=said(1, 0.9, bias), tiers=Tiers(tier=tier, direction=direction))
    assert distance_factor(regimes, A, PARAMS) == Decimal(a)
    assert distance_factor(regimes, B, PARAMS) == Decimal(b)
    shadow = replace(PARAMS, regime_directional_enabled=False)
    assert distance_factor(regimes, A, shadow) == distance_factor(regimes, B, shadow) == 1


def test_against_the_trend_is_the_side_that_fights_it() -> None:
    """Sells in a bullish market, buys in a bearish one."""
    assert (against(BULLISH), against(BEARISH), against(None)) == (A, B, None)


# ---- suppression --------------------------------------------------------------------------------


def run(held: Suppression, plan: list[tuple[float, TradeId | None]]) -> list[TradeId | None]:
    """Return whose entries are withheld after each step."""
    shown = []
    for now, side in plan:
        held = suppression_after(held, side, PARAMS, T0 + now)
        shown.append(suppressed_side(Regimes(suppression=held), PARAMS))
    return shown


def test_suppression_waits_for_the_grace_again_after_a_flip() -> None:
    """60 s before the first withdrawal; a flip inside tier 2 has a grace of its own."""
    plan = [(0, A), (59, A), (60, A), (100, B), (159, B), (160, B), (161, None), (162, A), (222, A)]
    assert run(Suppression(), plan) == [None, None, A, None, None, B, None, None, A]


def test_suppression_releases_a_side_for_the_same_span() -> None:
    """After 1800 s free for 1800 s, then withheld again, without another grace."""
    plan = [(0, A), (60, A), (1859, A), (1860, A), (3659, A), (3660, A), (5459, A), (5460, A)]
    assert run(Suppression(), plan) == [None, A, A, None, None, A, A, None]


def test_a_release_holds_through_a_flip() -> None:
    """A side released for too long a suppression stays free, whatever the other does meanwhile."""
    plan = [(0, A), (60, A), (1860, A), (1900, B), (1960, B), (2000, A), (2100, A), (3659, A)]
    assert run(Suppression(), plan) == [None, A, None, None, B, None, None, None]
    held = Suppression(side=A, begins_at=0.0, released=A, released_until=T0 + 10)
    assert run(held, [(9, A), (10, A)]) == [None, A]


def test_suppression_in_shadow_withholds_nothing() -> None:
    """It is computed and shown; the one question that acts is answered with nobody."""
    held = Regimes(suppression=Suppression(side=A, since=T0))
    assert suppressed_side(held, PARAMS) is A
    assert suppressed_side(held, replace(PARAMS, regime_directional_enabled=False)) is None


@pytest.mark.parametrize(
    ("candidates", "target", "least", "rank"),
    [
        (999, 4000, 500, 0), (1000, 4000, 500, 1), (2499, 4000, 500, 1), (2500, 4000, 500, 2),
        (3999, 4000, 500, 2), (4000, 4000, 500, 3), (499, 720, 500, 0), (500, 720, 500, 2),
        (720, 720, 500, 3), (1440, 1440, 200, 3), (360, 1440, 200, 1), (900, 1440, 200, 2),
    ],
)  # fmt: skip
def test_depth_ranks(candidates: int, target: int, least: int, rank: int) -> None:
    """Shallow, baseline, deep, full; the roll-back target of 720 included."""
    assert depth_rank(candidates, target=target, least=least) == rank


# ---- what holds on any input --------------------------------------------------------------------

finite = st.floats(-1e6, 1e6, allow_nan=False)
labels = st.sampled_from([None, BEARISH, RANGING, BULLISH])
estimates = st.builds(
    estimate, labels, finite, finite,
    own=st.sampled_from([depth(), depth(1200, modifier=0.85), depth(10, modifier=0.70)]),
)  # fmt: skip
weights = st.floats(0, 1)
any_params = st.builds(
    lambda w1, w15, dampen, manual, source, gate: replace(
        PARAMS, consensus_1m_weight=w1, consensus_15m_weight=w15, consensus_dampen_factor=dampen,
        regime_manual_override=manual, hmm_multi_timeframe_source=source, regime_evidence_gate=gate,
    ),
    weights, weights, weights, st.sampled_from([None, BEARISH, BULLISH]),
    st.sampled_from(RegimeSource), st.booleans(),
)  # fmt: skip
evidences = st.lists(
    st.builds(
        Evidence, label=st.sampled_from([0, 2]), rows=st.integers(0, 500), mean=finite,
        t=st.none() | finite,
    ),
    max_size=3,
)  # fmt: skip
evaluations = st.lists(
    st.tuples(estimates, st.none() | estimates, evidences, st.floats(0, 2000)), max_size=40
)


@given(estimates, st.none() | estimates, any_params)
@settings(deadline=None)
def test_policy_is_total(primary: Estimate, secondary: Estimate | None, params: Params) -> None:
    """Any finite estimates give a label, and a tag unless the primary has none."""
    made = policy(primary, secondary, params)
    assert made.label in (BEARISH, RANGING, BULLISH)
    assert (made.tag is None) == (primary.regime is None)
    assert made.bias == made.bias
    assert wanted_tier(made, params, held=2) >= wanted_tier(made, params, held=0)


@given(evaluations, any_params)
@settings(max_examples=200, deadline=None)
def test_any_evaluations_keep_the_promises(
    plan: list[tuple[Estimate, Estimate | None, list[Evidence], float]], params: Params
) -> None:
    """Ranging is tier 0, both sides are never withheld, and no side is withheld for too long."""
    tiers, held, now = Tiers(since=T0), Suppression(), T0
    withheld_since: dict[TradeId, float] = {}
    for primary, secondary, evidence, wait in plan:
        now += wait
        made = policy(primary, secondary, params)
        old, tiers = tiers, hold(tiers, made, evidence, params, now)
        assert tiers.tier in (0, 1, 2)
        assert (tiers.direction is None) == (tiers.tier == 0)
        if made.label == RANGING:
            assert tiers.tier == 0
        if tiers.tier:
            assert tiers.direction == made.label
        if tiers.tier == 2 and old.tier < 2:
            assert old.tier2_left_at is None or now - old.tier2_left_at >= 600
        side = against(tiers.direction) if tiers.tier == 2 else None
        before, held = held, suppression_after(held, side, params, now)
        shown = suppressed_side(Regimes(suppression=held), params)
        assert shown in (None, side)
        assert shown is None or shown is not held.released
        if before.released is not None and now < (before.released_until or 0.0):
            assert held.released is before.released or held.released is side
            assert shown is not before.released
        for leg in (A, B):
            if leg is not shown:
                withheld_since.pop(leg, None)
        if shown is not None:
            since = withheld_since.setdefault(shown, now)
            assert now - since < 1800
            assert any(t <= since + 1800 for t in suppression_times(held, params))
