"""Regimes in the state: when models are asked and trained, what is heard, and what follows.

Run by `TimerTick` and by what the models say. The rules are those of `regime_policy.py`; here they
are applied to the state and recorded. Level-triggered: safe to run again; `due_times` and
`ask_due` tell when a rule could next do something and must stay beside the rules.
"""

from collections.abc import Iterator

from core.actions import BookCycleAction, RequestEstimate, RequestTraining
from core.domain import TradeId
from core.events import ModelTrained, RegimeEstimated, TrainingFailed
from core.params import Params
from core.record import replace
from core.regime import LABELS, Estimate
from core.state import BotState, PolicyRegime
from core.tiers import Policy, Regimes, Sample, Suppression, TierOverride, Tiers, Training
from grid.reduction import Reduction
from regime_policy import (
    DEPTHS,
    START,
    against,
    depth_rank,
    distance_factor,
    evidence_of,
    evidence_word,
    hint,
    hold,
    policy,
    stance,
    suppressed_side,
    suppression_after,
    suppression_times,
)

HISTORY_SEC = 1_800.0
HISTORY_MAX = 61  # an evaluation each 30 s, the fastest there is
STALE_INTERVALS = 2  # so many evaluations without a word, and nothing is known any more
RETRY_SEC, RETRY_MAX_SEC = 300.0, 3_600.0
WAITING_SEC = 60.0  # while there are too few candles to train on
PATIENCE_SEC = 3_600.0  # a training without any answer has failed
TRAININGS_MAX = 4


def is_on(params: Params) -> bool:
    """Tell whether there is a regime at all: models, or the operator's word."""
    return params.hmm_enabled or params.regime_manual_override is not None


def begin(r: Reduction) -> None:
    """Begin in tier 0, and ask at once: a start, or one in other circumstances."""
    _drop_idle_trainings(r)
    old = r.state.regimes
    if not r.params.hmm_enabled and r.state.regime is not None:
        _tag(r, None)
    if not is_on(r.params):
        if old != Regimes():
            r.update(regimes=Regimes(trainings=old.trainings))
        return
    left = r.now if old.tiers.tier == 2 else old.tiers.tier2_left_at
    r.update(
        regimes=replace(
            old,
            estimate_due=r.now,
            tiers=Tiers(since=r.now, tier2_left_at=left, held_by=START),
            suppression=Suppression(
                released=old.suppression.released, released_until=old.suppression.released_until
            ),
        )
    )
    if old.tiers.tier:
        _record(
            r, "regime_tier", "tier 0", f"from {_tier_name(old.tiers)}: a start begins in tier 0"
        )
    _tell_suppression(r, old)


def _drop_idle_trainings(r: Reduction) -> None:
    """Expect no result of timeframes that are off now."""
    regimes, params = r.state.regimes, r.params
    heard = {x.interval_sec for x in (regimes.primary,) if x is not None and params.hmm_enabled}
    if params.hmm_enabled and params.hmm_multi_timeframe_enabled and regimes.secondary is not None:
        heard.add(regimes.secondary.interval_sec)
    kept = tuple(
        x if x.requested_at is None or x.interval_sec in heard else _given_up(x)
        for x in regimes.trainings
    )
    if kept != regimes.trainings:
        r.update(regimes=replace(regimes, trainings=kept))


def _given_up(training: Training) -> Training:
    """Return the training as if the one under way had not been asked for."""
    candles = 0 if training.model is None else training.model.candles
    return replace(training, requested_at=None, candles=candles)


def tend(r: Reduction) -> None:
    """Do what is due: doubt what is old, withhold and release entries, ask the models."""
    if not is_on(r.params):
        return
    _doubt(r)
    _suppress(r)
    due = r.state.regimes.estimate_due
    if due is not None and r.now < due:
        return
    r.update(
        regimes=replace(
            r.state.regimes,
            estimate_due=r.now + r.params.regime_eval_interval_sec,
            asked_at=r.now if r.params.hmm_enabled else None,
        )
    )
    if r.params.hmm_enabled:
        r.act(RequestEstimate())
    else:
        evaluate(r)


