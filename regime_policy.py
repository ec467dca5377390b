"""The policy regime and its tiers: what follows from what the models say. All pure, no numpy.

The models propose, this decides: agreement of two timeframes, the tier that confidence, bias and
evidence allow, and whose entries it withholds. `grid/regimes.py` applies it to the state; nothing
here acts while `regime_directional_enabled` is false.
"""

from collections.abc import Iterable, Iterator
from decimal import Decimal

from core.domain import ONE, TradeId
from core.params import Params, RegimeSource
from core.record import Record, replace
from core.regime import BEARISH, BULLISH, RANGING, Estimate, Evidence
from core.tiers import Policy, Regimes, Stance, Suppression, Tiers

DEFAULT_WEIGHTS = (0.3, 0.7)
FACTOR_STEP = Decimal("0.0001")  # a distance factor is rounded to this where it enters money
AGAINST_GAIN, WITH_GAIN, WITH_LEAST = 0.5, 0.3, 0.6
EVIDENCE_ROWS_MIN = 200
NO_EVIDENCE, WEAK, PRESENT = "no evidence", "weak", "present"
DWELL, COOLDOWN, START = "dwell", "cooldown", "a start begins in tier 0"
DEPTHS = ("shallow", "baseline", "deep", "full")
DEEP_SHARE, BASELINE_SHARE = 0.625, 0.25


# ---- the policy regime ------------------------------------------------------------------------


class Consensus(Record, frozen=True, kw_only=True, gc=False):
    """What the two timeframes say together; `tag` is the label, None while it is unknown."""

    agreement: str
    label: int
    confidence: float
    bias: float
    modifier: float
    tag: int | None


def consensus(primary: Estimate | None, secondary: Estimate | None, params: Params) -> Consensus:
    """Return what the two timeframes say together (the cases in the order of the specification).

    The label comes from the labels, never from the sign of the bias; below the confidence of tier 1
    it is ranging. Total on any finite estimates.
    """
    if primary is None or primary.regime is None:
        return Consensus(
            agreement="primary_untrained", label=RANGING, confidence=0.0, bias=0.0,
            modifier=1.0 if primary is None else primary.depth.modifier, tag=None,
        )  # fmt: skip
    modifier = primary.depth.modifier
    if secondary is None or secondary.regime is None:
        agreement, label = "primary_only", primary.regime
        confidence, bias = primary.confidence, primary.bias
    else:
        modifier = min(modifier, secondary.depth.modifier)
        labels = primary.regime, secondary.regime
        agreement, label, confidence, bias = _both(labels, primary, secondary, params)
    if confidence < params.regime_tier1_confidence:
        label = RANGING
    return Consensus(
        agreement=agreement, label=label, confidence=confidence, bias=bias, modifier=modifier,
        tag=label,
    )  # fmt: skip


def _both(
    labels: tuple[int, int], primary: Estimate, secondary: Estimate, params: Params
) -> tuple[str, int, float, float]:
    """Return agreement, label, confidence and bias of two timeframes that both have a label."""
    fast, slow = labels
    if fast == slow:
        w1, w15 = weights(params)
        bias = w1 * primary.bias + w15 * secondary.bias
        return "full", slow, max(primary.confidence, secondary.confidence), bias
    if slow == RANGING:
        return "15m_neutral", RANGING, 0.0, 0.0
    if fast == RANGING:
        dampen = params.consensus_dampen_factor
        return "1m_cooling", slow, secondary.confidence * dampen, secondary.bias * dampen
    return "conflict", RANGING, 0.0, 0.0


def weights(params: Params) -> tuple[float, float]:
    """Return what the biases of the two timeframes weigh where both agree; they add up to 1."""
    w1, w15 = params.consensus_1m_weight, params.consensus_15m_weight
    if w1 + w15 <= 0:
        w1, w15 = DEFAULT_WEIGHTS
    return w1 / (w1 + w15), w15 / (w1 + w15)


