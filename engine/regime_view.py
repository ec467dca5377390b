"""The regime blocks of the status, from the state and what the shell knows of models and candles.

Pure, and total on any valid state; numbers are rounded here for reading. The contract is
`core/regime_status.py`; the rest of the status is in `engine/status_view.py`.
"""

import math
from datetime import UTC, datetime

import core.regime_status as s
from core.advice import direction_of
from core.domain import TradeId
from core.params import Params
from core.plain_text import clean_text
from core.record import Record, plain, replace
from core.regime import BULLISH, LABELS, RANGING, Depth, Estimate, Evidence, ModelRef
from core.state import BotState
from core.tiers import Regimes, Training
from grid.regimes import is_on, training_of
from regime_policy import (
    EVIDENCE_ROWS_MIN,
    consensus,
    distance_factor,
    evidence_of,
    evidence_word,
    hint,
    stance,
    weights,
)

TIER_NAMES = ("symmetric", "biased", "directional")
SIDES = {TradeId.A: "sell", TradeId.B: "buy"}
_NOT_HEARD = "the models have not been heard of yet"
Matrix = tuple[tuple[float, ...], ...]


class RegimeFacts(Record, frozen=True, kw_only=True):
    """What the shell knows of models and candles, and the state does not.

    Transition matrices are in label order, None while untrained; pipelines None while off.
    """

    transmat: Matrix | None = None
    transmat_secondary: Matrix | None = None
    pipeline: s.PipelineBlock | None = None
    pipeline_secondary: s.PipelineBlock | None = None
    trainer: s.TrainerBlock | None = None


def _number(value: float, decimals: int = 4) -> float:
    return round(value, decimals) if math.isfinite(value) else 0.0


def _maybe(value: float | None, decimals: int = 4) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, decimals)


def _label(regime: int | None) -> str | None:
    return LABELS[regime] if regime in (0, 1, 2) else None


# ---- what the models say ------------------------------------------------------------------------


def hmm_block(state: BotState, params: Params, facts: RegimeFacts) -> s.HmmBlock:
    """Return what the primary model says, and the secondary in full."""
    if not params.hmm_enabled:
        return s.HmmBlock(enabled=False)
    regimes = state.regimes
    second = regimes.secondary
    secondary = None if second is None else _timeframe(state, second, facts.transmat_secondary)
    block = s.HmmBlock(
        enabled=True, is_trained=False, regime=LABELS[RANGING], why=_NOT_HEARD, confidence=0.0,
        confidence_effective=0.0, bias=0.0, probabilities=None, entropy=None, leaving=None,
        interval_sec=None, candle_time=None, heard_at=_maybe(regimes.heard_at, 3),
        training_depth=None,
        training_depth_secondary=None if secondary is None else secondary.training_depth,
        model=None, training=None, transmat=None, secondary=secondary,
        trainer=_trainer(facts.trainer),
    )  # fmt: skip
    if regimes.primary is None:
        return block
    own = _timeframe(state, regimes.primary, facts.transmat)
    shown = {name: getattr(own, name) for name in own.__struct_fields__}
    return replace(block, **shown)


def _timeframe(state: BotState, said: Estimate, transmat: Matrix | None) -> s.TimeframeBlock:
    training = training_of(state.regimes, said.interval_sec)
    bearish, ranging, bullish = said.probabilities
    # Untrained is shown as ranging, without confidence; stale data as no regime at all.
    regime = LABELS[RANGING] if not said.is_trained else _label(said.regime)
    is_known = said.is_trained and said.regime is not None
    confidence = said.confidence if is_known else 0.0
    return s.TimeframeBlock(
        interval_sec=said.interval_sec,
        is_trained=said.is_trained,
        regime=regime,
        why=clean_text(said.why),
        confidence=_number(confidence),
        confidence_effective=_number(confidence * said.depth.modifier),
        bias=_number(said.bias) if is_known else 0.0,
        probabilities=s.Probabilities(
            bearish=_number(bearish), ranging=_number(ranging), bullish=_number(bullish)
        )
        if is_known
        else None,
        entropy=_number(said.entropy),
        leaving=_number(said.leaving),
        candle_time=_maybe(said.candle_time, 3),
        training_depth=_depth(said.depth),
        model=_model(training.model) if training.model is not None and said.is_trained else None,
        training=_training(training),
        transmat=None
        if transmat is None
        else tuple(tuple(_number(x, 6) for x in row) for row in transmat),
    )


