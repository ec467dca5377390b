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
_EXTRA_Z = 1.0


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


def standard_errors(spread: Floats, rows: Floats) -> list[float]:
    """Return the standard error of each state's mean spread: sqrt(Ω / rows of the state).

    `spread` (T,) is the window's raw spread and Ω its long-run variance: neighbouring spreads are
    made of the same prices, so that the textbook's deviation/√rows would be five times too small.
    `rows` (3,) are the expected rows of each state; less than one counts as one.
    """
    variance = long_run_variance(spread)
    return [sqrt(variance / max(1.0, float(x))) for x in rows]


def label_of(mean: float, error: float, z: float) -> int:
    """Return bullish only if `mean` is above zero by more than `z` errors, bearish the mirror."""
    if mean > 0.0 and mean > z * error:
        return BULLISH
    if mean < 0.0 and -mean > z * error:
        return BEARISH
    return RANGING


def labels_of(
    means: Sequence[float],
    errors: Sequence[float],
    z: float,
    previous: Sequence[int | None] = (None, None, None),
) -> tuple[int, ...]:
    """Return each state's label.

    `previous` is the label that the nearest state of the previous model had. Where that was
    ranging, a state becomes directional only one standard error beyond the rule, so that a mean at
    the edge does not change its label with every retrain; no state is directional short of it.
    """
    result = []
    for mean, error, before in zip(means, errors, previous, strict=True):
        label = label_of(mean, error, z)
        if label != RANGING and before == RANGING:
            label = label_of(mean, error, z + _EXTRA_Z)
        result.append(label)
    return tuple(result)


def nearest(means: Floats, previous: Floats, deviation: Floats) -> list[int]:
    """Return for each state the state of the previous model whose means are nearest.

    Both (3, 4) in raw units, measured in the window's `deviation` (4,).
    """
    distance = (((means[:, None, :] - previous[None, :, :]) / deviation) ** 2).sum(axis=2)
    return [int(x) for x in np.argmin(distance, axis=1)]
