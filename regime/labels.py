"""Which states are bullish and which bearish, from the raw EMA spread alone.

The label says where prices have been going within the state's rows, not that there is an edge:
that is what `regime/evidence.py` is for.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from core.regime import BEARISH, BULLISH, RANGING
from regime.features import Floats

LAG = 63  # candles: three spans of the slower average
_EDGE = 0.25  # errors


def long_run_variance(values: Floats, lag: int = LAG) -> float:
    """Return the long-run variance of a series (T,), about its mean; not negative.

    Newey and West (Econometrica 55, 1987): γ0 + 2·Σ (1 − j/(lag + 1))·γj. On a random walk the
    spread's is about 30 times its variance, so that 4000 rows say no more than 130 independent
    ones would.
    """
    count = len(values)
    centred = values - values.mean()
    total = float(centred @ centred)
    for j in range(1, min(lag, count - 1) + 1):
        total += 2.0 * (1.0 - j / (lag + 1)) * float(centred[j:] @ centred[:-j])
    return max(0.0, total / count)


def standard_error(spread: Floats) -> float:
    """Return the standard error of the window's mean spread: sqrt(Ω/T), Ω its long-run variance.

    `spread` (T,) is raw. Neighbouring spreads are made of the same prices: the textbook's
    deviation/√T would be five times too small, and would call most ranging states directional. An
    error of each state's own rows (Ω over those) is stricter and lost a sixth of planted trends.
    """
    return sqrt(long_run_variance(spread) / max(1, len(spread)))


def label_of(mean: float, error: float, z: float) -> int:
    """Return bullish only if `mean` is above zero by more than `z` errors, bearish the mirror."""
    if mean > 0.0 and mean > z * error:
        return BULLISH
    if mean < 0.0 and -mean > z * error:
        return BEARISH
    return RANGING


def labels_of(
    means: Sequence[float],
    error: float,
    z: float,
    previous: Sequence[int | None] = (None, None, None),
) -> tuple[int, ...]:
    """Return each state's label from its mean spread.

    `previous` is the label that the nearest state of the previous model had. Where that was
    ranging, a state becomes directional only a quarter of an error beyond the rule, so that a mean
    at the edge does not change its label with every retrain; no state is directional short of it.
    """
    result = []
    for mean, before in zip(means, previous, strict=True):
        label = label_of(mean, error, z)
        if label != RANGING and before == RANGING:
            label = label_of(mean, error, z + _EDGE)
        result.append(label)
    return tuple(result)


def nearest(means: Floats, previous: Floats, deviation: Floats) -> list[int]:
    """Return for each state the state of the previous model whose means are nearest.

    Both (3, 4) in raw units, measured in the window's `deviation` (4,).
    """
    distance = (((means[:, None, :] - previous[None, :, :]) / deviation) ** 2).sum(axis=2)
    return [int(x) for x in np.argmin(distance, axis=1)]