def _depth(depth: Depth) -> s.TrainingDepthBlock:
    share = depth.candles / depth.target if depth.target > 0 else 1.0
    return s.TrainingDepthBlock(
        current_candles=depth.candles,
        target_candles=depth.target,
        quality_tier=depth.tier,
        confidence_modifier=_number(depth.modifier),
        pct_complete=_number(min(100.0, 100.0 * share), 1),
        estimated_full_at=_iso(depth.full_at),
    )


def _iso(at: float | None) -> str | None:
    """Return an instant as ISO text in UTC, None beyond what a calendar holds."""
    if at is None:
        return None
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return None


def _model(model: ModelRef) -> s.ModelBlock:
    return s.ModelBlock(
        id=clean_text(model.id),
        first=_number(model.first, 3),
        until=_number(model.until, 3),
        candles=model.candles,
        rows=model.rows,
        effective_rows=_number(model.effective_rows, 1),
        log_likelihood=_number(model.log_likelihood, 2),
        iterations=model.iterations,
        is_converged=model.is_converged,
        starts=model.starts,
        changed_share=_maybe(model.changed_share),
        recipe=clean_text(model.recipe),
    )


def _training(training: Training) -> s.TrainingBlock:
    return s.TrainingBlock(
        is_training=training.requested_at is not None,
        requested_at=_maybe(training.requested_at, 3),
        trained_at=_maybe(training.trained_at, 3),
        reason=clean_text(training.reason),
        failures=training.failures,
        next_try=_maybe(training.next_try, 3),
        error=clean_text(training.error),
    )


# ---- what follows from it -----------------------------------------------------------------------


def consensus_block(state: BotState, params: Params) -> s.ConsensusBlock:
    """Return what both timeframes say together."""
    if not params.hmm_enabled or not params.hmm_multi_timeframe_enabled:
        return s.ConsensusBlock(enabled=False)
    regimes = state.regimes
    made = consensus(regimes.primary, regimes.secondary, params)
    w1, w15 = weights(params)
    return s.ConsensusBlock(
        enabled=True,
        source=params.hmm_multi_timeframe_source,
        agreement=made.agreement,
        regime=LABELS[made.label],
        confidence=_number(made.confidence),
        confidence_effective=_number(made.confidence * made.modifier),
        confidence_modifier=_number(made.modifier),
        bias=_number(made.bias),
        dampen_factor=params.consensus_dampen_factor,
        primary=_voice(regimes.primary, w1),
        secondary=_voice(regimes.secondary, w15),
    )


def _voice(said: Estimate | None, weight: float) -> s.VoiceBlock:
    if said is None or said.regime is None:
        return s.VoiceBlock(regime=None, confidence=0.0, bias=0.0, weight=_number(weight))
    return s.VoiceBlock(
        regime=_label(said.regime),
        confidence=_number(said.confidence),
        bias=_number(said.bias),
        weight=_number(weight),
    )


def history_block(state: BotState) -> tuple[s.SampleBlock, ...]:
    """Return the policy regime at each evaluation of the last half hour, oldest first."""
    return tuple(
        s.SampleBlock(ts=round(x.ts, 3), regime=LABELS[x.regime], conf=_number(x.conf))
        for x in state.regimes.history
    )