def ask_soon(r: Reduction) -> None:
    """Have the models asked at the next TimerTick: what the tiers depend on has changed."""
    if is_on(r.params):
        r.update(regimes=replace(r.state.regimes, estimate_due=r.now))


def hear(r: Reduction, event: RegimeEstimated) -> None:
    """Take in what the models say, and what follows for tiers, history and trainings."""
    if not r.params.hmm_enabled:
        r.count("estimates_ignored")
        return
    before = r.state.regimes.heard_at
    r.update(
        regimes=replace(
            r.state.regimes,
            heard_at=r.now,
            primary=event.primary,
            secondary=event.secondary if r.params.hmm_multi_timeframe_enabled else None,
            evidence=event.evidence,
            horizon_sec=event.horizon_sec,
        )
    )
    evaluate(r)
    regimes = r.state.regimes
    said = regimes.policy
    sample = Sample(ts=r.now, regime=said.label, conf=said.confidence)
    recent = (*(x for x in regimes.history if x.ts > r.now - HISTORY_SEC), sample)
    r.update(regimes=replace(regimes, history=recent[-HISTORY_MAX:]))
    _tag(r, said.tag)
    _train(r, was_here=before is not None and not _is_long_ago(r, before))
    first = event.primary
    if not first.is_trained and first.depth.candles < r.params.hmm_min_train_samples:
        due = min(r.state.regimes.estimate_due or r.now, r.now + WAITING_SEC)
        r.update(regimes=replace(r.state.regimes, estimate_due=max(due, r.now + 1.0)))


def _tag(r: Reduction, tag: int | None) -> None:
    """Note what positions are tagged with from now on.

    Of estimates in quick succession that say the same one is kept, so that the one before them
    is still there for an execution that is reported late.
    """
    old, interval = r.state.regime, r.params.regime_eval_interval_sec
    regime = PolicyRegime(regime=tag, time=r.now, interval_sec=interval)
    before = old
    if old is not None and old.regime == tag and r.now - old.time < interval / 2:
        since = old.time if old.since is None else old.since
        regime, before = replace(regime, since=since), r.state.regime_before
    r.update(regime=regime, regime_before=before)


def evaluate(r: Reduction) -> None:
    """Evaluate the tiers anew from what was heard last."""
    old = r.state.regimes
    primary = old.primary if r.params.hmm_enabled else None
    said = policy(primary, old.secondary, r.params)
    tiers = hold(old.tiers, said, old.evidence, r.params, r.now)
    r.update(regimes=replace(old, policy=said, tiers=tiers))
    _tell_tier(r, old)
    _suppress(r)
    if _factors(r, old) != _factors(r, r.state.regimes):
        r.update(pass_due=r.now)


def put_override(r: Reduction, override: TierOverride | None) -> None:
    """Put the operator's override, or none, over the mechanical tier; it acts at once."""
    old = r.state.regimes
    r.update(regimes=replace(old, override=override))
    _suppress(r)
    if _factors(r, old) != _factors(r, r.state.regimes):
        r.update(pass_due=r.now)


def _factors(r: Reduction, regimes: Regimes) -> list[object]:
    return [distance_factor(regimes, trade_id, r.params) for trade_id in TradeId]


def has_acted(r: Reduction, before: Regimes) -> bool:
    """Tell whether what is in effect for entries is another than before."""
    now = r.state.regimes
    return r.params.regime_directional_enabled and (
        now.override is not before.override
        or suppressed_side(now, r.params) is not suppressed_side(before, r.params)
        or _factors(r, now) != _factors(r, before)
    )


def _stale_at(state: BotState, params: Params) -> float | None:
    """Return when what was heard last is too old to go by, or None."""
    regimes = state.regimes
    if not params.hmm_enabled or regimes.heard_at is None:
        return None
    if regimes.primary is None or regimes.primary.regime is None:
        return None
    return regimes.heard_at + STALE_INTERVALS * params.regime_eval_interval_sec


