"""Estimates, models and events as tests need them: what a shell with models would say."""

from core import events as e
from core.regime import Depth, Estimate, Evidence, ModelRef

BOTH_PRESENT = (
    Evidence(label=0, rows=900, mean=0.002, t=3.1),
    Evidence(label=2, rows=900, mean=0.002, t=3.1),
)


def depth(candles: int = 4000, target: int = 4000, modifier: float = 1.0) -> Depth:
    """Return the training depth of so many candles."""
    tier = {0.70: "shallow", 0.85: "baseline", 0.95: "deep", 1.00: "full"}[modifier]
    full_at = None if candles >= target else 1_700_100_000.0
    return Depth(candles=candles, target=target, tier=tier, modifier=modifier, full_at=full_at)


def estimate(
    regime: int | None,
    confidence: float = 0.0,
    bias: float = 0.0,
    *,
    interval_sec: float = 60.0,
    is_trained: bool = True,
    own: Depth | None = None,
) -> Estimate:
    """Return one timeframe's estimate; without a regime it is stale."""
    return Estimate(
        interval_sec=interval_sec,
        is_trained=is_trained,
        regime=regime,
        why="" if regime is not None else "stale",
        confidence=confidence,
        bias=bias,
        candle_time=1_700_000_000.0,
        depth=own or depth(),
    )


def estimated(now: float, regime: int | None, confidence: float = 0.9, **more: float) -> e.Event:
    """Return the event of a primary that says `regime`, with a bias that fits it."""
    bias = 0.0 if regime is None else (regime - 1) * confidence
    return e.RegimeEstimated(
        time=now, primary=estimate(regime, confidence, bias, **more), evidence=BOTH_PRESENT
    )


def model(
    interval_sec: float = 60.0, *, until: float = 1_700_000_000.0, candles: int = 4000
) -> ModelRef:
    """Return a model that has been trained on so many candles until then."""
    return ModelRef(
        id=f"{interval_sec:g}-{until:.0f}",
        interval_sec=interval_sec,
        first=until - candles * interval_sec,
        until=until,
        candles=candles,
        rows=max(0, candles - 150),
        effective_rows=float(max(0, candles - 150)),
        log_likelihood=-1234.5,
        iterations=42,
        is_converged=True,
        starts=3,
    )
