"""The advisor in the state: when it is asked, what it said, and what an operator makes of it.

The advisor runs in the shell (`engine/advisor.py`); what it says is an event, and nothing follows
from it but a score. An override is the operator's: `apply` checks its five rails, and `notice`
checks them again whenever the tiers were evaluated. How it is composed with the mechanical tier is
in `regime_policy.stance`.
"""

import math
from collections.abc import Iterator
from decimal import Decimal

from core.actions import RecordOpinion, RecordScore, RequestOpinion
from core.advice import (
    AGREE,
    ERROR,
    NOT_ASKED,
    AdviceState,
    Call,
    End,
    Heard,
    Opinion,
    Score,
    Sitting,
    Tally,
    Voice,
    agreement,
    direction_of,
    label_of,
)
from core.commands import AiRegimeOverride
from core.domain import HUNDRED, ONE
from core.events import CouncilHeld, OpinionGiven
from core.params import Params
from core.record import replace
from core.regime import BEARISH, BULLISH
from core.state import BotState, Mode
from core.tiers import Regimes, TierOverride, Tiers
from grid import regimes
from grid.reduction import Reduction
from grid_strategy import break_even_pct, mid
from regime_policy import COOLDOWN, DWELL, START, composed
from risk import capacity

HORIZON_SEC = 3_600.0  # after which an opinion is scored
LATE_SEC = 600.0  # a price later than that says something else
RETRY_SEC = 60.0
PENDING_MAX = 128  # more than an hour's opinions: they are half a minute apart or more
INTERVAL = "interval"
FULL = "capacity: the open orders are in the stop band"


class RailError(Exception):
    """What the operator wants is refused; `field` is at fault where the command itself is wrong."""

    def __init__(self, why: str, field: str = "") -> None:
        super().__init__(why)
        self.field = field


def is_on(params: Params) -> bool:
    """Tell whether there is an advisor, and a regime to have an opinion on."""
    return params.advice.enabled and regimes.is_on(params)


def begin(r: Reduction) -> None:
    """Ask at once, or forget what was heard: a start, or one in other circumstances."""
    old = r.state.advice
    if is_on(r.params):
        r.update(advice=replace(old, due=_soon(r), trigger="start"))
    elif old.due is not None:
        score = replace(old.score, unscored=old.score.unscored + len(old.pending))
        r.update(advice=AdviceState(opinions=old.opinions, score=score, end=old.end))


def _soon(r: Reduction) -> float:
    """Return when the advisor may be asked next."""
    asked = r.state.advice.asked_at
    return r.now if asked is None else max(r.now, asked + r.params.advice.debounce_sec)


def tend(r: Reduction) -> None:
    """Do what is due: end an override, score opinions, ask."""
    if is_over(r.state):
        review(r)
    _score(r)
    advice = r.state.advice
    if not is_on(r.params) or advice.due is None or r.now < advice.due:
        return
    cfg = r.params.advice
    if not _has_regime(r.state, r.params):
        r.update(advice=replace(advice, due=r.now + cfg.debounce_sec))
        return
    due = r.now + max(cfg.interval_sec, cfg.debounce_sec)
    r.update(advice=replace(advice, due=due, asked_at=r.now, trigger=INTERVAL))
    r.act(RequestOpinion(trigger=advice.trigger or INTERVAL))


def _has_regime(state: BotState, params: Params) -> bool:
    return state.regimes.heard_at is not None or params.regime_manual_override is not None


def notice(r: Reduction, before: Regimes) -> None:
    """Check the override against new tiers, and ask soon where they or the agreement changed."""
    review(r)
    now, advice = r.state.regimes, r.state.advice
    if advice.due is None or not is_on(r.params):
        return
    why = ""
    if before.policy.agreement != now.policy.agreement:
        why = f"agreement: {now.policy.agreement}"
    if (before.tiers.tier, before.tiers.direction) != (now.tiers.tier, now.tiers.direction):
        why = f"tier: {stance_text(now.tiers.tier, now.tiers.direction)}"
    if why:
        r.update(advice=replace(advice, due=min(advice.due, _soon(r)), trigger=why))


