"""What the advisor is told of a state: built for each question, total on any valid state. Pure.

The bounds of every field are in `core/advice_told.py`. Nothing of an account goes in: no balance,
no order, no text.
"""

from bisect import bisect_right
from collections.abc import Sequence

from core.advice import direction_of
from core.advice_told import (
    Context,
    EvidenceTold,
    KellyEdge,
    Matrix,
    MechanicalTold,
    Probabilities,
    SampleTold,
    Timeframe,
    Together,
    Trend,
)
from core.params import Params
from core.record import Record
from core.regime import BEARISH, BULLISH, LABELS, Estimate
from core.state import BotState
from regime_policy import consensus, evidence_of, evidence_word
from risk import capacity

HORIZONS_SEC = (900.0, 3_600.0, 14_400.0)
SLACK_SEC = 300.0  # by how much older than its horizon a price may be, and the newest than now


class ContextFacts(Record, frozen=True, kw_only=True):
    """What the shell knows and the state does not; None where it is not known.

    Transition matrices are in label order.
    """

    transmat: Matrix | None = None
    transmat_secondary: Matrix | None = None
    trend: Trend = Trend()
    fills_last_hour: int | None = None


def context_of(state: BotState, params: Params, facts: ContextFacts) -> Context:
    """Return what a panelist is told of `state`."""
    regimes, room = state.regimes, capacity(state, params)
    is_hmm = params.hmm_enabled
    is_both = is_hmm and params.hmm_multi_timeframe_enabled
    second = regimes.secondary if is_both else None
    return Context(
        hmm_primary=_timeframe(regimes.primary, facts.transmat) if is_hmm else None,
        hmm_secondary=_timeframe(second, facts.transmat_secondary),
        consensus=_together(state, params) if is_both else None,
        evidence=_evidence(state, params) if is_hmm else (),
        regime_history_30m=tuple(
            SampleTold(age_sec=_whole(state.now - x.ts), regime=LABELS[x.regime], confidence=x.conf)
            for x in regimes.history
        ),
        mechanical=MechanicalTold(
            tier=regimes.tiers.tier,
            direction=direction_of(regimes.tiers.direction),
            age_sec=_whole(state.now - regimes.tiers.since),
            tier_by_confidence=regimes.tiers.by_confidence,
        ),
        trend=facts.trend,
        fills_last_hour=facts.fills_last_hour,
        recovery_orders=sum(len(slot.recovery_orders) for slot in state.slots),
        kelly_edge=_edge(state) if params.kelly_enabled else None,
        capacity_band=room.band,
        capacity_headroom_orders=int(room.headroom),
    )


def _whole(seconds: float) -> int:
    return max(0, round(seconds))


def _timeframe(said: Estimate | None, transmat: Matrix | None) -> Timeframe | None:
    if said is None:
        return None
    regime = said.regime if said.is_trained else None
    bearish, ranging, bullish = said.probabilities
    return Timeframe(
        interval_sec=round(said.interval_sec),
        regime=None if regime is None else LABELS[regime],
        confidence=0.0 if regime is None else said.confidence,
        bias=0.0 if regime is None else said.bias,
        probabilities=None
        if regime is None
        else Probabilities(bearish=bearish, ranging=ranging, bullish=bullish),
        training_quality=said.depth.tier,
        confidence_modifier=said.depth.modifier,
        transition_matrix=transmat,
    )


def _together(state: BotState, params: Params) -> Together:
    made = consensus(state.regimes.primary, state.regimes.secondary, params)
    return Together(
        agreement=made.agreement,
        regime=LABELS[made.label],
        confidence=made.confidence,
        bias=made.bias,
        confidence_modifier=made.modifier,
    )


def _evidence(state: BotState, params: Params) -> tuple[EvidenceTold, ...]:
    told = []
    for label in (BEARISH, BULLISH):
        known = evidence_of(label, state.regimes.evidence)
        told.append(
            EvidenceTold(
                label=LABELS[label],
                word=evidence_word(label, state.regimes.evidence, params),
                rows=0 if known is None else known.rows,
                t_value=None if known is None else known.t,
            )
        )
    return tuple(told)


def _edge(state: BotState) -> KellyEdge:
    found = state.kelly.results
    known = {x: found[x].edge for x in LABELS if x in found and found[x].sufficient_data}
    return KellyEdge(
        bearish=known.get("bearish"), ranging=known.get("ranging"), bullish=known.get("bullish")
    )


def trend_of(closes: Sequence[tuple[float, float]], now: float) -> Trend:
    """Return the returns up to `now` from (close time, price) of closed candles, oldest first.

    A return is not known where the newest price, or the one at its horizon, is SLACK_SEC too old.
    """
    times = [at for at, _ in closes]

    def price(at: float) -> float | None:
        number = bisect_right(times, at) - 1
        if number < 0 or at - times[number] > SLACK_SEC or closes[number][1] <= 0:
            return None
        return closes[number][1]

    newest = price(now)
    quarter, hour, four = (
        None if newest is None or old is None else 100.0 * (newest / old - 1.0)
        for old in (price(now - x) for x in HORIZONS_SEC)
    )
    return Trend(return_15m_pct=quarter, return_1h_pct=hour, return_4h_pct=four)