def _doubt(r: Reduction) -> None:
    """Forget what the models said when they have not been heard of for too long."""
    at = _stale_at(r.state, r.params)
    if at is None or r.now < at:
        return

    def doubted(x: Estimate | None) -> Estimate | None:
        return x and replace(x, regime=None, why="the models have not been heard of for too long")

    old = r.state.regimes
    r.update(regimes=replace(old, primary=doubted(old.primary), secondary=doubted(old.secondary)))
    evaluate(r)
    _tag(r, r.state.regimes.policy.tag)


# ---- what tiers and suppression do --------------------------------------------------------------


def _suppress(r: Reduction) -> None:
    old = r.state.regimes
    now = stance(old)
    side = against(now.direction) if now.tier == 2 else None
    made = suppression_after(old.suppression, side, r.params, r.now)
    if made == old.suppression:
        return
    r.update(regimes=replace(old, suppression=made))
    _tell_suppression(r, old)


def _tell_tier(r: Reduction, old: Regimes) -> None:
    before, regimes = old.tiers, r.state.regimes
    tiers = regimes.tiers
    if (tiers.tier, tiers.direction) == (before.tier, before.direction):
        return
    name = _tier_name(tiers)
    said = regimes.policy
    text = (
        f"from {_tier_name(before)}: {_source(said)}, {hint(tiers)}; confidence "
        f"{said.confidence:.2f}, effective {said.effective:.2f}, bias {said.bias:+.2f}, "
        f"{_evidence_text(r, said.label)}"
    )
    _record(r, "regime_tier", name, text)


def _source(said: Policy) -> str:
    return "by hand" if said.source == "manual" else f"{said.agreement} ({said.source})"


def _tier_name(tiers: Tiers) -> str:
    return f"tier {tiers.tier}" + ("" if tiers.direction is None else f" {LABELS[tiers.direction]}")


def _evidence_text(r: Reduction, label: int) -> str:
    known = evidence_of(label, r.state.regimes.evidence)
    word = evidence_word(label, r.state.regimes.evidence, r.params)
    word = word if word == "no evidence" else f"evidence {word}"
    return word if known is None or known.t is None else f"{word} (t {known.t:+.1f})"


def _tell_suppression(r: Reduction, old: Regimes) -> None:
    before, made = old.suppression, r.state.regimes.suppression
    if suppressed_side(old, r.params) is not suppressed_side(r.state.regimes, r.params):
        r.update(pass_due=r.now)
    is_same = before.side is made.side
    if before.since is not None and (made.since is None or not is_same):
        side = _entries(before.side)
        if is_same and made.released is before.side:
            span = r.params.regime_max_suppression_sec / 60
            text = f"{side} have been withheld for {span:g} min and are free for as long"
            _record(r, "suppression", "release", text)
        else:
            _record(r, "suppression", "end", f"{side} are free again")
    if made.since is not None and (before.since is None or not is_same):
        said, now = r.state.regimes.policy, stance(r.state.regimes)
        trend = "" if now.direction is None else LABELS[now.direction]
        text = (
            f"{_entries(made.side)} are withheld, against the {trend} trend; confidence "
            f"{said.effective:.2f}, bias {said.bias:+.2f}, {_evidence_text(r, said.label)}"
        )
        _record(r, "suppression", "begin", text)


def _entries(side: TradeId | None) -> str:
    return f"{'sell' if side is TradeId.A else 'buy'} entries"


def _record(r: Reduction, kind: str, name: str, text: str) -> None:
    """Record a change for who looks later; tell of it only where it acts."""
    if r.params.regime_directional_enabled:
        r.transition(kind, name, text)
        r.notify("info", kind, text if kind == "suppression" else f"{name}, {text}")
    else:
        r.transition(kind, name, f"shadow, nothing acts: {text}")