def stance_text(tier: int, direction: int | None) -> str:
    """Return a tier and its direction in words: "tier 1 long_bias", "tier 0"."""
    return f"tier {tier}" + ("" if direction is None else f" {direction_of(direction)}")


# ---- what is heard ------------------------------------------------------------------------------


def hear(r: Reduction, event: OpinionGiven) -> None:
    """Take in an opinion: it is kept, recorded, and scored later. Nothing else follows."""
    if not is_on(r.params):
        r.count("opinions_ignored")
        return
    said, own, last = event.opinion, r.state.regimes.tiers, r.state.advice.heard
    if said.error in NOT_ASKED and last is not None and last.opinion.error == said.error:
        return  # nobody has been asked since
    number = r.state.advice.opinions + 1
    word = agreement(said, own.tier, own.direction).word
    price = _fresh_mid(r)
    r.act(
        RecordOpinion(
            id=number, opinion=said, asked_at=event.asked_at, trigger=event.trigger, agreement=word,
            mechanical_tier=own.tier, mechanical_direction=direction_of(own.direction), price=price,
        )
    )  # fmt: skip
    r.count("ai_errors" if word == ERROR else "ai_opinions")
    if word not in (ERROR, AGREE):
        r.count("ai_disagreements")
    if word != ERROR:
        _enter(r, number, said, None if said.is_mended else price)
    if said.is_mended:
        r.count("ai_mended")
    heard = Heard(opinion=said, asked_at=event.asked_at, at=r.now, trigger=event.trigger)
    r.update(advice=replace(r.state.advice, opinions=number, heard=heard))


def hear_council(r: Reduction, event: CouncilHeld) -> None:
    """Keep what the panelists voted for, for showing."""
    if is_on(r.params):
        sitting = Sitting(council=event.council, asked_at=event.asked_at, at=r.now)
        r.update(advice=replace(r.state.advice, sitting=sitting))


def ask_council(r: Reduction) -> str:
    """Ask all panelists for a vote. Raises RailError."""
    advice, cfg = r.state.advice, r.params.advice
    if not is_on(r.params):
        raise RailError(_why_off(r.params))
    asked = advice.council_asked_at
    if asked is not None and r.now < asked + cfg.debounce_sec:
        left = math.ceil(asked + cfg.debounce_sec - r.now)
        raise RailError(f"the council was asked a moment ago; again in {left} s")
    if not _has_regime(r.state, r.params):
        raise RailError("the models have not been heard of yet; try again in a minute")
    r.update(advice=replace(advice, council_asked_at=r.now))
    r.act(RequestOpinion(trigger="council", is_council=True))
    return "the council is asked; its votes are shown when they are in, and nothing follows"


# ---- the score ----------------------------------------------------------------------------------


def _enter(r: Reduction, number: int, said: Opinion, price: Decimal | None) -> None:
    """Have an opinion scored in an hour; one without a price to compare with never is."""
    advice = r.state.advice
    if price is None or len(advice.pending) >= PENDING_MAX:
        score = replace(advice.score, unscored=advice.score.unscored + 1)
        r.update(advice=replace(advice, score=score))
        return
    call = Call(
        id=number,
        at=r.now,
        price=price,
        advised=label_of(said.recommended_direction),
        mechanical=r.state.regimes.tiers.direction,
    )
    due = r.now + HORIZON_SEC if advice.score_due is None else advice.score_due
    r.update(advice=replace(advice, pending=(*advice.pending, call), score_due=due))


def _fresh_mid(r: Reduction) -> Decimal | None:
    market = r.state.market
    if market is None or r.now - market.time > r.params.stale_price_max_age_sec:
        return None
    return mid(market)