def policy(primary: Estimate | None, secondary: Estimate | None, params: Params) -> Policy:
    """Return the policy regime: the one function that yields it, for every consumer.

    Both estimates as they were heard; which of them count is decided here. The operator's own word
    (`regime_manual_override`) decides label, confidence and bias, never the tag.
    """
    is_consensus = params.hmm_multi_timeframe_source is RegimeSource.CONSENSUS
    second = secondary if is_consensus and params.hmm_multi_timeframe_enabled else None
    said = consensus(primary, second, params)
    source = "primary" if second is None else "consensus"
    if primary is None:
        source = "none"
    manual = params.regime_manual_override
    if manual is not None:
        confidence = params.regime_manual_confidence
        return Policy(
            label=manual, confidence=confidence, bias=_signed(manual, confidence), modifier=1.0,
            source="manual", agreement=said.agreement, tag=said.tag,
        )  # fmt: skip
    return Policy(
        label=said.label, confidence=said.confidence, bias=said.bias, modifier=said.modifier,
        source=source, agreement=said.agreement, tag=said.tag,
    )  # fmt: skip


def _signed(label: int, size: float) -> float:
    return {BEARISH: -size, BULLISH: size}.get(label, 0.0)


# ---- evidence ---------------------------------------------------------------------------------


def evidence_of(label: int, evidence: Iterable[Evidence]) -> Evidence | None:
    """Return what is known of the label, or None."""
    return next((x for x in evidence if x.label == label), None)


def evidence_word(label: int, evidence: Iterable[Evidence], params: Params) -> str:
    """Return "no evidence", "weak" or "present": whether the market has followed the label."""
    known = evidence_of(label, evidence)
    if known is None or known.t is None or known.rows < EVIDENCE_ROWS_MIN:
        return NO_EVIDENCE
    return PRESENT if known.t >= params.regime_evidence_t else WEAK


# ---- tiers ------------------------------------------------------------------------------------


def wanted_tier(said: Policy, params: Params, *, held: int) -> int:
    """Return the tier that confidence and bias call for, where `held` in this direction holds.

    The gate comes first: ranging is tier 0, whatever holds. On the way down a tier stays while
    confidence is above its threshold less the hysteresis and its gate holds.
    """
    for tier in range(_gate(said, params), 0, -1):
        threshold = _confidence_of(tier, params)
        stays = tier <= held and said.effective > threshold - params.regime_hysteresis
        if said.effective >= threshold or stays:
            return tier
    return 0


def _confidence_of(tier: int, params: Params) -> float:
    return params.regime_tier1_confidence if tier == 1 else params.regime_tier2_confidence


def _gate(said: Policy, params: Params) -> int:
    """Return the highest tier whose gate holds: a direction, and a bias of that size."""
    if said.label not in (BEARISH, BULLISH):
        return 0
    size = abs(said.bias)
    return 2 if size >= params.regime_tier2_bias else 1 if size >= params.regime_tier1_bias else 0


def hold(
    old: Tiers, said: Policy, evidence: Iterable[Evidence], params: Params, now: float
) -> Tiers:
    """Return the tiers after an evaluation at `now`.

    Gate and evidence hold at once and beat every clock; a change within them waits for the dwell,
    and tier 2 for its cooldown. A flip of direction takes effect at once.
    """
    direction = said.label if said.label in (BEARISH, BULLISH) else None
    is_flip = old.tier > 0 and direction != old.direction
    wanted = wanted_tier(said, params, held=0 if is_flip else old.tier)
    ceiling, held_by = _gate(said, params), ""
    if ceiling and said.source != "manual" and params.regime_evidence_gate:
        word = evidence_word(said.label, evidence, params)
        if word != PRESENT:
            ceiling, held_by = 0, word if word == NO_EVIDENCE else f"{word} evidence"
    tier = min(wanted, ceiling)
    left = old.tier2_left_at
    is_resting = left is not None and now - left < params.regime_tier2_cooldown_sec
    if tier == 2 and old.tier < 2 and is_resting:
        tier, held_by = 1, COOLDOWN
    if now - old.since < params.regime_min_dwell_sec:
        kept = min(old.tier, ceiling, tier) if is_flip else min(old.tier, ceiling)
        tier, held_by = kept, held_by if kept == tier else DWELL
    changed = (tier, direction if tier else None) != (old.tier, old.direction)
    return Tiers(
        tier=tier,
        direction=direction if tier else None,
        since=now if changed else old.since,
        by_confidence=wanted,
        held_by=held_by if tier != wanted else "",
        tier2_left_at=now if old.tier == 2 and tier < 2 else left,
    )


