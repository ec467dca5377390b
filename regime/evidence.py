"""Whether prices went on as the label said: the t-value that actuation waits for.

Confidence says which Gaussian a candle is nearest to; only what followed says whether there is an
edge. Nothing here may use a row that the model serving at the time was trained on: the caller marks
such rows as unlabelled.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.regime import BEARISH, BULLISH, Evidence
from regime.features import Floats

ROWS_MIN = 200
UNLABELLED = -1
_ROUNDING_SEC = 1e-6
_DIRECTION = {BEARISH: -1.0, BULLISH: 1.0}


class _Steps(NamedTuple):
    """What all labels share."""

    times: Floats
    returns: Floats  # (N − 1,), of the step after each row
    complete: int  # rows whose horizon is over: the first ones
    horizon_sec: float
    bars: int | None  # in a horizon, where candles come without gaps


def evidence(
    times: Floats, closes: Floats, labels: npt.NDArray[np.integer], *, horizon_sec: float
) -> tuple[Evidence, Evidence]:
    """Return what followed bearish rows and what followed bullish rows, within `horizon_sec`.

    `times` (N,) are candles' times in seconds, rising, gaps allowed; `closes` (N,) positive;
    `labels` (N,) 0, 1, 2, or UNLABELLED for rows that do not count. A row counts once its horizon
    is over; within a gap the price stands still. Below ROWS_MIN such rows mean and t are None.

    The mean of overlapping forward returns is, row by row, a sum of one-step returns, each times
    the number of labelled rows whose horizon it lies in:
    Σ r(t, t + h)·x(t) = Σ r(s, s + 1)·X(s), X(s) = Σ x(s − j), 0 ≤ j < h (Hodrick, Rev. Financial
    Studies 5, 1992, standard error 1B). X(s) is known before r(s, s + 1), so without an edge the
    terms are uncorrelated, however much the forward returns overlap and the labels persist, and
    t = Σ r·X / sqrt(Ω). Ω is the Newey-West sum (Econometrica 55, 1987, Bartlett weights) over the
    terms r·X, for the short memory of returns themselves, and never less than Σ (r·X)².
    """
    steps = _steps(times, closes, labels, horizon_sec)
    return _one(steps, labels, BEARISH), _one(steps, labels, BULLISH)


def bandwidth(count: int) -> int:
    """Return the Bartlett lag for so many terms: 4·(n/100)^(2/9) (Newey and West, 1994)."""
    return int(4.0 * (count / 100.0) ** (2.0 / 9.0))


def _steps(
    times: Floats, closes: Floats, labels: npt.NDArray[np.integer], horizon_sec: float
) -> _Steps:
    count = len(times)
    if not count == len(closes) == len(labels):
        raise ValueError(f"{count} times, {len(closes)} closes, {len(labels)} labels")
    if not (np.isfinite(closes).all() and (closes > 0).all()):
        raise ValueError("closes are not finite and positive")
    horizon_sec += _ROUNDING_SEC
    if count < 2:
        return _Steps(times, np.zeros(0), 0, horizon_sec, None)
    apart = np.diff(times)
    is_regular = apart.min() == apart.max() > 0
    return _Steps(
        times,
        np.diff(np.log(closes)),
        int(np.searchsorted(times, times[-1] - horizon_sec + 2 * _ROUNDING_SEC, side="right")),
        horizon_sec,
        int(horizon_sec / float(apart[0])) if is_regular else None,
    )


def _one(steps: _Steps, labels: npt.NDArray[np.integer], label: int) -> Evidence:
    is_row = np.zeros(len(steps.times), dtype=np.bool_)
    is_row[: steps.complete] = labels[: steps.complete] == label
    count = int(np.count_nonzero(is_row))
    if count < ROWS_MIN:
        return Evidence(label=label, rows=count, mean=None, t=None)
    terms = steps.returns * _open_horizons(steps, is_row)
    total = float(terms.sum())
    spread = _long_run_sum(terms)
    return Evidence(
        label=label,
        rows=count,
        mean=total / count,
        t=_DIRECTION[label] * total / spread if spread > 0 else 0.0,
    )


def _open_horizons(steps: _Steps, is_row: npt.NDArray[np.bool_]) -> Floats:
    """Return in how many of the rows' horizons each one-step return (N − 1,) lies."""
    begun = np.cumsum(is_row, dtype=np.float64)
    if steps.bars is None:
        rows = np.flatnonzero(is_row)
        until = steps.times[rows] + steps.horizon_sec
        ends = np.searchsorted(steps.times, until, side="right") - 1
        begun -= np.cumsum(np.bincount(ends, minlength=len(begun)))
    elif 0 < steps.bars < len(begun):
        begun[steps.bars :] -= begun[: -steps.bars].copy()
    elif steps.bars == 0:
        begun[:] = 0.0
    return begun[:-1]


def _long_run_sum(terms: Floats) -> float:
    """Return the standard error of the sum of the terms: sqrt(Ω).

    Bartlett weights of lag L are what overlapping windows of L + 1 terms give: the sum of their
    squared sums, divided by L + 1.
    """
    own = _squares(terms)
    width = bandwidth(int(np.count_nonzero(terms))) + 1
    running = np.cumsum(terms)
    width = min(width, len(terms))
    first, last = running[:width], running[-1] - running[len(terms) - width : -1]
    whole = running[width:] - running[:-width]
    squares = _squares(first) + _squares(whole) + _squares(last)
    return float(np.sqrt(max(own, squares / width)))


def _squares(values: Floats) -> float:
    """Return Σ v², on this thread alone: those of a dot product cost 60 ms on busy cores."""
    return float(np.einsum("i,i->", values, values))