def directional_block(state: BotState, params: Params) -> s.DirectionalBlock:
    """Return the policy regime with its tiers, clocks, suppression and evidence."""
    if not is_on(params):
        return s.DirectionalBlock(enabled=False)
    regimes = state.regimes
    said, tiers, now = regimes.policy, regimes.tiers, stance(regimes)
    acting = replace(params, regime_directional_enabled=True)
    manual = params.regime_manual_override
    left = tiers.tier2_left_at
    return s.DirectionalBlock(
        enabled=params.regime_directional_enabled,
        shadow=not params.regime_directional_enabled,
        regime=LABELS[said.label],
        confidence=_number(said.confidence),
        confidence_effective=_number(said.effective),
        bias=_number(said.bias),
        source=said.source,
        agreement=said.agreement,
        manual_override=_label(manual),
        tier_by_confidence=tiers.by_confidence,
        tier_mechanical=tiers.tier,
        tier_effective=now.tier,
        tier_name=TIER_NAMES[now.tier],
        direction=direction_of(now.direction),
        since=round(tiers.since, 3),
        held_by=tiers.held_by or None,
        hint=_hint(regimes),
        evaluated_at=_maybe(regimes.heard_at, 3),
        next_evaluation=_maybe(regimes.estimate_due, 3),
        dwell_until=_running(state, tiers.since + params.regime_min_dwell_sec),
        grace_until=_grace_until(state),
        cooldown_until=None
        if left is None or now.tier == 2
        else _running(state, left + params.regime_tier2_cooldown_sec),
        sell_entry_factor=plain(distance_factor(regimes, TradeId.A, acting)),
        buy_entry_factor=plain(distance_factor(regimes, TradeId.B, acting)),
        suppression=_suppression(state, params),
        evidence_gate=params.regime_evidence_gate,
        evidence=tuple(_evidence(x, regimes.evidence, params) for x in (0, BULLISH)),
        evidence_horizon_sec=float(round(regimes.horizon_sec)) or None,
    )


def _hint(regimes: Regimes) -> str:
    """Return in words where the tier in effect comes from."""
    text = hint(regimes.tiers)
    if regimes.policy.source == "manual":
        text += ", by your own word"
    return text if regimes.override is None else f"{text}; set aside by your override"


def _running(state: BotState, until: float) -> float | None:
    return round(until, 3) if until > state.now else None


def _grace_until(state: BotState) -> float | None:
    held = state.regimes.suppression
    is_waiting = held.side is not None and held.since is None and held.side is not held.released
    at = held.begins_at
    return _running(state, at) if is_waiting and at is not None else None


def _suppression(state: BotState, params: Params) -> s.SuppressionBlock:
    held = state.regimes.suppression
    until = None if held.since is None else held.since + params.regime_max_suppression_sec
    return s.SuppressionBlock(
        side=None if held.side is None or held.since is None else SIDES[held.side],
        is_acting=params.regime_directional_enabled and held.since is not None,
        begins_at=_grace_until(state),
        since=_maybe(held.since, 3),
        until=_maybe(until, 3),
        released_side=None if held.released is None else SIDES[held.released],
        released_until=_maybe(held.released_until, 3),
    )


def _evidence(label: int, evidence: tuple[Evidence, ...], params: Params) -> s.EvidenceBlock:
    known = evidence_of(label, evidence)
    return s.EvidenceBlock(
        label=LABELS[label],
        word=evidence_word(label, evidence, params),
        rows=0 if known is None else known.rows,
        mean=None if known is None else _maybe(known.mean, 6),
        t=None if known is None else _maybe(known.t, 2),
        needed_t=params.regime_evidence_t,
        needed_rows=EVIDENCE_ROWS_MIN,
    )


def pipeline_block(block: s.PipelineBlock | None) -> s.PipelineBlock:
    """Return how candles are, its texts made harmless; off where the shell says nothing."""
    if block is None or not block.enabled or not isinstance(block.gaps, tuple):
        return block or s.PipelineBlock(enabled=False)
    trouble = block.trouble if isinstance(block.trouble, str) else ""
    return replace(
        block,
        gaps=tuple(clean_text(x) for x in block.gaps),
        trouble=clean_text(trouble) or None,
    )


def _trainer(block: s.TrainerBlock | None) -> s.TrainerBlock | None:
    return block and replace(block, last_error=clean_text(block.last_error))
