"""Whether prices went on as the label said: the t-value that actuation waits for.

Confidence says which Gaussian a candle is nearest to; only what followed says whether there is an
edge. Nothing here may use a row that the model serving at the time was trained on: the caller marks
such rows as unlabelled.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.regime import BEARISH, BULLISH, Evidence
from regime.features import Floats

ROWS_MIN = 200
UNLABELLED = -1
BLOCK_SEC = 8 * 86_400.0  # long enough that half a million rows are few blocks
_ROUNDING_SEC = 1e-6
_TAIL = 64  # terms, more than any lag: that of ten million rows is 51
_DIRECTION = {BEARISH: -1.0, BULLISH: 1.0}
Labels = npt.NDArray[Any]


class _Rows(NamedTuple):
    """What both labels share; see `evidence`."""

    times: Floats
    closes: Floats
    labels: Labels
    complete: int  # rows whose horizon is over: the first ones
    horizon_sec: float

    def ends(self, first: int) -> list[int]:
        """Return where each block of time ends, of the steps from `first` on."""
        steps = max(0, len(self.times) - 1)
        if first >= steps:
            return []
        block, newest = self.times[first] // BLOCK_SEC, self.times[steps] // BLOCK_SEC
        begins = np.arange(block + 1, newest + 1) * BLOCK_SEC
        found = np.unique(np.searchsorted(self.times, begins))
        return [int(x) for x in found if first < x < steps] + [steps]


class _Sums(NamedTuple):
    """Sums over the terms of the first steps, and the last terms, oldest first."""

    end: int = 0  # of these steps
    rows: int = 0
    nonzero: int = 0
    total: float = 0.0
    squares: float = 0.0
    width: int = 0
    windows: float = 0.0  # of the squared sums of `width` terms ending at each
    tail: Floats = np.zeros(_TAIL)


class Gathered:
    """The evidence of rows that grow: what cannot change any more of finished blocks is kept.

    The numbers are those of `evidence`, whatever was asked before.
    """

    def __init__(self) -> None:
        self._basis: tuple[float, float] | None = None
        self._count = 0  # rows that were given
        self._settled: dict[int, _Sums] = {}

    def evidence(
        self, times: Floats, closes: Floats, labels: Labels, *, horizon_sec: float
    ) -> tuple[Evidence, Evidence]:
        """Return what followed; see `evidence`. Rows that were given before must be the same."""
        rows = _rows(times, closes, labels, horizon_sec)
        basis = (float(times[0]) if len(times) else 0.0, horizon_sec)
        if basis != self._basis or len(times) < self._count:
            self._basis, self._settled = basis, {}
        self._count = len(times)
        return self._one(rows, BEARISH), self._one(rows, BULLISH)

    def _one(self, rows: _Rows, label: int) -> Evidence:
        steps = max(0, len(rows.times) - 1)
        settled = self._settled.get(label, _Sums())
        blocks = _blocks(rows, settled.end, label)
        nonzero = settled.nonzero + sum(int(np.count_nonzero(x)) for _, _, x in blocks)
        width = min(bandwidth(nonzero) + 1, max(1, steps))
        if settled.width not in (0, width):
            settled, blocks = _Sums(), _blocks(rows, 0, label)
        found = settled
        for end, count, terms in blocks:
            found = _added(found, end, count, terms, width)
            if end <= min(rows.complete, steps - 1):
                self._settled[label] = found
        if found.rows < ROWS_MIN:
            return Evidence(label=label, rows=found.rows, mean=None, t=None)
        last = np.cumsum(found.tail[-1:-width:-1])  # windows that reach beyond the last term
        spread = np.sqrt(max(found.squares, (found.windows + _squares(last)) / width))
        return Evidence(
            label=label,
            rows=found.rows,
            mean=found.total / found.rows,
            t=float(_DIRECTION[label] * found.total / spread) if spread > 0 else 0.0,
        )


def evidence(
    times: Floats, closes: Floats, labels: Labels, *, horizon_sec: float
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
    terms r·X, for the short memory of returns themselves, and never less than Σ (r·X)². Bartlett
    weights of lag L are what overlapping windows of L + 1 terms give: the sum of their squared
    sums, divided by L + 1.
    """
    return Gathered().evidence(times, closes, labels, horizon_sec=horizon_sec)


def bandwidth(count: int) -> int:
    """Return the Bartlett lag for so many terms: 4·(n/100)^(2/9) (Newey and West, 1994)."""
    return int(4.0 * (count / 100.0) ** (2.0 / 9.0))


def _rows(times: Floats, closes: Floats, labels: Labels, horizon_sec: float) -> _Rows:
    count = len(times)
    if not count == len(closes) == len(labels):
        raise ValueError(f"{count} times, {len(closes)} closes, {len(labels)} labels")
    over = times[-1] - horizon_sec + _ROUNDING_SEC if count else 0.0
    complete = int(np.searchsorted(times, over, side="right"))
    return _Rows(times, closes, labels, complete, horizon_sec + _ROUNDING_SEC)


def _blocks(rows: _Rows, first: int, label: int) -> list[tuple[int, int, Floats]]:
    """Return of each block from step `first` on its end, its labelled rows, and its terms r·X."""
    found = []
    for end in rows.ends(first):
        count, open_horizons = _open_horizons(rows, first, end, label)
        closes = rows.closes[first : end + 1]
        if not (np.isfinite(closes).all() and (closes > 0).all()):
            raise ValueError("closes are not finite and positive")
        found.append((end, count, np.diff(np.log(closes)) * open_horizons))
        first = end
    return found


def _open_horizons(rows: _Rows, first: int, end: int, label: int) -> tuple[int, Floats]:
    """Return the labelled rows of these steps, and X: in how many rows' horizons each step lies."""
    times = rows.times
    begin = int(np.searchsorted(times, times[first] - rows.horizon_sec))
    is_row = rows.labels[begin:end] == label
    is_row[max(0, rows.complete - begin) :] = False
    found = np.cumsum(is_row, dtype=np.float64)
    until = times[begin:end][is_row] + rows.horizon_sec
    over = np.searchsorted(times[begin : end + 1], until, side="right") - 1
    found -= np.cumsum(np.bincount(over, minlength=end - begin + 1)[: end - begin])
    return int(np.count_nonzero(is_row[first - begin :])), found[first - begin :]


def _added(sums: _Sums, end: int, count: int, terms: Floats, width: int) -> _Sums:
    """Return the sums with those of another block."""
    before = np.append(sums.tail, terms)
    running = np.cumsum(np.append(sums.tail[-width:], terms))
    return _Sums(
        end=end,
        rows=sums.rows + count,
        nonzero=sums.nonzero + int(np.count_nonzero(terms)),
        total=sums.total + float(terms.sum()),
        squares=sums.squares + _squares(terms),
        width=width,
        windows=sums.windows + _squares(running[width:] - running[:-width]),
        tail=before[-_TAIL:],
    )


def _squares(values: Floats) -> float:
    """Return Σ v², on this thread alone: those of a dot product cost 60 ms on busy cores."""
    return float(np.einsum("i,i->", values, values))