def stance(regimes: Regimes) -> Stance:
    """Return the tier and direction in effect: everything that acts asks this function.

    They are the mechanical ones, or those of the operator's override, at most one tier away from
    them however they have moved since. Its rails, and when it ends: `grid/advice.py`.
    """
    own, held = regimes.tiers, regimes.override
    if held is None or held.blocked:
        return Stance(tier=own.tier, direction=own.direction)
    tier = composed(own, held.tier, held.direction)
    direction = own.direction if held.direction is None else held.direction
    return Stance(tier=tier, direction=direction) if tier and direction is not None else Stance()


def composed(own: Tiers, wanted: int, direction: int | None) -> int:
    """Return `wanted` at a distance of at most one tier from the mechanical tier.

    Against the mechanical direction it is tier 1 at most: from withholding one side to withholding
    the other is farther than any tier.
    """
    is_against = None not in (direction, own.direction) and direction != own.direction
    return max(0, own.tier - 1, min(1 if is_against else 2, own.tier + 1, wanted))


def against(direction: int | None) -> TradeId | None:
    """Return the leg whose entries are against the trend: sells of A in a bullish one."""
    return None if direction is None else {BULLISH: TradeId.A, BEARISH: TradeId.B}.get(direction)


def distance_factor(regimes: Regimes, trade_id: TradeId, params: Params) -> Decimal:
    """Return the factor on the leg's entry distance: the one door from models to money.

    Against the trend 1 + 0.5·|bias|, with it max(0.6, 1 − 0.3·|bias|), rounded half even to
    FACTOR_STEP; 1 in tier 0 and while nothing is to act.
    """
    now = stance(regimes)
    side = against(now.direction)
    if not params.regime_directional_enabled or now.tier == 0 or side is None:
        return ONE
    size = min(1.0, abs(regimes.policy.bias))
    factor = 1 + AGAINST_GAIN * size if trade_id is side else max(WITH_LEAST, 1 - WITH_GAIN * size)
    return Decimal(factor).quantize(FACTOR_STEP)


def hint(tiers: Tiers) -> str:
    """Return both tiers in words: "2 by confidence, held at 0: no evidence"."""
    text = f"{tiers.by_confidence} by confidence"
    return f"{text}, held at {tiers.tier}: {tiers.held_by}" if tiers.held_by else text


# ---- suppression ------------------------------------------------------------------------------


def suppression_after(
    old: Suppression, side: TradeId | None, params: Params, now: float
) -> Suppression:
    """Return the suppression at `now`, where tier 2 speaks against the entries of `side`.

    Withheld after the grace; released after the longest suppression for the same span, and withheld
    again after that. A release holds though the direction turns meanwhile.
    """
    made = old
    if made.released_until is not None and now >= made.released_until:
        made = replace(made, released=None, released_until=None)
    if side is not made.side:
        begins_at = None if side is None else now + params.regime_suppression_grace_sec
        made = replace(made, side=side, begins_at=begins_at, since=None)
    if side is None or side is made.released:
        return made
    if made.since is None:
        return replace(made, since=now) if now >= (made.begins_at or now) else made
    if now < made.since + params.regime_max_suppression_sec:
        return made
    until = now + params.regime_max_suppression_sec
    return replace(made, since=None, released=side, released_until=until)


def suppression_times(held: Suppression, params: Params) -> Iterator[float]:
    """Yield the times at which `suppression_after` may next change something by itself."""
    if held.since is not None:
        yield held.since + params.regime_max_suppression_sec
    elif held.side is not None and held.begins_at is not None and held.side is not held.released:
        yield held.begins_at
    if held.released_until is not None:
        yield held.released_until


def suppressed_side(regimes: Regimes, params: Params) -> TradeId | None:
    """Return the leg whose entries are withheld now, or None."""
    held = regimes.suppression
    is_acting = params.regime_directional_enabled and held.since is not None
    return held.side if is_acting else None


# ---- training depth ---------------------------------------------------------------------------


def depth_rank(candles: int, *, target: int, least: int) -> int:
    """Return how deep a training on so many candles is, as an index into DEPTHS."""
    if candles >= target:
        return 3
    if candles >= max(least, DEEP_SHARE * target):
        return 2
    return 1 if candles >= max(least, BASELINE_SHARE * target) else 0