def _score(r: Reduction) -> None:
    """Score the opinions whose hour is over against the price now."""
    advice = r.state.advice
    if advice.score_due is None or r.now < advice.score_due:
        return
    price, score = _fresh_mid(r), advice.score
    waiting: list[Call] = []
    for call in advice.pending:
        due = call.at + HORIZON_SEC
        if r.now > due + LATE_SEC:
            score = replace(score, unscored=score.unscored + 1)
        elif price is None or r.now < due:
            waiting.append(call)
        else:
            score = _scored(r, score, call, price)
    next_at = None
    if waiting:
        first = waiting[0].at + HORIZON_SEC
        next_at = first if first > r.now else r.now + RETRY_SEC
    r.update(advice=replace(advice, pending=tuple(waiting), score_due=next_at, score=score))


def _scored(r: Reduction, score: Score, call: Call, price: Decimal) -> Score:
    change_pct = (price / call.price - ONE) * HUNDRED
    least = threshold_pct(r.state)
    followed = BULLISH if change_pct > least else BEARISH if change_pct < -least else None
    advised, mechanical = _outcome(call.advised, followed), _outcome(call.mechanical, followed)
    r.act(RecordScore(id=call.id, price=price, advised=advised, mechanical=mechanical))
    made = replace(
        score,
        advised=_told(score.advised, call.advised, advised, call.at),
        mechanical=_told(score.mechanical, call.mechanical, mechanical, call.at),
    )
    if call.advised == call.mechanical or not _is_apart(score.differed_at, call.at):
        return made
    gain = _worth(call.advised, followed) - _worth(call.mechanical, followed)
    return replace(
        made,
        differed=score.differed + 1,
        differed_at=call.at,
        better=score.better + (gain > 0),
        worse=score.worse + (gain < 0),
    )


def _worth(said: int | None, followed: int | None) -> int:
    """Return +1 for a direction that was followed by a move, −1 for one against it, else 0."""
    if said is None or followed is None:
        return 0
    return 1 if said == followed else -1


def _is_apart(last: float | None, at: float) -> bool:
    """Tell whether the hour from `at` on overlaps with none that counted before."""
    return last is None or at - last >= HORIZON_SEC


def threshold_pct(state: BotState) -> Decimal:
    """Return the move in percent that pays one round trip of fees."""
    return break_even_pct(state.fees.maker)


def _outcome(said: int | None, followed: int | None) -> str:
    """Return right or wrong; inside where a direction was said and hardly anything followed."""
    if said == followed:
        return "right"
    return "inside" if followed is None else "wrong"


def _told(voice: Voice, said: int | None, outcome: str, at: float) -> Voice:
    everything = _counted(voice.all, outcome, at)
    if said is None:
        return replace(voice, all=everything)
    return Voice(all=everything, directional=_counted(voice.directional, outcome, at))


def _counted(tally: Tally, outcome: str, at: float) -> Tally:
    counted = replace(tally, **{outcome: getattr(tally, outcome) + 1})
    if outcome == "inside" or not _is_apart(tally.window_at, at):
        return counted
    return replace(counted, windows=tally.windows + 1, window_at=at)


# ---- the override -------------------------------------------------------------------------------

_OFF = "the advisor is off: AI_REGIME_ADVISOR_ENABLED=true switches it on"
NO_REGIME = (
    "there is no regime to have an opinion on: HMM_ENABLED=true or REGIME_MANUAL_OVERRIDE makes one"
)


def _why_off(params: Params) -> str:
    return NO_REGIME if params.advice.enabled else _OFF


def offered(state: BotState, params: Params) -> tuple[TierOverride | None, str | None]:
    """Return the override that the newest opinion makes, and why a rail refuses it, or None.

    It has no end yet. There is none where there is no opinion, or only an error.
    """
    heard, own = state.advice.heard, state.regimes.tiers
    made = None
    if heard is not None and not heard.opinion.error:
        said = heard.opinion
        made = TierOverride(
            tier=composed(own, said.recommended_tier, label_of(said.recommended_direction)),
            direction=label_of(said.recommended_direction),
            until=state.now,
            applied_at=state.now,
            conviction=said.conviction,
            recommended=said.recommended_tier,
            mechanical=own.tier,
            panelist=said.panelist,
        )
    return made, next(_refusals(state, params, made), None)