def with_policy(r: Reduction, action: BookCycleAction) -> BookCycleAction:
    """Return the booking with what the policy says now; as it is where it says nothing."""
    regimes = r.state.regimes
    at = _stale_at(r.state, r.params)
    if regimes.policy.source != "manual" and (at is None or r.now > at):
        return action
    return replace(
        action,
        regime_confidence=regimes.policy.confidence,
        regime_bias_signal=regimes.policy.bias,
        against_trend=against(regimes.policy.label) is action.record.trade_id,
        regime_tier=regimes.tiers.tier,
    )


# ---- trainings ----------------------------------------------------------------------------------


def training_of(regimes: Regimes, interval_sec: float) -> Training:
    """Return how the model of a timeframe has been trained."""
    known = (x for x in regimes.trainings if x.interval_sec == interval_sec)
    return next(known, Training(interval_sec=interval_sec))


def _put(r: Reduction, training: Training) -> None:
    regimes = r.state.regimes
    others = [x for x in regimes.trainings if x.interval_sec != training.interval_sec]
    kept = sorted((*others[1 - TRAININGS_MAX :], training), key=lambda x: x.interval_sec)
    r.update(regimes=replace(regimes, trainings=tuple(kept)))


def _heard(r: Reduction) -> Iterator[tuple[Estimate, int]]:
    """Yield each timeframe's estimate with the least candles that it can be trained on."""
    regimes, params = r.state.regimes, r.params
    if regimes.primary is not None:
        yield regimes.primary, params.hmm_min_train_samples
    if regimes.secondary is not None:
        yield regimes.secondary, params.hmm_secondary_min_train_samples


def _is_long_ago(r: Reduction, heard_at: float) -> bool:
    return r.now - heard_at > STALE_INTERVALS * r.params.regime_eval_interval_sec


def _train(r: Reduction, *, was_here: bool) -> None:
    """Ask for the trainings that are due; an absence of ours is no failure of the worker's."""
    for estimate, least in _heard(r):
        training = training_of(r.state.regimes, estimate.interval_sec)
        asked = training.requested_at
        if asked is not None and was_here and r.now - asked >= PATIENCE_SEC:
            _fail(r, training, f"no answer for {PATIENCE_SEC / 60:g} min")
        else:
            reason = _training_reason(r, training, estimate, least)
            if reason is not None:
                _request(r, training, estimate, reason)


def _training_reason(
    r: Reduction, training: Training, estimate: Estimate, least: int
) -> str | None:
    """Return why a model is to be trained now, or None."""
    depth = estimate.depth
    if training.requested_at is not None or depth.candles < least:
        return None
    if training.next_try is not None and r.now < training.next_try:
        return None
    if not estimate.is_trained:
        return "there is no model"
    if estimate.is_outdated:
        return "the settings have changed"
    if training.trained_at is None:
        return "the age of the model is not known"
    age = r.now - training.trained_at
    if age >= r.params.hmm_retrain_interval_sec:
        return f"the model is {age / 3600:.0f} h old"
    used = training.candles if training.model is None else training.model.candles
    rank = depth_rank(depth.candles, target=depth.target, least=least)
    if rank > depth_rank(max(used, training.candles), target=depth.target, least=least):
        return f"there are candles for a {DEPTHS[rank]} model"
    return None


def _request(r: Reduction, training: Training, estimate: Estimate, reason: str) -> None:
    candles = estimate.depth.candles
    _put(r, replace(training, requested_at=r.now, reason=reason, candles=candles))
    r.count("trainings")
    r.act(RequestTraining(interval_sec=training.interval_sec, until=r.now, reason=reason))


def trained(r: Reduction, event: ModelTrained) -> None:
    """Note a new model, tell of it, and ask what it says."""
    model = event.model
    old = training_of(r.state.regimes, model.interval_sec)
    # One that was given up, or was not asked for, is as old as its candles.
    asked = model.until if old.requested_at is None else old.requested_at
    _put(
        r,
        replace(
            old, model=model, trained_at=asked, requested_at=None, failures=0, next_try=None,
            error="",
        ),
    )  # fmt: skip
    fit = "converged" if model.is_converged else "did not converge"
    text = (
        f"{_frame(model.interval_sec)} model trained on {model.candles:,} candles "
        f"({old.reason or 'not asked for'}); {fit} after {model.iterations} iterations"
    )
    if model.changed_share is not None:
        text += f"; {100 * model.changed_share:.0f} % of the last day's rows changed their label"
    r.transition("model", "trained", f"{text}; {model.id}")
    r.notify("info", "model", text)
    ask_soon(r)


