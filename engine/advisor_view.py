"""The advisor's block of the status, from the state and what the shell knows. Pure.

Total on any valid state; texts are made harmless here again. The contract is
`core/advisor_status.py`.
"""

import math
from collections.abc import Mapping
from typing import Any

from msgspec import UNSET

import core.advisor_status as s
from core.advice import (
    AGREE,
    ERROR,
    Agreement,
    Council,
    Heard,
    Tally,
    Voice,
    agreement,
    direction_of,
)
from core.domain import ONE, TradeId
from core.interval import wilson
from core.params import Params
from core.plain_text import clean_text
from core.record import Record, plain, replace
from core.regime import BULLISH
from core.state import BotState
from core.tiers import Regimes
from grid.advice import HORIZON_SEC, NO_REGIME, is_on, offered, threshold_pct
from regime_policy import distance_factor, evidence_word, stance


class AdvisorFacts(Record, frozen=True, kw_only=True):
    """What the shell knows of the advisor; past opinions are rows of the store, newest first."""

    providers: tuple[s.ProviderBlock, ...] = ()
    worker: s.WorkerBlock | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    scored: tuple[Mapping[str, Any], ...] = ()


def advisor_block(state: BotState, params: Params, facts: AdvisorFacts) -> s.AdvisorBlock:
    """Return what the advisor said, how it stands, and what an operator may make of it."""
    if not is_on(params):
        return s.AdvisorBlock(enabled=False, why=NO_REGIME if params.advice.enabled else UNSET)
    advice, own, counters = state.advice, state.regimes.tiers, state.counters
    names = ("opinions", "errors", "disagreements", "applied", "expired", "reverted", "ended",
             "dismissed", "mended")  # fmt: skip
    word = None
    if advice.heard is not None:
        word = agreement(advice.heard.opinion, own.tier, own.direction)
    return s.AdvisorBlock(
        enabled=True,
        state=_card(state, word),
        interval_sec=params.advice.interval_sec,
        last_run=_time(advice.asked_at),
        last_trigger=None if advice.heard is None else clean_text(advice.heard.trigger),
        next_run=_time(advice.due),
        counters=s.AdvisorCounters(**{x: counters.get(f"ai_{x}", 0) for x in names}),
        mechanical=s.MechanicalBlock(tier=own.tier, direction=direction_of(own.direction)),
        opinion=None
        if advice.heard is None or word is None
        else _opinion(advice.opinions, advice.heard, word, state.now),
        apply=_apply(state, params),
        override=_override(state, params),
        history=tuple(_past(row) for row in facts.history),
        scored=tuple(_past(row) for row in facts.scored),
        score=_score(state),
        council=_council(state, facts.worker),
        providers=facts.providers,
        worker=facts.worker,
    )


def _card(state: BotState, word: Agreement | None) -> str:
    """Return the state of the card: what matters most about the advisor now."""
    heard = state.advice.heard
    if state.regimes.override is not None:
        return "override"
    if heard is None or word is None:
        return "waiting"
    if word.word == ERROR:
        return "unavailable"
    if word.word == AGREE:
        return "agrees"
    return "dismissed" if heard.is_dismissed else "disagrees"


def _time(at: float | None) -> float | None:
    return None if at is None or not math.isfinite(at) else round(at, 3)


def _opinion(number: int, heard: Heard, word: Agreement, now: float) -> s.OpinionBlock:
    said = heard.opinion
    return s.OpinionBlock(
        id=number,
        recommended_tier=said.recommended_tier,
        recommended_direction=said.recommended_direction,
        conviction=said.conviction,
        rationale=clean_text(said.rationale),
        watch_for=clean_text(said.watch_for),
        suggested_ttl_minutes=said.suggested_ttl_minutes,
        panelist=clean_text(said.panelist),
        error=clean_text(said.error) or None,
        agreement=word.word,
        is_reversed=word.is_reversed,
        is_mended=said.is_mended,
        is_dismissed=heard.is_dismissed,
        asked_at=round(heard.asked_at, 3),
        at=round(heard.at, 3),
        age_sec=round(max(0.0, now - heard.asked_at), 1),
        trigger=clean_text(heard.trigger),
    )


def _apply(state: BotState, params: Params) -> s.ApplyBlock:
    made, why = offered(state, params)
    cfg, heard = params.advice, state.advice.heard
    wish = 0.0 if heard is None else 60.0 * heard.opinion.suggested_ttl_minutes
    direction = None
    if made is not None and made.tier:
        own = state.regimes.tiers
        direction = own.direction if made.direction is None else made.direction
    return s.ApplyBlock(
        why=why,
        tier=None if made is None else made.tier,
        direction=None if made is None else direction_of(direction),
        ttl_sec=min(wish or cfg.override_ttl_sec, cfg.override_max_ttl_sec),
        ttl_max_sec=cfg.override_max_ttl_sec,
        evidence=_evidence(state, params, direction),
        effect=None if made is None else _effect(replace(state.regimes, override=made), params),
    )