def _refusals(state: BotState, params: Params, made: TierOverride | None) -> Iterator[str]:
    """Yield every reason why the override may not be applied."""
    heard, own, held = state.advice.heard, state.regimes.tiers, state.regimes.override
    if not is_on(params):
        yield _why_off(params)
    if not params.regime_directional_enabled:
        yield "tiers do not act: an override needs REGIME_DIRECTIONAL_ENABLED=true"
    if heard is None or made is None:
        error = "" if heard is None else heard.opinion.error
        yield f"the newest opinion is an error: {error}" if error else "there is no opinion yet"
        return
    age, most = state.now - heard.asked_at, params.advice.opinion_max_age_sec
    if age > most:
        yield f"the opinion is {math.ceil(age)} s old; AI_OPINION_MAX_AGE_SEC allows {most:g} s"
    if held is not None:
        yield f"an override is active ({override_text(held)}); revert it first"
    if agreement(heard.opinion, own.tier, own.direction).word == AGREE:
        yield "the advisor agrees with the mechanical tier; there is nothing to override"
    low = _below_floor(made, params)
    if low is not None:
        yield low
    if _is_full(state, params, made):
        yield FULL


def _below_floor(made: TierOverride, params: Params) -> str | None:
    floor = params.advice.override_min_conviction
    if made.conviction >= floor:
        return None
    return f"conviction {made.conviction} is below AI_OVERRIDE_MIN_CONVICTION {floor}"


def _is_full(state: BotState, params: Params, made: TierOverride) -> bool:
    """Tell whether it is an upgrade while there is no room for more orders."""
    own = state.regimes.tiers
    is_upgrade = composed(own, made.tier, made.direction) > own.tier
    return is_upgrade and capacity(state, params).band == "stop"


def override_text(held: TierOverride) -> str:
    """Return what an override sets, in words."""
    if held.tier and held.direction is None:
        return f"tier {held.tier}, direction as mechanical"
    return stance_text(held.tier, held.direction)


def apply(r: Reduction, command: AiRegimeOverride) -> str:
    """Put the newest opinion in the mechanical tier's place; return the effect. Raises RailError.

    Farther than one tier away it is applied at one tier's distance.
    """
    cfg = r.params.advice
    ttl = command.ttl_sec
    if ttl is None:
        ttl = min(cfg.override_ttl_sec, cfg.override_max_ttl_sec)
    if not 1.0 <= ttl <= cfg.override_max_ttl_sec:
        raise RailError(
            f"ttl_sec must be from 1 to {cfg.override_max_ttl_sec:g} (AI_OVERRIDE_MAX_TTL_SEC)",
            field="ttl_sec",
        )
    made, why = offered(r.state, r.params)
    if made is None or why is not None:
        raise RailError(why or "there is no opinion yet")
    newest = r.state.advice.opinions
    if command.opinion not in (None, newest):
        raise RailError(f"the newest opinion is {newest}, not {command.opinion}; read it first")
    made = replace(made, until=r.now + ttl)
    own = r.state.regimes.tiers
    regimes.put_override(r, made)
    r.count("ai_applied")
    text = f"override applied: {override_text(made)} for {ttl:g} s"
    if made.tier != made.recommended:
        text += (
            f"; the advisor recommends tier {made.recommended}, one tier from the mechanical "
            f"{own.tier} is allowed, and none above 1 against its direction"
        )
    if r.state.mode is not Mode.RUNNING:
        text += f"; the bot is {r.state.mode}: no entry follows until it runs"
    r.transition("override", "applied", f"{text}; mechanical {_text_of(own)}, conviction "
                 f"{made.conviction}, {made.panelist}")  # fmt: skip
    return text


def revert(r: Reduction) -> str:
    """End the override at once; return the effect. Raises RailError."""
    held = r.state.regimes.override
    if held is None:
        raise RailError("no override is active")
    _finish(r, held, "reverted", "by the operator")
    return "reverted to mechanical"


