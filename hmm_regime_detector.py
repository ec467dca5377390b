"""The regime of the newest closed candle: bearish, ranging or bullish, and how sure.

The face of the folder `regime/`: what the rest of the program uses of it. Training runs in a worker
process (`regime/worker.py`); a `Detector` serves a trained model candle by candle. Nothing here
acts on a regime: `regime_policy.py` decides what follows.
"""

from core.regime import LABELS, Depth, Estimate
from regime.features import (
    FEATURES,
    WARM_UP,
    Candles,
    FeatureState,
    Gap,
    features,
    is_usable,
    missing,
)
from regime.filter import Filter, LabelView, Posterior, best_label, bias, confidence, entropy
from regime.model import STATES, Model, ModelError, decode, encode, transmat_by_label
from regime.training import Recipe, TrainingError, TrainingRequest, train

__all__ = [
    "FEATURES",
    "LABELS",
    "STATES",
    "WARM_UP",
    "Candles",
    "Detector",
    "FeatureState",
    "Gap",
    "Model",
    "ModelError",
    "Recipe",
    "TrainingError",
    "TrainingRequest",
    "decode",
    "depth",
    "encode",
    "features",
    "train",
    "transmat_by_label",
]

# From, as a share of the target, with its name and what it leaves of the confidence.
TIERS = ((1.0, "full", 1.00), (0.625, "deep", 0.95), (0.25, "baseline", 0.85))
SHALLOW = ("shallow", 0.70)


def depth(
    candles: int,
    *,
    target: int,
    min_candles: int,
    model_candles: int | None,
    newest_close: float | None,
    interval_sec: float,
    now: float = 0.0,
) -> Depth:
    """Return the training depth of the candles at hand and of the model in use, the lesser.

    Full from the target, deep from max(`min_candles`, 62.5 % of it), baseline from
    max(`min_candles`, 25 %), else shallow. `model_candles` is None without a model: shallow. With
    a candle in each interval from `newest_close` on, and from `now` on where candles are missing,
    the target is reached at `full_at`.
    """
    lesser = min(candles, model_candles or 0)
    tier, modifier = SHALLOW
    for share, name, factor in TIERS:
        if lesser >= (target if share == 1.0 else max(min_candles, share * target)):
            tier, modifier = name, factor
            break
    lacking = target - candles
    is_known = lacking > 0 and newest_close is not None
    return Depth(
        candles=max(0, min(candles, target)),
        target=target,
        tier=tier,
        modifier=modifier,
        full_at=max(now, newest_close or 0.0) + lacking * interval_sec if is_known else None,
    )


class Detector:
    """One timeframe's model at work: takes closed candles in order, says what they amount to.

    Without a model it says that it is untrained. A detector that is fed the same candles from the
    same first one on is in the same state, whenever that happens.
    """

    def __init__(
        self,
        model: Model | None,
        *,
        interval_sec: float,
        target: int,
        min_candles: int,
        gain: float = 1.0,
    ) -> None:
        self.model = model
        self.interval_sec = interval_sec
        self.target = target
        self.min_candles = min_candles
        self.gain = gain
        self.newest: float | None = None  # open time of the newest candle taken
        self.taken = self.filled = self.refused = self.sequences = self.restarts = 0
        self._features = FeatureState()
        self._filter = Filter(model) if model is not None else None
        self._view = LabelView(model) if model is not None else None
        self._close = 0.0
        self._said: tuple[Posterior | None, Depth, Estimate] | None = None  # and what it follows of

    @property
    def newest_close(self) -> float | None:
        """Return when the newest candle taken closed, seconds since the epoch."""
        return None if self.newest is None else self.newest + self.interval_sec

    def step(self, time: float, close: float, volume: float, gap: Gap | None = None) -> bool:
        """Take one closed candle (`time` is its open); return whether it was taken.

        `gap` tells what lies before it; None: that follows from the times, and short gaps are
        filled flat, as in training. A candle that is not newer than the last, or whose numbers
        cannot be used, is counted and skipped.
        """
        newest = self.newest
        if not is_usable(close, volume) or (newest is not None and not time > newest):
            self.refused += 1
            return False
        if gap is None and newest is not None and time - newest > 1.5 * self.interval_sec:
            gap, flat = missing(newest, time, self.interval_sec)
            for _ in range(flat):
                self._take(self._close, 0.0)
            self.filled += flat
        is_restart = gap is Gap.RESTART
        if is_restart or gap is Gap.SEQUENCE:
            self.sequences += 1
            self.restarts += is_restart
            if self._filter is not None:
                self._filter.begin()
        self._take(close, volume, is_restart)
        self.newest, self._close = time, close
        self.taken += 1
        return True

    def run(self, candles: Candles) -> None:
        """Take many candles, prepared or not."""
        columns = (candles.time, candles.close, candles.volume)
        for time, close, volume in zip(*(x.tolist() for x in columns), strict=True):
            self.step(time, close, volume)

    def estimate(
        self,
        now: float,
        *,
        candles: int,
        freshness_limit_sec: float,
        newest_close: float | None = None,
    ) -> Estimate:
        """Return what the model makes of its newest candle; `regime` None, with why, if nothing.

        `candles` are at hand now, before the warm-up; `newest_close` is that of the newest of them
        (None: the newest taken). Untrained, stale and warming up all show as ranging with
        confidence 0 and bias 0.
        """
        at = self.newest_close if newest_close is None else newest_close
        model = self.model
        deep = depth(
            candles,
            target=self.target,
            min_candles=self.min_candles,
            model_candles=None if model is None else model.ref.candles,
            newest_close=at,
            interval_sec=self.interval_sec,
            now=now - self.interval_sec,
        )
        why = self._obstacle(now, candles, freshness_limit_sec)
        posterior = None if self._filter is None else self._filter.posterior
        if why or posterior is None or self._view is None:
            return Estimate(
                interval_sec=self.interval_sec,
                is_trained=model is not None,
                regime=None,
                why=why,
                candle_time=self.newest_close,
                depth=deep,
            )
        if self._said is not None and self._said[0] is posterior and self._said[1] == deep:
            return self._said[2]
        probabilities = self._view.probabilities(posterior)
        label = best_label(probabilities)
        made = Estimate(
            interval_sec=self.interval_sec,
            is_trained=model is not None,
            regime=label,
            confidence=confidence(probabilities),
            bias=bias(probabilities, gain=self.gain),
            probabilities=probabilities,
            entropy=entropy(probabilities),
            leaving=self._view.leaving(posterior, label),
            candle_time=self.newest_close,
            depth=deep,
        )
        self._said = (posterior, deep, made)
        return made

    def _obstacle(self, now: float, candles: int, limit: float) -> str:
        """Return why there is no regime, empty if nothing is in the way."""
        if self._filter is None:
            if candles < self.min_candles:
                return f"untrained: {candles} of {self.min_candles} candles"
            return f"untrained: {candles} candles, no model yet"
        at = self.newest_close
        if at is None:
            return "stale: no candle yet"
        if now - at > limit:
            return f"stale: the newest candle closed {now - at:.0f} s ago, {limit:.0f} s allowed"
        if self._filter.posterior is None:
            return f"warming up: {self._features.count} of {WARM_UP + 1} candles"
        return ""

    def _take(self, close: float, volume: float, is_restart: bool = False) -> None:
        row = self._features.step(close, volume, is_restart=is_restart)
        if row is not None and self._filter is not None:
            self._filter.step(row)