def _effect(regimes: Regimes, params: Params) -> str:
    """Return in words what the tier in effect does to entries; in tier 1 that hangs on the bias."""
    acting = replace(params, regime_directional_enabled=True)
    now, factors = stance(regimes), [distance_factor(regimes, x, acting) for x in TradeId]
    if now.tier == 0:
        return "both sides trade alike"
    sell, buy = (plain(x.normalize()) for x in factors)
    bias = regimes.policy.bias
    distances = f"distance of sell entries × {sell}, of buy entries × {buy}"
    if bias * (1 if now.direction == BULLISH else -1) < 0:
        distances += f", though the models lean the other way (bias {bias:+.2f})"
    if now.tier == 2:
        side = "sell" if now.direction == BULLISH else "buy"
        grace = params.regime_suppression_grace_sec
        return f"{side} entries are withheld after {grace:g} s; {distances}"
    if factors == [ONE, ONE]:
        return f"nothing changes while the models' bias is {abs(bias):.2f}"
    return distances


def _evidence(state: BotState, params: Params, direction: int | None) -> str | None:
    if direction is None:
        return None
    return evidence_word(direction, state.regimes.evidence, params)


def _override(state: BotState, params: Params) -> s.OverrideStateBlock:
    held, now = state.regimes.override, stance(state.regimes)
    if held is None:
        end = state.advice.end
        last = None if end is None else f"{end.name}: {end.why}"
        at = None if end is None else _time(end.at)
        return s.OverrideStateBlock(active=False, last_end=last, last_ended_at=at)
    shown = now.direction if held.direction is None and held.tier else held.direction
    return s.OverrideStateBlock(
        active=True,
        tier=held.tier,
        direction=direction_of(shown),
        tier_effective=now.tier,
        direction_effective=direction_of(now.direction),
        applied_at=round(held.applied_at, 3),
        expires_at=round(held.until, 3),
        remaining_sec=round(max(0.0, held.until - state.now), 1),
        source_conviction=held.conviction,
        recommended_tier=held.recommended,
        panelist=clean_text(held.panelist),
        blocked=held.blocked or None,
        evidence=_evidence(state, params, now.direction),
        effect=_effect(state.regimes, params),
    )


def _past(row: Mapping[str, Any]) -> s.PastOpinion:
    texts = ("panelist", "error", "recommended_direction", "agreement", "mechanical_direction")
    clean = {x: clean_text(row[x]) for x in texts if row[x] is not None}
    return s.PastOpinion.from_dict({**row, **clean, "error": clean.get("error") or None})


def _rate(right: int, wrong: int, windows: int) -> tuple[float | None, float | None, float | None]:
    """Return a hit rate and its interval, which counts on `windows` only."""
    if not right + wrong:
        return None, None, None
    rate = right / (right + wrong)
    low, high = wilson(rate, windows) or (None, None)
    return round(rate, 4), low, high


def _tally(tally: Tally) -> s.TallyBlock:
    rate, low, high = _rate(tally.right, tally.wrong, tally.windows)
    return s.TallyBlock(
        right=tally.right,
        wrong=tally.wrong,
        inside=tally.inside,
        windows=tally.windows,
        hit_rate=rate,
        low=low,
        high=high,
    )


def _voice(voice: Voice) -> s.VoiceBlock:
    shown = {x: getattr(_tally(voice.all), x) for x in s.TallyBlock.__struct_fields__}
    return s.VoiceBlock(**shown, directional=_tally(voice.directional))


def _score(state: BotState) -> s.ScoreBlock:
    score = state.advice.score
    rate, low, high = _rate(score.better, score.worse, score.better + score.worse)
    return s.ScoreBlock(
        count=score.count,
        waiting=len(state.advice.pending),
        unscored=score.unscored,
        horizon_sec=HORIZON_SEC,
        threshold_pct=plain(round(threshold_pct(state), 4)),
        advised=_voice(score.advised),
        mechanical=_voice(score.mechanical),
        differed=score.differed,
        better=score.better,
        worse=score.worse,
        better_rate=rate,
        better_low=low,
        better_high=high,
    )


def _council(state: BotState, worker: s.WorkerBlock | None) -> s.CouncilBlock:
    sitting, asked = state.advice.sitting, state.advice.council_asked_at
    is_heard = asked is None or (sitting is not None and sitting.asked_at >= asked)
    is_busy = worker is not None and (worker.is_asking or worker.waiting > 0)
    is_asked = is_busy and not is_heard  # else a restart has lost the question
    council = Council(action=None, why="") if sitting is None else sitting.council
    return s.CouncilBlock(
        is_asked=is_asked,
        action=council.action,
        why=clean_text(council.why) or None,
        votes=tuple(
            s.VoteBlock(
                panelist=clean_text(x.panelist),
                action=x.action,
                error=clean_text(x.error) or None,
            )
            for x in council.votes
        ),
        at=None if sitting is None else _time(sitting.at),
    )