def training_failed(r: Reduction, event: TrainingFailed) -> None:
    """Note that a training gave no model; it is tried again, ever more rarely."""
    _fail(r, training_of(r.state.regimes, event.interval_sec), event.reason)


def _fail(r: Reduction, training: Training, why: str) -> None:
    failures = training.failures + 1
    wait = min(RETRY_MAX_SEC, RETRY_SEC * 2.0 ** min(failures - 1, 10))
    error = why[:500]
    _put(
        r,
        replace(_given_up(training), failures=failures, next_try=r.now + wait, error=error),
    )
    r.count("trainings_failed")
    is_serving = any(x.is_trained for x, _ in _heard(r) if x.interval_sec == training.interval_sec)
    serving = "the old one serves on" if is_serving else "there is none"
    text = (
        f"{_frame(training.interval_sec)} model could not be trained: {error}; {serving}, next "
        f"try in {wait / 60:g} min"
    )
    r.transition("model", "training_failed", text)
    r.notify("warning" if failures == 1 else "info", "model", text)


def _frame(interval_sec: float) -> str:
    return f"{interval_sec / 60:g} min"


def retrain_obstacle(r: Reduction) -> str | None:
    """Return why models cannot be trained now, or None."""
    if not r.params.hmm_enabled:
        return "the regime models are off: set HMM_ENABLED=true"
    heard = list(_heard(r))
    if not heard:
        return "the models have not been heard of yet; try again in a minute"
    for estimate, _ in heard:
        if training_of(r.state.regimes, estimate.interval_sec).requested_at is not None:
            return f"the {_frame(estimate.interval_sec)} model is being trained already"
    if all(x.depth.candles < least for x, least in heard):
        estimate, least = heard[0]
        return f"{estimate.depth.candles:,} candles are too few to train on; {least:,} are needed"
    return None


def retrain(r: Reduction) -> str:
    """Ask for a training of every timeframe that has enough candles; return what was asked."""
    asked = []
    for estimate, least in list(_heard(r)):
        if estimate.depth.candles >= least:
            training = training_of(r.state.regimes, estimate.interval_sec)
            _request(r, training, estimate, "asked for by the operator")
            asked.append(f"{_frame(estimate.interval_sec)} ({estimate.depth.candles:,} candles)")
    return f"training {' and '.join(asked)}; the old model serves until it is done"


def outstanding_trainings(state: BotState) -> tuple[RequestTraining, ...]:
    """Return the trainings that were asked for and have not been answered: after a restart."""
    return tuple(
        RequestTraining(interval_sec=x.interval_sec, until=x.requested_at, reason=x.reason)
        for x in state.regimes.trainings
        if x.requested_at is not None
    )


def is_estimate_outstanding(state: BotState) -> bool:
    """Tell whether the models were asked and have not answered: after a restart."""
    asked, heard = state.regimes.asked_at, state.regimes.heard_at
    return asked is not None and (heard is None or heard < asked)


# ---- when could any of this next happen? --------------------------------------------------------


def due_times(state: BotState, params: Params) -> Iterator[float]:
    """Yield the times at which a rule of this module may next do something, but for asking."""
    if not is_on(params):
        return
    yield from suppression_times(state.regimes.suppression, params)
    at = _stale_at(state, params)
    if at is not None:
        yield at


def ask_due(state: BotState, params: Params) -> float | None:
    """Return when the models are to be asked next, or None while there are none."""
    if not is_on(params):
        return None
    due = state.regimes.estimate_due
    return state.now if due is None else due