def _finish(r: Reduction, held: TierOverride, name: str, why: str) -> None:
    """End the override: expired, reverted, or ended by a rail."""
    regimes.put_override(r, None)
    r.count(f"ai_{name}")
    r.update(advice=replace(r.state.advice, end=End(at=r.now, name=name, why=why)))
    text = f"override {override_text(held)} {name}: {why}"
    r.transition("override", name, f"{text}; mechanical {_text_of(r.state.regimes.tiers)}")
    if name != "reverted":  # the operator knows
        r.notify("info", "override", f"{text}; back to mechanical")


def dismiss(r: Reduction) -> str:
    """Hide the disagreement until the next opinion; return the effect. Raises RailError."""
    heard, own = r.state.advice.heard, r.state.regimes.tiers
    if not is_on(r.params):
        raise RailError(_why_off(r.params))
    word = ERROR
    if heard is not None and not heard.is_dismissed:
        word = agreement(heard.opinion, own.tier, own.direction).word
    if heard is None or word in (AGREE, ERROR):
        raise RailError("there is no disagreement to dismiss")
    r.update(advice=replace(r.state.advice, heard=replace(heard, is_dismissed=True)))
    r.count("ai_dismissed")
    return "disagreement dismissed"


def is_over(state: BotState) -> bool:
    """Tell whether the time of the override is over."""
    held = state.regimes.override
    return held is not None and state.now >= held.until


def review(r: Reduction) -> None:
    """Check the rails of the override that is active: it goes on, is held back, or ends."""
    held = r.state.regimes.override
    if held is None:
        return
    until = min(held.until, held.applied_at + r.params.advice.override_max_ttl_sec)
    if until != held.until:
        held = replace(held, until=until)
    name, why = _end_of(r, held)
    if name:
        _finish(r, held, name, why)
        return
    blocked = FULL if _is_full(r.state, r.params, held) else ""
    if blocked != held.blocked:
        name = "held back" if blocked else "free"
        r.transition("override", name, f"{override_text(held)}: {blocked or 'there is room again'}")
        held = replace(held, blocked=blocked)
    if held is not r.state.regimes.override:
        regimes.put_override(r, held)


def _end_of(r: Reduction, held: TierOverride) -> tuple[str, str]:
    """Return how and why an override ends now; empty where it goes on."""
    params, own = r.params, r.state.regimes.tiers
    if not is_on(params):
        return "ended", _why_off(params)
    if not params.regime_directional_enabled:
        return "ended", "REGIME_DIRECTIONAL_ENABLED is false"
    if r.now >= held.until:
        return "expired", f"its {held.until - held.applied_at:g} s are over"
    low = _below_floor(held, params)
    if low is not None:
        return "ended", low
    if own.held_by not in (START, DWELL, COOLDOWN) and _is_reached(held, own):
        return "ended", "the mechanical tier has come to it"
    return "", ""


def _is_reached(held: TierOverride, own: Tiers) -> bool:
    """Tell whether the mechanical tier has come to what the override set, or past it.

    What was to raise never lowers, and what was to lower never raises. A tier that is only held,
    by a start or a clock, has come to nothing.
    """
    is_same_way = held.direction in (None, own.direction)
    if held.tier > held.mechanical:
        return own.tier >= held.tier and is_same_way
    if held.tier < held.mechanical:
        return own.tier <= held.tier and (is_same_way or own.tier == 0)
    return own.tier == held.tier and is_same_way


def _text_of(tiers: Tiers) -> str:
    return stance_text(tiers.tier, tiers.direction)


# ---- when could any of this next happen? --------------------------------------------------------


def due(state: BotState, params: Params) -> float | None:
    """Return when the advisor is asked or scored next, or None; neither ever acts."""
    advice = state.advice
    asked = advice.due if is_on(params) else None
    times = [x for x in (asked, advice.score_due) if x is not None]
    return min(times, default=None)


def acting_due(state: BotState) -> float | None:
    """Return when the override ends by itself, or None."""
    held = state.regimes.override
    return None if held is None else held.until
